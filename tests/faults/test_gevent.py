"""carrot in programs that gevent has monkey-patched; and eventlet, which is refused.

Each program runs in a process of its own, which is patched before anything else is imported. It
says on stdout what it did; another greenlet counts meanwhile, and must never stand still for long.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import ConfigurationError
from tests.brokers import RabbitMQ
from tests.faults.proxy import Proxy

ROOT = Path(__file__).parents[2]
ENDS = 30.0  # seconds in which each program must have ended, and Python with it

HEAD = """
import gevent.monkey
gevent.monkey.patch_all()
import faulthandler, sys, time
import gevent
from carrot import AMQPConnection, Consumer, Publisher
from carrot.deadline import Deadline, bounded_by
from carrot.exceptions import ConnectionLost, OperationTimeout
from carrot.retry import Retry

faulthandler.dump_traceback_later(25, exit=True)
url, queue = sys.argv[1:]
pauses = []


def tick():
    last = time.monotonic()
    while True:
        gevent.sleep(0.02)
        pauses.append(time.monotonic() - last)
        last = time.monotonic()


def say(text):
    print(text, flush=True)


def told():
    gevent.get_hub().threadpool.apply(sys.stdin.readline)


gevent.spawn(tick)
"""
TAIL = """
assert max(pauses) < 1, f"another greenlet stood still for {max(pauses):.1f} s"
say("done")
"""


class Program:
    """A patched program, which is told to go on line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def tell(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> tuple[str, str, int]:
        out, errors = self._process.communicate(timeout=ENDS)
        return out.strip(), errors, self._process.returncode


@contextmanager
def running(program: str, url: str, queue: str) -> Iterator[Program]:
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(program) + TAIL, url, queue],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    with Proxy(rabbitmq.port) as proxy:
        yield proxy


DRIVERS = ("amqp", "pyamqplib")


@pytest.mark.parametrize("driver", DRIVERS)
def test_messages_are_sent_and_consumed(
    amqp_url: str, unique: Callable[..., str], driver: str
) -> None:
    program = """
        got = []

        def take(data, message):
            got.append(data)
            message.ack()

        inbound, outbound = AMQPConnection(url), AMQPConnection(url)
        consumer = Consumer(inbound, queue=queue, callbacks=[take])
        consumer.declare()

        def publish():
            publisher = Publisher(outbound, exchange="", routing_key=queue)
            for number in range(50):
                publisher.send(number)
                gevent.sleep(0.005)

        greenlets = [gevent.spawn(publish), gevent.spawn(consumer.wait, limit=50, timeout=15)]
        gevent.joinall(greenlets, raise_error=True)
        assert got == list(range(50)), got
    """
    with running(program, amqp_url.replace("amqp", driver, 1), unique()) as patched:
        assert patched.end() == ("done", "", 0)


def test_greenlets_share_a_connection(amqp_url: str, unique: Callable[..., str]) -> None:
    program = """
        got = []

        def take(data, message):
            got.append(data)
            message.ack()

        connection = AMQPConnection(url)
        consumer = Consumer(connection, queue=queue, callbacks=[take])
        consumer.declare()
        publisher = Publisher(connection, exchange="", routing_key=queue)

        def publish(first):
            for number in range(first, first + 20):
                publisher.send(number)

        greenlets = [gevent.spawn(publish, 20 * number) for number in range(5)]
        greenlets.append(gevent.spawn(consumer.wait, limit=100, timeout=15))
        gevent.joinall(greenlets, raise_error=True)
        assert sorted(got) == list(range(100)), got
    """
    with running(program, amqp_url, unique()) as patched:
        assert patched.end() == ("done", "", 0)


@pytest.mark.parametrize("rst", [False, True], ids=["FIN", "RST"])
def test_a_connection_that_is_cut_is_made_again(
    proxy: Proxy, unique: Callable[..., str], rst: bool
) -> None:
    program = """
        got, lost = [], []

        def take(data, message):
            message.ack()
            if data not in got:  # one whose ack was cut off comes again
                got.append(data)
                say(f"got {data}")

        connection = AMQPConnection(url, on_connection_lost=lambda error, wait: lost.append(error))
        consumer = Consumer(connection, queue=queue, callbacks=[take])
        consumer.declare()
        waiting = gevent.spawn(consumer.wait)
        publisher = Publisher(connection, exchange="", routing_key=queue)
        for number in range(3):
            publisher.send(number)
            told()
        consumer.stop()
        waiting.get(timeout=15)
        assert lost
    """
    with running(program, proxy.url, unique()) as patched:
        for number in range(3):
            assert patched.hear() == f"got {number}"
            if number < 2:
                proxy.cut_all(rst)
            patched.tell()

        assert patched.end() == ("done", "", 0)


