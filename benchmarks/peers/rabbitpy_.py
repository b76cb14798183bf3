"""rabbitpy: Message and Queue objects; a thread of its own does the input and output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rabbitpy

from benchmarks.peers.base import OnData, Peer


class RabbitpyPeer(Peer):
    """rabbitpy encodes dicts and decodes JSON by itself, with the standard library's json."""

    def __init__(self, url: str, queue: str, exchange: str = "") -> None:
        super().__init__(url, queue, exchange)
        self._connection = rabbitpy.Connection(url)

    def sender(self, confirm: bool) -> Callable[[Any], object]:
        self._channel = channel = self._connection.channel()
        if confirm:
            channel.enable_publisher_confirms()
        queue = self.queue
        properties = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 1,
        }

        def send(data: Any) -> None:
            # It writes into the properties it is given.
            rabbitpy.Message(channel, data, dict(properties)).publish("", queue)

        return send

    def sync(self) -> None:
        rabbitpy.Queue(self._channel, self.queue, durable=True).declare(passive=True)

    def consume(self, on_data: OnData, prefetch: int, acks: bool) -> None:
        queue = rabbitpy.Queue(self._connection.channel(), self.queue, durable=True)
        for message in queue.consume(no_ack=not acks, prefetch=prefetch or None):
            data = message.json()
            if acks:
                message.ack()
            if on_data(data):
                break
