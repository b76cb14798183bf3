"""Several threads on one connection; one at a time at the broker, each with its own results."""

import threading

import pytest

from carrot.deadline import Deadline
from carrot.exceptions import (
    ConsumerCancelled,
    NotFound,
    OperationTimeout,
    PreconditionFailed,
)
from carrot.messaging import Consumer, Publisher
from tests.threads import run
from tests.waiting import eventually


def lose_queue(consumer, connection):
    """Its queue is deleted over *connection*, and its channel has heard of it."""
    connection.create_backend().queue_delete(consumer.queue)
    with pytest.raises(ConsumerCancelled):
        next_delivery(consumer.backend, 10)


def next_delivery(backend, seconds):
    """The next delivery of a consumer of *backend*, within so many seconds."""
    return backend.consumers.next_delivery(deadline=Deadline.after(seconds))


def hold_and_stop(feed):
    """What its consumer receives; "hold" takes until the event is set, "last" ends the loops."""
    received, go_on = [], threading.Event()

    def receive(data, message):
        message.ack()
        received.append(data)
        if data == "hold":
            go_on.wait(10)
        elif data == "last":
            feed.consumer.stop()

    feed.consumer.register_callback(receive)
    return received, go_on


def subscribe_slowly(monkeypatch, consumer, until):
    """Its subscription waits until that is true; the event says that it has begun."""
    channel, begun = consumer.backend.channel, threading.Event()
    subscribe = channel.subscribe

    def slowly(queue, *args):
        if queue == consumer.queue:
            begun.set()
            eventually(until, 10)
        subscribe(queue, *args)

    monkeypatch.setattr(channel, "subscribe", slowly)
    return begun


def test_threads_publish_confirmed_on_one_connection_while_others_provoke_errors(
    feed, connection, unique
):
    def publish(number):
        with Publisher(connection, feed.exchange, "key") as publisher:
            for message in range(50):
                publisher.send([number, message])

    def provoke():
        for _ in range(10):
            consumer = Consumer(connection, unique("missing"), auto_declare=False)
            try:
                consumer.fetch()
            except NotFound:
                continue
            raise AssertionError("an error went to another thread")

    run(*(lambda n=n: publish(n) for n in range(4)), provoke, provoke)

    assert sorted(feed.payloads()) == [[n, m] for n in range(4) for m in range(50)]


def test_threads_share_a_publisher(feed):
    run(*(lambda n=n: [feed.publisher.send([n, m]) for m in range(25)] for n in range(8)))

    assert sorted(feed.payloads()) == [[n, m] for n in range(8) for m in range(25)]


def test_thread_consumes_while_another_publishes_on_the_same_connection(feed):
    received = []
    feed.consumer.register_callback(lambda data, message: (received.append(data), message.ack()))

    run(
        lambda: feed.consumer.wait(limit=100),
        lambda: [feed.publisher.send(number) for number in range(100)],
    )

    assert received == list(range(100))


def test_threads_consume_from_several_queues_on_one_connection(make_feed):
    feeds = [make_feed() for _ in range(4)]
    received = [[] for _ in feeds]
    for feed, box in zip(feeds, received, strict=True):
        feed.consumer.register_callback(
            lambda data, message, box=box: (box.append(data), message.ack())
        )
        feed.publisher.send_many(range(30))

    run(*(lambda feed=feed: feed.consumer.wait(limit=30) for feed in feeds))

    assert received == [list(range(30))] * 4


def test_threads_fetch_from_one_subscribed_consumer_each_message_once(feed):
    feed.publisher.send_many(range(200))
    feed.consumer.register_callback(print)
    feed.consumer.consume()
    received = []

    def fetch():
        while (message := feed.consumer.fetch(auto_ack=True)) is not None:
            received.append(message.payload)

    run(fetch, fetch, fetch)

    assert sorted(received) == list(range(200))


