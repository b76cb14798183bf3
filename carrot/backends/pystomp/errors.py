"""How what the broker objects to becomes one of carrot's errors."""

from __future__ import annotations

import re

from carrot import remedies
from carrot.backends.pystomp.frames import Frame, FramingError
from carrot.exceptions import CarrotError, ChannelError, ConnectionFailed
from carrot.settings import ConnectionSettings

_LOGIN = re.compile(r"password|credential|authent|not authorized|access refused|bad connect", re.I)
_FORBIDDEN = re.compile(r"not authorized|access (refused|denied)|permission", re.I)


_STOMP = remedies.PeerProtocol("STOMP", 61613, 61614, garbled=(FramingError,))


class ErrorFrame(CarrotError):
    """The broker's ERROR. The broker may hang up after it."""


def text_of(frame: Frame) -> str:
    """What an ERROR says: its message, and else the first line of its body."""
    body = frame.body.decode(errors="replace").strip().splitlines()
    return frame.header(b"\nmessage:") or (body[0] if body else "no reason given")


def refusal(text: str) -> ChannelError:
    """The error for a request that the broker has refused."""
    if text.startswith("temp-queue://"):
        return ChannelError.from_reply(
            404, f"no queue {text} any more: who had it, and waited for an answer, is gone"
        )
    return remedies.channel_error(403 if _FORBIDDEN.search(text) else 0, text)


def not_found(kind: str, name: str, virtual_host: str) -> ChannelError:
    return remedies.channel_error(404, f"NOT_FOUND - no {kind} '{name}' in vhost '{virtual_host}'")


def connection_failed(
    settings: ConnectionSettings, where: str, cause: Exception
) -> ConnectionFailed:
    """Why connecting failed, and what to do about it."""
    if isinstance(cause, ErrorFrame):
        # STOMP has no codes for errors, only words.
        cause = remedies.ClosedByBroker(403 if _LOGIN.search(str(cause)) else 0, str(cause))
    return remedies.connection_failed(settings, where, cause, _STOMP)


__all__ = ["ErrorFrame", "FramingError", "connection_failed", "not_found", "refusal", "text_of"]
