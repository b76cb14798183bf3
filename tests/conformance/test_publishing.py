"""Sending: options, overrides, many at once."""

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ChannelError,
    ConfigurationError,
    EncodeError,
    Nacked,
    NotFound,
    NotSupported,
    SerializerNotInstalled,
    Unroutable,
)
from carrot.messaging import Consumer, ConsumerSet, Publisher


def test_what_is_sent_is_received(feed):
    feed.publisher.send({"import_feed": "http://example.com/rss"})

    assert feed.payloads() == [{"import_feed": "http://example.com/rss"}]


def test_messages_arrive_in_the_order_they_were_sent(feed):
    for number in range(50):
        feed.publisher.send(number)

    assert feed.payloads() == list(range(50))


def test_routing_key_overrides_the_publishers_own(feed, connection, unique):
    other = Consumer(connection, unique(), feed.exchange, "other")

    feed.publisher.send("here", routing_key="other")

    assert other.fetch(auto_ack=True).payload == "here"
    assert feed.payloads() == []


def test_an_empty_routing_key_overrides_too(feed, connection, unique):
    empty = Consumer(connection, unique(), feed.exchange, "")

    feed.publisher.send("here", routing_key="")

    assert empty.fetch(auto_ack=True).payload == "here"
    assert feed.payloads() == []


def test_exchange_overrides_the_publishers_own(feed, connection):
    with Publisher(connection) as publisher:
        publisher.send("a", exchange=feed.exchange, routing_key="key")
        publisher.send("b", exchange="", routing_key=feed.queue)

    assert feed.payloads() == ["a", "b"]


def test_default_exchange_reaches_the_queue_that_the_key_names(feed, connection):
    with Publisher(connection, routing_key=feed.queue) as publisher:
        publisher.send("straight")

    assert feed.payloads() == ["straight"]


@pytest.mark.parametrize("confirm", [True, False])
def test_send_many_sends_all_in_order(feed, connection, confirm):
    with Publisher(connection, feed.exchange, "key", confirm=confirm) as publisher:
        publisher.confirm_window = 10

        sent = publisher.send_many(range(105))

        assert sent == 105
        # Which waits for the broker, also without confirms, where that can be done.
        publisher.send("last", mandatory=publisher.backend.capabilities.mandatory)
    assert feed.payloads() == [*range(105), "last"]


def test_send_many_takes_the_options_of_send(feed):
    feed.publisher.send_many([1, 2], headers={"kind": "number"}, priority=3)

    for message in feed.consumer.iterqueue():
        assert message.headers == {"kind": "number"}
        assert message.properties["priority"] == 3


def test_send_many_says_how_many_were_sent_before_one_that_cannot_be_encoded(feed):
    with pytest.raises(EncodeError) as caught:
        feed.publisher.send_many([1, 2, object(), 4])

    assert "2 messages" in caught.value.__notes__[0]
    assert feed.payloads() == [1, 2]


@pytest.mark.parametrize("confirm", [True, False])
def test_batch_sends_all_in_order(feed, connection, confirm):
    with Publisher(connection, feed.exchange, "key", confirm=confirm) as publisher:
        publisher.confirm_window = 10

        with publisher.batch() as batch:
            for number in range(105):
                batch.send(number)

        assert batch.sent == 105
        # Which waits for the broker, also without confirms, where that can be done.
        publisher.send("last", mandatory=publisher.backend.capabilities.mandatory)
    assert feed.payloads() == [*range(105), "last"]


def test_empty_batch_sends_nothing(feed):
    with feed.publisher.batch() as batch:
        pass

    assert batch.sent == 0
    assert feed.publisher.send_many([]) == 0
    assert feed.payloads() == []


def test_everything_of_a_batch_is_confirmed_when_it_is_left(feed, connect):
    with feed.publisher.batch() as batch:
        for number in range(50):
            batch.send(number)

    with Consumer(connect(), feed.queue, feed.exchange, "key", auto_ack=True) as elsewhere:
        assert [message.payload for message in elsewhere.iterqueue()] == list(range(50))


def test_each_message_of_a_batch_has_its_own_options(feed, connection, unique):
    other = Consumer(connection, unique(), feed.exchange, "other", auto_ack=True)

    with feed.publisher.batch() as batch:
        batch.send("a", headers={"n": 1}, priority=1)
        batch.send("b", routing_key="other", message_id="m")
        batch.send("c", exchange="", routing_key=feed.queue, serializer="pickle")

    first, third = list(feed.consumer.iterqueue())
    assert (first.payload, first.headers, first.properties["priority"]) == ("a", {"n": 1}, 1)
    assert (third.body[:1], third.content_type) == (b"\x80", "application/x-python-serialize")
    second = other.fetch()
    assert (second.payload, second.properties["message_id"]) == ("b", "m")


