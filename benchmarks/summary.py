"""Medians of the rounds, and what was measured with what."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from benchmarks import node
from benchmarks.case import Case
from benchmarks.job import Result
from benchmarks.peers import DISTRIBUTIONS
from benchmarks.runner import Effort, Results


@dataclass(frozen=True)
class Summary:
    """The medians of one peer in one case.

    :ivar cpu: microseconds of processor time for a message.
    :ivar rate: messages a second.
    :ivar messages: measured in a round.
    :ivar extra: medians of what only this case has.
    :ivar note: why there are no numbers, or fewer rounds.
    """

    cpu: float | None = None
    rate: float | None = None
    messages: int = 0
    extra: dict[str, float] = field(default_factory=dict)
    note: str = ""


Summaries = dict[str, dict[str, Summary]]


def summarize(results: Results) -> Summaries:
    """The medians of all that was measured."""
    return {
        name: {peer: _summary(rounds) for peer, rounds in peers.items()}
        for name, peers in results.items()
    }


def _summary(rounds: Sequence[Result]) -> Summary:
    good = [result for result in rounds if result.messages]
    bad = [result.failed or result.skipped or "nothing measured" for result in rounds
           if not result.messages]  # fmt: skip
    if not good:
        return Summary(note=bad[-1])
    return Summary(
        cpu=median(1e6 * result.cpu / result.messages for result in good),
        rate=median(result.messages / result.wall for result in good),
        messages=int(median(result.messages for result in good)),
        extra={key: median(result.extra[key] for result in good) for key in good[0].extra},
        note=f"{len(bad)} of {len(rounds)} rounds failed: {bad[-1]}" if bad else "",
    )


def versions() -> dict[str, str]:
    """The versions of the peers that are installed."""
    found = {}
    for peer, distribution in DISTRIBUTIONS.items():
        try:
            found[peer] = version(distribution)
        except PackageNotFoundError:
            continue
    if node.missing() is None:
        found["node"] = f"amqplib {node.version()}"
    return found


def surroundings(broker: str | None) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "broker": broker and f"RabbitMQ {broker}",
        "versions": versions(),
    }


def document(
    cases: Sequence[Case], results: Results, effort: Effort, about: dict[str, Any]
) -> dict[str, Any]:
    """All of it, for a JSON file: the medians, and each round."""
    summaries = summarize(results)
    return {
        **about,
        "effort": asdict(effort),
        "cases": {
            case.name: {
                "title": case.title,
                "peers": {
                    peer: {
                        **asdict(summaries[case.name][peer]),
                        "rounds": [asdict(result) for result in rounds],
                    }
                    for peer, rounds in results[case.name].items()
                },
            }
            for case in cases
        },
    }
