"""Threads that publish over one connection, each message confirmed before the thread's next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from benchmarks.bodies import SMALL, body
from benchmarks.case import THREADED, Case
from benchmarks.clock import Stopwatch, repeat
from benchmarks.job import Job, Result
from benchmarks.peers import peer_class

CASES = tuple(
    Case(
        f"threads-{count}",
        f"publish, confirmed, {count} thread{'s' * (count > 1)} on one connection, 80 B",
        "threads",
        peers=THREADED,
        messages=5_000,
        options={"size": SMALL, "threads": count},
    )
    for count in (1, 4, 16)
)

TIMEOUT = 60.0  # seconds


def run(job: Job) -> Result:
    peer = peer_class(job.peer)(job.url, job.queue)
    data = body(job.options["size"], peer.dumps)
    count = job.options["threads"]
    # A channel for each thread, as all their documentation says.
    senders = [peer.sender(confirm=True) for _ in range(count)]
    share = max(job.messages // count, 1)
    done: list[int] = []
    ready = threading.Barrier(count + 1)

    def work(send: Callable[[Any], object]) -> None:
        repeat(lambda: send(data), job.warmup // count, job.seconds / 2)
        ready.wait(TIMEOUT)
        done.append(repeat(lambda: send(data), share, job.seconds))

    threads = [threading.Thread(target=work, args=(send,), daemon=True) for send in senders]
    for thread in threads:
        thread.start()
    ready.wait(TIMEOUT)
    watch = Stopwatch()
    for thread in threads:
        thread.join(TIMEOUT)
    if len(done) < count:
        raise TimeoutError(f"{count - len(done)} of {count} threads did not end")
    return watch.read(sum(done))
