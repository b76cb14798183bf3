"""A deadline for all that a thread does in a block, however many requests that takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from carrot.retry import shorter

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


def spelled(timeout: float | None) -> str:
    """How long that is, for an error."""
    return "ever" if timeout is None else f"{round(timeout, 2):.12g} seconds"
