"""A bad network between carrot and RabbitMQ: no hang, no untyped error, nothing confirmed lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from pamqp import commands, frame

from carrot import BrokerConnection, Consumer, ConsumerSet, Publisher
from carrot.exceptions import (
    AccessRefused,
    ConnectionFailed,
    ConnectionLost,
    NotFound,
    OperationTimeout,
)
from carrot.message import Message
from carrot.retry import Retry
from tests.brokers import RabbitMQ
from tests.faults.proxy import Faults, Plan, Proxy
from tests.faults.session import corrupt, cut, freeze, session, within
from tests.faults.traffic import Traffic
from tests.waiting import eventually

ACKS = ((60).to_bytes(2) + (80).to_bytes(2), (60).to_bytes(2) + (120).to_bytes(2))


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    with Proxy(rabbitmq.port) as proxy:
        yield proxy


@pytest.fixture
def make_queue(unique: Callable[..., str], amqp_url: str) -> Iterator[Callable[[], str]]:
    """Makes names of queues that are deleted afterwards."""
    queues: list[str] = []

    def make() -> str:
        queues.append(unique("session"))
        return queues[-1]

    yield make
    with BrokerConnection(amqp_url) as connection:
        for queue in queues:
            connection.create_backend().queue_delete(queue)


# -- cut, at every byte


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_session_comes_through_a_cut_anywhere(proxy, make_queue, direction, rst):
    cut(proxy, proxy.url, make_queue(), step=29, direction=direction, rst=rst)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_session_comes_through_a_cut_at_every_byte(proxy, make_queue, direction, rst):
    print(cut(proxy, proxy.url, make_queue(), step=1, direction=direction, rst=rst))


def test_cut_sends_come_through_and_are_sent_again_with_the_same_id(proxy, unique):
    ids = []
    with BrokerConnection(proxy.url) as connection:
        consumer = Consumer(connection, unique(), auto_delete=False)
        publisher = Publisher(connection, routing_key=consumer.queue)
        publisher.send("before")
        # The broker gets the message, and its confirm gets lost.
        proxy.link.down.cut_after(1)
        publisher.send("twice")
        ids = [message.properties["message_id"] for message in consumer.iterqueue()]
        consumer.backend.queue_delete(consumer.queue)

    assert proxy.connections == 2
    assert len(ids) == 3
    assert len(set(ids)) == 2


# -- frozen, at any byte: every call ends in time


@pytest.mark.parametrize("direction", ["up", "down"])
def test_every_call_ends_in_time_wherever_the_link_freezes(proxy, make_queue, direction):
    freeze(proxy, proxy.url, make_queue(), step=250, direction=direction)


# (what is called, its deadline in seconds, operation_timeout)
CALLS = {
    "send": (lambda link, consumer, publisher: publisher.send("x"), 1, 30),
    "send_many": (lambda link, consumer, publisher: publisher.send_many(range(3000)), 1, 30),
    "fetch": (lambda link, consumer, publisher: consumer.fetch(), 1, 1),
    "fetch-timeout": (lambda link, consumer, publisher: consumer.fetch(timeout=0.5), 0.5, 30),
    "declare": (lambda link, consumer, publisher: consumer.declare(), 1, 1),
    "wait": (lambda link, consumer, publisher: consumer.wait(timeout=1), 1, 30),
    "wait-limit": (lambda link, consumer, publisher: consumer.wait(limit=1, timeout=1), 1, 30),
    "iterconsume": (lambda link, consumer, publisher: next(consumer.iterconsume(timeout=1)), 1, 30),
    "drain": (lambda link, consumer, publisher: link.drain_events(timeout=0.5), 0.5, 30),
}


@pytest.mark.parametrize(("use", "seconds", "operation_timeout"), CALLS.values(), ids=CALLS)
def test_each_call_to_a_frozen_broker_ends_in_time(proxy, unique, use, seconds, operation_timeout):
    with BrokerConnection(
        proxy.url, operation_timeout=operation_timeout, connect_timeout=1
    ) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        publisher = Publisher(
            connection, routing_key=consumer.queue, confirm_timeout=1, retry=Retry(seconds=1)
        )
        publisher.send("x")
        consumer.fetch(auto_ack=True)
        proxy.link.freeze()

        with within(seconds + 1), pytest.raises((OperationTimeout, ConnectionLost)):
            use(connection, consumer, publisher)
        with within(1.5):
            connection.close(timeout=0.5)
        proxy.link.cut()


def test_a_recovery_that_freezes_ends_when_the_retry_does(proxy, unique):
    with BrokerConnection(proxy.url, operation_timeout=30, connect_timeout=30) as connection:
        publisher = Publisher(connection, unique(), auto_delete=True, retry=Retry(seconds=1))
        publisher.send("x")
        _, handshake = _bytes_of_a_handshake(proxy)
        # The next connection is made, and the first request on it is never answered.
        proxy.plan(Plan(down=Faults(freeze_at=handshake)))
        proxy.cut_all()

        with within(2), pytest.raises((OperationTimeout, ConnectionLost, ConnectionFailed)):
            publisher.send("y")
        with within(1.5):
            connection.close(timeout=0.5)
        proxy.link.cut()


def _bytes_of_a_handshake(proxy: Proxy) -> tuple[int, int]:
    """How many go up and down until a connection is open."""
    with BrokerConnection(proxy.url) as connection:
        connection.connect()
        return proxy.link.up.passed, proxy.link.down.passed


def test_a_fetch_that_timed_out_on_a_running_subscription_leaves_the_loop_working(proxy, unique):
    received = []
    with BrokerConnection(proxy.url) as connection:
        consumer = Consumer(
            connection, unique(), callbacks=[lambda data, m: (received.append(data), m.ack())]
        )
        publisher = Publisher(connection, routing_key=consumer.queue)
        consumer.consume()
        proxy.link.freeze()
        with within(1.5), pytest.raises(OperationTimeout):
            consumer.fetch(timeout=0.5)
        assert not consumer.channel_open
        proxy.link.thaw()

        publisher.send("x")
        consumer.wait(limit=1, timeout=5)

        assert received == ["x"]
        consumer.backend.queue_delete(consumer.queue)


def test_silent_broker_is_connection_failed_within_connect_timeout(proxy):
    proxy.plan(Plan(silent=True))
    with within(2), pytest.raises(ConnectionFailed, match=r"no answer within 0.5 s"):
        BrokerConnection(proxy.url, connect_timeout=0.5).connect()


# -- slow, in pieces, corrupt


@pytest.mark.parametrize("direction", ["up", "down"])
def test_session_comes_through_byte_by_byte(proxy, make_queue, direction):
    proxy.plan(Plan(**{direction: Faults(piece=1)}))
    session(proxy.url, make_queue())


def test_session_comes_through_a_trickle(proxy, make_queue):
    proxy.plan(Plan(down=Faults(piece=20, interval=0.01), up=Faults(piece=20, interval=0.01)))
    session(proxy.url, make_queue())


def _corrupt(proxy: Proxy, make_queue: Callable[[], str], step: int) -> None:
    session(proxy.url, make_queue())
    places = range(step // 2, proxy.link.down.passed, step)
    corrupt(
        proxy, ((proxy.url, make_queue(), offset) for offset in places), "down",
        connect_timeout=1, operation_timeout=1, heartbeat=1,
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_corrupt_bytes_are_one_clear_error_or_none(proxy, make_queue):
    _corrupt(proxy, make_queue, step=211)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_each_corrupt_byte_is_one_clear_error_or_none(proxy, make_queue):
    _corrupt(proxy, make_queue, step=5)


def test_garbage_is_a_lost_connection_and_the_loop_goes_on(proxy, unique):
    with Traffic(proxy.url, unique()) as traffic:
        for link in proxy.links:
            link.send_down(b"\xff" * 100)
        traffic.wait_for_flow()
        assert traffic.times_lost
    traffic.ledger.check()


# -- confirms


def test_duplicated_confirms_confirm_nothing_else(proxy, unique):
    def twice(data: bytes) -> bytes:
        return data * 2 if data[7:11] in ACKS else data

    proxy.plan(Plan(down=Faults(on_frame=twice)))
    with Traffic(proxy.url, unique()) as traffic:
        traffic.wait_for_flow()
    traffic.ledger.check()


def test_dropped_confirm_is_a_timeout_that_says_so_and_the_next_is_its_own(proxy, unique):
    with BrokerConnection(proxy.url) as connection:
        consumer = Consumer(connection, unique())
        publisher = Publisher(connection, routing_key=consumer.queue, confirm_timeout=0.5)
        publisher.send(1)
        proxy.link.down.faults = Faults(on_frame=lambda data: b"" if data[7:11] in ACKS else data)
        with within(1.5), pytest.raises(OperationTimeout, match=r"confirmed nothing within 0.5"):
            publisher.send(2)
        proxy.link.down.faults = Faults()
        publisher.send(3)
        assert [m.payload for m in consumer.iterqueue(limit=3)] == [1, 2, 3]
        consumer.backend.queue_delete(consumer.queue)


# -- what the broker says at any moment


def test_connection_close_while_sending_and_waiting(proxy, unique):
    close = frame.marshal(commands.Connection.Close(320, "maintenance", 0, 0), 0)
    with Traffic(proxy.url, unique()) as traffic:
        for _ in range(5):
            for link in proxy.links:
                link.send_down(close)
            traffic.wait_for_flow()
        assert traffic.times_lost >= 5
    traffic.ledger.check()


def test_channel_close_while_waiting_ends_the_loop_with_its_error(proxy, unique):
    """Not all that a broker objects to is mended by trying again."""
    close = frame.marshal(commands.Channel.Close(404, "NOT_FOUND - no such thing", 0, 0), 1)
    with BrokerConnection(proxy.url) as connection:
        consumer = Consumer(connection, unique(), exclusive=True, callbacks=[print])
        consumer.consume()
        proxy.link.send_down(close)

        with pytest.raises(NotFound, match="no such thing"):
            consumer.wait(timeout=5)


# -- several hosts


def test_next_host_is_tried_when_the_first_refuses_and_when_it_dies(proxy, rabbitmq, unique):
    told = []
    with Proxy(rabbitmq.port) as other:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port},127.0.0.1:{other.port}//"
        proxy.refuse()
        with BrokerConnection(url, on_recovered=lambda: told.append("recovered")) as connection:
            consumer = Consumer(connection, unique())
            publisher = Publisher(connection, routing_key=consumer.queue)
            publisher.send(1)
            assert (proxy.connections, other.connections) == (0, 1)

            proxy.listen()
            other.refuse()
            other.cut_all()
            publisher.send(2)
            assert (proxy.connections, other.connections) == (1, 1)
            assert told == ["recovered"]
            assert sorted(m.payload for m in consumer.iterqueue()) == [1, 2]

            consumer.consume()
            other.listen()
            proxy.refuse()
            proxy.cut_all()
            with BrokerConnection(rabbitmq.url) as direct:
                Publisher(direct, routing_key=consumer.queue).send(3)
            received = []
            consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
            consumer.wait(limit=3, timeout=20)
            assert (proxy.connections, other.connections) == (1, 2)
            assert sorted(received) == [1, 2, 3]  # those fetched above were not acked
            consumer.backend.queue_delete(consumer.queue)


def test_no_host_says_what_is_wrong_with_each(proxy, rabbitmq):
    proxy.refuse()
    url = f"amqp://guest:guest@127.0.0.1:{proxy.port},no-such-host.invalid//"
    with pytest.raises(ConnectionFailed) as caught:
        BrokerConnection(url).connect()
    assert f"127.0.0.1:{proxy.port}" in str(caught.value)
    assert "no-such-host.invalid" in str(caught.value)
    with pytest.raises(AccessRefused):
        BrokerConnection(f"amqp://guest:wrong@127.0.0.1:{rabbitmq.port},127.0.0.1:1//").connect()


def test_shuffled_hosts_are_all_tried(proxy, rabbitmq):
    proxy.refuse()
    url = f"amqp://guest:guest@127.0.0.1:{proxy.port},127.0.0.1:{rabbitmq.port}//?shuffle_hosts=1"
    for _ in range(8):
        with BrokerConnection(url) as connection:
            connection.connect()


# -- a connection that is lost in the middle of its recovery


def _cut_before(monkeypatch, proxy: Proxy, owner: object, method: str, call: int) -> None:
    """Let all connections be lost when that method is called for the *call*-th time."""
    wrapped, calls = getattr(owner, method), []

    def cut(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            proxy.cut_all()
            eventually(lambda: not proxy.links)
        return wrapped(*args, **kwargs)

    monkeypatch.setattr(owner, method, cut)


def test_a_set_whose_connection_is_lost_while_it_subscribes_has_all_its_consumers(
    proxy, unique, monkeypatch
):
    received = []
    with BrokerConnection(proxy.url) as connection, BrokerConnection(proxy.url) as other:
        consumers = [Consumer(connection, unique(), auto_delete=False) for _ in range(2)]
        publishers = [Publisher(other, routing_key=consumer.queue) for consumer in consumers]
        with ConsumerSet(
            connection,
            consumers=consumers,
            callbacks=[lambda data, m: (received.append(data), m.ack())],
        ) as group:
            group.consume()
            # Lost here, and again between the first consumer and the second.
            _cut_before(monkeypatch, proxy, consumers[1].backend, "declare_consumer", 2)
            proxy.cut_all()
            for number, publisher in enumerate(publishers):
                publisher.send(number)
            group.wait(limit=2, timeout=10)

            assert sorted(received) == [0, 1]
            group.cancel()
            for consumer in consumers:
                group.backend.queue_delete(consumer.queue)


def test_an_exclusive_queue_whose_connection_is_lost_while_it_is_declared_comes_back(
    proxy, unique, monkeypatch
):
    received = []
    with BrokerConnection(proxy.url) as connection, BrokerConnection(proxy.url) as other:
        exchange = unique("exchange")
        publisher = Publisher(other, exchange, "key", mandatory=True)
        consumer = Consumer(
            connection, unique(), exchange, "key", exclusive=True,
            callbacks=[lambda data, m: (received.append(data), consumer.stop(), m.ack())],
        )  # fmt: skip
        consumer.consume()
        _cut_before(monkeypatch, proxy, consumer.backend, "queue_bind", 1)
        monkeypatch.setattr(connection, "on_recovered", lambda: publisher.send("x"))
        proxy.cut_all()

        consumer.wait(timeout=10)

        assert received == ["x"]
        publisher.backend.exchange_delete(exchange)


def test_a_set_heals_when_all_its_queues_go_one_after_the_other(rabbitmq, unique):
    received = []
    with BrokerConnection(rabbitmq.url) as connection, BrokerConnection(rabbitmq.url) as other:
        queues = {unique("queue"): {} for _ in range(5)}
        group = ConsumerSet(
            connection, queues, callbacks=[lambda data, m: (received.append(data), m.ack())]
        )
        group.consume()
        operator = other.create_backend()

        def delete_and_send() -> None:
            for queue in queues:
                operator.queue_delete(queue)
            publisher = Publisher(other)
            for queue in queues:
                # When the set has declared it again.
                eventually(lambda queue=queue: operator.queue_exists(queue), 10)
                publisher.send(queue, routing_key=queue)

        thread = threading.Thread(target=delete_and_send)
        thread.start()
        group.wait(limit=5, timeout=15)
        thread.join(15)
        group.cancel()
        for queue in queues:
            operator.queue_delete(queue)

    assert sorted(received) == sorted(queues)


def test_a_channel_whose_end_another_one_has_read_is_replaced(proxy, unique):
    """The broker lost patience with a callback, and a publisher in it took that in."""
    timed_out = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"
    redelivered = []
    with BrokerConnection(proxy.url) as connection:
        consumer = Consumer(connection, unique())
        publisher = Publisher(connection, routing_key=unique("elsewhere"))
        Publisher(connection, routing_key=consumer.queue).send("x")

        def receive(data: object, message: Message) -> None:
            redelivered.append(message.redelivered)
            if len(redelivered) == 1:
                number = consumer.backend.channel.number
                close = commands.Channel.Close(406, timed_out, 0, 0)
                proxy.link.send_down(frame.marshal(close, number))
                eventually(lambda: publisher.send("y") or not consumer.backend.is_open)
            message.ack()

        consumer.register_callback(receive)
        consumer.wait(limit=1, timeout=10)
        consumer.backend.queue_delete(consumer.queue)

    assert len(redelivered) == 2


def test_the_last_message_is_processed_though_the_connection_goes_then(proxy, unique):
    received = []
    with BrokerConnection(proxy.url) as connection:
        consumer = Consumer(connection, unique())
        Publisher(connection, routing_key=consumer.queue).send("x")

        def receive(data: object, message: Message) -> None:
            received.append(data)
            message.ack()
            connection.connection.stream.flush()
            proxy.link.cut()

        consumer.register_callback(receive)
        consumer.wait(limit=1, timeout=10)

    with BrokerConnection(proxy.url) as other:
        other.channel().queue_delete(consumer.queue)
    assert received == ["x"]


@pytest.mark.parametrize("ended_by", ["timeout", "stop"])
def test_a_loop_whose_link_freezes_ends_in_time(proxy, unique, ended_by):
    with BrokerConnection(proxy.url, operation_timeout=30) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        thread = threading.Thread(
            target=lambda: (eventually(lambda: consumer.channel_open), proxy.link.freeze(),
                            ended_by == "stop" and consumer.stop())
        )  # fmt: skip
        thread.start()
        if ended_by == "stop":
            with within(6.5):  # five seconds for giving back what was sent ahead
                consumer.wait()
        else:
            with within(2), pytest.raises(OperationTimeout):
                consumer.wait(timeout=1)
        thread.join(5)
        with within(1.5):
            connection.close(timeout=0.5)
        proxy.link.cut()


def test_a_timeout_is_used_up_while_the_broker_is_away(proxy, unique):
    with BrokerConnection(proxy.url) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        proxy.refuse()
        proxy.cut_all()
        begun = time.monotonic()
        with within(4), pytest.raises(OperationTimeout, match="last attempt"):
            consumer.wait(timeout=3)
        assert time.monotonic() - begun >= 3
    proxy.listen()


def test_threads_that_wait_for_one_attempt_share_its_failure(proxy):
    proxy.plan(Plan(silent=True))
    with BrokerConnection(proxy.url, connect_timeout=0.5) as connection:
        errors = []

        def connect() -> None:
            try:
                connection.connect()
            except ConnectionFailed as exc:
                errors.append(exc)

        threads = [threading.Thread(target=connect) for _ in range(5)]
        with within(1.5):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
    assert len(errors) == 5


def test_a_pause_survives_a_lost_connection(proxy, unique):
    received = []
    with BrokerConnection(proxy.url) as connection, BrokerConnection(proxy.url) as other:
        consumer = Consumer(
            connection, unique(), callbacks=[lambda data, m: (received.append(data), m.ack())]
        )
        consumer.consume()
        consumer.flow(False)
        proxy.cut_all()
        Publisher(other, routing_key=consumer.queue).send("x")
        with pytest.raises(OperationTimeout):
            consumer.wait(timeout=1)
        assert received == []

        consumer.flow(True)
        consumer.wait(limit=1, timeout=5)
        assert received == ["x"]
        consumer.cancel()
        consumer.backend.queue_delete(consumer.queue)


# -- limits


def test_sending_gives_up_when_its_retry_is_used_up(proxy, unique):
    lost = []
    with BrokerConnection(
        proxy.url, on_connection_lost=lambda error, interval: lost.append(interval)
    ) as connection:
        publisher = Publisher(connection, unique(), retry=Retry(attempts=3))
        publisher.send("x")
        proxy.refuse()
        proxy.cut_all()

        with within(5), pytest.raises(ConnectionFailed, match="is the broker running"):
            publisher.send("y")
        assert len(lost) == 3

        proxy.listen()
        publisher.send("z")


@pytest.mark.parametrize("end", ["stop", "cancel", "close"])
def test_a_loop_that_tries_to_reconnect_can_be_ended(proxy, unique, end):
    with BrokerConnection(proxy.url) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        connection.on_connection_lost = lambda error, interval: (
            isinstance(error, ConnectionFailed) and getattr(consumer, end)()
        )
        ended = threading.Event()
        thread = threading.Thread(target=lambda: (consumer.wait(), ended.set()), daemon=True)
        thread.start()
        eventually(lambda: consumer.channel_open)
        proxy.refuse()
        proxy.cut_all()
        assert ended.wait(5)
        thread.join(5)
    proxy.listen()


def test_reconnect_false_raises_at_once(proxy, unique):
    with (
        BrokerConnection(proxy.url, reconnect=False) as one,
        BrokerConnection(proxy.url, reconnect=False) as other,
    ):
        consumer = Consumer(one, unique(), exclusive=True, callbacks=[print])
        publisher = Publisher(other, routing_key=consumer.queue)
        consumer.consume()
        publisher.send("x")
        proxy.cut_all()
        with within(2), pytest.raises(ConnectionLost):
            publisher.send("y")
        with within(2), pytest.raises(ConnectionLost):
            consumer.wait()
