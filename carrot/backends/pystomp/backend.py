"""Backend: a channel on ActiveMQ behind the seam."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from carrot.backends.base import (
    BaseMessage,
    BaseTransport,
    Capabilities,
    ConnectionLike,
    QueueDeclared,
)
from carrot.backends.pystomp import names
from carrot.backends.pystomp.channel import Channel
from carrot.backends.pystomp.declared import Binding, Declared, Exchange, Queue
from carrot.backends.pystomp.delivery import Delivery
from carrot.backends.pystomp.encoder import Encoder
from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.transport import Transport
from carrot.backends.stream_backend import StreamBackend
from carrot.checks import entity_name, required_name, short_string, table
from carrot.deadline import wait_to_hold
from carrot.exceptions import CarrotError, ChannelError, ConnectionLost, NotSupported
from carrot.routing import check_exchange_type

Arguments = Mapping[str, Any] | None

# Arguments of queues and exchanges, to the capability that they ask for.
_ASKS_FOR = {
    "x-dead-letter-exchange": "dead_letters",
    "x-dead-letter-routing-key": "dead_letters",
    "x-max-length": "max_length",
    "x-max-length-bytes": "max_length",
    "x-overflow": "max_length",
    "alternate-exchange": "alternate_exchange",
}


class Backend(StreamBackend):
    """What ActiveMQ can do over STOMP; docs/guides/activemq.rst says how and what not."""

    transport_cls = Transport
    capabilities = Capabilities(
        mandatory=False,
        dead_letters=False,
        max_length=False,
        headers_exchange=False,
        exchange_bindings=False,
        alternate_exchange=False,
        thread_safe=True,
        arguments=False,
        deletion=False,
        auto_delete=False,
        global_prefetch=False,
        inspection=False,
        overlapping_bindings=False,
        requeue_in_place=False,
        topic_patterns=False,
    )
    Message = Delivery

    def __init__(self, connection: ConnectionLike) -> None:
        super().__init__(connection)
        self._encoder = Encoder()

    def renew_locks(self) -> None:
        super().renew_locks()
        # A channel does one thing at a time.
        self._publishing = self.changing

    # -- the channel's life

    def _open_channel(self, transport: BaseTransport) -> Channel:
        assert isinstance(transport, Transport)
        channel = transport.channel()
        channel.listen(self)
        transport.declared.attach(self)
        return channel

    def _close_channel(self, channel: Channel) -> None:
        with suppress(CarrotError):
            channel.close()

    @property
    def _declared(self) -> Declared:
        """What this process has declared at the broker, connected if need be."""
        self.channel  # noqa: B018  # opens one
        assert isinstance(self._transport, Transport)
        return self._transport.declared

    # -- topology

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool,
        auto_delete: bool,
        arguments: Arguments = None,
    ) -> None:
        name = entity_name("exchange", exchange)
        if check_exchange_type(type) == "headers":
            self.require("headers_exchange", f"declare {name!r} with another type")
        elif type.startswith("x-"):
            raise NotSupported(f"the pystomp driver has no exchanges of type {type!r}")
        if auto_delete:
            self.require("auto_delete", f"declare exchange {name!r} without auto_delete")
        _refuse(arguments)
        if not name:
            return
        _check_reserved("exchange", name)
        self._declared.declare_exchange(name, Exchange(type, bool(durable)))

    def exchange_delete(self, exchange: str, if_unused: bool = False) -> None:
        _check_not_default(exchange)
        self.require("deletion", f"exchange {exchange!r} stays as long as queues are bound to it")

    def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        self.require("exchange_bindings", f"bind a queue to {source!r} instead of {destination!r}")

    def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        self.exchange_bind(destination, source, routing_key, arguments)

    def queue_declare(
        self,
        queue: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        warn_if_exists: bool = False,
        arguments: Arguments = None,
    ) -> QueueDeclared:
        name = entity_name("queue", queue)
        if auto_delete and not exclusive:
            self.require("auto_delete", f"declare queue {name!r} without auto_delete")
        if warn_if_exists:
            self.require("inspection", f"declare queue {name!r} without warn_if_exists")
        _refuse(arguments)
        if name:
            _check_reserved("queue", name)
        name = name or f"amq.gen-{secrets.token_urlsafe(16)}"
        declared = self._declared.declare_queue(
            name, bool(durable), self._channel if exclusive else None
        )
        if exclusive:
            with self.changing:
                self._channel.declare_private(name)
        # How many there are, ActiveMQ doesn't tell over STOMP.
        return QueueDeclared(declared.name, UNKNOWN, UNKNOWN)

    def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        key = short_string("routing key", routing_key)
        table("arguments", arguments or {})
        declared = self._declared
        bound = declared.queue(entity_name("queue", queue))
        _check_not_default(exchange)
        if exchange in ("amq.headers", "amq.match"):
            self.require("headers_exchange", f"bind {queue!r} to an exchange of another type")
        source = declared.exchange(entity_name("exchange", exchange))
        binding = Binding(exchange, names.pattern(source.type, key))
        declared.check_owner(bound, self._channel)
        declared.bind(bound, binding)
        if bound.owner is not None:
            topics = names.topics_destination(exchange, binding.pattern)
            self._channel.bind_private(queue, topics)
            return
        # Also when it is not: the broker may have lost it, with its data.
        self.channel.establish(queue, bound.bound_to(binding))
        for backend in declared.backends:
            backend.follow(bound, binding)

    def follow(self, queue: Queue, binding: Binding) -> None:
        """Let those who consume from *queue* already get what it is bound to from now on."""
        # Without the lock: whoever binds holds its own, and may be waited for by this one's owner.
        channel: Channel | None = self._channel
        if channel is not None:
            for tag, subscription in tuple(self._subscriptions.items()):
                if subscription.queue == queue.name:
                    # One whose connection is lost gets it when it subscribes again.
                    with suppress(CarrotError):
                        channel.extend(tag, queue.name, queue.bound_to(binding))

    def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        _check_not_default(exchange)
        self.require(
            "deletion",
            f"an administrator can delete the queue that binds {queue!r} to {exchange!r}",
        )

    def queue_exists(self, queue: str) -> bool:
        self.require("inspection", f"declare queue {queue!r}, which does no harm")
        return False

    def queue_purge(self, queue: str) -> int:
        declared = self._usable_queue(queue)
        with self.changing:
            channel: Channel = self.channel
            if declared.owner is not None:
                return channel.purge_private(queue)
            return channel.purge(queue, declared.destinations)

    def _usable_queue(self, queue: str) -> Queue:
        """A queue that was declared here, and is nobody else's.

        :raises NotFound: it wasn't.
        :raises ResourceLocked: it is.
        """
        declared = self._declared
        found = declared.queue(required_name("queue", queue))
        declared.check_owner(found, self._channel)
        return found

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        self.require("deletion", f"purge queue {queue!r}; an administrator can delete it")
        return 0

    # -- publishing

    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool = False
    ) -> int | None:
        if mandatory:
            self.require("mandatory", "publish without mandatory")
        head = self._encoder.head(message, exchange, routing_key, self._private_destination)
        body = message.body
        # The broker answers in the order of what is written.
        with self._publishing:
            channel, confirms = self._channel, self.confirms
            if (
                channel is None
                or not channel.is_open
                or self._failure is not None
                or channel is not self._channel
            ):
                channel, confirms = self._channel_and_books()
            number = None
            if confirms is None:
                channel.look()
                tail = b"content-length:%d\n\n" % len(body)
            else:
                number = confirms.publish(message, exchange, routing_key)
                tail = b"content-length:%d\nreceipt:p%b-%d\n\n" % (
                    len(body), channel.number.encode(), number - confirms.first + 1,
                )  # fmt: skip
            channel.publish(
                b"".join((head, tail, body, b"\0")), self._batching and self._keeps_back
            )
            return number

    def _private_destination(self, queue: str) -> str | None:
        """The destination of an exclusive queue, by its name; None: it is none.

        :raises ResourceLocked: it is another connection's: that is reached by a ``reply_to`` only.
        """
        transport = self._transport
        if not isinstance(transport, Transport):
            return None
        found = transport.declared.find_queue(queue)
        if found is None or found.owner is None:
            return None
        owner = found.owner()
        if owner is None or not transport.has(owner):
            transport.declared.check_owner(found, None)
        return names.temporary_destination(queue)

    def _confirm_select(self, channel: Channel) -> None:
        """Nothing to do: each message asks for its receipt."""

    # -- what comes in; called by whichever thread is reading

    def on_delivery(self, tag: int, frame: Frame, consumer_tag: str) -> None:
        # First: when the channel is replaced meanwhile, its subscriptions go before its number.
        generation = self.generation
        subscription = self._subscriptions.get(consumer_tag)
        # None: it has ended here meanwhile, and the broker takes the message back.
        if subscription is not None:
            delivery = Delivery(self, generation, tag, frame, consumer_tag, subscription.no_ack)
            self.inbox.append((subscription, delivery))

    def on_refusal(self, channel: Channel, error: ChannelError) -> None:
        # Of one that was replaced nobody needs to be told.
        if channel is self._channel and self._transport is not None:
            self._transport.abandon(channel)
            self.fail(error)

    # -- receiving

    def get(
        self, queue: str, no_ack: bool = False, timeout: float | None = None
    ) -> BaseMessage | None:
        declared = self._usable_queue(queue)
        with self.changing:
            channel: Channel = self.channel
            if declared.owner is not None:
                taken = channel.get_private(queue, timeout)
            else:
                taken = channel.get(queue, declared.destinations, timeout)
            if taken is None:
                return None
            tag, frame = taken
            if no_ack:
                channel.ack(tag, multiple=False)
        return Delivery(self, self.generation, tag, frame, None, no_ack)

    def _subscribe(self, channel: Channel, queue: str, consumer_tag: str, no_ack: bool) -> None:
        declared = self._usable_queue(queue)
        channel.subscribe(queue, declared.destinations, consumer_tag, no_ack)

    def _unsubscribe(self, channel: Channel, consumer_tag: str) -> None:
        # What other threads settle now would be a delivery that the broker takes back.
        wait_to_hold(self.settling, "settling")
        with self.settling:
            channel.pause(consumer_tag)
            unseen = []
            for entry in tuple(self.inbox):
                subscription, message = entry
                if subscription.consumer_tag == consumer_tag and not subscription.no_ack:
                    with suppress(ValueError):  # another thread was faster
                        self.inbox.remove(entry)
                        unseen.append(message.delivery_tag)
            with suppress(ConnectionLost):  # then it has ended all the same
                channel.unsubscribe(consumer_tag, unseen)

    def _qos(self, channel: Channel, prefetch_count: int, apply_global: bool) -> None:
        if apply_global:
            self.require("global_prefetch", "limit each consumer, without apply_global")
        channel.prefetch_count = prefetch_count

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self.delivering_channel.ack(delivery_tag, multiple)

    def reject(self, delivery_tag: int) -> None:
        self.delivering_channel.reject(delivery_tag)

    def requeue(self, delivery_tag: int) -> None:
        channel: Channel = self.delivering_channel
        channel.requeue(delivery_tag)


#: What a number is that the broker doesn't tell.
UNKNOWN = -1


def _refuse(arguments: Arguments) -> None:
    """Say no to what this driver doesn't do, instead of doing without it."""
    for name in table("arguments", arguments or {}):
        Backend.require(_ASKS_FOR.get(name, "arguments"), f"declare without {name}")


def _check_reserved(kind: str, name: str) -> None:
    if name.startswith("amq."):
        raise ChannelError.from_reply(
            403, f"ACCESS_REFUSED - {kind} name '{name}' contains reserved prefix 'amq.*'"
        )


def _check_not_default(exchange: str) -> None:
    if not exchange:
        raise ChannelError.from_reply(
            403, "ACCESS_REFUSED - operation not permitted on the default exchange"
        )
