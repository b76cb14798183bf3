"""The registry of serializers: from a name to a content type, an encoder and a decoder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from decimal import Decimal
from encodings.aliases import aliases
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

import simplejson

from carrot.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SerializerNotInstalled,
)

Encoder = Callable[[Any], "str | bytes"]
Decoder = Callable[[Any], Any]

RAW_TYPE, TEXT_TYPE, JSON_TYPE = "application/data", "text/plain", "application/json"
BINARY = "binary"
# How producers name "no character set": carrot, Ruby, MIME.
_BINARY_ENCODINGS = frozenset({BINARY, "ascii-8bit", "8bit"})
# HTTP's name for "not encoded at all" (RFC 9110, section 12.5.3), which some producers send.
_UNSPECIFIED_ENCODINGS = frozenset({"", "identity"})
# How many pairs of content type and encoding a registry remembers how to decode.
_REMEMBERED = 256
# Families of media types that need no serializer: their payload is the body itself.
_OPAQUE_FAMILIES = ("image/", "audio/", "video/", "font/", "application/octet-stream")

_CHARSETS = """
ascii utf_8 utf_8_sig utf_16 utf_16_be utf_16_le utf_32 utf_32_be utf_32_le
latin_1 iso8859_2 iso8859_3 iso8859_4 iso8859_5 iso8859_6 iso8859_7 iso8859_8 iso8859_9
iso8859_10 iso8859_11 iso8859_13 iso8859_14 iso8859_15 iso8859_16
cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258
cp037 cp500 cp1140 cp437 cp850 cp852 cp858 cp866 cp874
koi8_r koi8_u mac_roman tis_620
big5 big5hkscs cp950 gb2312 gbk gb18030
shift_jis shift_jis_2004 cp932 euc_jp euc_jis_2004
iso2022_jp iso2022_jp_1 iso2022_jp_2 iso2022_jp_3 iso2022_jp_2004 iso2022_jp_ext
euc_kr cp949 johab iso2022_kr
"""
#: The character sets that a sender may name, by Python's names for them; their aliases, such as
#: "latin-1" and "windows-1252", are known too. The sender chooses one, so each must be decoded in
#: C and in time linear in the body. Of Python's others, punycode takes 20 minutes for 8 MB.
CHARSETS = frozenset(_CHARSETS.split())

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
    #: The character set of the encoder's text. "raw" takes text too, and then is not binary.
    charset: str = field(init=False)

    def __post_init__(self) -> None:
        charset = "utf-8" if self.content_encoding == BINARY else self.content_encoding
        object.__setattr__(self, "charset", charset)

    def __str__(self) -> str:
        return f"serializer {self.name!r}"


class SerializerRegistry:
    """Names and content types to serializers. Several names may share a content type."""

    def __init__(self) -> None:
        self._by_name: dict[str, Serializer] = {}
        self._by_type: dict[str, Serializer] = {}
        self._default: Serializer | None = None
        self._trusted: set[str] = set()
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
        self._trusted.discard(name)
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

    def trust(self, name: str) -> None:
        """Let every consumer of this process that has no ``accept=`` decode with *name*.

        Decoding with a serializer that is not safe runs whatever code the sender put into the
        body. So trust it only when nobody else can send to any queue that this process reads.
        Registering the name again ends the trust.

        :raises SerializerNotInstalled: no serializer has that name.
        """
        self._find(name)
        self._trusted.add(name)
        self._plans.clear()

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
        except _bad_data() as exc:
            raise _encode_error(exc, data, entry) from exc
        if isinstance(encoded, str):
            charset = entry.charset
            return entry.content_type, charset, to_bytes(encoded, charset)
        if isinstance(encoded, bytes):
            return entry.content_type, entry.content_encoding, encoded
        raise _wrong_type(encoded, entry)

    def decode(
        self,
        data: bytes | str,
        content_type: str | None,
        content_encoding: str | None,
        accept: Collection[str] | None = None,
        decoder: Decoder | None = None,
        default_content_type: str | None = None,
    ) -> Any:
        """The data in a body. A body that is text is taken as decoded from its character set.

        :param accept: the names or content types allowed; None allows every safe one.
        :param decoder: use this function, whatever the content type says. It gets bytes unless
            *content_encoding* names the character set that the body is in.
        :param default_content_type: of a body that has none; without it such a body is returned
            as it is.
        :raises DecodeError: the type or encoding is unknown, or the body is not what it says.
        :raises ContentDisallowed: not in *accept*, or unsafe and nobody asked for it.
        :raises SerializerNotInstalled: the library that decodes it is missing.
        """
        if decoder is not None:
            return _run(decoder, _for_decoder(data, content_encoding), "decoder=")
        if accept is not None:
            accept = tuple(accept)
        # Which serializer and character set, is the same for most messages: 1 µs saved for each.
        key = (content_type, content_encoding, accept)
        plan = self._plans.get(key)
        if plan is None:
            if not content_type:
                return self._decode_untyped(data, content_encoding, accept, default_content_type)
            plan = self._plan(content_type, content_encoding, accept)
            if len(self._plans) >= _REMEMBERED:
                self._plans.clear()
            self._plans[key] = plan
        run, charset, who = plan
        try:
            # Text has no decode(): to ask each body whether it is bytes would take longer.
            return run(data if charset is None else data.decode(charset))  # type: ignore[union-attr]
        except _bad_data() as exc:
            if charset is not None and isinstance(data, str):
                return _run(run, data, who)
            text = data if isinstance(data, str) or charset is None else _to_text(data, charset)
            raise _decode_error(exc, text, who) from exc

    def _decode_untyped(
        self,
        data: bytes | str,
        content_encoding: str | None,
        accept: Collection[str] | None,
        default_content_type: str | None,
    ) -> Any:
        """The data in a body without content type, which AMQP leaves to the application."""
        if default_content_type:
            return self.decode(data, default_content_type, content_encoding, accept)
        if accept is not None and "raw" not in accept and RAW_TYPE not in accept:
            raise ContentDisallowed(
                f"the message has no content type, and this consumer takes {sorted(accept)} "
                "(accept=): give it a default_content_type=, or accept 'raw' too"
            )
        return data

    def _plan(
        self,
        content_type: str,
        content_encoding: str | None,
        accept: Collection[str] | None,
    ) -> tuple[Decoder, str | None, str]:
        """The decoder, the character set (None: it takes bytes), and whom to name in an error."""
        entry = self._entry_for(content_type, accept)
        if entry is not None and entry.decoder is not None:
            charset = _charset(content_encoding, content_type, entry.content_encoding)
            return entry.decoder, charset, str(entry)
        media_type = _media_type(content_type)
        if media_type.startswith("text/"):
            return _same, _charset(content_encoding, content_type, "utf-8"), content_type
        if media_type.startswith(_OPAQUE_FAMILIES):
            return _same, None, content_type
        raise DecodeError(
            f"no serializer decodes content type {content_type!r}: register one, give the "
            "consumer a decoder=, or read message.body"
        )

    def _entry_for(self, content_type: str, accept: Collection[str] | None) -> Serializer | None:
        """The serializer that may decode *content_type*; None when there is none to it."""
        types = self._types_for(content_type)
        entry = next((self._by_type[each] for each in types if each in self._by_type), None)
        if accept is None:
            if entry is not None and not entry.safe and entry.name not in self._trusted:
                raise ContentDisallowed(
                    f"{content_type} is not decoded unasked, because decoding can run code: if "
                    f"you trust every sender, give the consumer accept=[{entry.name!r}]"
                )
            return entry
        for name in accept:
            named = self._by_name.get(name)
            if named is not None and named.decoder and named.content_type in types:
                return named
        if any(name.lower() in types for name in accept):
            return entry
        raise ContentDisallowed(
            f"{content_type} is not accepted here: this consumer takes {sorted(accept)} (accept=)"
        )

    def _types_for(self, content_type: str) -> list[str]:
        """What *content_type* may be registered as, the most specific one first."""
        media_type = _media_type(content_type)
        types = [content_type.strip().lower(), media_type]
        # RFC 6839: such a type is JSON, for those who don't know it better.
        if media_type.endswith("+json"):
            types.append(JSON_TYPE)
        return types

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
    except _bad_data() as exc:
        raise _encode_error(exc, data, who) from exc
    if not isinstance(encoded, (str, bytes)):
        raise _wrong_type(encoded, who)
    return encoded


def _bad_data() -> tuple[type[Exception], ...]:
    """The classes that say that data can't be encoded, or that a body can't be decoded."""
    known = [
        getattr(sys.modules.get(library), name, None) for library, name in _BAD_DATA_OF_LIBRARIES
    ]
    return *_BAD_DATA, *(each for each in known if each is not None)


def _encode_error(exc: Exception, data: object, who: object) -> EncodeError:
    return EncodeError(f"{who} can't encode this {type(data).__name__}: {exc} (it was not sent)")


def _wrong_type(encoded: object, who: object) -> EncodeError:
    return EncodeError(f"{who} returned {type(encoded).__name__}; it must return str or bytes")


def to_bytes(text: str, charset: str) -> bytes:
    """*text* in that character set.

    :raises EncodeError: it can't be encoded so, or no receiver would decode that character set.
    """
    if charset != "utf-8" and _codec(charset) is None:
        raise EncodeError(
            f"the text can't be encoded as {charset}, which is no character set that carrot "
            "decodes (carrot.serialization.CHARSETS): use utf-8, or send bytes"
        )
    try:
        return text.encode(charset)
    except (UnicodeEncodeError, LookupError) as exc:
        raise EncodeError(f"the text can't be encoded as {charset}: {exc}") from exc


def _run(decoder: Decoder, data: bytes | str, who: str) -> Any:
    try:
        return decoder(data)
    except _bad_data() as exc:
        raise _decode_error(exc, data, who) from exc


def _decode_error(exc: Exception, data: bytes | str, who: str) -> DecodeError:
    return DecodeError(
        f"{who} can't decode this body of {len(data)} bytes: {type(exc).__name__}: {exc}"
    )


# -- character sets ---------------------------------------------------------------------


def _media_type(content_type: str) -> str:
    """A content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def charset_of(content_type: str) -> str | None:
    """The ``charset`` parameter of a content type, as it stands there; None without one."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None


def _codec(charset: str) -> str | None:
    """Python's name for a character set; None unless it is one of :data:`CHARSETS`."""
    # Not codecs.lookup(), which remembers each name that it is asked for.
    name = charset.strip().lower().replace("-", "_").replace(" ", "_")
    name = aliases.get(name, name)
    return name.replace("_", "-") if name in CHARSETS else None


