"""What a driver can't do is refused by its capabilities, before the driver is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from carrot.backends.base import Binding, Exchange, Queue

#: :meth:`Backend.require`: refuses a feature that the driver has not, and says what to do.
Require = Callable[[str, str], object]

# Arguments of queues and exchanges, to the capability that they ask for.
_ASKS_FOR = {
    "x-dead-letter-exchange": "dead_letters",
    "x-dead-letter-routing-key": "dead_letters",
    "x-max-length": "max_length",
    "x-max-length-bytes": "max_length",
    "x-overflow": "max_length",
    "alternate-exchange": "alternate_exchange",
}


def check_exchange(exchange: Exchange, require: Require) -> None:
    """:raises NotSupported: the driver has no such exchanges."""
    if exchange.type == "headers":
        require("headers_exchange", f"declare {exchange.name!r} with another type")
    if exchange.auto_delete:
        require("auto_delete", f"declare exchange {exchange.name!r} without auto_delete")
    _check_arguments(exchange.arguments, require)


def check_queue(queue: Queue, require: Require) -> None:
    """:raises NotSupported: the driver has no such queues."""
    if queue.exclusive:  # such a queue goes with its connection, whatever else is said
        require("exclusive", f"declare queue {queue.name!r} without exclusive")
    elif queue.auto_delete:
        require("auto_delete", f"declare queue {queue.name!r} without auto_delete")
    _check_arguments(queue.arguments, require)


def check_binding(binding: Binding, require: Require) -> None:
    """:raises NotSupported: the driver binds no exchanges to exchanges."""
    if binding.to_exchange:
        why = f"bind a queue to {binding.source!r} instead of {binding.destination!r}"
        require("exchange_bindings", why)


def _check_arguments(arguments: Mapping[str, Any] | None, require: Require) -> None:
    for name in arguments or ():
        require(_ASKS_FOR.get(name, "arguments"), f"declare without {name}")
