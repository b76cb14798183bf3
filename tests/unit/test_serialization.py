"""The registry of serializers, and those that come with carrot."""

from __future__ import annotations

import codecs
import csv
import gc
import gzip
import itertools
import json
import lzma
import pickle
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

import msgpack
import pytest
import simplejson
import yaml
from hypothesis import given
from hypothesis import strategies as st

from carrot import serialization
from carrot.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SerializerNotInstalled,
)
from carrot.serialization import CHARSETS, SerializerRegistry, charset_of, registry
from carrot.serialization import json as carrot_json

JSON, PICKLE = "application/json", "application/x-python-serialize"
YAML, MSGPACK = "application/x-yaml", "application/x-msgpack"

DATA = {"text": "ünïcode 🥕", "number": 1, "float": 1.5, "list": [1, None, True], "dict": {"a": {}}}

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


@pytest.fixture
def own() -> SerializerRegistry:
    """An empty registry."""
    return SerializerRegistry()


# -- encoding


@pytest.mark.parametrize(
    ("data", "serializer", "encoded"),
    [
        ({"a": 1}, None, (JSON, "utf-8", b'{"a": 1}')),
        (None, None, (JSON, "utf-8", b"null")),
        (0, None, (JSON, "utf-8", b"0")),
        ("ü", None, ("text/plain", "utf-8", b"\xc3\xbc")),
        ("", None, ("text/plain", "utf-8", b"")),
        (b"\xff", None, ("application/data", "binary", b"\xff")),
        ("ü", "json", (JSON, "utf-8", b'"\\u00fc"')),
        (b"\xff", "raw", ("application/data", "binary", b"\xff")),
        ("ü", "raw", ("application/data", "utf-8", b"\xc3\xbc")),
        ("ü", "text", ("text/plain", "utf-8", b"\xc3\xbc")),
        ({"a": 1}, "yaml", (YAML, "utf-8", b"a: 1\n")),
        ({"a": 1}, "msgpack", (MSGPACK, "binary", b"\x81\xa1a\x01")),
        ({"a": 1}, "orjson", (JSON, "utf-8", b'{"a":1}')),
        ({1}, "pickle", (PICKLE, "binary", pickle.dumps({1}))),
    ],
)
def test_data_becomes_a_type_an_encoding_and_bytes(
    data: Any, serializer: str | None, encoded: tuple[str, str, bytes]
) -> None:
    assert serialization.encode(data, serializer) == encoded


@pytest.mark.parametrize("name", ["json", "yaml", "msgpack", "orjson", "pickle"])
def test_data_comes_back_as_it_was_sent(name: str) -> None:
    content_type, encoding, body = registry.encode(DATA, name)

    assert registry.decode(body, content_type, encoding, accept=[name]) == DATA


@pytest.mark.parametrize("data", ["", "text", "ünïcode 🥕", b"", b"bytes", b"\x00\xff"])
def test_text_and_bytes_come_back_as_they_were_sent(data: str | bytes) -> None:
    content_type, encoding, body = registry.encode(data)

    assert registry.decode(body, content_type, encoding) == data


@given(JSON_VALUES)
def test_whatever_json_can_say_comes_back(data: Any) -> None:
    content_type, encoding, body = registry.encode(data, "json")

    assert registry.decode(body, content_type, encoding) == data


@given(JSON_VALUES)
def test_the_two_json_serializers_read_each_other(data: Any) -> None:
    for writer, reader in (("json", "orjson"), ("orjson", "json")):
        content_type, encoding, body = registry.encode(data, writer)

        assert registry.decode(body, content_type, encoding, accept=[reader]) == data


@pytest.mark.parametrize(
    ("data", "serializer", "says"),
    [
        (object(), None, "serializer 'json' can't encode this object"),
        ({"a": {1, 2}}, None, "serializer 'json' can't encode this dict"),
        ({"a": b"bytes"}, None, "serializer 'json' can't encode this dict"),
        ({"a": date(2026, 11, 1)}, "json", "serializer 'json' can't encode this dict"),
        ("\ud800", None, "can't be encoded as utf-8"),
        ("\ud800", "text", "can't be encoded as utf-8"),
        (5, "raw", "raw takes only bytes and str"),
        (b"x", "text", "text takes only str"),
        (object(), "yaml", "serializer 'yaml' can't encode this object"),
        (object(), "msgpack", "serializer 'msgpack' can't encode this object"),
        ({"a": {1}}, "orjson", "serializer 'orjson' can't encode this dict"),
        (lambda: None, "pickle", "serializer 'pickle' can't encode this function"),
    ],
)
def test_what_cannot_be_encoded_is_told(data: Any, serializer: str | None, says: str) -> None:
    with pytest.raises(EncodeError) as caught:
        registry.encode(data, serializer)

    assert says in str(caught.value)


