"""ack, reject, requeue: once each, from any thread, on the channel that delivered."""

import threading

import pytest

from carrot.exceptions import ConnectionLost, MessageStateError, PreconditionFailed
from carrot.messaging import Consumer


def test_acked_message_is_gone(feed):
    feed.publisher.send("x")
    feed.consumer.fetch().ack()
    feed.consumer.close()
    feed.consumer.declare()

    assert feed.consumer.fetch() is None


def test_rejected_message_is_not_redelivered(feed):
    feed.publisher.send("x")
    feed.consumer.fetch().reject()
    feed.consumer.close()
    feed.consumer.declare()

    assert feed.consumer.fetch() is None


@pytest.mark.needs("requeue_in_place")
def test_requeued_message_is_redelivered_at_its_old_place(feed):
    feed.publisher.send_many([1, 2, 3])
    first, second = feed.consumer.fetch(), feed.consumer.fetch()

    second.requeue()
    first.requeue()

    again = list(feed.consumer.iterqueue())
    assert [message.payload for message in again] == [1, 2, 3]
    assert [message.redelivered for message in again] == [True, True, False]


@pytest.mark.needs("requeue_in_place")
def test_unsettled_messages_come_back_in_order(feed, connection):
    feed.publisher.send_many(range(10))
    messages = list(feed.consumer.iterqueue(limit=6))
    messages[2].ack()
    feed.consumer.close()

    rest = [m.payload for m in Consumer(connection, feed.queue, auto_ack=True).iterqueue()]

    assert rest == [0, 1, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("first", ["ack", "reject", "requeue"])
@pytest.mark.parametrize("second", ["ack", "reject", "requeue"])
def test_settling_twice_says_how_it_was_settled_before(feed, first, second):
    feed.publisher.send("x")
    message = feed.consumer.fetch()
    getattr(message, first)()
    past = {"ack": "acked", "reject": "rejected", "requeue": "requeued"}

    with pytest.raises(MessageStateError, match=f"can't be {past[second]}: it was {past[first]}"):
        getattr(message, second)()

    feed.consumer.discard_all()
    feed.publisher.send("the channel still works")
    assert feed.payloads() == ["the channel still works"]


def test_state_is_what_old_programs_look_at(feed):
    feed.publisher.send_many(range(3))
    acked, rejected, requeued = list(feed.consumer.iterqueue())
    assert acked._state == "RECEIVED"

    acked.ack()
    rejected.reject()
    requeued.requeue()

    assert [m._state for m in (acked, rejected, requeued)] == ["ACK", "REJECTED", "REQUEUED"]


def test_message_delivered_with_no_ack_needs_no_settling(make_feed):
    feed = make_feed(no_ack=True)
    feed.publisher.send("x")
    message = feed.consumer.fetch()

    with pytest.raises(MessageStateError, match="no_ack"):
        message.ack()

    assert feed.consumer.fetch() is None


def test_ack_from_another_thread_while_the_consumer_waits(feed):
    acked = threading.Event()

    def ack(message):
        message.ack()
        acked.set()

    def callback(message_data, message):
        if message_data == "first":
            threading.Thread(target=ack, args=(message,)).start()
        else:
            message.ack()

    feed.consumer.qos(prefetch_count=1)
    feed.consumer.register_callback(callback)
    feed.publisher.send_many(["first", "second"])

    # The second only comes when the first was acked, while wait() is waiting.
    feed.consumer.wait(limit=2)

    assert acked.is_set()


def test_two_threads_cannot_both_settle_a_message(feed):
    feed.publisher.send_many(range(20))
    for message in list(feed.consumer.iterqueue()):
        outcomes = []
        barrier = threading.Barrier(2)

        def settle(message=message, outcomes=outcomes, barrier=barrier):
            barrier.wait(10)
            try:
                message.ack()
                outcomes.append("acked")
            except MessageStateError:
                outcomes.append("refused")

        threads = [threading.Thread(target=settle) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

        assert sorted(outcomes) == ["acked", "refused"]
    assert feed.consumer.fetch() is None


def test_settling_on_a_closed_connection_is_connection_lost_and_changes_nothing(feed, connect):
    feed.publisher.send("x")
    message = feed.consumer.fetch()
    feed.connection.close()

    with pytest.raises(ConnectionLost, match="redeliver"):
        message.ack()

    assert not message.acknowledged
    again = Consumer(connect(), feed.queue).fetch(no_ack=True)
    assert again.redelivered


def test_settling_on_an_earlier_connection_never_acks_a_strangers_tag(feed):
    feed.publisher.send_many([1, 2])
    old = feed.consumer.fetch()
    feed.connection.close()
    feed.connection.connect()
    new = feed.consumer.fetch()
    assert (old.payload, new.payload) == (1, 1)

    with pytest.raises(ConnectionLost, match="earlier connection"):
        old.ack()

    new.requeue()
    assert feed.payloads() == [1, 2]


def test_unknown_delivery_tag_is_told_to_its_own_channel(feed):
    backend = feed.consumer.backend

    # The broker answers with a channel error, which the channel's next use meets.
    with pytest.raises(PreconditionFailed, match="delivery tag 99"):
        backend.ack(99)
        backend.queue_purge(feed.queue)

    feed.publisher.send("x")
    assert feed.payloads() == ["x"]


def test_ack_multiple_settles_all_before_it(feed):
    feed.publisher.send_many(range(4))
    messages = list(feed.consumer.iterqueue())

    feed.consumer.backend.ack(messages[2].delivery_tag, multiple=True)
    feed.consumer.close()
    feed.consumer.declare()

    assert feed.payloads() == [3]
