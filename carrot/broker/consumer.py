"""Consumer and Unacked: a channel's subscriptions, and its unacked messages."""

from __future__ import annotations

from collections.abc import Callable

from carrot.broker.message import QueuedMessage
from carrot.broker.queue import Queue
from carrot.broker.replies import precondition_failed
from carrot.broker.virtual_host import Client

#: Takes a delivery's tag and its message, under the broker's lock: it stores them and returns.
Deliver = Callable[[int, QueuedMessage], object]


class Unacked:
    """The unacked messages of one channel, and its limit for them. The broker's lock guards it.

    :ivar messages: by delivery tag, in the order of their delivery.
    :ivar last_tag: the delivery tag given last.
    :ivar by_consumers: how many messages the channel's consumers hold.
    :ivar prefetch: how many they may hold together; 0 is no limit.
    :ivar blocked: the consumers that left their queue's line because they had no credit.
    """

    def __init__(self) -> None:
        self.messages: dict[int, QueuedMessage] = {}
        self.last_tag = 0
        self.by_consumers = 0
        self.prefetch = 0
        self.blocked: dict[Consumer, None] = {}

    def up_to(self, delivery_tag: int) -> list[int]:
        """The tags that settling with *multiple* means; 0 means all."""
        if delivery_tag and delivery_tag not in self.messages:
            return [delivery_tag]
        return [tag for tag in self.messages if not delivery_tag or tag <= delivery_tag]

    def settle(self, delivery_tag: int) -> QueuedMessage:
        """Take out the message of that tag.

        :raises PreconditionFailed: there is none.
        """
        message = self.messages.pop(delivery_tag, None)
        if message is None:
            raise precondition_failed(f"unknown delivery tag {delivery_tag}")
        if (consumer := message.consumer) is not None:
            consumer.unacked -= 1
            self.by_consumers -= 1
        return message

    def take_all(self) -> list[QueuedMessage]:
        """Take out all messages, because the channel is closed."""
        messages = list(self.messages.values())
        self.messages.clear()
        return messages

    def serve_blocked(self) -> None:
        """Serve the consumers that have credit again, or put them back in line."""
        for consumer in tuple(self.blocked):
            # Serving one consumer may have changed this for the next.
            if consumer in self.blocked and consumer.has_credit():
                queue = consumer.queue
                if queue.serve(consumer):
                    continue
                del self.blocked[consumer]
                queue.join_line(consumer)


class Consumer:
    """A channel's subscription to a queue.

    :param prefetch: how many messages it may hold unacked; 0 is no limit.
    :param on_end: called when the broker ends it, under its lock.
    :ivar unacked: how many messages it holds.
    """

    def __init__(
        self,
        connection: Client,
        channel_unacked: Unacked,
        queue: Queue,
        tag: str,
        no_ack: bool,
        prefetch: int,
        deliver: Deliver,
        on_end: Callable[[], object],
    ) -> None:
        self.connection = connection
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.prefetch = 0 if no_ack else prefetch
        self.unacked = 0
        self._channel_unacked = channel_unacked
        self._deliver = deliver
        self._on_end = on_end

    def has_credit(self) -> bool:
        """Whether it may get another message."""
        channel = self._channel_unacked
        return (not self.prefetch or self.unacked < self.prefetch) and (
            not channel.prefetch or channel.by_consumers < channel.prefetch
        )

    def receive(self, message: QueuedMessage) -> None:
        """Deliver *message*, which its queue has given out."""
        channel = self._channel_unacked
        channel.last_tag = delivery_tag = channel.last_tag + 1
        if not self.no_ack:
            message.consumer = self
            channel.messages[delivery_tag] = message
            self.unacked += 1
            channel.by_consumers += 1
        self._deliver(delivery_tag, message)
        if self.connection.waiting:
            self.connection.wake()

    def leave_line(self) -> None:
        """Wait for credit, out of the queue's line."""
        self._channel_unacked.blocked[self] = None

    def end(self) -> None:
        """End because the queue was deleted: the channel is told (basic.cancel).

        https://www.rabbitmq.com/docs/consumer-cancel
        """
        self._channel_unacked.blocked.pop(self, None)
        self._on_end()
        self.connection.wake()
