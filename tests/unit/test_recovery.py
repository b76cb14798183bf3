"""Recovery: what is tried again, how often, and what is raised in the end."""

from __future__ import annotations

import pytest

from carrot.deadline import remaining
from carrot.exceptions import (
    AccessRefused,
    ConnectionFailed,
    ConnectionLost,
    ConsumerCancelled,
    DecodeError,
    Nacked,
    OperationTimeout,
    Unroutable,
)
from carrot.recovery import ErrorClass, classify, is_transient, recover
from carrot.remedies import ClosedByBroker, broker_refused, channel_error, connection_lost
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

    def _note_loss(self, error: Exception | None) -> None: ...

    def _tell_lost(self, error: Exception, interval: float) -> None:
        self.told.append(error)

    def _tell_recovered(self) -> None:
        self.told.append("recovered")


LOST = ConnectionLost("gone")
REFUSAL = broker_refused(540, "NOT_IMPLEMENTED - no global qos", "here")


def test_it_is_done_again_over_a_new_connection() -> None:
    connection, done = Connection(), []

    assert recover(connection, LOST, lambda: done.append(remaining(None)), QUICK)
    assert done == [None]
    assert connection.told == [LOST, "recovered"]


def test_what_waits_in_it_has_the_time_that_is_left() -> None:
    left = []

    recover(Connection(), LOST, lambda: left.append(remaining(60)), Retry(seconds=5))

    assert 4 < left[0] < 5
    assert remaining(60) == 60


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


TRANSIENT, REFUSED = ErrorClass.TRANSIENT, ErrorClass.REFUSED
ACK_TIMEOUT = (
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: "
    "1800000 ms. This timeout value can be configured, see consumers doc guide to learn more"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionLost("cut"), TRANSIENT),
        (ConnectionFailed("refused"), TRANSIENT),
        (AccessRefused("wrong password"), REFUSED),
        (connection_lost("here", ClosedByBroker(320, "CONNECTION_FORCED - restart")), TRANSIENT),
        (OperationTimeout("no answer"), TRANSIENT),
        (Nacked("no leader"), TRANSIENT),
        (Unroutable("no queue"), REFUSED),
        (channel_error(403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused"), REFUSED),
        (channel_error(404, "NOT_FOUND - no queue 'q' in vhost '/'"), REFUSED),
        (
            channel_error(
                404,
                "NOT_FOUND - home node 'a@b' of durable queue 'q' in vhost '/' is down or "
                "inaccessible",
            ),
            TRANSIENT,
        ),
        (channel_error(405, "RESOURCE_LOCKED - locked queue 'q' in vhost '/'"), TRANSIENT),
        (channel_error(406, "PRECONDITION_FAILED - inequivalent arg 'durable'"), REFUSED),
        (channel_error(406, ACK_TIMEOUT), TRANSIENT),
        (channel_error(406, "PRECONDITION_FAILED - message size 9 is larger than max"), REFUSED),
        (channel_error(504, "CHANNEL_ERROR - the channel is closed"), REFUSED),
        (broker_refused(530, "NOT_ALLOWED - attempt to reuse consumer tag 't'", "here"), REFUSED),
        (broker_refused(540, "NOT_IMPLEMENTED - no global qos", "here"), REFUSED),
        (broker_refused(541, "INTERNAL_ERROR", "here"), REFUSED),
        (ConsumerCancelled("its queue is gone"), REFUSED),
        (DecodeError("no JSON"), REFUSED),
        (ValueError("of a callback"), REFUSED),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'code', '')}",
)
def test_a_table_says_what_an_error_means(error: Exception, expected: ErrorClass) -> None:
    assert classify(error) is expected
    assert is_transient(error) is (expected is TRANSIENT)


@pytest.mark.parametrize("refusal", [REFUSAL, AccessRefused("wrong password")], ids=repr)
def test_a_refusal_is_never_repeated(refusal: Exception) -> None:
    attempts: list[object] = []

    def subscribe() -> None:
        attempts.append(None)
        raise refusal

    with pytest.raises(type(refusal)) as caught:
        recover(Connection(), LOST, subscribe, QUICK)
    assert caught.value is refusal
    assert len(attempts) == 1


def test_a_caller_may_take_other_errors_for_recoverable() -> None:
    failures: list[Exception] = [ConsumerCancelled("its queue is gone")]

    def subscribe() -> None:
        if failures:
            raise failures.pop()

    assert recover(
        Connection(),
        LOST,
        subscribe,
        QUICK,
        is_recoverable=lambda error: isinstance(error, ConsumerCancelled),
    )
