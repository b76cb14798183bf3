"""What only the native AMQP driver does: logins, limits, deadlines, acks, memory, threads."""

import gc
import logging
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trustme
from pamqp import base, commands, frame, header

from carrot.backends import amqp
from carrot.backends.amqp.channel import Channel
from carrot.backends.amqp.framing import HEARTBEAT_FRAME, Event
from carrot.backends.seam.confirms import Confirms
from carrot.backends.sockets.socket import TlsStream
from carrot.connection import BrokerConnection
from carrot.deadline import Deadline, bounded_by
from carrot.exceptions import (
    AccessRefused,
    CarrotError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    EncodeError,
    NotFound,
    OperationTimeout,
    Unroutable,
)
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ
from tests.conftest import unavailable
from tests.waiting import eventually


@pytest.fixture
def connection(amqp_url: str) -> Iterator[BrokerConnection]:
    with BrokerConnection(amqp_url, backend_cls="amqp") as connection:
        yield connection


@pytest.fixture
def onlooker(amqp_url: str) -> Iterator[BrokerConnection]:
    """Another connection, which sees what has arrived at the broker."""
    with BrokerConnection(amqp_url, backend_cls="amqp") as connection:
        yield connection


@pytest.fixture
def queue(onlooker, unique) -> Iterator[str]:
    """The name of a queue that is deleted at the end."""
    name = unique()
    yield name
    onlooker.create_backend().queue_delete(name)


@pytest.fixture(scope="module")
def freezer() -> Iterator[RabbitMQ]:
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with RabbitMQ(name="frozen") as broker:
        yield broker


@pytest.fixture
def frozen(freezer: RabbitMQ) -> Iterator[RabbitMQ]:
    """A private node that the test may freeze; it is thawed at the end."""
    yield freezer
    freezer.thaw()


def run(*targets: Callable[[], object]) -> None:
    """Run the functions in threads at once; raise what the first of them raised."""
    errors = []

    def guarded(target: Callable[[], object]) -> None:
        try:
            target()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns a thousand times as often, so that races are lost more often, too."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 1000)
    yield
    sys.setswitchinterval(interval)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_amqp_names_this_driver(amqp_url):
    assert BrokerConnection(amqp_url).get_backend_cls() is amqp.Backend
    assert BrokerConnection(amqp_url, backend_cls="amqp").get_backend_cls() is amqp.Backend
    assert amqp.Backend.capabilities.thread_safe


# -- logging in


@pytest.mark.parametrize("method", ["PLAIN", "AMQPLAIN"])
def test_login_methods_let_in_who_knows_the_password(amqp_url, method):
    with BrokerConnection(amqp_url, login_method=method) as connection:
        connection.connect()

        assert connection.is_open
        assert connection.create_backend().queue_exists("no such queue") is False


@pytest.mark.parametrize("method", ["PLAIN", "AMQPLAIN"])
def test_login_methods_refuse_a_wrong_password(amqp_url, method):
    connection = BrokerConnection(amqp_url, password="s3cret", login_method=method)

    with pytest.raises(AccessRefused, match="check user and password") as caught:
        connection.connect()

    assert "s3cret" not in str(caught.value)


def test_a_silent_address_leaves_time_for_the_next_one(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (f"127.0.0.{n}", 1)) for n in (2, 3, 4)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    patience = []

    class Silent(socket.socket):
        def connect(self, address: object) -> None:
            patience.append(self.gettimeout())
            raise TimeoutError

    monkeypatch.setattr(socket, "socket", Silent)

    with pytest.raises(ConnectionFailed, match=r"no answer within 9.0 s"):
        BrokerConnection("amqp://a-name//", connect_timeout=9).connect()

    assert patience == [pytest.approx(share, abs=0.5) for share in (3, 4.5, 9)]


def test_login_method_that_the_broker_lacks_is_told(amqp_url):
    connection = BrokerConnection(amqp_url, login_method="EXTERNAL")

    with pytest.raises(ConnectionFailed, match="EXTERNAL") as caught:
        connection.connect()

    assert "PLAIN" in str(caught.value)


def test_external_lets_in_by_the_client_certificate(tls_broker):
    options = {
        "ca_certs": tls_broker.ca,
        "certfile": tls_broker.certificate,
        "keyfile": tls_broker.key,
    }
    with BrokerConnection(
        f"amqps://nobody:wrong@localhost:{tls_broker.tls_port}//",
        ssl=options,
        login_method="EXTERNAL",
    ) as connection:
        connection.connect()

        assert connection.is_open


def test_external_without_a_certificate_is_refused(tls_broker):
    connection = BrokerConnection(
        f"amqps://guest:guest@localhost:{tls_broker.tls_port}//",
        ssl={"ca_certs": tls_broker.ca},
        login_method="EXTERNAL",
    )

    with pytest.raises(ConnectionFailed):
        connection.connect()


# -- TLS


