"""wait(), iterconsume(), stop() and what happens around a callback."""

import gc
import re
import signal
import threading
import time
from contextlib import suppress

import pytest

from carrot.exceptions import (
    ChannelError,
    ConfigurationError,
    ConnectionLost,
    ConsumerCancelled,
    NotFound,
    OperationTimeout,
)
from carrot.messaging import Consumer, Publisher
from tests.waiting import eventually


def acking(received):
    def callback(message_data, message):
        received.append(message_data)
        message.ack()

    return callback


def test_wait_hands_each_message_to_the_callbacks_in_order(feed):
    first, second = [], []
    feed.consumer.register_callback(lambda data, message: first.append(data))
    feed.consumer.register_callback(acking(second))
    feed.publisher.send_many([1, 2, 3])

    feed.consumer.wait(limit=3)

    assert first == second == [1, 2, 3]


def test_wait_returns_at_the_limit_and_leaves_the_rest(feed):
    received = []
    feed.consumer.register_callback(acking(received))
    feed.publisher.send_many(range(5))

    assert feed.consumer.wait(limit=2) is None

    assert received == [0, 1]
    assert feed.payloads() == [2, 3, 4]


def test_what_was_sent_ahead_is_back_for_others_after_wait(feed, connect):
    feed.consumer.register_callback(acking([]))
    feed.publisher.send_many(range(5))
    feed.consumer.wait(limit=2)

    other = Consumer(connect(), feed.queue, auto_declare=False)

    assert other.fetch(no_ack=True).payload == 2


def test_wait_may_be_called_again_and_again(feed):
    received = []
    feed.consumer.register_callback(acking(received))
    feed.publisher.send_many(range(6))

    for _ in range(3):
        feed.consumer.wait(limit=2)

    assert received == list(range(6))


@pytest.mark.parametrize(
    "option",
    [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("exclusive", "auto_delete")],
)
def test_wait_leaves_a_queue_alone_that_goes_with_its_last_consumer(connection, unique, option):
    received = []
    consumer = Consumer(connection, unique(), callbacks=[acking(received)], **{option: True})
    Publisher(connection, routing_key=consumer.queue).send_many(range(4))

    for _ in range(2):
        consumer.wait(limit=1)

    assert received == [0, 1]
    assert [m.payload for m in consumer.iterqueue()] == [2, 3]


def test_subclass_receives_without_callbacks(feed, connection):
    class FeedConsumer(Consumer):
        queue = feed.queue

        def receive(self, message_data, message):
            self.received = message_data
            message.ack()

    feed.publisher.send({"url": "x"})

    consumer = FeedConsumer(connection)
    consumer.wait(limit=1)

    assert consumer.received == {"url": "x"}


def test_timeout_of_the_loop_holds_while_messages_are_at_hand(feed):
    received = []

    def work(data, message):
        message.ack()
        received.append(data)
        time.sleep(0.05)

    feed.consumer.register_callback(work)
    feed.publisher.send_many(range(60))

    with pytest.raises(OperationTimeout):
        feed.consumer.wait(timeout=1)

    assert len(received) < 60


def test_coroutine_for_receive_is_refused():
    with pytest.raises(ConfigurationError, match="plain function"):

        class Worker(Consumer):
            async def receive(self, message_data, message):
                message.ack()


def test_without_callbacks_the_error_says_what_to_do_and_nothing_is_lost(feed, connection):
    consumer = Consumer(connection, feed.queue, auto_ack=True)
    feed.publisher.send("kept")

    with pytest.raises(NotImplementedError, match="register_callback"):
        consumer.wait(limit=1)
    consumer.close()

    assert feed.payloads() == ["kept"]


@pytest.mark.needs("requeue_in_place")
def test_exception_in_a_callback_leaves_the_loop_with_the_message_unsettled(feed):
    seen = []

    def fail(message_data, message):
        seen.append(message)
        raise ZeroDivisionError("mine")

    feed.consumer.callbacks = [fail]
    feed.publisher.send_many([1, 2])

    with pytest.raises(ZeroDivisionError, match="mine"):
        feed.consumer.wait()

    (message,) = seen
    assert not message.acknowledged
    message.requeue()
    assert feed.payloads() == [1, 2]


