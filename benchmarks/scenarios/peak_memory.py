"""The most memory that a process has used after consuming few and many messages."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

from benchmarks.bodies import SMALL
from benchmarks.case import Case, grouped
from benchmarks.clock import Stopwatch
from benchmarks.job import Job, Result
from benchmarks.peers import peer_class

CASES = tuple(
    Case(
        f"peak-memory-{messages}",
        f"consume + ack {grouped(messages)} messages, prefetch 500, 80 B",
        "peak_memory",
        ("carrot",),
        messages=messages,
        fill=True,
        options={"size": SMALL, "prefetch": 500},
    )
    for messages in (20_000, 200_000)
)


def run(job: Job) -> Result:
    peer = peer_class(job.peer)(job.url, job.queue)
    seen = 0

    def count(data: object) -> bool:
        nonlocal seen
        seen += 1
        return seen == job.messages

    watch = Stopwatch()
    peer.consume(count, job.options["prefetch"], acks=True)
    return watch.read(seen, peak=peak_memory())


def peak_memory() -> float:
    """Bytes: the largest resident size that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, which on Linux counts the process that started this one, too.
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
