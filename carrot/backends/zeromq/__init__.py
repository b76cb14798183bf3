"""ZeroMQ, with no broker to install: the memory driver's broker over sockets.

``python -m carrot.server`` serves it, or a :class:`Broker` inside a program. The frames
are those of AMQP 0-9-1, so the client is the amqp driver over another link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import zmq as _zmq  # noqa: F401  # asked for first, to say how to get it
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "the zeromq driver needs pyzmq: pip install 'carrot[zeromq]'", name=exc.name
    ) from exc

from carrot.backends.base import BaseMessage as Message
from carrot.backends.zeromq.backend import Backend

if TYPE_CHECKING:
    from carrot.server.broker import Broker

__all__ = ["Backend", "Broker", "Message"]


def __getattr__(name: str) -> Any:
    if name == "Broker":
        # Only here: clients need nothing of a broker, nor its database.
        from carrot.server.broker import Broker

        return Broker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
