"""The memory driver's broker, as clients over a network and a journal need it.

Two things are different: a consumer whose client is slow gets nothing more for a while, and a
journal is told of everything durable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from carrot.broker.channel import Channel, Consumer
from carrot.broker.connection import Connection
from carrot.broker.exchange import Binding, Exchange
from carrot.broker.message import QueuedMessage
from carrot.broker.queue import Queue
from carrot.broker.virtual_host import VirtualHost
from carrot.server.journal import Journal

#: AMQP's delivery mode of a message that is to be kept.
PERSISTENT = 2


class RemoteConsumer(Consumer):
    """A consumer of a client that may be slow."""

    channel: RemoteChannel

    def has_credit(self) -> bool:
        return not self.channel.connection.is_full and super().has_credit()

    def receive(self, message: QueuedMessage) -> None:
        super().receive(message)
        if self.no_ack:
            self.channel.journal.remove(message)


class RemoteChannel(Channel):
    """A channel that tells the journal which messages have gone."""

    consumer_cls = RemoteConsumer
    connection: RemoteConnection

    @property
    def journal(self) -> Journal:
        return self.connection.broker.journal

    def get(self, queue: str, no_ack: bool = False) -> tuple[int, QueuedMessage] | None:
        got = super().get(queue, no_ack)
        if got is not None and no_ack:
            self.journal.remove(got[1])
        return got

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        if not multiple:
            message = self.unacked.get(delivery_tag)
            super().ack(delivery_tag)
            if message is not None:
                self.journal.remove(message)
            return
        held = dict(self.unacked)
        super().ack(delivery_tag, multiple)
        for tag in held.keys() - self.unacked.keys():
            self.journal.remove(held[tag])

    def resume(self) -> None:
        """The client is not slow any more."""
        with self._broker.lock:
            self._unblock()


class RemoteConnection(Connection):
    """A client's.

    :ivar is_full: so much waits to be sent to the client that it gets no more deliveries.
    """

    channel_cls = RemoteChannel
    broker: ServedVirtualHost

    def __init__(self, broker: ServedVirtualHost, user: str) -> None:
        super().__init__(broker, user)
        self.is_full = False


class KeptQueue(Queue):
    """A queue that tells the journal what comes into it."""

    broker: ServedVirtualHost

    def publish(self, message: QueuedMessage) -> bool:
        if not self.durable or message.properties.get("delivery_mode") != PERSISTENT:
            return super().publish(message)
        journal = self.broker.journal
        # First: a consumer may take it at once, and need no ack.
        journal.add(self, message)
        taken = super().publish(message)
        if not taken:
            journal.remove(message)
        return taken

    def purge(self) -> int:
        purged = 0
        while self.ready.size:
            self.broker.journal.remove(self.ready.pop())
            purged += 1
        return purged


class ServedVirtualHost(VirtualHost):
    """One virtual host of the broker.

    :param journal: who is told of everything durable.
    """

    queue_cls: ClassVar[type[Queue]] = KeptQueue

    def __init__(self, virtual_host: str, journal: Journal) -> None:
        self.journal = journal
        super().__init__(virtual_host)

    @property
    def is_empty(self) -> bool:
        """Whether nobody would notice if it were made anew."""
        return not (
            self.connections
            or self.queues
            or any(
                exchange.outgoing or not name.startswith("amq.")
                for name, exchange in self.exchanges.items()
                if name
            )
        )

    # -- exchanges

    def declare_exchange(
        self, name: str, type: str, durable: bool, auto_delete: bool, arguments: Mapping[str, Any]
    ) -> None:
        is_new = name not in self.exchanges
        super().declare_exchange(name, type, durable, auto_delete, arguments)
        if is_new and durable:
            self.journal.exchange_declared(self.virtual_host, self.exchanges[name])

    def _remove_exchange(self, exchange: Exchange) -> None:
        super()._remove_exchange(exchange)
        self.journal.exchange_removed(self.virtual_host, exchange)

    # -- bindings

    def _bind(
        self,
        source: Exchange,
        destination: Exchange | Queue,
        routing_key: str,
        arguments: Mapping[str, Any],
    ) -> None:
        super()._bind(source, destination, routing_key, arguments)
        # Every queue is bound to the default exchange, as soon as it is there.
        if source.durable and destination.durable and source.name:
            binding = source.binding(destination, routing_key, arguments)
            self.journal.bound(self.virtual_host, binding, arguments)

    def _unbind(self, binding: Binding) -> None:
        super()._unbind(binding)
        self.journal.unbound(binding)

    # -- queues

    def add_queue(
        self,
        name: str,
        durable: bool,
        owner: Connection | None,
        auto_delete: bool,
        arguments: Mapping[str, Any],
    ) -> Queue:
        queue = super().add_queue(name, durable, owner, auto_delete, arguments)
        if durable:
            self.journal.queue_declared(queue)
        return queue

    def remove_queue(self, queue: Queue) -> None:
        super().remove_queue(queue)
        self.journal.queue_removed(queue)

    # -- messages

    def dead_letter(self, message: QueuedMessage, reason: str) -> None:
        super().dead_letter(message, reason)
        self.journal.remove(message)
