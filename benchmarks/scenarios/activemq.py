"""carrot's driver for ActiveMQ beside plain stomp.py doing the same work: receipts, and acks."""

from __future__ import annotations

import threading
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

import simplejson

from benchmarks.backends import activemq_url
from benchmarks.bodies import SMALL, body
from benchmarks.case import Case
from benchmarks.clock import Meter, Stopwatch
from benchmarks.job import Job, Result
from benchmarks.scenarios.backends import PREFETCH, consume_and_ack
from carrot import BrokerConnection, Consumer, Publisher

#: Messages on their way, not yet confirmed: as many for both.
WINDOW = 1000
PATIENCE = 60.0  # seconds

CASES = tuple(
    Case(
        f"activemq-{step}", f"ActiveMQ: {title}, 80 B", "activemq", ("carrot", "stomp.py"), 10_000,
        broker=False, options={"step": step},
    )
    for step, title in (
        ("publish", "publish, transient, confirms pipelined"),
        ("consume", "consume + ack, prefetch 500"),
    )
)  # fmt: skip


def run(job: Job) -> Result:
    data = body(SMALL, simplejson.dumps)
    do = {"carrot": (_publish, _consume), "stomp.py": (_publish_plainly, _consume_plainly)}
    publish, consume = do[job.peer]
    if job.options["step"] == "publish":
        result = publish(job, data)
    else:
        # What is consumed, carrot sends for both.
        _send(job, data, job.warmup + job.messages + 2 * PREFETCH)
        result = consume(job)
    # What is left would fill the broker's memory, round after round.
    with BrokerConnection(activemq_url()) as connection:
        Consumer(connection, job.queue).discard_all()
    return result


def _send(job: Job, data: Any, count: int) -> None:
    with BrokerConnection(activemq_url()) as connection:
        Consumer(connection, job.queue)
        Publisher(connection, routing_key=job.queue, delivery_mode=1).send_many(repeat(data, count))


def _publish(job: Job, data: Any) -> Result:
    with BrokerConnection(activemq_url()) as connection:
        publisher = Publisher(connection, routing_key=job.queue, delivery_mode=1)
        publisher.confirm_window = WINDOW
        publisher.send_many(repeat(data, job.warmup))
        watch = Stopwatch()
        publisher.send_many(repeat(data, job.messages))
        return watch.read(job.messages)


def _consume(job: Job) -> Result:
    with BrokerConnection(activemq_url()) as connection:
        return consume_and_ack(job, Consumer(connection, job.queue, prefetch_count=PREFETCH))


def _plain(listener: Any) -> Any:
    """A connection of stomp.py's."""
    # Here: only this peer needs it.
    import stomp

    where = urlsplit(activemq_url())
    connection = stomp.Connection12([(where.hostname, where.port)], auto_decode=False)
    connection.set_listener("", listener)
    connection.connect(where.username, where.password, wait=True)
    return connection


def _publish_plainly(job: Job, data: Any) -> Result:
    # Here: only this peer needs it.
    import stomp

    window = threading.Semaphore(WINDOW)

    class Confirmed(stomp.ConnectionListener):  # type: ignore[misc]
        def on_receipt(self, frame: Any) -> None:
            window.release()

    connection = _plain(Confirmed())

    def send(first: int, count: int) -> None:
        for number in range(first, first + count):
            assert window.acquire(timeout=PATIENCE)
            connection.send(
                f"/queue/{job.queue}", simplejson.dumps(data), content_type="application/json",
                headers={"receipt": str(number), "persistent": "false"},
            )  # fmt: skip
        for _ in range(WINDOW):
            assert window.acquire(timeout=PATIENCE)
        window.release(WINDOW)

    send(0, job.warmup)
    watch = Stopwatch()
    send(job.warmup, job.messages)
    return watch.read(job.messages)


def _consume_plainly(job: Job) -> Result:
    # Here: only this peer needs it.
    import stomp

    meter, done = Meter(job), threading.Event()

    class Work(stomp.ConnectionListener):  # type: ignore[misc]
        def on_message(self, frame: Any) -> None:
            simplejson.loads(frame.body)
            connection.ack(frame.headers["ack"])
            if meter.tick():
                done.set()

    connection = _plain(Work())
    connection.subscribe(
        f"/queue/{job.queue}", id="1", ack="client-individual",
        headers={"activemq.prefetchSize": str(PREFETCH)},
    )  # fmt: skip
    assert done.wait(PATIENCE)
    assert meter.result
    return meter.result
