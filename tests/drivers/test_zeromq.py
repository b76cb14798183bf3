"""What only the zeromq driver and its broker do."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
import zmq
import zmq.auth
from pamqp import commands

from carrot.backends import get_backend_cls, zeromq
from carrot.backends.amqp.framing import Decoder, PublishEncoder
from carrot.backends.amqp.methods import decode_method, encode_method
from carrot.backends.zeromq import Broker, protocol
from carrot.backends.zeromq.session import PATIENCE, Session
from carrot.backends.zeromq.world import World
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    AccessRefused,
    CarrotError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    ContentTooLarge,
    NotSupported,
)
from carrot.messaging import Consumer, Publisher
from tests.brokers import ZeroMQ
from tests.brokers.rabbitmq import free_port
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


@pytest.fixture
def unused_listener() -> Iterator[socket.socket]:
    """Takes connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


# -- names and URLs


@pytest.mark.parametrize("alias", ["zeromq", "zeromq+tcp", "zeromq+ipc"])
def test_aliases_name_this_driver(alias):
    assert get_backend_cls(alias) is zeromq.Backend


def test_the_default_port_is_that_of_the_command_line():
    assert BrokerConnection("zeromq://localhost").host == "localhost:5555"


def test_program_goes_over_a_unix_socket(tmp_path):
    with (
        Broker(f"ipc://{tmp_path}/broker.sock") as broker,
        BrokerConnection(f"{broker.url}?virtual_host=app") as connection,
    ):
        assert connection.virtual_host == "app"
        assert connection.host == f"{tmp_path}/broker.sock"
        consumer = Consumer(connection, "feed")
        Publisher(connection, routing_key="feed").send("x")

        assert consumer.fetch(auto_ack=True).payload == "x"


def test_broker_listens_at_several_addresses(tmp_path):
    with Broker([ANYWHERE, f"ipc://{tmp_path}/broker.sock"]) as broker:
        tcp, ipc = broker.urls
        with BrokerConnection(tcp) as one, BrokerConnection(ipc) as two:
            consumer = Consumer(one, "feed")
            Publisher(two, routing_key="feed").send("x")

            assert consumer.fetch(auto_ack=True).payload == "x"


def test_host_may_be_a_name(broker):
    url = broker.url.replace("127.0.0.1", "localhost")

    with BrokerConnection(url) as connection:
        assert connection.connect().is_open


# -- why there is no connection


def test_nobody_listens():
    with pytest.raises(ConnectionFailed, match=r"nobody listens there.*carrot\.backends\.zeromq"):
        BrokerConnection(f"zeromq+tcp://127.0.0.1:{free_port()}").connect()


def test_no_such_socket(tmp_path):
    with pytest.raises(ConnectionFailed, match=f"ipc://{tmp_path}/none.*nobody listens there"):
        BrokerConnection(f"zeromq+ipc://{tmp_path}/none").connect()


def test_unknown_host():
    with pytest.raises(ConnectionFailed, match="can't be resolved"):
        BrokerConnection("zeromq+tcp://host.invalid:5555").connect()


def test_peer_that_says_nothing_is_given_up_in_time(unused_listener):
    port = unused_listener.getsockname()[1]
    begun = time.monotonic()

    with pytest.raises(ConnectionFailed, match=r"no answer within 0\.5 seconds"):
        BrokerConnection(f"zeromq+tcp://127.0.0.1:{port}", connect_timeout=0.5).connect()

    assert time.monotonic() - begun < 0.5 + LATE


def test_zeromq_peer_that_is_no_broker_is_given_up_in_time():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        with pytest.raises(ConnectionFailed, match=r"no answer within 0\.5 seconds"):
            BrokerConnection(f"zeromq+tcp://127.0.0.1:{port}", connect_timeout=0.5).connect()


def test_address_in_use_is_told(broker):
    address = broker.url.removeprefix("zeromq+")

    with pytest.raises(ConnectionFailed, match=f"can't listen at {address}.*in use"):
        Broker(address).open()


