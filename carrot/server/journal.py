"""Journal: what a virtual host reports its durable changes to. This one keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carrot.broker.exchange import Binding, Exchange
from carrot.broker.message import QueuedMessage
from carrot.broker.queue import Queue


class Journal:
    """Is told of everything durable: exchanges, queues, bindings, and persistent messages.

    The changes take effect at :meth:`commit`. The broker confirms nothing to a client before.
    """

    def exchange_declared(self, virtual_host: str, exchange: Exchange) -> None:
        """A durable exchange was declared."""

    def exchange_removed(self, virtual_host: str, exchange: Exchange) -> None:
        """An exchange, durable or not, was removed."""

    def queue_declared(self, virtual_host: str, queue: Queue) -> None:
        """A durable queue was declared."""

    def queue_removed(self, queue: Queue) -> None:
        """A queue was removed, with all its messages."""

    def bound(self, virtual_host: str, binding: Binding, arguments: Mapping[str, Any]) -> None:
        """A durable exchange was bound to a durable queue or exchange."""

    def unbound(self, binding: Binding) -> None:
        """A binding, durable or not, was removed."""

    def add(self, queue: Queue, message: QueuedMessage) -> None:
        """A persistent message came into a durable queue."""

    def remove(self, message: QueuedMessage) -> None:
        """A message has left its queue for good; it need not have been added."""

    @property
    def commit_due(self) -> float | None:
        """When to call :meth:`commit`, by ``deadline.now()``; None: nothing has changed."""
        return None

    def commit(self) -> None:
        """Write all changes since the last commit, or none of them."""

    def close(self) -> None:
        """Commit, and free everything."""
