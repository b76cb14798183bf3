"""Runs each test of this folder over every backend.

A backend joins by one line in BACKENDS. A test asks for ``connection``, or for ``connect`` to have
several to the same broker, and may declare any names: whatever it declared is gone afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

import pytest

from carrot.backends import get_backend_cls
from carrot.backends.base import BaseChannel, Capabilities, Exchange, Queue, QueueDeclared
from carrot.backends.seam.topology import DeclaredTopology
from carrot.connection import BrokerConnection
from carrot.exceptions import NotSupported, ResourceLocked
from carrot.messaging import Consumer, Publisher
from tests.brokers import ZeroMQ
from tests.brokers.tls import TlsBroker

# A backend's name, and the fixture that returns the URL of its broker.
BACKENDS = {
    "memory": "memory_url",
    "amqp": "amqp_url",
    "amqps": "amqps_url",
    "pyamqplib": "pyamqplib_url",
    "stomp": "stomp_url",
    "zeromq": "zeromq_url",
}


@pytest.fixture
def memory_url(unique: Callable[..., str]) -> str:
    """A virtual host of its own for each test."""
    return f"memory://{unique('world')}/"


@pytest.fixture
def amqps_url(tls_broker: TlsBroker, monkeypatch: pytest.MonkeyPatch) -> str:
    """A RabbitMQ over TLS, whose certificate authority the system trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", tls_broker.ca)
    return f"amqps://guest:guest@localhost:{tls_broker.tls_port}//"


@pytest.fixture
def pyamqplib_url(amqp_url: str) -> str:
    """The same RabbitMQ, through the other driver."""
    return amqp_url.replace("amqp://", "pyamqplib://", 1)


@pytest.fixture
def zeromq_url(zeromq: ZeroMQ, unique: Callable[..., str]) -> str:
    """A virtual host of its own for each test."""
    return zeromq.virtual_host(unique("world"))


# What differs without a NotSupported, since it is nothing that one could ask for.
UNTOLD = {"holds_deliveries", "inspection", "requeue_in_place", "thread_safe"}


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """A test of what the driver can't do must end in a NotSupported that says so.

    It is skipped then, and fails when it ends otherwise: so neither a marker nor a field of
    ``capabilities`` can hide more than what the driver says that it can't do.
    """
    name = pyfuncitem.callspec.params.get("backend_name") if _is_parametrized(pyfuncitem) else None
    needed = [feature for mark in pyfuncitem.iter_markers("needs") for feature in mark.args]
    lacking = [feature for feature in needed if name and not getattr(_capabilities(name), feature)]
    if not lacking:
        return (yield)
    if not UNTOLD.isdisjoint(lacking):
        pytest.skip(f"{name} has no {', '.join(lacking)}")
    try:
        yield
    except NotSupported as exc:
        told = [feature for feature in lacking if f"has no {feature}: " in str(exc)]
        if not told:
            raise
        pytest.skip(f"{name} has no {', '.join(told)}")
    pytest.fail(f"{name} has no {', '.join(lacking)}, and the test passes all the same")


def _is_parametrized(item: pytest.Function) -> bool:
    return hasattr(item, "callspec")


def _capabilities(name: str) -> Capabilities:
    return get_backend_cls(name).capabilities


@pytest.fixture(params=list(BACKENDS))
def backend_name(request: pytest.FixtureRequest) -> str:
    """The backend under test, by its name in BACKENDS."""
    request.node.user_properties.append(("backend", request.param))
    return request.param


@pytest.fixture
def backend_url(backend_name: str, request: pytest.FixtureRequest) -> str:
    """Where the backend under test has its broker."""
    return request.getfixturevalue(BACKENDS[backend_name])


class Declared:
    """Remembers the names of what a driver declares, in order to delete them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queues: set[str] = set()
        self.exchanges: set[str] = set()
        declare = DeclaredTopology.declare

        def declare_and_note(
            topology: DeclaredTopology, channel: BaseChannel, entity: Exchange | Queue
        ) -> QueueDeclared | None:
            declared = declare(topology, channel, entity)
            if declared is None:
                self.exchanges.add(entity.name)
            else:
                self.queues.add(declared.queue)
            return declared

        monkeypatch.setattr(DeclaredTopology, "declare", declare_and_note)

    def delete(self, connection: BrokerConnection) -> None:
        """Delete them all; names that are gone already are no error.

        Where nothing can be deleted they stay, until the broker of this run is removed: no other
        test has their names.
        """
        backend = connection.create_backend()
        if not backend.capabilities.deletion:
            return
        for queue in self.queues:
            # Of a connection that the test left open: it goes when that one goes.
            with suppress(ResourceLocked):
                backend.queue_delete(queue)
        for exchange in self.exchanges:
            if exchange and not exchange.startswith("amq."):
                backend.exchange_delete(exchange)
        backend.close()


@pytest.fixture
def connect(
    backend_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., BrokerConnection]]:
    """Makes connections to the broker under test; all are closed at the end."""
    with ExitStack() as connections:

        def make(**options: Any) -> BrokerConnection:
            return connections.enter_context(BrokerConnection(backend_url, **options))

        janitor = BrokerConnection(backend_url)
        declared = Declared(monkeypatch)
        yield make
        connections.close()
        with janitor:
            declared.delete(janitor)


@pytest.fixture
def connection(connect: Callable[..., BrokerConnection]) -> BrokerConnection:
    """A connection to the broker under test."""
    return connect()


class Feed(NamedTuple):
    """A publisher, and a consumer whose queue gets what it sends."""

    publisher: Publisher
    consumer: Consumer
    connection: BrokerConnection

    @property
    def queue(self) -> str:
        return self.consumer.queue

    @property
    def exchange(self) -> str:
        return self.consumer.exchange

    def payloads(self) -> list[Any]:
        """What waits in the queue; it is taken and acked."""
        fetch = partial(self.consumer.fetch, auto_ack=True)
        return [message.payload for message in iter(fetch, None)]


@pytest.fixture
def make_feed(
    connection: BrokerConnection, unique: Callable[..., str]
) -> Iterator[Callable[..., Feed]]:
    """Makes feeds on ``connection``; the options are the consumer's."""
    with ExitStack() as stack:

        def make(**options: Any) -> Feed:
            exchange = options.pop("exchange", None) or unique("exchange")
            exchange_type = options.get("exchange_type", "direct")
            options.setdefault("routing_key", "key")
            queue = options.pop("queue", None) or unique("queue")
            consumer = Consumer(connection, queue, exchange, **options)
            publisher = Publisher(
                connection, exchange, options["routing_key"], exchange_type=exchange_type
            )
            return Feed(stack.enter_context(publisher), stack.enter_context(consumer), connection)

        yield make


@pytest.fixture
def feed(make_feed: Callable[..., Feed]) -> Feed:
    """A feed over a direct exchange."""
    return make_feed()
