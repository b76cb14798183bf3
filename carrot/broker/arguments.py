"""The arguments of queues, exchanges and bindings: checked, compared, and read into rules.

https://www.rabbitmq.com/docs/queues#optional-arguments
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from carrot.broker.replies import precondition_failed
from carrot.checks import SHORT_STRING_BYTES
from carrot.exceptions import NotSupported
from carrot.routing import X_MATCH, comparable

Arguments = Mapping[str, Any]

MAX_MILLISECONDS = 10 * 365 * 24 * 60 * 60 * 1000  # ten years, RabbitMQ's longest timer

_AMQP_TYPES: Mapping[type, str] = {
    bool: "bool",
    float: "double",
    str: "longstr",
    bytes: "binary",
    type(None): "void",
    Decimal: "decimal",
    datetime: "timestamp",
    list: "array",
    dict: "table",
}


def _amqp_type(value: object) -> str:
    """The type of a table's value by RabbitMQ's name (AMQP 0-9-1, section 4.2.1)."""
    if type(value) is int:
        return "signedint" if -(2**31) <= value < 2**31 else "long"
    return _AMQP_TYPES.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "undefined" if value is None else str(value)


# -- one value --------------------------------------------------------------------------


class _Invalid(Exception):
    """An argument has an invalid value; the text is the one that RabbitMQ appends."""


def _check_milliseconds(value: object) -> None:
    """Check a lifetime."""
    _check_not_negative(value)
    if isinstance(value, int) and value > MAX_MILLISECONDS:
        raise _Invalid(f"{{value_too_large,{value}}}")


def _check_not_negative(value: object) -> None:
    if type(value) is not int:
        raise _Invalid(f'"expected integer, got {_amqp_type(value)}"')
    if value < 0:
        raise _Invalid(f"{{value_negative,{value}}}")


def _check_expires(value: object) -> None:
    _check_milliseconds(value)
    if value == 0:
        raise _Invalid("{value_zero,0}")


def _check_priority(value: object) -> None:
    _check_not_negative(value)
    if isinstance(value, int) and value > 255:
        raise _Invalid(f"{{max_value_exceeded,{value}}}")


def _check_text(value: object) -> None:
    if not isinstance(value, str):
        raise _Invalid(f"{{unacceptable_type,{_amqp_type(value)}}}")


def _check_short(value: object) -> None:
    _check_text(value)
    size = len(str(value).encode())
    if size > SHORT_STRING_BYTES:
        raise _Invalid(f"{{max_length_exceeded,{size}}}")


def _check_overflow(value: object) -> None:
    _check_text(value)
    if value not in ("drop-head", "reject-publish", "reject-publish-dlx"):
        raise _Invalid("invalid_overflow")


def _check_mode(value: object) -> None:
    _check_text(value)
    if value not in ("default", "lazy"):
        raise _Invalid(f"\"unsupported queue mode '{value}'\"")


def _check_version(value: object) -> None:
    _check_not_negative(value)
    if value not in (1, 2):
        raise _Invalid(f"\"unsupported queue version '{value}'\"")


def _check_type(value: object) -> None:
    _check_text(value)
    if value in ("quorum", "stream"):
        raise NotSupported(
            f"the memory driver has no {value} queues (x-queue-type={value!r}): use classic ones"
        )
    if value != "classic":
        raise _Invalid(f"\"unsupported queue type '{value}'\"")


def _check_single_active_consumer(value: object) -> None:
    if not isinstance(value, bool):
        raise _Invalid(f"{{unacceptable_type,{_amqp_type(value)}}}")


# In the order in which RabbitMQ checks them, and compares them when a queue is declared again.
_QUEUE_CHECKS: Mapping[str, Callable[[object], None]] = {
    "x-expires": _check_expires,
    "x-message-ttl": _check_milliseconds,
    "x-dead-letter-exchange": _check_short,
    "x-dead-letter-routing-key": _check_short,
    "x-max-length": _check_not_negative,
    "x-max-length-bytes": _check_not_negative,
    "x-max-priority": _check_priority,
    "x-overflow": _check_overflow,
    "x-queue-mode": _check_mode,
    "x-queue-version": _check_version,
    "x-single-active-consumer": _check_single_active_consumer,
    "x-queue-type": _check_type,
}

# These belong to quorum queues and streams; on a classic queue RabbitMQ refuses them.
_OF_OTHER_QUEUE_TYPES = (
    "x-dead-letter-strategy", "x-delivery-limit", "x-max-in-memory-length",
    "x-max-in-memory-bytes", "x-quorum-initial-group-size", "x-max-age",
    "x-stream-max-segment-size-bytes", "x-initial-cluster-size", "x-queue-leader-locator",
)  # fmt: skip


# -- a queue ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class QueueRules:
    """The behaviour that a queue's arguments ask for.

    :param ttl: seconds that a message may wait here; None is for ever.
    :param expires: seconds after which the unused queue is removed; None is never.
    :param max_length: ready messages.
    :param max_bytes: of the ready messages' bodies.
    :param single_active_consumer: one consumer gets all messages, until it ends.
    """

    ttl: float | None = None
    expires: float | None = None
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    max_priority: int | None = None
    overflow: str = "drop-head"
    single_active_consumer: bool = False

    @property
    def is_bounded(self) -> bool:
        return self.max_length is not None or self.max_bytes is not None


def queue_rules(arguments: Arguments, queue: str, virtual_host: str) -> QueueRules:
    """The rules that *arguments* stand for. Unknown ones are ignored, as RabbitMQ does.

    :raises PreconditionFailed: an invalid value.
    :raises NotSupported: a feature of RabbitMQ's that this broker lacks.
    """
    where = f"for queue '{queue}' in vhost '{virtual_host}'"
    for name in _OF_OTHER_QUEUE_TYPES:
        if name in arguments and arguments.get("x-queue-type", "classic") == "classic":
            raise precondition_failed(
                f"invalid arg '{name}' {where} of queue type rabbit_classic_queue"
            )
    exchange = arguments.get("x-dead-letter-exchange")
    if "x-dead-letter-exchange" in arguments and not isinstance(exchange, str):
        raise precondition_failed(
            f"invalid type '{_amqp_type(exchange)}' for arg 'x-dead-letter-exchange' in queue "
            f"'{queue}' in vhost '{virtual_host}'"
        )
    for name, check in _QUEUE_CHECKS.items():
        if name in arguments:
            try:
                check(arguments[name])
                if name == "x-dead-letter-routing-key" and exchange is None:
                    raise _Invalid("routing_key_but_no_dlx_defined")
            except _Invalid as reason:
                raise precondition_failed(f"invalid arg '{name}' {where}: {reason}") from None
    return QueueRules(
        ttl=_seconds(arguments.get("x-message-ttl")),
        expires=_seconds(arguments.get("x-expires")),
        dead_letter_exchange=exchange,
        dead_letter_routing_key=arguments.get("x-dead-letter-routing-key"),
        max_length=arguments.get("x-max-length"),
        max_bytes=arguments.get("x-max-length-bytes"),
        max_priority=arguments.get("x-max-priority"),
        overflow=arguments.get("x-overflow", "drop-head"),
        single_active_consumer=arguments.get("x-single-active-consumer", False),
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


# -- an exchange, a binding, a message --------------------------------------------------


def alternate_exchange(arguments: Arguments, exchange: str, virtual_host: str) -> str | None:
    """The name of the exchange for unroutable messages, or None.

    :raises PreconditionFailed: the name isn't text.
    """
    name = arguments.get("alternate-exchange")
    if "alternate-exchange" in arguments and not isinstance(name, str):
        raise precondition_failed(
            f"invalid type '{_amqp_type(name)}' for arg 'alternate-exchange' in exchange "
            f"'{exchange}' in vhost '{virtual_host}'"
        )
    return name


def check_x_match(arguments: Arguments) -> None:
    """Check the arguments of a headers exchange's binding.

    :raises PreconditionFailed: an unknown x-match.
    """
    value = arguments.get("x-match", "all")
    if not isinstance(value, str):
        raise precondition_failed(
            f"Invalid x-match field type {_amqp_type(value)} (value {_shown(value)}); "
            "expected longstr"
        )
    if value not in X_MATCH:
        raise precondition_failed(
            f'Invalid x-match field value <<"{value}">>; '
            "expected all, any, all-with-x, or any-with-x"
        )


def expiration_seconds(expiration: object) -> float:
    """A message's ``expiration``, text in milliseconds, in seconds.

    :raises PreconditionFailed: it is not such a number, or too large.
    """
    text = str(expiration)
    digits = text[1:] if text[:1] in ("+", "-") else text
    number = len(digits) - len(digits.lstrip("0123456789"))
    try:
        if not number:
            raise _Invalid("no_integer")
        if number < len(digits):
            raise _Invalid(f'{{leftover_string,"{digits[number:]}"}}')
        _check_milliseconds(int(text))
    except _Invalid as reason:
        raise precondition_failed(f"invalid expiration '{text}': {reason}") from None
    return int(text) / 1000


def check_copies(headers: Arguments) -> tuple[str, ...]:
    """More routing keys: those in the headers CC and BCC.

    https://www.rabbitmq.com/docs/sender-selected

    :raises PreconditionFailed: one of them is no list.
    """
    keys: list[str] = []
    for name in ("CC", "BCC"):
        listed = headers.get(name, [])
        if not isinstance(listed, list):
            raise precondition_failed(
                f'invalid message: {{unacceptable_type_in_header,"{name}",{_amqp_type(listed)}}}'
            )
        keys.extend(key for key in listed if isinstance(key, str))
    return tuple(keys)


# -- declaring again --------------------------------------------------------------------

# Without x-queue-type a queue is classic, so that argument is compared apart.
QUEUE_ARGUMENTS: Iterable[str] = tuple(name for name in _QUEUE_CHECKS if name != "x-queue-type")
EXCHANGE_ARGUMENTS: Iterable[str] = ("alternate-exchange",)


def check_same(name: str, where: str, received: object, current: object) -> None:
    """Check an option of a queue or exchange that is declared again.

    :param where: ``"queue 'feed' in vhost '/'"``.
    :raises PreconditionFailed: the option had another value before.
    """
    if received != current:
        raise precondition_failed(
            f"inequivalent arg '{name}' for {where}: "
            f"received {_quoted(received)} but current is {_quoted(current)}"
        )


def _quoted(value: object) -> str:
    return "none" if value is None else f"'{_shown(value)}'"


def check_same_arguments(
    names: Iterable[str], where: str, received: Arguments, current: Arguments
) -> None:
    """Check the arguments in *names*, the ones with a meaning, in the same way."""
    for name in names:
        if name in received and name in current:
            if comparable(received[name]) != comparable(current[name]):
                check_same(name, where, received[name], current[name])
        elif name in received or name in current:
            raise precondition_failed(
                f"inequivalent arg '{name}' for {where}: "
                f"received {_typed(name, received)} but current is {_typed(name, current)}"
            )


def _typed(name: str, arguments: Arguments) -> str:
    if name not in arguments:
        return "none"
    value = arguments[name]
    return f"the value '{_shown(value)}' of type '{_amqp_type(value)}'"
