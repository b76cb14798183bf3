"""ConsumeIterator: waits for deliveries and runs their callbacks, one at each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from carrot.exceptions import CarrotError, ConnectionLost, OperationTimeout
from carrot.message import Message


class Dispatcher(Protocol):
    """What the loop needs of a backend."""

    stops_heeded: int

    def next_delivery(self, timeout: float | None, stops: int) -> tuple[Any, Message] | None: ...
    def delivered(self, message: Message) -> bool: ...
    def forget_stop(self) -> None: ...


class ConsumeIterator(Iterator[bool]):
    """Each step waits for a delivery and dispatches it; it outlives an exception in a callback.

    :param limit: the number of steps; None goes on until there is nothing to wait for.
    :param deadline: as ``time.monotonic()`` counts; then it raises OperationTimeout.
    :ivar stops: how many stops were heeded when it was made.
    :param heal: called with what the waiting raises, and with how many stops were heeded when the
        loop began; True: everything is as before, go on. None: there is no help.
    """

    def __init__(
        self,
        backend: Dispatcher,
        limit: int | None,
        deadline: float | None = None,
        heal: Callable[[CarrotError, int], bool] | None = None,
    ) -> None:
        self.backend = backend
        self.remaining = limit
        # One stop() ends all loops that run, in whatever threads.
        self.stops = backend.stops_heeded
        self._deadline = deadline
        self._healer = heal

    def _heal(self, error: CarrotError) -> bool:
        return self._healer is not None and self._healer(error, self.stops)

    def __next__(self) -> bool:
        if self.remaining is not None:
            if self.remaining <= 0:
                self.backend.forget_stop()
                raise StopIteration
            self.remaining -= 1
        backend = self.backend
        while True:
            timeout = None
            if self._deadline is not None:
                timeout = self._deadline - time.monotonic()
                if timeout <= 0:
                    raise OperationTimeout("the timeout is over, and not all was processed")
            try:
                entry = backend.next_delivery(timeout, self.stops)
            except CarrotError as exc:
                if not self._heal(exc):
                    raise
                continue
            if entry is None:
                self.remaining = 0
                raise StopIteration
            subscription, message = entry
            try:
                subscription.callback(message)
            except ConnectionLost as exc:
                # Of another connection's, perhaps; else the message will be delivered again.
                if backend.delivered(message) or not self._heal(exc):
                    raise
                continue
            return True
