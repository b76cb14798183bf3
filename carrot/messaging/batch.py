"""Batch: many messages in few writes, with a window of unconfirmed ones."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, Self, Unpack

from carrot.backends.seam.confirms import merged
from carrot.backends.seam.life import Life
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
from carrot.messaging.sending import Sender, Sending

#: How many bytes of bodies may be under way, unconfirmed; at least one message is.
WINDOW_BYTES = 16 * 1024 * 1024


class _Sent(NamedTuple):
    """A message on its way, and its number on the life it went out on."""

    number: int
    message: Message
    options: PublishOptions
    life: Life | None


class Batch:
    """Made by :meth:`Publisher.batch`; for one thread.

    :ivar sent: how many messages were sent.
    """

    def __init__(self, sender: Sender, sending: Sending) -> None:
        self.sent = 0
        self._sender = sender
        self._sending = sending
        self._unconfirmed: deque[_Sent] = deque()
        self._bytes = 0
        #: The life on which all that are unconfirmed went out.
        self._life: Life | None = None
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
        self.put(message_data, self._sending.options(self._sender, **options))

    def put(self, data: Any, options: PublishOptions) -> None:
        """Send a message whose options are checked already."""
        sending, sender = self._sending, self._sender
        is_confirmed = sender.confirm or options.mandatory
        message = sending.message(sender, data, options)
        try:
            life, number = sending.publish(sender, message, options)
            if life is not self._life and self._unconfirmed:
                self._unconfirmed.append(_Sent(number or 0, message, options, life))
                raise ConnectionLost("the channel was replaced, and its confirms are gone")
        except (ConnectionLost, ConnectionFailed) as exc:
            if not is_confirmed:
                raise  # what was held back with it is lost
            if not (self._unconfirmed and self._unconfirmed[-1].message is message):
                self._unconfirmed.append(_Sent(0, message, options, None))
            self._recover(exc)
            self.sent += 1
            return
        self.sent += 1
        if number is None:
            if not is_confirmed:
                self._is_trusting = True
            return
        self._life = life
        self._unconfirmed.append(_Sent(number, message, options, life))
        self._bytes += len(message.body)
        if len(self._unconfirmed) >= sender.confirm_window or self._bytes >= WINDOW_BYTES:
            self._settle(len(self._unconfirmed) // 2)

    def _settle(self, leave: int) -> None:
        """Wait for the confirms of the oldest, until *leave* are left."""
        unconfirmed, life = self._unconfirmed, self._life
        if life is None or len(unconfirmed) <= leave:
            return
        oldest = [sent.number for sent in list(unconfirmed)[: len(unconfirmed) - leave]]
        try:
            self._sending.wait(self._sender, life, oldest, unconfirmed[0].options)
        except PublishError as exc:
            self._failures.append(exc)
        except (ConnectionLost, ConnectionFailed) as exc:
            self._recover(exc)
            return
        for _ in oldest:
            self._bytes -= len(unconfirmed.popleft().message.body)

    def _recover(self, lost: CarrotError) -> None:
        """Send again what the broker has not confirmed, over a new connection."""
        self._sending.recover(self._sender, lost, self._send_again)

    def _send_again(self) -> None:
        sending, sender = self._sending, self._sender
        missing = [sent for sent in self._unconfirmed if not self._is_settled(sent)]
        # None has a number until it has been sent again.
        self._unconfirmed = deque(sent._replace(number=0, life=None) for sent in missing)
        again: dict[Life, list[_Sent]] = {}
        for sent in missing:
            life, number = sending.publish(sender, sent.message, sent.options)
            if number is not None:
                again.setdefault(life, []).append(sent._replace(number=number, life=life))
        self._unconfirmed = deque(sent for group in again.values() for sent in group)
        try:
            for life, group in again.items():
                self._life = life
                numbers = [sent.number for sent in group]
                sending.wait_again(sender, life, numbers, group[0].options)
        except (Nacked, OperationTimeout):
            # All of them again.
            self._unconfirmed = deque(sent._replace(number=0, life=None) for sent in missing)
            raise
        except PublishError as exc:
            self._failures.append(exc)
        self._unconfirmed.clear()
        self._bytes = 0

    def _is_settled(self, sent: _Sent) -> bool:
        """Whether the broker has answered for it, before its channel was gone."""
        confirms = None if sent.life is None else sent.life.confirms
        if confirms is None or not confirms.is_settled(sent.number):
            return False
        try:
            confirms.raise_failures([sent.number])
        except PublishError as exc:
            self._failures.append(exc)
        return True

    def __enter__(self) -> Self:
        try:
            self._hold_back()
        except (ConnectionLost, ConnectionFailed) as exc:
            self._sending.recover(self._sender, exc, self._hold_back)
        self._is_open = True
        return self

    def _hold_back(self) -> None:
        self._open.enter_context(self._sender.backend.lives.batching())

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
