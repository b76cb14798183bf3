"""pika: the BlockingConnection."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pika

from benchmarks.peers.base import OnData, Peer


class PikaPeer(Peer):
    def __init__(self, url: str, queue: str, exchange: str = "") -> None:
        super().__init__(url, queue, exchange)
        self._connection = pika.BlockingConnection(pika.URLParameters(url))

    def sender(self, confirm: bool) -> Callable[[Any], object]:
        self._channel = channel = self._connection.channel()
        if confirm:
            channel.confirm_delivery()
        queue = self.queue
        properties = pika.BasicProperties(
            content_type="application/json", content_encoding="utf-8", delivery_mode=1
        )

        def send(data: Any) -> None:
            channel.basic_publish("", queue, json.dumps(data), properties)

        return send

    def sync(self) -> None:
        self._channel.queue_declare(self.queue, passive=True)

    def consume(self, on_data: OnData, prefetch: int, acks: bool) -> None:
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=prefetch)

        def ack(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            data = json.loads(body)
            channel.basic_ack(method.delivery_tag)
            if on_data(data):
                channel.stop_consuming()

        def take(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            if on_data(json.loads(body)):
                channel.stop_consuming()

        channel.basic_consume(self.queue, ack if acks else take, auto_ack=not acks)
        channel.start_consuming()
