"""The memory driver: a broker in this process behind carrot's seam.

There is one world (a broker of its own) for each host, port and virtual host that somebody has
connected to, kept as long as the process lives.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from carrot.backends.base import (
    BaseBackend,
    BaseMessage,
    BaseTransport,
    Capabilities,
    QueueDeclared,
)
from carrot.backends.memory.delivery import Delivery
from carrot.broker.channel import Channel
from carrot.broker.connection import Connection
from carrot.broker.message import QueuedMessage
from carrot.broker.virtual_host import Outcome, VirtualHost
from carrot.exceptions import ChannelError
from carrot.message import Outgoing
from carrot.settings import ConnectionSettings, parse_url

_TAKEN = Outcome.TAKEN  # looked up once: a member of an Enum costs 0.05 µs

_worlds: dict[tuple[str, int | None, str], VirtualHost] = {}
_worlds_lock = threading.Lock()


def _hold_all() -> None:
    """Before a fork: nobody is in the middle of something that the child would inherit."""
    _worlds_lock.acquire()
    for broker in _worlds.values():
        broker.lock.acquire()


def _let_all_go() -> None:
    for broker in _worlds.values():
        broker.lock.release()
    _worlds_lock.release()


os.register_at_fork(before=_hold_all, after_in_parent=_let_all_go, after_in_child=_let_all_go)


def _world_name(settings: ConnectionSettings) -> tuple[str, int | None, str]:
    return settings.host, settings.port, settings.virtual_host


def _world(settings: ConnectionSettings) -> VirtualHost:
    """The broker of these settings, new if nobody has connected to it before."""
    name = _world_name(settings)
    with _worlds_lock:
        if name not in _worlds:
            _worlds[name] = VirtualHost(settings.virtual_host)
        return _worlds[name]


def reset(url: str = "memory://") -> None:
    """Empty the world that connections to *url* use: no queues, no exchanges but the usual ones.

    Connections to it stay open and go on; their consumers are cancelled. For tests, between two
    of them.
    """
    name = _world_name(ConnectionSettings(**parse_url(url)))
    with _worlds_lock:
        broker = _worlds.get(name)
    if broker is not None:
        broker.reset()


class Transport(BaseTransport):
    """A connection to a world."""

    default_port: ClassVar[int | None] = None
    # No property, which would cost 0.1 µs for each message that is sent, and that is received.
    is_open: bool = True

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.is_open = True
        self._connection = connection
        # One that is forgotten without close() gives back what it holds, as a socket would.
        weakref.finalize(self, connection.close)
        self.lock = connection.broker.lock

    @classmethod
    def open(cls, settings: ConnectionSettings) -> Self:
        return cls(Connection(_world(settings), settings.userid))

    def channel(self) -> Channel:
        return self._connection.channel()

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        self._connection.wait_for(ready, timeout)

    def interrupt(self) -> None:
        self._connection.wake()

    def close(self, timeout: float | None = None) -> None:
        self.is_open = False
        self._connection.close()

    def disown(self) -> None:
        """A child has a copy of the whole world, which is its own."""


class Backend(BaseBackend):
    """A channel of a world's broker."""

    transport_cls = Transport
    capabilities = Capabilities(thread_safe=True)

    # -- the channel's life

    def _open_channel(self, transport: BaseTransport) -> Any:
        return transport.channel()

    def _close_channel(self, channel: Channel) -> None:
        channel.close()

    def _forget_channel(self) -> None:
        if isinstance(self._transport, Transport):
            # Other threads put deliveries into the inbox, under this lock.
            with self._transport.lock:
                super()._forget_channel()
        else:
            super()._forget_channel()

    def _refused(self, channel: Channel) -> None:
        """The broker refused what was done with *channel*, and closed it."""
        # Another thread may have had the same answer, and opened the next channel since.
        if self._channel is channel:
            self._forget_channel()

    @contextmanager
    def _using_channel(self) -> Iterator[Channel]:
        """The channel, for an operation that the broker may refuse."""
        channel = self.channel
        try:
            yield channel
        except ChannelError:
            self._refused(channel)
            raise

    # -- topology

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        with self._using_channel() as channel:
            channel.exchange_declare(exchange, type, durable, auto_delete, arguments)

    def exchange_delete(self, exchange: str, if_unused: bool = False) -> None:
        with self._using_channel() as channel:
            channel.exchange_delete(exchange, if_unused)

    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        with self._using_channel() as channel:
            channel.exchange_bind(destination, source, routing_key, arguments)

    def exchange_unbind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        with self._using_channel() as channel:
            channel.exchange_unbind(destination, source, routing_key, arguments)

    def queue_declare(
        self,
        queue: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        warn_if_exists: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> QueueDeclared:
        if warn_if_exists and queue:
            self._warn_existing(queue)
        with self._using_channel() as channel:
            return QueueDeclared(
                *channel.queue_declare(queue, durable, exclusive, auto_delete, arguments)
            )

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        with self._using_channel() as channel:
            channel.queue_bind(queue, exchange, routing_key, arguments)

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        with self._using_channel() as channel:
            channel.queue_unbind(queue, exchange, routing_key, arguments)

    def queue_exists(self, queue: str) -> bool:
        with self._using_channel() as channel:
            return channel.queue_exists(queue)

    def queue_purge(self, queue: str) -> int:
        with self._using_channel() as channel:
            return channel.queue_purge(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        with self._using_channel() as channel:
            return channel.queue_delete(queue, if_unused, if_empty)

    # -- publishing

    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool = False
    ) -> int | None:
        channel: Channel | None = self._channel
        # What the property does; looking only for what may be wrong saves 0.4 µs.
        if channel is None or self._failure is not None or not channel.connection.is_open:
            channel = self.channel
        try:
            if type(message) is Outgoing:
                outcome = channel.publish(
                    exchange, routing_key, message.body, message.shared, message.message_id
                )
            else:
                outcome = channel.publish(exchange, routing_key, message.body, message.properties)
        except ChannelError:
            self._refused(channel)
            raise
        if outcome is _TAKEN or not self._is_confirming:
            return None
        return self._not_taken(outcome, message, exchange, routing_key, mandatory)

    def _not_taken(
        self,
        outcome: Outcome,
        message: BaseMessage,
        exchange: str,
        routing_key: str,
        mandatory: bool,
    ) -> int | None:
        """The number by which :meth:`wait_for_confirms` knows a message that no queue took."""
        if outcome is Outcome.UNROUTABLE and not mandatory:
            return None
        reason = "NO_ROUTE" if outcome is Outcome.UNROUTABLE else None
        assert isinstance(self._transport, Transport)
        with self._transport.lock:
            if self.confirms is None:
                self._raise_unconfirmed()  # another thread's mistake has closed the channel
            return self.confirms.refused(message, exchange, routing_key, reason)

    def _confirm_select(self, channel: Channel) -> None:
        """The broker says at once what became of a message, so there is nothing to ask for."""

    # -- receiving

    def get(
        self, queue: str, no_ack: bool = False, timeout: float | None = None
    ) -> BaseMessage | None:
        channel: Channel = self.channel
        try:
            delivery = channel.get(queue, no_ack)
        except ChannelError:
            self._refused(channel)
            raise
        return None if delivery is None else Delivery(self, *delivery, no_ack)

    def _subscribe(self, channel: Channel, queue: str, consumer_tag: str, no_ack: bool) -> None:
        # The broker keeps these functions, and must not keep a forgotten backend with them.
        reference = weakref.ref(self)

        def deliver(delivery_tag: int, message: QueuedMessage) -> None:
            backend = reference()
            # The channel may have been given up by now, and its messages will go back.
            if backend is not None and backend._channel is channel:
                backend.deliver(
                    consumer_tag, Delivery(backend, delivery_tag, message, no_ack, consumer_tag)
                )

        def on_cancel() -> None:
            backend = reference()
            if backend is not None and backend._channel is channel:
                backend.cancelled_by_broker(consumer_tag)

        try:
            channel.consume(queue, consumer_tag, no_ack, deliver, on_cancel)
        except ChannelError:
            self._refused(channel)
            raise

    def _unsubscribe(self, channel: Channel, consumer_tag: str) -> None:
        channel.cancel(consumer_tag)

    def _qos(self, channel: Channel, prefetch_count: int, apply_global: bool) -> None:
        channel.qos(prefetch_count, apply_global)

    # -- settling

    def ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        channel = self._channel
        if channel is None or not channel.connection.is_open:
            channel = self.delivering_channel  # raises why there is none
        try:
            channel.ack(delivery_tag, multiple)
        except ChannelError:
            self._refused(channel)
            raise

    def reject(self, delivery_tag: Any) -> None:
        self._reject(delivery_tag, requeue=False)

    def requeue(self, delivery_tag: Any) -> None:
        self._reject(delivery_tag, requeue=True)

    def _reject(self, delivery_tag: Any, requeue: bool) -> None:
        channel = self.delivering_channel
        try:
            channel.reject(delivery_tag, requeue)
        except ChannelError:
            self._refused(channel)
            raise
