"""What the native driver raises inside, and how a broker's close becomes one of carrot's errors."""

from __future__ import annotations

from carrot.exceptions import CarrotError, ConnectionFailed
from carrot.settings import ConnectionSettings


class FramingError(CarrotError):
    """The bytes are not AMQP 0-9-1. The transport turns it into ConnectionLost."""


class ClosedByBroker(CarrotError):
    """The broker's connection.close.

    :ivar code: AMQP's reply code.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def connection_failed(
    settings: ConnectionSettings, where: str, cause: Exception
) -> ConnectionFailed:
    """Why connecting failed, and what to do about it."""
    kind = str(cause.code) if isinstance(cause, ClosedByBroker) else f"{type(cause).__name__}:"
    return ConnectionFailed.from_cause(settings, where, f"{kind} {cause}")
