"""What is counted: a process that sends or receives so many messages, with carrot's public API.

`python -P benchmarks/counted.py STEP URL MESSAGES TOTAL SLOWDOWN`, run by benchmarks.instructions
with the carrot of any checkout. It imports nothing of benchmarks, for that need not be the same.
"""

from __future__ import annotations

import logging  # noqa: F401  # as most programs have it: nobody listens
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrot import Consumer, Publisher
    from carrot.message import Message

EXCHANGE = "counted"
BODY = {"id": 1234567, "action": "import_feed", "ok": True, "text": "x" * 24}
TIMEOUT = 300.0  # seconds: a hundred times what it takes without valgrind
#: How many messages send_many() has: as one of them, so that their number doesn't matter.
MANY = 100


def slow_down(factor: float) -> None:
    """Let the clock run so many times slower, and waits last as much longer.

    What a program does once a millisecond, it would else do for each message where each takes a
    millisecond.
    """
    monotonic, wait = time.monotonic, threading.Condition.wait

    def slow_monotonic() -> float:
        return monotonic() / factor

    def slow_wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        return wait(condition, None if timeout is None else timeout * factor)

    time.monotonic = slow_monotonic
    threading.Condition.wait = slow_wait  # type: ignore[assignment,method-assign]


def send(publisher: Publisher, count: int) -> None:
    """One by one, each confirmed."""
    for _ in range(count):
        publisher.send(BODY)


def send_many(publisher: Publisher, count: int) -> None:
    """In hundreds, confirmed together."""
    for _ in range(count // MANY):
        publisher.send_many([BODY] * MANY)


def receive(consumer: Consumer, count: int) -> None:
    """Decode, hand to a callback, and ack."""

    def ack(data: Any, message: Message) -> None:
        message.ack()

    consumer.register_callback(ack)
    consumer.wait(limit=count, timeout=TIMEOUT)


def main(step: str, url: str, messages: int, total: int) -> None:
    """Do *step* with so many messages.

    :param step: send, send_many or receive.
    :param total: what the longer of two runs has: before receiving, each sends so many.
    """
    from carrot import BrokerConnection, Consumer, Publisher

    queue = f"counted-{messages}"  # benchmarks.amqp_peer knows by its name what it has
    with BrokerConnection(url, heartbeat=0) as connection:
        consumer = Consumer(connection, queue, EXCHANGE, queue, prefetch_count=total)
        publisher = Publisher(connection, EXCHANGE, queue)
        if step == "receive":
            if url.startswith("memory"):
                # As many in both runs, of which only these are received.
                Consumer(connection, "rest", EXCHANGE, "rest").close()
                send_many(publisher, messages)
                send_many(Publisher(connection, EXCHANGE, "rest"), total - messages)
            receive(consumer, messages)
        else:
            {"send": send, "send_many": send_many}[step](publisher, messages)


if __name__ == "__main__":
    slow_down(float(sys.argv[5]))  # before carrot is imported, which takes the clock from there
    import carrot

    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    print(Path(carrot.__file__).parents[1])
