"""What ActiveMQ can't do over STOMP, and how that is told. No I/O."""

from __future__ import annotations

from carrot.backends.base import Binding, Capabilities, Exchange, Queue
from carrot.checks import entity_name, short_string, table
from carrot.exceptions import NotSupported
from carrot.remedies import channel_error

CAPABILITIES = Capabilities(
    mandatory=False,
    dead_letters=False,
    max_length=False,
    headers_exchange=False,
    exchange_bindings=False,
    alternate_exchange=False,
    thread_safe=True,
    arguments=False,
    deletion=False,
    auto_delete=False,
    global_prefetch=False,
    inspection=False,
    overlapping_bindings=False,
    requeue_in_place=False,
    holds_deliveries=False,
    topic_patterns=False,
)

#: A count that the broker doesn't tell.
UNKNOWN = -1


def require(feature: str, why: str) -> None:
    """Refuse what the driver can't do.

    :param feature: a field of :class:`Capabilities`.
    :raises NotSupported: names the driver and *why* it was asked.
    """
    if not getattr(CAPABILITIES, feature):
        raise NotSupported(f"the pystomp driver has no {feature}: {why}")


def check_exchange(exchange: Exchange) -> str:
    """The name of an exchange that can be declared.

    :raises NotSupported: ActiveMQ has nothing like it.
    :raises ChannelError: 403: the name is reserved.
    """
    name = entity_name("exchange", exchange.name)
    if exchange.type.startswith("x-"):
        raise NotSupported(f"the pystomp driver has no exchanges of type {exchange.type!r}")
    if name:
        _check_reserved("exchange", name)
    return name


def check_queue(queue: Queue) -> str:
    """The name of a queue that can be declared; ``""`` when one is to be made up.

    :raises ChannelError: 403: the name is reserved.
    """
    name = entity_name("queue", queue.name)
    if name:
        _check_reserved("queue", name)
    return name


def check_binding(binding: Binding) -> None:
    """Refuse a binding that can't be made, whatever was declared.

    :raises NotSupported: ActiveMQ has nothing like it.
    """
    short_string("routing key", binding.routing_key)
    table("arguments", binding.arguments or {})
    check_not_default(binding.source)
    if binding.source in ("amq.headers", "amq.match"):
        require("headers_exchange", f"bind {binding.destination!r} to an exchange of another type")


def check_not_default(exchange: str) -> None:
    """Refuse to change the default exchange."""
    if not exchange:
        raise channel_error(403, "ACCESS_REFUSED - operation not permitted on the default exchange")


def _check_reserved(kind: str, name: str) -> None:
    if name.startswith("amq."):
        raise channel_error(
            403, f"ACCESS_REFUSED - {kind} name '{name}' contains reserved prefix 'amq.*'"
        )