def test_a_circle_cannot_be_encoded() -> None:
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(EncodeError, match="it was not sent"):
        registry.encode(circle)


def test_json_has_no_word_for_a_number_that_is_none() -> None:
    # Others can't read the NaN that simplejson writes when it is asked to.
    with pytest.raises(EncodeError):
        registry.encode({"a": float("nan")}, "json")


def test_a_decimal_is_a_json_number() -> None:
    assert registry.encode({"a": Decimal("1.10")})[2] == b'{"a": 1.10}'


@pytest.mark.parametrize("name", ["jsn", "", 5, ["json"]])
def test_an_unknown_serializer_is_told_the_known_ones(name: Any) -> None:
    with pytest.raises(SerializerNotInstalled) as caught:
        registry.encode({}, name)

    assert f"no serializer is named {name!r}" in str(caught.value)
    assert "json, msgpack, orjson, pickle, raw, text, yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [("yaml", "yaml", "yaml"), ("msgpack", "msgpack", "msgpack"), ("orjson", "orjson", "orjson")],
)
def test_a_missing_library_is_told_with_the_pip_command(
    name: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content_type, encoding, body = registry.encode({"a": 1}, name)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(SerializerNotInstalled) as encoding_error:
        registry.encode({"a": 1}, name)
    with pytest.raises(SerializerNotInstalled) as decoding_error:
        registry.decode(body, content_type, encoding, accept=[name])

    for caught in (encoding_error, decoding_error):
        assert f"pip install 'carrot[{extra}]'" in str(caught.value)


# -- decoding


@pytest.mark.parametrize(
    ("body", "content_type", "content_encoding", "data"),
    [
        (b'{"a": 1}', JSON, "utf-8", {"a": 1}),
        (b'{"a": 1}', JSON, None, {"a": 1}),
        (b'{"a": 1}', JSON, "", {"a": 1}),
        (b'{"a": 1}', JSON, "UTF-8", {"a": 1}),
        (b'{"a": 1}', "application/json; charset=utf-8", "utf-8", {"a": 1}),
        (b'{"a": 1}', "Application/JSON", "utf-8", {"a": 1}),
        (b'{"a": 1}', JSON, "binary", {"a": 1}),
        ('"ü"'.encode("latin-1"), JSON, "iso-8859-1", "ü"),
        ("ü".encode("latin-1"), "text/plain", "latin-1", "ü"),
        ("ü".encode("utf-16"), "text/plain", "utf-16", "ü"),
        (b"a,b", "text/csv", None, "a,b"),
        (b"\x89PNG", "image/png", None, b"\x89PNG"),
        (b"\x89PNG", "image/png", "binary", b"\x89PNG"),
        (b"\xff", "application/data", "binary", b"\xff"),
        (b"\xff", "application/data", None, b"\xff"),
        (b"\xff", "application/data", "ascii-8bit", b"\xff"),
        (b"\xff", "application/data", "8BIT", b"\xff"),
        (b"text", "application/data", "utf-8", "text"),
        (b"a: 1", YAML, "utf-8", {"a": 1}),
        (b"\x81\xa1a\x01", MSGPACK, "binary", {"a": 1}),
        # As old producers label it.
        (b"\x81\xa1a\x01", MSGPACK, None, {"a": 1}),
        (b'{"a": 1}', JSON, "identity", {"a": 1}),
        (b"\xff", "application/data", "identity", b"\xff"),
        (b"\xff", "application/octet-stream", None, b"\xff"),
        (b'{"a": 1}', "application/vnd.api+json", None, {"a": 1}),
        (b'{"a": 1}', "application/problem+JSON; charset=utf-8", "utf-8", {"a": 1}),
        (b"a,b", "TEXT/csv", None, "a,b"),
        (b"a,b", "text/csv ; header=present", None, "a,b"),
        (b"\x89PNG", "Image/PNG", "binary", b"\x89PNG"),
    ],
)
def test_a_body_is_decoded_by_its_type_and_encoding(
    body: bytes, content_type: str, content_encoding: str | None, data: Any
) -> None:
    assert serialization.decode(body, content_type, content_encoding) == data


@pytest.mark.parametrize(
    ("body", "content_type", "content_encoding", "says"),
    [
        (b"{", JSON, "utf-8", "serializer 'json' can't decode this body"),
        (b"", JSON, "utf-8", "serializer 'json' can't decode this body"),
        (b"[" * 100_000, JSON, "utf-8", "serializer 'json' can't decode this body"),
        (b"\xff", JSON, "utf-8", "the body is not utf-8, as it claims to be"),
        (b"\xff", "text/plain", "utf-8", "the body is not utf-8, as it claims to be"),
        (b"\xff", "text/plain", "ascii", "the body is not ascii, as it claims to be"),
        (b"{}", JSON, "klingon", "content encoding 'klingon' is neither a character set nor"),
        (b"{}", JSON, "gzip", "content encoding 'gzip' is neither a character set nor"),
        (b"{}", JSON, "zlib", "content encoding 'zlib' is neither a character set nor"),
        (b"{}", JSON, "base64", "content encoding 'base64' is neither a character set nor"),
        (b"{}", JSON, "rot13", "content encoding 'rot13' is neither a character set nor"),
        (b"{}", JSON, "utf-8\x00", r"content encoding 'utf-8\x00' is neither a character set nor"),
        (b"{}", "application/x-klingon", "utf-8", "no serializer decodes content type"),
        (b"a: [", YAML, "utf-8", "serializer 'yaml' can't decode this body"),
        (b"!!python/object:os.system {}", YAML, "utf-8", "serializer 'yaml' can't decode"),
        (b"\xc1", MSGPACK, "binary", "serializer 'msgpack' can't decode this body"),
        (b"\x81", MSGPACK, "binary", "serializer 'msgpack' can't decode this body"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_a_decode_error(
    body: bytes, content_type: str | None, content_encoding: str | None, says: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        registry.decode(body, content_type, content_encoding)

    assert says in str(caught.value)


@given(st.binary(max_size=50))
def test_no_bytes_escape_as_another_error(body: bytes) -> None:
    for content_type in (JSON, YAML, MSGPACK, "text/plain", "application/data"):
        with suppress(DecodeError):
            registry.decode(body, content_type, None)


@pytest.mark.parametrize(
    ("content_type", "content_encoding", "charset"),
    [
        ("text/plain; charset=iso-2022-jp", None, "iso-2022-jp"),
        ("text/plain; charset=utf-16le", "", "utf-16-le"),
        ('text/plain; format=flowed; Charset="Shift_JIS"', None, "shift_jis"),
        ("text/plain;charset=GB18030", "identity", "gb18030"),
        ("text/plain; charset='euc-kr'", "binary", "euc-kr"),
        ("text/plain; charset=big5", "8bit", "big5"),
        ("text/plain; charset=", None, "utf-8"),
        ("text/plain; format=flowed", None, "utf-8"),
        # The content encoding is what carrot has encoded the text with.
        ("text/plain; charset=iso-8859-1", "utf-8", "utf-8"),
        ("text/plain; charset=utf-8", "utf-16", "utf-16"),
    ],
)
def test_a_body_is_in_the_character_set_that_its_content_type_names(
    content_type: str, content_encoding: str | None, charset: str
) -> None:
    text = "漢字"

    assert registry.decode(text.encode(charset), content_type, content_encoding) == text


def test_json_may_be_in_the_character_set_that_its_content_type_names() -> None:
    body = '{"a": "é"}'.encode("utf-16")

    assert registry.decode(body, "application/json; charset=utf-16", None) == {"a": "é"}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (MSGPACK + "; charset=utf-8", b"\x01"),
        ("application/data; charset=utf-8", b"\x01"),
        ("image/png; charset=utf-8", b"\x01"),
        ("text/plain; charset=binary", b"\xff"),
    ],
)
def test_bytes_have_no_character_set(content_type: str, body: bytes) -> None:
    assert registry.decode(body, content_type, "binary") in (body, 1)


def test_an_unknown_charset_parameter_is_a_decode_error() -> None:
    with pytest.raises(DecodeError) as caught:
        registry.decode(b"a", "text/plain; charset=klingon", None)

    assert "'klingon' in content type 'text/plain; charset=klingon' is no" in str(caught.value)


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("text/plain", None),
        ("text/plain;", None),
        ("text/plain; charset", None),
        ('text/plain; charset=""', None),
        ("text/plain; CHARSET = utf-8 ; q=1", "utf-8"),
        ('text/plain; q="charset"; charset="utf-8"', "utf-8"),
    ],
)
def test_the_charset_parameter_is_found(content_type: str, charset: str | None) -> None:
    assert charset_of(content_type) == charset


@pytest.mark.parametrize("content_type", [None, ""])
@pytest.mark.parametrize("content_encoding", [None, "utf-8", "gzip", "klingon"])
def test_a_body_without_content_type_is_the_bytes_that_it_is(
    content_type: str | None, content_encoding: str | None
) -> None:
    assert registry.decode(b"\xff{", content_type, content_encoding) == b"\xff{"


def test_a_default_content_type_is_that_of_bodies_without_one() -> None:
    def decode(content_type: str | None, encoding: str | None = None) -> Any:
        return registry.decode(b'"a"', content_type, encoding, default_content_type=JSON)

    assert (decode(None), decode(""), decode(None, "utf-8")) == ("a", "a", "a")
    assert decode("text/plain") == '"a"'
    # Nothing of it is remembered for those who have no default.
    assert registry.decode(b'"a"', None, None) == b'"a"'


def test_a_default_content_type_is_no_way_around_accept() -> None:
    with pytest.raises(ContentDisallowed, match="is not accepted here"):
        registry.decode(b"1", None, None, accept=["yaml"], default_content_type=JSON)
    with pytest.raises(ContentDisallowed, match=r"accept=\['pickle'\]"):
        registry.decode(b"N.", None, None, default_content_type=PICKLE)


def test_bytes_of_which_nothing_is_said_must_be_accepted_as_such() -> None:
    with pytest.raises(ContentDisallowed, match=r"no content type.*default_content_type="):
        registry.decode(b"x", None, None, accept=["json"])

    assert registry.decode(b"x", None, None, accept=["json", "raw"]) == b"x"
    assert registry.decode(b"x", None, None, accept=["application/data"]) == b"x"


@pytest.mark.parametrize(
    ("content_type", "content_encoding", "data"),
    [
        ("text/plain", "utf-8", "text"),
        ("text/plain; charset=utf-16", None, "text"),
        ("application/data", "binary", "text"),
        (None, None, "text"),
    ],
)
def test_text_is_taken_as_decoded_from_its_character_set(
    content_type: str | None, content_encoding: str | None, data: Any
) -> None:
    assert registry.decode("text", content_type, content_encoding) == data


def test_text_is_decoded_by_its_serializer() -> None:
    assert registry.decode('{"a": "ü"}', JSON, "utf-8") == {"a": "ü"}
    assert registry.decode("a: ü", YAML, None) == {"a": "ü"}
    assert registry.decode("5", "any", "utf-8", decoder=int) == 5
    with pytest.raises(DecodeError, match="serializer 'json' can't decode"):
        registry.decode("{", JSON, "utf-8")


# -- character sets


@pytest.mark.parametrize(
    "name",
    [
        *("punycode", "idna", "unicode_escape", "raw_unicode_escape", "utf-7", "hz", "charmap"),
        *("zip", "zlib", "bz2", "base64", "hex", "uu", "rot13", "quopri", "undefined", "mbcs"),
        *("encodings", "aliases", "os"),
    ],
)
@pytest.mark.parametrize("place", ["content encoding", "charset parameter"])
def test_what_is_no_character_set_is_refused_at_once(name: str, place: str) -> None:
    is_encoding = place == "content encoding"
    content_type = "text/plain" if is_encoding else f"text/plain; charset={name}"

    with pytest.raises(DecodeError) as caught:
        registry.decode(b"a-" * 4_000_000, content_type, name if is_encoding else None)

    for part in (repr(name), "carrot.serialization.CHARSETS", "message.body", "decoder="):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["punycode", "utf-7", "zlib"])
