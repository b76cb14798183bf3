"""A program that ends without close(): what it handed over goes out, and it ends in time."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carrot.connection import BrokerConnection
from carrot.deadline import Deadline
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ
from tests.faults.proxy import Proxy

ROOT = Path(__file__).parents[2]
DRIVERS = ("amqp", "pyamqplib", "pystomp", "zeromq")
MESSAGES = 3000
ENDS = 20.0  # seconds in which a program must have ended, and Python with it

HEAD = """
import atexit, multiprocessing, os, sys, threading
from carrot import AMQPConnection, Consumer, Publisher

url, queue = sys.argv[1:]
connection = AMQPConnection(url)
consumer = Consumer(connection, queue=queue)
publisher = Publisher(connection, exchange="", routing_key=queue)
"""
SETTLES = {
    "fetch with auto_ack": "consumer.fetch(auto_ack=True)",
    "ack": "consumer.fetch().ack()",
    "reject": "consumer.fetch().reject()",
    "ack among others": """
        others = [consumer.fetch() for _ in range(3)]
        others[0].ack(), others[2].ack(), others[1].ack()
    """,
    "sys.exit": "consumer.fetch().ack()\nsys.exit()",
    "exception": "consumer.fetch().ack()\nraise SystemError('expected')",
    "at the end of a function": """
        def main():
            connection = AMQPConnection(url)
            Consumer(connection, queue=queue).fetch().ack()
        main()
    """,
    "at the end of a thread": """
        threading.Thread(target=lambda: consumer.fetch().ack()).start()
    """,
    "in atexit": "atexit.register(lambda: consumer.fetch().ack())",
    "in a forked child": """
        child = multiprocessing.get_context("fork").Process(target=lambda: consumer.fetch().ack())
        child.start()
        child.join()
    """,
}
SENDS = {
    "normally": "",
    "sys.exit": "sys.exit(0)",
    "in a forked child": None,
}


def run(program: str, url: str, queue: str, ends: float = ENDS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, url, queue],
        capture_output=True,
        text=True,
        timeout=ends,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(params=DRIVERS)
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "pystomp":
        return str(request.getfixturevalue("stomp_url"))
    if request.param == "zeromq":
        return str(request.getfixturevalue("zeromq").url)
    return str(request.getfixturevalue("amqp_url")).replace("amqp://", f"{request.param}://", 1)


@pytest.fixture
def onlooker(url: str) -> Iterator[BrokerConnection]:
    with BrokerConnection(url) as connection:
        yield connection


def left_in(connection: BrokerConnection, queue: str) -> list[object]:
    """What is in the queue for half a second: a broker gives back what was not settled."""
    left: list[object] = []
    with Consumer(connection, queue, auto_ack=True) as consumer:
        end = Deadline.after(0.5)
        while not end.is_past:
            left += [message.payload for message in consumer.iterqueue()]
    return left


@pytest.mark.parametrize("program", SETTLES.values(), ids=list(SETTLES))
def test_what_a_program_settled_last_is_settled(
    onlooker: BrokerConnection, url: str, unique: Callable[..., str], program: str
) -> None:
    queue = unique()
    with Consumer(onlooker, queue) as consumer:
        consumer.declare()
    for number in range(3):
        Publisher(onlooker, exchange="", routing_key=queue).send(number)

    done = run(HEAD + textwrap.dedent(program), url, queue)

    assert done.stderr == "" or "expected" in done.stderr
    settled = 3 if "others" in program else 1
    assert left_in(onlooker, queue) == list(range(3))[settled:]


@pytest.mark.parametrize("end", SENDS.values(), ids=list(SENDS))
def test_what_a_program_sent_without_confirms_arrives(
    onlooker: BrokerConnection, url: str, unique: Callable[..., str], end: str | None
) -> None:
    queue = unique()
    with Consumer(onlooker, queue) as consumer:
        consumer.declare()
    publisher = "Publisher(connection, exchange='', routing_key=queue, confirm=False)"
    send = f"{publisher}.send_many(range({MESSAGES}))\n"
    if end is None:
        send = f"""
def main():
    connection = AMQPConnection(url)
    {send}
child = multiprocessing.get_context("fork").Process(target=main)
child.start()
child.join()
"""

    done = run(HEAD + send + (end or ""), url, queue)

    assert done.stderr == ""
    assert sorted(left_in(onlooker, queue)) == list(range(MESSAGES))


@pytest.mark.parametrize("registered", ["before carrot is imported", "after"])
def test_a_first_use_at_exit_works(
    onlooker: BrokerConnection, url: str, unique: Callable[..., str], registered: str
) -> None:
    queue = unique()
    with Consumer(onlooker, queue) as consumer:
        consumer.declare()
    program = """
import atexit, sys
{before}
from carrot import AMQPConnection, Consumer, Publisher

def bye():
    connection = AMQPConnection(sys.argv[1])
    Publisher(connection, exchange="", routing_key=sys.argv[2]).send("bye")
    Consumer(connection, queue=sys.argv[2]).fetch().ack()
    Publisher(connection, exchange="", routing_key=sys.argv[2]).send("done")

{after}
"""
    register = "atexit.register(lambda: bye())"
    before = registered != "after"

    done = run(
        program.format(before=register if before else "", after="" if before else register),
        url,
        queue,
    )

    assert done.stderr == ""
    assert left_in(onlooker, queue) == ["done"]


@pytest.mark.parametrize("driver", ["amqp", "pyamqplib"])
def test_a_program_ends_in_time_when_the_broker_does_not_answer(
    rabbitmq: RabbitMQ, unique: Callable[..., str], driver: str
) -> None:
    queue = unique()
    program = HEAD + textwrap.dedent("""
        connections = [AMQPConnection(url) for _ in range(5)]
        for one in connections:
            Publisher(one, exchange="", routing_key=queue).send("x")
        consumer.fetch().ack()
        print("frozen", flush=True)
        sys.stdin.readline()
    """)
    with Proxy(rabbitmq.port) as proxy:
        process = subprocess.Popen(
            [sys.executable, "-c", program, proxy.url.replace("amqp", driver, 1), queue],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "frozen\n"
        for link in proxy.links:
            link.freeze()

        _, _ = process.communicate("\n", timeout=5 + 3)

        assert process.returncode == 0


def test_a_daemon_thread_that_waits_is_not_disturbed_at_the_end(
    amqp_url: str, unique: Callable[..., str]
) -> None:
    program = HEAD + textwrap.dedent("""
        import time
        def wait():
            try:
                consumer.wait()
            finally:
                print("disturbed", flush=True)
        threading.Thread(target=wait, daemon=True).start()
        while not (consumer.backend.is_open and connection.connection.stream._turns.is_taken):
            time.sleep(0.01)
    """)

    done = run(program, amqp_url, unique())

    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
