"""Two hundred lost connections: messages flow again soon, and nothing is left behind."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import carrot
from carrot.backends.amqp import tables
from carrot.backends.sockets.timer import timer
from tests.brokers import RabbitMQ
from tests.faults.proxy import Proxy
from tests.faults.traffic import Traffic, told
from tests.waiting import eventually

WARM_UP = 50  # cycles
CYCLES = 200
RECOVERY = 2.0  # seconds
TOLERANCE = 0.05

PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes
CARROT_CODE = tracemalloc.Filter(True, str(Path(carrot.__file__).parent / "*"), all_frames=False)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


class Footprint(NamedTuple):
    """What this process holds.

    :ivar allocated: bytes that carrot's own code allocated, and Python has not freed.
    :ivar resident: bytes of the whole process, so with the ledger.
    """

    threads: int
    files: int
    allocated: int
    resident: int

    @classmethod
    def now(cls) -> Footprint:
        # What was remembered of the last few messages, now more, now less.
        tables._contents.clear()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        held = tracemalloc.take_snapshot().filter_traces([CARROT_CODE]).statistics("filename")
        return cls(
            threading.active_count(),
            len(os.listdir("/proc/self/fd")),
            sum(statistic.size for statistic in held),
            resident,
        )


@contextmanager
def tracing() -> Iterator[None]:
    """Every allocation is remembered in the block."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured as Linux does it")
def test_two_hundred_lost_connections_leave_nothing_behind(
    rabbitmq: RabbitMQ, unique: Callable[..., str]
) -> None:
    with (
        tracing(),
        Proxy(rabbitmq.port) as proxy,
        Traffic(
            proxy.url,
            unique(),
            interval=0.005,
            # A lost connection's timer runs out after half of that.
            connection_options={"heartbeat": 1},
        ) as traffic,
    ):

        def kill_and_recover() -> float:
            proxy.cut_all()
            return traffic.wait_for_flow(RECOVERY)

        def quiet_footprint() -> Footprint:
            with traffic.paused():
                eventually(lambda: len(proxy.links) == 2)
                eventually(lambda: len(timer._heap) <= 2)
                return Footprint.now()

        for _ in range(WARM_UP):
            kill_and_recover()
        for _ in range(3):
            quiet_footprint()  # measuring takes memory, too
        before = quiet_footprint()
        times = [kill_and_recover() for _ in range(CYCLES)]
        after = quiet_footprint()

    print(f"\n{traffic.ledger.summary()}\nrecovery: {told(times)}\n{before}\n{after}")
    traffic.ledger.check()
    for name, was, now in zip(Footprint._fields, before, after, strict=True):
        assert abs(now - was) <= TOLERANCE * was, f"{name}: {was} before, {now} after"
