"""What a message carries: data, properties, headers, bodies of every size."""

import pickle
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from carrot.exceptions import (
    ConfigurationError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SerializerNotInstalled,
)
from carrot.messaging import Consumer, Publisher
from carrot.serialization import registry
from tests.waiting import eventually

DATA = {"text": "grün ☂", "int": 1, "float": 1.5, "none": None, "list": [True, {"a": []}]}


def shout(data):
    return data.upper()


# -- serializers


@pytest.mark.parametrize("serializer", [None, "json", "yaml", "msgpack", "orjson"])
def test_data_comes_back_as_it_was_sent(feed, serializer):
    feed.publisher.send(DATA, serializer=serializer)

    assert feed.payloads() == [DATA]


@pytest.mark.parametrize("falsy", [0, "", b"", [], {}, False, None, 0.0])
def test_falsy_data_comes_back_and_is_decoded_once(feed, falsy):
    feed.publisher.send(falsy)

    message = feed.consumer.fetch(auto_ack=True)

    assert message.payload == falsy
    assert type(message.payload) is type(falsy)
    assert message.payload is message.decode()


def test_decoding_happens_once(feed, connection):
    calls = []
    consumer = Consumer(connection, feed.queue, decoder=lambda body: calls.append(body))
    feed.publisher.send({"a": 1})

    message = consumer.fetch(auto_ack=True)
    assert message.payload is message.payload is message.decode() is None

    assert calls == ['{"a": 1}']


def test_text_and_bytes_travel_as_they_are(feed):
    feed.publisher.send("grün")
    feed.publisher.send(b"\xff\x00")
    feed.publisher.send(bytearray(b"\x01"))

    text, data, array = list(feed.consumer.iterqueue())

    assert (text.payload, text.body) == ("grün", "grün".encode())
    assert (text.content_type, text.content_encoding) == ("text/plain", "utf-8")
    assert data.payload == data.body == b"\xff\x00"
    assert (data.content_type, data.content_encoding) == ("application/data", "binary")
    assert array.payload == b"\x01"


def test_encoded_data_goes_through_untouched(feed):
    feed.publisher.send(b"\xff\xd8\xff", content_type="image/jpeg", content_encoding="binary")
    feed.publisher.send('{"a":1}', content_type="application/json")
    feed.publisher.send("grün", content_type="text/html", content_encoding="latin-1")

    picture, json, html = list(feed.consumer.iterqueue())

    assert (picture.body, picture.payload) == (b"\xff\xd8\xff",) * 2
    assert (picture.content_type, picture.content_encoding) == ("image/jpeg", "binary")
    assert (json.body, json.payload) == (b'{"a":1}', {"a": 1})
    assert (html.body, html.payload) == (b"gr\xfcn", "grün")


def test_pickle_needs_a_consumer_that_asks_for_it(feed, connection):
    data = {"set": {1, 2}}
    for _ in range(3):
        feed.publisher.send(data, serializer="pickle")

    message = feed.consumer.fetch()
    with pytest.raises(ContentDisallowed, match=r"accept=\['pickle'\]") as caught:
        message.decode()
    assert caught.value.message is message
    message.ack()

    for option in ({"accept": ["pickle"]}, {"decoder": pickle.loads}):
        consumer = Consumer(connection, feed.queue, **option)
        assert consumer.fetch(auto_ack=True).payload == data


def test_accept_is_all_that_is_accepted(feed, connection):
    consumer = Consumer(connection, feed.queue, accept=["json", "text/plain"])
    feed.publisher.send({"a": 1})
    feed.publisher.send("text")
    feed.publisher.send({"a": 1}, serializer="yaml")

    assert consumer.fetch(auto_ack=True).payload == {"a": 1}
    assert consumer.fetch(auto_ack=True).payload == "text"
    with pytest.raises(ContentDisallowed, match="application/x-yaml is not accepted"):
        consumer.fetch(auto_ack=True)


