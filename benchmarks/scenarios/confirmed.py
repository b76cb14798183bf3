"""Publish one by one, each message confirmed by the broker before the next is sent."""

from __future__ import annotations

from functools import partial

from benchmarks.bodies import SMALL, body
from benchmarks.case import Case
from benchmarks.clock import measure_sending
from benchmarks.job import Job, Result
from benchmarks.peers import peer_class

CASES = (
    Case(
        "confirmed",
        "publish, confirmed one by one, 80 B",
        "confirmed",
        messages=5_000,
        options={"size": SMALL},
    ),
)


def run(job: Job) -> Result:
    peer = peer_class(job.peer)(job.url, job.queue)
    send = partial(peer.sender(confirm=True), body(job.options["size"], peer.dumps))
    return measure_sending(job, send, peer.sync)
