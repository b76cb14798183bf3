"""How long to wait between attempts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Iterating yields the seconds to wait before each next attempt, growing to a maximum.

    :param start: seconds before the second attempt.
    :param step: seconds added each time.
    :param maximum: seconds that no wait exceeds.
    :param retries: how many waits there are; None never ends.
    """

    start: float = 2
    step: float = 2
    maximum: float = 30
    retries: int | None = None

    def __iter__(self) -> Iterator[float]:
        attempt = 0
        while self.retries is None or attempt < self.retries:
            yield min(self.start + attempt * self.step, self.maximum)
            attempt += 1
