"""Consumers: starts, extends and ends the consumers of a channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from carrot.backends.pystomp.declared_topology import DeclaredQueue
from carrot.backends.pystomp.exclusive_queues import ExclusiveQueues
from carrot.backends.pystomp.prefetch_window import PrefetchWindow
from carrot.backends.pystomp.requests import Requests
from carrot.backends.pystomp.subscriptions import (
    FIRST,
    Consumer,
    Subscription,
    Subscriptions,
    selector,
)
from carrot.backends.sockets.session import TransportView
from carrot.deadline import held


class Consumers:
    """The consumers of a channel, by tag; the window's lock guards them."""

    def __init__(
        self,
        view: TransportView,
        requests: Requests,
        subscriptions: Subscriptions,
        window: PrefetchWindow,
        exclusive: ExclusiveQueues,
    ) -> None:
        self._view = view
        self._requests = requests
        self._subscriptions = subscriptions
        self._window = window
        self._exclusive = exclusive
        self._by_tag: dict[str, Consumer] = {}

    def subscribe(self, queue: DeclaredQueue, consumer_tag: str, no_ack: bool, limit: int) -> None:
        """Start a consumer of all the queues at the broker that *queue* is.

        :param limit: how many unsettled messages it may have in hand; 0: any number.
        """
        limit = 0 if no_ack else limit
        if queue.name in self._exclusive:
            consumer = self._exclusive.consume(queue.name, consumer_tag, no_ack, limit)
            with self._window.lock:
                self._by_tag[consumer_tag] = consumer
            self._window.hand_out(consumer)
            return
        consumer = Consumer(consumer_tag, queue.name, no_ack, limit)
        with self._window.lock:
            # First: a binding that comes meanwhile finds it here, or else in what follows.
            self._by_tag[consumer_tag] = consumer
        with self._requests.receipt_for("SUBSCRIBE") as receipt:
            with self._window.lock:
                added = self._add(consumer, queue.destinations)
            prefetch = consumer.prefetch
            *frames, last = added
            self._requests.write(
                *(one.begin(prefetch) for one in frames), last.begin(prefetch, receipt=receipt)
            )

    def follow(self, queue: str, destination: str) -> None:
        """Let those who consume from *queue* get what one more queue of the broker has.

        For other threads, which don't wait: what is for the queue is kept there until then.
        """
        with self._window.lock:
            for consumer in self._by_tag.values():
                if consumer.queue != queue or consumer.is_exclusive:
                    continue
                for added in self._add(consumer, [destination]):
                    # With a receipt, which nobody waits for, a refusal doesn't end the connection.
                    self._view.answer(added.begin(consumer.prefetch, receipt=f"s{added.id}"))

    def _add(self, consumer: Consumer, destinations: Sequence[str]) -> list[Subscription]:
        """Subscriptions to what the consumer doesn't get yet, under the lock."""
        known = {one.destination for one in consumer.subscriptions}
        added = [
            self._subscriptions.new(consumer.queue, destination, consumer=consumer)
            for destination in destinations
            if destination not in known
        ]
        consumer.subscriptions += added
        return added

    def unsubscribe(self, consumer_tag: str, take_unseen: Callable[[], Sequence[int]]) -> None:
        """End a consumer.

        The broker takes back what it has delivered; those messages that the program has in hand
        are delivered again to subscriptions of their own, which are asked first, and stay ours.

        :param take_unseen: called once, when nothing is delivered to the consumer any more; returns
            the tags of those that nobody has seen.
        """
        with self._window.lock:
            consumer = self._by_tag.pop(consumer_tag, None)
            if consumer is not None:
                consumer.is_paused = True
        unseen = take_unseen()
        if consumer is None:
            return
        if consumer.is_exclusive:
            self._exclusive.leave(consumer, unseen)
            return
        deadline = self._requests.deadline()
        # The lock is free again before the receipt is awaited.
        with (
            self._requests.receipt_for("UNSUBSCRIBE", deadline) as receipt,
            held(self._window.settle_lock, "settling messages"),
        ):
            holding = self._window.release(consumer, unseen)
            *others, last = consumer.subscriptions
            self._requests.write(
                *map(_hold, holding),
                self._subscriptions.end(*others),
                last.end(receipt=receipt),
            )
            self._subscriptions.forget([last])
        self._requests.wait_for(
            lambda: not any(one.wanted for one in holding), deadline, "SUBSCRIBE"
        )


def _hold(holding: Subscription) -> bytes:
    """The frame that begins a subscription to certain messages, before all others."""
    wanted = holding.wanted or {}
    return holding.begin(len(wanted), selector=selector(wanted), **{"activemq.priority": FIRST})
