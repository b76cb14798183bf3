"""How long to wait between attempts, and when to give up."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

from carrot.checks import seconds, whole_number
from carrot.deadline import Deadline, shorter, sleep
from carrot.exceptions import ConfigurationError

__all__ = ["Attempts", "Backoff", "Retry", "pause", "shorter"]

# How often a pause asks whether it is over, in seconds.
_LOOK = 0.05


@dataclass(frozen=True)
class Backoff:
    """Iterating yields the seconds to wait before each next attempt, growing to a maximum.

    :param start: seconds before the second attempt.
    :param step: seconds added each time.
    :param maximum: seconds that no wait exceeds; ``math.inf``: they grow for ever.
    :param retries: how many waits there are; None never ends.
    :param jitter: which part of each wait is left to chance, from 0 to 1, so that many clients of
        a broker that comes back don't all come at once.
    """

    start: float = 2
    step: float = 2
    maximum: float = 30
    retries: int | None = None
    jitter: float = 0

    def __post_init__(self) -> None:
        for name in ("start", "step", "maximum"):
            if name != "maximum" or self.maximum != inf:
                object.__setattr__(self, name, seconds(name, getattr(self, name)))
        if self.retries is not None:
            object.__setattr__(self, "retries", whole_number("retries", self.retries))
        if not isinstance(self.jitter, (int, float)) or not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"jitter must be a number from 0 to 1: {self.jitter!r}")

    def __iter__(self) -> Iterator[float]:
        attempt = 0
        while self.retries is None or attempt < self.retries:
            wait = min(self.start + attempt * self.step, self.maximum)
            yield wait * (1 - self.jitter * random.random())
            attempt += 1


@dataclass(frozen=True)
class Retry:
    """How often and how long to try again after a connection was lost.

    :param attempts: how many times; None: no limit.
    :param seconds: how long, counted from the loss; None: no limit.
    :param backoff: the waits between them. By default the first attempt comes almost at once,
        and the later ones at most a second apart.
    """

    attempts: int | None = None
    seconds: float | None = None
    backoff: Backoff = field(default=Backoff(start=0.05, step=0.15, maximum=1, jitter=0.5))

    def __post_init__(self) -> None:
        if self.attempts is not None:
            object.__setattr__(self, "attempts", whole_number("attempts", self.attempts))
        if self.seconds is not None:
            object.__setattr__(self, "seconds", seconds("seconds", self.seconds))
        if not hasattr(type(self.backoff), "__iter__"):
            raise ConfigurationError(f"backoff must be a Backoff(…), not {self.backoff!r}")


class Attempts:
    """The attempts of one recovery: iterating yields the seconds to wait before each.

    :ivar deadline: when the last attempt must be over.
    """

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self.deadline = Deadline.after(retry.seconds)

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, at least 0; None: there is none."""
        return self.deadline.left

    def __iter__(self) -> Iterator[float]:
        waits = iter(self._retry.backoff)
        attempt = 0
        while self._retry.attempts is None or attempt < self._retry.attempts:
            wait = next(waits, None)
            if wait is None or (self.left is not None and wait >= self.left):
                return
            yield wait
            attempt += 1


def pause(seconds: float, is_over: Callable[[], object]) -> bool:
    """Wait so many *seconds*, or until ``is_over()``; returns whether that ended it."""
    end = Deadline.after(seconds)
    while not is_over():
        left = end.left
        if not left:
            return False
        sleep(min(left, _LOOK))
    return True