@pytest.mark.needs("mandatory")
def test_batch_names_the_messages_that_reached_no_queue_and_sends_the_others(feed):
    with pytest.raises(Unroutable) as caught, feed.publisher.batch() as batch:
        for number in range(6):
            batch.send(number, routing_key="nowhere" if number % 2 else "key", mandatory=True)

    assert [message.payload for message in caught.value.messages] == [1, 3, 5]
    assert feed.payloads() == [0, 2, 4]


@pytest.mark.needs("mandatory")
def test_batch_names_equal_messages_apart_when_only_some_reach_a_queue(feed):
    with pytest.raises(Unroutable) as caught, feed.publisher.batch() as batch:
        for key in ("key", "nowhere", "key", "nowhere"):
            batch.send("same", routing_key=key, mandatory=True)

    assert len(caught.value.messages) == 2
    assert feed.payloads() == ["same", "same"]


@pytest.mark.needs("max_length")
def test_batch_names_the_messages_that_the_broker_refused(make_feed):
    feed = make_feed(queue_arguments={"x-max-length": 2, "x-overflow": "reject-publish"})

    with pytest.raises(Nacked) as caught, feed.publisher.batch() as batch:
        for number in range(5):
            batch.send(number)

    # Classic queues may take one more before the limit is felt.
    refused = [message.payload for message in caught.value.messages]
    assert refused == list(range(5))[-len(refused) :]
    assert feed.payloads() == [number for number in range(5) if number not in refused]


@pytest.mark.needs("mandatory")
def test_error_in_the_block_of_a_batch_keeps_its_class_and_what_was_sent_arrives(feed):
    with pytest.raises(KeyError, match="mine") as caught, feed.publisher.batch() as batch:
        batch.send("sent")
        batch.send("lost", routing_key="nowhere", mandatory=True)
        raise KeyError("mine")

    assert "2 messages" in caught.value.__notes__[0]
    assert feed.payloads() == ["sent"]


def test_message_of_a_batch_that_cannot_be_encoded_may_be_left_out(feed):
    with feed.publisher.batch() as batch:
        for data in (1, object(), 3):
            try:
                batch.send(data)
            except EncodeError:
                batch.send("instead")

    assert batch.sent == 3
    assert feed.payloads() == [1, "instead", 3]


def test_batch_that_ends_in_an_encode_error_says_how_many_were_sent(feed):
    with pytest.raises(EncodeError) as caught, feed.publisher.batch() as batch:
        for data in (1, 2, object()):
            batch.send(data)

    assert "2 messages" in caught.value.__notes__[0]
    assert feed.payloads() == [1, 2]


@pytest.mark.needs("inspection")
def test_batch_to_a_missing_exchange_is_told(feed, unique):
    with pytest.raises(NotFound, match="no exchange 'missing"), feed.publisher.batch() as batch:
        batch.send("lost", exchange=unique("missing"))

    feed.publisher.send("found")
    assert feed.payloads() == ["found"]


def test_publisher_may_send_within_its_own_batch(feed):
    with feed.publisher.batch() as batch:
        batch.send("first")
        feed.publisher.send("second")
        batch.send("third")

    assert feed.payloads() == ["first", "second", "third"]


def test_batch_of_a_closed_publisher_is_refused(feed):
    feed.publisher.close()

    with pytest.raises(ChannelError, match="closed"), feed.publisher.batch() as batch:
        batch.send("no")

    assert batch.sent == 0


def test_large_messages_travel_in_a_batch(feed):
    bodies = [bytes([number]) * 300_000 for number in range(10)]

    with feed.publisher.batch() as batch:
        for body in bodies:
            batch.send(body)

    assert feed.payloads() == bodies


def test_class_attributes_and_keywords_configure_alike(feed, connection):
    class FeedPublisher(Publisher):
        exchange = feed.exchange
        routing_key = "key"
        delivery_mode = "transient"

    FeedPublisher(connection).send("by class")
    FeedPublisher(connection, delivery_mode="persistent").send("by keyword")
    FeedPublisher(connection, exchange=None, delivery_mode=None).send("None means the class's own")

    # By what they are, for some brokers keep the order only of messages with the same mode.
    modes = {m.payload: m.properties["delivery_mode"] for m in feed.consumer.iterqueue()}
    assert modes == {"by class": 1, "by keyword": 2, "None means the class's own": 1}


@pytest.mark.parametrize(
    ("mode", "on_the_wire"),
    [("persistent", 2), ("transient", 1), ("non-persistent", 1), (1, 1), (2, 2), (None, 2)],
)
def test_delivery_modes_by_name_and_number(feed, mode, on_the_wire):
    feed.publisher.send("x", delivery_mode=mode)

    assert feed.consumer.fetch(auto_ack=True).properties["delivery_mode"] == on_the_wire


