"""SerializerRegistry: from a name to a content type, an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from carrot.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SerializerNotInstalled,
)
from carrot.serialization.bad_data import (
    Decoder,
    Encoder,
    bad_data_errors,
    call_decoder,
    decode_error,
    encode_error,
    wrong_type,
)
from carrot.serialization.charsets import (
    BINARY,
    charset_for,
    for_decoder,
    media_type_of,
    to_bytes,
    to_text,
)

RAW_TYPE, TEXT_TYPE, JSON_TYPE = "application/data", "text/plain", "application/json"
# How many pairs of content type and encoding a registry remembers how to decode.
_REMEMBERED = 256
# Families of media types that need no serializer: their payload is the body itself.
_OPAQUE_FAMILIES = ("image/", "audio/", "video/", "font/", "application/octet-stream")


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
        except bad_data_errors() as exc:
            raise encode_error(exc, data, entry) from exc
        if isinstance(encoded, str):
            charset = entry.charset
            return entry.content_type, charset, to_bytes(encoded, charset)
        if isinstance(encoded, bytes):
            return entry.content_type, entry.content_encoding, encoded
        raise wrong_type(encoded, entry)

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
            return call_decoder(decoder, for_decoder(data, content_encoding), "decoder=")
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
        except bad_data_errors() as exc:
            if charset is not None and isinstance(data, str):
                return call_decoder(run, data, who)
            text = data if isinstance(data, str) or charset is None else to_text(data, charset)
            raise decode_error(exc, text, who) from exc

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
            charset = charset_for(content_encoding, content_type, entry.content_encoding)
            return entry.decoder, charset, str(entry)
        media_type = media_type_of(content_type)
        if media_type.startswith("text/"):
            return _same, charset_for(content_encoding, content_type, "utf-8"), content_type
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
        media_type = media_type_of(content_type)
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


def _same(data: Any) -> Any:
    """What text and media need for decoding: nothing."""
    return data
