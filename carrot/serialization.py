"""The registry of serializers: from a name to a content type, an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from importlib import import_module
from typing import Any

import simplejson

from carrot.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SerializationError,
    SerializerNotInstalled,
)

Encoder = Callable[[Any], "str | bytes"]
Decoder = Callable[[Any], Any]

RAW_TYPE, TEXT_TYPE = "application/data", "text/plain"
BINARY = "binary"
# How producers name "no character set": carrot, Ruby, MIME.
_BINARY_ENCODINGS = frozenset({BINARY, "ascii-8bit", "8bit"})
# How many pairs of content type and encoding a registry remembers how to decode.
_REMEMBERED = 256
# Families of media types that need no serializer: their payload is the body itself.
_OPAQUE_FAMILIES = ("image/", "audio/", "video/", "font/")


@dataclass(frozen=True)
class Serializer:
    """One entry of the registry.

    :param encoder: from data to text or bytes; None when it only decodes.
    :param decoder: from text (or bytes, when *content_encoding* is binary) to data.
    :param content_encoding: a character set, or ``"binary"``.
    :param safe: decoding can't run code; others only decode for a consumer that accepts them.
    """

    name: str
    encoder: Encoder | None
    decoder: Decoder | None
    content_type: str
    content_encoding: str
    safe: bool = True

    def __str__(self) -> str:
        return f"serializer {self.name!r}"


class SerializerRegistry:
    """Names and content types to serializers. Several names may share a content type."""

    def __init__(self) -> None:
        self._by_name: dict[str, Serializer] = {}
        self._by_type: dict[str, Serializer] = {}
        self._default: Serializer | None = None
        self._plans: dict[Any, tuple[Decoder, str | None, str]] = {}

    def register(
        self,
        name: str,
        encoder: Encoder | None,
        decoder: Decoder | None,
        content_type: str,
        content_encoding: str = "utf-8",
        *,
        safe: bool = True,
    ) -> None:
        """Add a serializer, or replace the one of that name.

        :param encoder: from data to text or bytes; None: can't encode.
        :param decoder: from text, or bytes when *content_encoding* is ``"binary"``, to data.
            It also becomes the decoder of *content_type*.
        :param safe: False, when decoding could run code: then only consumers that name the
            serializer in ``accept=`` decode it.
        """
        serializer = Serializer(
            name, encoder, decoder, content_type.lower(), content_encoding, safe
        )
        replaced = self._by_name.get(name)
        if replaced is not None:
            self.unregister(name)
            if self._default is replaced:
                self._default = serializer
        self._plans.clear()
        self._by_name[name] = serializer
        if decoder is not None:
            self._by_type[serializer.content_type] = serializer

    def unregister(self, name: str) -> None:
        """Forget the serializer *name*.

        :raises SerializerNotInstalled: there is none.
        """
        serializer = self._find(name)
        self._plans.clear()
        del self._by_name[name]
        if self._by_type.get(serializer.content_type) is serializer:
            del self._by_type[serializer.content_type]
            for other in self._by_name.values():
                if other.content_type == serializer.content_type and other.decoder:
                    self._by_type[other.content_type] = other

    def set_default(self, name: str) -> None:
        """Use *name* for data that is neither text nor bytes and names no serializer."""
        self._default = self._find(name)

    set_default_serializer = set_default

    def names(self) -> list[str]:
        """The names that ``serializer=`` and ``accept=`` take."""
        return sorted(self._by_name)

    def check_name(self, name: str) -> None:
        """:raises SerializerNotInstalled: no serializer has that name."""
        self._find(name)

    def encode(self, data: Any, serializer: str | None = None) -> tuple[str, str, bytes]:
        """Content type, content encoding and body for *data*.

        Without a serializer text and bytes travel as they are, and all else by the default.

        :raises SerializerNotInstalled: no such name, or its library is missing.
        :raises EncodeError: the data can't be encoded so.
        """
        if serializer is not None:
            entry = self._find(serializer)
        elif isinstance(data, str):
            return TEXT_TYPE, "utf-8", to_bytes(data, "utf-8")
        # Most data is a dict, which need not be asked three times.
        elif type(data) is not dict and isinstance(data, (bytes, bytearray, memoryview)):
            return RAW_TYPE, BINARY, bytes(data)
        elif self._default is not None:
            entry = self._default
        else:
            raise SerializerNotInstalled("there is no default serializer: name one")
        if entry.encoder is None:
            raise EncodeError(f"serializer {entry.name!r} only decodes")
        try:
            encoded = entry.encoder(data)
        except Exception as exc:
            raise _encode_error(exc, data, entry) from exc
        if isinstance(encoded, str):
            # "raw" takes text too, and then says which character set it is in.
            charset = "utf-8" if entry.content_encoding == BINARY else entry.content_encoding
            return entry.content_type, charset, to_bytes(encoded, charset)
        if isinstance(encoded, bytes):
            return entry.content_type, entry.content_encoding, encoded
        raise _wrong_type(encoded, entry)

    def decode(
        self,
        data: bytes,
        content_type: str | None,
        content_encoding: str | None,
        accept: Collection[str] | None = None,
        decoder: Decoder | None = None,
    ) -> Any:
        """The data in a body.

        :param accept: the names or content types allowed; None allows every safe one.
        :param decoder: use this function, whatever the content type says.
        :raises DecodeError: the type is missing or unknown, or the body is not what it says.
        :raises ContentDisallowed: not in *accept*, or unsafe and nobody asked for it.
        :raises SerializerNotInstalled: the library that decodes it is missing.
        """
        if decoder is not None:
            text = _from_charset(data, content_encoding, BINARY)
            try:
                return decoder(text)
            except Exception as exc:
                raise _decode_error(exc, text, "decoder=") from exc
        if accept is not None:
            accept = tuple(accept)
        # Which serializer and character set, is the same for most messages: 1 µs saved for each.
        key = (content_type, content_encoding, accept)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(content_type, content_encoding, accept)
            if len(self._plans) >= _REMEMBERED:
                self._plans.clear()
            self._plans[key] = plan
        run, charset, who = plan
        try:
            return run(data if charset is None else data.decode(charset))
        except Exception as exc:
            text = data if charset is None else _to_text(data, charset)  # raises, if that was it
            raise _decode_error(exc, text, who) from exc

    def _plan(
        self,
        content_type: str | None,
        content_encoding: str | None,
        accept: Collection[str] | None,
    ) -> tuple[Decoder, str | None, str]:
        """The decoder, the character set (None: it takes bytes), and whom to name in an error."""
        if not content_type:
            raise DecodeError(
                "the message has no content type: read message.body, or give the consumer "
                "a decoder=, or let the sender set content_type="
            )
        entry = self._entry_for(content_type, accept)
        if entry is not None and entry.decoder is not None:
            charset = _charset(content_encoding, entry.content_encoding)
            return entry.decoder, charset, str(entry)
        if content_type.startswith("text/"):
            return _same, _charset(content_encoding, "utf-8"), content_type
        if content_type.startswith(_OPAQUE_FAMILIES):
            return _same, None, content_type
        raise DecodeError(
            f"no serializer decodes content type {content_type!r}: register one, give the "
            "consumer a decoder=, or read message.body"
        )

    def _entry_for(self, content_type: str, accept: Collection[str] | None) -> Serializer | None:
        """The serializer that may decode *content_type*; None when there is none to it."""
        media_type = content_type.partition(";")[0].strip().lower()
        entry = self._by_type.get(content_type) or self._by_type.get(media_type)
        if accept is None:
            if entry is not None and not entry.safe:
                raise ContentDisallowed(
                    f"{content_type} is not decoded unasked, because decoding can run code: if "
                    f"you trust every sender, give the consumer accept=[{entry.name!r}]"
                )
            return entry
        for name in accept:
            named = self._by_name.get(name)
            if named is not None and named.decoder and named.content_type == media_type:
                return named
        if content_type in accept or media_type in accept:
            return entry
        raise ContentDisallowed(
            f"{content_type} is not accepted here: this consumer takes {sorted(accept)} (accept=)"
        )

    def _find(self, name: str) -> Serializer:
        try:
            return self._by_name[name]
        except (KeyError, TypeError):
            raise SerializerNotInstalled(
                f"no serializer is named {name!r}: use one of {', '.join(self.names())}, or "
                "carrot.serialization.registry.register() your own"
            ) from None


def call_encoder(encoder: Encoder, data: Any, who: object) -> str | bytes:
    """What *encoder* makes of *data*.

    :param who: what to call it in an error, as text or by its ``str()``.
    :raises EncodeError: it failed, or made neither text nor bytes.
    """
    try:
        encoded: object = encoder(data)
    except Exception as exc:
        raise _encode_error(exc, data, who) from exc
    if not isinstance(encoded, (str, bytes)):
        raise _wrong_type(encoded, who)
    return encoded


def _encode_error(exc: Exception, data: object, who: object) -> SerializationError:
    if isinstance(exc, SerializationError):
        return exc
    return EncodeError(f"{who} can't encode this {type(data).__name__}: {exc} (it was not sent)")


def _wrong_type(encoded: object, who: object) -> EncodeError:
    return EncodeError(f"{who} returned {type(encoded).__name__}; it must return str or bytes")


def to_bytes(text: str, charset: str) -> bytes:
    """*text* in that character set.

    :raises EncodeError: it can't be encoded so, or there is no such character set.
    """
    try:
        return text.encode(charset)
    except (UnicodeEncodeError, LookupError) as exc:
        raise EncodeError(f"the text can't be encoded as {charset}: {exc}") from exc


def _decode_error(exc: Exception, data: str | bytes, who: str) -> SerializationError:
    if isinstance(exc, SerializationError):
        return exc
    return DecodeError(
        f"{who} can't decode this body of {len(data)} bytes: {type(exc).__name__}: {exc}"
    )


def _charset(content_encoding: str | None, default: str) -> str | None:
    """The character set that a content encoding names; None when it is binary."""
    encoding = (content_encoding or default).lower()
    return None if encoding in _BINARY_ENCODINGS else encoding


def _from_charset(data: bytes, content_encoding: str | None, default: str) -> str | bytes:
    """Text, when the encoding is a character set; the bytes when it is binary."""
    charset = _charset(content_encoding, default)
    return data if charset is None else _to_text(data, charset)


def _to_text(data: bytes, charset: str) -> str:
    try:
        # Not codecs.decode(), which also knows zlib and the like.
        return data.decode(charset)
    except LookupError as exc:
        raise DecodeError(
            f"content encoding {charset!r} is neither a character set nor 'binary': "
            "read message.body, or give the consumer a decoder="
        ) from exc
    except ValueError as exc:
        raise DecodeError(f"the body is not {charset}, as it claims to be: {exc}") from exc


def _same(data: Any) -> Any:
    """What text and media need for decoding: nothing."""
    return data


# -- the serializers that come with carrot ----------------------------------------------

# encoding=None: bytes inside JSON are an error; simplejson would otherwise send them as text.
_json_encoder = simplejson.JSONEncoder(encoding=None)  # type: ignore[arg-type]  # as documented
# simplejson's C encoder keeps the keys it has met: at most so many, and no very long ones.
_REMEMBERED_KEYS = 512
_LONG_TEXT = 64 * 1024


def _json_encode() -> Encoder:
    """What ``_json_encoder.encode`` does, 1.6 µs (of 2.5) sooner: with one C encoder for all.

    simplejson makes a new one each time, and lets it ask every dict and list whether it is a named
    tuple, which takes 0.5 µs; this one asks the tuples. Its arguments are no public interface, so
    they are tried out; in every case that is not the usual one, the public encoder has the last
    word. (One is told by nothing: a dict or list with an ``_asdict()`` is a dict or list here.)
    """
    slowly, keys, options = _json_encoder.encode, dict[str, str](), _json_encoder
    internals = simplejson.encoder

    def otherwise(data: Any) -> Any:
        if isinstance(data, tuple) and not hasattr(data, "_asdict"):
            return list(data)
        return options.default(data)  # raises

    try:
        quickly = internals.c_make_encoder(  # type: ignore[attr-defined]  # not in the stubs
            # No circles are looked for: they end as a RecursionError, and the public encoder says
            # what they are.
            None, otherwise, internals.encode_basestring_ascii, options.indent,
            options.key_separator, options.item_separator, options.sort_keys, options.skipkeys,
            options.allow_nan, keys, options.use_decimal, False, False,
            options.int_as_string_bitcount, options.item_sort_key,
            options.encoding, options.for_json, options.ignore_nan, Decimal,
            options.iterable_as_array,
        )  # fmt: skip
        sample = {"a": [1, 2.5, None, True, "\u00e9"], "b": Decimal("0.1"), "c": ({"d": ()},)}
        if "".join(quickly(sample, 0)) != slowly(sample):
            return slowly
    except (AttributeError, TypeError, ValueError):
        return slowly

    def encode(data: Any) -> str:
        try:
            text = "".join(quickly(data, 0))
        except Exception:
            return slowly(data)
        if len(keys) > _REMEMBERED_KEYS or len(text) > _LONG_TEXT:
            keys.clear()
        return text

    return encode


_to_json = _json_encode()
_json_decoder = simplejson.JSONDecoder()


def _from_json(text: Any) -> Any:
    """What ``decode()`` returns, for text that is one value and nothing else 0.7 µs sooner."""
    try:
        data, end = _json_decoder.scan_once(text, 0)
    except (StopIteration, ValueError, TypeError):
        end = -1
    # White space around it, bytes, or what is wrong with it, is decode()'s business.
    return data if end == len(text) else _json_decoder.decode(text)


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


def _optional(library: str, function: str, extra: str, **options: Any) -> Callable[[Any], Any]:
    """A function of a library that is imported when it is first called.

    :param extra: carrot's extra that installs the library.
    :param options: keywords for each call.
    """

    def call(data: Any) -> Any:
        try:
            module = import_module(library)
        except ImportError as exc:
            raise SerializerNotInstalled(
                f"this serializer needs the library {library!r}, which is not installed: "
                f"pip install 'carrot[{extra}]'"
            ) from exc
        return getattr(module, function)(data, **options)

    return call


def _register_builtin(registry: SerializerRegistry) -> None:
    registry.register("raw", _raw, lambda data: data, RAW_TYPE, BINARY)
    registry.register("text", _text, lambda text: text, TEXT_TYPE)
    for name, library, encode, decode, options, content_type, encoding in (
        # A part of Python, whose import takes 4 ms.
        ("pickle", "pickle", "dumps", "loads", {}, "application/x-python-serialize", BINARY),
        ("yaml", "yaml", "safe_dump", "safe_load", {}, "application/x-yaml", "utf-8"),
        # Keys of any type come back as they were sent.
        ("msgpack", "msgpack", "packb", "unpackb", {"strict_map_key": False},
         "application/x-msgpack", BINARY),
        ("orjson", "orjson", "dumps", "loads", {}, "application/json", "utf-8"),
    ):  # fmt: skip
        encoder = _optional(library, encode, name)
        decoder = _optional(library, decode, name, **options)
        is_safe = name != "pickle"
        registry.register(name, encoder, decoder, content_type, encoding, safe=is_safe)
    # After orjson: they share a content type, and the last one registered decodes it.
    registry.register("json", _to_json, _from_json, "application/json")
    registry.set_default("json")


#: The registry that every Publisher and Consumer uses.
registry = SerializerRegistry()
_register_builtin(registry)

encode = registry.encode
decode = registry.decode
set_default_serializer = registry.set_default_serializer

__all__ = [
    "Serializer",
    "SerializerNotInstalled",
    "SerializerRegistry",
    "call_encoder",
    "decode",
    "encode",
    "registry",
    "set_default_serializer",
    "to_bytes",
]