def test_unknown_keyword_is_a_type_error(connection):
    with pytest.raises(TypeError, match="exchnage"):
        Publisher(connection, exchnage="typo")


@pytest.mark.parametrize("cls", [Publisher, Consumer])
def test_retry_is_a_retry(connection, cls):
    with pytest.raises(ConfigurationError, match=r"retry must be a Retry.*not 3"):
        cls(connection, retry=3)


@pytest.mark.parametrize(
    ("cls", "options", "says"),
    [
        (Publisher, {"encoder": 3}, "encoder must be a function, not 3"),
        (Consumer, {"decoder": "json"}, "decoder must be a function, not 'json'"),
        (Consumer, {"on_decode_error": 3}, "on_decode_error must be a function, not 3"),
        (Publisher, {"confirm_window": 0}, "confirm_window must be a whole number, 1 or more: 0"),
        (Publisher, {"confirm_window": 1.5}, "confirm_window must be a whole number"),
        (Publisher, {"delivery_mode": True}, "delivery_mode can't be True"),
        (Publisher, {"backend": "memory"}, "backend= takes a channel.*and not 'memory'"),
    ],
)
def test_what_an_option_cannot_be_is_told_where_it_is_given(connection, cls, options, says):
    with pytest.raises(ConfigurationError, match=says):
        cls(connection, **options)


def test_a_serializer_that_nobody_knows_is_not_accepted(connection):
    with pytest.raises(SerializerNotInstalled, match="'jsno'"):
        Consumer(connection, accept=["application/x-mine", "jsno"])


@pytest.mark.parametrize("cls", [Publisher, Consumer, ConsumerSet])
def test_a_channel_of_another_broker_is_refused(connection, cls):
    other = BrokerConnection("memory://elsewhere/other")

    with pytest.raises(ConfigurationError, match=r"of another connection.*elsewhere"):
        cls(connection, backend=other.channel())
    with pytest.raises(ConfigurationError, match="takes a channel"):
        cls(connection, backend=connection)


@pytest.mark.parametrize("one", ["text", b"bytes", {"a": 1}])
def test_send_many_takes_no_single_message(feed, one):
    with pytest.raises(ConfigurationError, match=f"a {type(one).__name__} is one"):
        feed.publisher.send_many(one)


def test_url_in_the_place_of_a_connection_is_told():
    for cls in (Publisher, Consumer):
        with pytest.raises(ConfigurationError, match=r"needs a connection.*BrokerConnection\("):
            cls("amqp://localhost")


@pytest.mark.needs("inspection")
def test_missing_exchange_is_told_and_the_publisher_goes_on_working(connection, feed, unique):
    publisher = Publisher(connection, unique("missing"), "key", auto_declare=False)

    with pytest.raises(NotFound, match="no exchange 'missing"):
        publisher.send("lost")
    publisher.send("found", exchange=feed.exchange)

    assert feed.payloads() == ["found"]


def test_immediate_is_refused_before_anything_is_sent(feed):
    with pytest.raises(NotSupported, match="immediate"):
        feed.publisher.send("now", immediate=True)

    feed.publisher.send("later")
    assert feed.payloads() == ["later"]


def test_closed_publisher_says_so_and_declare_opens_it_again(feed):
    feed.publisher.close()
    feed.publisher.close()

    with pytest.raises(ChannelError, match=r"closed.*declare"):
        feed.publisher.send("no")
    feed.publisher.declare()
    feed.publisher.send("yes")

    assert feed.payloads() == ["yes"]


def test_with_closes_also_after_an_error_and_lets_it_pass(connection, unique):
    with pytest.raises(KeyError, match="mine"), Publisher(connection, unique()) as publisher:
        raise KeyError("mine")

    with pytest.raises(ChannelError, match="closed"):
        publisher.send("x")


def test_what_the_caller_passes_in_is_not_changed_and_not_kept(feed):
    data, headers = {"list": [1]}, {"nested": {"list": [1]}}

    feed.publisher.send(data, headers=headers)
    data["list"].append(2)
    headers["nested"]["list"].append(2)

    message = feed.consumer.fetch(auto_ack=True)
    assert message.payload == {"list": [1]}
    assert message.headers == {"nested": {"list": [1]}}


def test_create_message_makes_what_send_would_send(feed):
    message = feed.publisher.create_message({"a": 1}, priority=2, headers={"b": "c"})

    assert message.body == b'{"a": 1}'
    assert message.content_type == "application/json"
    assert message.content_encoding == "utf-8"
    assert message.properties["priority"] == 2
    assert message.headers == {"b": "c"}