def test_plain_functions_encode_and_decode(feed, connection):
    publisher = Publisher(connection, feed.exchange, "key", encoder=pickle.dumps)
    consumer = Consumer(connection, feed.queue, decoder=pickle.loads)

    publisher.send({1, 2})

    assert consumer.fetch(auto_ack=True).payload == {1, 2}


def test_functions_may_be_class_attributes(feed, connection):
    class Shouting(Publisher):
        encoder = shout

    class Whispering(Consumer):
        decoder = lambda body: body.lower()  # noqa: E731

    Shouting(connection, feed.exchange, "key").send("Hello")

    message = Whispering(connection, feed.queue).fetch(auto_ack=True)
    assert (message.body, message.payload) == (b"HELLO", "hello")


def test_registered_serializer_works_until_it_is_unregistered(feed):
    registry.register(
        "reverse", lambda s: s[::-1], lambda s: s[::-1], "application/x-reverse", "utf-8"
    )
    try:
        feed.publisher.send("abc", serializer="reverse")
        message = feed.consumer.fetch(auto_ack=True)
        assert (message.body, message.payload) == (b"cba", "abc")
        assert message.content_type == "application/x-reverse"
    finally:
        registry.unregister("reverse")
    with pytest.raises(SerializerNotInstalled, match=r"'reverse'.*json, msgpack"):
        feed.publisher.send("abc", serializer="reverse")


def test_serializer_of_the_publisher(feed, connection):
    Publisher(connection, feed.exchange, "key", serializer="msgpack").send([1])

    message = feed.consumer.fetch(auto_ack=True)

    assert (message.content_type, message.content_encoding) == ("application/x-msgpack", "binary")
    assert message.payload == [1]


# -- what can't be encoded


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (object(), {}),
        ({"bytes": b"\xff"}, {}),
        ({1, 2}, {}),
        (float("nan"), {}),
        ("\ud800", {}),
        (lambda: None, {"serializer": "pickle"}),
        ({"a": 1}, {"serializer": "text"}),
        ({"a": 1}, {"serializer": "raw"}),
        ({"a": 1}, {"content_type": "application/json"}),
        ("grün", {"content_type": "text/plain", "content_encoding": "ascii"}),
        ("text", {"content_type": "text/plain", "content_encoding": "no-such-charset"}),
        ("x", {"headers": {"o": object()}}),
        ("x", {"headers": {"o": {"deep": [1, {2}]}}}),
        ("x", {"headers": {1: "key is no text"}}),
        ("x", {"headers": {"k" * 256: "key is too long"}}),
        ("x", {"headers": {"big": 2**63}}),
        ("x", {"headers": "no dict"}),
        ("x", {"headers": {"h": float("nan")}}),
        ("x", {"headers": {"h": "x" * 200_000}}),
    ],
)
def test_what_cannot_be_encoded_is_an_encode_error_and_nothing_is_sent(feed, data, options):
    with pytest.raises(EncodeError):
        feed.publisher.send(data, **options)

    feed.publisher.send("next")
    assert feed.payloads() == ["next"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delivery_mode": 3}, "delivery_mode can't be 3"),
        ({"delivery_mode": "durable"}, "'persistent'"),
        ({"delivery_mode": []}, "delivery_mode"),
        ({"priority": 256}, "priority.*0 to 255"),
        ({"priority": "high"}, "priority.*'high'"),
        ({"expiration": -1}, "expiration.*-1"),
        ({"expiration": "soon"}, "expiration.*'soon'"),
        ({"expiration": 1e10}, "49 days"),
        ({"timestamp": -5}, "timestamp"),
        ({"timestamp": "now"}, "timestamp"),
        ({"message_id": "i" * 256}, "message_id is 256 bytes long"),
        ({"correlation_id": 7}, "correlation_id must be text"),
        ({"routing_key": 7}, "routing key must be text.*7"),
        ({"routing_key": b"bytes"}, "routing key must be text"),
        ({"routing_key": "k" * 256}, "routing key is 256 bytes long"),
        ({"routing_key": "ü" * 128}, "routing key is 256 bytes long"),
        ({"exchange": 7}, "exchange must be text"),
        ({"content_type": "t" * 256}, "content_type is 256 bytes"),
    ],
)
def test_bad_options_of_send_are_told_and_the_publisher_goes_on(feed, options, words):
    with pytest.raises(ConfigurationError, match=words):
        feed.publisher.send("x", **options)

    feed.publisher.send("next")
    assert feed.payloads() == ["next"]


