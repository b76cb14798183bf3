"""Confirms: which published messages the broker has taken, refused or returned. No I/O.

RabbitMQ's publisher confirms (https://www.rabbitmq.com/docs/confirms): the n-th message of a
channel has the number n; a basic.return comes before the ack of the message it returns.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from carrot.exceptions import Nacked, PublishError, Unroutable
from carrot.message import Message


class _Published(NamedTuple):
    message: Message
    exchange: str
    routing_key: str


class Confirms:
    """The books of one channel in confirm mode. The driver's lock guards it."""

    def __init__(self) -> None:
        self._last = 0
        self._pending: dict[int, _Published] = {}
        self._returned: dict[int, str] = {}
        self._failed: dict[int, PublishError] = {}

    def publish(self, message: Message, exchange: str, routing_key: str) -> int:
        """The number of the message that is published now."""
        self._last += 1
        self._pending[self._last] = _Published(message, exchange, routing_key)
        return self._last

    def settle(self, number: int, multiple: bool, taken: bool) -> None:
        """The broker's basic.ack (*taken*) or basic.nack; *multiple*: of all up to *number*."""
        if not multiple:
            self._settle(number, taken)
            return
        # In the order of publishing, so those up to the number come first.
        for pending in list(self._pending):
            if pending > number:
                break
            self._settle(pending, taken)

    def _settle(self, number: int, taken: bool) -> None:
        published = self._pending.pop(number, None)
        reason = self._returned.pop(number, None)
        if published is None:
            return
        message, exchange, routing_key = published
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

    def returned(self, body: bytes, exchange: str, routing_key: str, reason: str) -> None:
        """The broker's basic.return: it names no number, so the first of that look is meant."""
        for number, published in self._pending.items():
            if (
                number not in self._returned
                and published.exchange == exchange
                and published.routing_key == routing_key
                and published.message.body == body
            ):
                self._returned[number] = reason
                return

    def all_settled(self, numbers: Collection[int]) -> bool:
        """Whether the broker has answered for all of them."""
        return not any(number in self._pending for number in numbers)

    def forget(self, numbers: Collection[int]) -> None:
        """Nobody waits for these any longer: a late answer is nobody's."""
        for number in numbers:
            self._pending.pop(number, None)
            self._returned.pop(number, None)

    def raise_failures(self, numbers: Collection[int]) -> None:
        """Raise what went wrong with these, in one error that holds all their messages."""
        if not self._failed:
            return
        failures = [self._failed.pop(number) for number in numbers if number in self._failed]
        if failures:
            raise merged(failures)


def merged(failures: Collection[PublishError]) -> PublishError:
    """One error for many: the first, of the gravest class, with everybody's messages."""
    first = min(failures, key=lambda failure: not isinstance(failure, Nacked))
    messages = [message for failure in failures for message in failure.messages]
    more = f" (and {len(messages) - 1} more, see .messages)" if len(messages) > 1 else ""
    return type(first)(f"{first}{more}", messages)
