"""The serializers that come with carrot."""

from __future__ import annotations

from typing import Any

from carrot.serialization.charsets import BINARY
from carrot.serialization.json import from_json, to_json
from carrot.serialization.libraries import optional
from carrot.serialization.msgpack import from_msgpack, to_msgpack
from carrot.serialization.serializer_registry import (
    JSON_TYPE,
    RAW_TYPE,
    TEXT_TYPE,
    SerializerRegistry,
)
from carrot.serialization.yaml import from_yaml, to_yaml


def register_builtin(registry: SerializerRegistry) -> None:
    """Register them all; "json" is the default."""
    registry.register("raw", _raw, lambda data: data, RAW_TYPE, BINARY)
    registry.register("text", _text, lambda text: text, TEXT_TYPE)
    # A part of Python, whose import takes 4 ms.
    registry.register(
        "pickle",
        optional("pickle", "dumps"),
        optional("pickle", "loads"),
        "application/x-python-serialize",
        BINARY,
        safe=False,
    )
    registry.register("yaml", to_yaml, from_yaml, "application/x-yaml")
    registry.register("msgpack", to_msgpack, from_msgpack, "application/x-msgpack", BINARY)
    registry.register("orjson", optional("orjson", "dumps"), optional("orjson", "loads"), JSON_TYPE)
    # After orjson: they share a content type, and the last one registered decodes it.
    registry.register("json", to_json, from_json, JSON_TYPE)
    registry.set_default("json")


def _raw(data: Any) -> str | bytes:
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, (str, bytes)):
        return data
    raise TypeError("raw takes only bytes and str")


def _text(data: Any) -> str:
    if isinstance(data, str):
        return data
    raise TypeError("text takes only str")
