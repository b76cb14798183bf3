"""Several queues in one loop."""

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import ConfigurationError, ConsumerNotFound, DecodeError
from carrot.messaging import Consumer, ConsumerSet, Publisher


class Desk:
    """An exchange, a set with one consumer for each of its keys, and what it received."""

    def __init__(self, connection, unique, keys, **options):
        self.connection = connection
        self.exchange = unique("exchange")
        self.queues = {key: unique(key) for key in keys}
        self.received = []
        self.set = ConsumerSet(
            connection,
            from_dict={
                queue: {"exchange": self.exchange, "routing_key": key}
                for key, queue in self.queues.items()
            },
            **options,
        )
        self.publisher = Publisher(connection, self.exchange)

    def callback(self, message_data, message):
        self.received.append(message_data)
        if not message.acknowledged:
            message.ack()

    def left(self, key):
        with Consumer(self.connection, self.queues[key], auto_ack=True) as consumer:
            return [message.payload for message in consumer.iterqueue()]


@pytest.fixture
def make_desk(connection, unique):
    desks = []

    def make(*keys, **options):
        desks.append(Desk(connection, unique, keys, **options))
        return desks[-1]

    yield make
    for desk in desks:
        desk.set.close()


def test_messages_of_all_queues_come_through_one_loop(make_desk):
    desk = make_desk("a", "b", "c")
    desk.set.register_callback(desk.callback)
    for key in ("a", "b", "c", "b"):
        desk.publisher.send(key, routing_key=key)

    desk.set.wait(limit=4)

    assert sorted(desk.received) == ["a", "b", "b", "c"]


def test_iterconsume_yields_once_per_message(make_desk):
    desk = make_desk("a", "b")
    desk.set.register_callback(desk.callback)
    loop = desk.set.iterconsume()

    for key in ("a", "b", "a"):
        desk.publisher.send(key, routing_key=key)
        assert next(loop) is True
        assert desk.received[-1] == key


def test_a_consumers_own_callbacks_come_first(make_desk, connection, unique):
    desk = make_desk("a")
    own = []
    with_callback = Consumer(
        connection, unique(), desk.exchange, "own",
        callbacks=[lambda data, message: (own.append(data), message.ack())],
    )  # fmt: skip

    class WithReceive(Consumer):
        def receive(self, message_data, message):
            own.append(message_data)
            message.ack()

    desk.set.add_consumer(with_callback)
    desk.set.add_consumer(WithReceive(connection, unique(), desk.exchange, "class"))
    desk.set.register_callback(desk.callback)
    for key in ("a", "own", "class"):
        desk.publisher.send(key, routing_key=key)

    desk.set.wait(limit=3)

    assert desk.received == ["a"]
    assert sorted(own) == ["class", "own"]


def test_subclass_receives_for_all(connection, unique):
    class Inbox(ConsumerSet):
        def receive(self, message_data, message):
            self.got = message_data
            message.ack()

    queue = unique()
    with Inbox(connection, {queue: {}}) as inbox:
        Publisher(connection, routing_key=queue).send("x")
        inbox.wait(limit=1)

        assert inbox.got == "x"


def test_set_without_callbacks_says_what_to_do_and_loses_nothing(make_desk):
    desk = make_desk("a", auto_ack=True)
    desk.publisher.send("kept", routing_key="a")

    with pytest.raises(NotImplementedError, match="register_callback"):
        desk.set.wait(limit=1)
    desk.set.close()

    assert desk.left("a") == ["kept"]


def test_auto_ack_of_the_set_counts_for_all(make_desk):
    desk = make_desk("a", auto_ack=True)
    states = []
    desk.set.register_callback(lambda data, message: states.append(message._state))
    desk.publisher.send("x", routing_key="a")

    desk.set.wait(limit=1)

    assert states == ["ACK"]


