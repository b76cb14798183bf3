"""What the memory driver delivers: a message that looks into the broker's when it is asked."""

from __future__ import annotations

from typing import Any

from carrot.broker.message import QueuedMessage
from carrot.message import Message


class Delivery(Message):
    """A received message.

    :param queued: the broker's own, which is not changed here.
    :param consumer_tag: whose it is; None when it was fetched.
    :param no_ack: it was fetched without acks.
    """

    def __init__(
        self,
        life: Any,
        delivery_tag: int,
        queued: QueuedMessage,
        consumer_tag: str | None,
        no_ack: bool = False,
    ) -> None:
        self.life = life
        self.delivery_tag = delivery_tag
        self.body = queued.body
        self._queued = queued
        # These change when the message goes back.
        self._came = (queued.redelivered, consumer_tag)
        if no_ack:
            self.settled_by_broker()

    def _load_properties(self) -> dict[str, Any]:
        return dict(self._queued.delivered_properties())

    def _load_origin(self) -> tuple[str, str, bool, str | None]:
        return (self._queued.exchange, self._queued.routing_key, *self._came)

    def _content(self) -> tuple[str | None, str | None]:
        properties = self._queued.shared
        return properties.get("content_type"), properties.get("content_encoding")
