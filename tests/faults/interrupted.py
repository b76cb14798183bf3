"""A program whose handler raises at any moment: ``python -m tests.faults.interrupted URL QUEUE``.

It runs in a process of its own, for what measures coverage, or watches a test's time, must not be
interrupted so. It prints how often it was interrupted, and fails when sending doesn't go on.
"""

from __future__ import annotations

import signal
import sys
import time

from carrot.connection import BrokerConnection
from carrot.messaging import Publisher
from tests.faults.ledger import seeded

SECONDS = 3.0
#: Seconds that the next message may take: less than it takes to give up.
PATIENCE = 4.0


class Interruption(BaseException):
    """What the handler raises, as Ctrl-C does."""


def _interrupt(*_: object) -> None:
    raise Interruption


def main(url: str, queue: str) -> None:
    signal.signal(signal.SIGALRM, _interrupt)
    interruptions, end = 0, time.monotonic() + SECONDS
    with seeded() as chance, BrokerConnection(url, operation_timeout=5) as connection:
        publisher = Publisher(connection, routing_key=queue, confirm_timeout=5)
        while time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 2e-3))
                for _ in range(20):
                    publisher.send(1)
                    publisher.send_many(range(5))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interruption:
                interruptions += 1
            begun = time.monotonic()
            publisher.send("the next one")
            assert time.monotonic() - begun < PATIENCE, "the turn was kept"
    print(interruptions)


if __name__ == "__main__":
    main(*sys.argv[1:])
