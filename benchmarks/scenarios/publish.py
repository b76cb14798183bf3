"""Publish unconfirmed, one message at a time, until the broker has read them all."""

from __future__ import annotations

from functools import partial

from benchmarks.bodies import LARGE, MEDIUM, SMALL, body
from benchmarks.case import Case
from benchmarks.clock import measure_sending
from benchmarks.job import Job, Result
from benchmarks.peers import peer_class

CASES = (
    Case("publish", "publish, unconfirmed, 80 B", "publish", options={"size": SMALL}),
    Case("publish-4k", "publish, unconfirmed, 4 KiB", "publish", options={"size": MEDIUM}),
    Case(
        "publish-1m",
        "publish, unconfirmed, 1 MiB",
        "publish",
        messages=150,
        options={"size": LARGE},
    ),
)


def run(job: Job) -> Result:
    peer = peer_class(job.peer)(job.url, job.queue)
    send = partial(peer.sender(confirm=False), body(job.options["size"], peer.dumps))
    return measure_sending(job, send, peer.sync)
