"""AMQP frames: bytes in, events out; a message in, bytes out. pamqp is the referee."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import body, commands, frame, header, heartbeat

from carrot.backends.amqp import framing
from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import Decoder, Event, PublishEncoder
from carrot.backends.amqp.methods import decode_method
from carrot.backends.amqp.tables import decode_content, decode_properties, encode_properties

FRAME_MAX = 4096
LARGEST = FRAME_MAX - 8  # what a frame may carry
HEARTBEAT = frame.marshal(heartbeat.Heartbeat(), 0)

QOS_OK = frame.marshal(commands.Basic.QosOk(), 1)


def raw(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    """A frame, made by hand."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def content(
    method: commands.Basic.Deliver | commands.Basic.GetOk | commands.Basic.Return,
    text: bytes,
    channel: int = 1,
    *,
    size: int = LARGEST,
    **properties: object,
) -> list[bytes]:
    """The frames of a method with a content, as pamqp makes them; bodies of at most *size*."""
    head = header.ContentHeader(0, len(text), commands.Basic.Properties(**properties))
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return [
        frame.marshal(method, channel),
        frame.marshal(head, channel),
        *(frame.marshal(body.ContentBody(piece), channel) for piece in pieces),
    ]


def deliver(tag: int = 1, consumer: str = "ctag", redelivered: bool = False) -> object:
    return commands.Basic.Deliver(consumer, tag, redelivered, "feed", "importer")


def stream() -> bytes:
    """Everything that a broker says: deliveries large and small on two channels, and the rest."""
    large = content(deliver(1), b"a" * 10_000, 1, content_type="text/plain")
    small = content(deliver(2, "other"), b"b", 2)
    empty = content(commands.Basic.GetOk(3, False, "feed", "importer", 0), b"", 2)
    returned = content(commands.Basic.Return(312, "NO_ROUTE", "feed", "nowhere"), b"c" * 5000, 3)
    # A content is whole before the next method of its channel.
    interleaved = [large[0], small[0], large[1], HEARTBEAT, small[1], large[2], small[2], *empty]
    interleaved += [large[3], *returned[:2], large[4], HEARTBEAT, *returned[2:]]
    confirms = [
        frame.marshal(commands.Basic.Ack(7, True), 1),
        frame.marshal(commands.Basic.Nack(8, False), 1),
        QOS_OK,
        frame.marshal(commands.Channel.Close(404, "NOT_FOUND", 50, 10), 4),
    ]
    return b"".join(interleaved + confirms)


def decode(data: bytes) -> list[Event]:
    return Decoder(FRAME_MAX).feed(data)


# -- what comes in


def test_delivery_is_one_event() -> None:
    frames = content(deliver(5, "ctag", True), b"body", 3, content_type="text/plain", priority=2)

    (event,) = decode(b"".join(frames))

    assert (event.channel, event.method, event.body) == (3, framing.DELIVER, b"body")
    consumer, tag, redelivered, origin = framing.delivery_of(event.arguments)
    assert (consumer, tag, redelivered) == ("ctag", 5, True)
    assert framing.origin_of(event.arguments, origin) == ("feed", "importer")
    assert decode_properties(event.properties) == {"content_type": "text/plain", "priority": 2}
    assert decode_content(event.properties) == ("text/plain", None)


def test_get_ok_and_return_have_their_content() -> None:
    got = content(commands.Basic.GetOk(9, True, "feed", "key", 4), b"x", 1)
    returned = content(commands.Basic.Return(312, "NO_ROUTE", "feed", "key"), b"y", 1)

    first, second = decode(b"".join(got + returned))

    assert (first.method, first.body) == (framing.GET_OK, b"x")
    assert framing.settled_of(first.arguments) == (9, True)
    assert framing.origin_of(first.arguments, 9) == ("feed", "key")
    assert (second.method, second.body) == (framing.RETURN, b"y")
    assert framing.origin_of(second.arguments, 2 + 1 + len("NO_ROUTE")) == ("feed", "key")


