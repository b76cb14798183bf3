"""Publish confirmed, with many messages on their way; the end is the last confirm.

Of the APIs measured here only carrot's and Node.js's have it: pika's asynchronous connection, with
callbacks, is none of them. carrot does it in two ways: ``send_many()`` and ``batch()``.
"""

from __future__ import annotations

from itertools import repeat

from benchmarks.bodies import SMALL, body
from benchmarks.case import CARROTS, Case
from benchmarks.clock import Stopwatch
from benchmarks.job import Job, Result
from benchmarks.peers import peer_class
from benchmarks.peers.carrot_ import CarrotPeer

CASES = (
    Case(
        "pipelined",
        "publish, confirms pipelined (carrot: send_many), 80 B",
        "pipelined",
        peers=(*CARROTS, "node"),
        options={"size": SMALL, "how": "send_many"},
    ),
    Case(
        "pipelined-batch",
        "publish, confirms pipelined (carrot: batch), 80 B",
        "pipelined",
        peers=CARROTS,
        options={"size": SMALL, "how": "batch"},
    ),
)


def run(job: Job) -> Result:
    peer = peer_class(job.peer)(job.url, job.queue)
    assert isinstance(peer, CarrotPeer)
    data = body(job.options["size"], peer.dumps)
    publisher = peer.publisher(confirm=True)

    def send(count: int) -> None:
        if job.options["how"] == "send_many":
            publisher.send_many(repeat(data, count))
            return
        with publisher.batch() as batch:
            for _ in range(count):
                batch.send(data)

    send(job.warmup)
    watch = Stopwatch()
    send(job.messages)
    return watch.read(job.messages)
