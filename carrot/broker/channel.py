"""A channel: the operations of AMQP, its consumers, and what it has delivered and not seen settled.

AMQP 0-9-1, section 1.8 (the classes exchange, queue and basic).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from carrot.broker.message import QueuedMessage
from carrot.broker.queue import Queue
from carrot.broker.replies import (
    channel_closed,
    not_allowed,
    not_found,
    precondition_failed,
)
from carrot.broker.virtual_host import Outcome, VirtualHost
from carrot.checks import entity_name, required_name, short_string, table
from carrot.exceptions import ChannelError

if TYPE_CHECKING:
    from carrot.broker.connection import Connection

Arguments = Mapping[str, Any] | None

#: Takes a delivery's tag and its message, under the broker's lock: it stores them and returns.
Deliver = Callable[[int, QueuedMessage], object]


class Consumer:
    """A subscription of a channel to a queue.

    :ivar prefetch: how many messages it may hold unacked; 0 is no limit.
    :ivar unacked: how many it holds.
    """

    def __init__(
        self,
        channel: Channel,
        queue: Queue,
        tag: str,
        no_ack: bool,
        deliver: Deliver,
        on_cancel: Callable[[], object],
    ) -> None:
        self.channel = channel
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.prefetch = 0 if no_ack else channel.consumer_prefetch
        self.unacked = 0
        self._deliver = deliver
        self._on_cancel = on_cancel

    def has_credit(self) -> bool:
        """Whether it may get another message."""
        channel = self.channel
        return (not self.prefetch or self.unacked < self.prefetch) and (
            not channel.prefetch or channel.unacked_by_consumers < channel.prefetch
        )

    def receive(self, message: QueuedMessage) -> None:
        """The queue delivers *message*."""
        channel = self.channel
        channel.last_tag = delivery_tag = channel.last_tag + 1
        if not self.no_ack:
            message.consumer = self
            channel.unacked[delivery_tag] = message
            self.unacked += 1
            channel.unacked_by_consumers += 1
        self._deliver(delivery_tag, message)
        if channel.connection.waiting:
            channel.connection.wake()

    def end(self) -> None:
        """Its queue was deleted: the channel forgets it and is told (basic.cancel).

        https://www.rabbitmq.com/docs/consumer-cancel
        """
        self.channel.forget(self)
        self._on_cancel()
        self.channel.connection.wake()


class Channel:
    """A channel of a connection; the broker's lock guards it.

    An operation that the broker refuses raises a ChannelError and closes the channel, as in AMQP:
    what it had not acked goes back, and its consumers end.

    :cvar consumer_cls: what its consumers are.
    :ivar unacked: messages by delivery tag, in the order of their delivery.
    :ivar blocked: consumers that are out of their queue's line, for want of credit.
    :ivar prefetch: how many messages its consumers together may hold unacked; 0 is no limit.
    :ivar consumer_prefetch: the same for each consumer that begins from now on.
    """

    consumer_cls: ClassVar[type[Consumer]] = Consumer

    def __init__(self, connection: Connection, broker: VirtualHost) -> None:
        self.connection = connection
        self.is_open = True
        self.last_tag = 0
        self.unacked: dict[int, QueuedMessage] = {}
        self.unacked_by_consumers = 0
        self.consumers: dict[str, Consumer] = {}
        self.blocked: dict[Consumer, None] = {}
        self.prefetch = 0
        self.consumer_prefetch = 0
        self._broker = broker
        self._last_queue = ""
        # Most messages share their properties with the one before: looking once saves 0.1 µs.
        self._plain: Mapping[str, Any] | None = None

    @contextmanager
    def _operation(self) -> Iterator[VirtualHost]:
        """One operation: under the lock, when all that is due has happened."""
        with self._broker.lock:
            self._begin()
            try:
                yield self._broker
            except ChannelError:
                self.shut()
                raise

    def _begin(self) -> None:
        """Refuse what comes too late, and let happen what is due."""
        if not self.is_open:
            self.connection.check_open()
            raise channel_closed()
        if self._broker.timers.pending:
            self._broker.timers.run()

    def close(self) -> None:
        """Close the channel: what it had not acked goes back. Again is harmless."""
        with self._broker.lock:
            self.shut()

    def shut(self) -> None:
        """The same, under the lock."""
        self.end_consumers()
        self.give_back()

    def end_consumers(self) -> None:
        """The first half of closing: nothing is delivered any more."""
        self.is_open = False
        for consumer in tuple(self.consumers.values()):
            self._remove(consumer)

    def give_back(self) -> None:
        """The second half: each queue gets its messages back, all at once to keep their order."""
        by_queue: dict[Queue, list[QueuedMessage]] = {}
        for message in self.unacked.values():
            by_queue.setdefault(message.queue, []).append(message)
        self.unacked.clear()
        for queue, messages in by_queue.items():
            queue.put_back(messages)
        self.connection.remove(self)

    # -- exchanges

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Arguments = None,
    ) -> None:
        """Create an exchange, or check that there is the same."""
        given = _checked(arguments, exchange=exchange)
        with self._operation() as broker:
            broker.declare_exchange(exchange, type, durable, auto_delete, given)

    def exchange_delete(self, exchange: str, if_unused: bool = False) -> None:
        """Delete an exchange with its bindings, if there is one."""
        _checked(exchange=exchange)
        with self._operation() as broker:
            broker.delete_exchange(exchange, if_unused)

    def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Let messages go on from one exchange to another."""
        given = _checked(arguments, exchange=destination, source=source, routing_key=routing_key)
        with self._operation() as broker:
            broker.bind_exchange(destination, source, routing_key, given)

    def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Undo exchange_bind, if it was done."""
        given = _checked(arguments, exchange=destination, source=source, routing_key=routing_key)
        with self._operation() as broker:
            broker.unbind_exchange(destination, source, routing_key, given)

    # -- queues

    def queue_declare(
        self,
        queue: str = "",
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments = None,
    ) -> tuple[str, int, int]:
        """Create a queue, or check that there is the same: its name, ready messages, consumers.

        :param queue: with ``""`` the broker makes up a name.
        """
        given = _checked(arguments, queue=queue)
        with self._operation() as broker:
            declared = broker.declare_queue(
                self.connection, queue, durable, exclusive, auto_delete, given
            )
            self._last_queue = declared.name
            return declared.name, declared.ready.size, len(declared.consumers)

    def queue_exists(self, queue: str) -> bool:
        """Whether there is a queue of that name, also of another connection."""
        _checked(queue=queue)
        with self._operation() as broker:
            found = broker.queues.get(queue)
            if found is not None:
                found.touch()
            return found is not None

    def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Let messages go on from an exchange to a queue."""
        given = _checked(arguments, queue=queue, exchange=exchange, routing_key=routing_key)
        with self._operation() as broker:
            name = self._meant(queue)
            broker.bind_queue(self.connection, name, exchange, routing_key, given)

    def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Undo queue_bind, if it was done."""
        given = _checked(arguments, queue=queue, exchange=exchange, routing_key=routing_key)
        with self._operation() as broker:
            broker.unbind_queue(self._meant(queue), exchange, routing_key, given)

    def queue_purge(self, queue: str) -> int:
        """Discard the ready messages, and say how many they were."""
        _checked(queue=queue)
        with self._operation() as broker:
            return broker.queue(self.connection, self._meant(queue)).purge()

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue, if there is one, and say how many ready messages it had."""
        _checked(queue=queue)
        with self._operation() as broker:
            return broker.delete_queue(self.connection, self._meant(queue), if_unused, if_empty)

    def _meant(self, queue: str) -> str:
        """An empty name is the queue that this channel declared last."""
        if not queue and not self._last_queue:
            raise not_found("previously declared queue")
        return queue or self._last_queue

    # -- messages

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: Mapping[str, Any],
        message_id: str | None = None,
    ) -> Outcome:
        """Hand a message to the broker, and learn what became of it.

        :param message_id: when it is not among the properties, which other messages may share.
        """
        if type(exchange) is not str or type(routing_key) is not str:
            _checked(exchange=exchange, routing_key=routing_key)
        message = QueuedMessage(body, properties, exchange, routing_key, message_id)
        broker = self._broker
        # As in _operation, which would cost as much as all the rest. The same for get and ack.
        with broker.lock:
            if not self.is_open or broker.timers.pending:
                self._begin()
            try:
                if properties is not self._plain and message.check(self.connection.user):
                    self._plain = properties
                return broker.publish(message)
            except ChannelError:
                self.shut()
                raise

    def get(self, queue: str, no_ack: bool = False) -> tuple[int, QueuedMessage] | None:
        """The next message of a queue with its delivery tag, or None."""
        short_string("queue", queue)
        with self._broker.lock:
            self._begin()
            try:
                message = self._broker.queue(self.connection, self._meant(queue)).get()
            except ChannelError:
                self.shut()
                raise
            if message is None:
                return None
            self.last_tag += 1
            if not no_ack:
                self.unacked[self.last_tag] = message
            return self.last_tag, message

    def consume(
        self,
        queue: str,
        consumer_tag: str,
        no_ack: bool,
        deliver: Deliver,
        on_cancel: Callable[[], object] = lambda: None,
    ) -> None:
        """Begin a consumer: its messages go to *deliver*.

        :param on_cancel: called when the broker ends the consumer, under its lock.
        """
        _checked(queue=queue)
        required_name("consumer tag", consumer_tag)
        with self._operation() as broker:
            if consumer_tag in self.consumers:
                raise not_allowed(f"attempt to reuse consumer tag '{consumer_tag}'")
            found = broker.queue(self.connection, self._meant(queue))
            consumer = self.consumer_cls(self, found, consumer_tag, no_ack, deliver, on_cancel)
            self.consumers[consumer_tag] = consumer
            found.add_consumer(consumer)

    def cancel(self, consumer_tag: str) -> None:
        """End a consumer, if there is one. What it holds unacked stays unacked."""
        with self._operation():
            if (consumer := self.consumers.get(consumer_tag)) is not None:
                self._remove(consumer)

    def _remove(self, consumer: Consumer) -> None:
        self.forget(consumer)
        consumer.queue.remove_consumer(consumer)

    def forget(self, consumer: Consumer) -> None:
        """That consumer ended."""
        self.consumers.pop(consumer.tag, None)
        self.blocked.pop(consumer, None)

    def qos(self, prefetch_count: int, apply_global: bool) -> None:
        """Limit the unacked messages of the channel, or of each consumer that begins later.

        https://www.rabbitmq.com/docs/consumer-prefetch
        """
        with self._operation():
            if apply_global:
                self.prefetch = prefetch_count
                self._unblock()
            else:
                self.consumer_prefetch = prefetch_count

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Forget one message, or all up to it; with *multiple*, tag 0 is all there are."""
        broker = self._broker
        with broker.lock:
            if not self.is_open or broker.timers.pending:
                self._begin()
            if multiple:
                for tag in self._up_to(delivery_tag):
                    self._settled(tag)
            else:
                self._settled(delivery_tag)
            if self.blocked:
                self._unblock()

    def reject(self, delivery_tag: int, requeue: bool) -> None:
        """Put a message back, or discard it, which may dead-letter it."""
        with self._operation():
            message = self._settled(delivery_tag)
            if requeue:
                message.queue.put_back([message])
            else:
                message.queue.discard(message)
            self._unblock()

    def _up_to(self, delivery_tag: int) -> list[int]:
        """The tags that an ack with *multiple* means."""
        if delivery_tag and delivery_tag not in self.unacked:
            return [delivery_tag]
        return [tag for tag in self.unacked if not delivery_tag or tag <= delivery_tag]

    def _settled(self, delivery_tag: int) -> QueuedMessage:
        """A delivery counts no more: its message.

        :raises PreconditionFailed: there is none of that tag.
        """
        message = self.unacked.pop(delivery_tag, None)
        if message is None:
            self.shut()
            raise precondition_failed(f"unknown delivery tag {delivery_tag}")
        if (consumer := message.consumer) is not None:
            consumer.unacked -= 1
            self.unacked_by_consumers -= 1
        return message

    def _unblock(self) -> None:
        """Serve the consumers that have credit again, or put them back in line."""
        for consumer in tuple(self.blocked):
            # Serving one of them may have changed what holds for the next.
            if consumer in self.blocked and consumer.has_credit():
                queue = consumer.queue
                if queue.serve(consumer):
                    continue
                del self.blocked[consumer]
                queue.join_line(consumer)


def _checked(arguments: Arguments = None, **names: str) -> dict[str, Any]:
    """A copy of *arguments*, when they and the names are such that AMQP can carry them."""
    for what, name in names.items():
        if what == "routing_key":
            short_string("routing key", name)
        else:
            entity_name(what, name)
    return table("arguments", arguments) if arguments else {}
