"""The in-process broker served over ZeroMQ: ``python -m carrot.server``, or :class:`Broker`.

Its modules, the lowest first; each imports only from those above it:

- ``protocol``, ``frames``: the bytes between client and broker
- ``journal``: what a virtual host reports its durable changes to
- ``virtual_host``: a virtual host for clients over a network, with a journal
- ``store``: a journal in a file
- ``channel``: carries out the methods of a client's channel
- ``session``: one client, without I/O
- ``listener``: the bound socket
- ``server``: the loop
- ``broker``: all of it, for programs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrot.server.broker import Broker

__all__ = ["Broker"]


def __getattr__(name: str) -> Any:
    if name == "Broker":
        # Not at the top: the zeromq driver needs the protocol alone, and no broker or database.
        from carrot.server.broker import Broker

        return Broker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
