"""What both drivers for RabbitMQ do alike: logging in, TLS, heartbeats, losing the connection."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
    AccessRefused,
    CarrotError,
    ChannelError,
    ConnectionFailed,
    ConnectionLost,
    NotFound,
)
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ
from tests.conftest import unavailable
from tests.waiting import eventually

SECRET = "s3cret"


@pytest.fixture(params=["amqp", "pyamqplib"])
def connect(request: pytest.FixtureRequest) -> Callable[..., BrokerConnection]:
    """Makes connections with the driver under test."""

    def make(*args, **options) -> BrokerConnection:
        return BrokerConnection(*args, backend_cls=request.param, **options)

    return make


@pytest.fixture
def connection(connect, amqp_url: str) -> Iterator[BrokerConnection]:
    with connect(amqp_url) as connection:
        yield connection


@pytest.fixture
def queue(connection, unique):
    """The name of a queue that is deleted at the end."""
    name = unique()
    yield name
    connection.connect()
    connection.create_backend().queue_delete(name)


def cut(connection: BrokerConnection) -> None:
    """Break the connection as the network does: our end is dead, and nobody has told us."""
    transport = connection.connection
    native = connection.backend_cls == "amqp"
    sock = transport.stream._link._sock if native else transport._amqp.transport.sock
    sock.shutdown(socket.SHUT_RDWR)


def cut_and_notice(connection: BrokerConnection) -> None:
    """Break the connection, and let it be known here."""
    cut(connection)
    with pytest.raises(ConnectionLost):
        connection.drain_events(timeout=5)
    assert not connection.is_open


# -- logging in


def refused(connection: BrokerConnection) -> str:
    """The text of the error that connecting raises."""
    with pytest.raises(ConnectionFailed) as caught:
        connection.connect()
    assert SECRET not in str(caught.value) + repr(caught.value) + repr(connection)
    return str(caught.value)


def test_wrong_password_is_access_refused(connection):
    connection.password = SECRET

    with pytest.raises(AccessRefused, match=r"as user 'guest'.*check user and password"):
        connection.connect()
    refused(connection)


def test_unknown_virtual_host_says_so(connection):
    connection.virtual_host = "nowhere"

    assert "virtual host 'nowhere'" in refused(connection)
    assert "create the virtual host" in refused(connection)


def test_port_where_nobody_listens_says_so(connect):
    text = refused(connect("127.0.0.1", "me", SECRET, port=1))

    assert "127.0.0.1:1" in text
    assert "is the broker running" in text


@pytest.mark.parametrize("host", ["no-such-host.invalid", "rabbit..example", "x" * 70])
def test_unknown_host_says_so(connect, host):
    assert "can't be resolved" in refused(connect(host, "me", SECRET))


@contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """A peer that answers with these bytes and hangs up, or (None) stays silent; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = []

        def serve():
            client, _ = listener.accept()
            clients.append(client)
            if answer is not None:
                client.recv(8)
                client.sendall(answer)
                client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x01\x00\x00", b"", b"\xff" * 100]
)
def test_peer_that_speaks_no_amqp_is_told(connect, answer):
    with server(answer) as port:
        text = refused(connect("127.0.0.1", "me", SECRET, port=port, connect_timeout=2))

    assert f"127.0.0.1:{port}" in text


def test_silent_peer_is_given_up_after_connect_timeout(connect):
    started = time.monotonic()
    with server(None) as port:
        text = refused(connect("127.0.0.1", "me", SECRET, port=port, connect_timeout=0.3))

    assert "no answer within 0.3 seconds" in text
    assert time.monotonic() - started < 5


# -- TLS


def test_messages_travel_over_tls(connect, tls_broker, unique):
    port, options = tls_broker.tls_port, {"ca_certs": tls_broker.ca}
    with connect(f"amqps://guest:guest@localhost:{port}//", ssl=options) as connection:
        consumer = Consumer(connection, unique(), callbacks=[lambda data, message: message.ack()])
        publisher = Publisher(connection, routing_key=consumer.queue)
        publisher.send_many([b"x" * 100_000] * 20)

        consumer.wait(limit=20)

        assert consumer.fetch() is None