def test_ssl_context_is_used_as_it_is(tls_broker, unique):
    context = ssl.create_default_context(cafile=tls_broker.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    url = f"amqps://guest:guest@localhost:{tls_broker.tls_port}//"
    with BrokerConnection(url, ssl=context) as connection:
        consumer = Consumer(connection, unique(), exclusive=True, auto_ack=True)

        Publisher(connection, routing_key=consumer.queue).send("over TLS")

        assert consumer.fetch().payload == "over TLS"


def test_large_and_many_messages_travel_over_tls(tls_broker, unique):
    url = f"amqps://guest:guest@localhost:{tls_broker.tls_port}//"
    with BrokerConnection(url, ssl={"ca_certs": tls_broker.ca}) as connection:
        received = []
        consumer = Consumer(connection, unique(), exclusive=True)
        consumer.register_callback(lambda data, m: (received.append(len(data)), m.ack()))
        sizes = [0, 1, 3_000_000, 100, 70_000] * 4

        run(
            lambda: Publisher(connection, routing_key=consumer.queue).send_many(
                b"x" * size for size in sizes
            ),
            lambda: consumer.wait(limit=len(sizes)),
        )

        assert received == sizes


def test_server_hostname_is_what_the_certificate_must_be_for(tls_broker):
    url = f"amqps://guest:guest@127.0.0.1:{tls_broker.tls_port}//"
    options = {"ca_certs": tls_broker.ca, "server_hostname": "localhost"}
    with BrokerConnection(url, ssl=options) as connection:
        connection.connect()

        assert connection.is_open


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ca_cert": "typo.pem"}, r"unknown TLS options \['ca_cert'\].*ca_certs"),
        ({"ca_certs": "/no/such/file.pem"}, "/no/such/file.pem"),
        ({"certfile": "/no/such/file.pem"}, "/no/such/file.pem"),
    ],
)
def test_tls_option_that_cannot_be_right_is_told(tls_broker, options, says):
    url = f"amqps://guest:guest@localhost:{tls_broker.tls_port}//"

    with pytest.raises(ConfigurationError, match=says):
        BrokerConnection(url, ssl=options).connect()


def test_verification_can_be_turned_off(tls_broker):
    url = f"amqps://guest:guest@127.0.0.1:{tls_broker.tls_port}//"
    with BrokerConnection(url, ssl={"cert_reqs": ssl.CERT_NONE}) as connection:
        connection.connect()

        assert connection.is_open


