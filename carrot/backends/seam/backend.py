"""Backend: a channel that outlives its connection, as the layers above hold it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

from carrot.backends.base import (
    BaseChannel,
    BaseMessage,
    Binding,
    Capabilities,
    Connector,
    Exchange,
    Queue,
    QueueDeclared,
)
from carrot.backends.seam.consumers import Consumers
from carrot.backends.seam.life import Life
from carrot.backends.seam.lives import ConnectionLike, Lives
from carrot.backends.seam.stop_flag import StopFlag
from carrot.backends.seam.subscriptions import DeliveryCallback
from carrot.backends.seam.topology import warn_existing
from carrot.checks import check_prefetch_count, table
from carrot.exceptions import (
    BrokerRefused,
    ChannelError,
    ConnectionFailed,
    ConnectionLost,
    NotSupported,
)
from carrot.message import Outgoing, Properties
from carrot.routing import check_exchange_type

Arguments = Mapping[str, Any] | None


class Published(NamedTuple):
    """A message on its way: the life it went out on, and its number there."""

    life: Life
    number: int


class Backend:
    """A channel of a broker, opened at its first use and again after it was closed or lost.

    It has parts, and is none of them.

    :cvar connector: opens the driver's connections: its transport class, or an object of its own.
    :cvar capabilities: what the driver can do.
    :ivar lives: opens the current life, and replaces it whole.
    :ivar consumers: those that are subscribed, and those that somebody waits for.
    :ivar stop_flag: which loops are told to stop.
    """

    connector: ClassVar[Connector]
    capabilities: ClassVar[Capabilities]
    Message: ClassVar[type[BaseMessage]] = BaseMessage

    connection_errors: ClassVar[tuple[type[Exception], ...]] = (ConnectionFailed, ConnectionLost)
    channel_errors: ClassVar[tuple[type[Exception], ...]] = (ChannelError, BrokerRefused)

    def __init__(self, connection: ConnectionLike) -> None:
        self.connection = connection
        self.stop_flag = StopFlag()
        self.lives = Lives(connection, self.require)
        self.consumers = Consumers(self.lives, self.stop_flag)

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

    # -- the current life

    @property
    def life(self) -> Life | None:
        """The current life; None before the first use, and after :meth:`close`."""
        return self.lives.current

    @property
    def is_open(self) -> bool:
        """Whether there is a channel now; the next use opens one."""
        life = self.lives.current
        return life is not None and life.is_open

    @property
    def channel(self) -> BaseChannel:
        """The driver's channel, open.

        :raises ChannelError: or BrokerRefused: why the broker closed the last one, once.
        :raises ConnectionFailed: there is no connection, and none can be made.
        """
        return self.lives.live().channel

    def close(self) -> None:
        """Close the channel; what was delivered and not settled goes back. Again is harmless."""
        self.consumers.end_unacked()
        self.consumers.forget_all()
        self.lives.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def default_port(self) -> int | None:
        """The port when the settings name none; None where there are no ports."""
        return self.connector.default_port

    # -- topology

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool,
        auto_delete: bool,
        arguments: Arguments = None,
    ) -> None:
        """Create an exchange, or check that the one of that name is the same.

        :param type: direct, fanout, topic, headers, or a type that the broker adds (``x-…``).
        :raises PreconditionFailed: it exists and is different.
        """
        entity = Exchange(
            exchange, check_exchange_type(type), durable, auto_delete, _copied(arguments)
        )
        with self.lives.live().used() as channel:
            self.lives.topology.declare(channel, entity)

    def exchange_delete(self, exchange: str, if_unused: bool = False) -> None:
        """Delete an exchange; one that isn't there is no error.

        :raises PreconditionFailed: it has bindings, with *if_unused*.
        """
        with self.lives.live().used() as channel:
            channel.delete_exchange(exchange, if_unused)
        self.lives.topology.forget("exchange", exchange)

    def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Let what *source* routes by that key go on to the exchange *destination*."""
        binding = Binding(destination, source, routing_key, _copied(arguments), to_exchange=True)
        with self.lives.live().used() as channel:
            self.lives.topology.bind(channel, binding)

    def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Undo :meth:`exchange_bind`; a binding that isn't there is no error."""
        binding = Binding(destination, source, routing_key, _copied(arguments), to_exchange=True)
        with self.lives.live().used() as channel:
            self.lives.topology.unbind(channel, binding)

    def queue_declare(
        self,
        queue: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        warn_if_exists: bool = False,
        arguments: Arguments = None,
    ) -> QueueDeclared:
        """Create a queue, or check that the one of that name is the same.

        :param queue: the name; with ``""`` the broker makes one up and returns it.
        :param warn_if_exists: warn with QueueAlreadyExistsWarning when it is there already.
        :raises PreconditionFailed: it exists and is different.
        :raises ResourceLocked: it is exclusive to another connection.
        """
        if warn_if_exists and queue and self.queue_exists(queue):
            warn_existing(queue)
        entity = Queue(queue, durable, exclusive, auto_delete, _copied(arguments))
        with self.lives.live().used() as channel:
            declared = self.lives.topology.declare(channel, entity)
        assert declared is not None
        return declared

    def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Let what *exchange* routes by that key (or those headers) arrive in *queue*.

        :raises NotFound: no such queue, or no such exchange.
        """
        binding = Binding(queue, exchange, routing_key, _copied(arguments))
        with self.lives.live().used() as channel:
            self.lives.topology.bind(channel, binding)

    def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Undo :meth:`queue_bind`; a binding that isn't there is no error."""
        binding = Binding(queue, exchange, routing_key, _copied(arguments))
        with self.lives.live().used() as channel:
            self.lives.topology.unbind(channel, binding)

    def queue_exists(self, queue: str) -> bool:
        """Whether there is a queue of that name; this channel stays as it is."""
        transport = self.connection.connection
        # The broker closes the channel that asks for what isn't there.
        channel = transport.channel()
        try:
            channel.inspect(queue)
        except ChannelError as exc:
            if exc.code not in (404, 405):
                raise
            # Exclusive to another connection (405), it exists all the same.
            return exc.code == 405
        finally:
            if transport.is_open:
                channel.close()
        return True

    def queue_purge(self, queue: str) -> int:
        """Discard the queue's ready messages, and say how many they were.

        :raises NotFound: no such queue.
        """
        with self.lives.live().used() as channel:
            return channel.purge(queue)

    purge = queue_purge

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue, and say how many messages went with it; none there is no error.

        :raises PreconditionFailed: in use, with *if_unused*; not empty, with *if_empty*.
        """
        with self.lives.live().used() as channel:
            deleted = channel.delete_queue(queue, if_unused, if_empty)
        self.lives.topology.forget("queue", queue)
        return deleted

    # -- publishing

    def prepare_message(
        self, message_data: bytes, delivery_mode: int, **properties: Any
    ) -> BaseMessage:
        """A message to :meth:`publish`; properties that are None are left out.

        :raises EncodeError: the headers can't be sent; names the key.
        """
        given = {name: value for name, value in properties.items() if value is not None}
        if "headers" in given:
            given["headers"] = table("headers", given["headers"])
        return Outgoing(message_data, Properties(given, delivery_mode=delivery_mode))

    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool = False
    ) -> Published | None:
        """Hand *message* to the broker.

        :returns: what :meth:`wait_for_confirms` takes, after :meth:`confirm_select`; None: there
            is nothing to wait for.
        :raises ConnectionLost: the broker may or may not have it.
        """
        life = self.lives.live()
        number = life.publish(message, exchange, routing_key, mandatory)
        return None if number is None else Published(life, number)

    def confirm_select(self) -> Life:
        """From now on the broker confirms each message that this channel publishes."""
        self.require("confirms", "publish with confirm=False")
        return self.lives.select_confirms()

    def wait_for_confirms(
        self, published: Collection[Published], timeout: float | None = None
    ) -> None:
        """Wait until the broker has said of all these messages whether it took them.

        :param published: as :meth:`publish` returned them.
        :param timeout: seconds; None waits as long as it takes.
        :raises PublishError: Unroutable or Nacked, with the messages it didn't take.
        :raises OperationTimeout: no word in time; whether the broker has them is not known.
        :raises ConnectionLost: the channel they went out on is gone; the same holds.
        """
        for life in {one.life for one in published}:
            numbers = [one.number for one in published if one.life is life]
            life.wait_for_confirms(numbers, timeout)

    # -- receiving

    def get(
        self, queue: str, no_ack: bool = False, timeout: float | None = None
    ) -> BaseMessage | None:
        """Take the next message from *queue*, or None when it is empty.

        :param no_ack: the broker forgets the message as it delivers it.
        :param timeout: seconds for the broker's answer, where the driver can tell; None:
            ``operation_timeout``.
        :raises NotFound: no such queue; the channel reopens by itself.
        :raises ConnectionLost: the connection dropped; safe to retry.
        """
        life = self.lives.live()
        with life.used() as channel:
            message = channel.get(queue, no_ack, timeout)
        if message is not None:
            life.note(message)
        return message

    def declare_consumer(
        self,
        queue: str,
        no_ack: bool,
        callback: DeliveryCallback,
        consumer_tag: str,
        nowait: bool = False,
    ) -> None:
        """Subscribe to *queue*: what it delivers is handed to *callback*.

        :param nowait: accepted for old programs; the broker's answer is always awaited, so that
            a missing queue is told here.
        :raises NotFound: no such queue.
        """
        self.consumers.subscribe(queue, no_ack, callback, consumer_tag)

    def cancel(self, consumer_tag: str) -> None:
        """End a subscription; what it received and nobody has seen goes back to the queue.

        A tag that isn't subscribed is no error. Messages delivered with no_ack can't go back:
        they stay for whoever subscribes with that tag, or fetches, next.
        """
        self.consumers.cancel(consumer_tag)

    def consume(self, limit: int | None = None) -> Iterator[bool]:
        """Dispatch deliveries, one at each step, waiting for them when there are none.

        :param limit: stop after this many; None goes on until :meth:`stop` or :meth:`close`, or
            until there is no subscription left.
        :raises ConnectionLost: and ChannelError, ConsumerCancelled: why a subscription has ended.
        """
        stops, count = self.stop_flag.heeded, 0
        while limit is None or count < limit:
            entry = self.consumers.next_delivery(stops)
            if entry is None:
                return
            entry[0].callback(entry[1])
            count += 1
            yield True
        self.stop_flag.heed()

    def stop(self) -> None:
        """End the running loops of all threads (or else the next) after their message.

        From any thread, a callback or a signal handler.
        """
        self.stop_flag.ask()
        if (life := self.life) is not None:
            life.transport.interrupt()

    def flow(self, active: bool) -> None:
        """Pause (False) or restart (True) this channel's deliveries.

        RabbitMQ has no ``channel.flow`` for clients, so pausing ends the subscriptions at the
        broker and restarting begins them again; what waits in the inbox goes back meanwhile.
        """
        self.consumers.flow(active)

    def qos(self, prefetch_size: int, prefetch_count: int, apply_global: bool = False) -> None:
        """Limit how many messages may be delivered and not yet settled.

        :param prefetch_size: bytes; 0 is no limit, and RabbitMQ knows no other.
        :param prefetch_count: messages; 0 is no limit.
        :param apply_global: False limits each consumer subscribed from now on, True all
            consumers of the channel together
            (https://www.rabbitmq.com/docs/consumer-prefetch).
        """
        if prefetch_size:
            self.require("prefetch_size", f"prefetch_size={prefetch_size!r}; use prefetch_count")
        if apply_global:
            self.require("global_prefetch", "limit each consumer, without apply_global")
        check_prefetch_count(prefetch_count)
        self.lives.qos(prefetch_count, apply_global)

    # -- settling, by delivery tag; a message settles itself

    def ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """The message is done with; *multiple*: and all that this channel got before it."""
        with self.lives.delivering().used() as channel:
            channel.ack(delivery_tag, multiple)

    def reject(self, delivery_tag: Any) -> None:
        """Discard the message, or dead-letter it."""
        with self.lives.delivering().used() as channel:
            channel.reject(delivery_tag, False)

    def requeue(self, delivery_tag: Any) -> None:
        """Put the message back where it was in its queue."""
        with self.lives.delivering().used() as channel:
            channel.reject(delivery_tag, True)


def _copied(arguments: Arguments) -> Arguments:
    """What the caller may go on changing."""
    return dict(arguments) if isinstance(arguments, Mapping) else arguments