def test_routing_key_of_255_bytes_is_fine(feed, connection, unique):
    key = "ü" * 127 + "u"
    consumer = Consumer(connection, unique(), feed.exchange, key)

    feed.publisher.send("x", routing_key=key)

    assert consumer.fetch(auto_ack=True).delivery_info["routing_key"] == key


# -- what can't be decoded

UNDECODABLE = [
    (b"{broken", {"content_type": "application/json", "content_encoding": "utf-8"}),
    (b"\xff\xfe", {"content_type": "application/json", "content_encoding": "utf-8"}),
    (b"\xff", {"content_type": "text/plain", "content_encoding": "utf-8"}),
    (b"x", {"content_type": "application/x-unknown", "content_encoding": "binary"}),
    (b"x", {"content_type": "application/json", "content_encoding": "no-such-charset"}),
    (b"\xc1", {"content_type": "application/x-msgpack", "content_encoding": "binary"}),
    (pickle.dumps(1), {"content_type": "application/x-python-serialize"}),
]


@pytest.mark.parametrize(("body", "options"), UNDECODABLE)
def test_undecodable_message_leaves_wait_unsettled_and_reachable(make_feed, body, options):
    feed = make_feed(auto_ack=True)
    feed.consumer.register_callback(print)
    feed.publisher.send(body, **options)

    with pytest.raises(DecodeError) as caught:
        feed.consumer.wait(limit=1)

    message = caught.value.message
    assert message.body == body
    assert not message.acknowledged
    message.reject()
    feed.publisher.send("next")
    assert feed.payloads() == ["next"]


@pytest.mark.parametrize(("body", "options"), UNDECODABLE)
def test_on_decode_error_gets_the_message_and_the_loop_goes_on(make_feed, body, options):
    errors, received = [], []
    feed = make_feed(on_decode_error=lambda message, exc: (errors.append(exc), message.reject()))
    feed.consumer.register_callback(lambda data, m: (received.append(data), m.ack()))
    feed.publisher.send(body, **options)
    feed.publisher.send("next")

    feed.consumer.wait(limit=2)

    assert len(errors) == 1
    assert isinstance(errors[0], DecodeError)
    assert received == ["next"]


def test_missing_content_encoding_is_the_serializers_own(feed):
    backend = feed.publisher.backend
    bare = backend.prepare_message('{"a": "ü"}'.encode(), 1, content_type="application/json")
    backend.publish(bare, feed.exchange, "key")

    assert eventually(feed.consumer.fetch).payload == {"a": "ü"}


# -- properties


def test_all_properties_arrive(feed):
    feed.publisher.send(
        "x",
        delivery_mode="transient",
        priority=7,
        message_id="m-1",
        correlation_id="c-1",
        reply_to="answers",
        timestamp=1234567890,
        type="greeting",
        app_id="tests",
        expiration=60,
        headers={"h": 1},
    )

    message = feed.consumer.fetch(auto_ack=True)

    assert message.properties == {
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "delivery_mode": 1,
        "priority": 7,
        "message_id": "m-1",
        "correlation_id": "c-1",
        "reply_to": "answers",
        "timestamp": 1234567890,
        "type": "greeting",
        "app_id": "tests",
        "expiration": "60000",
        "headers": {"h": 1},
    }
    assert message.headers == {"h": 1}


