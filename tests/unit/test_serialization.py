"""The registry of serializers, and those that come with carrot."""

from __future__ import annotations

import json
import pickle
import sys
from contextlib import suppress
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from carrot import serialization
from carrot.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SerializerNotInstalled,
)
from carrot.serialization import SerializerRegistry, registry

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
        (b"{}", JSON, "utf-8\x00", "utf-8\x00"),
        (b"{}", None, "utf-8", "the message has no content type: read message.body"),
        (b"{}", "", "utf-8", "the message has no content type"),
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


def test_pickle_is_decoded_only_for_those_who_ask() -> None:
    content_type, encoding, body = registry.encode({1, 2}, "pickle")

    with pytest.raises(ContentDisallowed, match=r"accept=\['pickle'\]"):
        registry.decode(body, content_type, encoding)
    with pytest.raises(ContentDisallowed, match=r"this consumer takes \['json'\]"):
        registry.decode(body, content_type, encoding, accept=["json"])

    assert registry.decode(body, content_type, encoding, accept=["json", "pickle"]) == {1, 2}
    assert registry.decode(body, content_type, encoding, accept=[PICKLE]) == {1, 2}
    assert registry.decode(body, content_type, encoding, decoder=pickle.loads) == {1, 2}


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
    quickly = serialization._json_encode()
    monkeypatch.setattr(simplejson.encoder, "c_make_encoder", None)
    slowly = serialization._json_encode()
    data = {"a": [1, None, 2.5, "\u00e9"]}
    assert slowly == serialization._json_encoder.encode
    assert quickly != slowly
    assert slowly(data) == quickly(data)


def test_json_does_not_keep_every_key_it_has_met(monkeypatch):
    made: list[dict[str, str]] = []
    make = simplejson.encoder.c_make_encoder

    def remember(*args):
        made.extend(arg for arg in args if isinstance(arg, dict))
        return make(*args)

    monkeypatch.setattr(simplejson.encoder, "c_make_encoder", remember)
    encode = serialization._json_encode()
    for number in range(2000):
        encode({f"key {number}": 1})
    assert 0 < len(made[0]) <= 513
    encode({"k" * 100_000: 1})
    assert sum(map(len, made[0])) < 100_000
