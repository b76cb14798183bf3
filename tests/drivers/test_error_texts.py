"""The commonest failures, word for word: what happened, to which object, and what to do.

And never the password: every login here has one, and no error may show it.
"""

import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import NamedTuple

import pytest

from carrot.backends.base import BaseBackend
from carrot.connection import BrokerConnection
from carrot.deadline import Deadline, bounded_by
from carrot.exceptions import (
    AccessRefused,
    BrokerRefused,
    CarrotError,
    ChannelError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    ContentTooLarge,
    NotFound,
    OperationTimeout,
    PermissionDenied,
    PreconditionFailed,
    ResourceLocked,
)
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ
from tests.conftest import unavailable
from tests.waiting import eventually

PASSWORD = "s3cret-pass"
MAX_MESSAGE_SIZE, CHANNEL_MAX = 4096, 4

Connect = Callable[..., BrokerConnection]


@pytest.fixture(params=["amqp", "pyamqplib"])
def driver(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def connect(driver: str) -> Iterator[Connect]:
    """Makes connections with the driver under test; they are closed at the end."""
    with ExitStack() as stack:

        def make(hostname: str = "127.0.0.1", userid: str = "ann", **options) -> BrokerConnection:
            options = {"connect_timeout": 5, "operation_timeout": 10, **options}
            connection = BrokerConnection(
                hostname, userid=userid, password=PASSWORD, backend_cls=driver, **options
            )
            stack.callback(connection.close)
            return connection

        yield make


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQ]:
    """A node with small limits; ann may do everything in ``/``, bob only what is his own.

    It has the durable queues feed and bob.jobs and the durable direct exchange news.
    """
    if reason := RabbitMQ.missing():
        unavailable(reason)
    config = [f"max_message_size = {MAX_MESSAGE_SIZE}", f"channel_max = {CHANNEL_MAX}"]
    with RabbitMQ(config, name="texts") as broker:
        for user, pattern in (("ann", ".*"), ("bob", r"^bob\.")):
            broker.ctl("add_user", user, PASSWORD)
            broker.ctl("set_permissions", user, pattern, pattern, pattern)
        broker.ctl("add_vhost", "app")
        with BrokerConnection(broker.url, backend_cls="amqp") as connection:
            backend = connection.create_backend()
            for queue in ("feed", "bob.jobs"):
                backend.queue_declare(queue, durable=True, exclusive=False, auto_delete=False)
            backend.exchange_declare("news", "direct", durable=True, auto_delete=False)
        yield broker


def raised(do: Callable[[], object]) -> CarrotError:
    """What *do* raises, which shows the password nowhere, its causes included."""
    with pytest.raises(CarrotError) as caught:
        do()
    error: BaseException | None = caught.value
    shown = traceback.format_exception(caught.value)
    while error is not None:
        shown += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    assert PASSWORD not in "".join(shown)
    return caught.value


def assert_raised(do: Callable[[], object], error: type[CarrotError], text: str) -> None:
    caught = raised(do)

    assert str(caught) == text
    assert type(caught) is error


# -- no connection

HUNG_UP = (
    "the peer hung up before it let anybody in: is this an AMQP 0-9-1 broker's port (usually "
    "5672, and 5671 with ssl=True), or a proxy's without a broker behind it?"
)
NOT_AMQP = (
    "the peer doesn't speak AMQP 0-9-1: is this a broker's port (usually 5672, and 5671 with "
    "ssl=True)?"
)
NOT_TLS = (
    "the peer doesn't speak TLS: use the broker's TLS port (usually 5671), or ssl=False with "
    "this one"
)
NO_ANSWER = (
    "no answer within {timeout} seconds: is this an AMQP 0-9-1 broker's port, and no firewall in "
    "between? Where all is well and slow, raise connect_timeout"
)


def no_connection(reason: str, port: int, host: str = "127.0.0.1", vhost: str = "/") -> str:
    return f"can't connect to {host}:{port}, virtual host '{vhost}', as user 'ann': {reason}"


