"""A message's properties as STOMP headers, and back. No I/O.

Those that ActiveMQ knows go by its names, so that its other clients understand them
(https://activemq.apache.org/components/classic/documentation/stomp); what it can't hold as it is,
such as a priority above 9, stands in a header of ours besides.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from carrot.backends.pystomp.names import QUEUE, destination, queue_name
from carrot.deadline import wall_clock

#: ActiveMQ's priorities are 0 to 9, and 4 when a message has none.
MAX_PRIORITY = 9

# Properties that are text, and mean the same to ActiveMQ or nothing at all.
_TEXTS = {
    "content_type": "content-type",
    "content_encoding": "content-encoding",
    "correlation_id": "correlation-id",
    "message_id": "amqp-message-id",  # message-id is the broker's own
    "expiration": "amqp-expiration",
    "type": "type",
    "user_id": "user-id",
    "app_id": "app-id",
}
_NUMBERS = {"priority": "amqp-priority", "timestamp": "amqp-timestamp"}
EXCHANGE, ROUTING_KEY = "amqp-exchange", "amqp-routing-key"
REPLY_TO, REQUEUED = "amqp-reply-to", "amqp-requeued"
#: The application's headers that aren't text, as JSON.
TABLE = "amqp-headers"
#: A message that a binding was tried with; nobody gets it. (Selectors take no hyphens.)
MARK = "carrotmark"

MESSAGE_ID_LINE = b"amqp-message-id:"
MARK_LINE = b"\ncarrotmark:"

# What the broker, or the protocol, adds to a message.
_OTHERS = {
    "ack", "browser", "content-length", "destination", "expires", "message-id",
    "original-destination", "persistent",
    "priority", "receipt", "redelivered", "reply-to", "subscription", "timestamp", "transaction",
    "transformation", MARK,
}  # fmt: skip
_OURS = {*_TEXTS.values(), *_OTHERS}
# Names that other clients of ActiveMQ can read as properties of a message.
_PLAIN = re.compile(r"(?!amqp-|activemq|JMS)[A-Za-z][A-Za-z0-9_-]*")


def of_route(exchange: str, routing_key: str, where: str) -> dict[str, str]:
    """The headers that say where a message goes, and where it came from."""
    return {"destination": where, EXCHANGE: exchange, ROUTING_KEY: routing_key}


def of_properties(
    properties: Mapping[str, Any], private: Callable[[str], str | None] = lambda queue: None
) -> dict[str, str]:
    """The headers that say what a message is; all but when it expires, which is a matter of now.

    :param private: the destination of an exclusive queue, which ``reply_to`` may name; or None.
    """
    headers = {
        header: str(properties[name])
        for name, header in (_TEXTS | _NUMBERS).items()
        if name in properties
    }
    if properties.get("delivery_mode") == 2:
        headers["persistent"] = "true"
    if "priority" in properties:
        headers["priority"] = str(min(properties["priority"], MAX_PRIORITY))
    if "reply_to" in properties:
        reply_to = properties["reply_to"]
        if temporary := private(reply_to):
            # The broker says to each receiver by which name it can answer.
            headers["reply-to"] = temporary
        else:
            headers["reply-to"] = destination("", reply_to)
            headers[REPLY_TO] = reply_to
    if "headers" in properties:
        headers.update(_of_table(properties["headers"]))
    return headers


def expires(properties: Mapping[str, Any]) -> int:
    """When a message with an expiration expires: milliseconds since 1970, by this clock."""
    # 0 would be never.
    return max(1, int(wall_clock() * 1000) + int(properties["expiration"]))


def _of_table(table: Mapping[str, Any]) -> dict[str, str]:
    plain = {
        name: value
        for name, value in table.items()
        if isinstance(value, str)
        and "\0" not in value
        and name not in _OURS
        and _PLAIN.fullmatch(name)
    }
    others = {name: _packed(value) for name, value in table.items() if name not in plain}
    if others or not plain:
        return {**plain, TABLE: json.dumps(others, ensure_ascii=False)}
    return plain


def to_properties(headers: Mapping[str, str]) -> dict[str, Any]:
    """The properties of a message that has come, by AMQP's names."""
    properties: dict[str, Any] = {
        name: headers[header] for name, header in _TEXTS.items() if header in headers
    }
    properties |= {
        name: int(headers[header]) for name, header in _NUMBERS.items() if header in headers
    }
    properties["delivery_mode"] = 2 if headers.get("persistent") == "true" else 1
    if REPLY_TO in headers:
        properties["reply_to"] = headers[REPLY_TO]
    elif "reply-to" in headers:
        properties["reply_to"] = _reply_to(headers["reply-to"])
    table = _to_table(headers)
    if table or TABLE in headers:
        properties["headers"] = table
    return properties


def _reply_to(where: str) -> str:
    """The routing key by which an answer reaches a destination of ActiveMQ's."""
    return queue_name(where) if where.startswith(QUEUE) else where


def _to_table(headers: Mapping[str, str]) -> dict[str, Any]:
    table: dict[str, Any] = {
        name: value
        for name, value in headers.items()
        if name not in _OURS and not name.startswith("amqp-")
    }
    if TABLE in headers:
        table |= {name: _unpacked(value) for name, value in json.loads(headers[TABLE]).items()}
    return table


# -- values that JSON has no type for: {"!": [type, value]}


def _packed(value: Any) -> Any:
    if isinstance(value, Decimal):
        return {"!": ["decimal", str(value)]}
    if isinstance(value, bytes):
        return {"!": ["bytes", b64encode(value).decode()]}
    if isinstance(value, datetime):
        return {"!": ["datetime", int(value.timestamp())]}
    if isinstance(value, list):
        return [_packed(item) for item in value]
    if isinstance(value, dict):
        packed = {key: _packed(item) for key, item in value.items()}
        return {"!": ["dict", packed]} if "!" in packed else packed
    return value


_UNPACK: Mapping[str, Callable[[Any], Any]] = {
    "decimal": Decimal,
    "bytes": b64decode,
    "datetime": lambda seconds: datetime.fromtimestamp(seconds, UTC),
    "dict": lambda packed: {key: _unpacked(item) for key, item in packed.items()},
}


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    if isinstance(value, dict):
        if "!" in value:
            kind, packed = value["!"]
            return _UNPACK[kind](packed)
        return {key: _unpacked(item) for key, item in value.items()}
    return value
