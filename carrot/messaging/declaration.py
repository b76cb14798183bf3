"""Declaration: what a Publisher or a Consumer declares at the broker before it is used."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from carrot.backends.base import Binding, Exchange, Queue
from carrot.backends.seam.backend import Backend
from carrot.backends.seam.topology import warn_existing
from carrot.exceptions import (
    BrokerRefused,
    CarrotError,
    ConfigurationError,
    ConnectionLost,
    NotSupported,
)
from carrot.routing import check_exchange_type

#: A key, or the headers that a headers exchange matches.
Key = str | Mapping[str, Any]
RoutingKeys = Key | Sequence[Key]


class QueueBinding(NamedTuple):
    """One more binding of a consumer's queue.

    :param exchange: where messages come from; it exists, unless *exchange_type* is given.
    :param exchange_type: declare the exchange, with this type.
    """

    exchange: str
    routing_key: Key = ""
    arguments: Mapping[str, Any] | None = None
    exchange_type: str | None = None


BindingLike = QueueBinding | Mapping[str, Any] | Sequence[Any]


class Declarer(Protocol):
    """What is needed of a Consumer."""

    backend: Backend
    queue: str
    exchange: str
    routing_key: RoutingKeys
    exchange_type: str
    durable: bool
    exclusive: bool
    auto_delete: bool
    queue_type: str | None
    queue_arguments: Mapping[str, Any] | None
    exchange_arguments: Mapping[str, Any] | None
    binding_arguments: Mapping[str, Any] | None
    bindings: Sequence[BindingLike] | None
    warn_if_exists: bool
    exchange_auto_delete: bool


def declare_exchange(backend: Backend, exchange: Exchange) -> None:
    """Declare an exchange; the default one is always there.

    :raises NotSupported: the broker doesn't know its type.
    """
    check_exchange_type(exchange.type)
    if not exchange.name:
        return
    try:
        backend.exchange_declare(*exchange)
    except (ConnectionLost, BrokerRefused) as exc:
        raise unknown_type(exc, exchange) from exc


def unknown_type(error: CarrotError, exchange: Exchange) -> CarrotError:
    """What to raise for *error*: RabbitMQ hangs up on types that its plug-ins don't know."""
    if "exchange type" not in str(error):
        return error
    return NotSupported(
        f"the broker has no exchange type {exchange.type!r}: enable its plug-in, or use another "
        "type (the broker closed the connection, which opens again when used)"
    )


class Declaration:
    """A consumer's queue, exchange and bindings.

    All of it is done on one life of the channel: a queue may be exclusive to its connection.
    """

    def __init__(self, declarer: Declarer) -> None:
        # Not a circle: if it is forgotten while it isn't subscribed, it is freed at once.
        self._owner = weakref.ref(declarer)
        # The caller may go on changing its lists.
        if isinstance(declarer.routing_key, list):
            declarer.routing_key = tuple(declarer.routing_key)
        if isinstance(declarer.bindings, list):
            declarer.bindings = tuple(map(_queue_binding, declarer.bindings))
        for binding in self._bindings():
            binding.check()  # tells what can't be, before anything is declared
        check_exchange_type(declarer.exchange_type)

    @property
    def _declarer(self) -> Declarer:
        declarer = self._owner()
        assert declarer is not None, "its parts go with it"
        return declarer

    def declare(self) -> None:
        """Create queue, exchange and bindings, or check that they are as declared here."""
        declarer = self._declarer
        backend = declarer.backend
        if declarer.warn_if_exists and backend.queue_exists(declarer.queue):
            warn_existing(declarer.queue)
        topology = backend.lives.topology
        life = backend.lives.live()
        with life.used() as channel:
            topology.declare(channel, self._queue())
            for exchange in self._exchanges():
                try:
                    topology.declare(channel, exchange)
                except (ConnectionLost, BrokerRefused) as exc:
                    raise unknown_type(exc, exchange) from exc
            for binding in self._bindings():
                topology.bind(channel, binding)

    def _queue(self) -> Queue:
        declarer = self._declarer
        arguments = dict(declarer.queue_arguments or {})
        if declarer.queue_type is not None:
            arguments["x-queue-type"] = declarer.queue_type
        return Queue(
            declarer.queue, declarer.durable, declarer.exclusive, declarer.auto_delete,
            arguments or None,
        )  # fmt: skip

    def _exchanges(self) -> Iterator[Exchange]:
        declarer = self._declarer
        # The default exchange is always there.
        if declarer.exchange:
            yield Exchange(
                declarer.exchange, declarer.exchange_type, declarer.durable,
                declarer.exchange_auto_delete, declarer.exchange_arguments,
            )  # fmt: skip
        for binding in map(_queue_binding, declarer.bindings or ()):
            if binding.exchange_type is not None:
                kind = check_exchange_type(binding.exchange_type)
                yield Exchange(binding.exchange, kind, declarer.durable, False)

    def _bindings(self) -> Iterator[Binding]:
        declarer = self._declarer
        # The default exchange has every queue already, and allows no binding.
        if declarer.exchange:
            keys = declarer.routing_key
            for key in [keys] if isinstance(keys, (str, Mapping)) else _listed(keys):
                yield self._binding(
                    declarer.exchange, key, declarer.binding_arguments,
                    declarer.exchange_type,
                )  # fmt: skip
        if isinstance(declarer.bindings, (str, Mapping)):
            raise ConfigurationError(f"bindings must be a list, not {declarer.bindings!r}")
        for one in map(_queue_binding, declarer.bindings or ()):
            yield self._binding(one.exchange, one.routing_key, one.arguments, one.exchange_type)

    def _binding(
        self, exchange: str, key: Key, arguments: Mapping[str, Any] | None, kind: str | None
    ) -> Binding:
        if isinstance(key, Mapping) and kind in ("headers", None):
            return Binding(self._declarer.queue, exchange, "", {**key, **(arguments or {})})
        # Another mapping is refused by the channel, which takes text only.
        return Binding(self._declarer.queue, exchange, key, arguments)  # type: ignore[arg-type]


def _listed(keys: Any) -> list[Any]:
    if isinstance(keys, (list, tuple, set, frozenset)):
        if not keys:
            raise ConfigurationError(
                "routing_key is an empty list, and the queue would get nothing: leave it out, or "
                "give a key"
            )
        return list(keys)
    return [keys]  # refused by the channel, which names it


def _queue_binding(given: BindingLike) -> QueueBinding:
    """One of ``bindings=``, from a dict or a sequence."""
    try:
        if isinstance(given, Mapping):
            return QueueBinding(**given)
        if not isinstance(given, str):
            return QueueBinding(*given)
    except TypeError:
        pass
    raise ConfigurationError(
        f"one of bindings= must be {{'exchange': …, 'routing_key': …, 'arguments': …, "
        f"'exchange_type': …}}, or these in a tuple, and not {given!r}"
    )
