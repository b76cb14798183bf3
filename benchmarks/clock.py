"""The measuring itself: processor time and wall time of the messages after the warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.job import Job, Result

# How many messages between two looks at the clock, so that looking costs nothing.
SLICE = 20


class Stopwatch:
    """Counts the processor time of this process, with all its threads, and the wall time."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def read(self, messages: int, **extra: float) -> Result:
        """What has passed since the start."""
        wall = time.perf_counter() - self._wall
        return Result(time.process_time() - self._cpu, wall, messages, extra)


def repeat(step: Callable[[], object], count: int, seconds: float) -> int:
    """Call *step* that often, or less often when the time is up; returns how often."""
    deadline = time.monotonic() + seconds
    done = 0
    while done < count and time.monotonic() < deadline:
        size = min(SLICE, count - done)
        for _ in range(size):
            step()
        done += size
    return done


def _nothing() -> None:
    """In memory all is done when the call returns."""


def measure_sending(
    job: Job, send: Callable[[], object], finish: Callable[[], object] = _nothing
) -> Result:
    """Measure *send*, until *finish* has returned, which waits until the broker has read all."""
    repeat(send, job.warmup, job.seconds / 2)
    finish()
    watch = Stopwatch()
    done = repeat(send, job.messages, job.seconds)
    finish()
    return watch.read(done)


class Meter:
    """Counts the messages that a consumer processes: :meth:`tick` for each.

    The measured part begins and ends inside the stream, so that what was read ahead at its
    beginning is made up for by what was read ahead at its end.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._watch = Stopwatch()
        self._deadline = time.monotonic() + job.seconds / 2
        self._seen = self._first = 0
        # The count at which to do more than to count.
        self._next = min(SLICE, job.warmup)
        self.result: Result | None = None

    def tick(self) -> bool:
        """Another message is processed; True when it was the last to measure."""
        self._seen += 1
        return self._seen >= self._next and self._look()

    def _look(self) -> bool:
        if self.result:  # some clients hand over what they have read, when told to stop
            return True
        job, seen, late = self._job, self._seen, time.monotonic() >= self._deadline
        last = (self._first + job.messages) if self._first else job.warmup
        self._next = min(seen + SLICE, last)
        if seen < last and not late:
            return False
        if self._first:
            self.result = self._watch.read(seen - self._first)
            return True
        self._first = seen
        self._next = seen + min(SLICE, job.messages)
        self._deadline = time.monotonic() + job.seconds
        self._watch.start()
        return False
