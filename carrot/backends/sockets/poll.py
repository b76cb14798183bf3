"""poll(), also on systems that don't have it."""

from __future__ import annotations

import select
import selectors
from typing import Protocol

#: What to wait for: something to read, or room to write.
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
if hasattr(select, "poll"):
    READ, WRITE = select.POLLIN, select.POLLOUT


class HasFileno(Protocol):
    """A socket."""

    def fileno(self) -> int: ...


class Poll(Protocol):
    """What is needed of ``select.poll``."""

    def register(self, fd: int | HasFileno, eventmask: int, /) -> object: ...
    def poll(self, timeout: float | None = ..., /) -> list[tuple[int, int]]: ...


class SelectorPoll:
    """The same by means of ``selectors``, for systems without ``select.poll``."""

    def __init__(self) -> None:
        self._registered: list[tuple[int | HasFileno, int]] = []

    def register(self, fd: int | HasFileno, eventmask: int, /) -> None:
        """Wait for that, too."""
        events = selectors.EVENT_READ if eventmask == READ else selectors.EVENT_WRITE
        self._registered.append((fd, events))

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """What is ready within *timeout* milliseconds: file descriptors, and for what."""
        # Made anew each time: this is the slow way, and leaves nothing behind to be closed.
        with selectors.DefaultSelector() as selector:
            for fd, events in self._registered:
                selector.register(fd, events)
            ready = selector.select(None if timeout is None else timeout / 1000)
            return [(key.fd, events) for key, events in ready]


def new_poll() -> Poll:
    """An object to wait with. Looked up each time: gevent puts its own in place."""
    return select.poll() if hasattr(select, "poll") else SelectorPoll()
