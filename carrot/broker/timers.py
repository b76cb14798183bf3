"""What is due when: the broker's clock without a thread.

Whoever uses the broker runs first what has become due; a thread that waits for a delivery sleeps
until the next thing is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Timers:
    """Actions with the times at which they are due. The broker's lock guards it.

    :param clock: seconds, always forward.
    :param on_earlier: called when something becomes due before all else, to wake the sleepers.
    :ivar pending: what will be due, the next first; while it is empty there is nothing to run.
    """

    def __init__(self, clock: Callable[[], float], on_earlier: Callable[[], None]) -> None:
        self.clock = clock
        self._on_earlier = on_earlier
        self.pending: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()  # tells apart what is due at the same time

    @property
    def next_due(self) -> float | None:
        """When the next action is due; None when there is none."""
        return self.pending[0][0] if self.pending else None

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Run *action* once it is *due*."""
        earlier = not self.pending or due < self.pending[0][0]
        heapq.heappush(self.pending, (due, next(self._numbers), action))
        if earlier:
            self._on_earlier()

    def run(self) -> None:
        """Run all that is due."""
        while self.pending and self.pending[0][0] <= self.clock():
            heapq.heappop(self.pending)[2]()

    def clear(self) -> None:
        """Forget all of it."""
        self.pending.clear()