@pytest.fixture
def tls_pair(tmp_path) -> Iterator[tuple[TlsStream, ssl.SSLSocket]]:
    """A link, and the peer at its other end."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    ours, theirs = socket.socketpair()
    accepted = []
    thread = threading.Thread(
        target=lambda: accepted.append(server.wrap_socket(theirs, server_side=True))
    )
    thread.start()
    link = TlsStream(client.wrap_socket(ours, server_hostname="localhost"), 5.0)
    thread.join(10)
    accepted[0].settimeout(10)
    yield link, accepted[0]
    link.close()
    accepted[0].close()


def test_heartbeat_into_a_full_tls_connection_spoils_nothing(tls_pair):
    link, peer = tls_pair
    # Far more than fits; what it didn't take goes first the next time.
    rest = b""
    for _ in range(20_000):
        rest = link.write_if_room(rest + HEARTBEAT_FRAME)
    assert rest
    expected = HEARTBEAT_FRAME * 20_000 + b"A" * 100
    writer = threading.Thread(target=link.write, args=(rest + b"A" * 100,))
    writer.start()

    received = bytearray()
    while len(received) < len(expected):
        received += peer.recv(65536)
    writer.join(10)

    assert received == expected


# -- a peer that does what it is told


class Peer:
    """A broker of a few lines, for one client: shakes hands, and then says what a test wants."""

    def __init__(self, listener: socket.socket, tune: commands.Connection.Tune) -> None:
        self._listener = listener
        self._tune = tune
        self._rest = b""
        self._sock: socket.socket

    def serve(self) -> None:
        self._sock, _ = self._listener.accept()
        self._sock.settimeout(10)
        assert self._sock.recv(8, socket.MSG_WAITALL) == b"AMQP\x00\x00\x09\x01"
        self.say(commands.Connection.Start(0, 9, {}, "PLAIN", "en_US"), 0)
        self.hear(commands.Connection.StartOk)
        self.say(self._tune, 0)
        self.tuned = self.hear(commands.Connection.TuneOk)
        self.hear(commands.Connection.Open)
        self.say(commands.Connection.OpenOk(), 0)

    def open_channel(self, channel: int = 1) -> None:
        self.hear(commands.Channel.Open)
        self.say(commands.Channel.OpenOk(), channel)

    def say(self, command: base.Frame, channel: int = 1) -> None:
        self.say_bytes(frame.marshal(command, channel))

    def say_bytes(self, data: bytes) -> None:
        self._sock.sendall(data)

    def hear(self, kind: type[base.Frame]) -> base.Frame:
        """The next frame of that kind; others before it are passed over."""
        while True:
            size, _, command = frame.unmarshal(self._rest) if self._has_frame() else (0, 0, None)
            if command is None:
                data = self._sock.recv(65536)
                assert data, f"the client hung up before {kind.name}"
                self._rest += data
                continue
            self._rest = self._rest[size:]
            if isinstance(command, kind):
                return command

    def _has_frame(self) -> bool:
        if len(self._rest) < 7:
            return False
        return len(self._rest) >= int.from_bytes(self._rest[3:7]) + 8

    def hang_up(self) -> None:
        self._sock.close()


@pytest.fixture
def make_peer() -> Iterator[Callable[..., tuple[Peer, BrokerConnection]]]:
    """Makes a peer, and a connection that is open to it."""
    with ExitStack() as stack:

        def make(
            tune: commands.Connection.Tune | None = None, **options: object
        ) -> tuple[Peer, BrokerConnection]:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            peer = Peer(listener, tune or commands.Connection.Tune(10, 4096, 0))
            connection = BrokerConnection(
                "127.0.0.1", port=listener.getsockname()[1], operation_timeout=2, **options
            )
            run(peer.serve, connection.connect)
            stack.callback(peer.hang_up)
            # The last in is the first out, and finds that nobody is there.
            stack.callback(connection.close)
            stack.callback(peer.hang_up)
            return peer, connection

        yield make


@pytest.mark.parametrize(
    ("tune", "frame_max", "channel_max"),
    [
        (commands.Connection.Tune(0, 0, 0), 131072, 2047),
        (commands.Connection.Tune(5, 4096, 60), 4096, 5),
        (commands.Connection.Tune(65535, 2**31, 0), 131072, 2047),
    ],
)
def test_client_answers_the_brokers_tune_with_what_both_can(
    make_peer, tune, frame_max, channel_max
):
    peer, connection = make_peer(tune, heartbeat=0.5)

    assert peer.tuned.frame_max == connection.connection.session.frame_max == frame_max
    assert peer.tuned.channel_max == channel_max
    # Whole seconds, and never 0, which would be none.
    assert peer.tuned.heartbeat == 1


# -- the log


def test_methods_are_logged_by_name_and_messages_are_not(amqp_url, unique, watching):
    texts = watching.texts
    with BrokerConnection(amqp_url, backend_cls="amqp", password="guest") as connection:
        backend, queue = connection.create_backend(), unique()
        backend.queue_declare(queue, durable=False, exclusive=True, auto_delete=True)
        publisher = Publisher(connection, exchange="", routing_key=queue)
        consumer = Consumer(connection, queue, auto_declare=False)
        publisher.send(b"the body")
        consumer.fetch(auto_ack=True)
        backend.close()
        # A thread of its own logs the goodbyes of channels.
        eventually(lambda: "received Channel.CloseOk on channel 1" in texts)

    texts = [text for text in texts if not re.search(r"Channel\.Close|connected", text)]
    assert texts[:7] == [
        "received Connection.Start on channel 0",
        "sent Connection.StartOk on channel 0",
        "received Connection.Tune on channel 0",
        "sent Connection.TuneOk on channel 0",
        "sent Connection.Open on channel 0",
        "received Connection.OpenOk on channel 0",
        "sent Channel.Open on channel 1",
    ]
    for method in ("Queue.Declare", "Confirm.Select", "Connection.Close"):
        number = 0 if method == "Connection.Close" else r"\d"
        asked = [text for text in texts if re.match(f"sent {method} on channel {number}", text)]
        answered = [text for text in texts if re.match(f"received {method}Ok on chan", text)]
        assert len(asked) == len(answered) == 1
    assert not re.search(r"Basic|guest|the body", "".join(texts))
    assert not watching.held


def test_what_the_broker_says_unasked_is_logged_where_no_lock_is_held(
    amqp_url, onlooker, unique, watching
):
    with BrokerConnection(amqp_url, backend_cls="amqp") as connection:
        queue = unique()
        consumer = Consumer(connection, queue, queue_arguments={"x-expires": 60_000})
        deleting = threading.Timer(0.3, onlooker.create_backend().queue_delete, [queue])
        deleting.start()
        with pytest.raises(OperationTimeout):
            consumer.wait(timeout=1)
        backend = connection.create_backend()
        with pytest.raises(NotFound):
            backend.queue_purge("no-such-queue")

        for text in (
            "received Basic.Cancel on",
            "received Channel.Close on",
            "sent Channel.CloseOk on",
        ):
            eventually(lambda text=text: any(each.startswith(text) for each in watching.texts))
    deleting.join()
    assert not watching.held


def test_a_handler_may_ask_on_the_channel_that_it_is_told_of(amqp_url, queue):
    class Asking(logging.Handler):
        is_asking = False
        answers = 0

        def emit(self, record: logging.LogRecord) -> None:
            if "Queue.Declare" in record.getMessage() and not self.is_asking:
                self.is_asking = True
                backend.queue_purge(queue)
                self.is_asking, self.answers = False, self.answers + 1

    logger, handler = logging.getLogger("carrot"), Asking()
    with BrokerConnection(amqp_url, backend_cls="amqp", operation_timeout=3) as connection:
        backend = connection.create_backend()
        backend.queue_declare(queue, durable=False, exclusive=False, auto_delete=False)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            backend.queue_declare(queue, durable=False, exclusive=False, auto_delete=False)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)

    assert handler.answers == 2  # as it was sent, and as the answer came


def garbage(method: int, arguments: bytes) -> bytes:
    payload = method.to_bytes(4) + arguments
    return b"\x01\x00\x01" + len(payload).to_bytes(4) + payload + b"\xce"


NO_CONTENT = frame.marshal(header.ContentHeader(0, 0), 1)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x03\x00\x01\xff\xff\xff\xff",
        garbage(0xFFFFFFFF, b""),
        garbage(commands.Channel.Close.index, b""),
        garbage(commands.Basic.Ack.index, b"\x01"),
        garbage(commands.Basic.Deliver.index, b"") + NO_CONTENT,
        garbage(commands.Basic.Deliver.index, b"\xffx") + NO_CONTENT,
        garbage(commands.Basic.Return.index, b"\x01") + NO_CONTENT,
    ],
)
def test_peer_that_talks_nonsense_is_a_lost_connection(make_peer, data):
    peer, connection = make_peer()
    backend = connection.create_backend()
    run(lambda: backend.qos(0, 1), lambda: (peer.open_channel(), answer_qos(peer)))
    peer.say_bytes(data)

    with pytest.raises(ConnectionLost):
        backend.qos(0, 1)

    assert not connection.is_open


def answer_qos(peer: Peer, channel: int = 1) -> None:
    peer.hear(commands.Basic.Qos)
    peer.say(commands.Basic.QosOk(), channel)


def test_peer_that_hangs_up_is_a_lost_connection(make_peer):
    peer, connection = make_peer()
    peer.hang_up()

    with at_most(5), pytest.raises(ConnectionLost, match="the broker hung up"):
        connection.drain_events(timeout=10)


def test_blocked_and_unblocked_are_no_error_and_flow_is_answered(make_peer):
    peer, connection = make_peer()
    backend = connection.create_backend()
    told = []

    def on_blocked(reason: str) -> None:
        told.append((reason, threading.current_thread()))

    connection.on_blocked = on_blocked

    def serve() -> None:
        peer.hear(commands.Channel.Open)
        peer.say(commands.Connection.Blocked("low on memory"), 0)
        # Before the answer that the client waits for, so that it is done before the next request.
        peer.say(commands.Channel.Flow(False))
        peer.say(commands.Channel.OpenOk())
        assert peer.hear(commands.Channel.FlowOk).active is False
        peer.say(commands.Connection.Unblocked(), 0)
        answer_qos(peer)

    using = []
    run(serve, lambda: (using.append(threading.current_thread()), backend.qos(0, 1)))

    assert connection.is_open
    eventually(lambda: told)
    ((reason, thread),) = told
    assert reason == "low on memory"
    # The one that was using the channel is in the middle of a request.
    assert thread not in using


def test_broker_that_closes_the_connection_says_why(make_peer):
    peer, connection = make_peer()
    peer.say(commands.Connection.Close(320, "CONNECTION_FORCED - maintenance", 0, 0), 0)

    with pytest.raises(ConnectionLost, match="maintenance"):
        connection.drain_events(timeout=5)

    peer.hear(commands.Connection.CloseOk)


def test_confirms_of_a_replaced_channel_settle_nothing_of_the_next_one(make_peer):
    peer, connection = make_peer()
    backend = connection.create_backend()

    def serve() -> None:
        for number in (1, 2):
            peer.open_channel(number)
            peer.hear(commands.Confirm.Select)
            peer.say(commands.Confirm.SelectOk(), number)

    def use() -> None:
        old = backend.confirm_select().channel
        old.give_up()
        life, number = backend.publish(backend.prepare_message(b"x", 1), "", "queue")
        old.is_open = True  # as for a reader that had looked just before
        old.handle(Event(1, commands.Basic.Ack.index, (1).to_bytes(8) + b"\0", b"", b""))
        assert not life.confirms.is_settled(number)

    run(serve, use)


def test_a_channel_that_both_ends_close_keeps_its_number_until_both_have_answered(make_peer):
    peer, connection = make_peer()
    first, second, third = (connection.create_backend() for _ in range(3))

    def serve() -> None:
        peer.open_channel()
        answer_qos(peer)
        peer.hear(commands.Channel.Close)
        # It was on its way already, and RabbitMQ answers ours besides.
        peer.say(commands.Channel.Close(404, "NOT_FOUND", 0, 0))
        peer.hear(commands.Channel.CloseOk)
        peer.open_channel(2)
        answer_qos(peer, 2)
        peer.say(commands.Channel.CloseOk())
        answer_qos(peer, 2)
        peer.open_channel()
        answer_qos(peer)

    def use() -> None:
        first.qos(0, 1)
        first.close()
        second.qos(0, 1)
        second.qos(0, 1)
        third.qos(0, 1)

    run(serve, use)

    assert connection.is_open


def test_a_late_refusal_on_a_channel_that_was_given_up_is_answered(make_peer):
    peer, connection = make_peer()
    first, second = connection.create_backend(), connection.create_backend()

    def serve() -> None:
        peer.open_channel()
        peer.hear(commands.Basic.Get)
        # Too late, and the client has said goodbye to the channel meanwhile.
        peer.hear(commands.Channel.Close)
        peer.say(commands.Channel.Close(404, "NOT_FOUND", 0, 0))
        peer.hear(commands.Channel.CloseOk)
        peer.say(commands.Channel.CloseOk())
        peer.open_channel()
        answer_qos(peer)

    def use() -> None:
        with pytest.raises(OperationTimeout):
            first.get("queue", timeout=0.2)
        connection.connection.wait_for(lambda: not connection.connection.session._channels, 5)
        second.qos(0, 1)

    run(serve, use)

    assert connection.is_open


def test_an_answer_that_nobody_asked_for_is_a_lost_connection(make_peer):
    peer, connection = make_peer()
    backend = connection.create_backend()

    def serve() -> None:
        peer.open_channel()
        peer.hear(commands.Basic.Qos)
        peer.say(commands.Confirm.SelectOk())

    def use() -> None:
        with pytest.raises(ConnectionLost, match=r"Confirm.SelectOk came on channel 1"):
            backend.qos(0, 1)

    run(serve, use)


def test_waiting_for_another_threads_request_leaves_the_channel_to_it(make_peer):
    peer, connection = make_peer()
    backend = connection.create_backend()
    asked, gave_up = threading.Event(), threading.Event()

    def serve() -> None:
        peer.open_channel()
        peer.hear(commands.Basic.Qos)
        asked.set()
        assert gave_up.wait(5)
        peer.say(commands.Basic.QosOk())

    def fetch() -> None:
        assert asked.wait(5)
        with pytest.raises(OperationTimeout, match=r"another thread.*Basic.Get was not sent"):
            backend.get("queue", timeout=0.1)
        gave_up.set()

    run(serve, fetch, lambda: backend.qos(0, 1))

    assert backend.is_open


def test_a_goodbye_of_the_brokers_waits_for_no_other_threads_write(make_peer, monkeypatch):
    peer, connection = make_peer()
    fetching, sending = connection.create_backend(), connection.create_backend()
    is_asked, is_writing, go_on = threading.Event(), threading.Event(), threading.Event()

    def serve() -> None:
        peer.open_channel()
        peer.open_channel(2)
        peer.hear(commands.Basic.Get)
        is_asked.set()
        assert is_writing.wait(5)
        peer.say(commands.Channel.Close(404, "NOT_FOUND", 0, 0))
        peer.hear(commands.Channel.CloseOk)
        answer_qos(peer, 2)

    def send() -> None:
        link = connection.connection.stream._link
        write = link.write

        def slowly(data: bytes, sent: int = 0) -> None:
            is_writing.set()
            assert go_on.wait(5)
            write(data)

        with monkeypatch.context() as patch:
            patch.setattr(link, "send", lambda data: 0)
            patch.setattr(link, "write", slowly)
            Publisher(connection, routing_key="x", confirm=False, backend=sending).send("x")

    def get() -> None:
        with pytest.raises(NotFound):
            fetching.get("x", timeout=3)
        go_on.set()

    def use() -> None:
        fetching.channel, sending.channel  # noqa: B018  # opens them
        getter = threading.Thread(target=get)
        getter.start()
        assert is_asked.wait(5)
        run(send)
        getter.join(5)
        sending.qos(0, 1)

    run(serve, use)

    assert connection.is_open


def test_frames_of_a_channel_that_is_gone_are_passed_over(make_peer):
    peer, connection = make_peer()
    first, second = connection.create_backend(), connection.create_backend()

    def serve() -> None:
        peer.open_channel()
        answer_qos(peer)
        peer.say(commands.Channel.Close(404, "NOT_FOUND", 0, 0))
        peer.hear(commands.Channel.CloseOk)
        # As if they had been on the way already.
        peer.say(commands.Basic.Ack(7, True))
        peer.say(commands.Basic.Cancel("who?"), 9)
        peer.open_channel()
        answer_qos(peer)

    def use() -> None:
        first.qos(0, 1)
        connection.connection.wait_for(lambda: first.life.over is not None, 5)
        second.qos(0, 1)

    run(serve, use)

    assert connection.is_open


def test_acks_of_quick_callbacks_share_a_write(connection, queue, monkeypatch):
    consumer = Consumer(connection, queue, callbacks=[lambda data, message: message.ack()])
    Publisher(connection, routing_key=queue).send_many(range(500))
    link = connection.connection.stream._link
    writes = []

    def count(write: Callable[[bytes], object]) -> Callable[[bytes], object]:
        return lambda data: (writes.append(len(data)), write(data))[1]

    monkeypatch.setattr(link, "send", count(link.send))
    monkeypatch.setattr(link, "write_if_room", count(link.write_if_room))

    consumer.wait(limit=500)

    # A frame of an ack has 21 bytes. At worst each millisecond has a write.
    assert sum(writes) >= 500 * 21 * 0.9
    assert len([size for size in writes if size]) < 250


# -- what the broker wants


def test_frame_size_and_channels_are_those_that_the_broker_wants(unique):
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with (
        RabbitMQ(config=["frame_max = 4096", "channel_max = 5"], name="small") as broker,
        BrokerConnection(broker.url) as connection,
    ):
        consumer = Consumer(connection, unique(), auto_ack=True)
        publisher = Publisher(connection, routing_key=consumer.queue)
        body = bytes(range(256)) * 4000
        publisher.send(body, headers={"key": "v" * 1000})
        assert consumer.fetch().payload == body
        assert connection.connection.session.frame_max == 4096

        others = [connection.create_backend() for _ in range(3)]
        for backend in others:
            backend.qos(0, 1)
        with pytest.raises(CarrotError, match="all 5 channels"):
            connection.create_backend().qos(0, 1)

        others[0].close()
        connection.create_backend().qos(0, 1)


def test_channel_numbers_are_used_again(connection):
    for _ in range(3000):
        with connection.create_backend() as backend:
            backend.qos(0, 1)


# -- deadlines


@pytest.mark.parametrize("use", ["declare", "fetch", "send", "send_many", "large", "open", "ack"])
def test_frozen_broker_ends_every_use_in_time(frozen, unique, use):
    with BrokerConnection(frozen.url, operation_timeout=1, reconnect=False) as connection:
        consumer = Consumer(connection, unique())
        publisher = Publisher(connection, routing_key=consumer.queue, confirm_timeout=1)
        publisher.send("x")
        message = consumer.fetch()
        uses = {
            "declare": consumer.declare,
            "fetch": consumer.fetch,
            "send": lambda: publisher.send("y"),
            "send_many": lambda: publisher.send_many(range(5000)),
            "large": lambda: publisher.send(b"x" * 64 * 1024 * 1024),
            "open": lambda: connection.create_backend().qos(0, 1),
            # An ack has no answer; the next request shows that nobody is there.
            "ack": lambda: (message.ack(), consumer.fetch()),
        }
        frozen.freeze()

        # 1 second as the settings say, 1 more for a slow machine; a large body has one for its
        # writing and one for its confirm.
        with at_most(3 if use == "large" else 2), pytest.raises((OperationTimeout, ConnectionLost)):
            uses[use]()

        with at_most(3):
            connection.close()


def test_close_of_a_frozen_broker_ends_within_the_operation_timeout(frozen, unique):
    connection = BrokerConnection(frozen.url, operation_timeout=0.5)
    consumer = Consumer(connection, unique())
    frozen.freeze()

    # The channel's goodbye and the connection's.
    with at_most(2):
        consumer.close()
        connection.close()


def test_answer_that_comes_too_late_is_not_taken_for_another(frozen, unique):
    with BrokerConnection(frozen.url, operation_timeout=0.5) as connection:
        full, empty = unique(), unique()
        backend = connection.create_backend()
        for name in (full, empty):
            backend.queue_declare(name, durable=False, exclusive=False, auto_delete=False)
        Publisher(connection, routing_key=full).send_many(range(3))
        frozen.freeze()
        with pytest.raises(OperationTimeout):
            backend.queue_purge(full)
        frozen.thaw()
        transport = connection.connection
        transport.operation_timeout = 20

        # The answer to the first purge, that three messages are gone, is on its way.
        assert backend.queue_purge(empty) == 0
        # Nor does it meet a new channel of the same number.
        others = [connection.create_backend() for _ in range(5)]
        assert [other.queue_purge(empty) for other in others] == [0] * 5
        assert connection.connection is transport

        for name in (full, empty):
            backend.queue_delete(name)


def test_late_confirm_never_confirms_another_message(frozen, unique):
    with BrokerConnection(frozen.url, operation_timeout=20) as connection:
        publisher = Publisher(connection, routing_key=unique(), confirm_timeout=0.5)
        publisher.send("opens the channel")
        frozen.freeze()
        with pytest.raises(OperationTimeout, match="may or may not"):
            publisher.send("late")
        frozen.thaw()
        publisher.confirm_timeout = 20

        # The confirm of the late message comes first, and is nobody's.
        with pytest.raises(Unroutable) as caught:
            publisher.send("nowhere", mandatory=True)
        publisher.send("fine")

        assert [message.payload for message in caught.value.messages] == ["nowhere"]


# -- heartbeats


def test_heartbeats_go_on_while_a_callback_blocks(amqp_url, onlooker, queue):
    with BrokerConnection(amqp_url, heartbeat=1) as connection:
        received = []

        def slow(data, message):
            # Longer than the two intervals after which the broker gives up a silent client.
            threading.Event().wait(3.5)
            received.append(data)
            message.ack()

        consumer = Consumer(connection, queue, callbacks=[slow])
        Publisher(onlooker, routing_key=queue).send("slow work")

        consumer.wait(limit=1)

        assert connection.is_open
    assert received == ["slow work"]
    assert Consumer(onlooker, queue).fetch() is None


def test_silent_peer_is_noticed_within_about_two_heartbeats(frozen, unique):
    with BrokerConnection(frozen.url, heartbeat=1, reconnect=False) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        frozen.freeze()

        with at_most(5), pytest.raises(ConnectionLost, match="silent"):
            consumer.wait(limit=1)


def test_one_timer_thread_serves_all_connections(amqp_url):
    with ExitStack() as stack:
        connections = [
            stack.enter_context(BrokerConnection(amqp_url, heartbeat=1)) for _ in range(5)
        ]
        for connection in connections:
            connection.connect()

        timers = [thread for thread in threading.enumerate() if "carrot" in thread.name]

        assert len(timers) == 1
        assert not threading.Event().wait(2.5)
        for connection in connections:
            assert connection.create_backend().queue_exists("no such queue") is False


# -- acks


def unacked_or_waiting(onlooker: BrokerConnection, queue: str) -> int:
    """How many messages come back when their consumer has gone."""
    return len(list(iter(lambda: onlooker.create_backend().get(queue, no_ack=True), None)))


def test_slow_callback_does_not_delay_earlier_acks(connection, onlooker, queue):
    finish, acked = threading.Event(), threading.Event()

    def callback(data, message):
        if data == 4:
            # The others were acked just now, and must reach the broker while this one runs.
            acked.set()
            assert finish.wait(30)
        message.ack()

    consumer = Consumer(connection, queue, callbacks=[callback], prefetch_count=5)
    Publisher(onlooker, routing_key=queue).send_many(range(10))
    thread = threading.Thread(target=consumer.wait, kwargs={"limit": 10})
    thread.start()
    try:
        assert acked.wait(10)

        # Each ack lets another message through, of the five that wait in the queue.
        backend = onlooker.create_backend()

        def left() -> int:
            return backend.queue_declare(
                queue, durable=True, exclusive=False, auto_delete=False
            ).message_count

        eventually(lambda: left() == 1)
    finally:
        finish.set()
        thread.join(30)


def test_acks_are_on_the_wire_after_close(amqp_url, onlooker, queue):
    for _ in range(20):
        with BrokerConnection(amqp_url) as connection:
            consumer = Consumer(connection, queue)
            Publisher(connection, routing_key=queue).send_many(range(10))
            for message in consumer.iterqueue():
                message.ack()

        assert Consumer(onlooker, queue).fetch() is None


def test_acks_are_on_the_wire_after_closing_the_consumer(connection, onlooker, queue):
    consumer = Consumer(connection, queue)
    Publisher(connection, routing_key=queue).send_many(range(10))
    for message in consumer.iterqueue():
        message.ack()

    consumer.close()

    assert unacked_or_waiting(onlooker, queue) == 0


def test_acks_and_rejects_arrive_in_their_order(connection, onlooker, queue):
    consumer = Consumer(connection, queue)
    publisher = Publisher(connection, routing_key=queue)
    publisher.send_many(range(100))
    messages = list(consumer.iterqueue())
    for message in messages:
        settle = (message.ack, message.reject, message.requeue)[message.payload % 3]
        settle()
    consumer.close()

    left = list(Consumer(onlooker, queue, auto_ack=True).iterqueue())

    assert [message.payload for message in left] == [n for n in range(100) if n % 3 == 2]
    assert all(message.delivery_info["redelivered"] for message in left)


def test_ack_of_many_at_once(connection, onlooker, queue):
    consumer = Consumer(connection, queue)
    Publisher(connection, routing_key=queue).send_many(range(10))
    messages = list(consumer.iterqueue())

    consumer.backend.ack(messages[6].delivery_tag, multiple=True)
    consumer.close()

    left = list(Consumer(onlooker, queue, auto_ack=True).iterqueue())
    assert [message.payload for message in left] == [7, 8, 9]


def test_message_of_an_earlier_channel_acks_nothing(connection, queue, unique):
    consumer = Consumer(connection, queue)
    publisher = Publisher(connection, routing_key=queue)
    publisher.send("x")
    message = consumer.fetch()
    with pytest.raises(NotFound):
        consumer.backend.queue_purge(unique("missing"))

    with pytest.raises(ConnectionLost, match="redeliver"):
        message.ack()

    assert eventually(consumer.fetch).payload == "x"


# -- memory


def test_distinct_routing_keys_do_not_grow_memory(connection):
    publisher = Publisher(connection, "amq.topic", auto_declare=False)

    def send(first: int) -> None:
        with publisher.batch() as batch:
            for number in range(first, first + 20_000):
                batch.send("x", routing_key=f"key.{number:0>80}")

    send(0)
    gc.collect()
    tracemalloc.start()
    try:
        send(20_000)
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # All 20 000 of them, remembered once, would be 5 MB.
    assert grown < 1_500_000


def test_64_mebibytes_are_received_with_at_most_three_times_that(connection, onlooker, queue):
    size = 64 * 1024 * 1024
    consumer = Consumer(connection, queue, auto_ack=True)
    Publisher(onlooker, routing_key=queue, delivery_mode=1).send(b"x" * size)
    tracemalloc.start()
    try:
        with at_most(30):
            message = consumer.fetch()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(message.body) == size
    assert peak < 3 * size


# -- threads


@pytest.mark.usefixtures("hasty_threads")
def test_sixteen_threads_publish_and_four_consume_while_others_provoke_errors(
    connection, onlooker, queue, unique
):
    """Every message arrives once, every error reaches the thread whose it is."""
    received: list[tuple[int, int]] = []
    publisher = Publisher(connection, routing_key=queue, delivery_mode=1)
    consumers = [
        Consumer(
            connection,
            queue,
            callbacks=[lambda data, m: (received.append(tuple(data)), m.ack())],
        )
        for _ in range(4)
    ]
    transport = connection.connection
    published = threading.Barrier(16)

    def publish(thread: int) -> None:
        for number in range(100):
            publisher.send([thread, number])
            if number % 25 == 0:
                with connection.create_backend() as backend:
                    name = unique()
                    backend.queue_declare(name, durable=False, exclusive=True, auto_delete=True)
                    assert backend.queue_exists(name)
        published.wait(60)
        if thread == 0:
            eventually(lambda: len(received) >= 1600, 30)
            for consumer in consumers:
                consumer.stop()

    def provoke() -> None:
        for _ in range(25):
            with connection.create_backend() as backend:
                missing = unique("missing")
                with pytest.raises(NotFound, match=missing):
                    backend.get(missing)

    run(
        *(lambda n=n: publish(n) for n in range(16)),
        *(lambda consumer=consumer: consumer.wait() for consumer in consumers),
        provoke,
        provoke,
    )

    assert Counter(received) == Counter((n, m) for n in range(16) for m in range(100))
    assert connection.connection is transport
    for consumer in consumers:
        consumer.close()
    assert unacked_or_waiting(onlooker, queue) == 0


@pytest.mark.usefixtures("hasty_threads")
def test_errors_of_a_shared_publisher_stay_on_its_channel(connection, queue, unique):
    publisher = Publisher(connection, routing_key=queue, delivery_mode=1)
    consumer = Consumer(connection, queue)
    transport = connection.connection
    confirmed: list[list[int]] = []
    missing = unique("missing")

    def publish(thread: int) -> None:
        for number in range(100):
            publisher.send([thread, number])
            confirmed.append([thread, number])

    def spoil() -> None:
        for _ in range(20):
            with pytest.raises(NotFound):
                publisher.send("x", exchange=missing)

    run(*(lambda n=n: publish(n) for n in range(4)), spoil)

    # Each of these errors closes the channel that all share; what was confirmed is there.
    arrived = [message.payload for message in consumer.iterqueue()]
    assert [message for message in confirmed if message not in arrived] == []
    assert connection.connection is transport


def test_no_message_slips_out_unconfirmed_while_another_thread_opens_the_channel(
    connection, queue, unique, monkeypatch
):
    backend = connection.create_backend()
    backend.confirm_select()
    message = backend.prepare_message(b"x", 1)
    with pytest.raises(NotFound):
        backend.queue_purge(unique("missing"))
    numbers = []
    other = threading.Thread(target=lambda: numbers.append(backend.publish(message, "", queue)))
    confirm_select = Channel.confirm_select

    def confirm_select_late(channel: Channel, confirms: Confirms) -> None:
        other.start()
        # It can't be done yet: the channel has no books.
        other.join(0.3)
        confirm_select(channel, confirms)

    monkeypatch.setattr(Channel, "confirm_select", confirm_select_late)
    numbers.append(backend.publish(message, "", queue))
    other.join(10)

    assert None not in numbers
    assert len(set(numbers)) == 2
    backend.wait_for_confirms(numbers, 5)


def test_thread_that_waits_holds_up_nobody(connection, onlooker, queue, unique):
    received = []
    consumer = Consumer(
        connection, queue, callbacks=[lambda data, m: (received.append(data), m.ack())]
    )
    waiting = threading.Thread(target=consumer.wait, kwargs={"limit": 1})
    waiting.start()

    with at_most(10):
        for _ in range(100):
            with connection.create_backend() as backend:
                assert backend.queue_exists(queue)
        Publisher(connection, routing_key=unique("nowhere")).send_many(range(1000))

    assert received == []
    Publisher(onlooker, routing_key=queue).send("at last")
    waiting.join(10)
    assert received == ["at last"]


def test_close_ends_the_waits_of_other_threads(connection, queue):
    consumer = Consumer(connection, queue, callbacks=[print])
    ended = []

    def wait() -> None:
        try:
            consumer.wait()
        except ConnectionLost as exc:
            ended.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: connection.connection.stream._turns.is_taken)

    connection.close()

    thread.join(10)
    assert not thread.is_alive()
    assert len(ended) == 1


def test_forked_child_leaves_the_parents_connection_alone(amqp_url):
    code = f"""
