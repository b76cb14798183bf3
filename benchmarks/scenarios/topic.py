"""Publish to a topic exchange in memory with few and with many bindings; each message has one."""

from __future__ import annotations

from itertools import count

from benchmarks.bodies import SMALL, body
from benchmarks.case import Case, grouped
from benchmarks.clock import measure_sending
from benchmarks.job import Job, Result
from carrot import BrokerConnection, Publisher

CASES = tuple(
    Case(
        f"topic-{bindings}",
        f"in memory: publish to a topic exchange, {grouped(bindings)} bindings, 80 B",
        "topic",
        ("carrot",),
        broker=False,
        options={"size": SMALL, "bindings": bindings},
    )
    for bindings in (10, 1_000, 10_000)
)

QUEUES = 10
#: Patterns with a word to match, one that is anything, and any number of words.
PATTERNS = ("shop.{0}.price", "shop.{0}.*.sold", "shop.{0}.stock.#")
#: For bindings of the second and third kind; none comes twice, so that none is remembered.
KEYS = {1: "shop.{0}.{1}.sold", 2: "shop.{0}.stock.{1}.low"}


def run(job: Job) -> Result:
    bindings = job.options["bindings"]
    connection = BrokerConnection("memory://")
    publisher = Publisher(connection, exchange="topics", exchange_type="topic")
    backend = publisher.backend
    for number in range(QUEUES):
        backend.queue_declare(f"queue-{number}", durable=False, exclusive=False, auto_delete=False)
    for number in range(bindings):
        pattern = PATTERNS[number % 3].format(number)
        backend.queue_bind(f"queue-{number % QUEUES}", "topics", pattern)
    shops = [number for number in range(1, bindings, bindings // 10) if number % 3]
    data = body(job.options["size"])
    numbers = count()

    def send() -> None:
        number = next(numbers)
        shop = shops[number % len(shops)]
        publisher.send(data, routing_key=KEYS[shop % 3].format(shop, number))

    return measure_sending(job, send)
