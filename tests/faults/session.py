"""A whole session of a client, and the ways in which a bad network spoils it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import pytest

from carrot import BrokerConnection, Consumer, Publisher
from carrot.exceptions import CarrotError, ConnectionFailed, ConnectionLost, OperationTimeout
from carrot.message import Message
from carrot.retry import Retry
from tests.faults.ledger import Ledger
from tests.faults.proxy import Faults, Plan, Proxy

MESSAGES = 3
#: Seconds in which a session of those timeouts has ended, whatever happens to its connection.
TIMEOUTS = {"connect_timeout": 5, "operation_timeout": 5}
ENDED = 15.0

_numbers = itertools.count()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What happens in this block ends in time, also when it ends with an error."""
    begun = time.monotonic()
    try:
        yield
    finally:
        assert time.monotonic() - begun < seconds


def session(url: str, queue: str, ledger: Ledger | None = None, **options: object) -> Ledger:
    """Connect, declare, send, receive, ack and close.

    :param ledger: of the sessions with this queue; by default a new one, which is checked.
    """
    kept, ledger = ledger, ledger or Ledger()

    def receive(id: object, message: Message) -> None:
        ledger.received(id if isinstance(id, str) else repr(id))
        message.ack()

    with BrokerConnection(url, **options) as connection:
        connection.ensure_connection(max_retries=2, interval_start=0.01)
        with (
            Consumer(connection, queue, callbacks=[receive]) as consumer,
            Publisher(
                connection, routing_key=queue, retry=Retry(seconds=5), confirm_timeout=5
            ) as publisher,
        ):
            for number in itertools.islice(_numbers, MESSAGES):
                id = f"{number:06}"  # all are of one length
                ledger.attempted(id)
                publisher.send(id)
                ledger.confirmed(id)
            while ledger.lost:
                consumer.wait(limit=1, timeout=5)
    if kept is None:
        ledger.check()
    return ledger


def cut(proxy: Proxy, url: str, queue: str, *, step: int, direction: str, rst: bool) -> str:
    """Cut sessions after every *step* bytes: all that is confirmed is received.

    :returns: what there was.
    """
    session(url, queue)
    length = getattr(proxy.link, direction).passed
    # One for all: what a session had confirmed before it met the cut, the next one receives.
    ledger, cuts = Ledger(), range(step // 2, length, step)
    for offset in cuts:
        proxy.plan_next(Plan(**{direction: Faults(cut_at=offset, rst=rst)}))
        # What declares, outside a loop, may meet the cut; everything else goes on by itself.
        for _ in range(2):
            try:
                with within(ENDED):
                    session(url, queue, ledger, **TIMEOUTS)
                break
            except (ConnectionLost, ConnectionFailed):
                continue
        else:
            pytest.fail(f"cut at byte {offset} {direction}: no session came through")
    session(url, queue, ledger)
    ledger.check()
    return f"{len(cuts)} cuts {direction}: {ledger.summary()}"


def freeze(proxy: Proxy, url: str, queue: str, step: int, direction: str) -> None:
    """Freeze sessions after every *step* bytes: each ends soon."""
    session(url, queue)
    length = getattr(proxy.link, direction).passed
    ledger = Ledger()
    for offset in range(step // 2, length, step):
        proxy.plan(Plan(**{direction: Faults(freeze_at=offset)}))
        # When all is received and acked, nothing is missed.
        with within(10), suppress(ConnectionLost, ConnectionFailed, OperationTimeout):
            session(
                url, queue, ledger, connect_timeout=0.3, operation_timeout=0.3, heartbeat=1,
                reconnect=False,
            )  # fmt: skip


def corrupt(
    proxy: Proxy, places: Iterable[tuple[str, str, int]], direction: str, **options: object
) -> None:
    """Corrupt one byte of each of these sessions: one clear error, or none.

    :param places: the URL and queue of a session, which nobody else has, and which byte.
    """
    for url, queue, offset in places:
        proxy.plan_next(Plan(**{direction: Faults(corrupt_at=offset)}))
        try:
            with within(ENDED):
                session(url, queue, **options)
        except AssertionError as exc:
            # There are no checksums: what is delivered may be wrong.
            if "\nunexpected: " not in str(exc):
                raise
        except CarrotError:
            pass
