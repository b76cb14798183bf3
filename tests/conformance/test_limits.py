"""What queues do by themselves: prefetch limits, priorities, lengths, expiry, dead letters."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest

from carrot.messaging import Consumer
from tests.waiting import eventually


def hold(held):
    return lambda data, message: held.append(message)


def arrived(feed, held, count):
    """Take in deliveries until *count* are held, and see that no more come."""
    while len(held) < count:
        feed.connection.drain_events(timeout=10)
    with pytest.raises(TimeoutError):
        feed.connection.drain_events(timeout=0.05)
    return [message.payload for message in held]


# -- prefetch


@pytest.mark.needs("requeue_in_place")
def test_prefetch_limits_what_is_delivered_and_not_settled(make_feed):
    feed = make_feed(prefetch_count=2)
    held = []
    feed.consumer.register_callback(hold(held))
    feed.consumer.consume()
    feed.publisher.send_many(range(5))

    assert arrived(feed, held, 2) == [0, 1]
    held[0].ack()
    assert arrived(feed, held, 3) == [0, 1, 2]
    held[1].requeue()
    assert arrived(feed, held, 4) == [0, 1, 2, 1]


def test_prefetch_is_100_by_default(feed):
    held = []
    feed.consumer.register_callback(hold(held))
    feed.consumer.consume()
    feed.publisher.send_many(range(120))

    assert len(arrived(feed, held, 100)) == 100


def test_no_prefetch_limit_with_0(make_feed):
    feed = make_feed(prefetch_count=0)
    held = []
    feed.consumer.register_callback(hold(held))
    feed.consumer.consume()
    feed.publisher.send_many(range(120))

    assert len(arrived(feed, held, 120)) == 120


def test_no_ack_knows_no_prefetch_limit(make_feed):
    feed = make_feed(prefetch_count=1, no_ack=True)
    held = []
    feed.consumer.register_callback(hold(held))
    feed.consumer.consume()
    feed.publisher.send_many(range(10))

    assert arrived(feed, held, 10) == list(range(10))


def test_qos_before_consuming_counts(feed):
    held = []
    feed.consumer.register_callback(hold(held))
    feed.consumer.qos(prefetch_count=1)
    feed.consumer.consume()
    feed.publisher.send_many(range(3))

    assert arrived(feed, held, 1) == [0]


@pytest.mark.needs("global_prefetch")
def test_global_qos_limits_the_channel_together(make_feed, connection):
    feed = make_feed(prefetch_count=0)
    held = []
    second = Consumer(
        connection, feed.queue, backend=feed.consumer.backend, callbacks=[hold(held)],
        prefetch_count=0,
    )  # fmt: skip
    feed.consumer.register_callback(hold(held))
    feed.consumer.qos(prefetch_count=3, apply_global=True)
    feed.consumer.consume()
    second.consume()
    feed.publisher.send_many(range(8))

    assert len(arrived(feed, held, 3)) == 3


# -- priorities


@pytest.mark.needs("arguments")
def test_higher_priorities_come_first_and_equal_ones_in_order(make_feed):
    feed = make_feed(queue_arguments={"x-max-priority": 5})
    for number, priority in enumerate([0, 5, 1, 9, None, 5]):
        feed.publisher.send(number, priority=priority)

    assert feed.payloads() == [1, 3, 5, 2, 0, 4]


# -- lengths


@pytest.mark.needs("max_length")
def test_full_queue_drops_from_the_head(make_feed):
    feed = make_feed(queue_arguments={"x-max-length": 3})

    feed.publisher.send_many(range(5))

    assert feed.payloads() == [2, 3, 4]


@pytest.mark.needs("max_length")
def test_length_in_bytes_counts_too(make_feed):
    feed = make_feed(queue_arguments={"x-max-length-bytes": 25})

    feed.publisher.send_many([b"a" * 10, b"b" * 10, b"c" * 10])

    assert [payload[:1] for payload in feed.payloads()] == [b"b", b"c"]


# -- expiry


@pytest.mark.needs("inspection")
def test_message_expires_after_its_seconds(feed):
    feed.publisher.send("short", expiration=0.05)
    feed.publisher.send("long", expiration=60)

    eventually(lambda: feed.consumer.backend.queue_declare(
        feed.queue, True, False, False).message_count == 1)  # fmt: skip
    message = feed.consumer.fetch(auto_ack=True)

    assert message.payload == "long"
    assert message.properties["expiration"] == "60000"


@pytest.mark.needs("arguments")
def test_queue_expires_its_messages(make_feed):
    feed = make_feed(queue_arguments={"x-message-ttl": 50})
    feed.publisher.send_many([1, 2, 3])

    eventually(lambda: feed.consumer.fetch(auto_ack=True) is None)


@pytest.mark.needs("arguments")
def test_unused_queue_expires(make_feed, connection):
    feed = make_feed(queue_arguments={"x-expires": 100})
    backend = connection.create_backend()

    def gone():
        # To ask for a queue is to use it, so ask seldom.
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.25)
        return not backend.queue_exists(feed.queue)

    eventually(gone)


# -- dead letters


@pytest.fixture
def dead(connection, unique):
    """The queue of dead letters, bound to an exchange of its own."""
    return Consumer(connection, unique("dead"), unique("dead"), exchange_type="fanout")


@pytest.mark.needs("dead_letters")
def test_rejected_message_becomes_a_dead_letter_that_says_why(make_feed, dead):
    feed = make_feed(queue_arguments={"x-dead-letter-exchange": dead.exchange})
    feed.publisher.send("bad", headers={"mine": 1})

    feed.consumer.fetch().reject()

    letter = eventually(lambda: dead.fetch(auto_ack=True))
    assert letter.payload == "bad"
    assert letter.headers["mine"] == 1
    assert letter.headers["x-first-death-reason"] == "rejected"
    assert letter.headers["x-first-death-queue"] == feed.queue
    assert letter.headers["x-first-death-exchange"] == feed.exchange
    (death,) = letter.headers["x-death"]
    age = datetime.now(UTC) - death.pop("time")
    assert abs(age.total_seconds()) < 60
    assert death == {
        "count": 1,
        "reason": "rejected",
        "queue": feed.queue,
        "exchange": feed.exchange,
        "routing-keys": ["key"],
    }
    assert letter.delivery_info["exchange"] == dead.exchange
    assert letter.delivery_info["routing_key"] == "key"


@pytest.mark.needs("dead_letters")
def test_expired_message_becomes_a_dead_letter_without_its_expiration(make_feed, dead):
    feed = make_feed(queue_arguments={"x-dead-letter-exchange": dead.exchange})
    feed.publisher.send("late", expiration=0.02)

    letter = eventually(lambda: dead.fetch(auto_ack=True))

    assert "expiration" not in letter.properties
    (death,) = letter.headers["x-death"]
    assert death["reason"] == "expired"
    assert death["original-expiration"] == "20"


@pytest.mark.needs("dead_letters")
def test_waiting_consumer_of_dead_letters_gets_them_when_they_expire(make_feed, dead):
    feed = make_feed(queue_arguments={"x-dead-letter-exchange": dead.exchange, "x-message-ttl": 50})
    received = []
    dead.register_callback(lambda data, message: (received.append(data), message.ack()))
    dead.consume()
    feed.publisher.send("tick")

    feed.connection.drain_events(timeout=10)

    assert received == ["tick"]


@pytest.mark.needs("dead_letters")
def test_dropped_head_becomes_a_dead_letter(make_feed, dead):
    feed = make_feed(queue_arguments={"x-dead-letter-exchange": dead.exchange, "x-max-length": 1})
    feed.publisher.send_many([1, 2])

    letter = eventually(lambda: dead.fetch(auto_ack=True))

    assert letter.payload == 1
    assert letter.headers["x-death"][0]["reason"] == "maxlen"


@pytest.mark.needs("dead_letters")
def test_dead_letter_routing_key_replaces_the_messages_own(make_feed, connection, unique):
    parking = Consumer(connection, unique("parking"))
    feed = make_feed(
        queue_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": parking.queue}
    )
    feed.publisher.send("park me")

    feed.consumer.fetch().reject()

    letter = eventually(lambda: parking.fetch(auto_ack=True))
    assert letter.payload == "park me"
    assert letter.headers["x-death"][0]["routing-keys"] == ["key"]


@pytest.mark.needs("dead_letters")
def test_retry_queue_counts_its_deaths(make_feed, connection, unique):
    """The usual retry: reject to a queue that gives the message back when it has expired."""
    work, retry = unique("work"), unique("retry")
    back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": work, "x-message-ttl": 10}
    Consumer(connection, retry, queue_arguments=back)
    away = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": retry}
    feed = make_feed(queue=work, queue_arguments=away)
    feed.publisher.send("try")

    for _ in range(2):
        eventually(feed.consumer.fetch).reject()
    message = eventually(feed.consumer.fetch)

    deaths = {(d["queue"], d["reason"]): d["count"] for d in message.headers["x-death"]}
    assert deaths == {(work, "rejected"): 2, (retry, "expired"): 2}
    message.ack()


@pytest.mark.needs("dead_letters")
def test_message_that_would_go_round_for_ever_is_dropped(connection, make_feed, unique):
    queue = unique("circle")
    feed = make_feed(
        queue=queue,
        queue_arguments={
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
            "x-message-ttl": 20,
        },
    )
    feed.publisher.send("round")

    eventually(lambda: feed.consumer.backend.queue_declare(
        queue, True, False, False,
        arguments=feed.consumer.queue_arguments).message_count == 0)  # fmt: skip
