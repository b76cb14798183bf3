"""Recovery: try again over a new connection, until it works or the limits are reached.

A table says which errors are worth another attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from carrot.deadline import bounded_by
from carrot.exceptions import (
    AccessRefused,
    BrokerRefused,
    ChannelError,
    ConnectionFailed,
    ConnectionLost,
    Nacked,
    NotFound,
    OperationTimeout,
    PreconditionFailed,
    ResourceLocked,
)
from carrot.retry import Attempts, Retry, pause


class Reconnectable(Protocol):
    """What recovery needs of a connection."""

    @property
    def may_reconnect(self) -> bool: ...
    def reopen(self) -> object: ...
    def _note_loss(self, error: Exception | None) -> object: ...
    def _tell_lost(self, error: Exception, interval: float) -> object: ...
    def _tell_recovered(self) -> object: ...


class ErrorClass(Enum):
    """What an error means for a loop that recovers."""

    #: It may work when it is tried again later.
    TRANSIENT = "transient"
    #: It would be refused each time, so it is raised at once.
    REFUSED = "refused"


class _Row(NamedTuple):
    """What errors of a class mean, or those with certain *words* in the broker's text."""

    error: type[Exception]
    means: ErrorClass
    words: str = ""


# The first row that fits counts.
_TABLE = (
    # A wrong password doesn't become right.
    _Row(AccessRefused, ErrorClass.REFUSED),
    _Row(ConnectionFailed, ErrorClass.TRANSIENT),
    # Also 320 (CONNECTION_FORCED): an operator restarts the broker.
    _Row(ConnectionLost, ErrorClass.TRANSIENT),
    _Row(OperationTimeout, ErrorClass.TRANSIENT),
    # A quorum queue refuses while it elects a leader.
    _Row(Nacked, ErrorClass.TRANSIENT),
    # 530, 540, 541 and others, which close the connection.
    _Row(BrokerRefused, ErrorClass.REFUSED),
    # 404: the queue exists, and its node is not there at present.
    _Row(NotFound, ErrorClass.TRANSIENT, "down or inaccessible"),
    # 405: until the broker notices that our last connection is gone, it holds exclusive queues.
    _Row(ResourceLocked, ErrorClass.TRANSIENT),
    # 406: a message was not acked in time, and is delivered again
    # (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
    _Row(PreconditionFailed, ErrorClass.TRANSIENT, "timed out"),
    # 403, 404, 406 and the rest.
    _Row(ChannelError, ErrorClass.REFUSED),
)


def classify(error: Exception) -> ErrorClass:
    """What *error* means for a loop that recovers; REFUSED for all that is not in the table."""
    for row in _TABLE:
        if isinstance(error, row.error) and row.words in getattr(error, "text", ""):
            return row.means
    return ErrorClass.REFUSED


def is_transient(error: Exception) -> bool:
    """Whether what failed may work when it is tried again later."""
    return classify(error) is ErrorClass.TRANSIENT


def recover(
    connection: Reconnectable,
    lost: Exception,
    resubscribe: Callable[[], object],
    retry: Retry,
    is_over: Callable[[], object] = lambda: False,
    is_recoverable: Callable[[Exception], bool] = is_transient,
) -> bool:
    """Reconnect and *resubscribe*, as often as it takes, within the limits of *retry*.

    :param lost: what went wrong; the last such error is raised when the limits are reached.
    :param resubscribe: does again what was lost with the connection. Its waits end when the time
        for the last attempt is over.
    :param is_over: whether nobody needs it any longer.
    :param is_recoverable: whether another attempt is worth while after that error.
    :returns: True when it worked; False when *is_over* said so first.
    :raises Exception: *lost*, when the connection may not reconnect; the error of the last
        attempt, when it was the last one or is not recoverable.
    """
    attempts, first = Attempts(retry), lost
    for wait in attempts:
        if not connection.may_reconnect:
            connection._note_loss(lost)
            break
        connection._tell_lost(lost, wait)
        if pause(wait, is_over):
            return False
        try:
            with bounded_by(attempts.deadline):
                connection.reopen()
                resubscribe()
        except Exception as exc:
            if not is_recoverable(exc):
                raise
            lost = exc
        else:
            connection._tell_recovered()
            return True
    if lost is not first:
        lost.add_note(f"That was the last attempt to go on; it began with: {first}")
    raise lost
