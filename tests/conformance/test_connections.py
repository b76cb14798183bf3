"""BrokerConnection over a real broker: lazy, reopened, shared, lost."""

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import ConnectionLost
from carrot.messaging import Consumer, Publisher


def test_broker_is_contacted_at_first_use(connect, unique):
    connection = connect()
    assert not connection.is_open

    Publisher(connection, auto_declare=False)
    assert not connection.is_open
    Publisher(connection, unique())

    assert connection.is_open
    assert connection.connected


def test_connect_connects_and_again_is_harmless(connect):
    connection = connect()

    live = connection.connect()

    assert connection.connect() is live is connection.connection
    assert connection.is_open


def test_live_connection_has_channels_and_drains_events(feed, connection):
    received = []
    feed.consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
    feed.consumer.consume()
    feed.publisher.send("x")

    assert connection.connection.channel() is not None
    connection.connection.drain_events(timeout=10)

    assert received == ["x"]


def test_close_and_connect_open_a_new_one(connect):
    connection = connect()
    first = connection.connect()
    connection.close()
    connection.close()
    assert not connection.is_open

    second = connection.connect()

    assert second is not first
    assert connection.is_open


def test_closed_connection_says_so_when_it_is_used(connect, unique):
    connection = connect()
    publisher = Publisher(connection, unique())
    connection.close()

    with pytest.raises(ConnectionLost, match=r"connect\(\) opens a new one"):
        publisher.send("x")


def test_publisher_and_consumer_work_on_over_a_new_connection(feed, connection):
    feed.publisher.send("before")
    connection.close()
    connection.connect()

    feed.publisher.send("after")

    assert feed.payloads() == ["before", "after"]


def test_with_closes_and_lets_the_error_pass(connect):
    connection = connect()

    with pytest.raises(KeyError, match="mine"), connection:
        connection.connect()
        raise KeyError("mine")

    assert not connection.is_open


def test_ensure_connection_returns_the_connection(connect):
    connection = connect()

    assert connection.ensure_connection(max_retries=1) is connection
    assert connection.is_open


def test_backends_are_of_the_drivers_class(connection):
    backend = connection.create_backend()

    assert type(backend) is connection.get_backend_cls() is type(connection.channel())
    assert backend.connection is connection
    assert connection.connection_errors
    assert connection.channel_errors


def test_consumer_waiting_on_a_connection_that_is_closed_is_told(feed, connection):
    import threading

    feed.consumer.register_callback(print)
    closer = threading.Timer(0.1, connection.close)
    closer.start()

    with pytest.raises(ConnectionLost):
        feed.consumer.wait()

    closer.join()


def test_two_connections_meet_at_the_broker(connect, unique):
    queue = unique()
    consumer = Consumer(connect(), queue)

    Publisher(connect(), routing_key=queue).send("hello")

    assert consumer.fetch(auto_ack=True).payload == "hello"


def test_backend_class_may_be_given_by_alias_path_or_class(backend_url):
    cls = BrokerConnection(backend_url).get_backend_cls()
    path = f"{cls.__module__}.{cls.__qualname__}"

    for backend in (cls, path):
        for keyword in ("backend_cls", "transport"):
            with BrokerConnection(backend_url, **{keyword: backend}) as connection:
                assert connection.get_backend_cls() is cls
                assert connection.connect().is_open
