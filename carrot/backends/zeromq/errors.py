"""Why a connection to a ZeroMQ broker can't be made, and what to do about it."""

from __future__ import annotations

import socket

from carrot.exceptions import AccessRefused, ConnectionFailed
from carrot.settings import ConnectionSettings


class Refused(ConnectionError):
    """The peer ended the connection before it began."""


class CurveRefused(Refused):
    """The two sides' CURVE keys, or the wish for them, don't fit."""


_START = "python -m carrot.server --bind tcp://127.0.0.1:5555"


def connection_failed(
    settings: ConnectionSettings, where: str, cause: Exception
) -> ConnectionFailed:
    """The error, with the remedy that belongs to *cause*."""
    cls = AccessRefused if isinstance(cause, CurveRefused) else ConnectionFailed
    return cls(f"can't connect to {where}: {_reason(settings, cause)}")


def _reason(settings: ConnectionSettings, cause: Exception) -> str:
    if isinstance(cause, CurveRefused):
        return f"{cause}: {_curve_remedy(settings)}"
    if isinstance(cause, Refused) and settings.curve_server_key is not None:
        return f"{cause}: is curve_server_key the public key of this broker, and does it want keys?"
    if isinstance(cause, Refused):
        return f"{cause}: is it a broker, and does it want curve_server_key=, its public key?"
    if isinstance(cause, ConnectionRefusedError | FileNotFoundError):
        return f"nobody listens there: is the broker running ({_START}), and is this its address?"
    if isinstance(cause, socket.gaierror):
        return f"the host name can't be resolved ({cause.strerror}): check its spelling"
    if isinstance(cause, TimeoutError):
        return (
            f"no answer within {settings.connect_timeout} seconds: is this a port of carrot's "
            "ZeroMQ broker, and no firewall in between? Where all is well and slow, raise "
            "connect_timeout"
        )
    if isinstance(cause, OSError):
        return f"{cause}: is this a port of carrot's ZeroMQ broker?"
    return f"the peer is no broker of carrot's ({cause})"


def _curve_remedy(settings: ConnectionSettings) -> str:
    if settings.curve_server_key is None:
        return "give the broker's public key as curve_server_key=, and yours as curve_secret_key="
    if settings.curve_secret_key is None:
        return "give your secret key as curve_secret_key=, when the broker lets in known keys only"
    return "let the broker know your public key, or leave out the keys if it has none"