def test_tls_is_refused_with_the_way_to_encrypt(broker):
    with pytest.raises(ConfigurationError, match="CURVE"):
        BrokerConnection(broker.url, ssl=True).connect()


# -- the semantics are the memory driver's


def test_what_the_broker_lacks_is_not_supported(connection):
    with pytest.raises(NotSupported, match="no quorum queues"):
        Consumer(connection, "q", queue_arguments={"x-queue-type": "quorum"})

    assert Consumer(connection, "q").fetch() is None


def test_virtual_hosts_are_worlds_apart(broker):
    with (
        BrokerConnection(broker.url, virtual_host="one") as one,
        BrokerConnection(broker.url, virtual_host="two") as two,
    ):
        consumers = [Consumer(connection, "feed") for connection in (one, two)]
        Publisher(one, routing_key="feed").send("for one")

        fetched = [consumer.fetch(auto_ack=True) for consumer in consumers]

    assert fetched[0].payload == "for one"
    assert fetched[1] is None


def test_message_that_is_too_large_is_not_sent(connection, monkeypatch):
    monkeypatch.setattr("carrot.backends.zeromq.backend.MESSAGE_MAX", 1000)
    publisher = Publisher(connection, routing_key=Consumer(connection, "feed").queue)

    with pytest.raises(ContentTooLarge, match="takes at most 1000"):
        publisher.send(b"x" * 1001)

    publisher.send(b"x" * 1000)