def test_text_is_not_sent_in_what_no_receiver_decodes(name: str) -> None:
    with pytest.raises(EncodeError, match=f"encoded as {name}, which is no character set"):
        serialization.to_bytes("text", name)


@pytest.mark.parametrize(
    "name", ["latin-1", "ISO-8859-15", "windows-1252", "US-ASCII", "UTF8", "utf 16", "koi8-r"]
)
def test_a_character_set_is_known_by_its_usual_names(name: str) -> None:
    assert registry.decode("abc".encode(name.replace(" ", "-")), "text/plain", name) == "abc"


def _bodies(charset: str, size: int) -> Iterator[bytes]:
    """Texts of about *size* characters that the character set has, and bytes that it hasn't."""
    for sample in ("a", "aé", "aя", "東a", "가a", "東", "漢字"):
        with suppress(UnicodeEncodeError):
            yield (sample * size)[:size].encode(charset)
    yield from ((raw * size)[:size] for raw in (b"\x00", b"\xff", b"\x1b$B\x1b(B", b"\x0e\x0f"))


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_a_character_set_is_decoded_in_c(charset: str, no_collection: None) -> None:
    def python_work(body: bytes) -> int:
        """How many calls and lines of Python decode the body."""
        steps = itertools.count()

        def count(*_event: object) -> Any:
            next(steps)
            return count

        sys.settrace(count)
        try:
            with suppress(UnicodeDecodeError):
                body.decode(charset)
        finally:
            sys.settrace(traced)
        return next(steps)

    traced = sys.gettrace()
    codecs.lookup(charset)

    for short, long in zip(_bodies(charset, 100), _bodies(charset, 10_000), strict=True):
        assert python_work(short) == python_work(long)


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_decoding_is_linear_in_the_body(charset: str) -> None:
    def seconds(body: bytes) -> float:
        """The CPU time that it takes, undisturbed."""
        times = []
        for _ in range(5):
            start = time.thread_time()
            with suppress(DecodeError):
                registry.decode(body, "text/plain", charset)
            times.append(time.thread_time() - start)
        return min(times)

    size, growth = 4_000, 64
    short = sum(map(seconds, _bodies(charset, size)))
    long = sum(map(seconds, _bodies(charset, size * growth)))

    # Quadratic would be 4 096 times as long; below the resolution of the clock nothing is told.
    assert long < 8 * growth * max(short, 20e-6)