@pytest.mark.parametrize("multiple", [True, False])
@pytest.mark.parametrize("number", [1, 2**63 - 1])
def test_confirms_say_number_and_multiple(number: int, multiple: bool) -> None:
    ack = frame.marshal(commands.Basic.Ack(number, multiple), 1)
    # The flags of a nack are multiple and requeue, in one octet.
    nack = frame.marshal(commands.Basic.Nack(number, multiple, True), 1)

    events = decode(ack + nack)

    assert [event.method for event in events] == [framing.ACK, framing.NACK]
    assert [framing.settled_of(event.arguments) for event in events] == [(number, multiple)] * 2


def test_any_other_method_goes_out_as_it_is() -> None:
    answer = commands.Queue.DeclareOk("feed", 3, 1)

    (event,) = decode(frame.marshal(answer, 2))

    assert (event.channel, event.properties, event.body) == (2, b"", b"")
    assert dict(decode_method(event.method, event.arguments)) == dict(answer)


@pytest.mark.parametrize("size", [0, 1, LARGEST - 1, LARGEST, LARGEST + 1, 3 * LARGEST + 5])
def test_body_arrives_whole_whatever_its_size(size: int) -> None:
    text = bytes(number % 251 for number in range(size))

    (event,) = decode(b"".join(content(deliver(), text)))

    assert event.body == text


def test_body_may_come_in_frames_of_any_size() -> None:
    pieces = content(deliver(), b"some text", size=2)
    # A frame of a body may be empty; it says nothing.
    pieces.insert(3, raw(framing.BODY, 1, b""))

    (event,) = decode(b"".join(pieces))

    assert event.body == b"some text"


def test_channels_may_interleave() -> None:
    first, second = content(deliver(1), b"a" * 5000, 1), content(deliver(2), b"b" * 5000, 2)
    mixed = [piece for pair in zip(first, second, strict=True) for piece in pair]

    events = decode(b"".join(mixed))

    assert [(event.channel, event.body[:1], len(event.body)) for event in events] == [
        (1, b"a", 5000),
        (2, b"b", 5000),
    ]


def test_heartbeats_between_the_frames_of_a_message_are_nothing() -> None:
    frames = content(deliver(), b"x" * 5000)

    (event,) = decode(HEARTBEAT.join([b"", *frames, b""]))

    assert event.body == b"x" * 5000


def test_every_byte_alone_gives_the_same_events() -> None:
    data = stream()
    decoder = Decoder(FRAME_MAX)
    expected = decode(data)

    events = [event for at in range(len(data)) for event in decoder.feed(data[at : at + 1])]

    assert events == expected
    assert len(events) == 8


def test_event_is_there_with_the_last_byte_and_not_before() -> None:
    data = b"".join(content(deliver(), b"text"))
    decoder = Decoder(FRAME_MAX)

    assert decoder.feed(data[:-1]) == []
    assert len(decoder.feed(data[-1:])) == 1


def test_partial_frame_waits_for_its_rest() -> None:
    data = b"".join(content(deliver(), b"text"))
    decoder = Decoder(FRAME_MAX)

    first = decoder.feed(data + data + data[:20])
    second = decoder.feed(data[20:])

    assert (len(first), len(second)) == (2, 1)
    assert first[0] == second[0]


@given(st.data())
def test_any_splitting_of_a_stream_gives_the_same_events(data: st.DataObject) -> None:
    whole = stream()
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=40).map(sorted))
    decoder = Decoder(FRAME_MAX)

    events = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        events += decoder.feed(whole[start:end])

    assert events == decode(whole)


def test_nothing_is_an_event() -> None:
    assert decode(b"") == []
    assert decode(HEARTBEAT) == []


# -- what is not AMQP


