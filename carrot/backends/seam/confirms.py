"""Confirms: which published messages the broker has taken, refused or returned. No I/O.

RabbitMQ's publisher confirms (https://www.rabbitmq.com/docs/confirms): the n-th message of a
channel has the number n; a basic.return comes before the ack of the message it returns.
"""

from __future__ import annotations

from collections.abc import Collection

from carrot import remedies
from carrot.exceptions import ChannelError, ContentTooLarge, Nacked, PublishError, Unroutable
from carrot.message import Message

# The message, exchange, routing key, and whether it was mandatory.
_Published = tuple[Message, str, str, bool]


class Confirms:
    """The books of one life of a channel in confirm mode. The driver's lock guards it."""

    def __init__(self) -> None:
        self._last = 0
        self._oldest = 1  # none before it is pending
        self._pending: dict[int, _Published] = {}
        self._returned: dict[int, str] = {}
        self._failed: dict[int, PublishError] = {}
        self._blamed: dict[int, ChannelError] = {}
        # Given up waiting for: whether the broker has them, nobody knows.
        self._unanswered: set[int] = set()

    def publish(
        self, message: Message, exchange: str, routing_key: str, mandatory: bool = False
    ) -> int:
        """The number of the message that is published now."""
        self._last = number = self._last + 1
        self._pending[number] = (message, exchange, routing_key, mandatory)
        return number

    def withdraw(self, number: int) -> None:
        """The message that has the last number was not written: the next one gets it."""
        self._pending.pop(number)
        self._last = number - 1

    def refused(self, message: Message, exchange: str, routing_key: str, reason: str | None) -> int:
        """The number of a message that a broker, which answers at once, has not taken.

        :param reason: why it came back; None: the broker refused it.
        """
        number = self.publish(message, exchange, routing_key, mandatory=True)
        if reason is not None:
            self._returned[number] = reason
        self._settle(number, taken=reason is not None)
        return number

    def settle(self, tag: int, multiple: bool, taken: bool) -> None:
        """The broker's basic.ack (*taken*) or basic.nack.

        :param tag: as the broker counts, from 1 in each channel.
        :param multiple: it is for all messages up to that one.
        """
        number = tag
        if not multiple:
            self._settle(number, taken)
            return
        for pending in range(self._oldest, min(number, self._last) + 1):
            self._settle(pending, taken)
        self._oldest = max(self._oldest, number + 1)

    def _settle(self, number: int, taken: bool) -> None:
        if self._unanswered:
            self._unanswered.discard(number)
        if taken and not self._returned:
            self._pending.pop(number, None)
            return
        published = self._pending.get(number)
        if published is None:
            return
        reason = self._returned.pop(number, None)
        message, exchange, routing_key, _ = published
        where = f"exchange {exchange!r}, routing key {routing_key!r}"
        if not taken:
            self._failed[number] = Nacked(
                f"the broker refused the message ({where}): a queue is full and rejects, or the "
                "broker has a fault; nothing of it is stored for sure, send it again",
                [message],
            )
        elif reason is not None:
            self._failed[number] = Unroutable(
                f"the mandatory message reached no queue ({where}): {reason}; bind a queue "
                "first, or send without mandatory",
                [message],
            )
        # Last: a thread that waits for this one then looks for what went wrong.
        self._pending.pop(number, None)

    def returned(self, message: Message, exchange: str, routing_key: str, reason: str) -> None:
        """The broker's basic.return. It names no number: the first that is like it is meant.

        :param message: as it came back; brokers add headers and take some out (``BCC``).
        """
        alike = {
            number: sent.headers == message.headers
            for number, (sent, *address, mandatory) in list(self._pending.items())
            if mandatory
            and number not in self._returned
            and address == [exchange, routing_key]
            and sent.body == message.body
            and sent.properties.get("message_id") == message.properties.get("message_id")
        }
        if alike:
            self._returned[max(alike, key=lambda number: alike[number])] = reason

    def blame(self, error: ChannelError) -> bool:
        """The broker closed the channel for *error*: whether that is about messages sent here.

        They are those that it :func:`concerns`. Whether the broker has the others, nobody knows.
        """
        meant = [
            number
            for number, (message, exchange, *_) in list(self._pending.items())
            if concerns(error, message, exchange)
        ]
        for number in meant:
            self._blamed[number] = error
            self._pending.pop(number, None)  # last, as above
        return bool(meant)

    def all_settled(self, numbers: Collection[int]) -> bool:
        """Whether the broker has answered for all of them."""
        return self._pending.keys().isdisjoint(numbers) and self._unanswered.isdisjoint(numbers)

    def is_settled(self, number: int) -> bool:
        """Whether the broker has answered for that message, on this channel."""
        return (
            1 <= number <= self._last
            and number not in self._pending
            and number not in self._unanswered
        )

    def forget(self, numbers: Collection[int]) -> None:
        """Nobody waits for these any longer: a late answer is ignored."""
        for number in numbers:
            if self._pending.pop(number, None) is not None:
                self._unanswered.add(number)
            self._returned.pop(number, None)

    def raise_failures(self, numbers: Collection[int]) -> None:
        """Raise what went wrong with these.

        :raises PublishError: one error that holds all their messages.
        :raises ChannelError: the broker closed the channel because of one of them.
        """
        for number in numbers if self._blamed else ():
            if (error := self._blamed.pop(number, None)) is not None:
                raise remedies.channel_error(error.code, error.text)
        if not self._failed:
            return
        failures = [self._failed.pop(number) for number in numbers if number in self._failed]
        if failures:
            raise merged(failures)


def concerns(error: ChannelError, message: Message, exchange: str) -> bool | None:
    """Whether the broker closed the channel because of that message, or one like it.

    Its exchange isn't there, or may not be written to; or it is too large. None: because of no
    message.
    """
    if error.code in (403, 404) and "exchange '" in error.text:
        return f"exchange '{exchange}' in" in error.text
    if isinstance(error, ContentTooLarge):
        return f"size {len(message.body)} is" in error.text
    return None


def merged(failures: Collection[PublishError]) -> PublishError:
    """One error for many: the first, of the gravest class, with everybody's messages."""
    first = min(failures, key=lambda failure: not isinstance(failure, Nacked))
    messages = [message for failure in failures for message in failure.messages]
    # It may stand for several itself.
    text = str(first).removesuffix(_more(first.messages))
    return type(first)(text + _more(messages), messages)


def _more(messages: Collection[Message]) -> str:
    return f" (and {len(messages) - 1} more, see .messages)" if len(messages) > 1 else ""
