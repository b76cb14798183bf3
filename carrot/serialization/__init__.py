"""Serialization: from data to a body with a content type, and back.

- ``serializer_registry``: finds the serializer by its name or by the content type
- ``charsets``, ``bad_data``: what a body's text is in; the errors
- ``json``, ``yaml``, ``msgpack``, ``builtin``: the serializers that come with carrot
- ``libraries``: those that are imported when they are first needed
"""

from carrot.exceptions import SerializerNotInstalled
from carrot.serialization.bad_data import Decoder, Encoder, call_encoder
from carrot.serialization.builtin import register_builtin
from carrot.serialization.charsets import BINARY, CHARSETS, charset_of, to_bytes
from carrot.serialization.serializer_registry import (
    JSON_TYPE,
    RAW_TYPE,
    TEXT_TYPE,
    Serializer,
    SerializerRegistry,
)

#: The registry that every Publisher and Consumer uses.
registry = SerializerRegistry()
register_builtin(registry)

encode = registry.encode
decode = registry.decode
set_default_serializer = registry.set_default_serializer

__all__ = [
    "BINARY",
    "CHARSETS",
    "JSON_TYPE",
    "RAW_TYPE",
    "TEXT_TYPE",
    "Decoder",
    "Encoder",
    "Serializer",
    "SerializerNotInstalled",
    "SerializerRegistry",
    "call_encoder",
    "charset_of",
    "decode",
    "encode",
    "registry",
    "set_default_serializer",
    "to_bytes",
]
