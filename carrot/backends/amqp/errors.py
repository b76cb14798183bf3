"""What the native driver raises inside, and how a broker's close becomes one of carrot's errors."""

from __future__ import annotations

import socket
import ssl

from carrot.exceptions import AccessRefused, CarrotError, ConnectionFailed
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


# Reply codes with which a broker refuses somebody during the handshake.
_ACCESS_REFUSED, _NOT_ALLOWED = 403, 530


def connection_failed(
    settings: ConnectionSettings, where: str, cause: Exception
) -> ConnectionFailed:
    """Why connecting failed, and what to do about it."""
    cls = ConnectionFailed
    reason = str(cause) or type(cause).__name__
    if isinstance(cause, ClosedByBroker):
        if "vhost" in reason and "not found" in reason:
            reason += ": create the virtual host, or check its name"
        elif cause.code in (_ACCESS_REFUSED, _NOT_ALLOWED):
            cls = AccessRefused
            reason += " (check user and password, and that the user may enter the virtual host)"
    elif isinstance(cause, ssl.SSLCertVerificationError):
        reason = f"the broker's certificate is not trusted: {cause.verify_message} (ca_certs=…)"
    elif isinstance(cause, TimeoutError):
        reason = f"no answer within {settings.connect_timeout} seconds"
    elif isinstance(cause, ConnectionRefusedError):
        reason += " (is the broker running, and is this its host and port?)"
    elif isinstance(cause, socket.gaierror):
        reason = f"the host name {settings.hostname!r} can't be resolved ({cause.strerror})"
    elif isinstance(cause, FramingError):
        reason = f"the peer doesn't speak AMQP 0-9-1 ({reason})"
    return cls(f"can't connect to {where}, as user {settings.userid!r}: {reason}")
