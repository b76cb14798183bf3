"""Each known fault of carrot 0.10, and that it is gone."""

import pytest

from carrot.exceptions import ChannelError, Unroutable
from carrot.messaging import Consumer, ConsumerSet, Publisher
from carrot.serialization import registry


def test_consumer_without_an_exchange_does_not_bind_to_the_default_one(connection, unique):
    queue = unique()
    consumer = Consumer(connection, queue)

    Publisher(connection, routing_key=queue).send("x")

    assert consumer.fetch(auto_ack=True).payload == "x"


def test_no_ack_keyword_is_not_ignored(feed, connection):
    consumer = Consumer(connection, feed.queue, no_ack=True)
    feed.publisher.send("x")

    assert consumer.fetch().no_ack
    consumer.close()
    assert feed.consumer.fetch() is None


def test_fetch_can_override_auto_ack_with_false(make_feed):
    feed = make_feed(auto_ack=True)
    feed.publisher.send("x")

    assert not feed.consumer.fetch(auto_ack=False).acknowledged


def test_auto_ack_with_no_ack_keeps_the_channel(make_feed):
    feed = make_feed(auto_ack=True, no_ack=True)
    received = []
    feed.consumer.register_callback(lambda data, message: received.append(data))
    feed.publisher.send_many([1, 2, 3])

    assert feed.consumer.fetch().payload == 1
    feed.consumer.wait(limit=1)

    assert received == [2]
    assert feed.consumer.fetch().payload == 3


def test_wait_returns_at_its_limit_and_raises_no_stop_iteration(feed):
    feed.consumer.register_callback(lambda data, message: message.ack())
    feed.publisher.send("x")

    assert feed.consumer.wait(limit=1) is None


@pytest.mark.needs("mandatory")
def test_unroutable_mandatory_message_raises(feed):
    with pytest.raises(Unroutable):
        feed.publisher.send("x", routing_key="nowhere", mandatory=True)


@pytest.mark.needs("headers_exchange")
def test_headers_exchange_routes(connection, unique):
    exchange = unique()
    consumer = Consumer(connection, unique(), exchange, {"k": "v"}, exchange_type="headers")

    Publisher(connection, exchange, exchange_type="headers").send("x", routing_key={"k": "v"})

    assert consumer.fetch(auto_ack=True).payload == "x"


def test_delivery_mode_of_send_may_be_a_name(feed):
    feed.publisher.send("x", delivery_mode="persistent")

    assert feed.consumer.fetch(auto_ack=True).properties["delivery_mode"] == 2


def test_empty_routing_key_overrides(feed, connection, unique):
    consumer = Consumer(connection, unique(), feed.exchange, "")

    feed.publisher.send("x", routing_key="")

    assert consumer.fetch(auto_ack=True).payload == "x"


def test_msgpack_is_labelled_binary():
    assert registry.encode([1], "msgpack")[:2] == ("application/x-msgpack", "binary")


def test_falsy_payload_is_decoded_once(feed, connection):
    calls = []
    consumer = Consumer(connection, feed.queue, decoder=lambda body: calls.append(body) or 0)
    feed.publisher.send(0)
    message = consumer.fetch()

    assert [message.payload, message.payload] == [0, 0]

    assert len(calls) == 1
    message.ack()


class NeedsTwoArguments(Exception):
    def __init__(self, first, second):
        super().__init__(first, second)


def test_exit_closes_and_keeps_the_exception(connection, unique):
    mine = NeedsTwoArguments(1, 2)

    with pytest.raises(NeedsTwoArguments) as caught, Consumer(connection, unique()) as consumer:
        raise mine

    assert caught.value is mine
    with pytest.raises(ChannelError, match="closed"):
        consumer.fetch()


def test_reopening_after_close_uses_a_new_socket(connect, unique):
    connection = connect()
    queue = unique()
    Consumer(connection, queue)
    connection.close()
    connection.connect()

    Publisher(connection, routing_key=queue).send("x")

    assert Consumer(connection, queue).fetch(auto_ack=True).payload == "x"


def test_empty_consumerset_is_no_index_error(connection):
    ConsumerSet(connection).consume()


def test_queues_are_separate(connection, unique):
    first, second = Consumer(connection, unique()), Consumer(connection, unique())

    Publisher(connection, routing_key=first.queue).send("for the first")

    assert second.fetch() is None
    assert first.fetch(auto_ack=True).payload == "for the first"
