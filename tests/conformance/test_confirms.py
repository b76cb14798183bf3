"""A returned send() means that the broker has the message."""

import pytest

from carrot.exceptions import ConnectionLost, Nacked, NotFound, PublishError, Unroutable
from carrot.messaging import Consumer, Publisher


@pytest.mark.needs("mandatory")
def test_mandatory_message_without_a_queue_is_unroutable(feed):
    with pytest.raises(Unroutable, match=r"'nowhere'.*bind a queue") as caught:
        feed.publisher.send({"lost": True}, routing_key="nowhere", mandatory=True)

    (message,) = caught.value.messages
    assert message.payload == {"lost": True}


@pytest.mark.needs("mandatory")
def test_publisher_goes_on_working_after_an_unroutable_message(feed):
    for _ in range(3):
        with pytest.raises(Unroutable):
            feed.publisher.send("x", routing_key="nowhere", mandatory=True)
        feed.publisher.send("y", mandatory=True)

    assert feed.payloads() == ["y"] * 3


@pytest.mark.needs("mandatory")
def test_a_refused_message_is_logged_without_its_body(feed, caplog):
    with pytest.raises(Unroutable):
        feed.publisher.send("a secret", routing_key="nowhere", mandatory=True)

    [told] = [record for record in caplog.records if "was refused" in record.getMessage()]
    assert (told.levelname, told.exchange) == ("WARNING", feed.exchange)
    assert "'nowhere'" in told.getMessage()
    assert "a secret" not in told.getMessage()


@pytest.mark.needs("mandatory")
def test_mandatory_counts_without_confirms_too(feed, connection):
    with Publisher(connection, feed.exchange, confirm=False, mandatory=True) as publisher:
        with pytest.raises(Unroutable):
            publisher.send("x", routing_key="nowhere")
        publisher.send("y", routing_key="key")

    assert feed.payloads() == ["y"]


def test_message_that_is_not_mandatory_disappears_without_a_queue(feed):
    feed.publisher.send("x", routing_key="nowhere")

    assert feed.payloads() == []


@pytest.mark.needs("mandatory")
def test_send_many_names_all_that_were_unroutable_after_sending_the_rest(feed):
    publisher = feed.publisher
    publisher.confirm_window = 4

    with pytest.raises(Unroutable, match="more") as caught:
        publisher.send_many(["a", "b", "c", "d", "e"], routing_key="nowhere", mandatory=True)

    assert [message.payload for message in caught.value.messages] == ["a", "b", "c", "d", "e"]
    publisher.send("f")
    assert feed.payloads() == ["f"]


@pytest.mark.needs("max_length")
def test_full_queue_that_rejects_is_a_nack(make_feed):
    feed = make_feed(queue_arguments={"x-max-length": 2, "x-overflow": "reject-publish"})

    feed.publisher.send_many([1, 2])
    with pytest.raises(Nacked) as caught:
        feed.publisher.send(3)

    assert [message.payload for message in caught.value.messages] == [3]
    assert feed.payloads() == [1, 2]
    feed.publisher.send(4)
    assert feed.payloads() == [4]


@pytest.mark.needs("mandatory")
def test_both_failures_are_publish_errors(feed):
    with pytest.raises(PublishError):
        feed.publisher.send("x", routing_key="nowhere", mandatory=True)


@pytest.mark.needs("mandatory")
def test_confirms_of_two_publishers_do_not_mix(feed, connection):
    with Publisher(connection, feed.exchange, "key") as other:
        for number in range(20):
            feed.publisher.send(number)
            with pytest.raises(Unroutable):
                other.send(number, routing_key="nowhere", mandatory=True)

    assert feed.payloads() == list(range(20))


@pytest.mark.needs("inspection")
def test_a_message_whose_channel_was_closed_meanwhile_is_never_taken_for_confirmed(
    feed, connection, unique
):
    backend = connection.create_backend()
    backend.confirm_select()
    message = backend.prepare_message(b"lost", 1)
    try:
        number = backend.publish(message, unique("missing"), "")
    except NotFound:
        return  # this broker answers at once
    # Somebody else takes the broker's objection, and opens the channel again.
    with pytest.raises(NotFound):
        connection.drain_events(timeout=10)
    backend.queue_purge(feed.queue)

    with pytest.raises((ConnectionLost, NotFound)):
        backend.wait_for_confirms((number,), 10)
    backend.close()


@pytest.mark.needs("inspection")
def test_messages_stay_confirmed_on_the_channel_that_replaces_a_lost_one(feed, connection, unique):
    feed.publisher.send("before")
    connection.close()
    connection.connect()

    with pytest.raises(NotFound):
        feed.publisher.send("lost", exchange=unique("missing"))
    feed.publisher.send("after")

    assert feed.payloads() == ["before", "after"]


@pytest.mark.needs("headers_exchange")
def test_return_is_of_the_message_with_those_headers(connection, unique):
    exchange = unique()
    consumer = Consumer(connection, unique(), exchange, {"n": 1}, exchange_type="headers")
    publisher = Publisher(connection, exchange, exchange_type="headers", mandatory=True)

    publisher.send("same", headers={"n": 1})
    with pytest.raises(Unroutable) as caught:
        publisher.send("same", headers={"n": 2})

    assert [message.headers for message in caught.value.messages] == [{"n": 2}]
    assert consumer.fetch(auto_ack=True).payload == "same"
