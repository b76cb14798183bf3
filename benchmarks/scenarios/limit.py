"""The least that publishing can cost: the JSON of each message between constant bytes, 64 KiB in
a write; and carrot's ``send_many()``, unconfirmed, beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

from simplejson import dumps

from benchmarks.bodies import SMALL, body
from benchmarks.case import Case
from benchmarks.clock import Stopwatch
from benchmarks.job import Job, Result
from benchmarks.peers import peer_class
from benchmarks.peers.carrot_ import CarrotPeer
from benchmarks.wire import Wire

CASES = (
    Case(
        "limit",
        "publish, unconfirmed, many in a write (carrot: send_many), 80 B",
        "limit",
        peers=("carrot", "limit"),
        messages=50_000,
        options={"size": SMALL},
    ),
)


def run(job: Job) -> Result:
    if job.peer == "limit":
        with Wire(job.url) as wire:
            return _measure(
                job, lambda count: _write(wire, job, count), lambda: wire.sync(job.queue)
            )
    peer = peer_class(job.peer)(job.url, job.queue)
    assert isinstance(peer, CarrotPeer)
    data = body(job.options["size"], peer.dumps)
    publisher = peer.publisher(confirm=False)
    return _measure(job, lambda count: publisher.send_many(repeat(data, count)), peer.sync)


def _write(wire: Wire, job: Job, count: int) -> None:
    size = job.options["size"]
    data = body(size, dumps)
    # Each message's data is encoded: a program that sends the same bytes for ever is no limit.
    wire.publish(job.queue, (dumps(data).encode() for _ in range(count)), size)


def _measure(job: Job, send: Callable[[int], object], finish: Callable[[], object]) -> Result:
    send(job.warmup)
    finish()
    watch = Stopwatch()
    send(job.messages)
    finish()
    return watch.read(job.messages)
