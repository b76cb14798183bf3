"""Slow connections: what moves is not given up, and what stands still is, within its deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from carrot.connection import BrokerConnection
from carrot.deadline import Deadline, bounded_by, now
from carrot.exceptions import ConnectionLost, OperationTimeout
from carrot.messaging import Consumer, Publisher
from carrot.retry import Retry
from tests.brokers import RabbitMQ
from tests.faults.proxy import Faults, Plan, Proxy
from tests.waiting import eventually

MB = 1_000_000
#: About 2 MB a second in each direction.
SLOW = Faults(piece=20_000, interval=0.01)
LATE = 1.0  # seconds that a busy machine may take in addition
ONCE = Retry(attempts=0)


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    with Proxy(rabbitmq.port, frames=False) as proxy:
        yield proxy


@pytest.fixture
def connection(proxy: Proxy) -> Iterator[BrokerConnection]:
    proxy.plan(Plan(up=SLOW, down=SLOW))
    with BrokerConnection(proxy.url, operation_timeout=2, connect_timeout=5) as connection:
        yield connection


def test_a_large_message_over_a_slow_connection_is_sent_and_fetched(
    proxy: Proxy, unique: Callable[..., str]
) -> None:
    proxy.plan(Plan(up=SLOW, down=SLOW))
    # Each way takes 6 seconds at least; on a busy machine the proxy may stand still for two.
    with BrokerConnection(proxy.url, operation_timeout=4) as connection:
        consumer = Consumer(connection, unique())
        publisher = Publisher(connection, "", consumer.queue, confirm_timeout=4)

        publisher.send(b"x" * 12 * MB)
        message = consumer.fetch(auto_ack=True)

    assert message is not None
    assert len(message.body) == 12 * MB
    assert proxy.connections == 1


def test_a_write_that_stands_still_is_given_up_and_tells_how_far_it_came(
    proxy: Proxy, connection: BrokerConnection, unique: Callable[..., str]
) -> None:
    publisher = Publisher(connection, exchange="", routing_key=unique(), retry=ONCE)
    publisher.send(b"x")
    freeze = threading.Timer(1, proxy.link.freeze)
    freeze.start()
    begun = now()

    with pytest.raises(ConnectionLost, match=r"sent [\d.]+ of 24 MB, then nothing moved for 2 sec"):
        publisher.send(b"x" * 24 * MB)

    assert 2 < now() - begun < 1 + 2 * 1.25 + 2 * LATE
    proxy.link.cut()


def test_a_deadline_of_the_thread_bounds_the_whole_of_a_write(
    connection: BrokerConnection, unique: Callable[..., str]
) -> None:
    publisher = Publisher(connection, exchange="", routing_key=unique(), retry=ONCE)
    publisher.send(b"x")
    begun = now()

    with (
        bounded_by(Deadline.after(1)),
        pytest.raises((ConnectionLost, OperationTimeout), match="of 24 MB, then time was up"),
    ):
        publisher.send(b"x" * 24 * MB)

    assert now() - begun < 1 + LATE


def test_a_publish_waits_for_another_threads_write_at_most_until_its_deadline(
    proxy: Proxy, unique: Callable[..., str]
) -> None:
    proxy.plan(Plan(up=SLOW, down=SLOW))
    # How long the 12 MB may stand still on a busy machine is no matter here.
    with BrokerConnection(proxy.url, operation_timeout=20) as connection:
        transport = connection.connect()
        slow = Publisher(connection, exchange="", routing_key=unique(), confirm=False)
        quick = Publisher(connection, exchange="", routing_key=unique(), confirm=False, retry=ONCE)
        quick.send(b"x")
        sending = threading.Thread(target=slow.send, args=(b"x" * 12 * MB,))
        sending.start()
        eventually(lambda: transport.stream._writer.is_writing_on)
        begun = now()

        with (
            bounded_by(Deadline.after(0.2)),
            pytest.raises(OperationTimeout, match="what another thread sends"),
        ):
            quick.send(b"late")

        assert now() - begun < 0.2 + LATE
        sending.join(30)
        quick.send(b"in time")
        assert transport.is_open


def test_closing_waits_for_a_write_at_most_its_timeout(
    proxy: Proxy, connection: BrokerConnection, unique: Callable[..., str]
) -> None:
    transport, failures = connection.connect(), list[Exception]()
    publisher = Publisher(connection, exchange="", routing_key=unique(), retry=ONCE)
    publisher.send(b"x")

    def send() -> None:
        try:
            publisher.send(b"x" * 24 * MB)
        except ConnectionLost as exc:
            failures.append(exc)

    sending = threading.Thread(target=send)
    sending.start()
    eventually(lambda: transport.stream._writer.is_writing_on)
    begun = now()

    connection.close(timeout=0.5)

    assert now() - begun < 0.5 + LATE
    sending.join(5)
    assert not sending.is_alive()
    assert failures


def test_an_answer_that_is_arriving_is_waited_for(
    connection: BrokerConnection, rabbitmq: RabbitMQ, unique: Callable[..., str]
) -> None:
    queue, transport = unique(), connection.connect()
    with BrokerConnection(rabbitmq.url) as direct:
        Consumer(direct, queue).declare()
        Publisher(direct, exchange="", routing_key=queue).send(b"x" * 8 * MB)
    backend = connection.create_backend()
    backend.declare_consumer(queue, no_ack=True, callback=print, consumer_tag="tag")

    transport.wait_for_answer(lambda: backend.life.is_ready, 1)

    assert len(backend.life.inbox) == 1


def test_an_answer_that_stops_arriving_is_given_up_and_tells_how_far_it_came(
    proxy: Proxy, connection: BrokerConnection, rabbitmq: RabbitMQ, unique: Callable[..., str]
) -> None:
    queue, transport = unique(), connection.connect()
    with BrokerConnection(rabbitmq.url) as direct:
        Consumer(direct, queue).declare()
        Publisher(direct, exchange="", routing_key=queue).send(b"x" * 16 * MB)
    backend = connection.create_backend()
    backend.declare_consumer(queue, no_ack=True, callback=print, consumer_tag="tag")
    freeze = threading.Timer(2, proxy.link.freeze)
    freeze.start()
    begun = now()

    with pytest.raises(OperationTimeout, match=r"[\d.]+ of 16 MB came from .*nothing for 1 sec"):
        transport.wait_for_answer(lambda: backend.life.is_ready, 1)

    assert 2 < now() - begun < 2 + 1.25 + LATE
    proxy.link.cut()


def test_small_deliveries_do_not_prolong_the_wait_for_an_answer(
    connection: BrokerConnection, unique: Callable[..., str]
) -> None:
    queue, transport = unique(), connection.connect()
    publisher = Publisher(connection, exchange="", routing_key=queue, confirm=False)
    backend = connection.create_backend()
    Consumer(connection, queue).declare()
    backend.declare_consumer(queue, no_ack=True, callback=print, consumer_tag="tag")
    is_over = threading.Event()

    def publish() -> None:
        while not is_over.wait(0.01):
            publisher.send(b"x" * 1000)

    publishing = threading.Thread(target=publish)
    publishing.start()
    begun = now()
    try:
        with pytest.raises(OperationTimeout, match="nothing came from"):
            transport.wait_for_answer(lambda: False, 1)
    finally:
        is_over.set()
        publishing.join(5)

    assert now() - begun < 1.25 + LATE
