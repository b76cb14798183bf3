"""Timers: what the broker has to do later, without a thread of its own.

Each operation first runs the actions that are due; a thread that waits for a delivery wakes up
for the next one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Timers:
    """Actions with the times at which they are due. The broker's lock guards them.

    :param clock: seconds, always forward.
    :param on_earlier: called when a new action is due before all others, to wake the sleepers.
    :ivar pending: a heap of all actions, the next one first.
    """

    def __init__(self, clock: Callable[[], float], on_earlier: Callable[[], None]) -> None:
        self.clock = clock
        self._on_earlier = on_earlier
        self.pending: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()  # orders actions that are due at the same time

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
        """Forget all actions."""
        self.pending.clear()
