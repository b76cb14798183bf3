"""The same program over each of carrot's drivers: publish, consume, and how long that takes.

Publisher and Consumer have their defaults: messages are persistent and confirmed, the queue is
durable. What that is worth differs: memory and a ZeroMQ broker without a store keep nothing over a
restart. The transient round trip is alike for all of them.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import repeat
from typing import Any

import simplejson

from benchmarks.backends import BACKENDS
from benchmarks.bodies import SMALL, body
from benchmarks.case import Case
from benchmarks.clock import Meter, Stopwatch, measure_sending
from benchmarks.job import Job, Result
from benchmarks.scenarios.roundtrip import percentiles
from carrot import BrokerConnection, Consumer, Publisher
from carrot.message import Message


def _case(step: str, title: str, messages: int, **options: Any) -> Case:
    return Case(
        f"backends-{step}",
        f"each backend: {title}, 80 B",
        "backends",
        tuple(BACKENDS),
        messages,
        reference="amqp",
        options={"step": step, **options},
    )


CASES = (
    _case("publish", "publish, confirmed one by one", 5_000),
    _case("pipelined", "publish, confirms pipelined (send_many)", 20_000),
    _case("consume", "consume + ack, prefetch 500", 20_000),
    _case("roundtrip", "round trip: publish, consume + ack, one at a time", 3_000),
    _case(
        "latency", "round trip: the same, transient and unconfirmed", 3_000,
        delivery_mode=1, confirm=False,
    ),
)  # fmt: skip

PREFETCH = 500


def run(job: Job) -> Result:
    options = {name: value for name, value in job.options.items() if name != "step"}
    data = body(SMALL, simplejson.dumps)
    with BACKENDS[job.peer](job.url) as url, BrokerConnection(url) as connection:
        consumer = Consumer(connection, job.queue, prefetch_count=PREFETCH)
        publisher = Publisher(connection, routing_key=job.queue, **options)
        result = _STEPS[job.options["step"]](job, publisher, consumer, data)
        consumer.discard_all()  # not every broker's queue is deleted afterwards
        return result


def _publish(job: Job, publisher: Publisher, consumer: Consumer, data: Any) -> Result:
    return measure_sending(job, partial(publisher.send, data))


def _pipelined(job: Job, publisher: Publisher, consumer: Consumer, data: Any) -> Result:
    publisher.send_many(repeat(data, job.warmup))
    watch = Stopwatch()
    publisher.send_many(repeat(data, job.messages))
    return watch.read(job.messages)


def _consume(job: Job, publisher: Publisher, consumer: Consumer, data: Any) -> Result:
    # As much as may be read ahead stays in the queue to the end.
    publisher.send_many(repeat(data, job.warmup + job.messages + 2 * PREFETCH))
    return consume_and_ack(job, consumer)


def consume_and_ack(job: Job, consumer: Consumer) -> Result:
    """Measure a consumer of a queue that is full enough."""
    meter = Meter(job)

    def work(data: Any, message: Message) -> None:
        message.ack()
        if meter.tick():
            consumer.stop()

    consumer.register_callback(work)
    consumer.wait()
    assert meter.result
    return meter.result


def _roundtrip(job: Job, publisher: Publisher, consumer: Consumer, data: Any) -> Result:
    meter = Meter(job)
    trips: list[float] = []
    sent = time.perf_counter()

    def back(data: Any, message: Message) -> None:
        nonlocal sent
        message.ack()
        trips.append(time.perf_counter() - sent)
        if meter.tick():
            consumer.stop()
            return
        sent = time.perf_counter()
        publisher.send(data)

    consumer.register_callback(back)
    publisher.send(data)
    consumer.wait()
    assert meter.result
    result = meter.result
    return Result(result.cpu, result.wall, result.messages, percentiles(trips[-result.messages :]))


_STEPS = {
    "publish": _publish,
    "pipelined": _pipelined,
    "consume": _consume,
    "roundtrip": _roundtrip,
    "latency": _roundtrip,
}
