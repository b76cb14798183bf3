"""Field tables and property lists: round trips, and what py-amqp and pamqp make of the bytes."""

from __future__ import annotations

import struct
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest
from amqp import Message
from amqp.serialization import dumps, loads
from amqp.spec import Basic
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, decode

from carrot.backends.amqp import tables
from carrot.backends.amqp.channel import encoded_properties
from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.tables import (
    decode_content,
    decode_properties,
    decode_table,
    encode_properties,
    encode_table,
    long_string,
    read_short_string,
    short_string,
)
from carrot.message import Outgoing, Properties

MOMENT = datetime(2026, 7, 1, 12, 30, 15, tzinfo=UTC)


class Colour(IntEnum):
    RED = 1


class Name(str):
    """Text of a class of its own."""


# Values that come back as they were.
VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31 - 1,
    2**31,
    -(2**31),
    -(2**31) - 1,
    2**63 - 1,
    -(2**63),
    0.0,
    0.1,
    -1e300,
    float("inf"),
    "",
    "text",
    "ümläut 🥕",
    "x" * 70_000,
    b"\xff\x00",
    Decimal("0"),
    Decimal("3.14"),
    Decimal("-2147483647"),
    Decimal("1E-255"),
    MOMENT,
    datetime(1970, 1, 1, tzinfo=UTC),
    {},
    [],
    {"nested": {"deep": [1, [2, {"x": None}]]}},
    [None, True, 1, 1.5, "a", b"\xfe", {"k": []}],
]


def same(one: object, other: object) -> bool:
    """Equal, and of the same type, all the way down."""
    return repr(one) == repr(other) and one == other


# -- strings


@pytest.mark.parametrize("text", ["", "a", "ü" * 127, "x" * 255])
def test_short_string_comes_back_with_the_offset_behind_it(text: str) -> None:
    data = b"before" + short_string(text) + b"after"

    assert read_short_string(data, 6) == (text, len(data) - 5)


def test_short_string_that_is_not_utf_8_is_readable_all_the_same() -> None:
    assert read_short_string(b"\x02a\xff", 0) == ("a\ufffd", 3)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x05abcd"])
def test_short_string_that_is_cut_off_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(FramingError):
        read_short_string(data, 0)


def test_long_string_is_text_or_bytes() -> None:
    assert long_string("ü") == long_string("ü".encode()) == b"\x00\x00\x00\x02\xc3\xbc"


# -- tables


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_value_comes_back_as_it_was(value: object) -> None:
    data = encode_table({"key": value})

    table, end = decode_table(data, 0)

    assert same(table, {"key": value})
    assert end == len(data)


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [(Colour.RED, 1), (Name("x"), "x"), (b"text", "text"), (Decimal("100"), Decimal("100"))],
)
def test_subclass_comes_back_as_its_base_and_bytes_of_utf_8_as_text(
    value: object, comes_back: object
) -> None:
    assert decode_table(encode_table({"k": value}), 0)[0] == {"k": comes_back}


def test_key_may_be_as_long_as_a_short_string() -> None:
    table = {"ü" * 127: 1, "": 2}

    assert decode_table(encode_table(table), 0)[0] == table


def test_table_stands_anywhere_in_a_frame() -> None:
    data = b"before" + encode_table({"a": 1}) + b"after"

    assert decode_table(data, 6) == ({"a": 1}, len(data) - 5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"t\x02", True),
        (b"b\xff", -1),
        (b"B\xff", 255),
        (b"s\xff\xfe", -2),
        (b"u\xff\xfe", 65534),
        (b"I\xff\xff\xff\xff", -1),
        (b"i\xff\xff\xff\xff", 2**32 - 1),
        (b"l" + b"\xff" * 8, -1),
        (b"L" + b"\xff" * 8, -1),
        (b"f" + struct.pack(">f", 1.5), 1.5),
        (b"d" + struct.pack(">d", 0.1), 0.1),
        (b"D\x02\x00\x00\x01\x3a", Decimal("3.14")),
        (b"S\x00\x00\x00\x01a", "a"),
        (b"S\x00\x00\x00\x01\xff", b"\xff"),
        (b"x\x00\x00\x00\x01a", b"a"),
        (b"A\x00\x00\x00\x00", []),
        (b"F\x00\x00\x00\x00", {}),
        (b"V", None),
        (b"T" + struct.pack(">Q", 60), datetime(1970, 1, 1, 0, 1, tzinfo=UTC)),
        # Milliseconds, as some clients send them, are beyond the year 9999.
        (b"T" + struct.pack(">Q", 1_700_000_000_000), 1_700_000_000_000),
        (b"T" + b"\xff" * 8, 2**64 - 1),
    ],
)
def test_every_type_that_brokers_send_is_read(field: bytes, value: object) -> None:
    fields = b"\x01k" + field

    table, _ = decode_table(struct.pack(">I", len(fields)) + fields, 0)

    assert same(table, {"k": value})


