"""Programs written for carrot 0.4 to 0.10.7 go on working."""

import pytest

from carrot.backends import get_backend_cls
from carrot.backends.base import BaseBackend, BaseMessage
from carrot.connection import AMQPConnectionException, BrokerConnection
from carrot.messaging import Consumer, ConsumerSet, Messaging, Publisher
from carrot.utils import gen_unique_id, partition, rpartition


def test_callback_gets_a_message_that_was_made_by_hand(feed):
    received = []
    feed.consumer.register_callback(lambda data, message: received.append((data, message)))
    message = feed.publisher.create_message({"foo": "bar"})
    message.delivery_tag = "Elaine was here"

    feed.consumer._receive_callback(message)

    assert received == [({"foo": "bar"}, message)]
    assert received[0][1].delivery_tag == "Elaine was here"


def test_message_of_a_backend_can_be_built_by_hand(connection):
    message = BaseMessage(
        connection.create_backend(),
        body=b'{"a": 1}',
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={"routing_key": "k"},
    )

    assert message.payload == {"a": 1}
    assert message._state == "RECEIVED"
    assert message.delivery_info["routing_key"] == "k"
    assert issubclass(message.MessageStateError, Exception)


def test_attributes_may_be_set_before_super_init(connection, unique):
    names = unique("queue"), unique("exchange")

    class Worker(Consumer):
        def __init__(self, connection):
            self.queue, self.exchange = names
            self.auto_ack = True
            super().__init__(connection)

    class Sender(Publisher):
        def __init__(self, connection):
            self.exchange = names[1]
            super().__init__(connection)

    worker = Worker(connection)
    Sender(connection).send("x")

    assert worker.fetch()._state == "ACK"


def test_none_means_the_class_attribute(connection, unique):
    class Feed(Consumer):
        queue = unique()
        durable = True
        auto_ack = True

    consumer = Feed(connection, None, None, None, durable=None, auto_ack=None, exclusive=None)

    assert (consumer.queue, consumer.durable, consumer.auto_ack) == (Feed.queue, True, True)


def test_callbacks_may_be_assigned_and_appended_to(feed):
    received = []
    feed.consumer.callbacks = [lambda data, message: received.append(data)]
    feed.consumer.callbacks.append(lambda data, message: message.ack())
    feed.publisher.send("x")

    feed.consumer.wait(limit=1)

    assert received == ["x"]


def test_new_style_loop_of_0_10_4(feed, connection):
    received = []
    feed.consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
    feed.consumer.consume()
    feed.publisher.send("x")

    try:
        while True:
            connection.drain_events(timeout=0.3)
    except TimeoutError:
        pass
    feed.consumer.cancel()

    assert received == ["x"]


def test_declare_again_after_the_connection_and_backend_were_replaced(feed, connect):
    feed.consumer.close()
    feed.consumer.connection = connect()
    feed.consumer.backend = feed.consumer.connection.create_backend()

    feed.consumer.declare()

    feed.publisher.send("x")
    assert feed.payloads() == ["x"]


def test_backend_keyword_of_consumer_consumerset_and_messaging(connection, unique):
    backend = connection.create_backend()
    names = {"queue": unique(), "exchange": unique()}

    for made in (
        Consumer(connection, backend=backend, **names),
        ConsumerSet(connection, backend=backend),
        Messaging(connection, backend=backend, **names).consumer,
    ):
        assert made.backend is backend
    backend.close()


@pytest.mark.needs("inspection", "deletion")
def test_methods_of_the_backend_with_their_old_parameters(connection, unique):
    backend = connection.create_backend()
    queue, exchange = unique(), unique()

    backend.queue_declare(queue, True, False, False, False)
    backend.queue_declare(
        queue=queue, durable=True, exclusive=False, auto_delete=False, warn_if_exists=False
    )
    backend.exchange_declare(exchange, "direct", True, False)
    backend.exchange_declare(exchange=exchange, type="direct", durable=True, auto_delete=False)
    backend.queue_bind(queue, exchange, "key", None)
    backend.queue_bind(queue=queue, exchange=exchange, routing_key="key", arguments=None)
    Publisher(connection, exchange, "key").send("x")

    assert backend.queue_exists(queue) is True
    assert backend.queue_purge(queue) == 1
    assert backend.queue_purge(queue=queue) == 0
    backend.queue_delete(queue, False, False)
    assert backend.queue_exists(queue=queue) is False


def test_send_takes_its_old_positional_arguments(feed):
    feed.publisher.send('{"a": 1}', "key", 1, False, False, 5, "application/json", "utf-8", None)

    message = feed.consumer.fetch(auto_ack=True)

    assert message.payload == {"a": 1}
    assert message.properties["priority"] == 5


def test_names_that_old_programs_import():
    from carrot.backends import pyamqplib, queue
    from carrot.connection import (
        AMQPConnection,
        DjangoAMQPConnection,
        DjangoBrokerConnection,
        DummyConnection,
        get_django_conninfo,
    )
    from carrot.serialization import SerializerNotInstalled, decode, encode

    assert AMQPConnection is BrokerConnection
    assert DjangoAMQPConnection is DjangoBrokerConnection
    assert issubclass(pyamqplib.Backend, BaseBackend)
    assert issubclass(pyamqplib.Message, BaseMessage)
    assert get_backend_cls("memory") is queue.Backend
    assert issubclass(queue.Message, BaseMessage)
    assert issubclass(BrokerConnection.ConnectionException, Exception)
    assert callable(get_django_conninfo)
    assert decode(*[encode({"a": 1})[i] for i in (2, 0, 1)]) == {"a": 1}
    assert issubclass(SerializerNotInstalled, Exception)
    assert DummyConnection().host == ""
    assert gen_unique_id() != gen_unique_id()
    assert partition("a.b.c", ".") == ("a", ".", "b.c")
    assert rpartition("a.b.c", ".") == ("a.b", ".", "c")
    with pytest.raises(AMQPConnectionException):
        BrokerConnection("127.0.0.1", port=1, connect_timeout=1).connect()


def test_dummy_connection_is_a_memory_world(unique):
    from carrot.connection import DummyConnection

    connection = DummyConnection("any", arguments="at all")
    consumer = Consumer(connection, unique())
    Publisher(connection, routing_key=consumer.queue).send("x")

    assert consumer.fetch(no_ack=True).payload == "x"
    connection.close()
