"""What one AMQP driver sends the other receives, the same on both sides; and bare py-amqp too."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import urlsplit

import amqp
import pytest

from carrot.checks import MAX_DEPTH
from carrot.connection import BrokerConnection
from carrot.exceptions import DecodeError
from carrot.messaging import Consumer, Publisher
from tests.waiting import eventually

DRIVERS = ("amqp", "pyamqplib")

HEADERS = {
    "none": None,
    "true": True,
    "false": False,
    "small": 1,
    "negative": -1,
    "31 bits": 2**31 - 1,
    "32 bits": 2**31,
    "large": 2**63 - 1,
    "least": -(2**63),
    "float": 0.1,
    "text": "ümläut 🥕",
    "empty": "",
    "long": "x" * 1000,
    "bytes": b"\xff\x00\xfe",
    "decimal": Decimal("3.14"),
    "moment": datetime(2026, 7, 1, 12, 30, tzinfo=UTC),
    "list": [1, "a", None, [True, {"k": 0.5}]],
    "table": {"nested": {"deep": [1]}, "": 0},
    "k" * 200: "a long key",
}
OPTIONS = {
    "priority": 3,
    "expiration": 60,
    "message_id": "m-1",
    "correlation_id": "c-1",
    "reply_to": "answers",
    "timestamp": datetime(2026, 7, 1, tzinfo=UTC),
    "type": "order",
    "app_id": "shop",
    "headers": HEADERS,
}
BODIES = {
    "json": {"a": [1, 2.5, None, "ü"]},
    "text": "ümläut 🥕",
    "bytes": bytes(range(256)),
    "empty": b"",
    "large": b"x" * 500_000,
}


@pytest.fixture(params=DRIVERS)
def sender(request, amqp_url) -> Iterator[BrokerConnection]:
    with BrokerConnection(amqp_url, backend_cls=request.param) as connection:
        yield connection


@pytest.fixture(params=DRIVERS)
def receiver(request, amqp_url) -> Iterator[BrokerConnection]:
    with BrokerConnection(amqp_url, backend_cls=request.param) as connection:
        yield connection


@pytest.fixture
def queue(amqp_url, unique) -> Iterator[str]:
    name = unique()
    with BrokerConnection(amqp_url) as connection:
        backend = connection.create_backend()
        backend.queue_declare(name, durable=True, exclusive=False, auto_delete=False)
        yield name
        backend.queue_delete(name)


def typed(value: object) -> object:
    """The value, and the types of all that is in it."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return type(value), value


@pytest.mark.parametrize("body", BODIES)
def test_message_is_the_same_on_both_sides(sender, receiver, queue, body):
    publisher = Publisher(sender, routing_key=queue)
    sent = publisher.create_message(BODIES[body], **OPTIONS)

    publisher.send(BODIES[body], **OPTIONS)

    message = Consumer(receiver, queue, auto_ack=True).fetch()
    assert message.body == sent.body
    assert message.payload == BODIES[body]
    assert typed(dict(message.properties)) == typed(dict(sent.properties))
    assert typed(message.headers) == typed(HEADERS)


def test_delivered_message_says_the_same_as_a_fetched_one(sender, receiver, queue):
    received = []
    consumer = Consumer(receiver, queue, callbacks=[lambda data, m: (received.append(m), m.ack())])
    Publisher(sender, routing_key=queue).send(BODIES["json"], **OPTIONS)

    consumer.wait(limit=1)

    (message,) = received
    assert message.payload == BODIES["json"]
    assert typed(message.headers) == typed(HEADERS)
    info = message.delivery_info
    assert (info["exchange"], info["routing_key"], info["redelivered"]) == ("", queue, False)


def test_batch_of_one_driver_reaches_the_other(sender, receiver, queue):
    with Publisher(sender, routing_key=queue).batch() as batch:
        for number in range(2000):
            batch.send(number, headers={"n": number})

    received = list(Consumer(receiver, queue, auto_ack=True).iterqueue())

    assert [message.payload for message in received] == list(range(2000))
    assert [message.headers["n"] for message in received] == list(range(2000))


@pytest.fixture
def bare(amqp_url) -> Iterator[amqp.Channel]:
    """A channel of py-amqp's, with nothing of carrot around it."""
    parts = urlsplit(amqp_url)
    with amqp.Connection(
        host=f"{parts.hostname}:{parts.port}",
        userid=parts.username or "guest",
        password=parts.password or "guest",
    ) as connection:
        yield connection.channel()


def test_bare_py_amqp_receives_what_the_driver_sends(bare, amqp_url, queue):
    with BrokerConnection(amqp_url) as connection:
        Publisher(connection, routing_key=queue).send({"a": 1}, **OPTIONS)

    message = eventually(lambda: bare.basic_get(queue, no_ack=True))

    assert message.body == '{"a": 1}'
    headers = message.properties["application_headers"]
    moment = headers.pop("moment")
    assert moment.replace(tzinfo=UTC) == HEADERS["moment"]
    assert headers == {name: value for name, value in HEADERS.items() if name != "moment"}
    assert message.properties["content_type"] == "application/json"
    assert message.properties["delivery_mode"] == 2
    assert message.properties["priority"] == 3
    assert message.properties["expiration"] == "60000"
    for name in ("message_id", "correlation_id", "reply_to", "type", "app_id"):
        assert message.properties[name] == OPTIONS[name]


def test_driver_receives_what_bare_py_amqp_sends(bare, amqp_url, queue):
    sent = amqp.Message(
        b'{"a": 1}',
        content_type="application/json",
        content_encoding="utf-8",
        application_headers={"n": 1, "nested": {"list": [1, "b", None]}, "d": Decimal("1.5")},
        delivery_mode=1,
        priority=5,
        user_id="guest",
        message_id="m",
        expiration="60000",
    )
    bare.basic_publish(sent, routing_key=queue)

    with BrokerConnection(amqp_url) as connection:
        message = eventually(Consumer(connection, queue, auto_ack=True).fetch)

    assert message.payload == {"a": 1}
    assert message.headers == sent.properties["application_headers"]
    for name in ("content_type", "priority", "user_id", "message_id", "expiration"):
        assert message.properties[name] == sent.properties[name]


def test_headers_nested_without_end_are_a_decode_error_and_the_connection_goes_on(
    bare, amqp_url, queue
):
    deep: dict = {}
    for _ in range(MAX_DEPTH + 6):
        deep = {"deeper": deep}
    bare.basic_publish(
        amqp.Message("{}", content_type="application/json", application_headers=deep),
        routing_key=queue,
    )
    bare.basic_publish(amqp.Message("7", content_type="application/json"), routing_key=queue)

    with BrokerConnection(amqp_url) as connection, Consumer(connection, queue) as consumer:
        message = eventually(consumer.fetch)
        with pytest.raises(DecodeError, match=r"properties can't be read.*nested") as caught:
            message.decode()
        assert caught.value.message is message
        with pytest.raises(DecodeError):
            _ = message.headers
        assert "content_type=unreadable" in repr(message)
        message.reject()
        assert eventually(consumer.fetch).payload == 7

    assert "'deeper'" not in str(caught.value)
