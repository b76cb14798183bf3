"""PublishOptions: all about a message but its data, from the keywords of send(), each checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypedDict

from carrot.checks import short_string, table
from carrot.exceptions import ConfigurationError
from carrot.message import Properties

RoutingKey = str | Mapping[str, Any]


class MorePropertyOptions(TypedDict, total=False):
    """The keywords of :meth:`Publisher.send` that travel as properties, without the priority."""

    headers: Mapping[str, Any] | None
    expiration: float | None
    message_id: str | None
    correlation_id: str | None
    reply_to: str | None
    timestamp: float | datetime | None
    type: str | None
    app_id: str | None


class MoreSendOptions(MorePropertyOptions, total=False):
    """The keywords of :meth:`Publisher.send`, without the delivery mode."""

    priority: int | None
    routing_key: RoutingKey | None
    mandatory: bool | None
    immediate: bool
    content_type: str | None
    content_encoding: str | None
    serializer: str | None
    exchange: str | None


class SendOptions(MoreSendOptions, total=False):
    """The keywords of :meth:`Publisher.send`."""

    delivery_mode: int | str | None


class PublishOptions(NamedTuple):
    """All about a message but its data.

    :param has_id: each message gets an id of its own, so that a duplicate can be told.
    :param properties: those that don't depend on the data.
    :param complete: all of them, by content type: messages sent alike share them, and the
        driver's encoding of them.
    """

    exchange: str
    routing_key: str
    mandatory: bool
    content_type: str | None
    content_encoding: str | None
    serializer: str | None
    has_id: bool
    properties: dict[str, Any]
    complete: dict[str, Properties]


def checked_properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """The properties as the wire has them; those that are None are left out.

    :param given: by the names that they have in AMQP.
    :raises ConfigurationError: a value that AMQP can't carry.
    :raises EncodeError: a header that AMQP can't carry.
    """
    return {
        name: _CHECKS[name](value) if name in _CHECKS else short_string(name, value)
        for name, value in given.items()
        if value is not None
    }


def _octet(what: str, value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= 255:
        raise ConfigurationError(f"{what} must be a whole number from 0 to 255: {value!r}")
    return value


def _milliseconds(seconds: object) -> str:
    """AMQP's expiration: text, in milliseconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ConfigurationError(f"expiration must be a number of seconds, 0 or more: {seconds!r}")
    milliseconds = round(min(seconds, 2**32) * 1000)
    if milliseconds >= 2**32:
        raise ConfigurationError(
            f"expiration can't be more than 4294967 seconds, some 49 days: {seconds!r}"
        )
    return str(milliseconds)


def _whole_seconds(timestamp: object) -> int:
    if isinstance(timestamp, datetime):
        timestamp = timestamp.timestamp()
    if not isinstance(timestamp, (int, float)) or not 0 <= timestamp < 2**63:
        raise ConfigurationError(
            f"timestamp must be a datetime, or seconds since 1970: {timestamp!r}"
        )
    return int(timestamp)


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "priority": lambda value: _octet("priority", value),
    "headers": lambda value: table("headers", value),
    "expiration": _milliseconds,
    "timestamp": _whole_seconds,
}
