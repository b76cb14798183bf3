"""Channel: the operations of AMQP, on the queues and exchanges of one virtual host.

AMQP 0-9-1, section 1.8 (the classes exchange, queue and basic).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

from carrot.broker.consumer import Consumer, Deliver, Unacked
from carrot.broker.message import QueuedMessage
from carrot.broker.queue import Queue, put_back
from carrot.broker.replies import channel_closed, not_allowed, not_found
from carrot.broker.virtual_host import Client, Outcome, VirtualHost
from carrot.checks import entity_name, required_name, short_string, table
from carrot.exceptions import ChannelError

Arguments = Mapping[str, Any] | None


class ChannelOwner(Client, Protocol):
    """A connection, as its channels use it."""

    def remove(self, channel: Channel) -> None: ...


class Channel:
    """A channel of a connection; the broker's lock guards it.

    An operation that the broker refuses raises a ChannelError and closes the channel, as in AMQP:
    its unacked messages go back, and its consumers end.

    :cvar consumer_cls: the class of its consumers.
    :ivar unacked: the messages that it has delivered and that nobody has settled.
    :ivar consumer_prefetch: how many messages each consumer that begins from now on may hold.
    """

    consumer_cls: ClassVar[type[Consumer]] = Consumer

    def __init__(self, connection: ChannelOwner, broker: VirtualHost) -> None:
        self.connection = connection
        self.is_open = True
        #: Called when it is closed, under the lock.
        self.on_close: Callable[[], object] | None = None
        self.unacked = Unacked()
        self.consumers: dict[str, Consumer] = {}
        self.consumer_prefetch = 0
        self._broker = broker
        self._last_queue = ""
        # The properties checked last: most messages share theirs with the one before, and need no
        # check of their own, which saves 0.1 µs.
        self._plain: Mapping[str, Any] | None = None

    @contextmanager
    def _operation(self) -> Iterator[VirtualHost]:
        """Hold the lock for one operation, and close the channel if it is refused."""
        with self._broker.lock:
            self._begin()
            try:
                yield self._broker
            except ChannelError:
                self.shut()
                raise

    def _begin(self) -> None:
        """Check that the channel is open, and run the timers that are due."""
        if not self.is_open:
            self.connection.check_open()
            raise channel_closed()
        if self._broker.forgotten:
            self._broker.close_forgotten()
        if self._broker.timers.pending:
            self._broker.timers.run()

    def close(self) -> None:
        """Close the channel: its unacked messages go back. Again is harmless."""
        with self._broker.lock:
            self.shut()

    def shut(self) -> None:
        """Close the channel, under the lock."""
        close_channels((self,))

    def take_down(self) -> tuple[list[QueuedMessage], list[Queue]]:
        """End everything; returns the messages to put back, and the queues that it consumed."""
        self.is_open = False
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()
        queues = [consumer.queue for consumer in self.consumers.values()]
        for consumer in tuple(self.consumers.values()):
            self._remove(consumer)
        self.connection.remove(self)
        return self.unacked.take_all(), queues

    # -- exchanges

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Arguments = None,
    ) -> None:
        """Create an exchange, or check that an existing one is the same."""
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
        """Route messages from one exchange to another."""
        given = _checked(arguments, exchange=destination, source=source, routing_key=routing_key)
        with self._operation() as broker:
            broker.bind_exchange(destination, source, routing_key, given)

    def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Remove such a binding, if there is one."""
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
        """Create a queue, or check that an existing one is the same.

        :param queue: with ``""`` the broker makes up a name.
        :returns: its name, and the numbers of its ready messages and its consumers.
        """
        given = _checked(arguments, queue=queue)
        with self._operation() as broker:
            declared = broker.declare_queue(
                self.connection, queue, durable, exclusive, auto_delete, given
            )
            self._last_queue = declared.name
            return declared.name, declared.ready.size, len(declared.consumers)

    def queue_exists(self, queue: str) -> bool:
        """Whether there is a queue of that name, even an exclusive one of another connection."""
        _checked(queue=queue)
        with self._operation() as broker:
            found = broker.queues.get(queue)
            if found is not None:
                found.touch()
            return found is not None

    def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Route messages from an exchange to a queue."""
        given = _checked(arguments, queue=queue, exchange=exchange, routing_key=routing_key)
        with self._operation() as broker:
            name = self._meant(queue)
            broker.bind_queue(self.connection, name, exchange, routing_key, given)

    def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        """Remove such a binding, if there is one."""
        given = _checked(arguments, queue=queue, exchange=exchange, routing_key=routing_key)
        with self._operation() as broker:
            broker.unbind_queue(self._meant(queue), exchange, routing_key, given)

    def queue_purge(self, queue: str) -> int:
        """Discard the ready messages; returns how many there were."""
        _checked(queue=queue)
        with self._operation() as broker:
            return broker.queue(self.connection, self._meant(queue)).purge()

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue, if there is one; returns how many ready messages it had."""
        _checked(queue=queue)
        with self._operation() as broker:
            return broker.delete_queue(self.connection, self._meant(queue), if_unused, if_empty)

    def _meant(self, queue: str) -> str:
        """*queue*; for an empty name the queue that this channel declared last."""
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
        """Publish a message, and return what became of it.

        :param message_id: when the properties, which other messages may share, have none.
        """
        if type(exchange) is not str or type(routing_key) is not str:
            _checked(exchange=exchange, routing_key=routing_key)
        message = QueuedMessage(body, properties, exchange, routing_key, message_id)
        broker = self._broker
        # Not _operation(), which would cost as much as the rest. The same in get() and ack().
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
            unacked = self.unacked
            unacked.last_tag += 1
            if not no_ack:
                unacked.messages[unacked.last_tag] = message
            return unacked.last_tag, message

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

        def on_end() -> None:
            self.consumers.pop(consumer_tag, None)
            on_cancel()

        _checked(queue=queue)
        required_name("consumer tag", consumer_tag)
        with self._operation() as broker:
            if consumer_tag in self.consumers:
                raise not_allowed(f"attempt to reuse consumer tag '{consumer_tag}'")
            found = broker.queue(self.connection, self._meant(queue))
            consumer = self.consumer_cls(
                self.connection, self.unacked, found, consumer_tag, no_ack,
                self.consumer_prefetch, deliver, on_end,
            )  # fmt: skip
            self.consumers[consumer_tag] = consumer
            found.add_consumer(consumer)

    def cancel(self, consumer_tag: str) -> None:
        """End a consumer, if there is one. Its unacked messages stay unacked."""
        with self._operation():
            if (consumer := self.consumers.get(consumer_tag)) is not None:
                self._remove(consumer)
                consumer.queue.run()

    def _remove(self, consumer: Consumer) -> None:
        self.consumers.pop(consumer.tag, None)
        self.unacked.blocked.pop(consumer, None)
        consumer.queue.remove_consumer(consumer)

    def qos(self, prefetch_count: int, apply_global: bool) -> None:
        """Limit the unacked messages of the channel, or of each consumer that begins later.

        https://www.rabbitmq.com/docs/consumer-prefetch
        """
        with self._operation():
            if apply_global:
                self.unacked.prefetch = prefetch_count
                self.unacked.serve_blocked()
            else:
                self.consumer_prefetch = prefetch_count

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Forget one message; with *multiple* all up to it, and with tag 0 all there are."""
        broker = self._broker
        with broker.lock:
            if not self.is_open or broker.timers.pending:
                self._begin()
            unacked = self.unacked
            try:
                if multiple:
                    for tag in unacked.up_to(delivery_tag):
                        unacked.settle(tag)
                else:
                    unacked.settle(delivery_tag)
            except ChannelError:
                self.shut()
                raise
            if unacked.blocked:
                unacked.serve_blocked()

    def nack(self, delivery_tag: int, multiple: bool = False, requeue: bool = True) -> None:
        """Put back, or discard, one message; with *multiple* all up to it, and with tag 0 all.

        In one step: consumers are served when all that goes back is back, in its old order.

        https://www.rabbitmq.com/docs/nack
        """
        with self._operation():
            unacked = self.unacked
            tags = unacked.up_to(delivery_tag) if multiple else (delivery_tag,)
            messages = [unacked.settle(tag) for tag in tags]
            if requeue:
                put_back(messages)
            else:
                for message in messages:
                    message.queue.discard(message)
            unacked.serve_blocked()

    def reject(self, delivery_tag: int, requeue: bool) -> None:
        """Put a message back, or discard it; a discarded one may be dead-lettered."""
        self.nack(delivery_tag, False, requeue)


def close_channels(channels: Iterable[Channel]) -> None:
    """Close channels, under the lock, in one step.

    All their consumers end before anything goes back, lest one channel gets what another gives
    back; and everything is back before any consumer is served, in its old order.
    """
    messages: list[QueuedMessage] = []
    queues: dict[Queue, None] = {}
    for channel in channels:
        unacked, consumed = channel.take_down()
        messages += unacked
        queues.update(dict.fromkeys(consumed))
    put_back(messages)
    for queue in queues:
        queue.run()


def _checked(arguments: Arguments = None, **names: str) -> dict[str, Any]:
    """Check that AMQP can carry the names and *arguments*; returns a copy of the arguments."""
    for what, name in names.items():
        if what == "routing_key":
            short_string("routing key", name)
        else:
            entity_name(what, name)
    return table("arguments", arguments) if arguments else {}
