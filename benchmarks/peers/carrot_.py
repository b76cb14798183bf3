"""carrot, through either of its AMQP drivers, or in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import simplejson

from benchmarks.peers.base import OnData, Peer
from carrot import BrokerConnection, Consumer, Publisher
from carrot.message import Message


class CarrotPeer(Peer):
    """Publisher and Consumer with their defaults, but for transient messages."""

    encoder: ClassVar[str] = "simplejson"

    def __init__(self, url: str, queue: str, exchange: str = "") -> None:
        super().__init__(url, queue, exchange)
        self.connection = BrokerConnection(url)
        if exchange:
            self._consumer().close()

    @staticmethod
    def dumps(data: Any) -> str | bytes:
        return simplejson.dumps(data)

    def publisher(self, confirm: bool) -> Publisher:
        self._publisher = Publisher(
            self.connection,
            exchange=self.exchange,
            routing_key=self.queue,
            delivery_mode=1,
            confirm=confirm,
        )
        return self._publisher

    def sender(self, confirm: bool) -> Callable[[Any], object]:
        return self.publisher(confirm).send

    def sync(self) -> None:
        # On the publisher's own channel, which queue_exists() is not.
        self._publisher.backend.queue_declare(
            self.queue, durable=True, exclusive=False, auto_delete=False
        )

    def _consumer(self, prefetch: int = 0, acks: bool = True) -> Consumer:
        return Consumer(
            self.connection,
            queue=self.queue,
            exchange=self.exchange,
            routing_key=self.queue,
            prefetch_count=prefetch,
            no_ack=not acks,
        )

    def consume(self, on_data: OnData, prefetch: int, acks: bool) -> None:
        consumer = self._consumer(prefetch, acks)

        def ack(data: Any, message: Message) -> None:
            message.ack()
            if on_data(data):
                consumer.stop()

        def take(data: Any, message: Message) -> None:
            if on_data(data):
                consumer.stop()

        consumer.register_callback(ack if acks else take)
        consumer.wait()

    def send_many(self, messages: Iterable[Any], confirm: bool) -> None:
        self.publisher(confirm).send_many(messages)


class PyamqplibPeer(CarrotPeer):
    """The same, on py-amqp."""

    def __init__(self, url: str, queue: str, exchange: str = "") -> None:
        super().__init__(url.replace("amqp://", "pyamqplib://", 1), queue, exchange)
