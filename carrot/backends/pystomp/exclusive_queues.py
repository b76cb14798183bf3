"""ExclusiveQueues: those that live and die with the channel that declares them.

A temporary queue of ActiveMQ's, and a subscription to the virtual topics of each binding. What they
deliver waits here until somebody consumes or fetches it.
"""

from __future__ import annotations

from collections.abc import Sequence

from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.names import temporary_destination
from carrot.backends.pystomp.polling import Polling
from carrot.backends.pystomp.prefetch_window import PrefetchWindow
from carrot.backends.pystomp.requests import Requests
from carrot.backends.pystomp.settlements import ACK
from carrot.backends.pystomp.subscriptions import Consumer, Subscriptions
from carrot.remedies import channel_error

#: How many unsettled messages of each of its sources may be here, in a program's memory.
AHEAD = 1000


class ExclusiveQueues:
    """The exclusive queues of a channel, each with the one consumer that it may have.

    The window's lock guards them.
    """

    def __init__(
        self,
        requests: Requests,
        subscriptions: Subscriptions,
        window: PrefetchWindow,
        polling: Polling,
    ) -> None:
        self._requests = requests
        self._subscriptions = subscriptions
        self._window = window
        self._polling = polling
        self._by_name: dict[str, Consumer] = {}

    def __contains__(self, queue: str) -> bool:
        return queue in self._by_name

    def declare(self, queue: str) -> None:
        """Make an exclusive queue."""
        consumer = Consumer("", queue, no_ack=False, limit=0, is_exclusive=True, is_paused=True)
        with self._window.lock:
            is_new = self._by_name.setdefault(queue, consumer) is consumer
        if is_new:
            self._subscribe(consumer, temporary_destination(queue))

    def bind(self, queue: str, destination: str) -> None:
        """Let an exclusive queue get what is published to topics."""
        self._subscribe(self._by_name[queue], destination)

    def _subscribe(self, consumer: Consumer, destination: str) -> None:
        with self._window.lock:
            if destination in [one.destination for one in consumer.subscriptions]:
                return
            added = self._subscriptions.new(consumer.queue, destination, consumer=consumer)
            consumer.subscriptions.append(added)
        self._requests.call("SUBSCRIBE", added.headers(AHEAD))

    def consume(self, queue: str, consumer_tag: str, no_ack: bool, limit: int) -> Consumer:
        """Start the queue's consumer.

        :raises PermissionDenied: it has one.
        """
        with self._window.lock:
            consumer = self._by_name[queue]
            if not consumer.is_paused:
                raise channel_error(
                    403,
                    f"ACCESS_REFUSED - queue '{queue}' has a consumer already, and is exclusive",
                )
            consumer.tag, consumer.no_ack, consumer.limit = consumer_tag, no_ack, limit
            consumer.is_paused = False
        return consumer

    def leave(self, consumer: Consumer, unseen: Sequence[int]) -> None:
        """The consumer, which is paused, ends; what nobody has seen waits for the next one."""
        with self._window.lock:
            consumer.no_ack = False
            self._window.put_back(consumer, unseen)

    def get(self, queue: str, timeout: float | None) -> tuple[int, Frame] | None:
        """Take the next message of an exclusive queue, with its delivery tag."""
        consumer = self._by_name[queue]
        self._look_into(consumer, timeout)
        return self._window.take(consumer)

    def purge(self, queue: str) -> int:
        """Discard what waits in an exclusive queue, and say how many messages that were."""
        consumer = self._by_name[queue]
        self._look_into(consumer, None)
        tags = self._window.take_waiting(consumer)
        for tag in tags:
            self._window.settle(tag, ACK)
        return len(tags)

    def _look_into(self, consumer: Consumer, timeout: float | None) -> None:
        """Wait until what the broker has for the queue is here."""
        rest, deadline = b"", self._requests.deadline(timeout)
        for _ in range(2):
            if not consumer.waiting:
                rest = self._polling.look(consumer.subscriptions[0], rest, deadline)
        if rest:
            self._requests.write_soon(rest)
