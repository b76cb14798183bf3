"""Round trip: from sending a message to its callback, on one connection, one message at a time."""

from __future__ import annotations

import time
from statistics import quantiles
from typing import Any

from benchmarks.bodies import SMALL, body
from benchmarks.case import Case
from benchmarks.clock import Meter
from benchmarks.job import Job, Result
from benchmarks.peers import peer_class

CASES = (
    Case(
        "roundtrip",
        "round trip: publish, unconfirmed, and consume + ack, 80 B",
        "roundtrip",
        messages=3_000,
        options={"size": SMALL},
    ),
)


def run(job: Job) -> Result:
    peer = peer_class(job.peer)(job.url, job.queue)
    data = body(job.options["size"], peer.dumps)
    send = peer.sender(confirm=False)
    meter = Meter(job)
    trips: list[float] = []
    sent = time.perf_counter()

    def back(received: Any) -> bool:
        nonlocal sent
        trips.append(time.perf_counter() - sent)
        if meter.tick():
            return True
        sent = time.perf_counter()
        send(data)
        return False

    send(data)
    peer.consume(back, prefetch=100, acks=True)
    assert meter.result
    result = meter.result
    return Result(result.cpu, result.wall, result.messages, percentiles(trips[-result.messages :]))


def percentiles(seconds: list[float]) -> dict[str, float]:
    """The median and the 99th percentile."""
    hundredths = quantiles(seconds, n=100, method="inclusive")
    return {"p50": hundredths[49], "p99": hundredths[98]}