# -- safe decoders take what time the body deserves


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"a: 1" + b":00" * 50_000, "more than 20 digits in base 60"),
        (
            b"a: &a {" + b", ".join(b"k%d: 1" % n for n in range(300)) + b"}\n"
            b"b: {<<: [" + b"*a, " * 100 + b"]}",
            "more merged keys",
        ),
    ],
)
def test_yaml_that_would_take_for_ever_is_a_decode_error(body: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        registry.decode(body, YAML, None)


def test_yaml_merges_mappings_and_reads_times_of_day() -> None:
    body = (
        b"base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\nlist: {<<: [*base, {c: 4}]}\nt: 1:30"
    )

    assert registry.decode(body, YAML, None) == {
        "base": {"a": 1, "b": 2},
        "more": {"a": 1, "b": 3},
        "list": {"a": 1, "b": 2, "c": 4},
        "t": 90,
    }


def test_keys_of_msgpack_come_back_as_they_were_sent() -> None:
    data = {(52, 13): "Berlin", ((1, "a"), b"b"): [1, [2]], 5: None, "in": [{(1,): 2}]}
    content_type, encoding, body = registry.encode(data, "msgpack")

    assert registry.decode(body, content_type, encoding) == data


@pytest.mark.parametrize("data", [{(52, 13): "Berlin"}, [{"a": {(1, 2)}}]])
def test_keys_that_yaml_cannot_read_are_not_sent(data: Any) -> None:
    with pytest.raises(EncodeError, match="a tuple can't be a key in YAML"):
        registry.encode(data, "yaml")


# -- pickle


def test_pickle_is_decoded_only_for_those_who_ask() -> None:
    content_type, encoding, body = registry.encode({1, 2}, "pickle")

    with pytest.raises(ContentDisallowed, match=r"accept=\['pickle'\]"):
        registry.decode(body, content_type, encoding)
    with pytest.raises(ContentDisallowed, match=r"this consumer takes \['json'\]"):
        registry.decode(body, content_type, encoding, accept=["json"])

    assert registry.decode(body, content_type, encoding, accept=["json", "pickle"]) == {1, 2}
    assert registry.decode(body, content_type, encoding, accept=[PICKLE]) == {1, 2}
    assert registry.decode(body, content_type, encoding, decoder=pickle.loads) == {1, 2}


def test_a_process_may_trust_all_who_send_pickles(own: SerializerRegistry) -> None:
    def register() -> None:
        own.register("pickle", pickle.dumps, pickle.loads, PICKLE, "binary", safe=False)

    def decode(accept: list[str] | None = None) -> Any:
        return own.decode(pickle.dumps({1, 2}), PICKLE, "binary", accept)

    register()
    with pytest.raises(ContentDisallowed):
        decode()

    own.trust("pickle")

    assert decode() == {1, 2}
    assert own.decode(pickle.dumps(1), None, None, default_content_type=PICKLE) == 1
    with pytest.raises(ContentDisallowed, match="is not accepted here"):
        decode(accept=["json"])

    register()
    with pytest.raises(ContentDisallowed):
        decode()


def test_only_a_serializer_that_exists_can_be_trusted() -> None:
    with pytest.raises(SerializerNotInstalled, match="no serializer is named 'pickel'"):
        registry.trust("pickel")


@pytest.mark.parametrize("label", [PICKLE.upper(), PICKLE + "; charset=binary", f" {PICKLE} "])
def test_no_other_spelling_lets_a_pickle_in(label: str) -> None:
    body = registry.encode({1, 2}, "pickle")[2]

    with pytest.raises(DecodeError):
        registry.decode(body, label, "binary")


@pytest.mark.parametrize(
    ("accept", "content_type", "allowed"),
    [
        (["json"], JSON, True),
        ([JSON], JSON, True),
        (["orjson"], JSON, True),
        (["json"], "application/json; charset=utf-8", True),
        ([JSON], "application/json; charset=utf-8", True),
        (["yaml", "msgpack"], JSON, False),
        ([], JSON, False),
        (["application/x-klingon"], JSON, False),
        (["Application/JSON"], JSON, True),
        (["json"], "application/vnd.api+json", True),
        (["orjson"], "application/vnd.api+json", True),
        ([JSON], "application/vnd.api+json", True),
        (["application/vnd.api+json"], "application/vnd.api+json", True),
        (["application/vnd.api+json"], JSON, False),
        (["yaml"], "application/vnd.api+json", False),
    ],
)
def test_accept_names_serializers_or_content_types(
    accept: list[str], content_type: str, allowed: bool
) -> None:
    if allowed:
        assert registry.decode(b"1", content_type, "utf-8", accept=accept) == 1
    else:
        with pytest.raises(ContentDisallowed, match="is not accepted here"):
            registry.decode(b"1", content_type, "utf-8", accept=accept)


def test_accept_lets_a_type_without_a_serializer_in_by_its_name() -> None:
    assert registry.decode(b"a,b", "text/csv", None, accept=["text/csv"]) == "a,b"


def test_a_content_type_is_compared_without_regard_to_case() -> None:
    assert registry.decode(b"1", "Application/JSON", None, accept=["json"]) == 1


def test_a_given_decoder_gets_text_or_bytes_as_the_encoding_says() -> None:
    def same(data: Any) -> Any:
        return data

    assert registry.decode(b"\xc3\xbc", "any", "utf-8", decoder=same) == "ü"
    assert registry.decode(b"\xc3\xbc", "any", "binary", decoder=same) == b"\xc3\xbc"
    assert registry.decode(b"\xc3\xbc", None, None, decoder=same) == b"\xc3\xbc"
    assert registry.decode(b'{"a": 1}', None, None, decoder=json.loads) == {"a": 1}


def test_a_decoder_that_fails_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match=r"decoder= can't decode this body.*ValueError") as caught:
        registry.decode(b"five", None, None, decoder=int)

    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("encoding", ["gzip", "gzip:UTF-8", "utf-8", "punycode", "x" * 255])
