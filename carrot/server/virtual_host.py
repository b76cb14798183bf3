"""ServedVirtualHost: a virtual host for clients over a network, with a journal.

It differs from the memory driver's in two ways: a consumer whose client is slow gets nothing more
for a while, and a journal is told of everything durable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from carrot.broker.channel import Channel
from carrot.broker.connection import Connection
from carrot.broker.consumer import Consumer
from carrot.broker.exchange import Binding, Destination, Exchange
from carrot.broker.message import QueuedMessage
from carrot.broker.queue import Queue
from carrot.broker.virtual_host import Client, VirtualHost
from carrot.server.journal import Journal

#: AMQP's delivery mode of a persistent message.
PERSISTENT = 2


class RemoteConsumer(Consumer):
    """A consumer of a client that may be slow."""

    connection: RemoteConnection

    def has_credit(self) -> bool:
        return not self.connection.is_full and super().has_credit()

    def receive(self, message: QueuedMessage) -> None:
        super().receive(message)
        if self.no_ack:
            self.connection.broker.journal.remove(message)


class RemoteChannel(Channel):
    """A channel that tells the journal which messages have left for good."""

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
        unacked = self.unacked.messages
        tags = self.unacked.up_to(delivery_tag) if multiple else (delivery_tag,)
        messages = [unacked[tag] for tag in tags if tag in unacked]
        super().ack(delivery_tag, multiple)
        for message in messages:
            self.journal.remove(message)

    def resume(self) -> None:
        """Serve its consumers again: the client is not slow any more."""
        with self._broker.lock:
            self.unacked.serve_blocked()


class RemoteConnection(Connection):
    """A connection of a client that may be slow.

    :ivar is_full: too many bytes wait to be sent to the client: it gets no more deliveries.
    """

    channel_cls = RemoteChannel
    broker: ServedVirtualHost

    def __init__(self, broker: ServedVirtualHost, user: str) -> None:
        super().__init__(broker, user)
        self.is_full = False


class KeptQueue(Queue):
    """A queue that tells the journal of its persistent messages."""

    broker: ServedVirtualHost

    def publish(self, message: QueuedMessage) -> bool:
        if not self.durable or message.properties.get("delivery_mode") != PERSISTENT:
            return super().publish(message)
        journal = self.broker.journal
        # Before publishing: a consumer without acks may take it at once.
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
    """One virtual host of a served broker.

    :param journal: is told of everything durable.
    """

    queue_cls: ClassVar[type[Queue]] = KeptQueue

    def __init__(self, name: str, journal: Journal) -> None:
        self.journal = journal
        super().__init__(name)

    @property
    def is_empty(self) -> bool:
        """Whether it is as good as a new one."""
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
            self.journal.exchange_declared(self.name, self.exchanges[name])

    def _take_out(self, exchange: Exchange) -> Collection[Binding]:
        if exchange.name in self.exchanges:
            self.journal.exchange_removed(self.name, exchange)
        return super()._take_out(exchange)

    # -- bindings

    def _bind(
        self,
        source: Exchange,
        destination: Destination,
        routing_key: str,
        arguments: Mapping[str, Any],
    ) -> None:
        super()._bind(source, destination, routing_key, arguments)
        # Not the default exchange's bindings: every queue gets one when it is made.
        if source.durable and destination.durable and source.name:
            binding = source.binding(destination, routing_key, arguments)
            self.journal.bound(self.name, binding, arguments)

    def _end_binding(self, binding: Binding) -> bool:
        self.journal.unbound(binding)
        return super()._end_binding(binding)

    # -- queues

    def add_queue(
        self,
        name: str,
        durable: bool,
        owner: Client | None,
        auto_delete: bool,
        arguments: Mapping[str, Any],
    ) -> Queue:
        queue = super().add_queue(name, durable, owner, auto_delete, arguments)
        if durable:
            self.journal.queue_declared(self.name, queue)
        return queue

    def remove_queue(self, queue: Queue) -> None:
        super().remove_queue(queue)
        self.journal.queue_removed(queue)

    # -- messages

    def dead_letter(self, message: QueuedMessage, reason: str) -> None:
        super().dead_letter(message, reason)
        self.journal.remove(message)
