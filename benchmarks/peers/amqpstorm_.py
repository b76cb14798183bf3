"""amqpstorm: UriConnection, with a channel for each thread."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from amqpstorm import UriConnection

from benchmarks.peers.base import OnData, Peer


class AmqpstormPeer(Peer):
    def __init__(self, url: str, queue: str, exchange: str = "") -> None:
        super().__init__(url, queue, exchange)
        self._connection = UriConnection(url)

    def sender(self, confirm: bool) -> Callable[[Any], object]:
        self._channel = channel = self._connection.channel()
        if confirm:
            channel.confirm_deliveries()
        queue = self.queue
        properties = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 1,
        }

        def send(data: Any) -> None:
            channel.basic.publish(json.dumps(data), queue, properties=properties)

        return send

    def sync(self) -> None:
        self._channel.queue.declare(self.queue, passive=True)

    def consume(self, on_data: OnData, prefetch: int, acks: bool) -> None:
        channel = self._connection.channel()
        if prefetch:
            channel.basic.qos(prefetch)

        def ack(message: Any) -> None:
            data = message.json()
            message.ack()
            if on_data(data):
                channel.stop_consuming()

        def take(message: Any) -> None:
            if on_data(message.json()):
                channel.stop_consuming()

        channel.basic.consume(ack if acks else take, self.queue, no_ack=not acks)
        channel.start_consuming()
