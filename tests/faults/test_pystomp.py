"""What a bad network, and a broker that dies, do to clients of ActiveMQ, and how they go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import ConnectionFailed, ConnectionLost, OperationTimeout
from carrot.messaging import Consumer, Publisher
from tests.brokers import ActiveMQ
from tests.faults.ledger import Ledger, seeded
from tests.faults.proxy import Faults, Plan, Proxy
from tests.faults.traffic import PATIENCE, Traffic
from tests.waiting import eventually

Unique = Callable[..., str]

RECOVERY = 5.0  # seconds until messages flow again, once the broker accepts connections
LATE = 1.0  # seconds that a deadline may be overrun
CUTS = 10


@pytest.fixture
def proxy(activemq: ActiveMQ) -> Iterator[Proxy]:
    with Proxy(activemq.port, frames=False) as proxy:
        yield proxy


@pytest.fixture
def url(activemq: ActiveMQ, proxy: Proxy) -> str:
    """The broker, through the proxy."""
    return activemq.url.replace(f":{activemq.port}", f":{proxy.port}")


@contextmanager
def leftovers(url: str, queue: str) -> Iterator[None]:
    """When the block fails, its error says what the broker still has: stuck, or lost?

    It is looked at when those in the block have let go of what they had.
    """
    try:
        yield
    except AssertionError as exc:
        with BrokerConnection(url) as connection:
            for name in (queue, "ActiveMQ.DLQ"):
                messages = [m.body for m in Consumer(connection, name).iterqueue(limit=100)]
                exc.add_note(f"in {name}: {messages}")
        raise


@pytest.mark.parametrize("exchange", ["default", "bound"])
@pytest.mark.parametrize("rst", [False, True])
def test_connections_that_are_cut_are_made_again_and_nothing_confirmed_is_lost(
    proxy: Proxy, url: str, unique: Unique, exchange: str, rst: bool
) -> None:
    name = unique("exchange") if exchange == "bound" else ""
    with Traffic(url, unique(), exchange=name) as traffic:
        for _ in range(CUTS):
            proxy.cut_all(rst)
            traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()
    assert traffic.times_lost >= 2 * CUTS


def test_connections_that_are_cut_anywhere_lose_nothing(
    proxy: Proxy, url: str, unique: Unique
) -> None:
    with seeded() as schedule, Traffic(url, unique(), exchange=unique("exchange")) as traffic:
        for _ in range(CUTS):
            up, down = schedule.randrange(1, 4000), schedule.randrange(1, 4000)
            schedule.note(f"cut after {up} bytes up, or {down} bytes down")
            proxy.plan_next(Plan(up=Faults(cut_at=up)), Plan(down=Faults(cut_at=down)))
            proxy.cut_all()
            traffic.wait_for_flow(PATIENCE)

    traffic.ledger.check()


def test_a_peer_that_freezes_is_left_after_its_heartbeats(
    proxy: Proxy, url: str, unique: Unique
) -> None:
    with Traffic(url, unique(), connection_options={"heartbeat": 0.5}) as traffic:
        for link in proxy.links:
            link.up.faults = link.down.faults = Faults(freeze_at=0)
        eventually(lambda: traffic.times_lost >= 2, 2 * 0.5 + 2 * LATE)
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()


def test_heartbeats_keep_a_connection_on_which_nothing_happens(url: str, unique: Unique) -> None:
    losses: list[Exception] = []
    with BrokerConnection(
        url, heartbeat=1, on_connection_lost=lambda error, wait: losses.append(error)
    ) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])

        with pytest.raises(OperationTimeout):
            consumer.wait(timeout=5)
        consumer.backend.get(consumer.queue)

    assert not losses


@pytest.mark.parametrize("exchange", ["default", "bound"])
def test_a_broker_that_is_killed_and_restarted_has_all_that_it_confirmed(
    activemq: ActiveMQ, unique: Unique, exchange: str
) -> None:
    queue, name = unique(), unique("exchange") if exchange == "bound" else ""

    with (
        leftovers(activemq.url, queue),
        Traffic(activemq.url, queue, exchange=name) as traffic,
    ):
        for _ in range(2):
            activemq.kill()
            activemq.start()
            traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()
    assert traffic.times_lost >= 4


def test_what_is_bound_stays_bound_when_an_empty_broker_is_killed(
    activemq: ActiveMQ, unique: Unique
) -> None:
    """No consumer is there after the restart to bind again, and nothing may get lost."""
    ledger, exchange = Ledger(), unique("exchange")
    keys = {"direct": "a.b", "fanout": "", "topic": "*.b.#"}
    queues = {type: unique(type) for type in keys}
    with BrokerConnection(activemq.url) as connection:
        for type, key in keys.items():
            Consumer(connection, queues[type], f"{exchange}-{type}", key, exchange_type=type)

    activemq.kill()
    activemq.start()

    with BrokerConnection(activemq.url) as connection:
        for type in keys:
            ledger.attempted(type)
            Publisher(connection, f"{exchange}-{type}", exchange_type=type).send(
                type, routing_key="a.b"
            )
            ledger.confirmed(type)
        for type, key in keys.items():
            consumer = Consumer(
                connection, queues[type], f"{exchange}-{type}", key, exchange_type=type
            )
            while (message := consumer.fetch(auto_ack=True)) is not None:
                ledger.received(message.payload)
    ledger.check()


def test_a_broker_that_froze_is_left_and_found_again(activemq: ActiveMQ, unique: Unique) -> None:
    with Traffic(activemq.url, unique(), connection_options={"heartbeat": 0.5}) as traffic:
        activemq.freeze()
        try:
            eventually(lambda: traffic.times_lost >= 2, 2 * 0.5 + 2 * LATE)
        finally:
            activemq.thaw()
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()


# -- deadlines


def test_connecting_to_silence_ends_in_time(proxy: Proxy, url: str) -> None:
    proxy.plan(Plan(silent=True))
    begun = time.monotonic()

    with pytest.raises(ConnectionFailed, match=r"no answer within 0.5 seconds.*STOMP"):
        BrokerConnection(url, connect_timeout=0.5).connect()

    assert time.monotonic() - begun < 0.5 + LATE


def test_requests_and_confirms_end_in_time(proxy: Proxy, url: str, unique: Unique) -> None:
    connection = BrokerConnection(url, operation_timeout=0.5, heartbeat=0)
    consumer = Consumer(connection, unique())
    publisher = Publisher(connection, routing_key=consumer.queue, confirm_timeout=0.5)
    publisher.send("before")
    proxy.link.down.faults = Faults(freeze_at=0)

    for use in (consumer.fetch, lambda: publisher.send("x"), consumer.discard_all):
        begun = time.monotonic()
        with pytest.raises(OperationTimeout):
            use()
        assert time.monotonic() - begun < 0.5 + LATE
    begun = time.monotonic()
    connection.close()

    assert time.monotonic() - begun < 0.5 + LATE


def test_a_loss_reaches_whoever_waits(proxy: Proxy, url: str, unique: Unique) -> None:
    with BrokerConnection(url, reconnect=False) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        consumer.consume()

        proxy.cut_all()

        with pytest.raises(ConnectionLost, match="is gone"):
            consumer.wait(timeout=PATIENCE)


# What is asked for, by name; the answer comes after the deadline.
LATE_ANSWERS: dict[str, Callable[[Consumer], object]] = {
    "wait": lambda consumer: consumer.wait(timeout=0.5),
    "wait-limit": lambda consumer: consumer.wait(limit=1, timeout=0.5),
    "consume": lambda consumer: consumer.consume(),
    "fetch": lambda consumer: consumer.fetch(timeout=0.5),
    "discard_all": lambda consumer: consumer.discard_all(),
}


@pytest.mark.parametrize("use", LATE_ANSWERS.values(), ids=LATE_ANSWERS)
def test_what_a_slow_broker_delivers_too_late_is_held_by_nobody(
    proxy: Proxy, url: str, activemq: ActiveMQ, unique: Unique, use: Callable[[Consumer], object]
) -> None:
    received: list[int] = []
    with (
        BrokerConnection(url, heartbeat=0) as connection,
        BrokerConnection(activemq.url) as other,
    ):
        consumer = Consumer(connection, unique(), callbacks=[print])
        # Not before: a busy broker may take longer than that to declare the queue.
        connection.connect().operation_timeout = 0.5
        proxy.link.down.faults = Faults(freeze_at=0)
        with pytest.raises(OperationTimeout):
            use(consumer)
        proxy.link.thaw()

        Publisher(other, routing_key=consumer.queue).send_many(range(5))
        onlooker = Consumer(
            other, consumer.queue, callbacks=[lambda data, m: (received.append(data), m.ack())]
        )
        onlooker.wait(limit=5, timeout=PATIENCE)

    # ActiveMQ puts what it takes back from the given up request behind what came meanwhile.
    assert sorted(received) == [0, 1, 2, 3, 4]


def test_a_loop_whose_end_the_broker_answered_too_late_can_begin_again(
    proxy: Proxy, url: str, activemq: ActiveMQ, unique: Unique
) -> None:
    received: list[object] = []
    with (
        BrokerConnection(url, heartbeat=0) as connection,
        BrokerConnection(activemq.url) as other,
    ):
        consumer = Consumer(
            connection, unique(), callbacks=[lambda data, m: (received.append(data), m.ack())]
        )
        consumer.consume()
        proxy.link.down.faults = Faults(freeze_at=0)
        connection.operation_timeout = 0.5
        with pytest.raises(OperationTimeout):
            consumer.wait(timeout=0.2)
            consumer.cancel()
        proxy.link.thaw()

        Publisher(other, routing_key=consumer.queue).send("x")
        consumer.wait(limit=1, timeout=PATIENCE)

    assert received == ["x"]
