"""Deadlines, and the clocks: no other file reads one, or sleeps by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from carrot.exceptions import OperationTimeout
from carrot.forks import Stage, register

_LONGEST = 3600.0

#: Seconds on a clock that never goes back. Only differences mean something.
now: Callable[[], float] = time.monotonic


def wall_clock() -> float:
    """Seconds since 1970, for what leaves this process; an operator may turn it back."""
    return time.time()


def sleep(seconds: float) -> None:
    """Let this thread do nothing for so many *seconds*."""
    # Looked up each time: gevent replaces it, perhaps after this was imported.
    time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment until which something may take.

    :ivar at: as :func:`now` counts; None: there is no limit.
    """

    at: float | None = None

    #: No limit.
    NEVER: ClassVar[Deadline]

    @classmethod
    def after(cls, seconds: float | None) -> Self:
        """The moment in so many *seconds*; None: there is no limit."""
        return cls(None if seconds is None else now() + seconds)

    @property
    def left(self) -> float | None:
        """Seconds until then, at least 0; None: there is no limit."""
        return None if self.at is None else max(0.0, self.at - now())

    @property
    def is_past(self) -> bool:
        """Whether the time is over."""
        return self.at is not None and now() >= self.at

    def earlier(self, other: Deadline) -> Deadline:
        """The one of the two that comes first."""
        if other.at is None or (self.at is not None and self.at <= other.at):
            return self
        return other


Deadline.NEVER = Deadline()


class OwnedLock(Protocol):
    """A reentrant lock, as threading.RLock makes it: it knows whether this thread holds it."""

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...
    def release(self) -> None: ...
    def _is_owned(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *exc_info: object) -> None: ...


# Of the threads that have one. No threading.local, whose every look costs 0.1 µs: as long as no
# thread has a deadline, a look at an empty dict is all.
_deadlines: dict[int, Deadline] = {}


def _forget_other_threads() -> None:
    """In a forked child: its new threads may get the numbers of the parent's."""
    mine = thread_deadline()
    _deadlines.clear()
    if mine.at is not None:
        _deadlines[threading.get_ident()] = mine


register(Stage.BROKERS, after_in_child=_forget_other_threads)


def thread_deadline() -> Deadline:
    """The deadline of the calling thread, as :func:`bounded_by` has set it."""
    return _deadlines.get(threading.get_ident(), Deadline.NEVER) if _deadlines else Deadline.NEVER


@contextmanager
def bounded_by(deadline: Deadline | float | None) -> Iterator[None]:
    """Bound every wait of this thread inside the block; blocks inside it can only be shorter.

    :param deadline: a number is a moment as :func:`now` counts, and None is no limit of its own.
    """
    outer, thread = thread_deadline(), threading.get_ident()
    inner = outer.earlier(deadline if isinstance(deadline, Deadline) else Deadline(deadline))
    if inner is outer or inner.at is None:
        yield
        return
    try:
        _deadlines[thread] = inner
        yield
    finally:
        if outer.at is None:
            _deadlines.pop(thread, None)
        else:
            _deadlines[thread] = outer


def remaining(timeout: float | None) -> float | None:
    """How long to wait: *timeout* seconds, but not past this thread's deadline.

    :param timeout: None: only the thread's deadline counts.
    """
    if not _deadlines:
        return timeout
    return shorter(timeout, thread_deadline().left)


def shorter(one: float | None, other: float | None) -> float | None:
    """The shorter of two timeouts; None is no limit."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def milliseconds(timeout: float | None) -> float | None:
    """*timeout* seconds for poll(), at most an hour, because its counter is small.

    The caller waits in a loop, and asks again.
    """
    return None if timeout is None else 1000 * min(timeout, _LONGEST)


def held(lock: Any, what: str, patience: float | None = None) -> AbstractContextManager[Any]:
    """Hold *lock*, an :class:`OwnedLock`, but don't wait for it past this thread's deadline.

    :param what: what the others do with it, for the error.
    :param patience: seconds to wait for it; None: only the thread's deadline counts.
    :raises OperationTimeout: they held it for too long.
    """
    if patience is None and not _deadlines:
        return lock  # type: ignore[no-any-return]
    patience = remaining(patience)
    return lock if patience is None else _held_within(lock, what, patience)


@contextmanager
def _held_within(lock: OwnedLock, what: str, patience: float) -> Iterator[None]:
    if lock._is_owned():
        yield
        return
    try:
        if not lock.acquire(timeout=patience):
            raise OperationTimeout(f"another thread took too long {what}: {describe(patience)}")
        yield
    finally:
        # A signal handler may raise before acquire() has returned here, and after it was held.
        if lock._is_owned():
            lock.release()


def describe(timeout: float | None) -> str:
    """A timeout as text, for an error: "2.5 seconds"."""
    return "ever" if timeout is None else f"{round(timeout, 2):.12g} seconds"