def test_heartbeats_are_sent_and_keep_the_connection(
    proxy: Proxy, unique: Callable[..., str]
) -> None:
    program = """
        connection = AMQPConnection(url, heartbeat=1)
        publisher = Publisher(connection, exchange="", routing_key=queue)
        publisher.send("x")
        transport = connection.connection
        for _ in range(5):
            try:
                connection.drain_events(timeout=0.7)
            except OperationTimeout:
                pass
        assert connection.connection is transport
        publisher.send("x")
    """
    with running(program, proxy.url, unique()) as patched:
        assert patched.end() == ("done", "", 0)
    assert proxy.connections == 1


def test_a_silent_peer_is_noticed_by_its_missing_heartbeats(
    proxy: Proxy, unique: Callable[..., str]
) -> None:
    program = """
        connection = AMQPConnection(url, heartbeat=1, reconnect=False)
        Consumer(connection, queue=queue).declare()
        say("frozen?")
        told()
        begun = time.monotonic()
        try:
            connection.drain_events(timeout=15)
        except ConnectionLost as exc:
            assert "silent" in str(exc), exc
        assert time.monotonic() - begun < 4
    """
    with running(program, proxy.url, unique()) as patched:
        assert patched.hear() == "frozen?"
        proxy.link.freeze()
        patched.tell()

        assert patched.end() == ("done", "", 0)


@pytest.mark.parametrize("body", [1, 24_000_000], ids=["small", "large"])
def test_a_send_to_a_peer_that_stops_reading_meets_its_deadline(
    proxy: Proxy, unique: Callable[..., str], body: int
) -> None:
    program = f"""
        connection = AMQPConnection(url, operation_timeout=1)
        publisher = Publisher(
            connection, exchange="", routing_key=queue, confirm_timeout=1, retry=Retry(attempts=0)
        )
        publisher.send("x")
        say("frozen?")
        told()
        begun = time.monotonic()
        try:
            publisher.send(b"x" * {body})
        except (ConnectionLost, OperationTimeout):
            pass
        else:
            raise AssertionError("it was sent")
        assert time.monotonic() - begun < 1 * 1.25 + 1
        connection.close(timeout=0.2)
    """
    with running(program, proxy.url, unique()) as patched:
        assert patched.hear() == "frozen?"
        proxy.link.freeze()
        patched.tell()

        assert patched.end() == ("done", "", 0)


def test_a_greenlet_waits_for_anothers_write_at_most_until_its_deadline(
    proxy: Proxy, unique: Callable[..., str]
) -> None:
    program = """
        connection = AMQPConnection(url, operation_timeout=4)
        publisher, other = (
            Publisher(
                connection, exchange="", routing_key=queue, confirm=False, retry=Retry(attempts=0)
            )
            for _ in range(2)
        )
        publisher.send("x")
        other.send("x")
        say("frozen?")
        told()

        def send():
            try:
                publisher.send(b"x" * 24_000_000)
            except ConnectionLost:
                pass

        sending = gevent.spawn(send)
        gevent.sleep(0.2)
        begun = time.monotonic()
        try:
            with bounded_by(Deadline.after(0.3)):
                other.send("x")
        except OperationTimeout:
            pass
        assert time.monotonic() - begun < 1
        connection.close(timeout=0.2)
        sending.get(timeout=5)
    """
    with running(program, proxy.url, unique()) as patched:
        assert patched.hear() == "frozen?"
        proxy.link.freeze()
        patched.tell()

        assert patched.end() == ("done", "", 0)


def test_a_greenlet_that_waits_is_woken_by_close(amqp_url: str, unique: Callable[..., str]) -> None:
    program = """
        connection = AMQPConnection(url, reconnect=False)
        consumer = Consumer(connection, queue=queue, callbacks=[print])
        ended = []

        def wait():
            try:
                consumer.wait()
            except ConnectionLost as exc:
                ended.append(exc)

        waiting = gevent.spawn(wait)
        gevent.sleep(0.3)
        connection.close()
        waiting.get(timeout=5)
        assert ended
    """
    with running(program, amqp_url, unique()) as patched:
        assert patched.end() == ("done", "", 0)


# -- eventlet


@pytest.mark.parametrize(
    "url",
    [
        "amqp://guest:guest@127.0.0.1:1//",
        "pyamqplib://guest:guest@127.0.0.1:1//",
        "memory://eventlet",
        "zeromq+tcp://127.0.0.1:1",
        "stomp://guest:guest@127.0.0.1:1",
    ],
)
def test_eventlet_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    patcher = types.ModuleType("eventlet.patcher")
    patcher.is_monkey_patched = lambda module: module == "socket"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)

    with pytest.raises(ConfigurationError, match=r"eventlet.*retired: use gevent, or threads"):
        BrokerConnection(url).connect()


def test_eventlet_that_has_patched_nothing_is_no_matter(
    monkeypatch: pytest.MonkeyPatch, amqp_url: str
) -> None:
    patcher = types.ModuleType("eventlet.patcher")
    patcher.is_monkey_patched = lambda module: False  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)

    with BrokerConnection(amqp_url) as connection:
        connection.connect()
