"""The broker's side of AMQP's frames: methods and messages in, deliveries out.

AMQP 0-9-1, section 1.8.3. The client's side, and what both sides share, is in
:mod:`carrot.backends.amqp.framing`.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error

from pamqp import base

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import (
    DELIVER,
    GET_OK,
    METHOD,
    RETURN,
    ContentEncoder,
    Event,
    ack_frame,
)
from carrot.backends.amqp.methods import decode_method
from carrot.backends.amqp.tables import (
    check_depth,
    decode_properties,
    encode_properties,
    read_short_string,
    short_string,
)
from carrot.broker.message import QueuedMessage
from carrot.message import Properties

__all__ = [
    "BrokerEncoder",
    "ack_frame",
    "command_of",
    "encoded_properties",
    "nack_frame",
    "properties_of",
    "publication_of",
]

_method = Struct(">BHII")  # a frame's head, and the method it carries
_tag_flag = Struct(">QB")
_code = Struct(">H")
_count = Struct(">I")
_nack = Struct(">BHIIQBB")
_NACK = 0x003C0078
NO_ROUTE = 312


# -- what comes in ----------------------------------------------------------------------


def command_of(event: Event) -> base.Frame:
    """pamqp's frame of a method.

    :raises FramingError: an unknown method, arguments that can't be decoded, or a table in them
        that is nested too deeply.
    """
    command = decode_method(event.method, event.arguments)
    for name in command.attributes():
        value = getattr(command, name)
        if isinstance(value, dict):
            check_depth(value)
    return command


def properties_of(data: bytes) -> Properties:
    """The properties of a message; they remember the bytes.

    :raises FramingError: the bytes are no property list, or it can't be encoded again.
    """
    properties = Properties(decode_properties(data))
    if not data[2:].isascii():
        # Bytes that are not UTF-8 were replaced by longer ones, and dead letters are encoded again.
        try:
            encode_properties(properties)
        except struct_error as exc:
            raise FramingError("a property is too long, or not UTF-8") from exc
    properties.encoded = properties_of, data
    return properties


def publication_of(arguments: bytes) -> tuple[str, str, bool]:
    """Exchange, routing key and mandatory flag of a basic.publish.

    :raises FramingError: the bytes are something else.
    """
    exchange, at = read_short_string(arguments, 2)
    routing_key, at = read_short_string(arguments, at)
    if at + 1 != len(arguments):
        raise FramingError(f"a basic.publish of {len(arguments)} bytes ends elsewhere")
    return exchange, routing_key, arguments[at] & 1 != 0


# -- what goes out ----------------------------------------------------------------------


def encoded_properties(message: QueuedMessage) -> bytes:
    """A message's properties for a delivery: the bytes that came in, unless they were changed."""
    properties = message.properties
    if type(properties) is Properties:
        encoded = properties.encoded
        if encoded is not None and encoded[0] is properties_of:
            whole: bytes = encoded[1]
            return whole
    return encode_properties(message.delivered_properties())


def nack_frame(channel: int, number: int) -> bytes:
    """Tells a publisher that the broker refused the message of that number."""
    return _nack.pack(METHOD, channel, 13, _NACK, number, 0, 0xCE)


class BrokerEncoder(ContentEncoder):
    """Makes the frames of the messages for one channel's client."""

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
        """:param left: how many messages are ready in the queue."""
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
        """The frames that return a mandatory message that reached no queue."""
        arguments = b"".join(
            (
                _code.pack(NO_ROUTE),
                short_string("NO_ROUTE"),
                short_string(exchange),
                short_string(routing_key),
            )
        )
        return self._content(RETURN, arguments, properties, body)
