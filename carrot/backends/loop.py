"""ConsumeIterator: counts the deliveries that a backend waits for and dispatches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Dispatcher(Protocol):
    """What the loop needs of a backend."""

    def step(self) -> bool: ...
    def forget_stop(self) -> None: ...


class ConsumeIterator(Iterator[bool]):
    """Each step waits for a delivery and dispatches it; it outlives an exception in a callback.

    :param limit: the number of steps; None goes on until there is nothing to wait for.
    """

    def __init__(self, backend: Dispatcher, limit: int | None) -> None:
        self.backend = backend
        self.remaining = limit

    def __next__(self) -> bool:
        if self.remaining is not None and self.remaining <= 0:
            self.backend.forget_stop()
            raise StopIteration
        if self.remaining is not None:
            self.remaining -= 1
        if not self.backend.step():
            self.remaining = 0
            raise StopIteration
        return True
