"""What AMQP can carry."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from carrot.backends.amqp import tables
from carrot.checks import MAX_DEPTH, required_name, short_string, table
from carrot.exceptions import ConfigurationError, EncodeError


@pytest.mark.parametrize("value", ["", "feed", "a" * 255, "ü" * 127 + "a", "🥕" * 63, "a\x00b"])
def test_text_of_up_to_255_bytes_is_a_short_string(value: str) -> None:
    assert short_string("routing key", value) is value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a" * 256, "routing key is 256 bytes long, and AMQP allows 255: 'aaaa"),
        ("ü" * 128, "routing key is 256 bytes long"),
        ("🥕" * 64, "routing key is 256 bytes long"),
        (b"feed", "routing key must be text (str), not bytes: b'feed'"),
        (None, "routing key must be text (str), not NoneType: None"),
        (5, "routing key must be text (str), not int: 5"),
        ("\ud800", "routing key can't be encoded as UTF-8: '\\ud800'"),
        ("a" * 100 + "\ud800", "routing key can't be encoded as UTF-8"),
    ],
)
def test_anything_else_is_not_and_the_error_says_why(value: object, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        short_string("routing key", value)

    assert says in str(caught.value)


def test_a_long_value_is_not_printed_whole() -> None:
    with pytest.raises(ConfigurationError) as caught:
        short_string("queue name", "x" * 10_000)

    assert len(str(caught.value)) < 150


def test_a_required_name_is_not_empty() -> None:
    assert required_name("queue", "feed") == "feed"
    with pytest.raises(ConfigurationError, match="queue is empty: give it a name"):
        required_name("queue", "")
    with pytest.raises(ConfigurationError, match=r"queue must be text \(str\), not NoneType"):
        required_name("queue", None)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -(2**63),
        2**63 - 1,
        1.5,
        "text",
        "",
        "x" * 100_000,
        b"\x00\xff",
        Decimal("1.25"),
        Decimal("-2147483647"),
        Decimal("1E-255"),
        datetime(2026, 11, 1, 12, 30, tzinfo=UTC),
        [],
        [1, ["two", {"three": 3}]],
        {},
        {"nested": {"deeper": [None]}},
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_table_holds(value: Any) -> None:
    checked = table("headers", {"key": value})

    assert checked == {"key": value}
    assert type(checked["key"]) is type(value)


@pytest.mark.parametrize(
    ("value", "returned"),
    [
        ((1, (2,)), [1, [2]]),
        (
            datetime(2026, 11, 1, 12, 30, 5, 999_999, tzinfo=timezone(timedelta(hours=2))),
            datetime(2026, 11, 1, 10, 30, 5, tzinfo=UTC),
        ),
        (datetime.fromtimestamp(1_700_000_000), datetime.fromtimestamp(1_700_000_000, UTC)),
    ],
)
def test_a_value_becomes_what_a_broker_returns(value: object, returned: object) -> None:
    assert table("headers", {"key": value}) == {"key": returned}


def test_a_table_is_a_deep_copy() -> None:
    inner: list[Any] = [{"a": 1}]
    original = {"key": inner}

    copy = table("headers", original)
    copy["key"][0]["a"] = 2
    copy["key"].append(3)

    assert original == {"key": [{"a": 1}]}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"k": object}, "AMQP can't carry headers['k'], of type type"),
        ({"k": {1, 2}}, "AMQP can't carry headers['k'], of type set"),
        ({"k": 1j}, "headers['k'], of type complex"),
        ({"k": 2**63}, "headers['k'] doesn't fit in 64 bits"),
        ({"k": -(2**63) - 1}, "headers['k'] doesn't fit in 64 bits"),
        ({"k": "\ud800"}, "headers['k'] can't be encoded as UTF-8"),
        ({"k": [0, {"x": {1}}]}, "headers['k'][1]['x'], of type set"),
        ({"k": Decimal("NaN")}, "headers['k']: AMQP decimals have 0 to 255 places"),
        ({"k": Decimal("Infinity")}, "headers['k']: AMQP decimals"),
        ({"k": Decimal("1E+1")}, "headers['k']: AMQP decimals have 0 to 255 places"),
        ({"k": Decimal("1E-256")}, "headers['k']: AMQP decimals have 0 to 255 places"),
        ({"k": Decimal("2147483648")}, "headers['k']: AMQP decimals have 32 bits"),
        ({1: "one"}, "a key of headers must be text (str), not int: 1"),
        ({b"k": 1}, "a key of headers must be text (str), not bytes"),
        ({"k" * 256: 1}, "a key of headers is 256 bytes long"),
        ({"k": {None: 1}}, "a key of headers['k'] must be text"),
        ([("k", 1)], "headers must be a dict, not list"),
        (None, "headers must be a dict, not NoneType"),
        ({"k": datetime(1969, 12, 31, tzinfo=UTC)}, "headers['k']"),
        ({"k": float("nan")}, "headers['k'] is nan"),
        ({"k": float("-inf")}, "headers['k'] is -inf"),
        ({"k": "x" * 130_000}, "120000 are allowed"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_a_table_cannot_hold_is_named(values: Any, says: str) -> None:
    with pytest.raises(EncodeError) as caught:
        table("headers", values)

    assert says in str(caught.value)


def test_a_table_that_contains_itself_is_told() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless

    with pytest.raises(EncodeError, match=r"^headers\['again'\] is nested .*or contains itself"):
        table("headers", endless)


@pytest.mark.parametrize("wrap", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_a_table_is_no_deeper_than_receivers_read(wrap: Callable[[Any], Any]) -> None:
    values: Any = {}
    for _ in range(MAX_DEPTH - 2):
        values = wrap(values)

    deepest = {"deep": values}
    assert table("headers", deepest) == deepest
    assert tables.decode_table(tables.encode_table(deepest), 0)[0] == deepest
    with pytest.raises(EncodeError, match=r"^headers\['deep'\] is nested deeper than 64 levels"):
        table("headers", {"deep": wrap(values)})


def test_bytes_that_are_text_come_as_text() -> None:
    assert table("headers", {"text": b"abc", "bytes": b"\xff"}) == {"text": "abc", "bytes": b"\xff"}