def test_consumers_can_be_added_while_it_runs(make_desk, unique):
    desk = make_desk("a")

    def callback(message_data, message):
        desk.callback(message_data, message)
        if message_data == "first":
            desk.set.add_consumer_from_dict(unique(), exchange=desk.exchange, binding_key="new")
            desk.publisher.send("second", routing_key="new")

    desk.set.register_callback(callback)
    desk.publisher.send("first", routing_key="a")

    desk.set.wait(limit=2)

    assert desk.received == ["first", "second"]


def test_consumers_appended_to_the_list_are_subscribed_by_the_next_consume(
    make_desk, connection, unique
):
    desk = make_desk("a")
    desk.set.register_callback(desk.callback)
    desk.set.consume()
    desk.set.consumers.append(Consumer(connection, unique(), desk.exchange, "late"))

    desk.set.consume()
    for key in ("a", "late"):
        desk.publisher.send(key, routing_key=key)
    for _ in range(2):
        connection.drain_events(timeout=10)

    assert sorted(desk.received) == ["a", "late"]


def test_cancel_by_queue_removes_the_consumer_while_it_runs(make_desk):
    desk = make_desk("a", "b")

    def callback(message_data, message):
        desk.callback(message_data, message)
        desk.set.cancel_by_queue(desk.queues["a"])
        desk.publisher.send("not for us", routing_key="a")
        desk.publisher.send("for us", routing_key="b")
        desk.set.callbacks = [desk.callback]

    desk.set.register_callback(callback)
    desk.publisher.send("first", routing_key="a")

    desk.set.wait(limit=2)

    assert desk.received == ["first", "for us"]
    assert desk.left("a") == ["not for us"]


def test_cancelling_an_unknown_queue_is_a_key_error_that_says_what_there_is(make_desk):
    desk = make_desk("a")

    with pytest.raises(ConsumerNotFound, match="no consumer of queue 'nope'; it has 'a"):
        desk.set.cancel_by_queue("nope")
    with pytest.raises(KeyError):
        desk.set.cancel_by_queue("nope")


def test_empty_set_has_nothing_to_wait_for(connection):
    with ConsumerSet(connection) as nothing:
        nothing.consume()
        assert list(nothing.iterconsume()) == []
        assert nothing.wait(limit=1) is None
        assert nothing.discard_all() == 0


def test_removing_the_last_consumer_ends_the_loop(make_desk):
    desk = make_desk("a")

    def callback(message_data, message):
        desk.callback(message_data, message)
        desk.set.cancel_by_queue(desk.queues["a"])

    desk.set.register_callback(callback)
    desk.publisher.send("x", routing_key="a")

    desk.set.wait()

    assert desk.received == ["x"]


def test_stop_ends_the_loop(make_desk):
    desk = make_desk("a")
    desk.set.register_callback(lambda data, message: (message.ack(), desk.set.stop()))
    desk.publisher.send_many(["x", "y"], routing_key="a")

    desk.set.wait()

    assert desk.left("a") == ["y"]


def test_discard_all_counts_all_queues(make_desk):
    desk = make_desk("a", "b")
    desk.publisher.send_many(range(3), routing_key="a")
    desk.publisher.send_many(range(4), routing_key="b")

    assert desk.set.discard_all() == 7


def test_qos_and_flow_of_the_set(make_desk, connection):
    desk = make_desk("a", "b")
    held = []
    desk.set.register_callback(lambda data, message: held.append(message))
    desk.set.qos(prefetch_count=1)
    desk.set.consume()
    desk.set.flow(False)
    for key in ("a", "b"):
        desk.publisher.send_many(range(3), routing_key=key)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)

    desk.set.flow(True)
    for _ in range(2):
        connection.drain_events(timeout=10)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)

    assert len(held) == 2


def test_on_decode_error_of_the_set(make_desk):
    errors = []
    desk = make_desk("a", on_decode_error=lambda m, exc: (errors.append(exc), m.reject()))
    desk.set.register_callback(desk.callback)
    desk.publisher.send(b"{", routing_key="a", content_type="application/json")
    desk.publisher.send("fine", routing_key="a")

    desk.set.wait(limit=2)

    assert [type(error) for error in errors] == [DecodeError]
    assert desk.received == ["fine"]