def test_unknown_certificate_authority_is_refused(connect, tls_broker):
    port = tls_broker.tls_port

    text = refused(connect(f"amqps://me:{SECRET}@localhost:{port}//"))

    assert "certificate" in text.lower()


def test_certificate_for_another_name_is_refused(connect, tls_broker):
    port, options = tls_broker.tls_port, {"ca_certs": tls_broker.ca}

    text = refused(connect(f"amqps://me:{SECRET}@127.0.0.1:{port}//", ssl=options))

    assert "certificate" in text.lower()


# -- heartbeats


def test_heartbeat_keeps_a_silent_connection_alive(connect, amqp_url, unique):
    with connect(amqp_url, heartbeat=1) as connection:
        consumer = Consumer(connection, unique(), exclusive=True)
        publisher = Publisher(connection, routing_key=consumer.queue)

        # The broker gives up a client that was silent for two intervals.
        assert not threading.Event().wait(3.5)

        publisher.send("still here")
        assert consumer.fetch(auto_ack=True).payload == "still here"


# -- losing the connection


def test_connection_closed_by_an_operator_is_connection_lost_and_the_next_use_reconnects(
    connect, rabbitmq, unique
):
    with connect(rabbitmq.url, reconnect=False) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        publisher = Publisher(connection, routing_key=consumer.queue)

        def close_later():
            rabbitmq.ctl("close_all_connections", "maintenance")

        closer = threading.Timer(0.2, close_later)
        closer.start()
        with pytest.raises(ConnectionLost, match=r"127.0.0.1.*maintenance"):
            consumer.wait()
        closer.join()
        assert not connection.is_open

        publisher.send("again")
        assert consumer.fetch(auto_ack=True).payload == "again"
        consumer.backend.queue_delete(consumer.queue)


@pytest.mark.parametrize("use", ["send", "fetch", "declare", "wait", "drain_events", "ack"])
def test_dead_broker_is_connection_lost_for_every_use(connect, rabbitmq, unique, use):
    with connect(rabbitmq.url, reconnect=False) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        publisher = Publisher(connection, routing_key=consumer.queue)
        publisher.send("x")
        message = consumer.fetch()
        cut(connection)

        uses = {
            "send": lambda: publisher.send("y"),
            "fetch": consumer.fetch,
            "declare": consumer.declare,
            "wait": lambda: consumer.wait(limit=1),
            "drain_events": lambda: connection.drain_events(timeout=5),
            "ack": message.ack,
        }
        if use == "ack":
            # A write alone may be swallowed by a dead connection; the next read tells.
            with pytest.raises(ConnectionLost):
                message.ack()
                consumer.fetch()
        else:
            with pytest.raises(ConnectionLost):
                uses[use]()

        consumer.backend.queue_delete(consumer.queue)


def test_stopped_broker_is_connection_failed_until_it_is_back(connect, unique):
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with RabbitMQ(name="stopped") as broker:
        connection = connect(broker.url, reconnect=False)
        publisher = Publisher(connection, unique())
        broker.stop()

        with pytest.raises(ConnectionLost):
            publisher.send("x")
        with pytest.raises(ConnectionFailed, match="is the broker running"):
            publisher.send("x")

        broker.start()
        publisher.send("x")
        connection.close()


def test_close_of_a_frozen_broker_ends_in_time(connect):
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with RabbitMQ(name="frozen") as broker:
        connection = connect(broker.url, connect_timeout=0.5, operation_timeout=0.5)
        connection.connect()
        broker.freeze()
        try:
            started = time.monotonic()
            connection.close()
            assert time.monotonic() - started < 5
        finally:
            broker.thaw()


def test_refused_messages_without_confirms_are_told_of_at_the_next_use(connection, queue, unique):
    publisher = Publisher(connection, unique("missing"), auto_declare=False, confirm=False)

    with pytest.raises(ChannelError, match="no exchange 'missing"):
        for _ in range(100):
            publisher.send("lost")
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.01)


