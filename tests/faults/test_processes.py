"""Processes that were forked or spawned use connections of their own, and nobody disturbs them."""

from __future__ import annotations

import http.client
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ
from tests.brokers.process import free_port
from tests.faults.ledger import Ledger
from tests.waiting import eventually

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

DRIVERS = ("amqp", "pyamqplib")
ROOT = Path(__file__).parents[2]
PATIENCE = 20.0  # seconds in which a process must have done its work
CHILDREN = 4
EACH = 25  # messages that a process sends


@pytest.fixture(params=DRIVERS)
def url(request: pytest.FixtureRequest, rabbitmq: RabbitMQ) -> str:
    return rabbitmq.url.replace("amqp://", f"{request.param}://", 1)


@pytest.fixture
def connection(url: str) -> Iterator[BrokerConnection]:
    """The parent's."""
    with BrokerConnection(url) as connection:
        yield connection


@pytest.fixture
def queue(rabbitmq: RabbitMQ, unique: Callable[..., str]) -> Iterator[str]:
    """A queue, which is deleted at the end."""
    name = unique("work")
    with BrokerConnection(rabbitmq.url) as connection:
        Consumer(connection, name).close()
        yield name
        connection.create_backend().queue_delete(name)


@contextmanager
def running(processes: list[multiprocessing.process.BaseProcess]) -> Iterator[None]:
    """Start them; at the end they must have ended, with exit code 0."""
    for process in processes:
        process.start()
    try:
        yield
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        assert [process.exitcode for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join(PATIENCE)


def taken_from(url: str, queue: str) -> tuple[list[object], list[str]]:
    """The data and the message ids of what waits in the queue."""
    with BrokerConnection(url) as connection, Consumer(connection, queue) as consumer:
        messages = list(iter(lambda: consumer.fetch(auto_ack=True), None))
        return (
            [message.payload for message in messages],
            [message.properties["message_id"] for message in messages],
        )


def everything(*senders: str) -> list[list[object]]:
    return sorted([sender, number] for sender in senders for number in range(EACH))


# What children do; at the top of the module, where those that are spawned find it.


def publish_through(publisher: Publisher, name: str) -> None:
    for number in range(EACH):
        publisher.send([name, number])


def publish_over(connection: BrokerConnection, queue: str, name: str) -> None:
    with connection:
        publish_through(Publisher(connection, routing_key=queue), name)


def publish_to(url: str, queue: str, name: str) -> None:
    publish_over(BrokerConnection(url), queue, name)


def consume_and_ack(consumer: Consumer, limit: int) -> None:
    consumer.wait(limit=limit, timeout=PATIENCE)


# -- fork


@pytest.mark.parametrize("shared", ["connection", "publisher"])
def test_forked_children_publish_and_so_does_the_parent(url, connection, queue, shared):
    context = multiprocessing.get_context("fork")
    publisher = Publisher(connection, routing_key=queue)
    publisher.send(["before", 0])
    transport = connection.connection
    names = [f"child {number}" for number in range(CHILDREN)]
    children = [
        context.Process(target=publish_over, args=(connection, queue, name))
        if shared == "connection"
        else context.Process(target=publish_through, args=(publisher, name))
        for name in names
    ]

    with running(children):
        publish_through(publisher, "parent")
    publisher.send(["after", 0])

    assert connection.connection is transport
    assert transport.is_open
    payloads, ids = taken_from(url, queue)
    assert sorted(payloads) == sorted([["before", 0], *everything("parent", *names), ["after", 0]])
    assert len(set(ids)) == len(payloads)


def test_fork_in_the_middle_of_other_threads_sends_stops_nobody(url, connection, queue):
    context = multiprocessing.get_context("fork")
    publisher = Publisher(connection, routing_key=queue)
    is_over = threading.Event()
    ledger = Ledger()

    def publish(name: int) -> None:
        number = 0
        while not is_over.is_set():
            ledger.attempted((name, number))
            publisher.send([name, number])
            ledger.confirmed((name, number))
            number += 1

    names = [f"child {number}" for number in range(5 * CHILDREN)]
    with ThreadPoolExecutor(CHILDREN) as threads:
        sending = [threads.submit(publish, name) for name in range(CHILDREN)]
        try:
            with running(
                [context.Process(target=publish_through, args=(publisher, name)) for name in names]
            ):
                pass
        finally:
            is_over.set()
    for sent in sending:
        sent.result()

    payloads, ids = taken_from(url, queue)
    by_children = [payload for payload in payloads if isinstance(payload[0], str)]
    assert sorted(by_children) == everything(*names)
    for payload in payloads:
        if payload not in by_children:
            ledger.received(tuple(payload))
    ledger.check()
    assert not ledger.duplicated
    assert len(set(ids)) == len(payloads)


def test_child_does_not_take_what_was_sent_ahead_to_the_parent(url, connection, queue):
    received: list[tuple[int, bool]] = []
    with Publisher(connection, routing_key=queue) as publisher:
        publisher.send_many(range(10))
    with Consumer(connection, queue, prefetch_count=5) as consumer:
        consumer.register_callback(
            lambda data, message: (received.append((data, message.redelivered)), message.ack())
        )
        loop = consumer.iterconsume(limit=10, timeout=PATIENCE)
        next(loop)

        child = multiprocessing.get_context("fork").Process(
            target=consume_and_ack, args=(consumer, 3)
        )
        with running([child]):
            pass
        for _ in range(6):
            next(loop)

    # Three went to the child, from those that waited in the queue.
    assert len(received) == 7
    assert received[:5] == [(number, False) for number in range(5)]
    assert taken_from(url, queue) == ([], [])


def test_child_of_a_thread_that_waits_goes_on_over_a_connection_of_its_own(connection, queue):
    consumer = Consumer(connection, queue, callbacks=[lambda data, message: message.ack()])
    publisher = Publisher(connection, routing_key=queue)
    loop = consumer.iterconsume()
    waiting = threading.Thread(target=next, args=(loop,))
    waiting.start()
    transport = connection.connection
    eventually(lambda: getattr(transport, "stream", transport)._turns.is_taken)

    child = multiprocessing.get_context("fork").Process(target=next, args=(loop,))
    with running([child]):
        eventually(lambda: publisher.send("x") or not child.is_alive(), PATIENCE)

    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    assert connection.connection is transport


def test_child_that_ends_without_a_word_does_not_end_the_parents_connection(connection, queue):
    publisher = Publisher(connection, routing_key=queue)
    publisher.send("before")

    for _ in range(CHILDREN):
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        publisher.send("after")

    assert connection.is_open


# -- spawn


def test_spawned_children_publish_and_so_does_the_parent(url, connection, queue):
    context = multiprocessing.get_context("spawn")
    publisher = Publisher(connection, routing_key=queue)
    publisher.send(["before", 0])
    names = ["child 0", "child 1"]

    with running([context.Process(target=publish_to, args=(url, queue, name)) for name in names]):
        publish_through(publisher, "parent")

    payloads, ids = taken_from(url, queue)
    assert sorted(payloads) == sorted([["before", 0], *everything("parent", *names)])
    assert len(set(ids)) == len(payloads)


# -- gunicorn

APPLICATION = """
import os
import time

from carrot.connection import BrokerConnection
from carrot.messaging import Publisher

# Used before the fork: gunicorn --preload loads this in the parent of its workers.
connection = BrokerConnection({url!r})
publisher = Publisher(connection, routing_key={queue!r})
publisher.send("preloaded")


def application(environ, start_response):
    publisher.send(environ["PATH_INFO"])
    time.sleep(0.02)  # else one worker could answer them all
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""
WORKERS = 3
REQUESTS = 60


@pytest.fixture
def site(url: str, queue: str, tmp_path: Path) -> Iterator[int]:
    """The port of a gunicorn whose application publishes what it is asked for."""
    (tmp_path / "site_that_publishes.py").write_text(APPLICATION.format(url=url, queue=queue))
    port = free_port()
    command = [
        sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS),
        "--bind", f"127.0.0.1:{port}", "--graceful-timeout", "5", "site_that_publishes",
    ]  # fmt: skip
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "HOME": str(tmp_path)
    }  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        eventually(lambda: process.poll() is not None or _answers(port), PATIENCE)
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield port
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE)


def ask(port: int, path: str) -> int:
    """The process that answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return int(response.read())
    finally:
        connection.close()


def _answers(port: int) -> bool:
    try:
        return bool(ask(port, "/hello"))
    except OSError:
        return False


def test_workers_of_a_preloaded_gunicorn_publish(url, queue, site):
    paths = [f"/{number}" for number in range(REQUESTS)]
    with ThreadPoolExecutor(2 * WORKERS) as clients:
        answered_by = list(clients.map(lambda path: ask(site, path), paths))

    assert len(set(answered_by)) > 1
    payloads, ids = taken_from(url, queue)
    assert sorted(payloads) == sorted(["preloaded", "/hello", *paths])
    assert len(set(ids)) == len(payloads)
