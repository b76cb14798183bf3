"""Messaging: a publisher and a consumer in one."""

import pytest

from carrot.messaging import Consumer, Messaging, Publisher


@pytest.fixture
def names(unique):
    return {"queue": unique("queue"), "exchange": unique("exchange"), "routing_key": "key"}


def test_what_it_sends_it_can_fetch(connection, names):
    with Messaging(connection, **names) as messaging:
        messaging.send({"a": 1})
        messaging.send("x", delivery_mode="transient", headers={"h": 1})

        first, second = messaging.fetch(auto_ack=True), messaging.fetch(auto_ack=True)

    assert first.payload == {"a": 1}
    assert (second.properties["delivery_mode"], second.headers) == (1, {"h": 1})


def test_it_shows_its_queue_and_its_exchange(connection, names):
    with Messaging(connection, **names) as messaging:
        shown = repr(messaging)

    assert f"queue={names['queue']!r} exchange={names['exchange']!r}" in shown


def test_callbacks_run_when_enabled(connection, names):
    received = []
    with Messaging(connection, **names) as messaging:
        messaging.register_callback(lambda data, message: received.append(data))
        messaging.send("x")

        messaging.fetch(auto_ack=True, enable_callbacks=True)

    assert received == ["x"]


def test_subclass_receives_and_configures(connection, names):
    class Sender(Publisher):
        delivery_mode = "transient"

    class Receiver(Consumer):
        prefetch_count = 1

    class Chat(Messaging):
        queue, exchange, routing_key = names.values()
        publisher_cls, consumer_cls = Sender, Receiver

        def receive(self, message_data, message):
            self.received = message_data, message.properties["delivery_mode"]
            message.ack()

    chat = Chat(connection)
    chat.send("x")
    chat.consumer.wait(limit=1)
    chat.close()

    assert chat.received == ("x", 1)
    assert isinstance(chat.consumer, Receiver)


def test_without_callbacks_it_says_what_to_do(connection, names):
    with Messaging(connection, **names) as messaging:
        messaging.send("x")

        with pytest.raises(NotImplementedError, match="register_callback"):
            messaging.fetch(enable_callbacks=True)


def test_one_backend_can_serve_both(connection, names):
    backend = connection.create_backend()
    with Messaging(connection, backend=backend, **names) as messaging:
        assert messaging.publisher.backend is messaging.consumer.backend is backend

        messaging.send("x")

        assert messaging.fetch(auto_ack=True).payload == "x"
    backend.close()


def test_waits_and_can_be_stopped(connection, names):
    received = []
    with Messaging(connection, **names) as messaging:
        messaging.register_callback(
            lambda data, message: (received.append(data), message.ack(), messaging.stop())
        )
        messaging.send("x")
        messaging.wait()
        messaging.send("y")
        messaging.wait(limit=1, timeout=10)

    assert received == ["x", "y"]


def test_acks_nothing_that_nobody_receives(connection, names):
    with Messaging(connection, **names) as messaging:
        messaging.send("x")
        with pytest.raises(NotImplementedError):
            messaging.fetch(auto_ack=True, enable_callbacks=True)
        messaging.consumer.close()
        messaging.consumer.declare()

        assert messaging.fetch(auto_ack=True).payload == "x"


def test_its_callbacks_come_before_the_consumers_own(connection, names):
    class Own(Consumer):
        def receive(self, message_data, message):
            received.append(("consumer", message_data))
            message.ack()

    class Chat(Messaging):
        consumer_cls = Own

    received = []
    with Chat(connection, **names) as messaging:
        messaging.send("x")
        messaging.wait(limit=1)
        messaging.register_callback(
            lambda data, message: (received.append(("messaging", data)), message.ack())
        )
        messaging.send("y")
        messaging.wait(limit=1)

    assert received == [("consumer", "x"), ("messaging", "y")]