def test_threads_wait_on_one_consumer_and_share_its_subscription(feed):
    received = []
    feed.consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
    feed.publisher.send_many(range(40))

    run(*(lambda: list(feed.consumer.iterconsume(limit=20)) for _ in range(2)))

    assert sorted(received) == list(range(40))


def test_a_wait_that_ends_leaves_the_subscription_to_another_that_goes_on(feed):
    received, go_on = hold_and_stop(feed)

    def wait_to_the_end():
        feed.consumer.wait()  # begins first, and is told to stop last
        assert received == ["hold", "first", "last"]

    def wait_for_one():
        eventually(lambda: "hold" in received, 10)
        feed.publisher.send("first")
        feed.consumer.wait(limit=1)
        go_on.set()
        feed.publisher.send("last")

    feed.publisher.send("hold")

    run(wait_to_the_end, wait_for_one)

    assert not feed.consumer.channel_open


def test_the_first_wait_leaves_its_subscription_to_those_that_go_on(feed):
    received, has_begun = hold_and_stop(feed)

    def wait_for_one():
        feed.consumer.wait(limit=1)
        feed.publisher.send("last")

    def go_on():
        eventually(lambda: "hold" in received, 10)
        threading.Timer(0, has_begun.set).start()
        feed.consumer.wait(timeout=30)

    feed.publisher.send("hold")

    run(wait_for_one, go_on)

    assert received == ["hold", "last"]


def test_stop_ends_the_loops_of_all_threads_and_no_later_one(feed):
    together = threading.Barrier(4)
    received = []

    def receive(data, message):
        message.ack()
        received.append(data)
        if data == "all":
            together.wait(10)

    def stop():
        together.wait(10)  # when each of the others has a message in hand
        feed.consumer.stop()

    feed.consumer.register_callback(receive)
    feed.publisher.send_many(["all"] * 3)

    run(stop, *(feed.consumer.wait for _ in range(3)))

    feed.publisher.send("later")
    feed.consumer.wait(limit=1, timeout=10)
    assert received == ["all"] * 3 + ["later"]


@pytest.mark.needs("deletion")
def test_who_waits_for_a_consumer_is_told_that_it_is_lost_until_it_is_recovered(
    feed, connection, monkeypatch
):
    backend, topology = feed.consumer.backend, feed.consumer.backend.lives.topology
    restore, told = topology.restore, []

    def restore_slowly(channel):
        # What another thread hears that looks now.
        with pytest.raises(ConsumerCancelled) as cancelled:
            next_delivery(backend, 0)
        told.append(cancelled.value)
        if len(told) == 1:
            raise OperationTimeout("too slow")
        restore(channel)

    feed.consumer.consume()
    lose_queue(feed.consumer, connection)
    monkeypatch.setattr(topology, "restore", restore_slowly)
    with pytest.raises(OperationTimeout):
        feed.consumer.consume()
    with pytest.raises(ConsumerCancelled):
        next_delivery(backend, 0)
    feed.consumer.consume()

    assert len(told) == 2
    feed.publisher.send("found again")
    _, message = next_delivery(backend, 10)
    message.ack()
    assert message.payload == "found again"
    feed.consumer.cancel()
    assert next_delivery(backend, 10) is None


@pytest.mark.needs("deletion")
def test_a_consumer_on_its_way_back_under_its_tag_is_not_there_yet(make_feed, connect, monkeypatch):
    feed = make_feed(no_ack=True)
    channel = feed.consumer.backend.channel
    subscribe, was_there = channel.subscribe, []

    def look(*args):
        subscribe(*args)
        was_there.append(feed.consumer.channel_open)

    feed.consumer.consume()
    lose_queue(feed.consumer, connect())
    monkeypatch.setattr(channel, "subscribe", look)
    feed.consumer.consume()

    assert was_there == [False]
    assert feed.consumer.channel_open


