"""Batch: many messages in few writes, with a window of unconfirmed ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, Protocol, Self, Unpack

from carrot.backends.base import BaseBackend
from carrot.backends.confirms import Confirms, merged
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    Nacked,
    OperationTimeout,
    PublishError,
)
from carrot.message import Message
from carrot.messaging.publish_options import PublishOptions, SendOptions

#: How many bytes of bodies may be under way, unconfirmed; at least one message is.
WINDOW_BYTES = 16 * 1024 * 1024


class Sender(Protocol):
    """What a batch needs of its publisher."""

    backend: BaseBackend
    confirm: bool
    confirm_window: int
    confirm_timeout: float | None

    def envelope(self, **options: Unpack[SendOptions]) -> PublishOptions: ...
    def message(self, data: Any, envelope: PublishOptions) -> Message: ...
    def publish(self, message: Message, envelope: PublishOptions) -> int | None: ...
    def wait_again(self, numbers: Collection[int]) -> None: ...
    def recover(self, lost: CarrotError, again: Callable[[], object]) -> None: ...


class _Sent(NamedTuple):
    """A message under way, and its number on the channel."""

    number: int
    message: Message
    envelope: PublishOptions


class Batch:
    """Made by :meth:`Publisher.batch`; for one thread.

    :ivar sent: how many messages were sent.
    """

    def __init__(self, publisher: Sender) -> None:
        self.sent = 0
        self._publisher = publisher
        self._unconfirmed: deque[_Sent] = deque()
        self._bytes = 0
        self._books: Confirms | None = None
        self._failures: list[PublishError] = []
        # Whether there were messages that nobody confirms.
        self._is_trusting = False
        self._open = ExitStack()
        self._is_open = False

    def send(self, message_data: Any, **options: Unpack[SendOptions]) -> None:
        """Send a message; its confirm is waited for later.

        :param options: as for :meth:`Publisher.send`.
        :raises ConfigurationError: outside of the ``with`` block, where nobody would wait for it.
        """
        if not self._is_open:
            raise ConfigurationError(
                "a batch sends in its block only, whose end waits for the confirms: write with "
                "publisher.batch() as batch: batch.send(…)"
            )
        self.put(message_data, self._publisher.envelope(**options))

    def put(self, data: Any, envelope: PublishOptions) -> None:
        """Send a message whose envelope is made already."""
        publisher = self._publisher
        message = publisher.message(data, envelope)
        try:
            number = publisher.publish(message, envelope)
        except (ConnectionLost, ConnectionFailed) as exc:
            if not (publisher.confirm or envelope.mandatory):
                raise  # what was kept back with it is lost
            self._recover(exc, _Sent(0, message, envelope))
            self.sent += 1
            return
        self.sent += 1
        if number is None:
            if not (publisher.confirm or envelope.mandatory):
                self._is_trusting = True
        else:
            # What becomes of it stands in the channel's books, also when the channel is gone.
            self._books = publisher.backend.confirms or self._books
            self._unconfirmed.append(_Sent(number, message, envelope))
            self._bytes += len(message.body)
            if len(self._unconfirmed) >= publisher.confirm_window or self._bytes >= WINDOW_BYTES:
                self._settle(len(self._unconfirmed) // 2)

    def _settle(self, leave: int) -> None:
        """Wait for the confirms of the oldest, until *leave* are left."""
        unconfirmed = self._unconfirmed
        if len(unconfirmed) <= leave:
            return
        oldest = [sent.number for sent in list(unconfirmed)[: len(unconfirmed) - leave]]
        try:
            self._wait_for(oldest, self._publisher.confirm_timeout)
        except (ConnectionLost, ConnectionFailed) as exc:
            self._recover(exc)
            return
        for _ in oldest:
            self._bytes -= len(unconfirmed.popleft().message.body)

    def _wait_for(self, numbers: list[int], timeout: float | None) -> None:
        try:
            self._publisher.backend.wait_for_confirms(numbers, timeout)
        except PublishError as exc:
            self._failures.append(exc)

    def _recover(self, lost: CarrotError, *more: _Sent) -> None:
        """Send again what the broker has not confirmed, over a new connection."""
        self._unconfirmed.extend(more)
        self._publisher.recover(lost, self._send_again)

    def _send_again(self) -> None:
        publisher, books = self._publisher, self._books
        missing = self._unconfirmed
        if books is not None:
            settled = [sent.number for sent in missing if books.is_settled(sent.number)]
            missing = deque(sent for sent in missing if not books.is_settled(sent.number))
            try:
                books.raise_failures(settled)
            except PublishError as exc:
                self._failures.append(exc)
        # None has a number until it has been sent again.
        self._unconfirmed, self._books = deque(sent._replace(number=0) for sent in missing), None
        again: deque[_Sent] = deque()
        for sent in missing:
            number = publisher.publish(sent.message, sent.envelope)
            if number is not None:
                again.append(sent._replace(number=number))
        self._unconfirmed, self._books = again, publisher.backend.confirms
        try:
            publisher.wait_again([sent.number for sent in again])
        except (Nacked, OperationTimeout):
            self._books = None  # all of them again
            raise
        except PublishError as exc:
            self._failures.append(exc)
        self._unconfirmed.clear()
        self._bytes = 0

    def __enter__(self) -> Self:
        self._open.enter_context(self._publisher.backend.batching())
        self._is_open = True
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        """Send what is left, and wait for all confirms.

        :raises PublishError: Unroutable or Nacked, with the messages that were not taken.
        """
        self._is_open = False
        if exc is not None and (
            not isinstance(exc, Exception) or isinstance(exc, (OSError, ChannelError))
        ):
            # Somebody wants to leave at once, or no confirms can be expected.
            exc.add_note(
                f"{self.sent} messages of the batch had been sent before this, of which "
                f"{len(self._unconfirmed)} are not known to be confirmed"
            )
            with suppress(type(exc)):
                self._open.__exit__(type(exc), exc, None)
            return
        try:
            self._leave()
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

    def _leave(self) -> None:
        try:
            self._open.close()
        except (ConnectionLost, ConnectionFailed) as exc:
            if self._is_trusting:
                raise
            if self._unconfirmed:
                self._recover(exc)
        self._settle(0)
