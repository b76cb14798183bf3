"""AMQP frames, sans-I/O: bytes in, events out; a message in, bytes out.

AMQP 0-9-1, section 4.2. The frames of publish, deliver, get-ok, return, ack, nack and reject are
this file's own; the payload of any other goes out as it is, for pamqp.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import NamedTuple

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.tables import read_short_string, short_string

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
#: What a frame needs besides its payload: type, channel, size; and the end.
OVERHEAD = 8
#: What a content header's frame needs besides flags and properties.
CONTENT_HEADER = OVERHEAD + 12

# Class and method in one number, as they stand in the frame.
DELIVER, GET_OK, RETURN = 0x003C003C, 0x003C0047, 0x003C0032
ACK, NACK = 0x003C0050, 0x003C0078
PUBLISH, REJECT = 0x003C0028, 0x003C005A
#: The methods with a content that a broker sends, and that a client sends.
FROM_BROKER, FROM_CLIENT = frozenset((DELIVER, GET_OK, RETURN)), frozenset((PUBLISH,))

HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

# What a piece of a body takes besides its bytes, about: a peer may send them one by one.
_PIECE = 64

_frame = Struct(">BHI")
_method = Struct(">BHII")  # a frame's head, and the method it carries
_header = Struct(">BHIHHQ")  # a frame's head; class, weight and size of the body
_tag_flag = Struct(">QB")
settlement = Struct(">BHIIQBB")
_size = Struct(">I")
_body_size = Struct(">Q")


class Event(NamedTuple):
    """A method that came in whole, with its content if it has one.

    :param arguments: the method's payload, behind class and method.
    :param properties: the content header's flags and property list; empty without a content.
    """

    channel: int
    method: int
    arguments: bytes
    properties: bytes
    body: bytes


class _Content:
    """A content that has begun and is not complete."""

    __slots__ = ("arguments", "method", "missing", "parts", "properties", "size")

    def __init__(self, method: int, arguments: bytes) -> None:
        self.method = method
        self.arguments = arguments
        self.properties = b""
        #: Bytes: what it takes here, and what of the body is still to come.
        self.size = self.missing = 0
        self.parts: list[bytes] = []


class Decoder:
    """Takes the bytes of a connection in any pieces, and gives the events they complete.

    :param frame_max: bytes; a larger frame is an error before it is read.
    :param carriers: the methods with a content.
    :param content_max: bytes that all contents together may take that have begun and are not
        complete; None is no limit.
    """

    def __init__(
        self,
        frame_max: int,
        carriers: frozenset[int] = FROM_BROKER,
        content_max: int | None = None,
    ) -> None:
        self.frame_max = frame_max
        self._carriers = carriers
        self._content_max = content_max
        self._begun = 0
        self._rest = b""
        self._contents: dict[int, _Content] = {}

    def feed(self, data: bytes) -> list[Event]:
        """What *data* completes, in the order it came.

        :raises FramingError: the bytes are not AMQP; the decoder is of no more use.
        """
        if self._rest:
            data = self._rest + data
        events: list[Event] = []
        at, end = 0, len(data)
        contents, carriers, new = self._contents, self._carriers, tuple.__new__
        largest = self.frame_max - OVERHEAD
        while end - at >= 7:
            kind, channel, size = _frame.unpack_from(data, at)
            if size > largest:
                raise FramingError(f"a frame of {size} bytes; {largest} were agreed")
            after = at + OVERHEAD + size
            if after > end:
                break
            if data[after - 1] != FRAME_END:
                raise FramingError(f"a frame ends with {data[after - 1]:#04x}, not with 0xce")
            if kind == METHOD:
                if channel in contents:
                    raise FramingError("a method came before the content of the last was whole")
                if size < 4:
                    raise FramingError(f"a method frame of {size} bytes")
                (method,) = _size.unpack_from(data, at + 7)
                arguments = data[at + 11 : after - 1]
                if method not in carriers:
                    events.append(Event(channel, method, arguments, b"", b""))
                    at = after
                    continue
                # The usual case in one step, 1.1 µs (of 2.2) sooner: header and body are here too,
                # in one frame each.
                if after + 22 <= end:
                    kind, number, size, _, _, body_size = _header.unpack_from(data, after)
                    body_at = after + OVERHEAD + size
                    last = body_at + OVERHEAD + body_size
                    if (
                        kind == HEADER
                        and number == channel
                        and 0 < body_size <= largest
                        and 14 <= size <= largest
                        and last <= end
                        and data[body_at - 1] == data[last - 1] == FRAME_END
                        and _frame.unpack_from(data, body_at) == (BODY, channel, body_size)
                    ):
                        # What Event(…) does, 0.1 µs sooner.
                        event = new(
                            Event,
                            (
                                channel,
                                method,
                                arguments,
                                data[after + 19 : body_at - 1],
                                data[body_at + 7 : last - 1],
                            ),
                        )
                        events.append(event)
                        at = last
                        continue
                contents[channel] = begun = _Content(method, arguments)
                self._grow(begun, len(arguments))
            elif kind in (HEADER, BODY):
                content = contents.get(channel)
                if content is None:
                    raise FramingError("a content came without the method it belongs to")
                payload = data[at + 7 : after - 1]
                if self._is_whole(content, kind, payload):
                    del contents[channel]
                    self._begun -= content.size
                    body = content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
                    events.append(
                        Event(channel, content.method, content.arguments, content.properties, body)
                    )
            elif kind != HEARTBEAT:
                raise FramingError(f"a frame of the unknown type {kind}")
            at = after
        self._rest = data[at:] if at else data
        return events

    def _is_whole(self, content: _Content, kind: int, payload: bytes) -> bool:
        """Add a frame's payload to its content; True: that was the last."""
        if kind == HEADER:
            if content.properties or len(payload) < 14:
                raise FramingError("a content header that is short, or the second of its content")
            (content.missing,) = _body_size.unpack_from(payload, 4)
            self._grow(content, content.missing + len(payload))
            content.properties = payload[12:]
        else:
            if not content.properties or len(payload) > content.missing:
                raise FramingError("a body without its header, or longer than that says")
            content.missing -= len(payload)
            content.parts.append(payload)
            self._grow(content, _PIECE)
        return content.missing == 0

    def _grow(self, content: _Content, size: int) -> None:
        content.size += size
        self._begun += size
        if self._content_max is not None and self._begun > self._content_max:
            raise FramingError(
                f"contents of {self._begun} bytes have begun; {self._content_max} are taken"
            )


