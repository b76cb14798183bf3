"""Ten minutes of work with a connection killed every five seconds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from tests.brokers import RabbitMQ
from tests.faults.ledger import seeded
from tests.faults.proxy import Proxy
from tests.faults.traffic import Traffic, told

SECONDS = float(os.environ.get("CARROT_SOAK_SECONDS", "600"))
EVERY = 5.0  # seconds between two kills
INTERVAL = 0.001  # seconds between two messages, so that the ledger has less than a million
RECOVERY = 2.0  # seconds


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
def test_a_connection_killed_every_five_seconds_costs_no_message(
    rabbitmq: RabbitMQ, unique: Callable[..., str]
) -> None:
    times = []
    with (
        seeded() as schedule,
        Proxy(rabbitmq.port) as proxy,
        Traffic(proxy.url, unique("soak"), interval=INTERVAL) as traffic,
    ):
        begun = time.monotonic()
        while (left := begun + SECONDS - time.monotonic()) > 0:
            threading.Event().wait(min(EVERY, left))
            link, rst = schedule.choice(proxy.links), schedule.random() < 0.5
            schedule.note(f"kill {len(times) + 1}, with {'RST' if rst else 'FIN'}")
            link.cut(rst)
            times.append(traffic.wait_for_flow(RECOVERY))
        seconds = time.monotonic() - begun

    rate = traffic.sent / seconds
    print(f"\n{seconds:.0f} s, {rate:.0f} messages/s: {traffic.ledger.summary()}")
    print(f"recovery: {told(times)}")
    traffic.ledger.check()
