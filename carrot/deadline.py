"""A deadline for all that a thread does in a block, however many requests that takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from carrot.exceptions import OperationTimeout
from carrot.retry import shorter

_LONGEST = 3600.0


class AnyLock(Protocol):
    """A lock of threading's, reentrant or not."""

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...
    def release(self) -> None: ...


# Each thread's own: ``deadline``, as ``time.monotonic()`` counts, while it has one.
_own = threading.local()


@contextmanager
def until(deadline: float | None) -> Iterator[None]:
    """What waits in this block waits no longer than that; blocks inside it may only be shorter.

    :param deadline: as ``time.monotonic()`` counts; None: as long as the block around this one.
    """
    outer: float | None = getattr(_own, "deadline", None)
    _own.deadline = shorter(outer, deadline)
    try:
        yield
    finally:
        _own.deadline = outer


def within(timeout: float | None) -> float | None:
    """How long to wait: *timeout* seconds, or what is left until this thread's deadline.

    :param timeout: None: as long as it takes.
    """
    deadline: float | None = getattr(_own, "deadline", None)
    if deadline is None:
        return timeout
    return shorter(timeout, max(0.0, deadline - time.monotonic()))


def milliseconds(timeout: float | None) -> float | None:
    """*timeout* seconds for poll(), which can't count a month: a longer wait has to look again."""
    return None if timeout is None else 1000 * min(timeout, _LONGEST)


def wait_to_hold(lock: AnyLock, what: str) -> None:
    """Wait for a *lock* that another thread holds, if this thread has a deadline.

    ``with lock:`` comes after it. (A ``with`` of an acquire() of our own could be interrupted
    before its release is certain.)

    :param what: what others do meanwhile, for the error.
    :raises OperationTimeout: they took too long.
    """
    patience = within(None)
    if patience is None:
        return
    if not lock.acquire(timeout=patience):
        raise OperationTimeout(f"another thread took too long {what}: {spelled(patience)}")
    lock.release()


def spelled(timeout: float | None) -> str:
    """How long that is, for an error."""
    return "ever" if timeout is None else f"{round(timeout, 2):.12g} seconds"
