"""STOMP's frames: bytes in any pieces, headers of any text, and properties that come back."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import (
    MAX_HEAD,
    MAX_HEADER,
    Decoder,
    Frame,
    FramingError,
    encode,
    encode_headers,
)
from carrot.checks import table
from carrot.exceptions import EncodeError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
bodies = st.binary(max_size=60)


def message(headers: dict[str, str], body: bytes) -> bytes:
    sized = {**headers, "content-length": str(len(body))}
    return b"MESSAGE\n" + encode_headers(sized) + b"\n" + body + b"\0"


@given(st.lists(st.tuples(texts, bodies), max_size=5), st.lists(st.integers(0, 400), max_size=8))
def test_frames_come_whole_whatever_the_pieces(
    messages: list[tuple[str, bytes]], cuts: list[int]
) -> None:
    stream = b"\n".join(message({"text": text}, body) for text, body in messages) + b"\n\n"
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder = Decoder()

    frames = [frame for start, end in pairwise(places) for frame in decoder.feed(stream[start:end])]

    assert [(frame.headers()["text"], frame.body) for frame in frames] == messages
    assert [frame.header(b"\ntext:") for frame in frames] == [text for text, _ in messages]


def test_frames_come_whole_byte_by_byte() -> None:
    decoder = Decoder()
    stream = message({"a": "b"}, b"\0\n\n\0") + b"RECEIPT\r\nreceipt-id:7\r\n\r\n\0"

    frames = [frame for byte in stream for frame in decoder.feed(bytes([byte]))]

    assert [(frame.command, frame.body) for frame in frames] == [
        (b"MESSAGE", b"\0\n\n\0"),
        (b"RECEIPT", b""),
    ]
    assert frames[1].header(b"\nreceipt-id:") == "7"


def test_a_body_without_a_length_ends_at_the_first_nul() -> None:
    [error] = Decoder().feed(b"ERROR\nmessage:no\n\nsee above\0")

    assert (error.command, error.body, error.header(b"\nmessage:")) == (
        b"ERROR",
        b"see above",
        "no",
    )
    assert error.header(b"\nreceipt-id:") is None


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n\0",
        b"MESSAGE\ncontent-length:x\n\n\0",
        b"MESSAGE\ncontent-length:-1\n\n\0",
        b"MESSAGE\ncontent-length:2\n\nabc\0",
        b"\1" * (MAX_HEAD + 2),
    ],
)
def test_what_is_no_stomp_is_told(data: bytes) -> None:
    with pytest.raises(FramingError):
        Decoder().feed(data)


@given(st.dictionaries(texts.filter(bool), texts, max_size=5))
def test_headers_of_any_text_come_back(headers: dict[str, str]) -> None:
    frame = Frame(b"MESSAGE", b"MESSAGE\n" + encode_headers(headers), b"")

    assert frame.headers() == headers


@pytest.mark.parametrize("headers", [{"a": "x\0y"}, {"a": "x" * MAX_HEADER}])
def test_a_header_that_cannot_be_carried_is_an_encode_error(headers: dict[str, str]) -> None:
    with pytest.raises(EncodeError, match=r"a has a NUL|header a is"):
        encode_headers(headers)


def test_a_login_is_not_escaped() -> None:
    assert b"\npasscode:a:b\\c\n" in encode("CONNECT", {"passcode": "a:b\\c"}, escape=False)


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
        st.binary(max_size=20),
        st.decimals(-1000, 1000, places=2),
        st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=10), st.just("!")), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=20), values, max_size=5))
def test_headers_of_every_kind_come_back(headers: dict[str, Any]) -> None:
    sent = table("headers", headers)

    lines = encode_headers(mapping.of_properties({"headers": sent}))
    received = mapping.to_properties(Frame(b"MESSAGE", b"MESSAGE\n" + lines, b"").headers())

    assert received["headers"] == sent


def test_properties_have_the_names_that_other_clients_know() -> None:
    headers = mapping.of_properties(
        {
            "content_type": "text/plain",
            "correlation_id": "c:1",
            "delivery_mode": 2,
            "headers": {"language": "en", "pages": 3, "price": Decimal("1.50"), "type": "x"},
            "priority": 200,
            "reply_to": "answers.new",
        }
    )

    assert headers == {
        "content-type": "text/plain",
        "correlation-id": "c:1",
        "persistent": "true",
        "priority": "9",
        "amqp-priority": "200",
        "reply-to": "/queue/answers.new",
        "amqp-reply-to": "answers.new",
        "language": "en",
        "amqp-headers": '{"pages": 3, "price": {"!": ["decimal", "1.50"]}, "type": "x"}',
    }


def test_what_other_clients_send_is_read() -> None:
    properties = mapping.to_properties(
        {
            "message-id": "ID:1",
            "subscription": "1-1",
            "ack": "1",
            "destination": "/queue/q",
            "expires": "0",
            "priority": "4",
            "timestamp": "1700000000000",
            "persistent": "true",
            "reply-to": "/queue/a%2Fb",
            "language": "en",
        }
    )

    assert properties == {
        "delivery_mode": 2,
        "reply_to": "a/b",
        "headers": {"language": "en"},
    }
    assert mapping.to_properties({"reply-to": "/temp-queue/x"})["reply_to"] == "/temp-queue/x"