def test_port_where_nobody_listens(connect):
    assert_raised(
        connect(port=1).connect,
        ConnectionFailed,
        no_connection(
            "nobody listens there: is the broker running, and is this its host and port "
            "(usually 5672, and 5671 for TLS)?",
            port=1,
        ),
    )


def test_unknown_host(connect):
    with pytest.raises(socket.gaierror) as systems:
        socket.getaddrinfo("broker.invalid", 5672)

    assert_raised(
        connect("broker.invalid").connect,
        ConnectionFailed,
        no_connection(
            f"the host name can't be resolved ({systems.value.strerror}): check its spelling, "
            "and this machine's DNS and /etc/hosts",
            host="broker.invalid",
            port=5672,
        ),
    )


@contextmanager
def listening(serve: Callable[[socket.socket], object] | None = None) -> Iterator[int]:
    """The port of a peer that does *serve* with a client, and hangs up; or that is silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = None
        if serve is not None:
            thread = threading.Thread(target=_serve, args=(listener, serve), daemon=True)
            thread.start()
        yield listener.getsockname()[1]
        if thread is not None:
            thread.join(10)


def _serve(listener: socket.socket, serve: Callable[[socket.socket], object]) -> None:
    client, _ = listener.accept()
    client.settimeout(10)
    with closing(client), suppress(OSError):
        serve(client)


def echo(client: socket.socket) -> None:
    while data := client.recv(1000):
        client.sendall(data)


def speak_http(client: socket.socket) -> None:
    client.recv(1000)
    client.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def hang_up(client: socket.socket) -> None:
    client.recv(1000)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_peer_that_is_silent(connect, tls):
    with listening() as port:
        assert_raised(
            connect(port=port, ssl=tls, connect_timeout=0.3).connect,
            ConnectionFailed,
            no_connection(NO_ANSWER.format(timeout=0.3), port),
        )


# py-amqp waits for as many bytes as it takes the first ones to announce.
@pytest.mark.parametrize(
    ("serve", "tls", "reason"),
    [
        (speak_http, False, {"amqp": NOT_AMQP, "pyamqplib": HUNG_UP}),
        (speak_http, True, {"amqp": NOT_TLS, "pyamqplib": NOT_TLS}),
        (echo, False, {"amqp": NOT_AMQP, "pyamqplib": NO_ANSWER.format(timeout=0.5)}),
        (echo, True, {"amqp": NOT_TLS, "pyamqplib": NOT_TLS}),
        (hang_up, False, {"amqp": HUNG_UP, "pyamqplib": HUNG_UP}),
        (hang_up, True, {"amqp": HUNG_UP, "pyamqplib": HUNG_UP}),
    ],
    ids=["http", "http-tls", "echo", "echo-tls", "hangs-up", "hangs-up-tls"],
)
def test_peer_that_is_no_broker(connect, driver, serve, tls, reason):
    with listening(serve) as port:
        assert_raised(
            connect(port=port, ssl=tls, connect_timeout=0.5).connect,
            ConnectionFailed,
            no_connection(reason[driver], port),
        )


def test_tls_client_at_a_plain_port(connect, node):
    assert_raised(
        connect(port=node.port, ssl=True).connect,
        ConnectionFailed,
        no_connection(NOT_TLS, node.port),
    )


def test_plain_client_at_a_tls_port(connect, driver, tls_broker):
    # To py-amqp TLS's alert is the beginning of a frame, of which no more comes.
    reason = {"amqp": NOT_AMQP, "pyamqplib": HUNG_UP}

    assert_raised(
        connect("localhost", port=tls_broker.tls_port).connect,
        ConnectionFailed,
        no_connection(reason[driver], tls_broker.tls_port, "localhost"),
    )


@pytest.mark.parametrize(
    ("host", "options", "mismatch"),
    [
        ("127.0.0.1", {}, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        (
            "localhost",
            {"server_hostname": "broker.example"},
            "Hostname mismatch, certificate is not valid for 'broker.example'",
        ),
    ],
    ids=["address", "name"],
)
def test_certificate_for_another_name(connect, tls_broker, host, options, mismatch):
    port = tls_broker.tls_port

    assert_raised(
        connect(host, port=port, ssl={"ca_certs": tls_broker.ca, **options}).connect,
        ConnectionFailed,
        no_connection(
            f"the broker's certificate is for another name ({mismatch}): connect by a name that "
            "is in it, or give that name as ssl={'server_hostname': …}",
            port,
            host,
        ),
    )


def test_certificate_of_an_unknown_authority(connect, tls_broker):
    assert_raised(
        connect("localhost", port=tls_broker.tls_port, ssl=True).connect,
        ConnectionFailed,
        no_connection(
            "the broker's certificate is not trusted (self-signed certificate in certificate "
            "chain): name the file of the authority that signed it, as ssl={'ca_certs': …}",
            tls_broker.tls_port,
            "localhost",
        ),
    )


# -- not let in


@pytest.mark.parametrize("method", ["PLAIN", "AMQPLAIN"])
def test_wrong_password(connect, node, method):
    connection = connect(userid="guest", port=node.port, login_method=method)

    assert_raised(
        connection.connect,
        AccessRefused,
        f"can't connect to 127.0.0.1:{node.port}, virtual host '/', as user 'guest': the broker "
        f"refused the login ({method}): check user and password (rabbitmqctl authenticate_user "
        "guest); RabbitMQ lets guest in from its own machine only",
    )


def test_login_method_that_the_broker_lacks(connect, node):
    assert_raised(
        connect(port=node.port, login_method="EXTERNAL").connect,
        ConnectionFailed,
        no_connection(
            "the broker has no login method EXTERNAL, but AMQPLAIN, PLAIN: give one of these as "
            "login_method=, or add EXTERNAL to auth_mechanisms in rabbitmq.conf",
            node.port,
        ),
    )


def test_certificate_that_is_no_login(connect, tls_broker):
    connection = connect(
        "localhost",
        port=tls_broker.tls_port,
        ssl={"ca_certs": tls_broker.ca},
        login_method="EXTERNAL",
    )

    assert_raised(
        connection.connect,
        AccessRefused,
        no_connection(
            "the broker didn't let the client certificate in: give certfile and keyfile in "
            "ssl={…}, of a certificate that names a user of the broker (ssl_cert_login_from in "
            "rabbitmq.conf)",
            tls_broker.tls_port,
            "localhost",
        ),
    )


def test_unknown_virtual_host(connect, node):
    assert_raised(
        connect(port=node.port, virtual_host="no where").connect,
        ConnectionFailed,
        no_connection(
            "there is no such virtual host: create the virtual host (rabbitmqctl add_vhost "
            "'no where'), or check its name",
            node.port,
            vhost="no where",
        ),
    )


def test_virtual_host_that_the_user_may_not_enter(connect, node):
    assert_raised(
        connect(port=node.port, virtual_host="app").connect,
        AccessRefused,
        no_connection(
            "the user has no permissions in this virtual host: rabbitmqctl set_permissions -p "
            "app ann '.*' '.*' '.*' (patterns of the names for configure, write and read)",
            node.port,
            vhost="app",
        ),
    )


def test_limit_of_connections_is_no_matter_of_access(connect, node):
    node.ctl("set_user_limits", "bob", '{"max-connections":0}')
    try:
        assert_raised(
            connect(userid="bob", port=node.port).connect,
            ConnectionFailed,
            f"can't connect to 127.0.0.1:{node.port}, virtual host '/', as user 'bob': the broker "
            "takes no more connections here (connection refused for user 'bob': user connection "
            "limit (0) is reached): close some, or see rabbitmqctl list_vhost_limits, "
            "list_user_limits and status",
        )
    finally:
        node.ctl("clear_user_limits", "bob", "all")


# -- the broker refuses


class Refusal(NamedTuple):
    """Something the broker doesn't do for a user."""

    name: str
    user: str
    do: Callable[[BaseBackend], object]
    error: type[ChannelError]
    text: str


