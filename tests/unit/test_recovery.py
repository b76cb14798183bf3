"""Recovery: what is tried again, how often, and what is raised in the end."""

from __future__ import annotations

import pytest

from carrot.deadline import within
from carrot.exceptions import (
    AccessRefused,
    ConnectionFailed,
    ConnectionLost,
    Nacked,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from carrot.recovery import passes, recover
from carrot.retry import Backoff, Retry

QUICK = Retry(attempts=3, backoff=Backoff(0, 0, 0))


class Connection:
    """Notes what recovery does with it."""

    def __init__(self, *failures: Exception | None) -> None:
        self.may_reconnect = True
        self.told: list[object] = []
        self._failures = list(failures)

    def reopen(self) -> None:
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure

    def tell_lost(self, error: Exception, interval: float) -> None:
        self.told.append(error)

    def tell_recovered(self) -> None:
        self.told.append("recovered")


LOST = ConnectionLost("gone")


def test_it_is_done_again_over_a_new_connection() -> None:
    connection, done = Connection(), []

    assert recover(connection, LOST, lambda: done.append(within(None)), QUICK)
    assert done == [None]
    assert connection.told == [LOST, "recovered"]


def test_what_waits_in_it_has_the_time_that_is_left() -> None:
    left = []

    recover(Connection(), LOST, lambda: left.append(within(60)), Retry(seconds=5))

    assert 4 < left[0] < 5
    assert within(60) == 60


def test_the_last_error_is_raised_and_says_how_it_began() -> None:
    failures = [ConnectionFailed(f"refused {n}") for n in range(3)]

    with pytest.raises(ConnectionFailed, match="refused 2") as caught:
        recover(Connection(*failures), LOST, lambda: None, QUICK)
    assert "it began with: gone" in caught.value.__notes__[0]


def test_what_does_not_pass_is_raised_at_once() -> None:
    connection = Connection(AccessRefused("wrong password"))

    with pytest.raises(AccessRefused):
        recover(connection, LOST, lambda: None, QUICK)
    assert connection.told == [LOST]


def test_a_connection_that_may_not_reconnect_raises_what_was_lost() -> None:
    connection = Connection()
    connection.may_reconnect = False

    with pytest.raises(ConnectionLost, match="gone"):
        recover(connection, LOST, lambda: None, QUICK)
    assert connection.told == []


def test_nobody_needs_it_any_longer() -> None:
    assert not recover(Connection(), LOST, lambda: None, QUICK, lambda: True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionLost("x"), True),
        (ConnectionFailed("x"), True),
        (AccessRefused("x"), False),
        (ResourceLocked("x"), True),
        (Nacked("x"), True),
        (NotFound("NOT_FOUND - no queue 'q' in vhost '/'"), False),
        (NotFound("home node 'a@b' of durable queue 'q' is down or inaccessible"), True),
        (PreconditionFailed("x"), False),
        (ValueError("x"), False),
    ],
)
def test_what_may_work_when_it_is_tried_again(error: Exception, expected: bool) -> None:
    assert passes(error) is expected
