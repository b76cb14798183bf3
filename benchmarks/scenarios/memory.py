"""The memory backend beside kombu's memory transport: publish, and consume + ack.

Through a direct exchange with a queue, as both libraries' documentation has it: kombu's default
exchange would leave out the routing.
"""

from __future__ import annotations

from functools import partial

from benchmarks.bodies import SMALL, body
from benchmarks.case import Case
from benchmarks.clock import Meter, measure_sending
from benchmarks.job import Job, Result
from benchmarks.peers import peer_class


def _case(name: str, title: str, step: str) -> Case:
    options = {"size": SMALL, "step": step}
    return Case(name, title, "memory", ("carrot", "kombu"), 15_000, broker=False, options=options)


CASES = (
    _case("memory-publish", "in memory: publish, 80 B", "publish"),
    _case("memory-consume", "in memory: consume + ack, prefetch 500, 80 B", "consume"),
)

PREFETCH = 500


def run(job: Job) -> Result:
    peer = peer_class(job.peer)("memory://", "benchmark", exchange="benchmarks")
    send = partial(peer.sender(confirm=True), body(job.options["size"], peer.dumps))
    if job.options["step"] == "publish":
        return measure_sending(job, send)
    for _ in range(job.warmup + job.messages + 2 * PREFETCH):
        send()
    meter = Meter(job)
    peer.consume(lambda data: meter.tick(), prefetch=PREFETCH, acks=True)
    assert meter.result
    return meter.result