@pytest.mark.needs("deletion")
def test_a_loss_that_comes_as_a_subscription_begins_is_told_to_each_who_waits(
    feed, connect, monkeypatch
):
    backend, channel = feed.consumer.backend, feed.consumer.backend.channel
    subscribe = channel.subscribe

    def subscribe_and_lose(*args):
        subscribe(*args)
        connect().create_backend().queue_delete(feed.queue)

    monkeypatch.setattr(channel, "subscribe", subscribe_and_lose)
    feed.consumer.consume()

    for _ in range(2):
        with pytest.raises(ConsumerCancelled):
            next_delivery(backend, 10)


def test_cancel_while_another_thread_subscribes_ends_that_subscription(feed, monkeypatch):
    consumer = feed.consumer
    backend, channel = consumer.backend, consumer.backend.channel
    subscribe = channel.subscribe
    begun = threading.Event()

    def subscribe_and_stay(*args):
        subscribe(*args)
        begun.set()
        eventually(lambda: consumer._members.is_cancelled, 10)

    def cancel():
        begun.wait(10)
        consumer.cancel()

    consumer.consume()
    consumer.cancel()
    consumer._members.is_cancelled = False
    monkeypatch.setattr(channel, "subscribe", subscribe_and_stay)

    run(consumer.consume, cancel)

    assert not consumer.channel_open
    assert next_delivery(backend, 10) is None


@pytest.mark.needs("deletion")
def test_threads_that_wait_on_one_consumer_go_on_when_its_queue_was_deleted(feed, connect):
    received, ended = [], []

    def work(data, message):
        message.ack()
        received.append(data)

    feed.consumer.register_callback(work)
    feed.consumer.consume()
    over = threading.Event()

    def loop():
        for _ in feed.consumer.iterconsume():
            pass
        ended.append(over.is_set())

    def spoil():
        try:
            with connect() as other:
                publisher = Publisher(other, feed.exchange, "key")
                for number in range(5):
                    tag = feed.consumer.consumer_tag
                    other.create_backend().queue_delete(feed.queue)
                    eventually(lambda tag=tag: feed.consumer.consumer_tag != tag)
                    eventually(lambda: feed.consumer.channel_open)
                    publisher.send(number)
                    eventually(lambda number=number: number in received)
        finally:
            over.set()
            feed.consumer.cancel()

    run(loop, loop, loop, spoil)

    assert ended == [True] * 3


@pytest.fixture
def two_on_a_channel(connection, unique):
    """Two consumers on one channel, and what is received, by queue."""
    received = {}
    with connection.create_backend() as backend:
        consumers = [Consumer(connection, unique("queue"), backend=backend) for _ in range(2)]
        for consumer in consumers:
            received[consumer.queue] = []

            def work(data, message, queue=consumer.queue):
                message.ack()
                received[queue].append(data)

            consumer.register_callback(work)
        yield consumers, received


def spoil_and_send(connect, received, times=5):
    """Delete the queues, and send to each of them when it is there again, so many times."""
    with connect() as other:
        publisher = Publisher(other, "", mandatory=True)
        backend = other.create_backend()
        for number in range(times):
            for queue in received:
                backend.queue_delete(queue)
            for queue in received:
                eventually(lambda queue=queue: backend.queue_exists(queue), 10)
                publisher.send(number, queue)
                eventually(lambda queue=queue, n=number: n in received[queue], 10)


@pytest.mark.needs("deletion")
def test_consumers_that_share_a_channel_are_recovered_by_the_loop_of_one(two_on_a_channel, connect):
    (idle, busy), received = two_on_a_channel

    def spoil():
        try:
            # A loop that begins without its queue is told so, and doesn't declare it.
            eventually(lambda: busy.channel_open, 10)
            spoil_and_send(connect, received)
        finally:
            busy.stop()

    idle.consume()
    run(busy.wait, spoil)

    assert list(received.values()) == [list(range(5))] * 2


