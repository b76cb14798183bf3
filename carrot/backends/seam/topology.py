"""DeclaredTopology: what was declared and bound through a backend, so that all of it comes back."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any

from carrot.backends.base import (
    BaseChannel,
    Binding,
    Exchange,
    Queue,
    QueueAlreadyExistsWarning,
    QueueDeclared,
)
from carrot.backends.seam.limits import Require, check_binding, check_exchange, check_queue
from carrot.exceptions import BrokerRefused, ChannelError
from carrot.recovery import is_transient


class DeclaredTopology:
    """Exchanges, queues and bindings in the order in which they were declared.

    Several threads may declare through one backend: each entry is set or removed in one step.

    :param require: refuses what the driver can't do, before it is asked.
    """

    def __init__(self, require: Require) -> None:
        self._require = require
        self._declared: dict[Hashable, Exchange | Queue | Binding] = {}

    def __bool__(self) -> bool:
        return bool(self._declared)

    def add(self, other: DeclaredTopology) -> None:
        """Remember what *other* does."""
        self._declared.update(other._declared)

    def declare(self, channel: BaseChannel, entity: Exchange | Queue) -> QueueDeclared | None:
        """Declare and remember an exchange or a queue.

        :raises NotSupported: the driver has no such thing.
        """
        if isinstance(entity, Exchange):
            check_exchange(entity, self._require)
        else:
            check_queue(entity, self._require)
        declared = channel.declare(entity)
        if isinstance(entity, Exchange):
            self._remember(("exchange", entity.name), entity)
        elif entity.name:  # a name made up by the broker is another one the next time
            self._remember(("queue", entity.name), entity)
        return declared

    def bind(self, channel: BaseChannel, binding: Binding) -> None:
        """Make and remember a binding.

        :raises NotSupported: the driver has no such thing.
        """
        check_binding(binding, self._require)
        channel.bind(binding)
        self._remember(_key(binding), binding)

    def unbind(self, channel: BaseChannel, binding: Binding) -> None:
        """Undo and forget a binding."""
        check_binding(binding, self._require)
        channel.unbind(binding)
        self._declared.pop(_key(binding), None)

    def forget(self, kind: str, name: str) -> None:
        """An exchange or a queue was deleted, and its bindings with it."""
        is_exchange = kind == "exchange"
        self._declared.pop((kind, name), None)
        for key, entry in tuple(self._declared.items()):
            if isinstance(entry, Binding) and (
                (entry.destination == name and entry.to_exchange == is_exchange)
                or (is_exchange and entry.source == name)
            ):
                self._declared.pop(key, None)

    def restore(self, channel: BaseChannel) -> None:
        """Declare and bind all of it again.

        :raises ChannelError: the broker refused one of them, which is forgotten: told once.
        """
        for key, entry in tuple(self._declared.items()):
            try:
                if isinstance(entry, Binding):
                    channel.bind(entry)
                else:
                    channel.declare(entry)
            except (ChannelError, BrokerRefused) as exc:
                if not is_transient(exc):
                    self._declared.pop(key, None)
                raise

    def find_queue(self, name: str) -> Queue | None:
        """The queue of that name as it was declared here, if it was."""
        entry = self._declared.get(("queue", name))
        return entry if isinstance(entry, Queue) else None

    def _remember(self, key: Hashable, entry: Exchange | Queue | Binding) -> None:
        self._declared[key] = entry


def _key(binding: Binding) -> Hashable:
    return (
        "binding",
        binding.to_exchange,
        binding.destination,
        binding.source,
        binding.routing_key,
        _frozen(binding.arguments or {}),
    )


def _frozen(value: Any) -> Hashable:
    """*value*, which AMQP can carry, such that it can be compared and hashed."""
    if isinstance(value, Mapping):
        return tuple(sorted((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return type(value).__name__, value


def warn_existing(queue: str) -> None:
    """Warn that *queue* was there before."""
    warnings.warn(
        QueueAlreadyExistsWarning(
            f"queue {queue!r} exists already: it keeps its old bindings, and what is bound now is "
            "added to them"
        ),
        stacklevel=4,
    )