@pytest.mark.parametrize(
    "fields",
    [
        b"\x01k?",
        b"\x01k",
        b"\x05k",
        b"\x01kI\x00",
        b"\x01kS\x00\x00\x00\x09a",
        b"\x01kx\x00\x00\x00\x09a",
        b"\x01kF\x00\x00\x00\x09a",
        b"\x01kA\x00\x00\x00\x09a",
        b"\x01kT\x00",
        b"\x01kD\x00",
        b"\x01kt",
    ],
)
def test_table_that_is_cut_off_or_unknown_is_one_clear_error(fields: bytes) -> None:
    # The flag of the headers, and the table.
    data = b"\x20\x00" + struct.pack(">I", len(fields)) + fields

    with pytest.raises(FramingError):
        decode_properties(data)


@pytest.mark.parametrize("end", [1, -1])
def test_table_with_a_wrong_length_is_one_clear_error(end: int) -> None:
    fields = b"\x01kI\x00\x00\x00\x01"
    data = b"\x20\x00" + struct.pack(">I", len(fields) + end) + fields

    with pytest.raises(FramingError):
        decode_properties(data)


def test_deep_nesting_is_read_or_one_clear_error() -> None:
    fields = b"V"
    for _ in range(20_000):
        fields = b"F" + struct.pack(">I", len(fields) + 2) + b"\x01k" + fields
    data = b"\x20\x00" + struct.pack(">I", len(fields) + 2) + b"\x01k" + fields

    with pytest.raises(FramingError):
        decode_properties(data)


# -- properties

PROPERTIES: dict[str, Any] = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "headers": {"n": 1, "nested": {"list": [1, "b"]}},
    "delivery_mode": 2,
    "priority": 9,
    "correlation_id": "c",
    "reply_to": "answers",
    "expiration": "60000",
    "message_id": "m",
    "timestamp": 1_767_225_600,
    "type": "kind",
    "user_id": "guest",
    "app_id": "importer",
    "cluster_id": "k",
}


def test_all_properties_come_back() -> None:
    assert decode_properties(encode_properties(PROPERTIES)) == PROPERTIES


@pytest.mark.parametrize("name", PROPERTIES)
def test_each_property_has_its_own_flag(name: str) -> None:
    data = encode_properties({name: PROPERTIES[name]})

    assert decode_properties(data) == {name: PROPERTIES[name]}
    assert int.from_bytes(data[:2]).bit_count() == 1


def test_property_that_is_none_or_unknown_does_not_travel() -> None:
    data = encode_properties({"priority": None, "colour": "red", "type": "x"})

    assert decode_properties(data) == {"type": "x"}


def test_no_properties_are_two_octets_of_flags() -> None:
    assert encode_properties({}) == b"\x00\x00"
    assert decode_properties(b"\x00\x00") == {}


def test_content_type_and_encoding_are_read_alone() -> None:
    assert decode_content(encode_properties(PROPERTIES)) == ("application/json", "utf-8")
    assert decode_content(encode_properties({"type": "x"})) == (None, None)


