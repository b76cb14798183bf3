"""wait(limit=n) takes n messages out of the queue: no other message is touched, or marked."""

import threading
from contextlib import suppress

import pytest

from carrot.deadline import Deadline
from carrot.exceptions import OperationTimeout
from carrot.messaging import Consumer, ConsumerSet
from carrot.messaging.consume_loop import ConsumeLoop
from tests.threads import run
from tests.waiting import eventually

# TLS is left out: it is the amqp driver again.
pytestmark = [
    pytest.mark.needs("holds_deliveries"),
    pytest.mark.parametrize(
        "backend_name", ["memory", "amqp", "pyamqplib", "stomp", "zeromq"], indirect=True
    ),
]

TIMEOUT = 20  # seconds, for what should take milliseconds
PREFETCHES = [1, 10, 0]
PAIRS = [  # of a limit and a prefetch count
    (1, 1), (1, 2), (1, 10), (1, 100), (1, 0),
    (2, 1), (2, 10), (3, 2), (3, 0),
    (7, 1), (7, 2), (7, 10), (7, 100), (7, 0),
    (100, 10), (100, 100), (150, 2), (150, 100), (150, 0),
]  # fmt: skip


def marks(received):
    """A callback that notes each message's data, and whether it is marked as redelivered."""
    return lambda data, message: (received.append((data, message.redelivered)), message.ack())


def rest(feed, count):
    """Data and mark of each message that is in the queue, *count* or else; they are taken.

    Through a subscription: fetching one at a time, ActiveMQ marks some that it had sent ahead.
    """
    seen, left = [], feed.connection.channel()
    with Consumer(feed.connection, feed.queue, backend=left, prefetch_count=0) as consumer:
        consumer.register_callback(marks(seen))
        consumer.consume()
        with suppress(TimeoutError):
            while len(seen) < count:
                feed.connection.drain_events(timeout=2)
    left.close()
    return seen + [message.payload for message in iter(feed.consumer.fetch, None)]


def fresh(numbers):
    """What :func:`rest` sees when nobody has had these messages before."""
    return [(number, False) for number in numbers]


def assert_left(feed, numbers):
    """These messages are in the queue, in order, and nobody has had them before."""
    assert rest(feed, len(numbers)) == fresh(numbers)


# -- a queue with more than is wanted


