"""Recovery: do it again over a new connection, until it works or the limits are reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from carrot.deadline import until
from carrot.exceptions import (
    AccessRefused,
    ConnectionFailed,
    ConnectionLost,
    Nacked,
    NotFound,
    OperationTimeout,
    ResourceLocked,
)
from carrot.retry import Attempts, Retry, pause


class Reconnectable(Protocol):
    """What recovery needs of a connection."""

    @property
    def may_reconnect(self) -> bool: ...
    def reopen(self) -> object: ...
    def tell_lost(self, error: Exception, interval: float) -> object: ...
    def tell_recovered(self) -> object: ...


def passes(error: Exception) -> bool:
    """Whether it may work when it is tried again later."""
    if isinstance(error, AccessRefused):
        return False  # a wrong password doesn't become right by trying again
    if isinstance(error, NotFound):
        # RabbitMQ says this of a queue whose node is not there at present.
        return "down or inaccessible" in error.text
    # A quorum queue refuses while it elects a leader, and an exclusive queue is locked until the
    # broker has noticed that our last connection is gone.
    return isinstance(
        error, (ConnectionLost, ConnectionFailed, OperationTimeout, ResourceLocked, Nacked)
    )


def recover(
    connection: Reconnectable,
    lost: Exception,
    again: Callable[[], object],
    retry: Retry,
    is_over: Callable[[], object] = lambda: False,
    is_curable: Callable[[Exception], bool] = passes,
) -> bool:
    """Reconnect and do it *again*, and that again and again, within the limits of *retry*.

    :param lost: what went wrong; the last such error is raised when the limits are reached.
    :param again: what waits in it waits no longer than until the last attempt is over.
    :param is_over: nobody needs it any longer.
    :param is_curable: whether another attempt is worth while after that error.
    :returns: whether it worked; False: it is over.
    """
    attempts, first = Attempts(retry), lost
    for wait in attempts:
        if not connection.may_reconnect:
            break
        connection.tell_lost(lost, wait)
        if pause(wait, is_over):
            return False
        try:
            with until(attempts.deadline):
                connection.reopen()
                again()
        except Exception as exc:
            if not is_curable(exc):
                raise
            lost = exc
        else:
            connection.tell_recovered()
            return True
    if lost is not first:
        lost.add_note(f"That was the last attempt to go on; it began with: {first}")
    raise lost