def declare_queue(name, durable=True, exclusive=False, auto_delete=False, arguments=None):
    return lambda backend: backend.queue_declare(
        name, durable, exclusive, auto_delete, arguments=arguments
    )


def declare_exchange(name, type="direct", durable=True):
    return lambda backend: backend.exchange_declare(name, type, durable, auto_delete=False)


def publish(exchange, routing_key="", size=1):
    def do(backend: BaseBackend) -> None:
        publisher = Publisher(
            backend.connection, exchange, routing_key, auto_declare=False, backend=backend
        )
        publisher.send(b"x" * size)

    return do


def use_a_queue_that_another_holds(backend: BaseBackend) -> None:
    settings = backend.connection.settings
    with BrokerConnection(settings.hostname, "ann", PASSWORD, port=settings.port) as other:
        other.create_backend().queue_declare("held", False, True, False)
        backend.get("held")


GRANT = (
    "rabbitmqctl set_permissions -p / bob '.*' '.*' '.*' (patterns of the names for configure, "
    "write and read)"
)
QUEUE_PERMISSION = (
    "user 'bob' lacks the needed permission for queue '{}' in virtual host '/' (configure to "
    f"declare or delete it, write to bind it, read to consume from it or purge it): {GRANT}"
)
EXCHANGE_PERMISSION = (
    "user 'bob' lacks the needed permission for exchange '{}' in virtual host '/' (configure to "
    f"declare or delete it, write to publish to it, read to bind a queue to it): {GRANT}"
)
DECLARE_QUEUE_FIRST = (
    "no queue 'missing' in virtual host '/': declare it first (a Consumer does, unless "
    "auto_declare=False), and check the name"
)
DECLARE_EXCHANGE_FIRST = (
    "no exchange 'missing' in virtual host '/': declare it first (Publisher and Consumer do, "
    "unless auto_declare=False), and check the name"
)
EXISTS = "{} exists with {}={}, declared here with {}={}: delete it, or declare it as it is".format
LOCKED = (
    "queue '{}' in virtual host '/' is exclusive to another connection, or exists and is not "
    "exclusive: use that connection, another name, or the same exclusive= in both places"
)

