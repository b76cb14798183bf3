"""What a client may say to the ZeroMQ broker; nothing else gets further than its session."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import base, commands

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import Decoder, Event, PublishEncoder, ack_frame, reject_frame
from carrot.backends.amqp.methods import decode_method, encode_method
from carrot.backends.amqp.tables import decode_properties, encode_properties
from carrot.broker.message import QueuedMessage
from carrot.checks import MAX_DEPTH
from carrot.exceptions import CarrotError
from carrot.server.journal import Journal
from carrot.server.protocol import FRAME_MAX
from carrot.server.session import DRAINED, FULL, PATIENCE, Session
from carrot.server.virtual_host import ServedVirtualHost

LOGIN = (
    encode_method(commands.Connection.StartOk, 0, mechanism="PLAIN", response="\0ann\0secret"),
    encode_method(commands.Connection.TuneOk, 0, frame_max=FRAME_MAX, heartbeat=4),
    encode_method(commands.Connection.Open, 0, virtual_host="/"),
)
OPEN = encode_method(commands.Channel.Open, 1)
PROPERTIES = encode_properties({"content_type": "text/plain", "headers": {"a": [1, "b"]}})


def published(
    key: str = "q", body: bytes = b"x", exchange: str = "", mandatory: bool = False
) -> bytes:
    return PublishEncoder(1, FRAME_MAX).encode(exchange, key, mandatory, PROPERTIES, body)


class Client:
    """A session, and what it says."""

    def __init__(
        self, virtual_host: ServedVirtualHost, now: float = 0.0, log_in: bool = True
    ) -> None:
        self.outputs = 0
        self.session = Session(lambda name: virtual_host, self._on_output, now)
        self._decoder = Decoder(FRAME_MAX)
        if log_in:
            self.say(*LOGIN, OPEN)
            self.hear()

    def _on_output(self, session: Session) -> None:
        self.outputs += 1

    def say(self, *frames: bytes, now: float = 0.0) -> None:
        self.session.feed(b"".join(frames), now)

    def hear(self) -> list[Event]:
        self.session.settle()
        return [e for piece in self.session.take_output() for e in self._decoder.feed(piece)]

    def hear_methods(self) -> list[base.Frame]:
        return [decode_method(event.method, event.arguments) for event in self.hear()]

    def hear_names(self) -> list[str]:
        return [method.name for method in self.hear_methods()]


@pytest.fixture
def virtual_host() -> ServedVirtualHost:
    return ServedVirtualHost("/", Journal())


@pytest.fixture
def client(virtual_host: ServedVirtualHost) -> Client:
    client = Client(virtual_host)
    client.say(encode_method(commands.Queue.Declare, 1, queue="q"))
    client.hear()
    return client


# -- the handshake


def test_handshake_is_start_tune_and_open(virtual_host):
    client = Client(virtual_host, log_in=False)

    said = [client.hear_names()]
    for frame in LOGIN:
        client.say(frame)
        said.append(client.hear_names())

    assert said == [["Connection.Start"], ["Connection.Tune"], [], ["Connection.OpenOk"]]
    assert [connection.user for connection in virtual_host.connections] == ["ann"]


@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_step_of_the_handshake_that_is_left_out_is_garbage(virtual_host, skipped):
    client = Client(virtual_host, log_in=False)

    with pytest.raises(FramingError, match=r"expected Connection|out of order"):
        client.say(*LOGIN[:skipped], *LOGIN[skipped + 1 :], OPEN)


# -- confirms


def test_messages_of_one_piece_are_confirmed_by_one_frame(client):
    client.say(encode_method(commands.Confirm.Select, 1), *[published()] * 3)

    _, ack = client.hear_methods()

    assert (ack.name, ack.delivery_tag, ack.multiple) == ("Basic.Ack", 3, True)


def test_nothing_is_confirmed_before_it_is_settled(client):
    client.say(encode_method(commands.Confirm.Select, 1))
    client.hear()
    outputs = client.outputs

    client.say(published())

    assert client.session.take_output() == []
    # And yet somebody has to come and settle.
    assert client.outputs == outputs + 1
    assert client.hear_names() == ["Basic.Ack"]


def test_refused_message_is_nacked_and_those_around_it_are_confirmed(client):
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    client.say(
        encode_method(commands.Queue.Declare, 1, queue="full", arguments=full),
        encode_method(commands.Confirm.Select, 1),
        published("q"), published("full"), published("full"), published("q"),
    )  # fmt: skip

    _, _, *confirms = client.hear_methods()

    assert [(c.name, c.delivery_tag) for c in confirms] == [
        ("Basic.Ack", 2), ("Basic.Nack", 3), ("Basic.Ack", 4),
    ]  # fmt: skip


def test_unroutable_message_comes_back_before_its_confirm(client):
    client.say(encode_method(commands.Confirm.Select, 1), published("nowhere", mandatory=True))

    _, returned, ack = client.hear()

    back = decode_method(returned.method, returned.arguments)
    assert (back.name, back.reply_code, back.routing_key) == ("Basic.Return", 312, "nowhere")
    assert (returned.properties, returned.body) == (PROPERTIES, b"x")
    assert decode_method(ack.method, ack.arguments).name == "Basic.Ack"


def test_what_was_published_before_a_refusal_is_confirmed_before_it(client):
    client.say(encode_method(commands.Confirm.Select, 1), published(), published(exchange="no"))

    names = client.hear_names()

    assert names == ["Confirm.SelectOk", "Basic.Ack", "Channel.Close"]


# -- refusals


def test_refused_channel_is_silent_until_its_client_has_agreed(client):
    client.say(published(exchange="no"), published(), encode_method(commands.Basic.Get, 1))
    assert client.hear_names() == ["Channel.Close"]

    client.say(encode_method(commands.Channel.CloseOk, 1), OPEN)

    assert client.hear_names() == ["Channel.OpenOk"]


def test_client_that_closes_a_refused_channel_meanwhile_is_answered(client):
    client.say(published(exchange="no"), encode_method(commands.Channel.Close, 1))
    # It answers the broker's goodbye too, and only then the number is free.
    client.say(encode_method(commands.Channel.CloseOk, 1), OPEN)

    assert client.hear_names() == ["Channel.Close", "Channel.CloseOk", "Channel.OpenOk"]


def test_refusal_fits_in_a_short_string(client):
    name = "ü" * 120
    client.say(encode_method(commands.Queue.Purge, 1, queue=name))

    (close,) = client.hear_methods()

    assert close.reply_code == 404
    assert len(close.reply_text.encode()) <= 255


# -- deliveries


def test_properties_are_delivered_as_they_came(client):
    client.say(
        published(), encode_method(commands.Basic.Get, 1, queue="q", no_ack=True),
        encode_method(commands.Basic.Consume, 1, queue="q", consumer_tag="t"), published(),
    )  # fmt: skip

    got, _, delivered = client.hear()

    for event in (got, delivered):
        assert decode_properties(event.properties) == decode_properties(PROPERTIES)
        assert event.body == b"x"


def test_client_that_is_full_gets_nothing_more_until_it_has_read(client, virtual_host):
    body = b"x" * 1000
    client.say(
        encode_method(commands.Basic.Consume, 1, queue="q", consumer_tag="t"),
        *[published(body=body)] * 3000,
    )
    queue = virtual_host.queues["q"]
    assert queue.ready.size == pytest.approx(3000 - FULL / 1100, rel=0.1)

    client.session.resume()
    assert queue.ready.size > 0  # nothing was read

    pieces = client.session.take_output()
    client.session.put_back(pieces[-1:])
    assert len(pieces[-1]) < DRAINED
    before = queue.ready.size
    client.session.resume()

    assert queue.ready.size < before


def test_nack_puts_several_messages_back_in_one_step(client, virtual_host):
    other = Client(virtual_host)
    client.say(
        *[published(body=b"%d" % number) for number in range(5)],
        encode_method(commands.Basic.Qos, 1, prefetch_count=4),
        encode_method(commands.Basic.Consume, 1, queue="q", consumer_tag="t"),
    )
    other.say(encode_method(commands.Basic.Consume, 1, queue="q", consumer_tag="t"))
    client.hear()
    other.hear()

    client.say(encode_method(commands.Basic.Cancel, 1, consumer_tag="t"))
    client.say(encode_method(commands.Basic.Nack, 1, delivery_tag=0, multiple=True, requeue=True))

    assert [event.body for event in other.hear()] == [b"0", b"1", b"2", b"3"]


def test_nack_of_an_unknown_tag_closes_the_channel(client):
    client.say(encode_method(commands.Basic.Nack, 1, delivery_tag=7, requeue=True))

    (close,) = client.hear_methods()
    assert (close.name, close.reply_code) == ("Channel.Close", 406)


def test_nack_that_discards_tells_the_journal():
    journal = Removals()
    client = Client(ServedVirtualHost("/", journal))
    client.say(
        encode_method(commands.Queue.Declare, 1, queue="q", durable=True),
        *[published()] * 3,
        *[encode_method(commands.Basic.Get, 1, queue="q")] * 3,
    )

    client.say(encode_method(commands.Basic.Nack, 1, delivery_tag=2, multiple=True))

    assert journal.removed == 2


class Removals(Journal):
    removed = 0

    def remove(self, message: QueuedMessage) -> None:
        self.removed += 1


# -- tables that are nested too deeply


def nested(levels: int) -> bytes:
    """The bytes of a table of that many levels: arrays in a table."""
    value = b""
    for _ in range(levels - 2):
        value = b"A" + len(value).to_bytes(4) + value
    fields = b"\x01a" + b"A" + len(value).to_bytes(4) + value
    return len(fields).to_bytes(4) + fields


def with_headers(headers: bytes) -> bytes:
    return PublishEncoder(1, FRAME_MAX).encode("", "q", False, b"\x20\x00" + headers, b"x")


def declaring(arguments: bytes) -> bytes:
    """The frame of a queue.declare with these bytes as its arguments."""
    frame = encode_method(commands.Queue.Declare, 1, queue="r")
    payload = frame[7:-5] + arguments
    return b"\x01\x00\x01" + len(payload).to_bytes(4) + payload + b"\xce"


@pytest.mark.parametrize("frame", [with_headers, declaring], ids=["headers", "arguments"])
def test_table_is_read_down_to_its_greatest_depth_and_no_further(virtual_host, frame):
    client = Client(virtual_host)

    client.say(frame(nested(MAX_DEPTH)))
    with pytest.raises(FramingError, match=f"nested deeper than {MAX_DEPTH} levels"):
        client.say(frame(nested(MAX_DEPTH + 1)))


@pytest.mark.parametrize("frame", [with_headers, declaring], ids=["headers", "arguments"])
@pytest.mark.parametrize("levels", [200, 400, 1000, 20_000])
def test_deeper_table_is_refused_in_one_short_line(virtual_host, frame, levels):
    client = Client(virtual_host)

    with pytest.raises(FramingError, match=r"nested deeper|recursion") as caught:
        client.say(frame(nested(levels)))

    assert len(str(caught.value)) < 200


# -- alive or not


def test_client_is_silent_after_two_heartbeats(client):
    assert not client.session.is_silent(8.0)
    assert client.session.is_silent(8.1)

    client.say(now=5.0)
    assert not client.session.is_silent(13.0)
    client.session.restart_silence(20.0)
    assert not client.session.is_silent(28.0)


def test_sign_of_life_is_sent_when_nothing_else_was(client):
    client.session.last_sent = 10.0

    client.session.beat(12.0)
    assert not client.session.has_output
    client.session.beat(12.1)

    assert client.session.take_output() == [b"\x08\x00\x00\x00\x00\x00\x00\xce"]


def test_handshake_has_a_deadline_of_its_own(virtual_host):
    session = Client(virtual_host, now=100.0, log_in=False).session

    assert not session.is_silent(100.0 + PATIENCE)
    assert session.is_silent(100.1 + PATIENCE)


# -- anything

METHODS = st.sampled_from(
    [
        encode_method(commands.Queue.Declare, 1, queue="q"),
        encode_method(commands.Queue.Declare, 1, queue="r", arguments={"x-max-length": 2}),
        encode_method(commands.Queue.Declare, 1, queue="no", passive=True),
        encode_method(commands.Queue.Bind, 1, queue="q", exchange="amq.topic", routing_key="#"),
        encode_method(commands.Queue.Unbind, 1, queue="q", exchange="amq.topic", routing_key="#"),
        encode_method(commands.Queue.Purge, 1, queue="q"),
        encode_method(commands.Queue.Delete, 1, queue="r"),
        encode_method(commands.Exchange.Declare, 1, exchange="e", exchange_type="headers"),
        encode_method(commands.Exchange.Bind, 1, destination="e", source="amq.fanout"),
        encode_method(commands.Exchange.Unbind, 1, destination="e", source="amq.fanout"),
        encode_method(commands.Exchange.Delete, 1, exchange="e"),
        encode_method(commands.Basic.Consume, 1, queue="q", consumer_tag="t"),
        encode_method(commands.Basic.Cancel, 1, consumer_tag="t"),
        encode_method(commands.Basic.Get, 1, queue="q"),
        encode_method(commands.Basic.Qos, 1, prefetch_count=2),
        encode_method(commands.Confirm.Select, 1),
        encode_method(commands.Channel.Close, 1, reply_code=200),
        encode_method(commands.Channel.CloseOk, 1),
        encode_method(commands.Connection.Close, 0, reply_code=200),
        OPEN,
        published(),
        published("a.b", b"y" * 200, "amq.topic"),
        published("nowhere", mandatory=True),
        ack_frame(1, 1, False),
        ack_frame(1, 0, True),
        reject_frame(1, 2, True),
        encode_method(commands.Basic.Nack, 1, delivery_tag=0, multiple=True, requeue=True),
        encode_method(commands.Basic.Nack, 1, delivery_tag=1, multiple=True),
        reject_frame(1, 3, False),
        b"\x08\x00\x00\x00\x00\x00\x00\xce",
    ]
)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """Frames of which some bytes are others."""
    data = bytearray(b"".join(draw(st.lists(METHODS, min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@given(st.lists(METHODS | broken() | st.binary(max_size=30), max_size=12), st.booleans())
@settings(max_examples=300, deadline=None)
def test_anything_is_done_or_refused_and_the_next_client_is_served(pieces, log_in):
    virtual_host = ServedVirtualHost("/", Journal())
    client = Client(virtual_host, log_in=log_in)

    # Nothing but what the server expects comes out.
    with suppress(FramingError, CarrotError):
        for piece in pieces:
            client.say(piece)
            client.hear()
    client.session.refuse(501, "garbage")
    assert client.hear_names()[-1:] == ["Connection.Close"]
    assert not virtual_host.connections

    other = Client(virtual_host)
    other.say(
        encode_method(commands.Queue.Declare, 1, queue="fresh"),
        published("fresh"),
        encode_method(commands.Basic.Get, 1, queue="fresh"),
    )
    assert other.hear_names() == ["Queue.DeclareOk", "Basic.GetOk"]