def test_large_messages_come_through_whole(connection):
    consumer = Consumer(connection, "feed")
    body = os.urandom(1024) * 20 * 1024  # 20 MiB, more than may wait in one direction

    Publisher(connection, routing_key="feed").send(body)

    assert consumer.fetch(auto_ack=True).payload == body


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

    transport.write(b"\xff" * 100)

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
    monkeypatch.setattr(World, "bind_queue", lambda *args: 1 // 0)
    consumer = Consumer(connection, "feed")
    raw.log_in()

    raw.send(encode_method(commands.Queue.Bind, 1, queue="feed", exchange="amq.topic"))

    assert raw.read_to_the_end()[-1] == "Connection.Close"
    assert "ZeroDivisionError" in caplog.text
    assert consumer.fetch() is None


# -- heartbeats and silence, with a clock of the test's own


def session_of(now: float) -> Session:
    return Session(lambda virtual_host: pytest.fail("nobody entered"), lambda session: None, now)


def test_handshake_that_takes_too_long_is_given_up():
    session = session_of(100.0)

    assert not session.is_silent(100.0 + PATIENCE)
    assert session.is_silent(100.1 + PATIENCE)


def test_client_that_is_frozen_is_dropped_after_two_heartbeats(zeromq, unique):
    url = zeromq.world(unique("world"))
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


# -- CURVE

BROKER_PUBLIC, BROKER_SECRET = (key.decode() for key in zmq.curve_keypair())
CLIENT_PUBLIC, CLIENT_SECRET = (key.decode() for key in zmq.curve_keypair())
OTHER_PUBLIC, OTHER_SECRET = (key.decode() for key in zmq.curve_keypair())


@pytest.fixture(scope="module")
def curve_broker() -> Iterator[Broker]:
    """It lets in who knows its key."""
    with Broker(ANYWHERE, curve_secret_key=BROKER_SECRET) as broker:
        yield broker


@pytest.fixture(scope="module")
def strict_broker() -> Iterator[Broker]:
    """It lets in one client."""
    with Broker(ANYWHERE, curve_secret_key=BROKER_SECRET, curve_clients=[CLIENT_PUBLIC]) as broker:
        yield broker


def round_trip(url: str, **options: object) -> None:
    with BrokerConnection(url, **options) as connection:
        consumer = Consumer(connection, "feed")
        Publisher(connection, routing_key="feed").send("x")
        assert consumer.fetch(auto_ack=True).payload == "x"


def test_client_that_knows_the_brokers_key_is_let_in(curve_broker):
    round_trip(curve_broker.url, curve_server_key=BROKER_PUBLIC)
    round_trip(curve_broker.url, curve_server_key=BROKER_PUBLIC, curve_secret_key=CLIENT_SECRET)


def test_keys_may_stand_in_the_url(strict_broker):
    query = f"curve_server_key={quote(BROKER_PUBLIC)}&curve_secret_key={quote(CLIENT_SECRET)}"

    round_trip(f"{strict_broker.url}?{query}")


REFUSED = {
    "no-key": ({}, ConnectionFailed, "curve_server_key="),
    "wrong-key": ({"curve_server_key": OTHER_PUBLIC}, ConnectionFailed, "the public key of this"),
}


@pytest.mark.parametrize(("options", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_client_without_the_brokers_key_is_refused_at_once(curve_broker, options, error, words):
    begun = time.monotonic()

    with pytest.raises(error, match=words):
        BrokerConnection(curve_broker.url, connect_timeout=5, **options).connect()

    assert time.monotonic() - begun < 5


UNKNOWN = {
    "unknown-key": {"curve_server_key": BROKER_PUBLIC, "curve_secret_key": OTHER_SECRET},
    "made-up-key": {"curve_server_key": BROKER_PUBLIC},
}


@pytest.mark.parametrize("options", UNKNOWN.values(), ids=UNKNOWN)
def test_client_that_the_broker_doesnt_know_is_refused(strict_broker, options):
    with pytest.raises(AccessRefused, match="doesn't know this client's key") as caught:
        BrokerConnection(strict_broker.url, **options).connect()

    assert OTHER_SECRET not in str(caught.value)


def test_client_that_wants_curve_is_told_that_the_broker_has_none(broker):
    # Which of the two ends it first, differs.
    with pytest.raises(ConnectionFailed, match=r"leave out the keys|does it want keys"):
        round_trip(broker.url, curve_server_key=BROKER_PUBLIC, curve_secret_key=CLIENT_SECRET)


def test_secrets_are_never_shown(strict_broker):
    connection = BrokerConnection(
        strict_broker.url, curve_server_key=BROKER_PUBLIC, curve_secret_key=CLIENT_SECRET
    )

    for shown in (repr(connection), repr(connection.settings), str(connection.info())):
        assert CLIENT_SECRET not in shown
    assert BROKER_SECRET not in repr(strict_broker)


def test_broker_refuses_what_is_no_key_and_doesnt_show_it():
    with pytest.raises(ConfigurationError, match="is no CURVE key") as caught:
        Broker(ANYWHERE, curve_secret_key="not a key, but secret")

    assert "secret" not in str(caught.value).replace("curve_secret_key", "")


@pytest.mark.parametrize("url", ["amqp://localhost", "memory://"])
def test_driver_without_curve_says_so_and_sends_nothing_in_clear(url):
    with pytest.raises(ConfigurationError, match="this driver would not encrypt"):
        BrokerConnection(url, curve_server_key=BROKER_PUBLIC).connect()


def test_clients_keys_need_the_brokers():
    with pytest.raises(ConfigurationError, match="needs curve_secret_key"):
        Broker(ANYWHERE, curve_clients=[CLIENT_PUBLIC])


# -- the command line


def test_command_line_takes_certificates(tmp_path):
    public_file, secret_file = zmq.auth.create_certificates(tmp_path, "broker")
    clients = tmp_path / "clients"
    clients.mkdir()
    _, client_file = zmq.auth.create_certificates(clients, "client")
    public, _ = zmq.auth.load_certificate(public_file)
    _, secret = zmq.auth.load_certificate(client_file)
    Path(client_file).unlink()

    with ZeroMQ(
        "--curve-secret-key-file", str(secret_file), "--curve-clients", str(clients)
    ) as broker:
        round_trip(broker.url, curve_server_key=public.decode(), curve_secret_key=secret.decode())
        with pytest.raises(ConnectionFailed, match="curve_server_key="):
            round_trip(broker.url)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_ends_well_at_a_signal(number):
    broker = ZeroMQ()
    process = subprocess.Popen(broker.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == f"ready: {broker.url}\n".encode()

    process.send_signal(number)

    assert process.communicate(timeout=10) == (b"", b"")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--bind", "nonsense"], 1, "can't listen at nonsense"),
        (["--store", "/no/such/folder/store"], 1, "can't be used"),
        (["--curve-secret-key-file", "/no/such/file"], 1, "can't be read"),
        (["--curve-clients", "/tmp"], 2, "needs --curve-secret-key-file"),
        (["--bound"], 2, "unrecognized arguments"),
    ],
)
def test_command_says_what_it_cant_do(options, status, words):
    done = subprocess.run(
        [sys.executable, "-m", "carrot.backends.zeromq", *options],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip

    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_command_warns_when_everybody_may_come_in():
    broker = ZeroMQ(bind="tcp://0.0.0.0:*")
    process = subprocess.Popen(
        broker.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()

    _, warned = process.communicate(timeout=10)

    assert "anybody who reaches" in warned


# -- threads, signals and forks


def test_write_of_one_thread_wakes_another_that_waits(broker, unique):
    """Sending takes in ZeroMQ's news, and the one who waits for them must hear of it."""
    with BrokerConnection(broker.url) as connection:
        received: list[int] = []
        consumer = Consumer(connection, "feed")
        consumer.register_callback(lambda n, message: (received.append(n), message.ack()))
        waiting = threading.Thread(target=consumer.wait, kwargs={"limit": 3000, "timeout": 60})
        waiting.start()
        publisher = Publisher(connection, routing_key="feed")
        begun = time.monotonic()

        for number in range(3000):
            publisher.send(number)

        waiting.join(60)
        assert received == list(range(3000))
        assert time.monotonic() - begun < 30


def test_signal_handler_may_send(broker):
    with BrokerConnection(broker.url) as connection:
        consumer = Consumer(connection, "feed")
        publisher = Publisher(connection, routing_key="feed", confirm=False)
        # From here on sending needs no answer, for which it would have to read.
        publisher.send("before")
        received: list[str] = []
        consumer.register_callback(lambda n, message: (received.append(n), message.ack()))
        before = signal.signal(signal.SIGALRM, lambda number, frame: publisher.send("alarm"))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            consumer.wait(limit=2, timeout=10)
        finally:
            signal.signal(signal.SIGALRM, before)

    assert received == ["before", "alarm"]


def test_closing_wakes_who_waits(broker):
    connection = BrokerConnection(broker.url)
    transport = connection.connect()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            transport.wait_for(lambda: False, 20)
        except CarrotError as exc:
            errors.append(exc)

    waiting = threading.Thread(target=wait)
    waiting.start()
    connection.close()
    waiting.join(5)

    assert not waiting.is_alive()
    assert [type(error) for error in errors] == [ConnectionLost]


# -- what is there without pyzmq


def test_carrot_imports_no_zeromq_and_a_client_no_broker():
    program = (
        "import sys, carrot, carrot.backends\n"
        "assert 'zmq' not in sys.modules\n"
        "from carrot.backends import zeromq\n"
        "assert 'sqlite3' not in sys.modules\n"
        "zeromq.Broker\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)


def test_missing_library_names_its_pip_command():
    program = (
        "import sys\n"
        "sys.modules['zmq'] = None\n"
        "from carrot import BrokerConnection\n"
        "from carrot.exceptions import BackendNotFound\n"
        "try:\n"
        "    BrokerConnection('zeromq://localhost').connect()\n"
        "except BackendNotFound as error:\n"
        "    print(error)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=20, capture_output=True, text=True
    )

    assert "pip install 'carrot[zeromq]'" in done.stdout