@pytest.mark.parametrize(("limit", "prefetch"), PAIRS)
def test_wait_takes_exactly_its_limit_and_marks_nothing_else(make_feed, limit, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(marks(received))
    feed.publisher.send_many(range(limit + 12))

    feed.consumer.wait(limit=limit, timeout=TIMEOUT)

    assert received == fresh(range(limit))
    assert_left(feed, range(limit, limit + 12))


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_wait_for_all_that_is_there_leaves_an_empty_queue(make_feed, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(marks(received))
    feed.publisher.send_many(range(9))

    feed.consumer.wait(limit=9, timeout=TIMEOUT)

    assert received == fresh(range(9))
    assert rest(feed, 0) == []


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_many_rounds_of_one_message_each_mark_nothing(make_feed, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(marks(received))
    feed.publisher.send_many(range(40))

    for _ in range(30):
        feed.consumer.wait(limit=1, timeout=TIMEOUT)

    assert received == fresh(range(30))
    assert_left(feed, range(30, 40))


def test_rounds_of_different_sizes_mark_nothing(make_feed):
    feed, received = make_feed(prefetch_count=10), []
    feed.consumer.register_callback(marks(received))
    feed.publisher.send_many(range(60))

    for limit in (3, 1, 20, 2, 11, 1):
        feed.consumer.wait(limit=limit, timeout=TIMEOUT)

    assert received == fresh(range(38))
    assert_left(feed, range(38, 60))


def test_wait_for_none_takes_none(feed):
    feed.consumer.register_callback(print)
    feed.publisher.send_many(range(3))

    feed.consumer.wait(limit=0, timeout=TIMEOUT)

    assert_left(feed, range(3))


# -- a queue with less than is wanted


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_wait_for_more_than_there_is_takes_what_comes_later_too(make_feed, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(marks(received))
    feed.publisher.send_many(range(4))

    def send_the_others():
        eventually(lambda: len(received) == 4, TIMEOUT)
        feed.publisher.send_many(range(4, 20))

    run(lambda: feed.consumer.wait(limit=7, timeout=TIMEOUT), send_the_others)

    assert received == fresh(range(7))
    assert_left(feed, range(7, 20))


@pytest.mark.parametrize("prefetch", PREFETCHES)
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_messages_that_arrive_one_by_one_are_counted_exactly(make_feed, limit, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(marks(received))

    def send_one_by_one():
        for number in range(limit):
            feed.publisher.send(number)
            eventually(lambda number=number: len(received) > number, TIMEOUT)

    run(lambda: feed.consumer.wait(limit=limit, timeout=TIMEOUT), send_one_by_one)
    feed.publisher.send_many(range(limit, limit + 3))

    assert received == fresh(range(limit))
    assert_left(feed, range(limit, limit + 3))


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_messages_that_stream_in_during_the_wait_are_counted_exactly(make_feed, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(marks(received))

    def rounds():
        for _ in range(10):
            feed.consumer.wait(limit=3, timeout=TIMEOUT)

    run(rounds, lambda: [feed.publisher.send(number) for number in range(60)])

    assert received == fresh(range(30))
    assert_left(feed, range(30, 60))


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_wait_that_ends_by_its_timeout_marks_nothing_when_the_queue_was_empty(make_feed, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(marks(received))
    feed.publisher.send_many(range(2))

    with pytest.raises(OperationTimeout):
        feed.consumer.wait(limit=5, timeout=0.3)
    feed.publisher.send_many(range(2, 6))

    assert received == fresh(range(2))
    assert_left(feed, range(2, 6))


# -- what callbacks do with the messages


@pytest.mark.parametrize("prefetch", [10, 100, 0])
def test_acks_that_come_late_bring_no_more_than_the_limit(make_feed, prefetch):
    feed, held = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(lambda data, message: held.append(message))
    feed.publisher.send_many(range(20))

    feed.consumer.wait(limit=7, timeout=TIMEOUT)
    for message in held:
        message.ack()

    assert [(m.payload, m.redelivered) for m in held] == fresh(range(7))
    assert_left(feed, range(7, 20))


def test_acks_of_all_in_the_last_callback_bring_no_more_than_the_limit(make_feed):
    feed, held = make_feed(prefetch_count=10), []

    def ack_all_at_the_end(data, message):
        held.append(message)
        if len(held) == 7:
            for each in held:
                each.ack()

    feed.consumer.register_callback(ack_all_at_the_end)
    feed.publisher.send_many(range(20))

    feed.consumer.wait(limit=7, timeout=TIMEOUT)

    assert [m.payload for m in held] == list(range(7))
    assert_left(feed, range(7, 20))


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_rejected_messages_count_and_the_others_stay_as_they_were(make_feed, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(lambda data, message: (received.append(data), message.reject()))
    feed.publisher.send_many(range(20))

    feed.consumer.wait(limit=7, timeout=TIMEOUT)

    assert received == list(range(7))
    assert_left(feed, range(7, 20))


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_requeued_messages_count_and_only_they_are_marked(make_feed, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(
        lambda data, message: (received.append(data), message.requeue())
    )
    feed.publisher.send_many(range(20))

    feed.consumer.wait(limit=7, timeout=TIMEOUT)

    assert len(received) == 7
    assert sorted(rest(feed, 20)) == [(number, number in received) for number in range(20)]


def test_exception_in_the_last_callback_marks_only_its_own_message(make_feed):
    feed = make_feed(prefetch_count=10)

    def fail_at_the_third(data, message):
        if data == 2:
            raise KeyError("mine")
        message.ack()

    feed.consumer.register_callback(fail_at_the_third)
    feed.publisher.send_many(range(10))

    with pytest.raises(KeyError, match="mine"):
        feed.consumer.wait(limit=3, timeout=TIMEOUT)
    feed.consumer.close()
    feed.consumer.declare()

    assert sorted(rest(feed, 8)) == [(2, True), *fresh(range(3, 10))]


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_auto_ack_takes_exactly_the_limit(make_feed, prefetch):
    feed, received = make_feed(prefetch_count=prefetch, auto_ack=True), []
    feed.consumer.register_callback(
        lambda data, message: received.append((data, message.redelivered))
    )
    feed.publisher.send_many(range(20))

    feed.consumer.wait(limit=7, timeout=TIMEOUT)

    assert received == fresh(range(7))
    feed.consumer.auto_ack = False
    assert_left(feed, range(7, 20))


# -- several at once


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_two_workers_with_limits_leave_the_rest_unmarked(make_feed, connect, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(marks(received))
    feed.publisher.send_many(range(40))

    def work():
        with Consumer(connect(), feed.queue, prefetch_count=prefetch) as other:
            other.register_callback(marks(received))
            for _ in range(5):
                other.wait(limit=2, timeout=TIMEOUT)

    def work_here():
        for _ in range(5):
            feed.consumer.wait(limit=2, timeout=TIMEOUT)

    run(work, work_here)

    assert sorted(received) == fresh(range(20))
    assert_left(feed, range(20, 40))


@pytest.mark.needs("thread_safe")
@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_threads_that_wait_on_one_consumer_get_their_limits_and_no_more(make_feed, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.consumer.register_callback(
        lambda data, message: (
            received.append((threading.get_ident(), data, message.redelivered)),
            message.ack(),
        )
    )
    feed.publisher.send_many(range(40))

    # Both threads live at the same time, or the second might have the number of the first.
    both = threading.Barrier(2, timeout=TIMEOUT)
    run(*(lambda: (both.wait(), feed.consumer.wait(limit=10, timeout=TIMEOUT)) for _ in range(2)))

    threads = [thread for thread, _, _ in received]
    assert sorted(threads.count(thread) for thread in set(threads)) == [10, 10]
    assert sorted((data, mark) for _, data, mark in received) == fresh(range(20))
    assert_left(feed, range(20, 40))


@pytest.mark.needs("thread_safe")
def test_what_another_thread_was_sent_is_enough_for_a_loop_that_waited_for_its_turn(make_feed):
    """Found under load: the second thread subscribed for what the first had been sent."""
    feed = make_feed(prefetch_count=0)
    feed.consumer.register_callback(lambda data, message: message.ack())
    feed.publisher.send_many(range(30))
    members, backend = feed.consumer._members, feed.consumer.backend
    first, second = (ConsumeLoop(members, limit, Deadline.NEVER) for limit in (10, 3))
    for loop in (first, second):
        members._begin_waiting(loop)
    first.start(12)
    backend.life.transport.wait_for(lambda: len(backend.life.inbox) == 12, TIMEOUT)
    next(first)
    assert not feed.consumer.channel_open  # all that both want is here, but for one

    second.start(12)  # what was wanted when it began to wait

    assert not feed.consumer.channel_open
    assert len(backend.life.inbox) == 11


# -- consumer sets


def consumer_set(connection, feeds, received):
    return ConsumerSet(
        connection, consumers=[feed.consumer for feed in feeds], callbacks=[marks(received)]
    )


@pytest.mark.parametrize("prefetch", PREFETCHES)
@pytest.mark.parametrize("limit", [1, 5])
def test_set_of_one_takes_exactly_its_limit(make_feed, connection, limit, prefetch):
    feed, received = make_feed(prefetch_count=prefetch), []
    feed.publisher.send_many(range(20))

    with consumer_set(connection, [feed], received) as both:
        both.wait(limit=limit, timeout=TIMEOUT)
    feed.consumer.declare()

    assert received == fresh(range(limit))
    assert_left(feed, range(limit, 20))


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_set_of_two_takes_exactly_its_limit_over_both_queues(make_feed, connection, prefetch):
    feeds = [make_feed(prefetch_count=prefetch) for _ in range(2)]
    received = []
    for number, feed in enumerate(feeds):
        feed.publisher.send_many(range(100 * number, 100 * number + 20))

    with consumer_set(connection, feeds, received) as both:
        both.wait(limit=7, timeout=TIMEOUT)
        both.wait(limit=2, timeout=TIMEOUT)

    assert len(received) == 9
    assert not any(mark for _, mark in received)
    for number, feed in enumerate(feeds):
        taken = [data for data, _ in received if data // 100 == number]
        assert taken == list(range(100 * number, 100 * number + len(taken)))
        feed.consumer.declare()
        assert_left(feed, range(100 * number + len(taken), 100 * number + 20))


def test_rounds_of_a_set_of_two_lose_nothing(make_feed, connection):
    """Each of them may have the one message, so that one of two goes back; marked, but in order."""
    feeds, received = [make_feed(prefetch_count=10) for _ in range(2)], []
    for number, feed in enumerate(feeds):
        feed.publisher.send_many(range(100 * number, 100 * number + 15))

    with consumer_set(connection, feeds, received) as both:
        for _ in range(30):
            both.wait(limit=1, timeout=TIMEOUT)

    numbers = [data for data, _ in received]
    assert sorted(numbers) == [*range(15), *range(100, 115)]
    assert [number for number in numbers if number < 100] == list(range(15))
