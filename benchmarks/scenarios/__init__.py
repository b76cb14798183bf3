"""One module a scenario: CASES says what is compared, run() measures one job of it."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from benchmarks.case import Case
from benchmarks.job import Job, Result

#: In the order of the tables.
SCENARIOS = (
    "publish",
    "limit",
    "confirmed",
    "pipelined",
    "consume",
    "roundtrip",
    "backends",
    "activemq",
    "threads",
    "memory",
    "topic",
    "imports",
    "peak_memory",
)


class Scenario(Protocol):
    """What a module of this package has."""

    CASES: tuple[Case, ...]

    def run(self, job: Job) -> Result:
        """Measure one peer, in this process."""


def scenario(name: str) -> Scenario:
    """The module of that name."""
    return cast(Scenario, import_module(f"benchmarks.scenarios.{name}"))


def all_cases() -> list[Case]:
    """Every case, in the order of the tables."""
    return [case for name in SCENARIOS for case in scenario(name).CASES]