def test_timestamp_may_be_a_datetime(feed):
    feed.publisher.send("x", timestamp=datetime(2020, 1, 1, tzinfo=UTC))

    assert feed.consumer.fetch(auto_ack=True).properties["timestamp"] == 1577836800


def test_headers_of_every_kind_arrive(feed):
    headers = {
        "none": None,
        "bool": True,
        "int": -5,
        "long": 2**40,
        "float": 1.5,
        "decimal": Decimal("-12.34"),
        "text": "grün",
        "bytes": b"\xff\x00",
        "datetime": datetime(2020, 1, 1, 12, tzinfo=UTC),
        "list": [1, "two", None, {"three": [3]}],
        "table": {"deep": {"deeper": False}},
    }

    feed.publisher.send("x", headers={**headers, "tuple": (1, 2)})

    received = feed.consumer.fetch(auto_ack=True).headers
    assert received == {**headers, "tuple": [1, 2]}
    assert type(received["bool"]) is bool
    assert received["datetime"].tzinfo is not None


def test_message_without_headers_has_an_empty_dict(feed):
    feed.publisher.send("x")

    assert feed.consumer.fetch(auto_ack=True).headers == {}


def test_delivery_info_says_where_the_message_came_from(feed):
    feed.publisher.send("x")
    fetched = feed.consumer.fetch()

    assert fetched.delivery_info["exchange"] == feed.exchange
    assert fetched.delivery_info["routing_key"] == "key"
    assert fetched.delivery_info["redelivered"] is False
    assert fetched.delivery_tag
    fetched.requeue()

    seen = []
    feed.consumer.register_callback(lambda data, message: (seen.append(message), message.ack()))
    feed.consumer.wait(limit=1)
    assert seen[0].delivery_info["consumer_tag"] == feed.consumer.consumer_tag
    assert seen[0].delivery_info["redelivered"] is True


def test_copies_of_a_message_share_nothing(connection, unique):
    exchange = unique()
    consumers = [Consumer(connection, unique(), exchange, exchange_type="fanout") for _ in range(2)]
    Publisher(connection, exchange, exchange_type="fanout").send("x", headers={"list": [1]})

    first, second = (consumer.fetch(auto_ack=True) for consumer in consumers)
    first.headers["list"].append(2)
    first.properties["mine"] = 1

    assert second.headers == {"list": [1]}
    assert "mine" not in second.properties


def test_message_is_of_the_backends_own_class(feed, connection):
    feed.publisher.send("x")

    assert isinstance(feed.consumer.fetch(auto_ack=True), connection.create_backend().Message)


# -- bodies

FRAME = 131072  # what RabbitMQ proposes


@pytest.mark.parametrize(
    "size", [0, 1, FRAME - 9, FRAME - 8, FRAME - 7, FRAME - 1, FRAME, FRAME + 1, 16 * 2**20]
)
def test_bodies_of_every_size_arrive(feed, size):
    body = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    assert len(body) == size

    feed.publisher.send(body)

    assert feed.consumer.fetch(auto_ack=True).body == body
    feed.consumer.register_callback(lambda data, message: message.ack())
    feed.publisher.send(body)
    feed.consumer.wait(limit=1)


def test_encoder_or_serializer_and_which_of_them_counts(connection, feed):
    class Shouting(Publisher):
        encoder = shout

    class Packed(Publisher):
        serializer = "json"

    Packed(connection, feed.exchange, "key", encoder=shout).send("a")
    Shouting(connection, feed.exchange, "key", serializer="json").send("b")
    with pytest.raises(ConfigurationError, match="two ways to encode"):
        Publisher(connection, feed.exchange, "key", serializer="json", encoder=shout)

    assert [message.body for message in feed.consumer.iterqueue()] == [b"A", b'"b"']
