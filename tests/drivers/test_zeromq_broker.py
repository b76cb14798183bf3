"""The ZeroMQ broker, and clients that die, are slow, or speak garbage."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import zmq
import zmq.auth
from pamqp import commands

from carrot.backends.amqp.framing import Decoder, PublishEncoder
from carrot.backends.amqp.methods import decode_method, encode_method
from carrot.backends.amqp.tables import encode_properties
from carrot.backends.zeromq import Broker
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ConnectionLost,
)
from carrot.messaging import Consumer, Publisher
from carrot.server import protocol
from carrot.server.session import PATIENCE, Session
from carrot.server.virtual_host import ServedVirtualHost
from tests.brokers import ZeroMQ
from tests.waiting import eventually

ANYWHERE = "tcp://127.0.0.1:*"
LATE = 1.0  # seconds that a deadline may be overrun


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(ANYWHERE) as broker:
        yield broker


@pytest.fixture
def connection(broker: Broker) -> Iterator[BrokerConnection]:
    with BrokerConnection(broker.url) as connection:
        yield connection


# -- clients that are gone, slow, or no clients


def test_messages_of_a_client_that_is_killed_go_to_another_at_once(broker, unique):
    program = (
        "import sys\n"
        "from carrot import BrokerConnection, Consumer\n"
        "consumer = Consumer(BrokerConnection(sys.argv[1]), 'feed')\n"
        "print([consumer.fetch().payload for _ in range(3)], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with BrokerConnection(broker.url) as connection:
        other = Consumer(connection, "feed")
        Publisher(connection, routing_key="feed").send_many(range(3))
        with subprocess.Popen(
            [sys.executable, "-c", program, broker.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"[0, 1, 2]\n"
            assert other.fetch() is None

            client.kill()

        # Long before two heartbeats are over.
        messages = [eventually(other.fetch) for _ in range(3)]

    assert [(message.payload, message.redelivered) for message in messages] == [
        (0, True), (1, True), (2, True),
    ]  # fmt: skip


def test_what_was_sent_before_a_connection_broke_is_taken(broker, connection):
    consumer = Consumer(connection, "feed")
    backend = connection.create_backend()
    raw = Raw(broker)
    raw.log_in()
    encoder = PublishEncoder(1, protocol.FRAME_MAX)
    for number in range(1000):
        raw.send(encoder.encode("", "feed", False, bytes(2), str(number).encode()))

    raw.socket.close(linger=10_000)
    raw.context.term()

    eventually(lambda: backend.queue_declare("feed", True, False, False).message_count == 1000)
    bodies = [consumer.fetch().body for _ in range(3)]
    assert bodies == [b"0", b"1", b"2"]


def test_exclusive_queue_goes_with_its_connection(broker, connection):
    with BrokerConnection(broker.url) as other:
        Consumer(other, "mine", exclusive=True)
        assert connection.create_backend().queue_exists("mine")

    eventually(lambda: not connection.create_backend().queue_exists("mine"))


class Raw:
    """A DEALER socket that says what it wants."""

    def __init__(self, broker: Broker) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(broker.url.removeprefix("zeromq+"))
        self.decoder = Decoder(protocol.FRAME_MAX)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def log_in(self) -> None:
        """The whole handshake, and channel 1."""
        self.send(protocol.PROTOCOL_HEADER)
        start_ok = encode_method(
            commands.Connection.StartOk, 0, mechanism="PLAIN", response="\0guest\0guest"
        )
        tune_ok = encode_method(
            commands.Connection.TuneOk, 0, frame_max=protocol.FRAME_MAX, heartbeat=0
        )
        opened = encode_method(commands.Connection.Open, 0, virtual_host="/")
        self.send(start_ok + tune_ok + opened + encode_method(commands.Channel.Open, 1))
        while "Channel.OpenOk" not in self.read():
            pass

    def read(self, within: float = 10.0) -> list[str]:
        """The names of the methods in one message; empty: it hung up."""
        assert self.socket.poll(1000 * within), "the broker says nothing"
        data = self.socket.recv()
        return [decode_method(e.method, e.arguments).name for e in self.decoder.feed(data)]

    def read_to_the_end(self) -> list[str]:
        """The same of all messages until the broker hangs up."""
        said: list[str] = []
        while methods := self.read():
            said += methods
        return said

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()


@pytest.fixture
def raw(broker: Broker) -> Iterator[Raw]:
    with closing(Raw(broker)) as raw:
        yield raw


@pytest.mark.parametrize(
    "frames",
    [
        (b"hello",),
        (b"",),
        (protocol.PROTOCOL_HEADER + b"\0",),
        (b"AMQP\x00\x01\x00\x00",),
        (protocol.PROTOCOL_HEADER, b"more"),
        tuple(b"many" for _ in range(100)),
    ],
    ids=["text", "empty", "longer", "version", "two-frames", "many-frames"],
)
def test_stranger_is_hung_up_on(raw, connection, frames):
    raw.send(*frames)

    assert raw.read() == []
    assert connection.connect().is_open


GARBAGE = {
    "bytes": (b"\xff" * 100,),
    "empty": (b"",),
    "two-frames": (b"a", b"b"),
    "server's-method": (encode_method(commands.Channel.OpenOk, 1),),
    "unknown-method": (b"\x01\x00\x01\x00\x00\x00\x04\x00\xff\x00\xff\xce",),
    "tx": (encode_method(commands.Tx.Select, 1),),
    "closed-channel": (encode_method(commands.Basic.Qos, 7),),
    "channel-twice": (encode_method(commands.Channel.Open, 1),),
    "channel-3000": (encode_method(commands.Channel.Open, 3000),),
    "handshake-again": (encode_method(commands.Connection.Open, 0, virtual_host="/"),),
    "body-alone": (b"\x03\x00\x01\x00\x00\x00\x01x\xce",),
    "large-frame": (b"\x03\x00\x01\x7f\xff\xff\xff",),
    "large-content": (
        encode_method(commands.Basic.Publish, 1, routing_key="feed")
        + b"\x02\x00\x01\x00\x00\x00\x0e\x00\x3c\x00\x00"
        + (protocol.MESSAGE_MAX + 1).to_bytes(8)
        + b"\x00\x00\xce",
    ),
    "cut-properties": (
        encode_method(commands.Basic.Publish, 1, routing_key="feed")
        + b"\x02\x00\x01\x00\x00\x00\x0e\x00\x3c\x00\x00"
        + bytes(8)
        + b"\xff\xff\xce",
    ),
    "publish-that-ends-early": (b"\x01\x00\x01\x00\x00\x00\x06\x00\x3c\x00\x28\x00\x00\xce"
                                b"\x02\x00\x01\x00\x00\x00\x0e\x00\x3c\x00\x00" + bytes(10)
                                + b"\xce",),
}  # fmt: skip


@pytest.mark.parametrize("frames", GARBAGE.values(), ids=GARBAGE)
def test_client_that_speaks_garbage_is_dropped_and_the_others_dont_notice(raw, connection, frames):
    consumer = Consumer(connection, "feed")
    publisher = Publisher(connection, routing_key="feed")
    transport = connection.connection
    raw.log_in()

    raw.send(*frames)

    assert raw.read_to_the_end()[-1] == "Connection.Close"
    publisher.send("x")
    assert consumer.fetch(auto_ack=True).payload == "x"
    assert connection.connection is transport


def test_message_that_is_larger_than_agreed_ends_its_connection(raw, connection):
    raw.log_in()
    raw.send(encode_method(commands.Queue.Declare, 1, queue="mine", exclusive=True))
    backend = connection.create_backend()
    eventually(lambda: backend.queue_exists("mine"))

    raw.send(bytes(protocol.PIECE + 1))

    eventually(lambda: not backend.queue_exists("mine"))


def test_login_that_is_not_plain_is_refused(raw):
    raw.send(protocol.PROTOCOL_HEADER)
    assert raw.read() == ["Connection.Start"]

    raw.send(encode_method(commands.Connection.StartOk, 0, mechanism="MAGIC", response=""))

    assert raw.read_to_the_end() == ["Connection.Close"]


def test_client_that_is_dropped_is_told_why(broker, connection):
    backend = connection.create_backend()
    transport = connection.connection
    backend.queue_exists("x")

    transport.stream.write(b"\xff" * 100)

    with pytest.raises(ConnectionLost, match="can't read what it received"):
        transport.wait_for(lambda: False, 10)


def test_slow_client_gets_no_more_than_it_can_take_and_then_the_rest(broker, unique):
    count, body = 2000, b"x" * 50_000  # 100 MB
    with BrokerConnection(broker.url) as sender, BrokerConnection(broker.url) as receiver:
        received = []
        consumer = Consumer(receiver, "feed", prefetch_count=0)
        consumer.register_callback(
            lambda data, message: (received.append(len(data)), message.ack())
        )
        consumer.consume()
        # It doesn't read, and the broker stays responsive.
        publisher = Publisher(sender, routing_key="feed")
        publisher.send_many(body for _ in range(count))
        backend = sender.create_backend()
        # 16 MiB may wait in ZeroMQ on each side, and some in the system's buffers.
        assert backend.queue_declare("feed", True, False, False).message_count > count // 4

        consumer.wait(limit=count, timeout=60)

    assert received == [len(body)] * count


def test_fault_of_the_brokers_ends_one_client_and_not_the_broker(
    raw, connection, monkeypatch, caplog
):
    monkeypatch.setattr(ServedVirtualHost, "bind_queue", lambda *args: 1 // 0)
    consumer = Consumer(connection, "feed")
    raw.log_in()

    raw.send(encode_method(commands.Queue.Bind, 1, queue="feed", exchange="amq.topic"))

    assert raw.read_to_the_end()[-1] == "Connection.Close"
    assert "ZeroDivisionError" in caplog.text
    assert consumer.fetch() is None


def publish_with(**properties: object) -> bytes:
    """The frames of a message to the queue feed, with what no client of ours would send."""
    raw = PublishEncoder(1, protocol.FRAME_MAX)
    return raw.encode("", "feed", False, encode_properties(properties), b"x")


@pytest.mark.parametrize("headers", [None, {"a": 1}], ids=["plain", "with headers"])
def test_property_that_is_no_text_ends_its_client_before_it_is_stored(raw, connection, headers):
    consumer = Consumer(connection, "feed")
    raw.log_in()
    frames = publish_with(correlation_id="\0" * 100, delivery_mode=2, headers=headers)
    frames = frames.replace(bytes(100), b"\xff" * 100)  # which is no UTF-8

    raw.send(frames)

    assert raw.read_to_the_end()[-1] == "Connection.Close"
    assert consumer.fetch() is None


def test_what_is_due_in_a_month_leaves_an_idle_broker_running(broker):
    month = 30 * 24 * 3600
    with BrokerConnection(broker.url) as connection:
        Consumer(connection, "ttl", queue_arguments={"x-message-ttl": month * 1000})
        Consumer(connection, "gone", queue_arguments={"x-expires": month * 1000})
        Publisher(connection, routing_key="ttl").send("x", expiration=month)
    eventually(lambda: not broker._server._sessions)

    with BrokerConnection(broker.url) as connection:
        consumer = Consumer(connection, "ttl", queue_arguments={"x-message-ttl": month * 1000})
        assert consumer.fetch(no_ack=True).payload == "x"


def test_fault_of_the_brokers_in_what_is_due_leaves_it_running(connection, monkeypatch, caplog):
    consumer = Consumer(connection, "feed", queue_arguments={"x-message-ttl": 50})
    monkeypatch.setattr(ServedVirtualHost, "dead_letter", lambda *args: 1 // 0)

    Publisher(connection, routing_key="feed").send("x")

    eventually(lambda: "ZeroDivisionError" in caplog.text)
    assert consumer.fetch() is None


# -- heartbeats and silence, with a clock of the test's own


def session_of(now: float) -> Session:
    return Session(lambda virtual_host: pytest.fail("nobody entered"), lambda session: None, now)


def test_handshake_that_takes_too_long_is_given_up():
    session = session_of(100.0)

    assert not session.is_silent(100.0 + PATIENCE)
    assert session.is_silent(100.1 + PATIENCE)


def test_client_that_is_frozen_is_dropped_after_two_heartbeats(zeromq, unique):
    url = zeromq.virtual_host(unique("vhost"))
    program = (
        "import sys\n"
        "from carrot import BrokerConnection, Consumer\n"
        "consumer = Consumer(BrokerConnection(sys.argv[1], heartbeat=1), 'feed')\n"
        "print(consumer.fetch().payload, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with BrokerConnection(url) as connection:
        other = Consumer(connection, "feed")
        Publisher(connection, routing_key="feed").send(1)
        with subprocess.Popen(
            [sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"1\n"
            begun = time.monotonic()

            client.send_signal(signal.SIGSTOP)
            message = eventually(other.fetch, within=3 + LATE)

            assert message.redelivered
            assert time.monotonic() - begun > 1
            client.kill()


def test_broker_that_stood_still_blames_nobody(unique):
    with ZeroMQ() as broker, BrokerConnection(broker.url, heartbeat=1) as connection:
        consumer = Consumer(connection, "feed")
        transport = connection.connection
        broker.freeze()
        begun = time.monotonic()
        eventually(lambda: time.monotonic() - begun > 1.2)
        broker.thaw()

        assert consumer.fetch() is None
        assert connection.connection is transport


# -- the command


@pytest.mark.parametrize("module", ["carrot.server", "carrot.backends.zeromq"])
def test_command_serves_until_it_is_stopped_and_logs_in_short_lines(module):
    command = [sys.executable, "-m", module, "--bind", ANYWHERE]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        served = process.stdout.readline().removeprefix("ready: ").strip()
        with BrokerConnection(served, reconnect=False) as connection:
            transport = connection.connect()
            transport.stream.write(b"\xff" * 100)
            with pytest.raises(ConnectionLost):
                transport.wait_for(lambda: False, 10)

        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)

    assert process.returncode == 0
    (line,) = said.splitlines()
    assert (
        "WARNING carrot.server: dropped a client (user guest, virtual host /): FRAME_ERROR" in line
    )


# -- the broker ends


def test_broker_that_stops_says_so(connection, broker):
    connection.connect()

    broker.close()

    with pytest.raises(ConnectionLost, match="the broker closed it"):
        connection.connection.wait_for(lambda: False, 10)


def test_broker_can_be_started_again_and_closed_twice():
    broker = Broker(ANYWHERE)
    for _ in range(2):
        with broker, BrokerConnection(broker.url) as connection:
            assert connection.connect().is_open
    broker.close()


def test_connection_that_is_forgotten_is_closed(broker):
    connection = BrokerConnection(broker.url)
    other = BrokerConnection(broker.url)
    Consumer(connection, "mine", exclusive=True)
    with other:
        backend = other.create_backend()
        assert backend.queue_exists("mine")
        connection.close()
        del connection
        gc.collect()

        eventually(lambda: not backend.queue_exists("mine"))