def _charset(content_encoding: str | None, content_type: str, default: str) -> str | None:
    """The character set of a body; None when its decoder takes bytes.

    :param default: the one of its serializer. One that takes bytes has no use for the charset
        parameter of the content type.
    :raises DecodeError: a name that is none of :data:`CHARSETS`.
    """
    encoding = (content_encoding or "").strip().lower()
    is_binary = default.lower() in _BINARY_ENCODINGS
    if encoding not in _UNSPECIFIED_ENCODINGS and encoding not in _BINARY_ENCODINGS:
        return _codec(encoding) or _refuse_encoding(encoding)
    parameter = None if is_binary else charset_of(content_type)
    if parameter is not None and parameter.lower() not in _BINARY_ENCODINGS:
        return _codec(parameter) or _refuse_charset(parameter, content_type)
    if is_binary or encoding in _BINARY_ENCODINGS:
        return None
    return _codec(default) or _refuse_encoding(default)


def _refuse_encoding(encoding: str) -> NoReturn:
    raise DecodeError(
        f"content encoding {encoding!r} is neither a character set nor 'binary' "
        "(carrot.serialization.CHARSETS): read message.body, or give the consumer a decoder=, "
        "which gets the bytes"
    )


def _refuse_charset(charset: str, content_type: str) -> NoReturn:
    raise DecodeError(
        f"{charset!r} in content type {content_type!r} is no character set that carrot decodes "
        "(carrot.serialization.CHARSETS): read message.body, or give the consumer a decoder="
    )