import os
from carrot import BrokerConnection
with BrokerConnection({amqp_url!r}, heartbeat=1) as connection:
    connection.connect()
    child = os.fork()
    if child == 0:
        del connection._live
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(connection.create_backend().queue_exists("no such queue"))
"""

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


def test_signal_handler_may_stop_a_wait(connection, queue):
    consumer = Consumer(connection, queue, callbacks=[print])
    previous = signal.signal(signal.SIGALRM, lambda *args: consumer.stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        consumer.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# -- batches


def test_batch_is_sent_in_few_writes(connection, queue, monkeypatch):
    Consumer(connection, queue)
    publisher = Publisher(connection, routing_key=queue)
    publisher.send("opens the channel")
    link = connection.connection.stream._link
    writes = []
    send = link.send
    monkeypatch.setattr(link, "send", lambda data: (writes.append(len(data)), send(data))[1])

    with publisher.batch() as batch:
        for number in range(500):
            batch.send(number)

    assert batch.sent == 500
    assert len(writes) < 10


def test_batch_that_is_interrupted_keeps_nothing_back(connection, onlooker, queue):
    consumer = Consumer(onlooker, queue)
    publisher = Publisher(connection, routing_key=queue, confirm=False)

    with pytest.raises(KeyboardInterrupt), publisher.batch() as batch:
        batch.send(1)
        raise KeyboardInterrupt
    publisher.send(2)

    # Nothing else is done on that connection, which could bring them on their way.
    arrived = []
    eventually(lambda: arrived.extend(m.payload for m in consumer.iterqueue()) or len(arrived) == 2)
    assert arrived == [1, 2]


def test_interrupt_between_a_messages_number_and_its_write_shifts_no_confirm(
    connection, onlooker, queue, monkeypatch
):
    consumer = Consumer(onlooker, queue)
    publisher = Publisher(connection, routing_key=queue, confirm_timeout=5)
    publisher.send(1)
    channel = publisher.backend.channel
    writer = connection.connection.stream._writer

    def interrupted(*args: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(channel._view, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publisher.send(2)
    assert not writer.is_closed
    publisher.send(3)

    assert publisher.backend.channel is not channel
    assert [message.payload for message in consumer.iterqueue()] == [1, 3]


def test_a_message_that_waits_too_long_to_be_written_shifts_no_confirm(
    connection, onlooker, queue, unique
):
    consumer = Consumer(onlooker, queue)
    publisher = Publisher(connection, routing_key=queue, confirm_timeout=5)
    publisher.send(1)
    transport = connection.connection

    def send() -> None:
        with (
            bounded_by(Deadline.after(0.2)),
            pytest.raises(OperationTimeout, match="another thread"),
        ):
            publisher.send(2)

    transport.stream._writer.is_writing_on = True
    run(send)
    transport.stream._writer._end_turn()
    with pytest.raises(Unroutable) as caught:
        publisher.send("nowhere", routing_key=unique("missing"), mandatory=True)
    publisher.send(3)

    assert [message.payload for message in caught.value.messages] == ["nowhere"]
    assert [message.payload for message in consumer.iterqueue()] == [1, 3]


def test_a_batch_keeps_back_nothing_of_other_threads(connection, onlooker, queue):
    consumer = Consumer(onlooker, queue)
    publisher = Publisher(connection, routing_key=queue, confirm=False)
    begun, arrived = threading.Event(), threading.Event()

    def batch() -> None:
        with publisher.batch():
            begun.set()
            assert arrived.wait(10)

    def send() -> None:
        assert begun.wait(10)
        publisher.send("now")
        eventually(lambda: (message := consumer.fetch()) and message.payload == "now")
        arrived.set()

    run(batch, send)


def test_large_messages_make_a_batchs_window_small(connection, queue, monkeypatch):
    publisher = Publisher(connection, routing_key=queue, delivery_mode=1)
    under_way = []
    publisher.send("opens the channel")
    life = publisher.backend.life
    publish = life.publish

    def counted(*args: object) -> int:
        under_way.append(len(life.confirms._pending))
        return publish(*args)

    monkeypatch.setattr(life, "publish", counted)

    publisher.send_many(bytes(4 * 1024 * 1024) for _ in range(12))

    assert max(under_way) < 4


def test_batch_ends_with_its_own_error_on_a_lost_connection(connection, queue):
    publisher = Publisher(connection, routing_key=queue)
    publisher.send("opens the channel")

    with pytest.raises((ConnectionLost, EncodeError)), publisher.batch() as batch:
        batch.send(1)
        connection.connection.stream._link._sock.shutdown(socket.SHUT_RDWR)
        batch.send(2)
        batch.send(object())
