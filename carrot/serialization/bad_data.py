"""What encoders and decoders raise for bad data, and carrot's errors for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from carrot.exceptions import DecodeError, EncodeError

Encoder = Callable[[Any], "str | bytes"]
Decoder = Callable[[Any], Any]

# What encoders and decoders raise for data and bodies that are bad. Everything else comes out as
# it is, above all the exception that a signal handler raises meanwhile, such as a time limit.
_BAD_DATA: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
# The same for libraries that document a class of their own. A library that is not imported has
# raised nothing, so none is imported for this.
_BAD_DATA_OF_LIBRARIES = (
    ("pickle", "PickleError"),
    ("yaml", "YAMLError"),
    ("msgpack", "UnpackException"),
    ("struct", "error"),
    ("zlib", "error"),
    ("gzip", "BadGzipFile"),
    ("lzma", "LZMAError"),
    ("csv", "Error"),
    ("pyexpat", "ExpatError"),
    ("msgspec", "MsgspecError"),
    ("google.protobuf.message", "Error"),
)


def call_encoder(encoder: Encoder, data: Any, who: object) -> str | bytes:
    """What *encoder* makes of *data*.

    :param who: what to call it in an error, as text or by its ``str()``.
    :raises EncodeError: it failed, or made neither text nor bytes.
    """
    try:
        encoded: object = encoder(data)
    except bad_data_errors() as exc:
        raise encode_error(exc, data, who) from exc
    if not isinstance(encoded, (str, bytes)):
        raise wrong_type(encoded, who)
    return encoded


def bad_data_errors() -> tuple[type[Exception], ...]:
    """The classes that say that data can't be encoded, or that a body can't be decoded."""
    known = [
        getattr(sys.modules.get(library), name, None) for library, name in _BAD_DATA_OF_LIBRARIES
    ]
    return *_BAD_DATA, *(each for each in known if each is not None)


def encode_error(exc: Exception, data: object, who: object) -> EncodeError:
    """What to raise when the encoder *who* has raised *exc*."""
    return EncodeError(f"{who} can't encode this {type(data).__name__}: {exc} (it was not sent)")


def wrong_type(encoded: object, who: object) -> EncodeError:
    """What to raise when the encoder *who* has returned neither text nor bytes."""
    return EncodeError(f"{who} returned {type(encoded).__name__}; it must return str or bytes")


def call_decoder(decoder: Decoder, data: bytes | str, who: str) -> Any:
    """What *decoder* makes of a body.

    :raises DecodeError: it failed.
    """
    try:
        return decoder(data)
    except bad_data_errors() as exc:
        raise decode_error(exc, data, who) from exc


def decode_error(exc: Exception, data: bytes | str, who: str) -> DecodeError:
    """What to raise when the decoder *who* has raised *exc*."""
    return DecodeError(
        f"{who} can't decode this body of {len(data)} bytes: {type(exc).__name__}: {exc}"
    )
