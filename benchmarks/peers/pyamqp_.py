"""py-amqp by itself: a Connection and its channels."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp

from benchmarks.peers.base import OnData, Peer


class PyamqpPeer(Peer):
    def _connect(self, confirm: bool = False) -> Any:
        parts = urlsplit(self.url)
        connection = amqp.Connection(
            f"{parts.hostname}:{parts.port or 5672}",
            userid=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            virtual_host=unquote(parts.path[1:]) or "/",
            confirm_publish=confirm,
        )
        connection.connect()
        return connection

    def sender(self, confirm: bool) -> Callable[[Any], object]:
        self._connection = self._connect(confirm)
        self._channel = channel = self._connection.channel()
        queue = self.queue

        def send(data: Any) -> None:
            message = amqp.Message(
                json.dumps(data),
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=1,
            )
            channel.basic_publish(message, routing_key=queue)

        return send

    def sync(self) -> None:
        self._channel.queue_declare(self.queue, passive=True)

    def consume(self, on_data: OnData, prefetch: int, acks: bool) -> None:
        connection = self._connect()
        channel = connection.channel()
        channel.basic_qos(0, prefetch, False)
        done = False

        def ack(message: Any) -> None:
            nonlocal done
            data = json.loads(message.body)
            channel.basic_ack(message.delivery_tag)
            done = on_data(data) or done

        def take(message: Any) -> None:
            nonlocal done
            done = on_data(json.loads(message.body)) or done

        channel.basic_consume(self.queue, no_ack=not acks, callback=ack if acks else take)
        while not done:
            connection.drain_events()