def _for_decoder(data: bytes | str, content_encoding: str | None) -> bytes | str:
    """Text, when the body is in the character set that its encoding names; else the bytes."""
    codec = None if content_encoding is None else _codec(content_encoding)
    if codec is None or isinstance(data, str):
        return data
    try:
        return data.decode(codec)
    except (UnicodeDecodeError, LookupError):
        # Celery and kombu label a compressed body so; the decoder knows what it is.
        return data


def _to_text(data: bytes, charset: str) -> str:
    try:
        # Not codecs.decode(), which also knows zlib and the like.
        return data.decode(charset)
    except LookupError as exc:
        raise DecodeError(
            f"this Python has no codec for {charset!r}: read message.body, or give the consumer a "
            "decoder="
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


class _Unusual(Exception):
    """The quick JSON encoder doesn't know this data: the public one does, or says what it is."""


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
        raise _Unusual

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
        except (_Unusual, RecursionError):
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


def _library(name: str, extra: str) -> Any:
    """A library, imported when it is first needed.

    :param extra: carrot's extra that installs it.
    """
    try:
        return import_module(name)
    except ImportError as exc:
        raise SerializerNotInstalled(
            f"this serializer needs the library {name!r}, which is not installed: "
            f"pip install 'carrot[{extra}]'"
        ) from exc


def _optional(library: str, function: str) -> Callable[[Any], Any]:
    """A function of a library that carrot has an extra of the same name for."""

    def call(data: Any) -> Any:
        return getattr(_library(library, library), function)(data)

    return call


def _from_msgpack(body: Any) -> Any:
    msgpack = _library("msgpack", "msgpack")
    try:
        # Keys of any type come back as they were sent.
        return msgpack.unpackb(body, strict_map_key=False)
    except TypeError:
        # Perhaps because a key was a tuple: it arrives as a list, which can't be one.
        return msgpack.unpackb(body, strict_map_key=False, object_pairs_hook=_with_tuple_keys)


def _with_tuple_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_frozen(key): value for key, value in pairs}


