"""What a real broker does to its clients, and how they go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ConsumerCancelled,
    NotFound,
    OperationTimeout,
    Unroutable,
)
from carrot.message import Message
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ
from tests.conftest import unavailable
from tests.faults.ledger import Ledger
from tests.faults.traffic import PATIENCE, Traffic
from tests.waiting import eventually

Unique = Callable[..., str]

RECOVERY = 2.0  # seconds until messages flow again, once the broker accepts connections
ALARM_TIMEOUT = 1.0  # seconds that an impatient publisher waits for a confirm
LATE = 1.0  # seconds that a deadline may be overrun


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQ]:
    """A node of this module's own, for what others could not stand."""
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with RabbitMQ() as broker:
        yield broker


# -- the broker ends connections, or itself


def test_connections_closed_by_an_operator_are_made_again(
    rabbitmq: RabbitMQ, unique: Unique
) -> None:
    with Traffic(rabbitmq.url, unique()) as traffic:
        rabbitmq.ctl("close_all_connections", "maintenance")
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()
    assert traffic.times_lost >= 2


def test_an_application_that_stops_and_starts_is_awaited(node: RabbitMQ, unique: Unique) -> None:
    with Traffic(node.url, unique()) as traffic:
        node.ctl("stop_app")
        node.ctl("start_app")
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()
    assert traffic.times_lost >= 2


def test_a_node_that_is_killed_and_restarted_has_all_that_it_confirmed(
    node: RabbitMQ, unique: Unique
) -> None:
    with Traffic(node.url, unique()) as traffic:
        node.kill()
        node.start()
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()
    assert traffic.times_lost >= 2


def test_a_node_that_froze_is_left_after_two_heartbeats_and_found_again(
    node: RabbitMQ, unique: Unique
) -> None:
    with Traffic(node.url, unique(), connection_options={"heartbeat": 1}) as traffic:
        node.freeze()
        try:
            eventually(lambda: traffic.times_lost >= 2, 2 + LATE)
        finally:
            node.thaw()
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()


# -- what they use is deleted


def test_a_queue_that_is_deleted_is_declared_again_by_its_consumer(
    rabbitmq: RabbitMQ, unique: Unique
) -> None:
    queue = unique()

    with Traffic(
        rabbitmq.url,
        queue,
        expected=(Unroutable,),
        publisher_options={"mandatory": True},
    ) as traffic:
        with traffic.paused():  # what is in a queue goes with it
            delete_queue(rabbitmq, queue)
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()
    assert traffic.times_lost >= 1  # the consumer's watcher hears of it, too


@pytest.mark.parametrize(
    ("reconnect", "raise_on_cancel"), [(True, True), (False, False)], ids=["it", "its connection"]
)
def test_a_deleted_queue_ends_a_consumer_that_wants_to_know(
    rabbitmq: RabbitMQ, unique: Unique, reconnect: bool, raise_on_cancel: bool
) -> None:
    queue = unique()
    with BrokerConnection(rabbitmq.url, reconnect=reconnect) as connection:
        consumer = Consumer(connection, queue, raise_on_cancel=raise_on_cancel)
        consumer.consume()

        delete_queue(rabbitmq, queue)

        with pytest.raises(ConsumerCancelled, match=queue):
            consumer.wait(timeout=PATIENCE)


def delete_queue(broker: RabbitMQ, queue: str) -> None:
    with BrokerConnection(broker.url) as operator:
        operator.create_backend().queue_delete(queue)


def test_an_exchange_that_is_deleted_is_declared_again_by_its_publisher(
    rabbitmq: RabbitMQ, unique: Unique
) -> None:
    queue, exchange = unique("queue"), unique("exchange")

    with Traffic(
        rabbitmq.url,
        queue,
        exchange=exchange,
        expected=(NotFound, Unroutable),
        publisher_options={"mandatory": True},
    ) as traffic:
        with BrokerConnection(rabbitmq.url) as operator:
            operator.create_backend().exchange_delete(exchange)
            eventually(lambda: Unroutable in map(type, traffic.errors))
            assert NotFound in map(type, traffic.errors)
            # The binding went with the exchange, and its consumer can't know.
            operator.create_backend().queue_bind(queue, exchange, queue)
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()


# -- the broker has no memory left


@contextmanager
def memory_alarm(broker: RabbitMQ) -> Iterator[None]:
    """The broker takes no messages in the block."""
    broker.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        yield
    finally:
        broker.ctl("set_vm_memory_high_watermark", "0.4")


