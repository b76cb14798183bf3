"""Topology: the part of the seam that declares, binds and deletes exchanges and queues."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple


class QueueAlreadyExistsWarning(UserWarning):
    """The queue was there before, so a new binding adds to its old ones."""


class QueueDeclared(NamedTuple):
    """The broker's answer to a declaration: the name, ready messages, consumers."""

    queue: str
    message_count: int
    consumer_count: int


class Topology(ABC):
    """Exchanges, queues and bindings, by the names and parameters carrot has always had."""

    @abstractmethod
    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Create an exchange, or check that the one of that name is the same.

        :param type: direct, fanout, topic, headers, or a type that the broker adds (``x-…``).
        :raises PreconditionFailed: it exists and is different.
        """

    @abstractmethod
    def exchange_delete(self, exchange: str, if_unused: bool = False) -> None:
        """Delete an exchange; one that isn't there is no error.

        :raises PreconditionFailed: it has bindings, with *if_unused*.
        """

    @abstractmethod
    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Let what *source* routes by that key go on to the exchange *destination*."""

    @abstractmethod
    def exchange_unbind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Undo :meth:`exchange_bind`; a binding that isn't there is no error."""

    @abstractmethod
    def queue_declare(
        self,
        queue: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        warn_if_exists: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> QueueDeclared:
        """Create a queue, or check that the one of that name is the same.

        :param queue: the name; with ``""`` the broker makes one up and returns it.
        :param warn_if_exists: warn with QueueAlreadyExistsWarning when it is there already.
        :raises PreconditionFailed: it exists and is different.
        :raises ResourceLocked: it is exclusive to another connection.
        """

    @abstractmethod
    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Let what *exchange* routes by that key (or those headers) arrive in *queue*.

        :raises NotFound: no such queue, or no such exchange.
        """

    @abstractmethod
    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Undo :meth:`queue_bind`; a binding that isn't there is no error."""

    @abstractmethod
    def queue_exists(self, queue: str) -> bool:
        """Whether there is a queue of that name; this channel stays as it is."""

    @abstractmethod
    def queue_purge(self, queue: str) -> int:
        """Discard the queue's ready messages, and say how many they were.

        :raises NotFound: no such queue.
        """

    @abstractmethod
    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue, and say how many messages went with it; none there is no error.

        :raises PreconditionFailed: in use, with *if_unused*; not empty, with *if_empty*.
        """

    def purge(self, queue: str) -> int:
        """The same as :meth:`queue_purge`."""
        return self.queue_purge(queue)

    def _warn_existing(self, queue: str) -> None:
        if self.queue_exists(queue):
            warnings.warn(
                QueueAlreadyExistsWarning(
                    f"queue {queue!r} exists already: it keeps its old bindings, and what is "
                    "bound now is added to them"
                ),
                stacklevel=4,
            )