# -- what deliveries and answers say ----------------------------------------------------


REMEMBERED_TAGS = 256
_consumer_tags: dict[bytes, str] = {}


def delivery_of(arguments: bytes) -> tuple[str, int, bool, int]:
    """Of a basic.deliver: consumer tag, delivery tag, redelivered, and where the rest begins."""
    try:
        at = 1 + arguments[0]
        tag, redelivered = _tag_flag.unpack_from(arguments, at)
    except (IndexError, struct_error) as exc:
        raise FramingError(f"a basic.deliver of {len(arguments)} bytes is cut off") from exc
    name = arguments[1:at]
    # A connection has few consumers, and decoding a tag for each message would cost 0.2 µs.
    consumer_tag = _consumer_tags.get(name)
    if consumer_tag is None:
        if len(_consumer_tags) >= REMEMBERED_TAGS:
            _consumer_tags.clear()
        consumer_tag = _consumer_tags[name] = name.decode("utf-8", "replace")
    return consumer_tag, tag, redelivered != 0, at + 9


def origin_of(arguments: bytes, at: int) -> tuple[str, str]:
    """Exchange and routing key, which stand together from that offset on."""
    exchange, at = read_short_string(arguments, at)
    routing_key, _ = read_short_string(arguments, at)
    return exchange, routing_key


def settled_of(arguments: bytes) -> tuple[int, bool]:
    """Of a confirm, ack or nack: the message's number, and whether it means all up to it."""
    try:
        number, multiple = _tag_flag.unpack_from(arguments)
    except struct_error as exc:
        raise FramingError(f"a delivery tag of {len(arguments)} bytes is cut off") from exc
    return number, multiple & 1 != 0


# -- what goes out ----------------------------------------------------------------------


def ack_frame(channel: int, delivery_tag: int, multiple: bool) -> bytes:
    return settlement.pack(METHOD, channel, 13, ACK, delivery_tag, multiple, FRAME_END)


def reject_frame(channel: int, delivery_tag: int, requeue: bool) -> bytes:
    return settlement.pack(METHOD, channel, 13, REJECT, delivery_tag, requeue, FRAME_END)


def nack_frame(channel: int, delivery_tag: int, multiple: bool, requeue: bool) -> bytes:
    bits = multiple | requeue << 1
    return settlement.pack(METHOD, channel, 13, NACK, delivery_tag, bits, FRAME_END)


# How many different method frames and property lists a channel remembers.
_REMEMBERED = 512


class ContentEncoder:
    """Makes the frames of methods with a content, for one channel."""

    def __init__(self, channel: int, frame_max: int) -> None:
        self.channel = channel
        self._largest = frame_max - OVERHEAD

    def with_content(self, method: bytes, properties: bytes, body: bytes) -> bytes:
        """Method, header and body frames in one piece.

        :param method: its frame.
        :param properties: as :func:`carrot.backends.amqp.tables.encode_properties` makes them.
        """
        size = len(body)
        channel = self.channel
        head = _header.pack(HEADER, channel, 12 + len(properties), 60, 0, size)
        if size == 0:
            return b"".join((method, head, properties, b"\xce"))
        if size <= self._largest:
            return b"".join(
                (method, head, properties, b"\xce", _frame.pack(BODY, channel, size), body, b"\xce")
            )
        pieces: list[bytes | memoryview] = [method, head, properties, b"\xce"]
        view = memoryview(body)
        for at in range(0, size, self._largest):
            part = view[at : at + self._largest]
            pieces += (_frame.pack(BODY, channel, len(part)), part, b"\xce")
        return b"".join(pieces)


class PublishEncoder(ContentEncoder):
    """Makes the frames of messages that are published on one channel.

    A method frame depends on exchange, routing key and mandatory only, and few are in use at a
    time: they are remembered, in a dict that is emptied when it is full, which saves 0.6 µs.
    """

    def __init__(self, channel: int, frame_max: int) -> None:
        super().__init__(channel, frame_max)
        self._methods: dict[tuple[str, str, bool], bytes] = {}

    def encode(
        self, exchange: str, routing_key: str, mandatory: bool, properties: bytes, body: bytes
    ) -> bytes:
        """Method, header and body frames in one piece.

        :param properties: as :func:`carrot.backends.amqp.tables.encode_properties` makes them.
        """
        key = (exchange, routing_key, mandatory)
        method = self._methods.get(key)
        if method is None:
            method = self._remember(key)
        return self.with_content(method, properties, body)

    def _remember(self, key: tuple[str, str, bool]) -> bytes:
        exchange, routing_key, mandatory = key
        arguments = b"\x00\x00" + short_string(exchange) + short_string(routing_key)
        size = 4 + len(arguments) + 1
        frame = b"".join(
            (
                _method.pack(METHOD, self.channel, size, PUBLISH),
                arguments,
                b"\x01" if mandatory else b"\x00",
                b"\xce",
            )
        )
        if len(self._methods) >= _REMEMBERED:
            self._methods.clear()
        self._methods[key] = frame
        return frame
