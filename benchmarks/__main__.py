"""``python -m benchmarks``: measures, and prints and writes what it found."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from benchmarks import node
from benchmarks.backends import activemq
from benchmarks.case import Case
from benchmarks.peers import PEERS
from benchmarks.plot import svg
from benchmarks.runner import QUICK, Effort, Runner, takers
from benchmarks.scenarios import SCENARIOS, all_cases
from benchmarks.summary import document, summarize, surroundings
from benchmarks.terminal import Progress, bounds_table, header, tables
from tests.brokers import RabbitMQ
from tests.brokers.rabbitmq import version_at

RESULTS = Path(__file__).parent / "results"


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    cases = [case.name for case in all_cases()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="carrot and its peers, measured side by side",
        epilog=f"cases: {', '.join(cases)}; scenarios: {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER",
                        help=f"of {', '.join(PEERS)}")  # fmt: skip
    parser.add_argument("--cases", nargs="+", choices=[*cases, *SCENARIOS], metavar="CASE",
                        help="cases or whole scenarios; default all")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one short round; rough numbers")
    parser.add_argument("--rounds", type=int, help="how often each peer does each case")
    parser.add_argument("--messages", type=int, help="measure at most so many in one run")
    parser.add_argument("--seconds", type=float, help="measure at most so long in one run")
    parser.add_argument("--url", help="an amqp URL of a broker, instead of a private RabbitMQ")
    parser.add_argument("--output", type=Path, default=RESULTS / "latest.json", help="JSON")
    parser.add_argument("--plot", type=Path, default=RESULTS / "latest.svg", help="SVG")
    return parser.parse_args(given)


def effort(options: argparse.Namespace) -> Effort:
    """How much to measure: a preset, and what the options change of it."""
    names = ("rounds", "messages", "seconds")
    changes = {name: value for name in names if (value := getattr(options, name)) is not None}
    return replace(QUICK if options.quick else Effort(), **changes)


def chosen(names: Sequence[str] | None, peers: Sequence[str]) -> list[Case]:
    """The cases that were asked for and that one of the peers can do."""
    cases = [case for case in all_cases() if not names or {case.name, case.scenario} & set(names)]
    return [case for case in cases if takers(case, peers)]


@contextmanager
def broker(cases: Sequence[Case], url: str | None) -> Iterator[str | None]:
    """The URL of a broker, when a case needs one: the one given, or that of a private node."""
    if url or not any(case.broker for case in cases):
        yield url
        return
    print("starting RabbitMQ", file=sys.stderr)
    with RabbitMQ() as private:
        # Some clients insist on an escaped virtual host.
        yield private.url.removesuffix("//") + "/%2F"


def _activemq_for(cases: Sequence[Case]) -> AbstractContextManager[None]:
    """An ActiveMQ, when a case can use one."""
    return (
        activemq()
        if {case.scenario for case in cases} & {"backends", "activemq"}
        else nullcontext()
    )


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report; returns 0 unless there is no broker: a benchmark is no test."""
    options = arguments(given)
    cases = chosen(options.cases, options.peers)
    if not options.url and any(case.broker for case in cases) and (reason := RabbitMQ.missing()):
        print(f"{reason}; or name a broker with --url", file=sys.stderr)
        return 1
    if "node" in options.peers:
        node.install()
    with broker(cases, options.url) as url, _activemq_for(cases):
        about = surroundings(version_at(url) if url else None)
        work = effort(options)
        progress = Progress(work.rounds * sum(len(takers(c, options.peers)) for c in cases))
        results = Runner(url, work, progress).run(cases, options.peers)
        progress.clear()
    summaries = summarize(results)
    print(header(about))
    for line in (*tables(cases, summaries, options.peers), *bounds_table(summaries)):
        print(line)
    for path, text in (
        (options.output, json.dumps(document(cases, results, work, about), indent=1) + "\n"),
        (options.plot, svg(summaries)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"written: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
