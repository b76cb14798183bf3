"""Runs the plan: each job in a process of its own, round after round, with a deadline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks import node
from benchmarks.backends import BACKENDS
from benchmarks.bodies import body
from benchmarks.case import Case
from benchmarks.job import Job, Result
from benchmarks.wire import Wire

ROOT = Path(__file__).parents[1]
# Seconds that a worker may take beyond its measuring: to start, to connect, to warm up.
GRACE = 30.0


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    :ivar rounds: how often each peer does each case.
    :ivar messages: at most so many in one run of one case; None leaves it to the case.
    :ivar share: the part of a case's messages that is measured.
    :ivar seconds: for the measured part of one run; what is slow does fewer messages.
    :ivar warmup: messages before it.
    """

    rounds: int = 3
    messages: int | None = None
    share: float = 1.0
    seconds: float = 0.6
    warmup: int = 2_000

    def of(self, case: Case) -> tuple[int, int]:
        """How many messages to measure, and to warm up with."""
        messages = max(int(case.messages * self.share), 1)
        messages = min(messages, self.messages or messages)
        return messages, min(self.warmup, max(messages // 5, 1))


QUICK = Effort(rounds=1, share=0.1, seconds=0.2, warmup=400)

#: The results of all rounds, by case and peer.
Results = dict[str, dict[str, list[Result]]]


@dataclass
class Runner:
    """Does every job of a plan.

    :ivar url: the broker; None when no case needs one.
    :ivar progress: called after each job, with the number done so far, and what comes next.
    """

    url: str | None
    effort: Effort
    progress: Callable[[int, str], None] = lambda done, label: None
    _numbers: count[int] = field(default_factory=count)

    def run(self, cases: Sequence[Case], peers: Sequence[str]) -> Results:
        """Round by round, and in each round every peer once in every case."""
        results: Results = {case.name: {} for case in cases}
        done = 0
        for number in range(self.effort.rounds):
            for case in cases:
                # The other way round in every other round: what comes first has no advantage.
                for peer in takers(case, peers)[:: -1 if number % 2 else 1]:
                    self.progress(done, f"{case.name} {peer}")
                    results[case.name].setdefault(peer, []).append(self._once(case, peer))
                    done += 1
        return results

    def _once(self, case: Case, peer: str) -> Result:
        messages, warmup = self.effort.of(case)
        queue = f"benchmark-{os.getpid()}-{next(self._numbers)}"
        job = Job(
            case.scenario, peer, self.url or "", queue, messages, self.effort.seconds, warmup,
            case.options,
        )  # fmt: skip
        if not case.broker:
            return run_worker(job)
        with Wire(job.url) as wire, ExitStack() as stack:
            wire.declare(queue)
            stack.callback(wire.delete, queue)
            if case.fill:
                # As much as may be read ahead stays in the queue to the end.
                ahead = 2 * case.options["prefetch"] or messages
                _fill(wire, job, warmup + messages + ahead)
            return run_worker(job)


def takers(case: Case, peers: Sequence[str]) -> list[str]:
    """Who does a case: of those asked for, and what is compared with carrot alone."""
    with_carrot = {"limit", *(("stomp.py", *BACKENDS) if "carrot" in peers else ())}
    return [peer for peer in case.peers if peer in peers or peer in with_carrot]


def _fill(wire: Wire, job: Job, messages: int) -> None:
    size = job.options["size"]
    encoded = json.dumps(body(size)).encode()
    wire.publish(job.queue, (encoded for _ in range(messages)), size)
    wire.sync(job.queue)


def run_worker(job: Job) -> Result:
    """Do a job in a fresh process, which is killed when it takes too long."""
    command, environment = [sys.executable, "-m", "benchmarks.worker"], dict(os.environ)
    if job.peer == "node":
        if reason := node.missing():
            return Result(skipped=reason)
        command, environment = node.command(), node.environment()
    timeout = 3 * job.seconds + GRACE
    process = subprocess.Popen(
        [*command, job.to_json()],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return Result(failed=f"no result within {timeout:.0f} s, killed")
    finally:
        _kill(process)
    try:
        return Result.from_json(out.strip().rpartition("\n")[2])
    except (ValueError, TypeError):
        said = err.strip().rpartition("\n")[2]
        return Result(failed=f"the worker ended with code {process.returncode}: {said}")


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        # Its group, for workers that start processes; it leads one, and is not waited for yet.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=GRACE)
