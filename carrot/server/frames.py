"""The broker's side of AMQP's frames with a content: publish in, deliver, get-ok and return out.

AMQP 0-9-1, section 1.8.3. The client's side, and all that both have, is
:mod:`carrot.backends.amqp.framing`.
"""

from __future__ import annotations

from struct import Struct

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import (
    DELIVER,
    GET_OK,
    METHOD,
    RETURN,
    ContentEncoder,
    ack_frame,
)
from carrot.backends.amqp.tables import read_short_string, short_string

__all__ = ["BrokerEncoder", "ack_frame", "nack_frame", "publication_of"]

_method = Struct(">BHII")  # a frame's head, and the method it carries
_tag_flag = Struct(">QB")
_code = Struct(">H")
_count = Struct(">I")
_nack = Struct(">BHIIQBB")
_NACK = 0x003C0078
NO_ROUTE = 312


def publication_of(arguments: bytes) -> tuple[str, str, bool]:
    """Of a basic.publish: exchange, routing key, and whether it is mandatory.

    :raises FramingError: the bytes are something else.
    """
    exchange, at = read_short_string(arguments, 2)
    routing_key, at = read_short_string(arguments, at)
    if at + 1 != len(arguments):
        raise FramingError(f"a basic.publish of {len(arguments)} bytes ends elsewhere")
    return exchange, routing_key, arguments[at] & 1 != 0


def nack_frame(channel: int, number: int) -> bytes:
    """The broker refused the message of that number."""
    return _nack.pack(METHOD, channel, 13, _NACK, number, 0, 0xCE)


class BrokerEncoder(ContentEncoder):
    """Makes the frames of messages that one channel's client gets."""

    def _content(self, method: int, arguments: bytes, properties: bytes, body: bytes) -> bytes:
        frame = b"".join(
            (
                _method.pack(METHOD, self.channel, 4 + len(arguments), method),
                arguments,
                b"\xce",
            )
        )
        return self.with_content(frame, properties, body)

    def deliver(
        self,
        consumer_tag: bytes,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        properties: bytes,
        body: bytes,
    ) -> bytes:
        """:param consumer_tag: as a short string."""
        arguments = b"".join(
            (
                consumer_tag,
                _tag_flag.pack(delivery_tag, redelivered),
                short_string(exchange),
                short_string(routing_key),
            )
        )
        return self._content(DELIVER, arguments, properties, body)

    def get_ok(
        self,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        left: int,
        properties: bytes,
        body: bytes,
    ) -> bytes:
        """:param left: messages that are ready in the queue."""
        arguments = b"".join(
            (
                _tag_flag.pack(delivery_tag, redelivered),
                short_string(exchange),
                short_string(routing_key),
                _count.pack(left),
            )
        )
        return self._content(GET_OK, arguments, properties, body)

    def unroutable(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> bytes:
        """A mandatory message that reached no queue goes back."""
        arguments = b"".join(
            (
                _code.pack(NO_ROUTE),
                short_string("NO_ROUTE"),
                short_string(exchange),
                short_string(routing_key),
            )
        )
        return self._content(RETURN, arguments, properties, body)
