"""What carrot promises of itself: a table of ratios, all from one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter, ge, le

from benchmarks.peers import PYTHON
from benchmarks.summary import Summaries, Summary

#: A number out of a run; None when it was not measured.
Measure = Callable[[Summaries], float | None]


def cpu(case: str, peer: str = "carrot") -> Measure:
    """Processor time for a message."""
    return lambda summaries: _of(summaries, case, peer).cpu


def rate(case: str, peer: str = "carrot") -> Measure:
    """Messages a second."""
    return lambda summaries: _of(summaries, case, peer).rate


def peak(case: str) -> Measure:
    """The most memory that carrot has used."""
    return lambda summaries: _of(summaries, case, "carrot").extra.get("peak")


def total(*measures: Measure) -> Measure:
    """Their sum; None when one is missing."""

    def measure(summaries: Summaries) -> float | None:
        found = [number for each in measures if (number := each(summaries)) is not None]
        return sum(found) if len(found) == len(measures) else None

    return measure


def cheapest(case: str, peers: Sequence[str]) -> Measure:
    """The processor time of the peer that needs the least."""

    def measure(summaries: Summaries) -> float | None:
        return min(map(attrgetter("cpu"), _there(summaries, case, peers)), default=None)

    return measure


def fastest(case: str, peers: Sequence[str], what: str = "rate") -> Measure:
    """The rate of the fastest peer, or what else is known of it."""

    def measure(summaries: Summaries) -> float | None:
        best = max(_there(summaries, case, peers), key=attrgetter("rate"), default=Summary())
        number: float | None = getattr(best, what)
        return number

    return measure


def _of(summaries: Summaries, case: str, peer: str) -> Summary:
    return summaries.get(case, {}).get(peer, Summary())


def _there(summaries: Summaries, case: str, peers: Sequence[str]) -> list[Summary]:
    found = [_of(summaries, case, peer) for peer in peers]
    return [summary for summary in found if summary.cpu is not None]


@dataclass(frozen=True)
class Bound:
    """A ratio that must not be above (≤) or below (≥) its limit."""

    title: str
    sign: str
    limit: float
    ours: Measure
    theirs: Measure

    def ratio(self, summaries: Summaries) -> float | None:
        ours, theirs = self.ours(summaries), self.theirs(summaries)
        return ours / theirs if ours is not None and theirs else None

    def holds(self, ratio: float) -> bool:
        return bool((le if self.sign == "≤" else ge)(ratio, self.limit))


EVERYBODY = (*PYTHON, "node")
# "At least level" is within 5 %: two runs of the same client differ by as much.
LEVEL = 0.95


def _in_memory(peer: str) -> Measure:
    return total(cpu("memory-publish", peer), cpu("memory-consume", peer))


_publish, _consume = cpu("publish"), cpu("consume-500")

BOUNDS = (
    Bound(
        "publish, CPU, to the best Python peer", "≤", 0.40, _publish, cheapest("publish", PYTHON)
    ),
    Bound("publish, CPU, to kombu", "≤", 0.15, _publish, cpu("publish", "kombu")),
    Bound("publish, CPU, to Node.js", "≤", 1.0, _publish, cpu("publish", "node")),
    Bound(
        "consume, CPU, to the best Python peer", "≤", 0.30, _consume,
        cheapest("consume-500", PYTHON),
    ),
    Bound("consume, CPU, to kombu", "≤", 0.13, _consume, cpu("consume-500", "kombu")),
    Bound("consume, CPU, to Node.js", "≤", 1.0, _consume, cpu("consume-500", "node")),
    Bound(
        "pipelined, rate, to the best Python peer confirming", "≥", 8.0, rate("pipelined"),
        fastest("confirmed", PYTHON),
    ),
    Bound("pipelined, rate, to unconfirmed", "≥", 0.7, rate("pipelined"), rate("publish")),
    Bound(
        "one by one, rate, to the best Python peer", "≥", LEVEL, rate("confirmed"),
        fastest("confirmed", PYTHON),
    ),
    Bound(
        "one by one, CPU, to that peer", "≤", 0.7, cpu("confirmed"),
        fastest("confirmed", PYTHON, "cpu"),
    ),
    Bound(
        "one by one, rate, to the best peer, Node.js included", "≥", LEVEL, rate("confirmed"),
        fastest("confirmed", EVERYBODY),
    ),
    Bound(
        "one by one, CPU, to that peer", "≤", 0.7, cpu("confirmed"),
        fastest("confirmed", EVERYBODY, "cpu"),
    ),
    Bound("publish, CPU, to the limit", "≤", 2.5, _publish, cpu("limit", "limit")),
    Bound("send_many, CPU, to the limit", "≤", 1.6, cpu("limit"), cpu("limit", "limit")),
    Bound(
        "round trip, rate, ZeroMQ to RabbitMQ", "≥", 1.0,
        rate("backends-roundtrip", "zeromq"), rate("backends-roundtrip", "amqp"),
    ),
    Bound(
        "round trip, rate, ZeroMQ with a store to RabbitMQ", "≥", 1.0,
        rate("backends-roundtrip", "zeromq-store"), rate("backends-roundtrip", "amqp"),
    ),
    Bound(
        "round trip, transient, rate, ZeroMQ to RabbitMQ", "≥", 1.0,
        rate("backends-latency", "zeromq"), rate("backends-latency", "amqp"),
    ),
    Bound(
        "ActiveMQ, publish, CPU, to plain stomp.py", "≤", 0.7, cpu("activemq-publish"),
        cpu("activemq-publish", "stomp.py"),
    ),
    Bound(
        "ActiveMQ, consume, CPU, to plain stomp.py", "≤", 0.7, cpu("activemq-consume"),
        cpu("activemq-consume", "stomp.py"),
    ),
    Bound(
        "in memory, publish + consume, CPU, to kombu", "≤", 0.20, _in_memory("carrot"),
        _in_memory("kombu"),
    ),
    Bound(
        "topic routing, CPU, 10 000 bindings to 10", "≤", 2.0, cpu("topic-10000"), cpu("topic-10")
    ),
    Bound(
        "import carrot, CPU, to import kombu", "≤", 0.4, cpu("import-package"),
        cpu("import-package", "kombu"),
    ),
    Bound(
        "importing the names that programs use, CPU, to kombu", "≤", 0.4, cpu("import-names"),
        cpu("import-names", "kombu"),
    ),
    Bound(
        "peak memory, 200 000 messages to 20 000", "≤", 1.1, peak("peak-memory-200000"),
        peak("peak-memory-20000"),
    ),
)  # fmt: skip


def check(summaries: Summaries) -> Iterator[tuple[Bound, float | None]]:
    """Each bound with the ratio that was measured."""
    for bound in BOUNDS:
        yield bound, bound.ratio(summaries)