def test_cancel_returns_what_was_sent_ahead_and_consume_goes_on(make_desk):
    desk = make_desk("a")
    desk.set.register_callback(desk.callback)
    desk.publisher.send_many([1, 2, 3], routing_key="a")
    next(desk.set.iterconsume())
    desk.set.cancel()

    desk.set.wait(limit=2)

    assert desk.received == [1, 2, 3]


def test_configurations_of_old_programs_are_understood(connection, unique):
    queue, exchange = unique("video"), unique("jobs")
    configuration = {
        "ignored": {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": "topic",
            "binding_key": "video.#",
            "default_routing_key": "video.new",
        }
    }
    received = []
    with ConsumerSet(connection, from_dict=configuration, callbacks=[
        lambda data, message: (received.append(data), message.ack())
    ]) as consumers:  # fmt: skip
        Publisher(connection, exchange, "video.new", exchange_type="topic").send("v")
        consumers.wait(limit=1)

    assert received == ["v"]
    assert configuration["ignored"]["queue"] == queue


@pytest.mark.parametrize("odd", [Consumer, "queue"])
def test_what_is_no_consumer_is_refused_and_the_set_can_be_closed(connection, odd):
    with (
        ConsumerSet(connection) as consumers,
        pytest.raises(ConfigurationError, match="takes Consumer objects"),
    ):
        consumers.add_consumer(odd)


def test_consumer_of_another_broker_is_refused(connection):
    with (
        ConsumerSet(connection) as consumers,
        Consumer(BrokerConnection("memory://elsewhere/other"), "feed", auto_declare=False) as other,
        pytest.raises(ConfigurationError, match="of another connection"),
    ):
        consumers.add_consumer(other)


def test_an_option_that_nobody_knows_is_told_with_its_queue(connection, unique):
    queue = unique("queue")
    with pytest.raises(TypeError, match="exchnage") as caught:
        ConsumerSet(connection, from_dict={queue: {"exchnage": "typo"}})

    assert caught.value.__notes__ == [f"That is said of the options of queue {queue!r}."]


@pytest.mark.needs("auto_delete")
def test_consumer_whose_queue_goes_as_it_moves_is_declared_again(connection, unique):
    consumer = Consumer(connection, unique(), auto_delete=True)
    consumer.consume()
    received = []
    desk = ConsumerSet(connection, consumers=[consumer])
    desk.register_callback(lambda data, message: (received.append(data), message.ack()))
    desk.consume()
    Publisher(connection, routing_key=consumer.queue).send("x")
    desk.wait(limit=1, timeout=10)
    desk.close()

    assert received == ["x"]


def test_prefetch_count_that_cant_be_is_refused_and_the_set_goes_on(make_desk):
    desk = make_desk("a")
    desk.set.register_callback(desk.callback)
    with pytest.raises(ConfigurationError, match="prefetch_count must be"):
        desk.set.qos(prefetch_count=70_000)

    desk.publisher.send("x", routing_key="a")
    desk.set.wait(limit=1)

    assert desk.received == ["x"]


def test_consumer_that_joins_on_a_new_connection_leaves_no_other_behind(
    make_desk, connection, unique
):
    desk = make_desk("a", "b")
    joining = unique()

    def callback(message_data, message):
        desk.callback(message_data, message)
        if message_data == "first":
            # As if the connection were lost, and made again by somebody who sends.
            connection.connection.close()
            desk.publisher.send("second", routing_key="b")
            desk.set.add_consumer_from_dict(joining, exchange=desk.exchange, routing_key="c")
            desk.publisher.send("third", routing_key="c")

    desk.set.register_callback(callback)
    desk.set.consume()
    desk.publisher.send("first", routing_key="a")

    desk.set.wait(limit=3, timeout=20)

    assert sorted(set(desk.received)) == ["first", "second", "third"]
