"""Heartbeats need nothing of the program, and tell in time that the peer is gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ
from tests.faults.proxy import Proxy
from tests.waiting import eventually

DRIVERS = ("amqp", "pyamqplib")
PATIENCE = 10.0  # seconds in which something must happen that takes no time of its own


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    """A proxy before the broker."""
    with Proxy(rabbitmq.port) as proxy:
        yield proxy


@pytest.fixture
def queue(rabbitmq: RabbitMQ, unique: Callable[..., str]) -> Iterator[str]:
    """A queue, which is deleted at the end."""
    name = unique("work")
    with BrokerConnection(rabbitmq.url) as connection:
        Consumer(connection, name).close()
        yield name
        connection.create_backend().queue_delete(name)


def url_of(proxy: Proxy, driver: str) -> str:
    return proxy.url.replace("amqp://", f"{driver}://", 1)


def is_empty(rabbitmq: RabbitMQ, queue: str) -> bool:
    with BrokerConnection(rabbitmq.url) as connection, Consumer(connection, queue) as consumer:
        return consumer.fetch() is None


# -- a callback that blocks


def block_in_a_callback(proxy: Proxy, driver: str, queue: str, heartbeat: int, blocks: float):
    """Whether each of two messages was redelivered; the first one's callback takes so long."""
    received: list[tuple[str, bool]] = []

    def work(data: str, message) -> None:
        if data == "long":
            time.sleep(blocks)
        message.ack()
        received.append((data, message.redelivered))

    url = url_of(proxy, driver)
    with BrokerConnection(url, heartbeat=heartbeat, reconnect=False) as connection:
        Publisher(connection, routing_key=queue).send_many(["long", "short"])
        with Consumer(connection, queue, prefetch_count=1, callbacks=[work]) as consumer:
            consumer.wait(limit=2, timeout=blocks + PATIENCE)
    return received


@pytest.mark.parametrize("driver", DRIVERS)
def test_callback_blocks_for_five_heartbeats_and_its_ack_is_accepted(
    rabbitmq, proxy, queue, driver
):
    # Nobody else uses the connection, so the broker hears nothing but heartbeats.
    received = block_in_a_callback(proxy, driver, queue, heartbeat=1, blocks=5)

    assert received == [("long", False), ("short", False)]
    assert proxy.connections == 1
    assert is_empty(rabbitmq, queue)


@pytest.mark.faults
@pytest.mark.parametrize("driver", DRIVERS)
def test_callback_blocks_for_a_minute_and_its_ack_is_accepted(rabbitmq, proxy, queue, driver):
    received = block_in_a_callback(proxy, driver, queue, heartbeat=2, blocks=60)

    assert received == [("long", False), ("short", False)]
    assert proxy.connections == 1
    assert is_empty(rabbitmq, queue)


def test_callback_that_leaves_no_time_to_others_does_not_stop_the_heartbeats(
    rabbitmq, proxy, queue
):
    def work(data: str, message) -> None:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            sum(range(10_000))
        message.ack()

    with BrokerConnection(proxy.url, heartbeat=1, reconnect=False) as connection:
        Publisher(connection, routing_key=queue).send("x")
        with Consumer(connection, queue, callbacks=[work]) as consumer:
            consumer.wait(limit=1, timeout=3 + PATIENCE)

    assert is_empty(rabbitmq, queue)


def test_all_connections_of_a_process_share_one_timer_thread(rabbitmq):
    def timers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "carrot-timer"]

    connections = [BrokerConnection(rabbitmq.url, heartbeat=1) for _ in range(5)]
    for connection in connections:
        connection.connect()

    try:
        assert timers() == ["carrot-timer"]
    finally:
        for connection in connections:
            connection.close()


# -- a peer that says nothing


def test_wait_notices_a_silent_peer_within_two_heartbeats_and_goes_on(rabbitmq, proxy, queue):
    received: list[str] = []
    noticed: list[float] = []
    recovered: list[float] = []

    def work(data: str, message) -> None:
        message.ack()
        received.append(data)

    connection = BrokerConnection(
        proxy.url,
        heartbeat=1,
        on_connection_lost=lambda error, interval: noticed.append(time.monotonic()),
        on_recovered=lambda: recovered.append(time.monotonic()),
    )
    with connection, Consumer(connection, queue, callbacks=[work]) as consumer:
        waiting = threading.Thread(target=consumer.wait)
        waiting.start()
        with BrokerConnection(rabbitmq.url) as other:
            Publisher(other, routing_key=queue).send("before")
            eventually(lambda: received == ["before"])
            silent = proxy.link

            frozen_at = time.monotonic()
            silent.freeze()
            eventually(lambda: recovered, PATIENCE)
            Publisher(other, routing_key=queue).send("after")

            eventually(lambda: "after" in received, PATIENCE)
        consumer.stop()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()

    # The last sign of life may have come up to a heartbeat before the silence.
    assert 0.9 < noticed[0] - frozen_at < 2.5
    assert recovered[0] - frozen_at < 3.5
    assert proxy.link is not silent


def test_send_notices_a_silent_peer_and_sends_again(rabbitmq, proxy, queue):
    with BrokerConnection(proxy.url, heartbeat=1) as connection:
        publisher = Publisher(connection, routing_key=queue)
        publisher.send("before")
        frozen_at = time.monotonic()
        proxy.link.freeze()

        publisher.send("after")

        assert time.monotonic() - frozen_at < 3.5
    assert proxy.connections == 2
    with BrokerConnection(rabbitmq.url) as connection, Consumer(connection, queue) as consumer:
        payloads = [
            message.payload for message in iter(lambda: consumer.fetch(auto_ack=True), None)
        ]
    assert payloads == ["before", "after"]


# -- what the system notices


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="not known to this system")
@pytest.mark.parametrize("driver", DRIVERS)
def test_system_looks_whether_the_peer_is_alive(rabbitmq, driver):
    with BrokerConnection(rabbitmq.url.replace("amqp://", f"{driver}://", 1)) as connection:
        transport = connection.connect()
        sock = transport.stream._link._sock if driver == "amqp" else transport._amqp.transport.sock

        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
            value = sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, option))
            assert value, option
        keepalive = [
            sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, option))
            for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        ]
        assert keepalive[0] + keepalive[1] * keepalive[2] <= 180  # seconds until it gives up
