"""The in-process broker served over ZeroMQ: ``python -m carrot.server``, or :class:`Broker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrot.server.broker import Broker

__all__ = ["Broker"]


def __getattr__(name: str) -> Any:
    if name == "Broker":
        # Only here: the zeromq driver needs the protocol, and neither a broker nor its database.
        from carrot.server.broker import Broker

        return Broker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
