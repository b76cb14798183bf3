"""Brokers without the names that the examples use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from carrot import BrokerConnection
from tests.brokers import ZeroMQ

# What the programs declare and leave behind, as programs do.
QUEUES = [
    "feed",
    "squares",
    "orders",
    "orders-later",
    "orders-failed",
    "notify-mail",
    "notify-text",
]
EXCHANGES = [
    "feed",
    "orders",
    "orders-later",
    "orders-failed",
    "notify-mail",
    "notify-text",
    "logs",
]


@pytest.fixture
def clean_zeromq(zeromq: ZeroMQ, unique: Callable[..., str]) -> str:
    """The URL of a ZeroMQ broker's empty virtual host."""
    return zeromq.virtual_host(unique("examples"))


@pytest.fixture
def clean_rabbitmq(amqp_url: str) -> Iterator[str]:
    """The URL of a RabbitMQ without the names that the examples use, before and after."""

    def clean() -> None:
        with BrokerConnection(amqp_url) as janitor, closing(janitor.channel()) as channel:
            for queue in QUEUES:
                channel.queue_delete(queue)
            for exchange in EXCHANGES:
                channel.exchange_delete(exchange)

    clean()
    yield amqp_url
    clean()


@pytest.fixture(params=["rabbitmq", "zeromq"])
def clean_broker(request: pytest.FixtureRequest) -> str:
    """The URL of each broker in turn, without the names that the examples use."""
    url: str = request.getfixturevalue(f"clean_{request.param}")
    return url
