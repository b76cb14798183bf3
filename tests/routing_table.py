"""The routing truth table: what RabbitMQ 3.10 does, for ``carrot.routing`` and for every broker.

Each line: exchange type, binding key, binding arguments, routing key, headers, whether the
message arrives.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

Line = tuple[str, str, dict[str, Any], str, dict[str, Any], bool]


def _keys(exchange_type: str, *lines: tuple[str, str, bool]) -> list[Line]:
    return [(exchange_type, binding, {}, key, {}, expected) for binding, key, expected in lines]


def _headers(*lines: tuple[dict[str, Any], dict[str, Any], bool]) -> list[Line]:
    return [
        ("headers", "", arguments, "", headers, expected) for arguments, headers, expected in lines
    ]


_DIRECT = _keys(
    "direct",
    ("feed", "feed", True),
    ("feed", "feeds", False),
    ("feed", "Feed", False),
    ("feed", "", False),
    ("", "", True),
    ("", "feed", False),
    ("a.*", "a.b", False),
    ("a.*", "a.*", True),
    ("#", "a", False),
)

_FANOUT = _keys(
    "fanout",
    ("", "", True),
    ("", "feed", True),
    ("feed", "other", True),
)

_TOPIC = _keys(
    "topic",
    # Words
    ("a", "a", True),
    ("a", "A", False),
    ("a.b", "a.b", True),
    ("a.b", "a", False),
    ("a", "a.b", False),
    ("a.b", "a.b.c", False),
    # * is exactly one word
    ("*", "a", True),
    ("*", "", False),
    ("*", "a.b", False),
    ("a.*", "a.b", True),
    ("a.*", "a", False),
    ("a.*", "a.b.c", False),
    ("*.b", "a.b", True),
    ("*.b", "b", False),
    ("a.*.c", "a.b.c", True),
    ("a.*.c", "a.c", False),
    ("*.*", "a.b", True),
    ("*.*", "a", False),
    # # is any number of words, also none
    ("#", "", True),
    ("#", "a", True),
    ("#", "a.b.c", True),
    ("a.#", "a", True),
    ("a.#", "a.b", True),
    ("a.#", "a.b.c", True),
    ("a.#", "b", False),
    ("a.#", "", False),
    ("#.b", "b", True),
    ("#.b", "a.b", True),
    ("#.b", "a.a.b", True),
    ("#.b", "b.a", False),
    ("#.b", "b.b", True),
    ("a.#.b", "a.b", True),
    ("a.#.b", "a.x.b", True),
    ("a.#.b", "a.x.y.b", True),
    ("a.#.b", "a", False),
    ("a.#.b", "a.b.c", False),
    ("a.#.b.#.c", "a.b.b.x.c", True),
    ("a.#.b.#.c", "a.c.b", False),
    # Several of them
    ("#.#", "", True),
    ("#.#", "a", True),
    ("#.#", "a.b", True),
    ("*.#", "", False),
    ("*.#", "a", True),
    ("#.*", "", False),
    ("#.*", "a", True),
    ("#.*", "a.b", True),
    ("*.#.*", "a", False),
    ("*.#.*", "a.b", True),
    ("#.*.#", "", False),
    ("#.*.#", "a.b.c", True),
    ("#.a.#", "b.a.c", True),
    ("#.a.#", "b.c", False),
    # The example of the documentation
    ("*.stock.#", "usd.stock", True),
    ("*.stock.#", "eur.stock.db", True),
    ("*.stock.#", "stock.nasdaq", False),
    # Empty words are words, but an empty key has none
    ("", "", True),
    ("", "a", False),
    ("*", ".", False),
    ("*.*", ".", True),
    (".", ".", True),
    ("#", "..", True),
    ("a.*", "a.", True),
    ("a.", "a.", True),
    ("a.", "a", False),
    ("a", "a.", False),
    ("a.*.b", "a..b", True),
    ("a..b", "a..b", True),
    ("a.b", "a..b", False),
    ("a.#.b", "a..b", True),
    ("#.", "", False),
    ("#.", "a.", True),
    (".#", ".a", True),
    (".#", "a", False),
    (".#", "", False),
    # Wildcards are whole words, and mean nothing in a routing key
    ("a*", "ab", False),
    ("#a", "ba", False),
    ("a.b", "a.*", False),
    ("a.b", "#", False),
    ("a.*", "a.*", True),
    ("*.b", "#.b", True),
    ("#", "*.#", True),
)

_MOMENT = datetime(2020, 1, 1, tzinfo=UTC)

_HEADERS = _headers(
    # all, the default
    ({}, {}, True),
    ({}, {"a": 1}, True),
    ({"a": 1}, {"a": 1}, True),
    ({"a": 1}, {"a": 1, "b": 2}, True),
    ({"a": 1}, {"a": 2}, False),
    ({"a": 1}, {}, False),
    ({"a": 1, "b": 2}, {"a": 1, "b": 2}, True),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
    ({"a": 1, "b": 2}, {"a": 1}, False),
    ({"x-match": "all"}, {}, True),
    ({"x-match": "all", "a": 1, "b": 2}, {"a": 1, "b": 3}, False),
    # any
    ({"x-match": "any"}, {}, False),
    ({"x-match": "any"}, {"a": 1}, False),
    ({"x-match": "any", "a": 1, "b": 2}, {"b": 2}, True),
    ({"x-match": "any", "a": 1, "b": 2}, {"a": 2, "b": 2}, True),
    ({"x-match": "any", "a": 1, "b": 2}, {"b": 1}, False),
    ({"x-match": "any", "a": 1}, {}, False),
    # Names that begin with x- count only where x-match says so
    ({"x-a": 1}, {}, True),
    ({"x-": 1}, {}, True),
    ({"x": 1}, {}, False),
    ({"X-a": 1}, {}, False),
    ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
    ({"x-match": "all-with-x", "x-a": 1}, {}, False),
    ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
    ({"x-match": "all-with-x", "x-a": 1, "b": 2}, {"x-a": 1}, False),
    ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1}, True),
    ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 2}, False),
    # x-match itself is never compared
    ({"x-match": "all", "a": 1}, {"x-match": "any", "a": 1}, True),
    ({"x-match": "any-with-x"}, {"x-match": "any-with-x"}, False),
    # None in the binding asks for the header, whatever its value
    ({"a": None}, {"a": 5}, True),
    ({"a": None}, {"a": ""}, True),
    ({"a": None}, {"a": None}, True),
    ({"a": None}, {}, False),
    ({"a": 5}, {"a": None}, False),
    ({"x-match": "any", "a": None, "b": 1}, {"a": 1}, True),
    # Values: numbers are numbers, and nothing else is
    ({"a": 1}, {"a": 1.0}, True),
    ({"a": 2**40}, {"a": 2**40}, True),
    ({"a": 1}, {"a": 2**40}, False),
    ({"a": 1.5}, {"a": 1.5}, True),
    ({"a": 1}, {"a": True}, False),
    ({"a": 0}, {"a": False}, False),
    ({"a": True}, {"a": True}, True),
    ({"a": True}, {"a": False}, False),
    ({"a": 1}, {"a": "1"}, False),
    ({"a": True}, {"a": "true"}, False),
    ({"a": "pdf"}, {"a": "pdf"}, True),
    ({"a": "pdf"}, {"a": "PDF"}, False),
    ({"a": ""}, {"a": ""}, True),
    ({"a": "ß"}, {"a": "ß"}, True),
    ({"a": _MOMENT}, {"a": _MOMENT}, True),
    ({"a": 1577836800}, {"a": _MOMENT}, True),
    ({"a": Decimal("1.0")}, {"a": Decimal("1.0")}, True),
    ({"a": Decimal("1.0")}, {"a": Decimal("1.00")}, False),
    ({"a": Decimal("5")}, {"a": 5}, False),
    # Lists and tables
    ({"a": [1, 2]}, {"a": [1, 2]}, True),
    ({"a": [1, 2]}, {"a": [2, 1]}, False),
    ({"a": [1]}, {"a": [True]}, False),
    ({"a": [1]}, {"a": [1.0]}, False),
    ({"a": [None]}, {"a": [None]}, True),
    ({"a": [None]}, {"a": [1]}, False),
    ({"a": {"k": 1}}, {"a": {"k": 1}}, True),
    ({"a": {"k": 1}}, {"a": {"k": 2}}, False),
)

ROUTING_TABLE: list[Line] = [*_DIRECT, *_FANOUT, *_TOPIC, *_HEADERS]