def test_iterconsume_goes_on_after_an_exception_in_a_callback(feed):
    received = []

    def fail_once(message_data, message):
        message.ack()
        if not received:
            received.append("failed")
            raise ZeroDivisionError
        received.append(message_data)

    feed.consumer.register_callback(fail_once)
    feed.publisher.send_many([1, 2])
    loop = feed.consumer.iterconsume()

    with pytest.raises(ZeroDivisionError):
        next(loop)
    next(loop)

    assert received == ["failed", 2]


def test_iterconsume_yields_true_once_per_processed_message(feed):
    received = []
    feed.consumer.register_callback(acking(received))
    feed.publisher.send_many([1, 2, 3])

    assert list(feed.consumer.iterconsume(limit=3)) == [True, True, True]
    assert received == [1, 2, 3]


def test_iterconsume_subscribes_at_the_call(feed):
    feed.consumer.register_callback(acking([]))

    feed.consumer.iterconsume()

    assert feed.consumer.channel_open
    feed.consumer.cancel()
    assert not feed.consumer.channel_open


def test_fetch_after_iterconsume_gets_what_was_sent_ahead(feed):
    feed.consumer.register_callback(acking([]))
    feed.publisher.send_many(range(4))
    list(feed.consumer.iterconsume(limit=2))

    assert feed.payloads() == [2, 3]


def test_stop_in_a_callback_ends_the_loop_after_that_message(feed):
    received = []

    def callback(message_data, message):
        received.append(message_data)
        message.ack()
        if message_data == 2:
            feed.consumer.stop()

    feed.consumer.register_callback(callback)
    feed.publisher.send_many(range(5))

    feed.consumer.wait()

    assert received == [0, 1, 2]
    assert feed.payloads() == [3, 4]


def test_stop_from_another_thread_wakes_a_waiting_consumer_at_once(feed):
    feed.consumer.register_callback(acking([]))
    stopper = threading.Timer(0.1, feed.consumer.stop)
    started = time.monotonic()
    stopper.start()

    feed.consumer.wait()

    stopper.join()
    assert time.monotonic() - started < 5


def test_stop_in_a_signal_handler_ends_wait(feed):
    feed.consumer.register_callback(acking([]))
    previous = signal.signal(signal.SIGALRM, lambda *args: feed.consumer.stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)

        feed.consumer.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_stop_before_wait_ends_it_at_once_and_counts_once(feed):
    received = []
    feed.consumer.register_callback(acking(received))
    feed.publisher.send("x")

    feed.consumer.iterconsume()
    feed.consumer.stop()
    feed.consumer.wait()
    assert received == []

    feed.consumer.wait(limit=1)
    assert received == ["x"]


def test_message_sent_while_waiting_arrives(feed, connect):
    received = []
    feed.consumer.register_callback(acking(received))

    def send():
        with Publisher(connect(), feed.exchange, "key") as publisher:
            publisher.send("late")

    sender = threading.Timer(0.1, send)
    sender.start()

    feed.consumer.wait(limit=1)

    sender.join()
    assert received == ["late"]


def test_callback_may_publish_declare_and_settle(feed, connection, unique):
    answers = unique("answers")

    def callback(message_data, message):
        Consumer(connection, answers).close()
        feed.publisher.send(message_data * 2, exchange="", routing_key=answers)
        message.ack()

    feed.consumer.register_callback(callback)
    feed.publisher.send_many([1, 2])

    feed.consumer.wait(limit=2)

    assert [m.payload for m in Consumer(connection, answers, auto_ack=True).iterqueue()] == [2, 4]


def test_callback_may_use_its_own_consumer(feed):
    seen = []

    def callback(message_data, message):
        seen.append((message_data, feed.consumer.fetch(auto_ack=True).payload))
        message.ack()

    feed.consumer.register_callback(callback)
    feed.publisher.send_many([1, 2, 3, 4])

    feed.consumer.wait(limit=2)

    assert seen == [(1, 2), (3, 4)]


def test_auto_ack_acks_before_the_callback_runs(make_feed):
    feed = make_feed(auto_ack=True)
    states = []
    feed.consumer.register_callback(lambda data, message: states.append(message.acknowledged))
    feed.publisher.send("x")

    feed.consumer.wait(limit=1)

    assert states == [True]
    feed.consumer.close()
    feed.consumer.declare()
    assert feed.consumer.fetch() is None


