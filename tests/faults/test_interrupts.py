"""Threads and signals get in each other's way: no turn is kept, no confirm is another message's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import CarrotError, NotFound, Unroutable
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ

ROOT = Path(__file__).parents[2]
SECONDS = 3.0  # of each storm


@pytest.fixture(params=["amqp", "memory"])
def url(request: pytest.FixtureRequest, unique: Callable[..., str]) -> str:
    if request.param == "memory":
        return f"memory://{unique('world')}/"
    return request.getfixturevalue("rabbitmq").url


@pytest.fixture
def connection(url: str) -> Iterator[BrokerConnection]:
    with BrokerConnection(url, operation_timeout=5) as connection:
        yield connection


@pytest.fixture
def queue(connection: BrokerConnection, unique: Callable[..., str]) -> Iterator[str]:
    name = unique("short")
    arguments = {"x-max-length": 10}
    Consumer(connection, name, queue_arguments=arguments).close()
    yield name
    with connection.create_backend() as backend:
        backend.queue_delete(name)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns five hundred times as often, so that races are lost more often, too."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def run(*targets: Callable[[], object]) -> None:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 20)
        assert not thread.is_alive(), "a thread hangs"


def run_program(module: str, *arguments: str) -> str:
    """What a program prints that measuring coverage would get in the way of."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sending_goes_on_after_a_handler_raised_at_any_moment(url, queue):
    assert int(run_program("tests.faults.interrupted", url, queue)) > 20


def test_nothing_is_confirmed_by_a_channel_that_another_thread_closes(
    connection, queue, unique, hasty_threads
):
    """A mandatory message that reached no queue never counts as taken."""
    publisher = Publisher(connection, routing_key=queue, confirm_timeout=5)
    nowhere, outcomes = unique("nowhere"), Counter[str]()
    end = time.monotonic() + SECONDS

    def send(routing_key: str) -> None:
        while time.monotonic() < end:
            try:
                publisher.send("x", routing_key=routing_key, mandatory=True)
            except Unroutable:
                outcomes[f"{routing_key} unroutable"] += 1
            except CarrotError as exc:
                outcomes[type(exc).__name__] += 1
            else:
                outcomes[routing_key] += 1

    def close() -> None:
        while time.monotonic() < end:
            threading.Event().wait(0.01)
            publisher.backend.close()

    run(*[lambda: send(queue)] * 3, *[lambda: send(nowhere)] * 2, close)

    assert outcomes[queue]
    assert outcomes[f"{nowhere} unroutable"]
    assert not outcomes[nowhere], outcomes


def test_a_wrong_exchange_is_the_error_of_who_named_it(rabbitmq: RabbitMQ, unique, hasty_threads):
    """Though it closes the channel that all of them share."""
    outcomes, end = Counter[str](), time.monotonic() + SECONDS
    with BrokerConnection(rabbitmq.url) as connection:
        consumer = Consumer(connection, unique(), queue_arguments={"x-max-length": 10})
        publisher = Publisher(connection, routing_key=consumer.queue)
        missing = unique("missing")

        def innocent() -> None:
            while time.monotonic() < end:
                publisher.send("x")
                outcomes["sent"] += 1

        def culprit() -> None:
            while time.monotonic() < end:
                with pytest.raises(NotFound, match=missing):
                    publisher.send("x", exchange=missing)
                outcomes["told"] += 1
                threading.Event().wait(0.005)

        errors: list[BaseException] = []

        def guarded(target: Callable[[], None]) -> Callable[[], None]:
            def call() -> None:
                try:
                    target()
                except BaseException as exc:
                    errors.append(exc)

            return call

        run(*[guarded(innocent)] * 4, guarded(culprit))
        consumer.backend.queue_delete(consumer.queue)

    assert not errors, errors
    assert outcomes["sent"]
    assert outcomes["told"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_forked_while_others_use_the_memory_broker_can_use_theirs():
    assert run_program("tests.faults.forked") == "20 children sent\n"
