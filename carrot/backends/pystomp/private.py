"""Private: exclusive queues, which live and die with the channel that declares them.

A temporary queue of ActiveMQ's, and a subscription to the virtual topics of each binding. What they
deliver waits here until somebody consumes or fetches it.
"""

from __future__ import annotations

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.handing import Handing
from carrot.backends.pystomp.names import temporary_destination
from carrot.backends.pystomp.sources import (
    Consumer,
    TransportView,
    Unsettled,
    subscription_headers,
)
from carrot.exceptions import ChannelError

#: How many unsettled messages of each of its sources may be here, in a program's memory.
AHEAD = 1000


class Private(Handing):
    """The exclusive queues of a channel, each with the one consumer that it has."""

    def __init__(self, line: TransportView, number: str) -> None:
        super().__init__(line, number)
        self._private: dict[str, Consumer] = {}

    def declare_private(self, queue: str) -> None:
        """Make an exclusive queue."""
        if queue not in self._private:
            consumer = Consumer("", no_ack=False, limit=0, is_private=True, is_paused=True)
            self._private[queue] = consumer
            self._add(queue, temporary_destination(queue), consumer)

    def bind_private(self, queue: str, destination: str) -> None:
        """Let an exclusive queue get what is published to topics."""
        consumer = self._private[queue]
        if destination not in [source.destination for source in consumer.sources]:
            self._add(queue, destination, consumer)

    def _add(self, queue: str, destination: str, consumer: Consumer) -> None:
        source = self._new_source(queue, destination, consumer=consumer)
        consumer.sources.append(source)
        self._call("SUBSCRIBE", subscription_headers(source, AHEAD))

    def _consume_private(self, queue: str, consumer_tag: str, no_ack: bool, limit: int) -> Consumer:
        consumer = self._private[queue]
        if not consumer.is_paused:
            raise ChannelError.from_reply(
                403, f"ACCESS_REFUSED - queue '{queue}' has a consumer already, and is exclusive"
            )
        consumer.tag, consumer.no_ack, consumer.limit = consumer_tag, no_ack, limit
        consumer.is_paused = False
        return consumer

    def _leave_private(self, consumer: Consumer, unseen: list[int]) -> None:
        """The consumer ends; what nobody has seen waits for the next one."""
        consumer.is_paused, consumer.no_ack = True, False
        with self._handing:
            back = [(tag, self.unsettled[tag].frame) for tag in sorted(unseen)
                    if tag in self.unsettled]  # fmt: skip
            consumer.waiting.extendleft(reversed(back))
            consumer.in_hand -= len(back)

    def get_private(self, queue: str, timeout: float | None) -> tuple[int, Frame] | None:
        """Take the next message of an exclusive queue, with its delivery tag."""
        consumer = self._private[queue]
        self._look_into(consumer, timeout)
        with self._handing:
            if not consumer.waiting:
                return None
            consumer.in_hand += 1
            return consumer.waiting.popleft()

    def purge_private(self, queue: str) -> int:
        """Discard what waits in an exclusive queue, and say how many messages that were."""
        consumer = self._private[queue]
        self._look_into(consumer, None)
        with self._handing:
            tags = [tag for tag, _ in consumer.waiting]
            consumer.waiting.clear()
        for tag in tags:
            self._settle(tag, b"ACK")
        return len(tags)

    def _look_into(self, consumer: Consumer, timeout: float | None) -> None:
        """Wait until what the broker has for the queue is here."""
        rest, deadline = b"", self._deadline(timeout)
        for _ in range(2):
            if not consumer.waiting:
                rest = self._look(consumer.sources[0], rest, deadline)
        if rest:
            self._line.write_soon(rest, self)

    def _requeue_private(self, one: Unsettled, consumer: Consumer) -> None:
        """The message comes next, marked as redelivered."""
        tag = next(self._tags)
        line = f"\n{mapping.REQUEUED}:true".encode()
        frame = one.frame._replace(head=one.frame.head + line)
        self.unsettled[tag] = one._replace(frame=frame)
        with self._handing:
            consumer.waiting.appendleft((tag, frame))
        self._hand_on(consumer)