def test_ten_thousand_property_lists_do_not_fill_memory() -> None:
    for number in range(10_000):
        decode_content(encode_properties({"message_id": str(number)}))

    assert len(tables._contents) < 1000


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\x80\x00\x05ab", b"\x00\x40\x00"])
def test_property_list_that_is_cut_off_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(FramingError):
        decode_properties(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_properties_or_one_clear_error(data: bytes) -> None:
    for read in (decode_properties, decode_content):
        with suppress(FramingError):
            read(data)


@given(st.binary(max_size=100))
def test_arbitrary_headers_are_a_table_or_one_clear_error(fields: bytes) -> None:
    with suppress(FramingError):
        decode_properties(b"\x20\x00" + struct.pack(">I", len(fields)) + fields)


# -- what others make of it

keys = st.text(max_size=30).filter(lambda key: len(key.encode()) <= 255)
# What both can say: py-amqp reads bytes as text, and its decimals and floats are its own.
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=30)
    | st.floats(allow_nan=False)
    | st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(
        lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)
texts = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)
octets = st.integers(0, 255)
property_lists = st.fixed_dictionaries(
    {},
    optional={
        "headers": st.dictionaries(keys, values, max_size=4),
        "delivery_mode": octets,
        "priority": octets,
        "timestamp": st.integers(0, 4_000_000_000),
        **{
            name: texts
            for name in PROPERTIES
            if name not in ("headers", "delivery_mode", "priority", "timestamp")
        },
    },
)


@given(st.dictionaries(keys, values, max_size=5))
def test_any_table_comes_back(table: dict[str, Any]) -> None:
    data = encode_table(table)

    assert decode_table(data, 0) == (table, len(data))


@given(property_lists)
def test_any_property_list_comes_back(properties: dict[str, Any]) -> None:
    assert decode_properties(encode_properties(properties)) == properties


def without_time_zone(value: Any) -> Any:
    """py-amqp's timestamps are in UTC, and don't say so."""
    if isinstance(value, dict):
        return {key: without_time_zone(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_time_zone(inner) for inner in value]
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


@given(st.dictionaries(keys, values, max_size=5))
def test_py_amqp_reads_our_tables_as_we_do(table: dict[str, Any]) -> None:
    (theirs,), _ = loads("F", encode_table(table), 0)

    assert without_time_zone(theirs) == without_time_zone(table)


@given(st.dictionaries(keys, values, max_size=5))
def test_we_read_py_amqps_tables_as_it_does(table: dict[str, Any]) -> None:
    ours, _ = decode_table(dumps("F", [table]), 0)

    assert ours == table


@given(property_lists)
def test_py_amqp_reads_our_properties_as_we_do(properties: dict[str, Any]) -> None:
    message = Message()

    message._load_properties(Basic.CLASS_ID, encode_properties(properties), 0)

    theirs = dict(message.properties)
    if "application_headers" in theirs:
        theirs["headers"] = theirs.pop("application_headers")
    assert without_time_zone(theirs) == without_time_zone(properties)


@given(property_lists)
def test_pamqp_reads_our_properties_as_we_do(properties: dict[str, Any]) -> None:
    properties.pop("headers", None)
    properties.pop("cluster_id", None)  # gone from AMQP 0-9-1, and read as a deprecated one
    data = encode_properties(properties)

    theirs = commands.Basic.Properties()
    theirs.unmarshal(int.from_bytes(data[:2]), data[2:])

    named = {"message_type": "type"}
    read = {named.get(name, name): value for name, value in theirs if value is not None}
    del read["cluster_id"]
    if "timestamp" in read:
        read["timestamp"] = int(read["timestamp"].timestamp())
    assert read == properties


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_pamqp_reads_each_value_as_we_do(value: object) -> None:
    _, theirs = decode.field_table(encode_table({"key": value}))

    assert decode_table(encode_table({"key": value}), 0)[0] == theirs


def test_what_another_driver_has_encoded_is_not_sent() -> None:
    """A publisher's connection was replaced, from STOMP to AMQP."""
    alike = {"content_type": "text/plain", "delivery_mode": 2}
    shared = Properties(alike)
    shared.encoded = (object(), (b"STOMP", b"STOMP"))

    wire = encoded_properties(Outgoing(b"x", shared, "id"))

    assert wire == encoded_properties(Outgoing(b"x", Properties(alike), "id"))
    assert decode_properties(wire) == {**alike, "message_id": "id"}
    assert encoded_properties(Outgoing(b"x", shared, "id")) == wire