def test_a_given_decoder_gets_the_bytes_of_what_is_no_text(encoding: str) -> None:
    body = gzip.compress(b'{"a": 1}')

    def unzip(data: Any) -> Any:
        return json.loads(gzip.decompress(data))

    assert registry.decode(body, JSON, encoding, decoder=unzip) == {"a": 1}


BAD = b"\x00\xff bad"


@pytest.mark.parametrize(
    "decoder",
    [
        int,
        json.loads,
        yaml.safe_load,
        msgpack.unpackb,
        pickle.loads,
        struct.Struct(">Q").unpack,
        gzip.decompress,
        zlib.decompress,
        lzma.decompress,
        ElementTree.fromstring,
        lambda body: expat.ParserCreate().Parse(body, True),
        lambda body: list(csv.reader(["a\n\rb"], strict=True)),
        lambda body: {}["key"],
        lambda body: [][5],
        lambda body: 1 / 0,
        lambda body: body.no_such_attribute,
        lambda body: __import__("no_such_module"),
    ],
)
def test_what_decoders_raise_for_a_bad_body_is_a_decode_error(
    decoder: Any, own: SerializerRegistry
) -> None:
    own.register("mine", decoder, decoder, "application/x-mine", "binary")

    with pytest.raises(DecodeError, match="decoder= can't decode this body of 6 bytes"):
        own.decode(BAD, None, None, decoder=decoder)
    with pytest.raises(DecodeError, match="serializer 'mine' can't decode this body of 6 bytes"):
        own.decode(BAD, "application/x-mine", None)
    with pytest.raises(EncodeError, match="serializer 'mine' can't encode this bytes"):
        own.encode(BAD, "mine")
    with pytest.raises(EncodeError, match="encoder= can't encode this bytes"):
        serialization.call_encoder(decoder, BAD, "encoder=")


