"""Journal: who is told what a broker would have to remember over a restart. This one forgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrot.broker.exchange import Binding, Exchange
from carrot.broker.message import QueuedMessage
from carrot.broker.queue import Queue

if TYPE_CHECKING:
    from carrot.server.virtual_host import ServedVirtualHost


class Journal:
    """Told of everything durable: exchanges, queues, bindings, and persistent messages.

    What it is told happens at :meth:`commit`, and nothing that a client might rely on leaves the
    broker before.
    """

    def exchange_declared(self, virtual_host: str, exchange: Exchange) -> None:
        """A durable exchange is there from now on."""

    def exchange_removed(self, virtual_host: str, exchange: Exchange) -> None:
        """It is gone."""

    def queue_declared(self, queue: Queue) -> None:
        """A durable queue is there from now on."""

    def queue_removed(self, queue: Queue) -> None:
        """It is gone, with all its messages."""

    def bound(self, virtual_host: str, binding: Binding, arguments: Mapping[str, Any]) -> None:
        """A binding leads from a durable exchange to what is durable."""

    def unbound(self, binding: Binding) -> None:
        """It is gone, if it was there."""

    def add(self, queue: Queue, message: QueuedMessage) -> None:
        """A persistent message is in that durable queue."""

    def remove(self, message: QueuedMessage) -> None:
        """It has left its queue for good; one that nobody added is no error."""

    @property
    def commit_due(self) -> float | None:
        """When :meth:`commit` has to be called, as ``time.monotonic()`` counts; None: not yet."""
        return None

    def worlds(self) -> list[ServedVirtualHost]:
        """The virtual hosts that it remembers, as they were at the last commit."""
        return []

    def commit(self) -> None:
        """Let it all have happened, or none of it."""

    def close(self) -> None:
        """Commit, and free everything."""