REFUSALS = (
    Refusal(
        "configure a queue",
        "bob",
        declare_queue("other"),
        PermissionDenied,
        QUEUE_PERMISSION.format("other"),
    ),
    Refusal(
        "configure an exchange",
        "bob",
        declare_exchange("other"),
        PermissionDenied,
        EXCHANGE_PERMISSION.format("other"),
    ),
    Refusal(
        "write to an exchange",
        "bob",
        publish("news"),
        PermissionDenied,
        EXCHANGE_PERMISSION.format("news"),
    ),
    Refusal(
        "write to the default exchange",
        "bob",
        publish("", "bob.jobs"),
        PermissionDenied,
        "user 'bob' lacks the needed permission for the default exchange in virtual host '/', "
        f"which patterns know as 'amq.default' (write to publish to it): {GRANT}",
    ),
    Refusal(
        "write to a queue, binding it",
        "bob",
        lambda backend: backend.queue_bind("feed", "news", "key"),
        PermissionDenied,
        QUEUE_PERMISSION.format("feed"),
    ),
    Refusal(
        "read an exchange, binding to it",
        "bob",
        lambda backend: backend.queue_bind("bob.jobs", "news", "key"),
        PermissionDenied,
        EXCHANGE_PERMISSION.format("news"),
    ),
    Refusal(
        "read a queue",
        "bob",
        lambda backend: backend.get("feed"),
        PermissionDenied,
        QUEUE_PERMISSION.format("feed"),
    ),
    Refusal(
        "404 queue", "ann", lambda backend: backend.get("missing"), NotFound, DECLARE_QUEUE_FIRST
    ),
    Refusal("404 exchange", "ann", publish("missing"), NotFound, DECLARE_EXCHANGE_FIRST),
    Refusal(
        "404 exchange, binding to it",
        "ann",
        lambda backend: backend.queue_bind("feed", "missing", "key"),
        NotFound,
        DECLARE_EXCHANGE_FIRST,
    ),
    Refusal(
        "405 exclusive to another",
        "ann",
        use_a_queue_that_another_holds,
        ResourceLocked,
        LOCKED.format("held"),
    ),
    Refusal(
        "405 declared as exclusive",
        "ann",
        declare_queue("feed", exclusive=True),
        ResourceLocked,
        LOCKED.format("feed"),
    ),
    Refusal(
        "406 durable",
        "ann",
        declare_queue("feed", durable=False),
        PreconditionFailed,
        EXISTS("queue 'feed'", "durable", True, "durable", False),
    ),
    Refusal(
        "406 durable, of an exchange",
        "ann",
        declare_exchange("news", durable=False),
        PreconditionFailed,
        EXISTS("exchange 'news'", "durable", True, "durable", False),
    ),
    Refusal(
        "406 auto_delete",
        "ann",
        declare_queue("feed", auto_delete=True),
        PreconditionFailed,
        EXISTS("queue 'feed'", "auto_delete", False, "auto_delete", True),
    ),
    Refusal(
        "406 arguments",
        "ann",
        declare_queue("feed", arguments={"x-max-length": 5}),
        PreconditionFailed,
        EXISTS("queue 'feed'", "x-max-length", "nothing", "x-max-length", 5),
    ),
    Refusal(
        "406 type",
        "ann",
        declare_exchange("news", type="topic"),
        PreconditionFailed,
        EXISTS("exchange 'news'", "type", "'direct'", "type", "'topic'"),
    ),
    Refusal(
        "message too large",
        "ann",
        publish("", "feed", size=MAX_MESSAGE_SIZE + 1),
        ContentTooLarge,
        f"the message is {MAX_MESSAGE_SIZE + 1} bytes long, and the broker takes at most "
        f"{MAX_MESSAGE_SIZE}: send less, or raise max_message_size in rabbitmq.conf",
    ),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_refusal_of_the_broker(connect, node, refusal):
    backend = connect(userid=refusal.user, port=node.port).create_backend()

    assert_raised(lambda: refusal.do(backend), refusal.error, refusal.text)

    # The channel reopens, and the connection has stayed.
    assert backend.queue_exists("missing") is False


def test_out_of_channels(connect, driver, node):
    connection = connect(port=node.port)
    expected = {
        "amqp": (
            ConfigurationError,
            f"all {CHANNEL_MAX} channels of the connection to 127.0.0.1:{node.port}, virtual host "
            "'/' are in use: close publishers and consumers, or share them",
        ),
        "pyamqplib": (
            ChannelError,
            f"all {CHANNEL_MAX} channels of the connection are in use: close publishers and "
            "consumers, share them, or raise channel_max in rabbitmq.conf",
        ),
    }
    backends = [connection.create_backend() for _ in range(CHANNEL_MAX + 1)]

    def open_all() -> None:
        for backend in backends:
            backend.qos(0, 1)

    assert_raised(open_all, *expected[driver])


# -- the connection is lost


def lost(reason: str, node: RabbitMQ) -> str:
    return (
        f"the connection to 127.0.0.1:{node.port}, virtual host '/' is gone: {reason}; what was "
        "not confirmed or acked may not have arrived"
    )


def test_connection_closed_by_an_operator(connect, node):
    connection = connect(port=node.port)
    connection.connect()
    node.ctl("close_all_connections", "maintenance until noon")

    assert_raised(
        lambda: connection.drain_events(timeout=5),
        ConnectionLost,
        lost(
            "the broker closed it, as an operator told it to or because it shuts down (connect "
            "again, as the next use does): maintenance until noon",
            node,
        ),
    )


def test_frame_that_the_broker_cannot_read(connect, driver, node):
    connection = connect(port=node.port)
    connection.create_backend().qos(0, 1)
    transport = connection.connection
    sock = transport.stream._link._sock if driver == "amqp" else transport._amqp.transport.sock
    sock.sendall(b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x0bX")

    assert_raised(
        lambda: connection.drain_events(timeout=5),
        ConnectionLost,
        lost(
            "the broker can't read what it received (does a forked process share the connection, "
            "or a proxy change what it passes on? else report a fault of the driver): type 1, all "
            "octets = <<0,60,0,11>>: {invalid_frame_end_marker,88}",
            node,
        ),
    )


def test_channel_that_the_broker_does_not_know(connect, driver, node):
    connection = connect(port=node.port)
    connection.create_backend().qos(0, 1)
    transport = connection.connection
    sock = transport.stream._link._sock if driver == "amqp" else transport._amqp.transport.sock
    # basic.recover on channel 4, which was never opened.
    sock.sendall(b"\x01\x00\x04\x00\x00\x00\x05\x00\x3c\x00\x6e\x01\xce")

    assert_raised(
        lambda: connection.drain_events(timeout=5),
        ConnectionLost,
        lost(
            "the broker can't read what it received (does a forked process share the connection, "
            "or a proxy change what it passes on? else report a fault of the driver): "
            "CHANNEL_ERROR - expected 'channel.open'",
            node,
        ),
    )


# -- the broker refuses, and closes the connection


class ClosingRefusal(NamedTuple):
    """Something over which the broker closes the connection."""

    name: str
    do: Callable[[BaseBackend], object]
    code: int
    words: str
    text: str


def declare_typed_queue(backend: BaseBackend, type: str) -> str:
    name = f"a {type}"
    backend.queue_declare(name, True, False, False, arguments={"x-queue-type": type})
    return name


def limit_all_consumers_of_a_quorum_queue(backend: BaseBackend) -> None:
    name = declare_typed_queue(backend, "quorum")
    backend.qos(0, 5, apply_global=True)
    backend.declare_consumer(name, False, callback=print, consumer_tag="tag")


def consume_from_a_stream_without_acks(backend: BaseBackend) -> None:
    name = declare_typed_queue(backend, "stream")
    backend.qos(0, 5)
    backend.declare_consumer(name, True, callback=print, consumer_tag="tag")


def requeue_to_a_stream(backend: BaseBackend) -> None:
    name, got = declare_typed_queue(backend, "stream"), []
    backend.qos(0, 5)
    backend.declare_consumer(name, False, callback=got.append, consumer_tag="tag")
    publish("", name)(backend)
    next(backend.consume(limit=1))
    got[0].requeue()
    backend.queue_purge("feed")  # anything that the broker answers


IS_A_STREAM = "queue 'a stream' in virtual host '/' is a stream, "

CLOSING_REFUSALS = (
    ClosingRefusal(
        "exchange type",
        lambda backend: backend.exchange_declare("late", "x-delayed-message", True, False),
        503,
        "COMMAND_INVALID - unknown exchange type 'x-delayed-message'",
        "the broker has no exchange type 'x-delayed-message': correct exchange_type=, or enable "
        "the plug-in that brings it (rabbitmq-plugins enable); over this exchange.declare",
    ),
    ClosingRefusal(
        "global prefetch of a quorum queue",
        limit_all_consumers_of_a_quorum_queue,
        540,
        "NOT_IMPLEMENTED - queue 'a quorum' in vhost '/' does not support global qos",
        "queue 'a quorum' in virtual host '/' does not support global qos, a prefetch that all "
        "consumers of a channel share: leave out apply_global, or use a classic queue; over this "
        "basic.consume",
    ),
    ClosingRefusal(
        "get from a stream",
        lambda backend: backend.get(declare_typed_queue(backend, "stream")),
        540,
        "NOT_IMPLEMENTED - basic.get not supported by stream queues queue 'a stream' in vhost '/'",
        f"{IS_A_STREAM}which can't be read message by message: consume from it; over this "
        "basic.get",
    ),
    ClosingRefusal(
        "no_ack on a stream",
        consume_from_a_stream_without_acks,
        540,
        "NOT_IMPLEMENTED - automatic acknowledgement not supported by stream queues queue "
        "'a stream' in vhost '/'",
        f"{IS_A_STREAM}which needs acks: consume with no_ack=False; over this basic.consume",
    ),
    ClosingRefusal(
        "requeue to a stream",
        requeue_to_a_stream,
        540,
        "NOT_IMPLEMENTED - basic.nack and basic.reject not supported by stream queues queue "
        "'a stream' in vhost '/'",
        f"{IS_A_STREAM}where a message can't be rejected or requeued: ack it; over this "
        "basic.reject",
    ),
    ClosingRefusal(
        "purge a stream",
        lambda backend: backend.queue_purge(declare_typed_queue(backend, "stream")),
        540,
        "NOT_IMPLEMENTED - queue.purge not supported by stream queues queue 'a stream' in vhost "
        "'/'",
        f"{IS_A_STREAM}which can't be purged: delete it, or limit it with x-max-age or "
        "x-max-length-bytes; over this queue.purge",
    ),
    ClosingRefusal(
        "delete a quorum queue if it is empty",
        lambda backend: backend.queue_delete(declare_typed_queue(backend, "quorum"), if_empty=True),
        540,
        "NOT_IMPLEMENTED - cannot delete queue 'a quorum' in vhost '/'. queue.delete operations "
        "with if-empty flag set are not supported by quorum queues",
        "queue 'a quorum' in virtual host '/' is a quorum queue, which can't be deleted on "
        "condition: leave out if_empty; over this queue.delete",
    ),
    ClosingRefusal(
        "an argument that the broker can't cope with",
        declare_queue("broken", arguments={"x-queue-master-locator": "nowhere"}),
        541,
        "INTERNAL_ERROR",
        "the broker failed, and its log says why (INTERNAL_ERROR): check the arguments of the "
        "queue, the exchange or the consumer; over this request",
    ),
)


@pytest.mark.parametrize("refusal", CLOSING_REFUSALS, ids=lambda refusal: refusal.name)
def test_refusal_that_closes_the_connection_is_told_once(connect, node, refusal):
    connection = connect(port=node.port)
    backend, bystander = connection.create_backend(), connection.create_backend()
    bystander.qos(0, 1)
    transport = connection.connection

    error = raised(lambda: refusal.do(backend))

    assert type(error) is BrokerRefused
    assert str(error) == (
        f"{refusal.text} the broker closed the connection to 127.0.0.1:{node.port}, virtual host "
        "'/'"
    )
    assert (error.code, error.text) == (refusal.code, refusal.words)
    with pytest.raises(ConnectionLost):
        transport.wait_for(lambda: False, timeout=5)

    # A new use opens a new connection, for the one that was refused and for the others.
    assert backend.queue_exists("feed")
    assert bystander.queue_exists("feed")
    assert connection.connection is not transport


def test_loop_is_not_repeated_when_the_broker_refuses_it(connect, node):
    losses = []
    connection = connect(port=node.port)
    connection.on_connection_lost = lambda error, interval: losses.append(error)
    consumer = Consumer(connection, queue="refusing", queue_type="quorum", callbacks=[print])
    consumer.qos(prefetch_count=5, apply_global=True)

    error = raised(lambda: consumer.wait(limit=1, timeout=10))

    assert type(error) is BrokerRefused
    assert "queue 'refusing' in virtual host '/' does not support global qos" in str(error)
    assert losses == []


# -- not in time


def test_broker_that_is_blocked_by_an_alarm(connect, driver, node):
    publisher = Publisher(connect(port=node.port), routing_key="feed", confirm_timeout=1)
    node.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        error = raised(lambda: publisher.send("x"))
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.4")

    assert type(error) is OperationTimeout
    why = {
        "amqp": "for 1 seconds it has been blocking publishers, for an alarm: 'low on memory'; "
        "free memory or disk space there, or let consumers catch up",
        "pyamqplib": "is it blocked by an alarm, or overloaded?",
    }
    assert str(error) == (
        "the broker confirmed nothing within 1 seconds: it may or may not have the message "
        f"({why[driver]})"
    )


def test_time_out_says_no_password(connect, node):
    connection = connect(f"amqp://ann:{PASSWORD}@127.0.0.1:{node.port}//")
    connection.connect()

    error = raised(lambda: connection.drain_events(timeout=0.1))

    assert type(error) is OperationTimeout
    assert str(error) == (
        f"nothing came from 127.0.0.1:{node.port}, virtual host '/' within 0.1 seconds"
    )


def test_time_out_behind_another_thread_says_no_password(connect):
    with listening() as port:
        connection = connect(f"amqp://ann:{PASSWORD}@127.0.0.1:{port}//", connect_timeout=5)
        opening = threading.Thread(target=lambda: suppressed(connection.connect), daemon=True)
        opening.start()
        eventually(connection._live._opening.locked, within=5)

        with bounded_by(Deadline.after(0.1)):
            error = raised(connection.reopen)
        connection.close()

    assert type(error) is OperationTimeout
    assert str(error) == (
        "no connection to 127.0.0.1 within 0.1 seconds: another thread is still trying to make it"
    )
    opening.join(10)


def suppressed(do: Callable[[], object]) -> None:
    with suppress(CarrotError):
        do()


# -- TLS as people deploy it


@pytest.mark.parametrize("url", [True, False], ids=["amqps", "ssl=True"])
def test_tls_trusts_the_authorities_of_the_system(connect, tls_broker, monkeypatch, url):
    # OpenSSL's own variable, in the place of the system's store.
    monkeypatch.setenv("SSL_CERT_FILE", tls_broker.ca)
    port = tls_broker.tls_port
    where = {"hostname": f"amqps://localhost:{port}"} if url else {"port": port, "ssl": True}
    connection = connect(**{"hostname": "localhost", **where}, userid="guest")
    connection.password = "guest"

    connection.connect()

    assert connection.is_open


def test_amqps_does_not_trust_who_is_unknown(connect, tls_broker):
    connection = connect(f"amqps://localhost:{tls_broker.tls_port}")

    error = raised(connection.connect)

    assert "the broker's certificate is not trusted" in str(error)


def test_ssl_false_speaks_plainly(connect, node):
    connection = connect(port=node.port, ssl=False)

    connection.connect()

    assert connection.is_open


def test_client_certificate_is_a_login(connect, tls_broker):
    connection = connect(
        "localhost",
        port=tls_broker.tls_port,
        login_method="EXTERNAL",
        ssl={
            "ca_certs": tls_broker.ca,
            "certfile": tls_broker.certificate,
            "keyfile": tls_broker.key,
        },
    )

    connection.connect()

    assert connection.is_open


def test_server_hostname_is_the_name_that_counts(connect, tls_broker):
    connection = connect(
        "127.0.0.1",
        userid="guest",
        port=tls_broker.tls_port,
        ssl={"ca_certs": tls_broker.ca, "server_hostname": "localhost"},
    )
    connection.password = "guest"

    connection.connect()

    assert connection.is_open


class TestSslContext:
    """The native driver's own: py-amqp's takes no context."""

    @pytest.fixture
    def driver(self) -> str:
        return "amqp"

    def test_its_client_certificate_is_a_login(self, connect, tls_broker):
        context = ssl.create_default_context(cafile=tls_broker.ca)
        context.load_cert_chain(tls_broker.certificate, tls_broker.key)
        connection = connect(
            "localhost", port=tls_broker.tls_port, ssl=context, login_method="EXTERNAL"
        )

        connection.connect()

        assert connection.is_open

    @pytest.mark.parametrize(
        ("host", "trusts", "says"),
        [
            ("localhost", False, "is not trusted"),
            ("127.0.0.1", True, "is for another name"),
        ],
    )
    def test_it_verifies(self, connect, tls_broker, host, trusts, says):
        context = ssl.create_default_context(cafile=tls_broker.ca if trusts else None)
        connection = connect(host, port=tls_broker.tls_port, ssl=context)

        error = raised(connection.connect)

        assert says in str(error)