HEADER = content(deliver(), b"text")[1]
METHOD = content(deliver(), b"text")[0]
BODY = content(deliver(), b"text")[2]
HUGE = struct.pack(">BHI", 3, 1, LARGEST + 1)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (QOS_OK[:-1] + b"\x00", "ends with 0x00"),
        (METHOD[:-1] + b"\xcf" + HEADER + BODY, "ends with 0xcf"),
        (METHOD + HEADER[:-1] + b"\xcf" + BODY, "ends with 0xcf"),
        (METHOD + HEADER + BODY[:-1] + b"\xcf", "ends with 0xcf"),
        (HUGE + b"\x00", "4088 were agreed"),
        (METHOD + HEADER + HUGE + b"\x00", "4088 were agreed"),
        (HEADER, "without the method"),
        (BODY, "without the method"),
        (METHOD + BODY, "without its header"),
        (METHOD + HEADER + HEADER, "header"),
        (METHOD + METHOD, "before the content"),
        (METHOD + QOS_OK, "before the content"),
        (METHOD + HEADER + QOS_OK, "before the content"),
        (METHOD + HEADER + raw(3, 1, b"longer"), "longer than that says"),
        (METHOD + HEADER + raw(3, 1, b"tex") + raw(3, 1, b"ts"), "longer than that says"),
        (METHOD + HEADER + raw(3, 2, b"text"), "without the method"),
        (METHOD + raw(2, 1, b"\x00<\x00\x00"), "header that is short"),
        (raw(1, 1, b"\x00\x3c"), "a method frame of 2 bytes"),
        (raw(9, 0, b""), "unknown type 9"),
        (raw(0, 0, b""), "unknown type 0"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "frame of"),
        (b"AMQP\x00\x00\x09\x01", "frame of"),
    ],
)
def test_what_is_not_amqp_is_one_clear_error(data: bytes, says: str) -> None:
    with pytest.raises(FramingError, match=says):
        decode(data)


@pytest.mark.parametrize("before", [b"", HEARTBEAT, METHOD + HEADER])
def test_frame_too_large_is_an_error_as_soon_as_its_head_is_there(before: bytes) -> None:
    decoder = Decoder(FRAME_MAX)
    decoder.feed(before + HUGE[:6])

    with pytest.raises(FramingError, match="4088 were agreed"):
        decoder.feed(HUGE[6:7])


def test_frame_as_large_as_agreed_is_none_too_large() -> None:
    (event,) = decode(b"".join(content(deliver(), b"x" * LARGEST)))

    assert len(event.body) == LARGEST


def test_no_more_than_a_frame_is_kept() -> None:
    decoder = Decoder(FRAME_MAX)
    piece = content(deliver(), b"x" * LARGEST)[2]
    tracemalloc.start()
    try:
        # What a header announces is not believed: memory grows with what has come.
        decoder.feed(METHOD + frame.marshal(header.ContentHeader(0, 2**63), 1))
        for _ in range(3):
            decoder.feed(piece[:-1])
            decoder.feed(piece[-1:])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20 * FRAME_MAX


def test_what_contents_take_that_are_not_whole_is_limited() -> None:
    arguments = b"x" * 4000
    method = b"\x01\x00\x01" + (4004).to_bytes(4) + b"\x00\x3c\x00\x28" + arguments + b"\xce"
    decoder = Decoder(FRAME_MAX, framing.FROM_CLIENT, 100_000)
    with pytest.raises(FramingError, match="100000 are taken"):
        for channel in range(1, 50):
            decoder.feed(method[:1] + channel.to_bytes(2) + method[3:])


def test_a_body_in_single_bytes_takes_no_more_than_is_allowed() -> None:
    decoder = Decoder(FRAME_MAX, framing.FROM_BROKER, 100_000)
    decoder.feed(METHOD + frame.marshal(header.ContentHeader(0, 50_000), 1))
    tracemalloc.start()
    try:
        with pytest.raises(FramingError, match="100000 are taken"):
            for _ in range(50_000):
                decoder.feed(b"\x03\x00\x01\x00\x00\x00\x01x\xce")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 200_000


