"""The seam: what every driver fills in, and what is written once for all of them.

A **transport** is one live connection to a broker. A **backend** is one channel on it; each
Publisher, Consumer and ConsumerSet owns one. BaseBackend is put together of its parts: topology,
lifecycle, consuming, and here publishing and settling.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from carrot.backends.confirms import Confirms
from carrot.backends.consuming import Consuming
from carrot.backends.lifecycle import Capabilities, ConnectionLike, Subscription
from carrot.backends.topology import QueueAlreadyExistsWarning, QueueDeclared
from carrot.backends.transport import BaseTransport
from carrot.deadline import spelled, within
from carrot.exceptions import ConnectionLost, OperationTimeout
from carrot.message import Message, Outgoing, Properties

__all__ = [
    "BaseBackend",
    "BaseMessage",
    "BaseTransport",
    "Capabilities",
    "ConnectionLike",
    "QueueAlreadyExistsWarning",
    "QueueDeclared",
    "Subscription",
]

#: The name that carrot has always had for a received message.
BaseMessage = Message


class BaseBackend(Consuming):
    """A channel of a broker, as the layers above know it; see :class:`Lifecycle`."""

    # -- publishing

    def prepare_message(
        self, message_data: bytes, delivery_mode: int, **properties: Any
    ) -> BaseMessage:
        """A message to :meth:`publish`; properties that are None are left out."""
        given = {name: value for name, value in properties.items() if value is not None}
        return Outgoing(message_data, Properties(given, delivery_mode=delivery_mode))

    @abstractmethod
    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool = False
    ) -> int | None:
        """Hand *message* to the broker.

        :returns: its number for :meth:`wait_for_confirms`, after :meth:`confirm_select`; None:
            there is nothing to wait for.
        :raises ConnectionLost: the broker may or may not have it.
        """

    @contextmanager
    def batching(self) -> Iterator[None]:
        """While in this context, the driver may keep messages back to send several at once."""
        yield

    def wait_until_unblocked(self, timeout: float | None) -> None:
        """Wait until the broker takes messages again, if it doesn't, as far as is known.

        :param timeout: seconds; None waits as long as it takes.
        :raises OperationTimeout: it doesn't, and says why.
        """
        transport, timeout = self._transport, within(timeout)
        if transport is not None and transport.is_open and transport.blocked is not None:
            try:
                transport.wait_for(lambda: transport.blocked is None, timeout)
            except OperationTimeout as exc:
                raise OperationTimeout(
                    f"the message was not sent: {_blocked(transport, timeout)}"
                ) from exc

    def confirm_select(self) -> None:
        """From now on the broker confirms each message that this channel publishes."""
        self.require("confirms", "publish with confirm=False")
        channel = self.channel
        if self.confirms is None:
            with self.changing:
                if self.confirms is None:
                    self.confirms = self._confirming(channel)
                    self._is_confirming = True

    def wait_for_confirms(self, numbers: Collection[int], timeout: float | None = None) -> None:
        """Wait until the broker has said of all these messages whether it took them.

        :param numbers: as :meth:`publish` returned them.
        :param timeout: seconds; None waits as long as it takes.
        :raises PublishError: Unroutable or Nacked, with the messages it didn't take, when all
            are settled.
        :raises OperationTimeout: no word in time; whether the broker has them is not known.
        :raises ChannelError: the broker refused and closed the channel.
        """
        confirms, transport = self.confirms, self._transport
        if confirms is None or transport is None or min(numbers, default=1) < confirms.first:
            confirms = self._former_confirms
            if confirms is None or not all(map(confirms.is_settled, numbers)):
                self._raise_unconfirmed()
        elif not confirms.all_settled(numbers):
            self._wait_until_settled(confirms, transport, numbers, timeout)
        confirms.raise_failures(numbers)

    def _wait_until_settled(
        self,
        confirms: Confirms,
        transport: BaseTransport,
        numbers: Collection[int],
        timeout: float | None,
    ) -> None:
        timeout = within(timeout)

        def settled() -> bool:
            return confirms is not self.confirms or confirms.all_settled(numbers)

        try:
            transport.wait_for(settled, timeout)
        except OperationTimeout as exc:
            confirms.forget(numbers)
            raise OperationTimeout(
                f"the broker confirmed nothing within {spelled(timeout)}: it may or may not have "
                f"the message ({_blocked(transport, timeout)})"
            ) from exc
        if not confirms.all_settled(numbers):
            self._raise_unconfirmed()

    def _raise_unconfirmed(self) -> NoReturn:
        """The channel that the messages went out on is gone: it says why, once."""
        if not self._failure_is_blamed:
            self._raise_failure()
        raise ConnectionLost(
            "the channel was closed before the broker confirmed: it may or may not have the message"
        )

    # -- settling

    @abstractmethod
    def ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """The message is done with; *multiple*: and all that this channel got before it."""

    @abstractmethod
    def reject(self, delivery_tag: Any) -> None:
        """Discard the message, or dead-letter it."""

    @abstractmethod
    def requeue(self, delivery_tag: Any) -> None:
        """Put the message back where it was in its queue."""


def _blocked(transport: BaseTransport, timeout: float | None) -> str:
    """Why the broker takes no messages, as far as is known, and what to do."""
    if transport.blocked is None:
        return "is it blocked by an alarm, or overloaded?"
    return (
        f"for {spelled(timeout)} it has been blocking publishers, for an alarm: "
        f"{transport.blocked!r}; free memory or disk space there, or let consumers catch up"
    )