# -- what comes out as it is


class TimeLimit(Exception):
    """Raised by the signal handler of a soft time limit."""


@pytest.mark.parametrize(
    "error", [TimeLimit("over"), TimeoutError(), ConnectionError(), OSError(5), RuntimeError("x")]
)
def test_an_error_that_says_nothing_of_the_data_comes_out_as_it_is(
    error: Exception, own: SerializerRegistry
) -> None:
    def fail(_data: Any) -> Any:
        raise error

    own.register("mine", fail, fail, "text/x-mine")

    for attempt in (
        lambda: own.encode("a", "mine"),
        lambda: own.decode(b"a", "text/x-mine", None),
        lambda: own.decode("a", "text/x-mine", None),
        lambda: own.decode(b"a", None, None, decoder=fail),
        lambda: serialization.call_encoder(fail, "a", "encoder="),
    ):
        with pytest.raises(type(error)) as caught:
            attempt()
        assert caught.value is error


def test_an_error_of_carrots_comes_out_of_a_decoder_as_it_is() -> None:
    error = DecodeError("version 3 of the schema is unknown here")

    def fail(_data: Any) -> Any:
        raise error

    with pytest.raises(DecodeError) as caught:
        registry.decode(b"a", None, None, decoder=fail)

    assert caught.value is error