def test_contents_that_are_whole_leave_room_for_others() -> None:
    decoder = Decoder(FRAME_MAX, framing.FROM_BROKER, 10_000)
    for _ in range(100):
        pieces = content(deliver(), b"x" * 3000)
        assert [len(event.body) for piece in pieces for event in decoder.feed(piece)] == [3000]


def everything_of(event: Event) -> None:
    """Look at an event as the driver does."""
    if event.method == framing.DELIVER:
        *_, origin = framing.delivery_of(event.arguments)
        framing.origin_of(event.arguments, origin)
    elif event.method == framing.GET_OK:
        framing.settled_of(event.arguments)
        framing.origin_of(event.arguments, 9)
    elif event.method in (framing.ACK, framing.NACK):
        framing.settled_of(event.arguments)
    elif event.method == framing.RETURN:
        framing.origin_of(event.arguments, 2)
    else:
        decode_method(event.method, event.arguments)
    if event.properties:
        decode_properties(event.properties)
        decode_content(event.properties)


known_methods = st.sampled_from(
    [
        framing.DELIVER,
        framing.GET_OK,
        framing.RETURN,
        framing.ACK,
        framing.NACK,
        commands.Connection.Start.index,
        commands.Connection.Close.index,
        commands.Channel.Close.index,
        commands.Queue.DeclareOk.index,
        commands.Basic.Cancel.index,
        0xFFFFFFFF,
    ]
)
payloads = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda method, rest: struct.pack(">I", method) + rest,
        known_methods,
        st.binary(max_size=60),
    ),
    st.builds(
        lambda size, rest: struct.pack(">HHQ", 60, 0, size) + rest,
        st.one_of(st.integers(0, 60), st.integers(0, 2**64 - 1)),
        st.binary(min_size=2, max_size=60),
    ),
)
frames = st.builds(raw, st.sampled_from([1, 1, 2, 3, 8, 0, 9]), st.integers(0, 2), payloads)


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_arbitrary_bytes_are_events_or_one_clear_error(pieces: list[bytes]) -> None:
    decoder = Decoder(FRAME_MAX)

    with suppress(FramingError):
        for piece in pieces:
            for event in decoder.feed(piece):
                everything_of(event)


@settings(max_examples=500, deadline=None)
@given(st.lists(frames, max_size=10), st.binary(max_size=3))
def test_arbitrary_frames_are_events_or_one_clear_error(pieces: list[bytes], rest: bytes) -> None:
    decoder = Decoder(FRAME_MAX)

    with suppress(FramingError):
        for piece in [*pieces, rest]:
            for event in decoder.feed(piece):
                everything_of(event)


@given(st.data())
def test_a_byte_changed_on_the_way_is_events_or_one_clear_error(data: st.DataObject) -> None:
    whole = bytearray(stream())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))

    with suppress(FramingError):
        for event in decode(bytes(whole)):
            everything_of(event)


@pytest.mark.parametrize(
    "look",
    [
        framing.delivery_of,
        framing.settled_of,
        lambda arguments: framing.origin_of(arguments, 0),
        lambda arguments: framing.origin_of(arguments, 9),
    ],
)
@pytest.mark.parametrize("arguments", [b"", b"\x05ab", b"\xff"])
def test_arguments_that_are_cut_off_are_one_clear_error(look: object, arguments: bytes) -> None:
    with pytest.raises(FramingError):
        look(arguments)  # type: ignore[operator]


# -- what goes out


def referee(data: bytes) -> list[tuple[int, object]]:
    """Channel and frame, of every frame in *data*, as pamqp reads them."""
    found = []
    while data:
        size, channel, value = frame.unmarshal(data)
        found.append((channel, value))
        data = data[size:]
    return found


