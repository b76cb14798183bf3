"""A bad network between carrot and a ZeroMQ broker, and brokers that are killed or stand still."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carrot import BrokerConnection, Consumer, Publisher
from carrot.exceptions import ConnectionLost, OperationTimeout
from carrot.retry import Retry
from tests.brokers import ZeroMQ
from tests.faults.ledger import Ledger, seeded
from tests.faults.proxy import Faults, Plan, Proxy
from tests.faults.session import corrupt, cut, freeze, session
from tests.faults.traffic import PATIENCE, Traffic
from tests.waiting import eventually

Unique = Callable[..., str]

RECOVERY = 3.0  # seconds until messages flow again, once the broker is there
LATE = 1.0  # seconds that a deadline may be overrun
QUEUE = "session"


@pytest.fixture
def proxy(zeromq: ZeroMQ) -> Iterator[Proxy]:
    with Proxy(zeromq.port, frames=False) as proxy:
        yield proxy


@pytest.fixture
def url(proxy: Proxy, unique: Unique) -> str:
    """A virtual host of its own, through the proxy."""
    return f"zeromq+tcp://127.0.0.1:{proxy.port}/{unique('world')}"


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[ZeroMQ]:
    """A broker with a store."""
    with ZeroMQ("--store", str(tmp_path / "store")) as broker:
        yield broker


# -- cut


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_session_comes_through_a_cut_anywhere(proxy, url, direction, rst):
    cut(proxy, url, QUEUE, step=61, direction=direction, rst=rst)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_session_comes_through_a_cut_at_every_byte(proxy, url, direction, rst):
    print(cut(proxy, url, QUEUE, step=1, direction=direction, rst=rst))


def test_traffic_goes_on_over_cuts_at_any_moment(proxy, url, unique):
    with seeded() as schedule, Traffic(url, unique()) as traffic:
        for _ in range(10):
            pause = schedule.uniform(0, 0.2)
            schedule.note(f"cut after {pause:.3f} s")
            before = time.monotonic()
            eventually(lambda before=before, pause=pause: time.monotonic() - before > pause)
            proxy.cut_all(rst=schedule.random() < 0.5)
            traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()
    assert traffic.times_lost >= 10


def test_broker_that_is_away_for_a_while_is_awaited(proxy, url, unique):
    with Traffic(url, unique()) as traffic:
        proxy.refuse()
        proxy.cut_all()
        eventually(lambda: traffic.times_lost >= 4, PATIENCE)
        proxy.listen()
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()


# -- frozen, slow, corrupt


@pytest.mark.parametrize("direction", ["up", "down"])
def test_every_call_ends_in_time_wherever_the_link_freezes(proxy, url, direction):
    freeze(proxy, url, QUEUE, step=300, direction=direction)


def test_frozen_link_is_left_after_two_heartbeats(proxy, url, unique):
    with Traffic(url, unique(), connection_options={"heartbeat": 1}) as traffic:
        proxy.link.freeze()
        for link in proxy.links:
            link.freeze()
        eventually(lambda: traffic.times_lost >= 2, 3 + LATE)
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()


@pytest.mark.parametrize(
    ("use", "seconds"),
    [
        (lambda link, consumer, publisher: publisher.send("x"), 1),
        (lambda link, consumer, publisher: publisher.send_many(range(3000)), 1),
        (lambda link, consumer, publisher: consumer.fetch(timeout=0.5), 0.5),
        (lambda link, consumer, publisher: consumer.fetch(), 1),
        (lambda link, consumer, publisher: consumer.declare(), 1),
        (lambda link, consumer, publisher: consumer.wait(limit=1, timeout=1), 1),
        (lambda link, consumer, publisher: link.drain_events(timeout=0.5), 0.5),
    ],
    ids=["send", "send_many", "fetch-timeout", "fetch", "declare", "wait", "drain"],
)
def test_each_call_to_a_frozen_broker_ends_in_time(proxy, url, unique, use, seconds):
    with BrokerConnection(url, operation_timeout=1, connect_timeout=1) as connection:
        consumer = Consumer(connection, unique(), callbacks=[print])
        publisher = Publisher(
            connection, routing_key=consumer.queue, confirm_timeout=1, retry=Retry(seconds=1)
        )
        publisher.send("x")
        consumer.fetch(auto_ack=True)
        proxy.link.freeze()

        begun = time.monotonic()
        with pytest.raises((OperationTimeout, ConnectionLost)):
            use(connection, consumer, publisher)
        assert time.monotonic() - begun < seconds + LATE
        begun = time.monotonic()
        connection.close(timeout=0.5)
        assert time.monotonic() - begun < 0.5 + LATE
        proxy.link.cut()


def test_writer_that_finds_no_room_ends_in_time(proxy, url):
    with BrokerConnection(url, operation_timeout=1, reconnect=False) as connection:
        publisher = Publisher(connection, routing_key="feed", confirm=False)
        publisher.send("x")
        proxy.link.freeze()

        begun = time.monotonic()
        with pytest.raises((OperationTimeout, ConnectionLost)):
            for _ in range(1000):  # 100 MB
                publisher.send(b"x" * 100_000)
        assert time.monotonic() - begun < 10
        proxy.link.cut()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_session_comes_through_byte_by_byte(proxy, url, direction):
    proxy.plan(Plan(**{direction: Faults(piece=1)}))
    session(url, QUEUE)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_corrupt_byte_loses_the_connection_and_nothing_else(proxy, url, direction):
    session(url, QUEUE)
    length = getattr(proxy.link, direction).passed
    with seeded() as schedule:
        places = sorted(schedule.sample(range(length), 8))
        schedule.note(f"corrupt the bytes {places} {direction}")
        # A virtual host for each: what is delivered may be wrong.
        corrupt(
            proxy, ((f"{url}-{offset}", QUEUE, offset) for offset in places), direction,
            connect_timeout=0.3, operation_timeout=0.5, heartbeat=1,
        )  # fmt: skip
    session(url, QUEUE)


# -- the broker is killed, or stands still


def test_broker_that_froze_is_left_after_two_heartbeats_and_found_again(durable, unique):
    with Traffic(durable.url, unique(), connection_options={"heartbeat": 1}) as traffic:
        durable.freeze()
        try:
            eventually(lambda: traffic.times_lost >= 2, 3 + LATE)
        finally:
            durable.thaw()
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()


def test_broker_that_is_stopped_and_started_again_is_awaited(durable, unique):
    with Traffic(durable.url, unique()) as traffic:
        assert durable.stop() == 0
        durable.start()
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()
    assert traffic.times_lost >= 2


def test_broker_that_is_killed_at_any_moment_has_all_that_it_confirmed(durable, unique):
    print(kill_again_and_again(durable, unique(), times=8))


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_broker_that_is_killed_100_times_has_all_that_it_confirmed(durable, unique):
    print(kill_again_and_again(durable, unique(), times=100))


def kill_again_and_again(broker: ZeroMQ, queue: str, times: int) -> str:
    with seeded() as schedule, Traffic(broker.url, queue) as traffic:
        for _ in range(times):
            pause = schedule.uniform(0, 0.3)
            schedule.note(f"kill after {pause:.4f} s")
            before = time.monotonic()
            eventually(lambda before=before, pause=pause: time.monotonic() - before >= pause)
            broker.kill()
            broker.start()
            traffic.wait_for_flow(PATIENCE)
    traffic.ledger.check()
    assert traffic.times_lost >= times
    return traffic.ledger.summary()


def test_batches_that_a_killed_broker_confirmed_are_there_after_its_restart(durable, unique):
    """Nobody consumes meanwhile, so all that was confirmed has to come from the store."""
    ledger, queue = Ledger(), unique()
    with seeded() as schedule:
        for round_ in range(5):
            send_until_killed(durable, ledger, queue, round_, schedule.uniform(0.01, 0.3))
            durable.start()
        with BrokerConnection(durable.url) as connection:
            consumer = Consumer(connection, queue)
            for message in iter(lambda: consumer.fetch(auto_ack=True), None):
                ledger.received(tuple(message.payload))
        ledger.check()
    assert ledger.summary().split("confirmed ")[1][0] != "0"
    print(ledger.summary())


def send_until_killed(
    broker: ZeroMQ, ledger: Ledger, queue: str, round_: int, pause: float
) -> None:
    """Four threads send batches, one by one, until the broker is killed."""

    def send(thread: int) -> None:
        with BrokerConnection(broker.url, reconnect=False) as connection:
            Consumer(connection, queue)
            publisher = Publisher(connection, routing_key=queue)
            number = 0
            while True:
                batch = [(round_, thread, number + n) for n in range(50)]
                number += len(batch)
                for id_ in batch:
                    ledger.attempted(id_)
                try:
                    publisher.send_many(batch)
                except ConnectionError:
                    for id_ in batch:
                        ledger.failed(id_)
                    return
                for id_ in batch:
                    ledger.confirmed(id_)

    threads = [threading.Thread(target=send, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun >= pause)
    broker.kill()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
