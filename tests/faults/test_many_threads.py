"""Many threads share one connection: every message once, and nothing is left of the threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue

import pytest

from carrot.connection import BrokerConnection
from carrot.message import Message
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ
from tests.faults.ledger import Ledger
from tests.waiting import eventually

PUBLISHERS = 16
CONSUMERS = 8
WORKERS = 4
PATIENCE = 20.0  # seconds


@pytest.fixture
def connection(rabbitmq: RabbitMQ) -> Iterator[BrokerConnection]:
    """The one that all threads share; it must live through the test."""
    with BrokerConnection(rabbitmq.url, reconnect=False) as connection:
        transport = connection.connect()
        yield connection
        assert connection.connection is transport


@pytest.fixture
def queue(rabbitmq: RabbitMQ, unique: Callable[..., str]) -> Iterator[str]:
    """A queue, which is deleted at the end."""
    name = unique("work")
    with BrokerConnection(rabbitmq.url) as connection:
        Consumer(connection, name).close()
        yield name
        connection.create_backend().queue_delete(name)


@pytest.fixture(autouse=True)
def no_thread_is_left(rabbitmq: RabbitMQ) -> Iterator[None]:
    """As many threads run after the test as before it, but for the timer of the process."""

    def others() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name != "carrot-timer"}

    before = others()
    yield
    eventually(lambda: others() <= before)


def run(within: float, *targets: Callable[[], object]) -> None:
    """Run the functions at once, each in a thread; raise what one of them raised.

    :param within: seconds for all of them.
    """
    errors: list[BaseException] = []

    def guarded(target: Callable[[], object]) -> None:
        try:
            target()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + within
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if errors:
            raise errors[0]
        assert not thread.is_alive(), f"a thread still runs after {within} s"


# -- a ledger of all


class Traffic:
    """What threads publish to a queue, and others consume from it, over one connection."""

    def __init__(self, connection: BrokerConnection, queue: str, count: int) -> None:
        self.ledger = Ledger()
        self._connection = connection
        self._queue = queue
        self._each = count // PUBLISHERS
        self._left = self._each * PUBLISHERS
        self._lock = threading.Lock()
        self._consumers: list[Consumer] = []

    def run(self, within: float) -> None:
        """Publish with 16 threads and consume with 8, until every message is acked."""
        with Publisher(self._connection, routing_key=self._queue) as shared:
            self._consumers = [
                Consumer(self._connection, self._queue, callbacks=[self._receive])
                for _ in range(CONSUMERS)
            ]
            run(
                within,
                *(partial(consumer.wait, timeout=within) for consumer in self._consumers),
                *(
                    partial(self._publish, number, shared if number % 2 else None)
                    for number in range(PUBLISHERS)
                ),
            )
            for consumer in self._consumers:
                consumer.close()

    def _publish(self, sender: int, shared: Publisher | None) -> None:
        publisher = shared or Publisher(self._connection, routing_key=self._queue)
        for number in range(self._each):
            self.ledger.attempted((sender, number))
            publisher.send([sender, number])
            self.ledger.confirmed((sender, number))
        if publisher is not shared:
            publisher.close()

    def _receive(self, data: list[int], message: Message) -> None:
        self.ledger.received(tuple(data))
        message.ack()
        with self._lock:
            self._left -= 1
        if self._left == 0:
            for consumer in self._consumers:
                consumer.stop()


def check_traffic(connection: BrokerConnection, queue: str, count: int, within: float) -> None:
    traffic = Traffic(connection, queue, count)
    traffic.run(within)

    traffic.ledger.check()
    assert not traffic.ledger.duplicated
    assert not traffic.ledger.unsettled
    assert traffic.ledger.summary().startswith(f"attempted {count}, confirmed {count}, ")
    with Consumer(connection, queue) as consumer:
        assert consumer.fetch() is None


def test_sixteen_threads_publish_and_eight_consume_each_message_once(connection, queue):
    check_traffic(connection, queue, 4_000, within=60)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_sixteen_threads_publish_and_eight_consume_200_000_messages(connection, queue):
    check_traffic(connection, queue, 200_000, within=580)


# -- settling, and exclusive queues


def test_worker_threads_ack_what_another_thread_receives(connection, queue):
    todo: SimpleQueue[Message | None] = SimpleQueue()
    received: list[int] = []
    Publisher(connection, routing_key=queue).send_many(range(500))

    def work() -> None:
        while (message := todo.get(timeout=PATIENCE)) is not None:
            message.ack()
            received.append(message.payload)

    def receive() -> None:
        # More comes only when what was handed on is acked.
        with Consumer(connection, queue, prefetch_count=10) as consumer:
            consumer.register_callback(lambda data, message: todo.put(message))
            for _ in consumer.iterconsume(limit=500, timeout=PATIENCE):
                pass
            eventually(lambda: len(received) == 500)
        for _ in range(WORKERS):
            todo.put(None)

    run(2 * PATIENCE, receive, *[work] * WORKERS)

    assert sorted(received) == list(range(500))
    with Consumer(connection, queue) as consumer:
        assert consumer.fetch() is None


def test_exclusive_queue_is_consumed_in_another_thread_than_it_was_declared_in(connection, unique):
    name = unique("exclusive")
    received: list[int] = []

    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        consumer = first.submit(Consumer, connection, name, exclusive=True).result(PATIENCE)
        publisher = Publisher(connection, routing_key=name)
        first.submit(publisher.send_many, range(20)).result(PATIENCE)
        consumer.register_callback(lambda data, message: (received.append(data), message.ack()))

        second.submit(consumer.wait, limit=10, timeout=PATIENCE).result(PATIENCE)
        first.submit(consumer.wait, limit=10, timeout=PATIENCE).result(PATIENCE)

    assert received == list(range(20))


def test_exclusive_queue_is_used_by_a_consumer_of_another_thread(connection, unique):
    name = unique("exclusive")
    received: list[int] = []
    declared = Consumer(connection, name, exclusive=True)
    Publisher(connection, routing_key=name).send_many(range(20))

    def consume() -> None:
        consumer = Consumer(connection, name, exclusive=True)
        consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
        for _ in consumer.iterconsume(limit=20, timeout=PATIENCE):
            pass

    run(PATIENCE, consume)

    assert received == list(range(20))
    declared.close()


# -- what threads leave behind


def channels_of(rabbitmq: RabbitMQ, user: str) -> int:
    """How many channels the connections of that user have at the broker."""
    lines = rabbitmq.ctl("list_connections", "user", "channels").splitlines()
    rows = [line.split("\t") for line in lines]
    return sum(int(row[1]) for row in rows if row[0] == user)


@contextmanager
def own_user(rabbitmq: RabbitMQ, name: str) -> Iterator[BrokerConnection]:
    """A connection of a user that nobody else is."""
    rabbitmq.ctl("add_user", name, "secret")
    rabbitmq.ctl("set_permissions", name, ".*", ".*", ".*")
    try:
        with BrokerConnection(rabbitmq.url, userid=name, password="secret") as connection:
            yield connection
    finally:
        rabbitmq.ctl("delete_user", name)


@pytest.mark.parametrize("closing", [True, False], ids=["closed", "forgotten"])
def test_threads_that_end_leave_no_channel_behind(rabbitmq, queue, unique, closing):
    def use() -> None:
        publisher = Publisher(connection, routing_key=queue)
        publisher.send("x")
        consumer = Consumer(connection, queue)
        assert consumer.fetch(auto_ack=True) is not None
        if closing:
            consumer.close()
            publisher.close()

    with own_user(rabbitmq, unique("user")) as connection:
        threads = threading.active_count()
        for _ in range(10):
            run(PATIENCE, *[use] * 10)
        # What was forgotten goes when the next channel is opened.
        with Publisher(connection, routing_key=queue) as publisher:
            publisher.send("last")

            eventually(lambda: channels_of(rabbitmq, connection.userid) == 1, PATIENCE)
        assert threading.active_count() <= threads + 1