@pytest.mark.parametrize("multiple", [True, False])
@pytest.mark.parametrize("tag", [1, 2**63 - 1])
def test_ack_and_reject_are_what_pamqp_makes_of_them(tag: int, multiple: bool) -> None:
    ack = framing.ack_frame(7, tag, multiple)
    reject = framing.reject_frame(7, tag, requeue=multiple)

    assert ack == frame.marshal(commands.Basic.Ack(tag, multiple), 7)
    assert reject == frame.marshal(commands.Basic.Reject(tag, multiple), 7)
    assert len(ack) == len(reject) == 21


def test_heartbeat_is_what_pamqp_makes_of_it() -> None:
    assert framing.HEARTBEAT_FRAME == HEARTBEAT


@pytest.mark.parametrize("mandatory", [True, False])
@pytest.mark.parametrize("size", [0, 1, LARGEST, LARGEST + 1, 2 * LARGEST, 2 * LARGEST + 1])
def test_message_is_the_frames_that_pamqp_reads(size: int, mandatory: bool) -> None:
    encoder = PublishEncoder(5, FRAME_MAX)
    text = bytes(number % 251 for number in range(size))
    properties = encode_properties({"content_type": "text/plain", "headers": {"a": 1}})

    data = encoder.encode("feed", "importer", mandatory, properties, text)

    channels, (publish, head, *bodies) = zip(*referee(data), strict=True)
    assert set(channels) == {5}
    assert dict(publish) == dict(
        commands.Basic.Publish(0, "feed", "importer", mandatory=mandatory, immediate=False)
    )
    assert (head.class_id, head.body_size) == (60, size)
    assert (head.properties.content_type, head.properties.headers) == ("text/plain", {"a": 1})
    assert b"".join(piece.value for piece in bodies) == text
    assert all(0 < len(piece.value) <= LARGEST for piece in bodies)
    assert len(bodies) == -(-size // LARGEST)


names = st.text(max_size=60).filter(lambda name: len(name.encode()) <= 255)


@given(exchange=names, routing_key=names, text=st.binary(max_size=3 * FRAME_MAX))
def test_what_is_encoded_as_a_publish_can_be_decoded_as_a_delivery(
    exchange: str, routing_key: str, text: bytes
) -> None:
    properties = encode_properties({"delivery_mode": 2})
    data = PublishEncoder(1, FRAME_MAX).encode(exchange, routing_key, False, properties, text)
    (size,) = struct.unpack_from(">I", data, 3)
    publish, contents = data[11 : 7 + size], data[8 + size :]
    # The broker's arguments: a consumer tag, the delivery tag and redelivered come first.
    arguments = b"\x01c" + struct.pack(">QB", 4, 0) + publish[2:-1]

    (event,) = decode(raw(1, 1, struct.pack(">I", framing.DELIVER) + arguments) + contents)

    *_, origin = framing.delivery_of(event.arguments)
    assert framing.origin_of(event.arguments, origin) == (exchange, routing_key)
    assert (event.properties, event.body) == (properties, text)


def test_same_address_gives_the_same_bytes_again() -> None:
    encoder = PublishEncoder(1, FRAME_MAX)
    flags = encode_properties({})
    addresses = [("a", "b", True), ("a", "b", False), ("b", "a", False), ("", "ab", False)]

    def encode(encoder: PublishEncoder, address: tuple[str, str, bool]) -> bytes:
        return encoder.encode(*address, flags, b"x")

    remembered = [encode(encoder, address) for _ in range(2) for address in addresses]

    assert remembered == [encode(PublishEncoder(1, FRAME_MAX), a) for a in addresses] * 2
    assert len(set(remembered)) == len(addresses)


def test_ten_thousand_routing_keys_do_not_fill_memory() -> None:
    encoder = PublishEncoder(1, FRAME_MAX)
    flags = encode_properties({})

    def encode_all() -> None:
        for number in range(10_000):
            encoder.encode("feed", f"key.{number:0>100}", False, flags, b"")

    encode_all()
    tracemalloc.start()
    try:
        encode_all()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # All of them would be 3 MB.
    assert grown < 500_000
    assert len(encoder._methods) < 1000