def test_consumer_tags_are_unique(connection, unique):
    queue = unique()
    tags = {Consumer(connection, queue).consumer_tag for _ in range(3)}

    assert len(tags) == 3


def test_two_consumers_of_a_queue_take_turns(feed, connection):
    first, second = [], []
    # Kept: a consumer that nobody has any more consumes nothing.
    consumers = [
        Consumer(connection, feed.queue, callbacks=[acking(received)])
        for received in (first, second)
    ]
    for consumer in consumers:
        consumer.consume()

    feed.publisher.send_many(range(10))
    eventually(lambda: drained(connection, first, second, 10), within=10)

    assert len(first) == len(second) == 5


def drained(connection, first, second, total):
    if len(first) + len(second) < total:
        connection.drain_events(timeout=10)
    return len(first) + len(second) == total


def test_cancel_ends_a_running_loop_and_returns_what_was_sent_ahead(feed):
    received = []

    def callback(message_data, message):
        received.append(message_data)
        message.ack()
        feed.consumer.cancel()

    feed.consumer.register_callback(callback)
    feed.publisher.send_many([1, 2, 3])

    assert list(feed.consumer.iterconsume()) == [True]

    assert received == [1]
    assert feed.payloads() == [2, 3]


def test_close_in_a_callback_ends_the_loop_and_returns_unsettled_messages(feed, connection):
    feed.consumer.register_callback(lambda data, message: feed.consumer.close())
    feed.publisher.send_many([1, 2])

    feed.consumer.wait()

    assert [m.payload for m in Consumer(connection, feed.queue, auto_ack=True).iterqueue()] == [
        1,
        2,
    ]


def test_consume_twice_is_one_subscription(feed):
    received = []
    feed.consumer.register_callback(acking(received))
    feed.consumer.consume()
    feed.consumer.consume()
    feed.publisher.send("once")

    feed.connection.drain_events(timeout=10)
    with pytest.raises(TimeoutError):
        feed.connection.drain_events(timeout=0.05)

    assert received == ["once"]


def test_consuming_a_queue_that_does_not_exist_is_not_found(connection, unique):
    consumer = Consumer(connection, unique("missing"), auto_declare=False, callbacks=[print])

    with pytest.raises(NotFound, match="no queue 'missing"):
        consumer.wait(limit=1)
    with pytest.raises(NotFound, match="no queue 'missing"):
        consumer.fetch()


def test_consumer_without_a_queue_says_so(connection):
    with pytest.raises(ConfigurationError, match="needs a queue to receive from"):
        Consumer(connection)


def test_closed_consumer_says_so_and_declare_opens_it_again(feed):
    feed.consumer.close()
    feed.consumer.close()

    for use in (feed.consumer.fetch, feed.consumer.consume, feed.consumer.discard_all):
        with pytest.raises(ChannelError, match=r"closed.*declare"):
            use()
    feed.consumer.declare()
    feed.publisher.send("x")

    assert feed.payloads() == ["x"]


@pytest.mark.needs("deletion")
def test_deleted_queue_ends_the_loop_with_a_clear_error_when_that_is_wanted(feed, connect):
    feed.consumer.raise_on_cancel = True
    feed.consumer.register_callback(acking([]))
    feed.consumer.consume()

    connect().create_backend().queue_delete(feed.queue)

    with pytest.raises(ConsumerCancelled, match=re.escape(f"queue '{feed.queue}'")):
        feed.consumer.wait()
    feed.consumer.declare()
    feed.publisher.send("again")
    assert feed.payloads() == ["again"]


def test_flow_pauses_and_restarts_deliveries(feed):
    received = []
    feed.consumer.register_callback(acking(received))
    feed.consumer.consume()
    feed.consumer.flow(False)
    feed.publisher.send("x")

    with pytest.raises(TimeoutError):
        feed.connection.drain_events(timeout=0.05)
    assert received == []
    feed.consumer.flow(True)
    feed.connection.drain_events(timeout=10)

    assert received == ["x"]


def test_drain_events_serves_consumers_on_several_channels(connection, make_feed):
    feeds = [make_feed() for _ in range(3)]
    received = []
    for number, feed in enumerate(feeds):
        feed.consumer.callbacks = [
            lambda data, message, number=number: (received.append((number, data)), message.ack())
        ]
        feed.consumer.consume()
        feed.publisher.send_many([1, 2])

    for _ in range(6):
        connection.drain_events(timeout=10)

    assert sorted(received) == [(n, d) for n in range(3) for d in (1, 2)]


