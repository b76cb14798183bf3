"""What this driver delivers: a message that decodes what it says of itself when asked."""

from __future__ import annotations

from typing import Any

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.names import origin
from carrot.message import Message


class Delivery(Message):
    """A received message.

    :param frame: the MESSAGE, as it came.
    :param consumer_tag: whose it is; None when it was fetched.
    :param no_ack: it was fetched without acks.
    """

    def __init__(
        self,
        life: Any,
        delivery_tag: int,
        frame: Frame,
        consumer_tag: str | None,
        no_ack: bool = False,
    ) -> None:
        self.life = life
        self.delivery_tag = delivery_tag
        self.body = frame.body
        self._frame = frame
        self._consumer_tag = consumer_tag
        if no_ack:
            self.settled_by_broker()

    def _load_properties(self) -> dict[str, Any]:
        return mapping.to_properties(self._frame.headers())

    def _load_origin(self) -> tuple[str, str, bool, str | None]:
        headers = self._frame.headers()
        exchange, routing_key = origin(
            # Where it was published, when a virtual topic brought it.
            headers.get("original-destination") or headers.get("destination", "")
        )
        return (
            headers.get(mapping.EXCHANGE, exchange),
            headers.get(mapping.ROUTING_KEY, routing_key),
            headers.get("redelivered") == "true" or mapping.REQUEUED in headers,
            self._consumer_tag,
        )

    def _content(self) -> tuple[str | None, str | None]:
        return (
            self._frame.header(b"\ncontent-type:"),
            self._frame.header(b"\ncontent-encoding:"),
        )
