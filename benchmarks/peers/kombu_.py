"""kombu: a Producer and a Consumer with JSON, over py-amqp or in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kombu import Connection, Consumer, Exchange, Queue

from benchmarks.peers.base import OnData, Peer


class KombuPeer(Peer):
    """kombu's own serializer makes the JSON, with the standard library's json."""

    def __init__(self, url: str, queue: str, exchange: str = "") -> None:
        super().__init__(url, queue, exchange)
        self._queue = Queue(queue, durable=True, no_declare=True)
        if exchange:
            self._queue = Queue(queue, Exchange(exchange), routing_key=queue)
            with Connection(url) as connection:
                self._queue(connection.channel()).declare()

    def sender(self, confirm: bool) -> Callable[[Any], object]:
        options = {"confirm_publish": True} if confirm else {}
        self._connection = Connection(_pyamqp(self.url), transport_options=options)
        producer = self._connection.Producer(serializer="json")
        self._channel = producer.channel
        return partial(
            producer.publish, exchange=self.exchange, routing_key=self.queue, delivery_mode=1
        )

    def sync(self) -> None:
        self._queue(self._channel).queue_declare(passive=True)

    def consume(self, on_data: OnData, prefetch: int, acks: bool) -> None:
        connection = Connection(_pyamqp(self.url))
        done = False

        def ack(data: Any, message: Any) -> None:
            nonlocal done
            message.ack()
            done = on_data(data) or done

        def take(data: Any, message: Any) -> None:
            nonlocal done
            done = on_data(data) or done

        with Consumer(
            connection.channel(),
            [self._queue],
            callbacks=[ack if acks else take],
            accept=["json"],
            no_ack=not acks,
            prefetch_count=prefetch or None,
        ):
            while not done:
                # As kombu's own ConsumerMixin does; without the timeout it takes a fifth less.
                connection.drain_events(timeout=1)


def _pyamqp(url: str) -> str:
    # The name that asks for py-amqp: plain amqp would prefer librabbitmq, if that is installed.
    return url.replace("amqp://", "pyamqp://", 1)