def test_drain_events_times_out_with_a_socket_timeout(connection):
    import socket

    with pytest.raises(socket.timeout, match=r"0.05 s"):
        connection.drain_events(timeout=0.05)


def test_stop_in_the_last_step_does_not_end_the_next_wait(feed):
    received = []

    def callback(message_data, message):
        received.append(message_data)
        message.ack()
        feed.consumer.stop()

    feed.consumer.register_callback(callback)
    feed.publisher.send_many([1, 2, 3])

    feed.consumer.wait(limit=1)
    feed.consumer.wait(limit=1)

    assert received == [1, 2]


@pytest.mark.needs("inspection")
def test_channel_lost_in_a_callback_ends_the_loop_with_an_error(make_feed, unique):
    feed = make_feed(auto_ack=True)
    feed.connection.reconnect = False

    def callback(message_data, message):
        with suppress(NotFound):
            feed.consumer.backend.queue_purge(unique("missing"))

    feed.consumer.register_callback(callback)
    feed.publisher.send_many([1, 2, 3])

    with pytest.raises(ConnectionLost, match="consume again"):
        feed.consumer.wait()


def test_messages_of_a_connection_that_is_gone_are_not_processed(feed):
    received = []

    def callback(message_data, message):
        received.append(message_data)
        feed.connection.close()

    feed.consumer.register_callback(callback)
    feed.publisher.send_many(range(50))

    with pytest.raises(ConnectionLost):
        feed.consumer.wait()

    assert received == [0]
    feed.connection.connect()
    assert [m.payload for m in feed.consumer.iterqueue()] == list(range(50))


def test_wait_sends_no_more_ahead_than_its_limit(feed):
    feed.consumer.register_callback(acking([]))
    feed.publisher.send_many(range(50))

    for _ in range(10):
        feed.consumer.wait(limit=1)

    # What was sent ahead and not wanted came back, and was marked so.
    redelivered = [message.redelivered for message in feed.consumer.iterqueue()]
    assert len(redelivered) == 40
    assert sum(redelivered) <= 1


@pytest.mark.parametrize("limit", [1.5, "3", True])
def test_limit_that_is_no_whole_number_is_told(feed, limit):
    feed.consumer.register_callback(print)

    with pytest.raises(ConfigurationError, match="whole number"):
        feed.consumer.wait(limit=limit)


def test_closed_consumer_refuses_qos_and_flow(feed):
    feed.consumer.close()

    for use in (lambda: feed.consumer.qos(prefetch_count=5), lambda: feed.consumer.flow(True)):
        with pytest.raises(ChannelError, match="closed"):
            use()
    assert not feed.consumer.backend.is_open


async def coroutine(message_data, message):
    """No callback."""


@pytest.mark.parametrize("callback", [None, "name", coroutine])
def test_what_is_no_callback_is_told(feed, callback):
    with pytest.raises(ConfigurationError, match="plain function"):
        feed.consumer.register_callback(callback)


def test_declare_follows_a_connection_that_was_replaced(feed, connect):
    other = connect()
    feed.consumer.connection = other

    feed.consumer.declare()

    assert feed.consumer.backend.connection is other
    feed.publisher.send("x")
    assert feed.payloads() == ["x"]


@pytest.mark.needs("inspection")
def test_forgotten_consumer_gives_back_what_it_holds(connection, unique):
    queue = unique()
    other = connection.create_backend()
    consumer = Consumer(connection, queue, callbacks=[print])
    consumer.consume()
    Publisher(connection, routing_key=queue).send("x")
    eventually(lambda: other.queue_declare(queue, True, False, False).message_count == 0)
    del consumer
    gc.collect()

    # Its channel is closed when the connection opens the next one.
    assert eventually(Consumer(connection, queue).fetch).redelivered


def test_publishers_that_nobody_closes_do_not_use_up_the_channels(connection, unique):
    queue = unique()
    Consumer(connection, queue)

    for number in range(2100):
        Publisher(connection, routing_key=queue, confirm=False).send(number)

    gc.collect()
    assert Consumer(connection, queue).fetch(no_ack=True).payload == 0
