"""Batch: many messages in few writes, with a window of unconfirmed ones."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from typing import Any, Protocol, Self, Unpack

from carrot.backends.base import BaseBackend
from carrot.backends.confirms import merged
from carrot.exceptions import CarrotError, ChannelError, PublishError
from carrot.messaging.envelope import Envelope, SendOptions


class Sender(Protocol):
    """What a batch needs of its publisher."""

    backend: BaseBackend
    confirm_window: int
    confirm_timeout: float | None

    def envelope(self, **options: Unpack[SendOptions]) -> Envelope: ...
    def publish(self, data: Any, envelope: Envelope) -> int | None: ...


class Batch:
    """Made by :meth:`Publisher.batch`; for one thread.

    :ivar sent: how many messages were sent.
    """

    def __init__(self, publisher: Sender) -> None:
        self.sent = 0
        self._publisher = publisher
        self._unconfirmed: deque[int] = deque()
        self._failures: list[PublishError] = []
        self._open = ExitStack()

    def send(self, message_data: Any, **options: Unpack[SendOptions]) -> None:
        """Send a message; its confirm is waited for later.

        :param options: as for :meth:`Publisher.send`.
        """
        self.put(message_data, self._publisher.envelope(**options))

    def put(self, data: Any, envelope: Envelope) -> None:
        """Send a message whose envelope is made already."""
        number = self._publisher.publish(data, envelope)
        self.sent += 1
        if number is not None:
            self._unconfirmed.append(number)
            if len(self._unconfirmed) >= self._publisher.confirm_window:
                self._settle(self._publisher.confirm_window // 2)

    def _settle(self, leave: int) -> None:
        """Wait for the confirms of the oldest, until *leave* are left."""
        unconfirmed = self._unconfirmed
        oldest = [unconfirmed.popleft() for _ in range(len(unconfirmed) - leave)]
        if oldest:
            try:
                self._publisher.backend.wait_for_confirms(oldest, self._publisher.confirm_timeout)
            except PublishError as exc:
                self._failures.append(exc)

    def __enter__(self) -> Self:
        self._open.enter_context(self._publisher.backend.batching())
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        """Send what is left, and wait for all confirms.

        :raises PublishError: Unroutable or Nacked, with the messages that were not taken.
        """
        if exc is not None and (
            not isinstance(exc, Exception) or isinstance(exc, (OSError, ChannelError))
        ):
            return  # somebody wants to leave at once, or no confirms can be expected
        try:
            self._open.close()
            self._settle(0)
        except CarrotError:
            # The error that ended the block is the one to hear about.
            if exc is None:
                raise
        if exc is not None:
            refused = sum(len(failure.messages) for failure in self._failures)
            exc.add_note(
                f"{self.sent} messages of the batch had been sent before this"
                + (f", of which the broker refused {refused}" if refused else "")
            )
        elif self._failures:
            raise merged(self._failures)