@pytest.mark.needs("deletion")
def test_threads_with_a_consumer_each_on_one_channel_go_on_when_the_queues_were_deleted(
    two_on_a_channel, connect
):
    consumers, received = two_on_a_channel

    def spoil():
        try:
            eventually(lambda: all(consumer.channel_open for consumer in consumers), 10)
            spoil_and_send(connect, received)
        finally:
            consumers[0].stop()

    run(*(consumer.wait for consumer in consumers), spoil)

    assert list(received.values()) == [list(range(5))] * 2


def test_stop_ends_the_loop_that_was_subscribing_when_another_heeded_it(
    two_on_a_channel, monkeypatch
):
    (slow, quick), _ = two_on_a_channel
    begun = subscribe_slowly(monkeypatch, slow, lambda: slow.backend.stop_flag.heeded == 1)

    def stop():
        eventually(lambda: quick.channel_open, 10)
        starter.start()
        begun.wait(10)
        quick.stop()

    starter = threading.Thread(target=slow.wait)

    run(quick.wait, stop)
    starter.join(10)

    assert not starter.is_alive()


@pytest.mark.needs("deletion")
def test_a_cancelled_consumer_stays_so_while_another_on_its_channel_is_recovered(
    two_on_a_channel, connect
):
    (gone, there), received = two_on_a_channel
    gone.consume()
    gone.cancel()
    del received[gone.queue]

    def spoil():
        try:
            spoil_and_send(connect, received, 2)
        finally:
            there.stop()

    run(there.wait, spoil)

    assert not gone.channel_open
    assert received[there.queue] == [0, 1]


@pytest.mark.needs("deletion", "inspection")
def test_a_consumer_that_cannot_be_had_again_is_told_once_by_the_loop_of_another(
    two_on_a_channel, connect
):
    (gone, there), received = two_on_a_channel
    gone.consume()
    there.consume()
    lose_queue(gone, connect())
    with connect() as other:
        other.create_backend().queue_declare(gone.queue, False, False, False)

        with pytest.raises(PreconditionFailed, match=gone.queue):
            there.wait(timeout=10)

    Publisher(there.connection, "").send("goes on", there.queue)
    there.wait(limit=1, timeout=10)
    assert received[there.queue] == ["goes on"]


@pytest.mark.needs("deletion", "inspection")
@pytest.mark.parametrize("leave", ["close", "cancel", "raise_on_cancel"])
def test_a_lost_consumer_that_nobody_wants_again_is_left_alone_by_the_loop_of_another(
    two_on_a_channel, connect, leave
):
    (gone, there), received = two_on_a_channel
    gone.consume()
    there.consume()
    lose_queue(gone, connect())
    Publisher(there.connection, "").send("goes on", there.queue)

    if leave == "raise_on_cancel":
        gone.raise_on_cancel = True
    else:
        getattr(gone, leave)()
    there.wait(limit=1, timeout=10)

    assert received == {gone.queue: [], there.queue: ["goes on"]}
    assert not gone.channel_open
    assert not there.backend.queue_exists(gone.queue)


@pytest.mark.needs("deletion", "inspection")
def test_cancel_while_the_loop_of_another_has_a_consumer_back_ends_it(
    two_on_a_channel, connect, monkeypatch
):
    (gone, there), _ = two_on_a_channel
    gone.consume()
    there.consume()
    lose_queue(gone, connect())
    begun = subscribe_slowly(monkeypatch, gone, lambda: gone._members.is_cancelled)

    def cancel():
        begun.wait(10)
        gone.cancel()
        there.stop()

    run(lambda: there.wait(timeout=30), cancel)

    assert not gone.channel_open


@pytest.mark.needs("deletion", "inspection")
def test_a_loss_that_nobody_waits_for_ends_no_loop_and_starts_none(two_on_a_channel, connect):
    (gone, there), received = two_on_a_channel
    there.consume()
    there.backend.life.consumer_cancelled(gone.consumer_tag)
    Publisher(there.connection, "").send("goes on", there.queue)

    there.wait(limit=1, timeout=10)
    there.cancel()

    assert received[there.queue] == ["goes on"]
    assert next_delivery(there.backend, 10) is None
