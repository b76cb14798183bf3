"""The last act of a program counts: what it handed over reaches the broker before it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carrot.messaging import Consumer, Publisher
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
WITHIN = 20  # seconds, for a program that takes less than one

# TLS is left out, for processes take their time; it is the same driver. What the memory
# driver holds ends with its process.
pytestmark = pytest.mark.parametrize(
    "backend_name", ["amqp", "pyamqplib", "stomp", "zeromq"], indirect=True
)

# The first message stays unsettled: when it is back, all is back that comes back.
HEAD = """
import atexit, sys, threading
from carrot import BrokerConnection, Consumer, Publisher
url, queue = sys.argv[1:]
connection = BrokerConnection(url)
"""
TAKE = (
    HEAD
    + """
consumer = Consumer(connection, queue=queue)
marker, job = consumer.fetch(), consumer.fetch()
assert (marker.payload, job.payload) == ("marker", "job")
"""
)

LAST_ACTS = {
    "ack": "job.ack()",
    "reject": "job.reject()",
    "auto_ack": "assert consumer.fetch(auto_ack=True).payload == 'second job'; job.ack()",
    "publish and ack": "Publisher(connection, '', queue + '-results').send('done'); job.ack()",
    "ack and sys.exit": "job.ack(); sys.exit()",
    "ack in a thread": "threading.Thread(target=job.ack).start()",
    "ack at exit": "atexit.register(job.ack)",
    "ack before the connection": "job.ack(); del consumer, job, connection",
}


def run(program: str, url: str, queue: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end; it may not hang there."""
    return subprocess.run(
        [sys.executable, "-c", program, url, queue],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )


@pytest.fixture
def queue(connection, unique):
    """A queue with a marker and two jobs; what the programs publish has one as well."""
    name = unique("work")
    Consumer(connection, name)
    Consumer(connection, f"{name}-results")
    with Publisher(connection, routing_key=name) as publisher:
        publisher.send_many(["marker", "job", "second job"])
    return name


def left(connection, queue):
    """What the queue holds when the marker is back."""
    with Consumer(connection, queue) as consumer:
        eventually(lambda: back(consumer), WITHIN)
        return [message.payload for message in iter(lambda: consumer.fetch(auto_ack=True), None)]


def back(consumer):
    """Take the marker, if it is there; nobody takes anything else."""
    message = consumer.fetch()
    if message is None:
        return False
    if message.payload == "marker":
        message.ack()
        return True
    message.requeue()
    return False


@pytest.mark.parametrize("act", LAST_ACTS)
def test_message_that_a_program_settled_last_does_not_come_back(
    connection, backend_url, queue, act
):
    done = run(TAKE + LAST_ACTS[act], backend_url, queue)

    assert (done.returncode, done.stderr) == (0, "")
    jobs = [] if act == "auto_ack" else ["second job"]
    assert left(connection, queue) == jobs
    if act == "publish and ack":
        assert eventually(Consumer(connection, f"{queue}-results").fetch).payload == "done"


def test_message_that_was_acked_before_an_uncaught_exception_does_not_come_back(
    connection, backend_url, queue
):
    done = run(TAKE + "job.ack(); raise KeyError('mine')", backend_url, queue)

    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("KeyError: 'mine'")
    assert left(connection, queue) == ["second job"]


ENDINGS = {
    "at its end": "send()",
    "by sys.exit": "send(); sys.exit()",
    "by an uncaught exception": "send(); raise SystemExit(0) from KeyError('mine')",
    "in a thread": "threading.Thread(target=send).start()",
}
SEND = (
    HEAD
    + """
def send():
    Publisher(connection, "", queue, confirm=False).send_many(range(5000))
"""
)


@pytest.mark.parametrize("ending", ENDINGS)
def test_messages_that_a_program_sent_last_arrive_without_confirms(
    connection, backend_url, unique, ending
):
    name, received = unique("flood"), []
    consumer = Consumer(connection, name, prefetch_count=1000, no_ack=True)
    consumer.register_callback(lambda data, message: received.append(data))

    done = run(SEND + ENDINGS[ending], backend_url, name)
    list(consumer.iterconsume(limit=5000, timeout=WITHIN / 2))

    assert (done.returncode, done.stderr) == (0, "")
    assert received == list(range(5000))


def test_first_use_in_an_exit_handler_works_or_says_why(connection, backend_url, unique):
    name = unique("bye")
    consumer = Consumer(connection, name)
    program = (
        HEAD
        + """
def bye():
    try:
        Publisher(connection, "", queue).send("bye")
    except Exception as exc:
        print(f"{type(exc).__module__}: {exc}")
    else:
        print("sent")
atexit.register(bye)
"""
    )

    done = run(program, backend_url, name)

    said = done.stdout.strip()
    assert (done.returncode, done.stderr) == (0, "")
    assert said == "sent" or (said.startswith("carrot.exceptions: ") and "exit" in said)
    if said == "sent":
        assert eventually(consumer.fetch).payload == "bye"
