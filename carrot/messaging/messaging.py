"""Messaging: a publisher and a consumer in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from carrot.backends.seam.backend import Backend
from carrot.connection import BrokerConnection
from carrot.message import Message
from carrot.messaging.callbacks import Callback, Callbacks
from carrot.messaging.consumer import Consumer
from carrot.messaging.options import Configurable
from carrot.messaging.publish_options import MoreSendOptions, RoutingKey
from carrot.messaging.publisher import Publisher


class Messaging(Configurable, Callbacks):
    """Sends to an exchange, and receives from a queue that is bound to it.

    :param connection: the broker.
    :param queue: as for :class:`Consumer`.
    :param exchange: as for :class:`Publisher` and :class:`Consumer`, like the next four.
    :param routing_key: as there.
    :param exchange_type: as there.
    :param durable: as there.
    :param auto_delete: as there.
    :param callbacks: functions to call with the data and the message.
    :param backend: the channel to use for both; default one each.
    :cvar publisher_cls: the class of the publisher.
    :cvar consumer_cls: the class of the consumer.
    """

    queue: str = ""
    exchange: str = ""
    routing_key: RoutingKey = ""
    exchange_type: str | None = None
    durable: bool | None = None
    auto_delete: bool | None = None
    publisher_cls: type[Publisher] = Publisher
    consumer_cls: type[Consumer] = Consumer

    def __init__(
        self,
        connection: BrokerConnection,
        *,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: RoutingKey | None = None,
        exchange_type: str | None = None,
        durable: bool | None = None,
        auto_delete: bool | None = None,
        callbacks: Sequence[Callback] | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.connection = connection
        self._set_options(
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            exchange_type=exchange_type,
            durable=durable,
            auto_delete=auto_delete,
        )
        self._set_callbacks(callbacks)
        shared: dict[str, Any] = {
            # Empty means: as publisher_cls and consumer_cls have it.
            "exchange": self.exchange or None,
            "routing_key": self.routing_key or None,
            "exchange_type": self.exchange_type,
            "durable": self.durable,
            "auto_delete": self.auto_delete,
            "backend": backend,
        }
        self.publisher = self.publisher_cls(connection, **shared)
        self.consumer = self.consumer_cls(connection, self.queue or None, **shared)
        self.consumer._receiver = self
        self.backend = self.consumer.backend

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} queue={self.consumer.queue!r} "
            f"exchange={self.publisher.exchange!r} on {self.connection!r}>"
        )

    def send(
        self,
        message_data: Any,
        delivery_mode: int | str | None = None,
        **options: Unpack[MoreSendOptions],
    ) -> None:
        """See :meth:`Publisher.send`."""
        self.publisher.send(message_data, delivery_mode=delivery_mode, **options)

    def fetch(
        self,
        no_ack: bool | None = None,
        auto_ack: bool | None = None,
        enable_callbacks: bool = False,
        *,
        timeout: float | None = None,
    ) -> Message | None:
        """See :meth:`Consumer.fetch`."""
        return self.consumer.fetch(no_ack, auto_ack, enable_callbacks, timeout=timeout)

    def wait(self, limit: int | None = None, timeout: float | None = None) -> None:
        """See :meth:`Consumer.wait`."""
        self.consumer.wait(limit, timeout)

    def stop(self) -> None:
        """See :meth:`Consumer.stop`."""
        self.consumer.stop()

    def close(self) -> None:
        """Close the consumer and the publisher. Again is harmless."""
        self.consumer.close()
        self.publisher.close()
