"""Importing, in a fresh interpreter each time: the package, and the names that programs use."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.case import Case
from benchmarks.job import Job, Result

STATEMENTS = {
    "package": {"carrot": "import carrot", "kombu": "import kombu"},
    # kombu loads its modules when they are first used, so the line above does not load much.
    "names": {
        "carrot": "from carrot import BrokerConnection, Consumer, Publisher",
        "kombu": "from kombu import Connection, Consumer, Producer",
    },
}

CASES = tuple(
    Case(
        f"import-{what}",
        f"one message is one import: {statements['carrot']} | {statements['kombu']}",
        "imports",
        ("carrot", "kombu"),
        messages=10,
        broker=False,
        options={"what": what},
    )
    for what, statements in STATEMENTS.items()
)

PROGRAM = """
import time
cpu, wall = time.process_time(), time.perf_counter()
{}
print([time.process_time() - cpu, time.perf_counter() - wall])
"""
TIMEOUT = 30.0  # seconds
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


def run(job: Job) -> Result:
    statement = STATEMENTS[job.options["what"]][job.peer]
    _import(statement)  # compiles it
    times = [_import(statement) for _ in range(job.messages)]
    cpu, wall = (sum(column) for column in zip(*times, strict=True))
    return Result(cpu, wall, len(times))


def _import(statement: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        # A checkout is compiled like what pip has installed, whatever the shell says.
        env={name: value for name, value in os.environ.items() if name != _NO_BYTECODE},
    )
    if done.returncode:
        raise ImportError(done.stderr.strip().rpartition("\n")[2])
    times: list[float] = json.loads(done.stdout)
    return times
