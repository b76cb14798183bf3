"""One message at a time: fetch(), iterqueue(), discard_all()."""

from itertools import islice

import pytest

from carrot.exceptions import ConfigurationError
from carrot.messaging import Consumer


def test_empty_queue_is_none(feed):
    assert feed.consumer.fetch() is None


def test_fetched_message_is_unsettled_and_comes_back_when_the_consumer_closes(feed):
    feed.publisher.send("x")

    message = feed.consumer.fetch()
    assert not message.acknowledged
    assert not message.redelivered
    feed.consumer.close()
    feed.consumer.declare()

    again = feed.consumer.fetch()
    assert again.payload == "x"
    assert again.redelivered


def test_fetch_with_auto_ack_acks(feed):
    feed.publisher.send("x")

    assert feed.consumer.fetch(auto_ack=True).acknowledged
    feed.consumer.close()
    feed.consumer.declare()

    assert feed.consumer.fetch() is None


def test_auto_ack_false_overrides_the_consumers_own(make_feed):
    feed = make_feed(auto_ack=True)
    feed.publisher.send("x")

    message = feed.consumer.fetch(auto_ack=False)

    assert not message.acknowledged
    message.requeue()


def test_fetch_with_no_ack_leaves_nothing_to_settle(feed):
    feed.publisher.send("x")

    assert feed.consumer.fetch(no_ack=True).acknowledged
    feed.consumer.close()
    feed.consumer.declare()

    assert feed.consumer.fetch() is None


def test_no_ack_false_overrides_the_consumers_own(make_feed):
    feed = make_feed(no_ack=True)
    feed.publisher.send("x")

    message = feed.consumer.fetch(no_ack=False)

    assert not message.acknowledged
    message.ack()


def test_callbacks_run_only_when_enabled(feed):
    received = []
    feed.consumer.register_callback(lambda data, message: received.append(data))
    feed.publisher.send_many([1, 2])

    feed.consumer.fetch().ack()
    assert received == []
    feed.consumer.fetch(enable_callbacks=True).ack()
    assert received == [2]


def test_process_next_runs_the_callbacks(feed):
    received = []
    feed.consumer.register_callback(lambda data, message: received.append(data))
    feed.publisher.send("x")

    message = feed.consumer.process_next()

    assert received == [message.payload] == ["x"]
    assert feed.consumer.process_next() is None


def test_iterqueue_stops_when_the_queue_is_empty(feed):
    feed.publisher.send_many([1, 2, 3])

    assert [message.payload for message in feed.consumer.iterqueue()] == [1, 2, 3]


def test_iterqueue_takes_no_message_beyond_its_limit(feed):
    feed.publisher.send_many([1, 2, 3])

    assert len(list(feed.consumer.iterqueue(limit=2))) == 2

    assert feed.consumer.fetch().payload == 3


def test_infinite_iterqueue_yields_none_when_empty(feed):
    feed.publisher.send(1)

    items = list(islice(feed.consumer.iterqueue(infinite=True), 3))

    assert items[0].payload == 1
    assert items[1:] == [None, None]


def test_iterating_a_consumer_polls_for_ever(feed):
    feed.publisher.send(1)

    items = list(islice(feed.consumer, 2))

    assert items[0].payload == 1
    assert items[1] is None


@pytest.mark.parametrize("method", ["discard_all", "purge"])
def test_discarding_says_how_many_there_were(feed, method):
    feed.publisher.send_many(range(7))

    assert getattr(feed.consumer, method)() == 7
    assert getattr(feed.consumer, method)() == 0
    assert feed.payloads() == []


def test_discarding_counts_what_was_sent_ahead(feed):
    feed.consumer.register_callback(lambda data, message: message.ack())
    feed.publisher.send_many(range(7))
    list(feed.consumer.iterconsume(limit=2))

    assert feed.consumer.discard_all() == 5
    feed.consumer.cancel()
    assert feed.payloads() == []


@pytest.mark.needs("requeue_in_place")
def test_filter_discards_only_what_it_likes_and_keeps_the_order(feed):
    feed.publisher.send_many(range(6))

    discarded = feed.consumer.discard_all(filterfunc=lambda message: message.payload % 2)

    assert discarded == 3
    assert feed.payloads() == [0, 2, 4]


def test_filter_that_fails_loses_nothing(feed):
    feed.publisher.send_many(range(3))

    with pytest.raises(ZeroDivisionError):
        feed.consumer.discard_all(filterfunc=lambda message: 1 // (1 - message.payload))

    assert feed.payloads() == [1, 2]


def test_filter_needs_a_consumer_that_can_put_messages_back(connection, unique):
    consumer = Consumer(connection, unique(), auto_ack=True)

    with pytest.raises(ConfigurationError, match="auto_ack"):
        consumer.discard_all(filterfunc=bool)
