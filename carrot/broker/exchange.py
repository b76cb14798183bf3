"""One exchange: its bindings, and the index that finds the destinations of a message."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any, NamedTuple, Protocol

from carrot.routing import EXCHANGE_TYPES, Index, comparable


class Destination(Protocol):
    """A queue or an exchange, as a binding leads to it.

    :ivar bindings: those that lead here.
    """

    name: str
    durable: bool
    bindings: dict[Binding, None]

    def __hash__(self) -> int: ...


class Binding(NamedTuple):
    """A rule that sends messages from an exchange to a queue or to another exchange."""

    source: Exchange
    destination: Destination
    routing_key: str
    arguments: Hashable  # in a form that can be compared


class Exchange:
    """An exchange of the broker, whose lock guards it.

    :ivar alternate: the name of the exchange for messages that this one can't route.
    :ivar bindings: those that lead here; the virtual host keeps both ends in step.
    """

    def __init__(
        self,
        name: str,
        type: str,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        alternate: str | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.durable = durable
        self.auto_delete = auto_delete
        self.arguments = arguments or {}
        self.alternate = alternate
        self.bindings: dict[Binding, None] = {}
        self._outgoing: dict[Binding, Mapping[str, Any]] = {}
        self._index: Index[Destination] = EXCHANGE_TYPES[type]()

    @property
    def needs_headers(self) -> bool:
        """Whether a message's headers, and not its routing key, decide where it goes."""
        return self._index.needs_headers

    @property
    def outgoing(self) -> Collection[Binding]:
        """The bindings that begin here."""
        return self._outgoing.keys()

    def binding(
        self, destination: Destination, routing_key: str, arguments: Mapping[str, Any]
    ) -> Binding:
        """The binding from here to *destination* by that key and these arguments."""
        return Binding(self, destination, routing_key, comparable(dict(sorted(arguments.items()))))

    def add(self, binding: Binding, arguments: Mapping[str, Any]) -> None:
        """Begin a binding here; again is harmless."""
        if binding not in self._outgoing:
            self._outgoing[binding] = arguments
            self._index.add(binding.routing_key, arguments, binding.destination)

    def remove(self, binding: Binding) -> bool:
        """End a binding; False: there is none."""
        if binding not in self._outgoing:
            return False
        arguments = self._outgoing.pop(binding)
        self._index.remove(binding.routing_key, arguments, binding.destination)
        return True

    def lookup(self, routing_key: str, headers: Mapping[str, Any]) -> Collection[Destination]:
        """The destinations of a message, each once."""
        return self._index.lookup(routing_key, headers)
