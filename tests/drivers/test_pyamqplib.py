"""What only the py-amqp driver does; what it shares with the other is in test_amqp_drivers.py."""

import gc
import ssl
import weakref
from collections.abc import Iterator
from typing import Any

import amqp
import pytest

from carrot.backends import pyamqplib
from carrot.connection import BrokerConnection
from carrot.exceptions import CarrotError, ConnectionLost, NotFound, NotSupported
from carrot.message import Message
from carrot.messaging import Publisher


@pytest.fixture
def connection(amqp_url: str) -> Iterator[BrokerConnection]:
    with BrokerConnection(amqp_url, backend_cls="pyamqplib") as connection:
        yield connection


@pytest.fixture
def queue(connection, unique):
    """The name of a queue that is there until the end of the test."""
    name = unique()
    backend = connection.create_backend()
    backend.queue_declare(name, False, False, False)
    yield name
    backend.queue_delete(name)


def test_native_channel_is_py_amqps(connection):
    assert isinstance(connection.create_backend().channel.native, amqp.Channel)
    assert isinstance(connection.get_channel(), amqp.Channel)


def test_native_channel_decodes_text_as_py_amqp_does(connection, queue):
    native = connection.get_channel()
    native.basic_publish(amqp.Message("x", content_encoding="utf-8"), routing_key=queue)

    assert native.basic_get(queue, no_ack=True).body == "x"
    native.close()


def test_refusal_ends_the_channel_and_is_raised_where_it_is_read(connection, unique):
    channel = connection.connection.channel()

    with pytest.raises(NotFound):
        channel.inspect(unique("missing"))

    assert not channel.is_open
    with pytest.raises(NotFound):  # as an error of its own, for whoever uses it next
        channel.ack(1)


def test_closed_channel_is_lost_and_its_connection_is_not(connection, queue):
    channel = connection.connection.channel()

    channel.close()
    channel.close()

    with pytest.raises(ConnectionLost, match="closed here"):
        channel.purge(queue)
    assert connection.is_open


class Listener:
    """Notes what a channel tells it."""

    def __init__(self) -> None:
        self.delivered: list[tuple[str, Any]] = []
        self.told: list[str] = []

    def deliver(self, consumer_tag: str, message: Message) -> None:
        self.delivered.append((consumer_tag, message.delivery_tag))

    def consumer_cancelled(self, consumer_tag: str) -> None:
        self.told.append(consumer_tag)

    def channel_closed(self, error: CarrotError) -> None:
        self.told.append(type(error).__name__)


def test_channel_keeps_nobody_alive_who_listens(connection, queue):
    listener = Listener()
    channel = connection.connection.channel()
    channel.listen(listener)
    channel.subscribe(queue, "tag", False)
    gone = weakref.ref(listener)

    del listener
    gc.collect()

    assert gone() is None
    Publisher(connection, routing_key=queue).send("nobody sees it here")
    assert channel.is_open
    channel.close()


def test_what_nobody_has_seen_goes_back_with_the_consumer(connection, queue):
    listener, channel = Listener(), connection.connection.channel()
    channel.listen(listener)
    channel.subscribe(queue, "tag", False)
    Publisher(connection, routing_key=queue).send_many(["a", "b", "c"])
    connection.connection.wait_for(lambda: len(listener.delivered) == 3, 5)
    tags = [tag for _, tag in listener.delivered]
    channel.ack(tags[0])

    channel.unsubscribe("tag", lambda: tags[1:])

    back = [channel.get(queue, False, None) for _ in range(3)]
    assert [message and (message.body, message.redelivered) for message in back] == [
        (b"b", True),
        (b"c", True),
        None,
    ]
    assert listener.told == []
    channel.close()


def test_nack_of_many_gives_back_all_up_to_that_one(connection, queue):
    listener, channel = Listener(), connection.connection.channel()
    channel.listen(listener)
    Publisher(connection, routing_key=queue).send_many(["a", "b", "c"])
    messages = [channel.get(queue, False, None) for _ in range(3)]

    channel.nack(messages[1].delivery_tag, multiple=True)

    back = [channel.get(queue, False, None) for _ in range(3)]
    assert [message and message.body for message in back] == [b"a", b"b", None]
    channel.close()


def test_listener_is_told_that_the_broker_has_ended_a_consumer_or_the_channel(
    connection, queue, unique
):
    listener, channel = Listener(), connection.connection.channel()
    channel.listen(listener)
    channel.subscribe(queue, "tag", False)

    connection.create_backend().queue_delete(queue)
    connection.connection.wait_for(lambda: listener.told, 5)
    with pytest.raises(NotFound):
        channel.purge(unique("missing"))

    assert listener.told == ["tag", "NotFound"]


def test_received_message_knows_the_life_that_delivered_it(connection, queue):
    backend = connection.create_backend()
    Publisher(connection, routing_key=queue).send("x")

    message = backend.get(queue)

    assert message.life is backend.life
    assert pyamqplib.Message(backend, amqp.Message(b"x")).life is None
    message.ack()


@pytest.mark.parametrize("alias", ["amqplib", "pyamqplib"])
def test_old_aliases_name_this_driver(amqp_url, alias):
    connection = BrokerConnection(amqp_url, backend_cls=alias)
    by_url = BrokerConnection(amqp_url.replace("amqp:", f"{alias}:", 1))

    assert connection.get_backend_cls() is by_url.get_backend_cls() is pyamqplib.Backend


def test_message_can_be_built_of_one_of_py_amqps(connection):
    raw = amqp.Message(b'{"a": 1}', content_type="application/json", application_headers={"h": 1})

    message = pyamqplib.Message(connection.create_backend(), raw)

    assert message.payload == {"a": 1}
    assert message.headers == {"h": 1}
    assert message._amqp_message is raw


def test_ssl_context_is_not_supported():
    connection = BrokerConnection(
        "localhost", ssl=ssl.create_default_context(), backend_cls="pyamqplib"
    )

    with pytest.raises(NotSupported, match="SSLContext"):
        connection.connect()


def test_channel_ends_with_its_connection(connection):
    channel = connection.connection.channel()

    connection.close()

    assert not channel.is_open
    with pytest.raises(ConnectionLost):
        channel.qos(1, False)
    channel.close()