class Blockages:
    """What a connection is told about alarms."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.ends = 0

    def blocked(self, reason: str) -> None:
        self.reasons.append(reason)

    def unblocked(self) -> None:
        self.ends += 1

    @property
    def options(self) -> dict[str, Callable[..., object]]:
        return {"on_blocked": self.blocked, "on_unblocked": self.unblocked}


def test_an_alarm_is_named_when_the_patience_of_a_publisher_ends(
    node: RabbitMQ, unique: Unique
) -> None:
    ledger, queue, blockages = Ledger(), unique(), Blockages()
    with BrokerConnection(node.url, **blockages.options) as connection:
        consumer = Consumer(connection, queue)
        publisher = Publisher(connection, routing_key=queue, confirm_timeout=ALARM_TIMEOUT)
        with memory_alarm(node):
            for number in (1, 2):  # the one that sets it off, and one that isn't even sent
                ledger.attempted(number)
                begun = time.monotonic()
                with pytest.raises(OperationTimeout, match=r"alarm.*low on memory"):
                    publisher.send(number)
                assert time.monotonic() - begun < ALARM_TIMEOUT + LATE
                ledger.failed(number)
            eventually(lambda: blockages.reasons == ["low on memory"])

        send(publisher, ledger, 3)

        eventually(lambda: blockages.ends == 1)
        consumer.register_callback(lambda number, message: (ledger.received(number), message.ack()))
        eventually(lambda: consumer.process_next() is None and not ledger.lost)
    ledger.check()


def send(publisher: Publisher, ledger: Ledger, number: int) -> None:
    ledger.attempted(number)
    publisher.send(number)
    ledger.confirmed(number)


def test_a_connection_closes_during_an_alarm(node: RabbitMQ, unique: Unique) -> None:
    connection = BrokerConnection(node.url)
    publisher = Publisher(connection, routing_key=unique(), confirm_timeout=ALARM_TIMEOUT)
    with memory_alarm(node):
        with pytest.raises(OperationTimeout):
            publisher.send("too much")

        begun = time.monotonic()
        publisher.close()
        connection.close()

        assert time.monotonic() - begun < 2 * LATE
        assert not connection.is_open


def test_a_patient_publisher_goes_on_when_the_alarm_is_over(node: RabbitMQ, unique: Unique) -> None:
    blockages = Blockages()
    with Traffic(node.url, unique(), connection_options=blockages.options) as traffic:
        with memory_alarm(node):
            eventually(lambda: blockages.reasons, PATIENCE)
        traffic.wait_for_flow(RECOVERY)

    traffic.ledger.check()
    eventually(lambda: blockages.ends >= 1)
    assert traffic.times_lost == 0


# -- the broker loses patience with a callback


@contextmanager
def delivery_acknowledgement_timeout(broker: RabbitMQ, milliseconds: int) -> Iterator[None]:
    """Channels that are opened in the block are closed when they leave a delivery unsettled."""
    was = broker.ctl("eval", "application:get_env(rabbit, consumer_timeout, undefined).").strip()
    # Too short for rabbitmq.conf, and the other one has no name there.
    for name in ("consumer_timeout", "channel_tick_interval"):
        broker.ctl("eval", f"application:set_env(rabbit, {name}, {milliseconds}).")
    try:
        yield
    finally:
        broker.ctl("eval", f"application:set_env(rabbit, consumer_timeout, {was}).")
        broker.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 60000).")


def test_a_message_that_is_acked_too_late_comes_again_over_the_same_connection(
    node: RabbitMQ, unique: Unique
) -> None:
    ledger, queue = Ledger(), unique()
    log_so_far = len(node.log.read_bytes())

    def broker_has_given_up() -> bool:
        return b"delivery acknowledgement" in node.log.read_bytes()[log_so_far:]

    def take_too_long_once(number: int, message: Message) -> None:
        ledger.received(number)
        if not ledger.duplicated:
            eventually(broker_has_given_up, PATIENCE)
        message.ack()  # may raise ConnectionLost, after which the loop goes on
        if ledger.duplicated:
            consumer.stop()

    with (
        delivery_acknowledgement_timeout(node, 1000),
        BrokerConnection(node.url) as connection,
    ):
        consumer = Consumer(connection, queue, callbacks=[take_too_long_once])
        transport = connection.connection
        send(Publisher(connection, routing_key=queue), ledger, 1)

        consumer.wait(timeout=PATIENCE)

        assert connection.connection is transport
        assert consumer.fetch() is None
    ledger.check()
    assert ledger.duplicated == {1}
