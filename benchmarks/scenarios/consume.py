"""Consume what is in a queue: decode each message, and ack it, or have it without acks."""

from __future__ import annotations

from benchmarks.bodies import LARGE, MEDIUM, SMALL
from benchmarks.case import Case
from benchmarks.clock import Meter
from benchmarks.job import Job, Result
from benchmarks.peers import peer_class


def _case(name: str, title: str, messages: int, size: int, prefetch: int) -> Case:
    options = {"size": size, "prefetch": prefetch, "acks": prefetch > 0}
    return Case(name, title, "consume", messages=messages, fill=True, options=options)


CASES = (
    _case("consume-1", "consume + ack, prefetch 1, 80 B", 3_000, SMALL, 1),
    _case("consume-100", "consume + ack, prefetch 100, 80 B", 15_000, SMALL, 100),
    _case("consume-500", "consume + ack, prefetch 500, 80 B", 15_000, SMALL, 500),
    _case("consume-4k", "consume + ack, prefetch 500, 4 KiB", 8_000, MEDIUM, 500),
    _case("consume-1m", "consume + ack, prefetch 20, 1 MiB", 100, LARGE, 20),
    _case("consume-no-ack", "consume, no acks, 80 B", 15_000, SMALL, 0),
)


def run(job: Job) -> Result:
    meter = Meter(job)
    peer = peer_class(job.peer)(job.url, job.queue)
    peer.consume(lambda data: meter.tick(), job.options["prefetch"], job.options["acks"])
    assert meter.result
    return meter.result