def _frozen(key: Any) -> Any:
    return tuple(map(_frozen, key)) if isinstance(key, list) else key


# More merge keys ("<<") than any document written by hand has, and more digits in base 60.
_MOST_MERGED, _MOST_SEXAGESIMAL = 10_000, 20


def _to_yaml(data: Any) -> Any:
    yaml = _library("yaml", "yaml")
    return yaml.dump(data, Dumper=_yaml_dumper(yaml))


def _from_yaml(text: Any) -> Any:
    yaml = _library("yaml", "yaml")
    return yaml.load(text, Loader=_yaml_loader(yaml))


@cache
def _yaml_dumper(yaml: Any) -> type:
    """The safe dumper, which writes nothing that the safe loader can't read."""

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # only known when it is imported
        def represent_mapping(self, tag: str, mapping: Any, flow_style: Any = None) -> Any:
            if any(isinstance(key, tuple) for key in mapping):
                raise yaml.representer.RepresenterError("a tuple can't be a key in YAML")
            return super().represent_mapping(tag, mapping, flow_style)

    return Dumper


@cache
def _yaml_loader(yaml: Any) -> type:
    """The safe loader, in time linear in the text.

    PyYAML's takes minutes for a megabyte of a number in base 60, and older ones also for a few
    hundred bytes of mappings that merge each other.
    """

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # only known when it is imported
        merged = 0

        def flatten_mapping(self, node: Any) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                self._count_merged(node)
            super().flatten_mapping(node)

        def _count_merged(self, node: Any) -> None:
            for key, value in node.value:
                if key.tag != "tag:yaml.org,2002:merge":
                    continue
                is_list = isinstance(value, yaml.SequenceNode)
                for source in value.value if is_list else [value]:
                    if isinstance(source, yaml.MappingNode):
                        self.flatten_mapping(source)
                        self.merged += len(source.value)
                    self.merged += 1
                    if self.merged > _MOST_MERGED:
                        raise _too_much("more merged keys ('<<') than 10 000", node)

        def construct_scalar(self, node: Any) -> Any:
            if node.tag == "tag:yaml.org,2002:int" and node.value.count(":") > _MOST_SEXAGESIMAL:
                raise _too_much("a number of more than 20 digits in base 60", node)
            return super().construct_scalar(node)

    def _too_much(what: str, node: Any) -> Exception:
        error: Exception = yaml.constructor.ConstructorError(
            None, None, f"found {what}", node.start_mark
        )
        return error

    return Loader


def _register_builtin(registry: SerializerRegistry) -> None:
    registry.register("raw", _raw, lambda data: data, RAW_TYPE, BINARY)
    registry.register("text", _text, lambda text: text, TEXT_TYPE)
    # A part of Python, whose import takes 4 ms.
    registry.register(
        "pickle",
        _optional("pickle", "dumps"),
        _optional("pickle", "loads"),
        "application/x-python-serialize",
        BINARY,
        safe=False,
    )
    registry.register("yaml", _to_yaml, _from_yaml, "application/x-yaml")
    registry.register(
        "msgpack",
        _optional("msgpack", "packb"),
        _from_msgpack,
        "application/x-msgpack",
        BINARY,
    )
    registry.register(
        "orjson", _optional("orjson", "dumps"), _optional("orjson", "loads"), JSON_TYPE
    )
    # After orjson: they share a content type, and the last one registered decodes it.
    registry.register("json", _to_json, _from_json, JSON_TYPE)
    registry.set_default("json")


#: The registry that every Publisher and Consumer uses.
registry = SerializerRegistry()
_register_builtin(registry)

encode = registry.encode
decode = registry.decode
set_default_serializer = registry.set_default_serializer

__all__ = [
    "CHARSETS",
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
