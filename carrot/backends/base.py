"""The seam: what every driver fills in, and what is written once for all of them.

A **transport** is one live connection to a broker. A **backend** is one channel on it; each
Publisher, Consumer and ConsumerSet owns one.
"""

from __future__ import annotations

import threading
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol, Self

from carrot.backends.confirms import Confirms
from carrot.backends.loop import ConsumeIterator
from carrot.backends.topology import QueueAlreadyExistsWarning, QueueDeclared, Topology
from carrot.backends.transport import BaseTransport
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConnectionFailed,
    ConnectionLost,
    ConsumerCancelled,
    NotSupported,
    OperationTimeout,
)
from carrot.message import Message, Outgoing, Properties
from carrot.values import short_string

__all__ = [
    "BaseBackend",
    "BaseMessage",
    "BaseTransport",
    "Capabilities",
    "QueueAlreadyExistsWarning",
    "QueueDeclared",
]

#: The name that carrot has always had for a received message.
BaseMessage = Message

DeliveryCallback = Callable[[Message], object]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a driver can do; asked for anything else it raises NotSupported.

    :param thread_safe: several threads may use one connection at once.
    """

    confirms: bool = True
    mandatory: bool = True
    immediate: bool = False
    requeue: bool = True
    prefetch_count: bool = True
    prefetch_size: bool = False
    priorities: bool = True
    expiration: bool = True
    dead_letters: bool = True
    max_length: bool = True
    headers_exchange: bool = True
    exchange_bindings: bool = True
    alternate_exchange: bool = True
    thread_safe: bool = False


class ConnectionLike(Protocol):
    """What a backend needs of its BrokerConnection: the live transport, opened if need be."""

    @property
    def connection(self) -> BaseTransport: ...


class Subscription(NamedTuple):
    """A consumer on a channel."""

    consumer_tag: str
    queue: str
    no_ack: bool
    callback: DeliveryCallback


_Entry = tuple[Subscription, Message]


def _removed(box: deque[_Entry], entry: _Entry) -> bool:
    """Take *entry* out of *box*; False: another thread was faster."""
    try:
        box.remove(entry)
    except ValueError:
        return False
    return True


class BaseBackend(Topology):
    """One channel, opened at its first use and again after it was closed.

    Not the owner of its connection: it asks it for the live transport, and knows when that is a
    new one. Deliveries wait in ``inbox`` until :meth:`dispatch` runs their callback, so callbacks
    may use the channel freely.

    :ivar generation: counts the channels this backend has had; a delivery remembers its own.
    """

    transport_cls: ClassVar[type[BaseTransport]]
    capabilities: ClassVar[Capabilities]
    Message: ClassVar[type[BaseMessage]] = BaseMessage

    connection_errors: ClassVar[tuple[type[Exception], ...]] = (ConnectionFailed, ConnectionLost)
    channel_errors: ClassVar[tuple[type[Exception], ...]] = (ChannelError,)

    def __init__(self, connection: ConnectionLike) -> None:
        self.connection = connection
        self.generation = 0
        self.inbox: deque[_Entry] = deque()
        # Delivered with no_ack to subscriptions that have ended: they can't go back.
        self._left_over: deque[_Entry] = deque()
        self.confirms: Confirms | None = None
        self._next_number = 1
        self._is_confirming = False
        self._subscriptions: dict[str, Subscription] = {}
        self._consumers_are_lost = False
        self._paused = False
        self._channel_limit = 0
        self._interrupted = False
        self._failure: CarrotError | None = None
        self._transport: BaseTransport | None = None
        self._channel: Any = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        #: Held while the channel, its mode or its consumers change, and while one settles.
        self.changing = threading.RLock()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<{type(self).__module__}.{type(self).__name__} {state}>"

    @classmethod
    def require(cls, feature: str, why: str) -> None:
        """Refuse what the driver can't do.

        :param feature: a field of :class:`Capabilities`.
        :raises NotSupported: names the driver and *why* it was asked.
        """
        if not getattr(cls.capabilities, feature):
            path = cls.__module__.split(".")
            driver = path[2] if path[:2] == ["carrot", "backends"] else path[-1]
            raise NotSupported(f"the {driver} driver has no {feature}: {why}")

    # -- the channel's life

    @property
    def default_port(self) -> int | None:
        return self.transport_cls.default_port

    @property
    def is_open(self) -> bool:
        """Whether there is a channel now; the next use opens one."""
        return self._channel is not None and self._transport is not None and self._transport.is_open

    @property
    def channel(self) -> Any:
        """The driver's own channel, open.

        :raises ChannelError: once, when the broker closed the channel since the last use.
        :raises ConnectionFailed: there is no connection, and none can be made.
        """
        self._raise_failure()
        transport = self.connection.connection
        channel = self._channel
        if transport is not self._transport or not self._is_usable(channel):
            with self.changing:
                channel = self._channel
                if transport is not self._transport or not self._is_usable(channel):
                    channel = self._replace_channel(transport)
        return channel

    def _replace_channel(self, transport: BaseTransport) -> Any:
        self._forget_channel()
        self._transport = transport
        for forgotten in transport.take_abandoned():
            self._close_channel(forgotten)
        channel = self._open_channel(transport)
        if self._is_confirming:
            self._confirm_select(channel)
            self.confirms = Confirms(self._next_number)
        transport.attach(self)
        self._finalizer = weakref.finalize(self, transport.abandon, channel)
        # Last: another thread may use it from now on.
        self._channel = channel
        return channel

    @property
    def delivering_channel(self) -> Any:
        """The channel there is; settling a message never opens another.

        :raises ConnectionLost: there is none, so the broker redelivers what it had delivered.
        """
        if not self.is_open:
            raise ConnectionLost(
                "the channel that delivered this message is gone; the broker will redeliver it"
            )
        return self._channel

    def _forget_channel(self) -> None:
        """Nothing that belonged to the last channel counts any more."""
        self._channel = None
        if self._finalizer is not None:
            self._finalizer.detach()
        self.generation += 1
        self.inbox.clear()
        self._left_over.clear()
        if self.confirms is not None:
            self._next_number = self.confirms.next
            self.confirms = None
        self._consumers_are_lost = bool(self._subscriptions)
        self._subscriptions.clear()
        self._paused = False
        self._channel_limit = 0

    def fail(self, error: CarrotError) -> None:
        """The driver's reader says: the broker closed this channel. Its next user is told why."""
        self._forget_channel()
        self._failure = error

    def take_failure(self) -> CarrotError | None:
        """Why the broker closed the channel or a consumer, for the one who raises it."""
        failure, self._failure = self._failure, None
        return failure

    def _raise_failure(self) -> None:
        if (failure := self.take_failure()) is not None:
            raise failure

    def close(self) -> None:
        """Close the channel; what was delivered and not settled goes back. Again is harmless."""
        channel, transport = self._channel, self._transport
        self._forget_channel()
        self._consumers_are_lost = False
        if transport is not None:
            transport.detach(self)
            if channel is not None and transport.is_open:
                self._close_channel(channel)
            transport.interrupt()
        # At the end: closing may have met what the broker objects to.
        self._failure = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @abstractmethod
    def _open_channel(self, transport: BaseTransport) -> Any:
        """A new channel on *transport*, which becomes :attr:`channel`."""

    def _is_usable(self, channel: Any) -> bool:
        """Whether there is a channel, and the driver has not given it up."""
        return channel is not None

    @abstractmethod
    def _close_channel(self, channel: Any) -> None:
        """Close *channel*; a connection that is lost meanwhile is no error."""

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

        :returns: its number for :meth:`wait_for_confirms`, after :meth:`confirm_select`.
        :raises ConnectionLost: the broker may or may not have it.
        """

    @contextmanager
    def batching(self) -> Iterator[None]:
        """While in this context, the driver may keep messages back to send several at once."""
        yield

    def confirm_select(self) -> None:
        """From now on the broker confirms each message that this channel publishes."""
        self.require("confirms", "publish with confirm=False")
        channel = self.channel
        if self.confirms is None:
            with self.changing:
                if self.confirms is None:
                    self._confirm_select(channel)
                    self.confirms = Confirms(self._next_number)
                    self._is_confirming = True

    @abstractmethod
    def _confirm_select(self, channel: Any) -> None:
        """Put *channel* into confirm mode."""

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
            self._raise_unconfirmed()
        elif not confirms.all_settled(numbers):
            self._wait_until_settled(confirms, transport, numbers, timeout)
            confirms.raise_failures(numbers)
        else:
            confirms.raise_failures(numbers)

    def _wait_until_settled(
        self,
        confirms: Confirms,
        transport: BaseTransport,
        numbers: Collection[int],
        timeout: float | None,
    ) -> None:
        def settled() -> bool:
            return confirms is not self.confirms or confirms.all_settled(numbers)

        try:
            transport.wait_for(settled, timeout)
        except OperationTimeout as exc:
            confirms.forget(numbers)
            raise OperationTimeout(
                f"the broker confirmed nothing for {timeout} s: it may or may not have the "
                "message (is it blocked by an alarm, or overloaded?)"
            ) from exc
        if not confirms.all_settled(numbers):
            self._raise_unconfirmed()

    def _raise_unconfirmed(self) -> NoReturn:
        """The channel that the messages went out on is gone: it says why, once."""
        self._raise_failure()
        raise ConnectionLost(
            "the channel was closed before the broker confirmed: it may or may not have the message"
        )

    # -- receiving

    @abstractmethod
    def get(self, queue: str, no_ack: bool = False) -> BaseMessage | None:
        """Take the next message from *queue*, or None when it is empty.

        :param no_ack: the broker forgets the message as it delivers it.
        :raises NotFound: no such queue; the channel reopens by itself.
        :raises ConnectionLost: the connection dropped; safe to retry.
        """

    def declare_consumer(
        self,
        queue: str,
        no_ack: bool,
        callback: DeliveryCallback,
        consumer_tag: str,
        nowait: bool = False,
    ) -> None:
        """Subscribe to *queue*: what it delivers is handed to *callback* by :meth:`dispatch`.

        :param nowait: accepted for old programs; the broker's answer is always awaited, so that
            a missing queue is told here.
        :raises NotFound: no such queue.
        """
        short_string("consumer tag", consumer_tag)
        with self.changing:
            channel = self.channel
            if consumer_tag in self._subscriptions:
                return
            # First: deliveries may overtake the broker's answer.
            self._subscriptions[consumer_tag] = Subscription(consumer_tag, queue, no_ack, callback)
            self._consumers_are_lost = False
            try:
                self._subscribe(channel, queue, consumer_tag, no_ack)
            except BaseException:
                self._subscriptions.pop(consumer_tag, None)
                self._consumers_are_lost = False
                raise

    def is_consuming(self, consumer_tag: str) -> bool:
        """Whether that consumer is subscribed on this channel, as it is now."""
        return self.is_open and consumer_tag in self._subscriptions

    def cancel(self, consumer_tag: str) -> None:
        """End a subscription; what it received and nobody has seen goes back to the queue.

        A tag that isn't subscribed is no error. Messages delivered with no_ack can't go back:
        they are kept for :meth:`take`.
        """
        with self.changing:
            subscription = self._subscriptions.get(consumer_tag)
            if subscription is None:
                return
            if self.is_open and not self._paused:
                self._unsubscribe(self._channel, consumer_tag)
            self._subscriptions.pop(consumer_tag, None)
            self._return_inbox(subscription)
        if self._transport is not None:
            self._transport.interrupt()  # consume() ends with the last subscription

    def _return_inbox(self, subscription: Subscription) -> None:
        """Give back what a subscription that has ended received and nobody has seen."""
        for entry in tuple(self.inbox):
            if entry[0] is subscription and _removed(self.inbox, entry):
                if subscription.no_ack:
                    self._left_over.append(entry)
                else:
                    entry[1].requeue()

    @abstractmethod
    def _subscribe(self, channel: Any, queue: str, consumer_tag: str, no_ack: bool) -> None:
        """Start a consumer on the broker; its deliveries go to :meth:`deliver`."""

    @abstractmethod
    def _unsubscribe(self, channel: Any, consumer_tag: str) -> None:
        """End a consumer on the broker; deliveries may still arrive until it has answered."""

    def deliver(self, consumer_tag: str, message: BaseMessage) -> None:
        """The driver's reader says: the broker delivered *message* to that consumer."""
        subscription = self._subscriptions.get(consumer_tag)
        if subscription is not None:
            self.inbox.append((subscription, message))
        # Else the channel was closed meanwhile, and the broker takes the message back.

    def cancelled_by_broker(self, consumer_tag: str) -> None:
        """The driver's reader says: the broker ended that consumer. Its user is told why."""
        subscription = self._subscriptions.pop(consumer_tag, None)
        if subscription is not None:
            self._failure = ConsumerCancelled(
                f"the broker cancelled the consumer of queue {subscription.queue!r}: the queue "
                "was deleted, or its node is gone; declare() and consume again"
            )

    def take(self, consumer_tag: str) -> BaseMessage | None:
        """The next message that was delivered to that consumer and not dispatched, if any."""
        for box in (self._left_over, self.inbox):
            for entry in tuple(box):
                if entry[0].consumer_tag == consumer_tag and _removed(box, entry):
                    return entry[1]
        return None

    def dispatch(self) -> None:
        """Run the callback of the next delivery in the inbox.

        :raises Exception: what the callback raises; the message stays as the callback left it.
        """
        if self._failure is not None:
            self._raise_failure()
        try:
            subscription, message = self.inbox.popleft()
        except IndexError:
            return  # another thread was faster
        subscription.callback(message)

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`dispatch` has something to do."""
        return bool(self.inbox) or self._failure is not None

    def consume(self, limit: int | None = None) -> Iterator[bool]:
        """Dispatch deliveries, one at each step, waiting for them when there are none.

        :param limit: stop after this many; None goes on until :meth:`stop` or :meth:`close`, or
            until there is no subscription left.
        """
        return ConsumeIterator(self, limit)

    def step(self) -> bool:
        """Wait for a delivery, and run its callback.

        :returns: False after :meth:`stop` or :meth:`close`, and when no subscription is left.
        :raises ConnectionLost: the connection is gone.
        :raises Exception: what the callback raises.
        """
        while True:
            transport = self._transport
            if (
                self.inbox
                and not self._interrupted
                and self._failure is None
                and transport is not None
                and transport.is_open
            ):
                try:
                    subscription, message = self.inbox.popleft()
                except IndexError:
                    continue  # another thread was faster
                subscription.callback(message)
                return True
            if not self._wait_for_delivery():
                return False
            self._raise_failure()

    def _wait_for_delivery(self) -> bool:
        if self._transport is None or not self._transport.is_open:
            self._drop_what_will_be_redelivered()

        def ready() -> bool:
            return self._interrupted or not self._subscriptions or self.is_ready

        if self._transport is not None and not ready():
            self._transport.wait_for(ready)
        if self._interrupted:
            self._interrupted = False
            return False
        if self._consumers_are_lost and self._failure is None:
            self._consumers_are_lost = False
            raise ConnectionLost(
                "the channel that consumed was closed by the broker, or its connection replaced; "
                "consume again: unsettled messages will be redelivered"
            )
        return self.is_ready

    def _drop_what_will_be_redelivered(self) -> None:
        """The connection is gone: what could not be acked any more is not worth processing."""
        for entry in tuple(self.inbox):
            if not entry[0].no_ack:
                _removed(self.inbox, entry)

    def forget_stop(self) -> None:
        """The iteration that :meth:`stop` was to end has ended otherwise."""
        self._interrupted = False

    def stop(self) -> None:
        """End the running (or else the next) iteration of :meth:`consume` after its step.

        From any thread, a callback or a signal handler.
        """
        self._interrupted = True
        if self._transport is not None:
            self._transport.interrupt()

    def flow(self, active: bool) -> None:
        """Pause (False) or restart (True) this channel's deliveries.

        RabbitMQ has no ``channel.flow`` for clients, so pausing ends the subscriptions at the
        broker and restarting begins them again; what waits in the inbox goes back meanwhile.
        """
        channel = self.channel
        if active == (not self._paused):
            return
        if active:
            self.inbox.extend(self._left_over)
            self._left_over.clear()
        for consumer_tag, subscription in tuple(self._subscriptions.items()):
            if active:
                self._subscribe(channel, subscription.queue, consumer_tag, subscription.no_ack)
            else:
                self._unsubscribe(channel, consumer_tag)
                self._return_inbox(subscription)
        self._paused = not active

    def qos(self, prefetch_size: int, prefetch_count: int, apply_global: bool = False) -> None:
        """Limit how many messages may be delivered and not yet settled.

        :param prefetch_size: octets; 0 is no limit, and RabbitMQ knows no other.
        :param prefetch_count: messages; 0 is no limit.
        :param apply_global: False limits each consumer subscribed from now on, True all
            consumers of the channel together
            (https://www.rabbitmq.com/docs/consumer-prefetch).
        """
        if prefetch_size:
            self.require("prefetch_size", f"prefetch_size={prefetch_size!r}; use prefetch_count")
        channel = self.channel
        self._qos(channel, prefetch_count, apply_global)
        if apply_global:
            self._channel_limit = prefetch_count
        elif self._channel_limit:
            # RabbitMQ lifts the channel's limit when one for consumers is set.
            self._qos(channel, self._channel_limit, True)

    @abstractmethod
    def _qos(self, channel: Any, prefetch_count: int, apply_global: bool) -> None:
        """Set the limit on *channel*."""

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
