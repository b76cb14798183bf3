"""no_ack with a limit: what was sent ahead of its turn comes next, whoever asks for it."""

import logging

import pytest

from carrot.messaging import Consumer, ConsumerSet
from tests.waiting import eventually

# TLS is left out: it is the amqp driver again.
pytestmark = pytest.mark.parametrize(
    "backend_name", ["memory", "amqp", "pyamqplib", "stomp", "zeromq"], indirect=True
)

TIMEOUT = 3  # seconds, for what should take milliseconds


class Ten:
    """A queue with ten messages, a consumer with no_ack, and what reached its callback."""

    def __init__(self, feed):
        self.feed = feed
        self.consumer = feed.consumer
        self.received = []
        self.consumer.register_callback(lambda data, message: self.received.append(data))
        feed.publisher.send_many(range(10))

    def left(self, connection):
        """The messages that are still in the queue, for somebody who comes afterwards."""
        with Consumer(connection, self.feed.queue) as consumer:
            return [message.payload for message in consumer.iterqueue()]


@pytest.fixture
def ten(make_feed):
    return Ten(make_feed(no_ack=True))


def lost_according_to(caplog):
    """What the warnings about lost no_ack messages say."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.partition(".")[0] == "carrot"
        and record.levelno >= logging.WARNING
        and "no_ack" in record.getMessage()
    ]


# -- every door opens on the same messages


def test_second_wait_goes_on_where_the_first_one_ended(ten):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)
    ten.consumer.wait(limit=3, timeout=TIMEOUT)

    assert ten.received == [0, 1, 2, 3, 4]
    assert ten.consumer.fetch().payload == 5


def test_many_waits_for_one_message_get_one_each(ten):
    for _ in range(10):
        ten.consumer.wait(limit=1, timeout=TIMEOUT)

    assert ten.received == list(range(10))
    assert ten.consumer.fetch() is None


def test_iterconsume_goes_on_where_wait_ended(ten):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)

    list(ten.consumer.iterconsume(limit=8, timeout=TIMEOUT))

    assert ten.received == list(range(10))


def test_wait_goes_on_where_iterconsume_ended(ten):
    list(ten.consumer.iterconsume(limit=2, timeout=TIMEOUT))
    ten.consumer.cancel()

    ten.consumer.wait(limit=8, timeout=TIMEOUT)

    assert ten.received == list(range(10))


def test_drain_events_goes_on_where_wait_ended(ten):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)

    ten.consumer.consume()
    while len(ten.received) < 10:
        ten.feed.connection.drain_events(timeout=TIMEOUT)

    assert ten.received == list(range(10))


def test_fetch_goes_on_where_wait_ended(ten):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)

    fetched = [message.payload for message in ten.consumer.iterqueue()]

    assert fetched == list(range(2, 10))


def test_wait_goes_on_where_fetch_ended(ten):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)
    assert ten.consumer.fetch().payload == 2

    ten.consumer.wait(limit=7, timeout=TIMEOUT)

    assert ten.received == [0, 1, 3, 4, 5, 6, 7, 8, 9]


def test_process_next_goes_on_where_wait_ended(ten):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)

    ten.consumer.process_next()

    assert ten.received == [0, 1, 2]


def test_purge_counts_what_was_sent_ahead(ten):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)

    assert ten.consumer.discard_all() == 8
    assert ten.consumer.fetch() is None


@pytest.fixture
def ahead(ten):
    """Two of the ten are processed, and others were sent ahead: a loop without a limit stopped."""

    def stop_at_the_second(data, message):
        if data == 1:
            ten.consumer.stop()

    ten.consumer.register_callback(stop_at_the_second)
    ten.consumer.wait(timeout=TIMEOUT)
    assert ten.received == [0, 1]
    return ten


def in_turn(ten, numbers):
    """The numbers as they came, where what goes back keeps its place; else in order."""
    keeps_places = ten.consumer.backend.capabilities.requeue_in_place
    return list(numbers) if keeps_places else sorted(numbers)


def test_fetch_opens_on_what_was_sent_ahead(ahead):
    fetched = [ahead.consumer.fetch().payload for _ in range(8)]

    assert in_turn(ahead, fetched) == list(range(2, 10))
    assert ahead.consumer.fetch() is None


def test_fetch_with_auto_ack_opens_on_what_was_sent_ahead(ahead):
    fetched = [ahead.consumer.fetch(auto_ack=True).payload for _ in range(8)]

    assert in_turn(ahead, fetched) == list(range(2, 10))


def test_iterqueue_opens_on_what_was_sent_ahead(ahead):
    fetched = [message.payload for message in ahead.consumer.iterqueue()]

    assert in_turn(ahead, fetched) == list(range(2, 10))


def test_process_next_opens_on_what_was_sent_ahead(ahead):
    for _ in range(8):
        ahead.consumer.process_next()

    assert in_turn(ahead, ahead.received) == list(range(10))


def test_wait_opens_on_what_was_sent_ahead(ahead):
    ahead.consumer.wait(limit=3, timeout=TIMEOUT)
    ahead.consumer.wait(limit=5, timeout=TIMEOUT)

    assert in_turn(ahead, ahead.received) == list(range(10))


def test_purge_counts_all_that_was_sent_ahead(ahead):
    assert ahead.consumer.discard_all() == 8
    assert ahead.consumer.fetch() is None


def test_fetch_between_two_steps_opens_on_what_was_sent_ahead(ten):
    steps = ten.consumer.iterconsume(timeout=TIMEOUT)
    next(steps)

    fetched = ten.consumer.fetch().payload
    next(steps)

    assert (ten.received, fetched) == ([0, 2], 1)


def test_set_goes_on_where_the_wait_of_its_consumer_ended(ten, connection):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)

    with ConsumerSet(connection, consumers=[ten.consumer]) as one:
        one.wait(limit=3, timeout=TIMEOUT)

    assert ten.received == [0, 1, 2, 3, 4]


def test_second_wait_of_a_set_goes_on_where_the_first_one_ended(ten, connection):
    with ConsumerSet(connection, consumers=[ten.consumer]) as one:
        one.wait(limit=2, timeout=TIMEOUT)
        one.wait(limit=3, timeout=TIMEOUT)

        assert ten.received == [0, 1, 2, 3, 4]
        assert ten.consumer.fetch().payload == 5


def test_waits_of_a_set_of_two_lose_nothing(make_feed, connection):
    tens = [Ten(make_feed(no_ack=True)) for _ in range(2)]

    with ConsumerSet(connection, consumers=[ten.consumer for ten in tens]) as both:
        for limit in (1, 3, 7, 9):
            both.wait(limit=limit, timeout=TIMEOUT)

    assert [ten.received for ten in tens] == [list(range(10))] * 2


def test_message_that_comes_later_stays_behind_those_that_were_sent_ahead(ten):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)
    ten.feed.publisher.send(10)

    ten.consumer.wait(limit=9, timeout=TIMEOUT)

    assert ten.received == list(range(11))


@pytest.mark.parametrize("prefetch", [1, 3, 0])
def test_prefetch_count_makes_no_difference(make_feed, prefetch):
    ten = Ten(make_feed(no_ack=True, prefetch_count=prefetch))

    ten.consumer.wait(limit=2, timeout=TIMEOUT)
    ten.consumer.wait(limit=6, timeout=TIMEOUT)

    assert ten.received == list(range(8))
    assert ten.consumer.fetch().payload == 8


# -- what nobody has seen


@pytest.mark.parametrize("limits", [[2], [2, 3], [1, 1, 1]])
def test_close_after_a_wait_with_a_limit_leaves_the_rest_in_the_queue(ten, connect, limits):
    for limit in limits:
        ten.consumer.wait(limit=limit, timeout=TIMEOUT)

    ten.consumer.close()

    assert ten.received == list(range(sum(limits)))
    assert ten.left(connect()) == list(range(sum(limits), 10))


def test_close_of_a_set_after_a_wait_with_a_limit_leaves_the_rest_in_the_queue(ten, connect):
    with ConsumerSet(ten.feed.connection, consumers=[ten.consumer]) as one:
        one.wait(limit=2, timeout=TIMEOUT)

    assert ten.received == [0, 1]
    assert ten.left(connect()) == list(range(2, 10))


def test_end_of_the_connection_after_a_wait_with_a_limit_leaves_the_rest(ten, connect):
    ten.consumer.wait(limit=2, timeout=TIMEOUT)

    ten.feed.connection.close()

    assert ten.left(connect()) == list(range(2, 10))


def assert_told(ten, connection, caplog):
    """What no callback has seen is in the queue, or a warning says how many are lost."""
    missing = 10 - len(ten.received) - len(ten.left(connection))
    told = lost_according_to(caplog)
    assert bool(told) == bool(missing), (missing, told)
    assert not missing or str(missing) in told[0].replace(ten.feed.queue, "")


def test_close_after_stop_tells_how_many_messages_are_lost_with_it(ten, connect, caplog):
    def stop(data, message):
        if data == 1:
            ten.consumer.stop()

    ten.consumer.register_callback(stop)
    ten.consumer.wait(timeout=TIMEOUT)

    with caplog.at_level(logging.INFO, logger="carrot"):
        ten.consumer.close()

    assert ten.received == [0, 1]
    assert_told(ten, connect(), caplog)


def test_close_after_a_step_of_iterconsume_tells_how_many_are_lost(ten, connect, caplog):
    next(ten.consumer.iterconsume(timeout=TIMEOUT))

    with caplog.at_level(logging.INFO, logger="carrot"):
        ten.consumer.close()

    assert ten.received == [0]
    assert_told(ten, connect(), caplog)


def test_close_of_a_set_after_stop_tells_how_many_messages_are_lost(ten, connect, caplog):
    with (
        caplog.at_level(logging.INFO, logger="carrot"),
        ConsumerSet(ten.feed.connection, consumers=[ten.consumer]) as one,
    ):
        ten.consumer.register_callback(lambda data, message: one.stop())
        one.wait(timeout=TIMEOUT)

    assert ten.received == [0]
    assert_told(ten, connect(), caplog)


def test_close_warns_of_nothing_when_all_was_processed(ten, caplog):
    with caplog.at_level(logging.INFO, logger="carrot"):
        ten.consumer.wait(limit=10, timeout=TIMEOUT)
        ten.consumer.close()

    assert eventually(lambda: ten.received == list(range(10)))
    assert lost_according_to(caplog) == []
