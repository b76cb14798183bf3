"""What only the py-amqp driver does: logging in, TLS, heartbeats, and losing the connection."""

import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import amqp
import pytest
import trustme

from carrot.backends import pyamqplib
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    AccessRefused,
    ChannelError,
    ConnectionFailed,
    ConnectionLost,
    NotSupported,
)
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ
from tests.brokers.rabbitmq import free_port
from tests.conftest import unavailable
from tests.waiting import eventually

SECRET = "s3cret"


@pytest.fixture
def connection(amqp_url: str) -> Iterator[BrokerConnection]:
    with BrokerConnection(amqp_url, backend_cls="pyamqplib") as connection:
        yield connection


@pytest.fixture
def queue(connection, unique):
    """The name of a queue that is deleted at the end."""
    name = unique()
    yield name
    connection.connect()
    connection.create_backend().queue_delete(name)


def test_channel_of_the_backend_is_py_amqps(connection):
    assert isinstance(connection.create_backend().channel, amqp.Channel)
    assert isinstance(connection.get_channel(), amqp.Channel)
    assert isinstance(connection.connection.channel(), amqp.Channel)


def test_old_aliases_name_this_driver(amqp_url):
    for alias in ("amqplib", "pyamqplib"):
        connection = BrokerConnection(amqp_url, backend_cls=alias)
        assert connection.get_backend_cls() is pyamqplib.Backend


def test_message_can_be_built_of_one_of_py_amqps(connection):
    raw = amqp.Message(b'{"a": 1}', content_type="application/json", application_headers={"h": 1})

    message = pyamqplib.Message(connection.create_backend(), raw)

    assert message.payload == {"a": 1}
    assert message.headers == {"h": 1}
    assert message._amqp_message is raw


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


def test_port_where_nobody_listens_says_so():
    text = refused(BrokerConnection("127.0.0.1", "me", SECRET, port=1))

    assert "127.0.0.1:1" in text
    assert "is the broker running" in text


def test_unknown_host_says_so():
    assert "can't be resolved" in refused(BrokerConnection("no-such-host.invalid", "me", SECRET))


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
def test_peer_that_speaks_no_amqp_is_told(answer):
    with server(answer) as port:
        text = refused(BrokerConnection("127.0.0.1", "me", SECRET, port=port, connect_timeout=2))

    assert f"127.0.0.1:{port}" in text


def test_silent_peer_is_given_up_after_connect_timeout():
    started = time.monotonic()
    with server(None) as port:
        text = refused(BrokerConnection("127.0.0.1", "me", SECRET, port=port, connect_timeout=0.3))

    assert "no answer within 0.3 seconds" in text
    assert time.monotonic() - started < 5


# -- TLS


@pytest.fixture(scope="module")
def tls_broker(tmp_path_factory):
    if reason := RabbitMQ.missing():
        unavailable(reason)
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    ca, certificate, key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(ca)
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    port = free_port()
    broker = RabbitMQ(
        config=[
            f"listeners.ssl.1 = 127.0.0.1:{port}",
            f"ssl_options.cacertfile = {ca}",
            f"ssl_options.certfile = {certificate}",
            f"ssl_options.keyfile = {key}",
            "ssl_options.verify = verify_none",
        ],
        name="tls",
    )
    with broker:
        yield port, ca


def test_messages_travel_over_tls(tls_broker, unique):
    port, ca = tls_broker
    options = {"ca_certs": str(ca)}
    with BrokerConnection(
        f"amqps://guest:guest@localhost:{port}//", ssl=options, backend_cls="pyamqplib"
    ) as connection:
        consumer = Consumer(connection, unique(), callbacks=[lambda data, message: message.ack()])
        publisher = Publisher(connection, routing_key=consumer.queue)
        publisher.send_many([b"x" * 100_000] * 20)

        consumer.wait(limit=20)

        assert consumer.fetch() is None


def test_unknown_certificate_authority_is_refused(tls_broker):
    port, _ = tls_broker

    text = refused(BrokerConnection(f"amqps://me:{SECRET}@localhost:{port}//"))

    assert "certificate" in text.lower()


def test_certificate_for_another_name_is_refused(tls_broker):
    port, ca = tls_broker
    options = {"ca_certs": str(ca)}

    text = refused(BrokerConnection(f"amqps://me:{SECRET}@127.0.0.1:{port}//", ssl=options))

    assert "certificate" in text.lower()


def test_ssl_context_is_not_supported():
    connection = BrokerConnection(
        "localhost", ssl=ssl.create_default_context(), backend_cls="pyamqplib"
    )

    with pytest.raises(NotSupported, match="SSLContext"):
        connection.connect()


# -- heartbeats


def test_heartbeat_keeps_a_silent_connection_alive(amqp_url, unique):
    with BrokerConnection(amqp_url, heartbeat=1, backend_cls="pyamqplib") as connection:
        consumer = Consumer(connection, unique(), exclusive=True)
        publisher = Publisher(connection, routing_key=consumer.queue)

        # The broker gives up a client that was silent for two intervals.
        assert not threading.Event().wait(3.5)

        publisher.send("still here")
        assert consumer.fetch(auto_ack=True).payload == "still here"


# -- losing the connection


def test_connection_closed_by_an_operator_is_connection_lost_and_the_next_use_reconnects(
    rabbitmq, unique
):
    with BrokerConnection(rabbitmq.url, backend_cls="pyamqplib") as connection:
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
def test_dead_broker_is_connection_lost_for_every_use(rabbitmq, unique, use):
    with BrokerConnection(rabbitmq.url, backend_cls="pyamqplib") as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        publisher = Publisher(connection, routing_key=consumer.queue)
        publisher.send("x")
        message = consumer.fetch()
        link = connection.connection._amqp.transport.sock
        # As a broken network does it: our end is dead, and nobody has told us.
        link.shutdown(socket.SHUT_RDWR)

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


def test_stopped_broker_is_connection_failed_until_it_is_back(unique):
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with RabbitMQ(name="stopped") as broker:
        connection = BrokerConnection(broker.url, backend_cls="pyamqplib")
        publisher = Publisher(connection, unique())
        broker.stop()

        with pytest.raises(ConnectionLost):
            publisher.send("x")
        with pytest.raises(ConnectionFailed, match="is the broker running"):
            publisher.send("x")

        broker.start()
        publisher.send("x")
        connection.close()


def test_close_of_a_frozen_broker_ends_in_time(unique):
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with RabbitMQ(name="frozen") as broker:
        connection = BrokerConnection(broker.url, backend_cls="pyamqplib", connect_timeout=0.5)
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
