"""What the native driver raises inside, and how it becomes one of carrot's errors."""

from __future__ import annotations

from carrot import remedies
from carrot.exceptions import CarrotError, ConnectionFailed
from carrot.remedies import ClosedByBroker, LoginMethodNotOffered
from carrot.settings import ConnectionSettings


class FramingError(CarrotError):
    """The bytes are not AMQP 0-9-1. The transport turns it into ConnectionLost."""


_AMQP = remedies.AMQP._replace(garbled=(FramingError,))


def connection_failed(
    settings: ConnectionSettings, where: str, cause: Exception
) -> ConnectionFailed:
    """Why connecting failed, and what to do about it."""
    return remedies.connection_failed(settings, where, cause, _AMQP)


__all__ = ["ClosedByBroker", "FramingError", "LoginMethodNotOffered", "connection_failed"]