# -- threads


def test_channel_error_of_an_unconfirmed_publisher_reaches_nobody_else(connection, queue, unique):
    consumer = Consumer(connection, queue, auto_ack=True)
    careless = Publisher(connection, unique("missing"), auto_declare=False, confirm=False)
    careless.send("lost")

    # The broker's objection arrives while others are using the connection.
    for number in range(20):
        Publisher(connection, routing_key=queue).send(number)
    assert [m.payload for m in consumer.iterqueue()] == list(range(20))

    with pytest.raises(ChannelError, match="no exchange 'missing"):
        careless.send("again")
    careless.send("once", exchange="", routing_key=queue)
    assert eventually(consumer.fetch).payload == "once"


def test_signal_during_a_wait_does_not_end_it(connection, queue, amqp_url):
    received = []
    consumer = Consumer(
        connection, queue, callbacks=[lambda data, m: (received.append(data), m.ack())]
    )
    hits = []

    def send_on_a_connection_of_its_own():
        with BrokerConnection(amqp_url) as other:
            Publisher(other, routing_key=queue).send("x")

    previous = signal.signal(signal.SIGALRM, lambda *args: hits.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        sender = threading.Timer(0.3, send_on_a_connection_of_its_own)
        sender.start()
        consumer.wait(limit=1)
        sender.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)

    assert received == ["x"]
    assert hits


# -- what was confirmed, and what was not


def test_send_is_confirmed_on_the_next_connection_too(connection, queue, unique):
    Consumer(connection, queue)
    publisher = Publisher(connection, routing_key=queue)
    publisher.send("before")
    cut_and_notice(connection)

    with pytest.raises(NotFound, match="no exchange 'missing"):
        publisher.send("lost", exchange=unique("missing"))


def test_batch_that_spans_two_connections_does_not_end_as_if_all_had_arrived(connection, queue):
    connection.reconnect = False
    consumer = Consumer(connection, queue)
    publisher = Publisher(connection, routing_key=queue)
    sent = 0

    with pytest.raises(ConnectionLost), publisher.batch() as batch:
        for sent in range(1, 6):
            batch.send(sent)
        cut_and_notice(connection)
        for sent in range(6, 11):
            batch.send(sent)

    # The publisher goes on.
    publisher.send("after")
    assert [message.payload for message in consumer.iterqueue()][-1] == "after"


def test_batch_goes_on_over_another_connection_and_sends_what_is_missing_again(connection, queue):
    consumer = Consumer(connection, queue)
    publisher = Publisher(connection, routing_key=queue)

    with publisher.batch() as batch:
        for number in range(5):
            batch.send(number)
        cut_and_notice(connection)
        for number in range(5, 10):
            batch.send(number)

    messages = list(consumer.iterqueue())
    assert {message.payload for message in messages} == set(range(10))
    ids = {message.properties["message_id"]: message.payload for message in messages}
    assert sorted(ids.values()) == list(range(10))


def test_message_on_a_channel_that_was_closed_meanwhile_is_not_confirmed(connection, unique):
    backend = connection.create_backend()
    backend.confirm_select()
    message = backend.prepare_message(b"x", 1)
    number = backend.publish(message, unique("missing"), "key")
    # As when another thread reads the broker's objection.
    connection.connection.wait_for(lambda: not backend.is_open, 5)

    with pytest.raises((ChannelError, ConnectionLost)):
        backend.wait_for_confirms([number], 5)


def test_confirms_of_the_next_channel_are_not_those_of_the_last(connection, unique):
    backend = connection.create_backend()
    backend.confirm_select()
    message = backend.prepare_message(b"x", 1)
    lost = backend.publish(message, unique("missing"), "key")
    connection.connection.wait_for(lambda: not backend.is_open, 5)
    backend.confirm_select()
    arrived = backend.publish(message, "", "nowhere")
    backend.wait_for_confirms([arrived], 5)

    with pytest.raises(CarrotError):
        backend.wait_for_confirms([lost], 5)
