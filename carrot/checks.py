"""What AMQP can carry: short strings and tables, checked before anything is sent.

AMQP 0-9-1, section 4.2.5 (short strings, at most 255 bytes; field tables), with the value types
that RabbitMQ knows: https://www.rabbitmq.com/docs/amqp-0-9-1-errata#section_3
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from operator import index
from typing import Any, SupportsIndex

from carrot.exceptions import ConfigurationError, EncodeError

SHORT_STRING_BYTES = 255
#: Of a frame of 131072, the size that RabbitMQ agrees to, some is for the other properties.
TABLE_BYTES = 120_000
#: Levels of tables and lists inside each other, the outermost table included: receivers that have a
#: limit read no deeper, for the sender would decide how deep they recurse.
MAX_DEPTH = 64
#: What clocks and locks can count; some 100 years.
MAX_SECONDS = 4e9


def short_string(what: str, value: object) -> str:
    """*value* itself, when it is text of at most 255 bytes of UTF-8.

    :param what: what the value is, for the error: ``"routing key"``.
    :raises ConfigurationError: it isn't; the text shows the value.
    """
    if not isinstance(value, str):
        raise ConfigurationError(
            f"{what} must be text (str), not {type(value).__name__}: {value!r}"
        )
    # A character takes at most 4 bytes, so most values need no encoding to be known short.
    if len(value) > SHORT_STRING_BYTES // 4:
        size = _utf8_bytes(what, value)
        if size > SHORT_STRING_BYTES:
            raise ConfigurationError(
                f"{what} is {size} bytes long, and AMQP allows {SHORT_STRING_BYTES}: "
                f"{value[:40]!r}…"
            )
    elif not value.isascii():
        _utf8_bytes(what, value)
    return value


def _utf8_bytes(what: str, value: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError as exc:
        raise ConfigurationError(f"{what} can't be encoded as UTF-8: {value!r}") from exc


def required_name(what: str, value: object) -> str:
    """A short string that is not empty."""
    if not short_string(what, value):
        raise ConfigurationError(f"{what} is empty: give it a name")
    return str(value)


def entity_name(what: str, value: object) -> str:
    """A short string that can name a queue or an exchange."""
    name = short_string(what, value)
    if "\n" in name or "\r" in name:
        raise ConfigurationError(
            f"{what} {name!r} has a line break, which brokers drop silently: strip it"
        )
    return name


def seconds(what: str, value: object) -> float:
    """*value* as a number of seconds, 0 or more.

    :raises ConfigurationError: it isn't.
    """
    try:
        number = float(str(value))
    except ValueError:
        number = -1
    if not 0 <= number < MAX_SECONDS:
        raise ConfigurationError(f"{what} must be a number of seconds, 0 or more: {value!r}")
    return number


def whole_number(what: str, value: object, least: int = 0) -> int:
    """*value*, when it is a whole number, and not less than that.

    :raises ConfigurationError: it isn't.
    """
    number = index(value) if isinstance(value, SupportsIndex) else least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigurationError(f"{what} must be a whole number, {least} or more: {value!r}")
    return number


def check_function(what: str, value: object) -> None:
    """:raises ConfigurationError: *value* can't be called."""
    if not callable(value):
        raise ConfigurationError(f"{what} must be a function, not {value!r}")


def check_prefetch_count(count: object) -> int:
    """*count*, when AMQP can carry it."""
    if not isinstance(count, int) or not 0 <= count <= 65535:
        raise ConfigurationError(f"prefetch_count must be a number from 0 to 65535: {count!r}")
    return count


def table(what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of *values* as a broker returns it.

    Tuples become lists, datetimes are UTC in whole seconds, bytes that are UTF-8 become text.

    :param what: what the table is, for the error: ``"headers"``.
    :raises EncodeError: a key or a value that an AMQP table can't hold, or that is nested deeper
        than MAX_DEPTH, names the key; or all of it is too large for one frame.
    """
    copy = _table(what, values, 1)
    size = _size(copy)
    if size > TABLE_BYTES:
        raise EncodeError(
            f"{what} are {size} bytes long, and have to fit in a frame, so {TABLE_BYTES} are "
            "allowed: put large things into the body"
        )
    return copy


def method_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a method's arguments, by AMQP's names for them, with the table in it copied too.

    :raises ConfigurationError: a name or a routing key that AMQP can't carry.
    :raises EncodeError: the same of what ``arguments`` holds.
    """
    for name in ("queue", "exchange", "source", "destination"):
        if name in given:
            entity_name(name, given[name])
    short_string("routing key", given.get("routing_key", ""))
    if given.get("arguments"):
        return {**given, "arguments": table("arguments", given["arguments"])}
    return dict(given)


def _size(value: Any) -> int:
    """How many bytes a value takes in a table, nearly: never less."""
    if isinstance(value, dict):
        return 5 + sum(1 + 4 * len(key) + _size(item) for key, item in value.items())
    if isinstance(value, list):
        return 5 + sum(map(_size, value))
    if isinstance(value, str):
        return 5 + (len(value) if value.isascii() else len(value.encode()))
    return 5 + len(value) if isinstance(value, bytes) else 9


def _table(what: str, values: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """The same of a table at that *depth*; the outermost one is at 1."""
    if not isinstance(values, Mapping):
        raise EncodeError(f"{what} must be a dict, not {type(values).__name__}: {values!r}")
    return {
        _key(what, key): _field(f"{what}[{key!r}]", value, depth) for key, value in values.items()
    }


def _key(what: str, key: object) -> str:
    try:
        return short_string(f"a key of {what}", key)
    except ConfigurationError as exc:
        raise EncodeError(str(exc)) from exc


def _field(what: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise EncodeError(f"{what} is {value!r}, which RabbitMQ can't read: send it as text")
        return float(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise EncodeError(f"{what} can't be encoded as UTF-8: {value!r}") from exc
        return str(value)
    if isinstance(value, bytes):
        # The wire has one type for both, and receivers take for text what is text.
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise EncodeError(f"{what} doesn't fit in 64 bits: {value!r}")
        return int(value)
    if isinstance(value, Decimal):
        return _decimal(what, value)
    if isinstance(value, datetime):
        seconds = int(value.timestamp())
        if seconds < 0:
            raise EncodeError(f"{what}: AMQP timestamps begin in 1970: {value!r}")
        return datetime.fromtimestamp(seconds, UTC)
    if isinstance(value, (Mapping, list, tuple)):
        if depth == MAX_DEPTH:
            # Of the 63 keys that lead here the first says enough.
            raise EncodeError(
                f"{what.partition(']')[0]}] is nested deeper than {MAX_DEPTH} levels, or contains "
                "itself: put such data into the body"
            )
        if isinstance(value, Mapping):
            return _table(what, value, depth + 1)
        return [_field(f"{what}[{index}]", item, depth + 1) for index, item in enumerate(value)]
    raise EncodeError(
        f"AMQP can't carry {what}, of type {type(value).__name__} ({value!r}): use None, bool, "
        "int, float, Decimal, str, bytes, datetime, list or dict"
    )


def _decimal(what: str, value: Decimal) -> Decimal:
    _sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or not -255 <= exponent <= 0:
        raise EncodeError(f"{what}: AMQP decimals have 0 to 255 places, this has not: {value!r}")
    if int("".join(map(str, digits))) >= 2**31:
        raise EncodeError(f"{what}: AMQP decimals have 32 bits, this needs more: {value!r}")
    return value