@pytest.fixture
def no_collection() -> Iterator[None]:
    """The garbage collector calls back Hypothesis, in whose Python no exception gets out."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def alarm(no_collection: None) -> Iterator[int]:
    """A signal whose handler raises a TimeLimit."""

    def over(*_signal: object) -> None:
        raise TimeLimit

    # SIGALRM is for those who limit the time of tests.
    before = signal.signal(signal.SIGUSR1, over)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


class Slow:
    """Its encoder is interrupted by the alarm."""

    def _asdict(self) -> dict[str, Any]:
        signal.raise_signal(signal.SIGUSR1)
        return {}

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return Slow, ()


@pytest.mark.parametrize("name", ["json", "pickle"])
@pytest.mark.parametrize("data", [Slow(), {"a": [(Slow(),)]}])
def test_a_time_limit_comes_out_of_an_encoder(name: str, data: Any, alarm: int) -> None:
    with pytest.raises(TimeLimit):
        registry.encode(data, name)


class Late:
    """A pickle of it takes longer than the alarm allows."""

    def __reduce__(self) -> Any:
        return signal.raise_signal, (signal.SIGUSR1,)


def test_a_time_limit_comes_out_of_a_decoder(alarm: int) -> None:
    content_type, encoding, body = registry.encode(Late(), "pickle")

    with pytest.raises(TimeLimit):
        registry.decode(body, content_type, encoding, accept=["pickle"])


@pytest.mark.parametrize("name", ["json", "yaml", "msgpack", "orjson", "pickle"])
@pytest.mark.parametrize("what", ["encode", "decode"])
def test_a_time_limit_comes_out_whenever_it_comes(name: str, what: str, alarm: int) -> None:
    data = {"list": [(number, {"a": [1.5, "b"]}) for number in range(300)]}
    content_type, encoding, body = registry.encode(data, name)

    for attempt in range(10):
        deadline = time.monotonic() + 10
        # To this thread: one sent to another would wait until this one is switched to.
        ring = partial(signal.pthread_kill, threading.get_ident(), alarm)
        timer = threading.Timer(0.005 + attempt * 0.0007, ring)
        with pytest.raises(TimeLimit):
            timer.start()
            while time.monotonic() < deadline:
                if what == "encode":
                    registry.encode(data, name)
                else:
                    registry.decode(body, content_type, encoding, accept=[name])
        timer.join(10)


# -- a registry of one's own


def test_a_serializer_can_be_added_used_and_removed(own: SerializerRegistry) -> None:
    own.register("upper", str.upper, str.lower, "text/x-upper")

    assert own.names() == ["upper"]
    assert own.encode("abc", "upper") == ("text/x-upper", "utf-8", b"ABC")
    assert own.decode(b"ABC", "text/x-upper", "utf-8") == "abc"

    own.unregister("upper")

    assert own.names() == []
    with pytest.raises(SerializerNotInstalled):
        own.encode("abc", "upper")
    with pytest.raises(SerializerNotInstalled):
        own.unregister("upper")


def test_its_character_set_is_used_both_ways(own: SerializerRegistry) -> None:
    own.register("latin", str, str, "text/x-latin", "iso-8859-1")

    assert own.encode("ü", "latin") == ("text/x-latin", "iso-8859-1", b"\xfc")
    assert own.decode(b"\xfc", "text/x-latin", None) == "ü"
    with pytest.raises(EncodeError, match="can't be encoded as iso-8859-1"):
        own.encode("🥕", "latin")


def test_an_unknown_character_set_is_an_encode_error(own: SerializerRegistry) -> None:
    own.register("odd", str, str, "text/x-odd", "klingon")

    with pytest.raises(EncodeError, match="klingon"):
        own.encode("a", "odd")


def test_without_a_default_one_must_be_named(own: SerializerRegistry) -> None:
    with pytest.raises(SerializerNotInstalled, match="there is no default serializer"):
        own.encode({})
    assert own.encode("text")[0] == "text/plain"


def test_the_default_can_be_changed(own: SerializerRegistry) -> None:
    own.register("repr", repr, None, "text/x-repr")
    own.set_default("repr")

    assert own.encode([1]) == ("text/x-repr", "utf-8", b"[1]")
    with pytest.raises(SerializerNotInstalled, match="no serializer is named 'other'"):
        own.set_default("other")


def test_one_may_only_encode_or_only_decode(own: SerializerRegistry) -> None:
    own.register("in", None, str, "text/x-in")
    own.register("out", str, None, "application/x-out")

    with pytest.raises(EncodeError, match="serializer 'in' only decodes"):
        own.encode("a", "in")
    with pytest.raises(DecodeError, match="no serializer decodes content type"):
        own.decode(b"a", "application/x-out", None)


def test_the_last_one_registered_for_a_type_decodes_it(own: SerializerRegistry) -> None:
    own.register("first", str, lambda text: "first", "text/x")
    own.register("second", str, lambda text: "second", "text/x")

    before = own.decode(b"", "text/x", None)
    own.unregister("second")
    after = own.decode(b"", "text/x", None)

    assert (before, after) == ("second", "first")


def test_an_unregistered_name_that_was_replaced_leaves_no_decoder(own: SerializerRegistry) -> None:
    own.register("mine", str, str, "application/x-old")
    own.register("mine", str, str, "application/x-new")
    own.unregister("mine")

    for content_type in ("application/x-old", "application/x-new"):
        with pytest.raises(DecodeError, match="no serializer decodes"):
            own.decode(b"", content_type, None)


def test_replacing_the_default_one_replaces_the_default(own: SerializerRegistry) -> None:
    own.register("mine", str, str, "application/x-old")
    own.set_default("mine")
    own.register("mine", str, str, "application/x-new")

    assert own.encode([1])[0] == "application/x-new"


def test_an_encoder_must_return_text_or_bytes(own: SerializerRegistry) -> None:
    own.register("count", len, None, "text/x-count")  # type: ignore[arg-type]

    with pytest.raises(EncodeError, match="returned int; it must return str or bytes"):
        own.encode([1], "count")


def test_one_that_is_not_safe_must_be_accepted(own: SerializerRegistry) -> None:
    own.register("eval", repr, eval, "text/x-eval", safe=False)

    with pytest.raises(ContentDisallowed, match=r"accept=\['eval'\]"):
        own.decode(b"1 + 1", "text/x-eval", None)
    assert own.decode(b"1 + 1", "text/x-eval", None, accept=["eval"]) == 2


def test_a_content_type_is_registered_without_regard_to_case(own: SerializerRegistry) -> None:
    own.register("mine", str, str.upper, "Application/X-Mine")

    assert own.decode(b"a", "application/x-mine", None) == "A"
    assert own.decode(b"a", "Application/X-Mine", None, accept=["mine"]) == "A"


# -- JSON, sooner ------------------------------------------------------------------------


class Point(NamedTuple):
    """simplejson makes an object of it."""

    x: Any
    y: Any


class Row:
    """And of anything that is like it."""

    def _asdict(self):
        return {"x": (1, Point(2, 3))}


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.builds(Row)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda values: st.lists(values) | st.lists(values).map(tuple) | st.builds(Point, values, values)
    | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none(), values),
    max_leaves=20,
)  # fmt: skip


@given(_json_values)
def test_json_is_what_simplejson_makes(data):
    body = serialization.registry.encode(data, "json")[2]
    assert body.decode() == simplejson.JSONEncoder(encoding=None).encode(data)


def test_json_of_a_circle_says_so_and_the_next_is_encoded():
    circle: list[object] = []
    circle.append({"itself": circle})
    with pytest.raises(EncodeError, match="Circular"):
        serialization.registry.encode(circle)
    assert serialization.registry.encode({"itself": 1})[2] == b'{"itself": 1}'


def test_json_without_the_c_encoder_is_the_same(monkeypatch):
    quickly = carrot_json.make_encoder()
    monkeypatch.setattr(simplejson.encoder, "c_make_encoder", None)
    slowly = carrot_json.make_encoder()
    data = {"a": [1, None, 2.5, "\u00e9"]}
    assert slowly == carrot_json._encoder.encode
    assert quickly != slowly
    assert slowly(data) == quickly(data)


def test_json_does_not_keep_every_key_it_has_met(monkeypatch):
    made: list[dict[str, str]] = []
    make = simplejson.encoder.c_make_encoder

    def remember(*args):
        made.extend(arg for arg in args if isinstance(arg, dict))
        return make(*args)

    monkeypatch.setattr(simplejson.encoder, "c_make_encoder", remember)
    encode = carrot_json.make_encoder()
    for number in range(2000):
        encode({f"key {number}": 1})
    assert 0 < len(made[0]) <= 513
    encode({"k" * 100_000: 1})
    assert sum(map(len, made[0])) < 100_000
