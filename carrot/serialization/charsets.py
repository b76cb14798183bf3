"""Character sets: which a sender may name, and bodies in them."""

from __future__ import annotations

from encodings.aliases import aliases
from typing import NoReturn

from carrot.exceptions import DecodeError, EncodeError

BINARY = "binary"
# How producers name "no character set": carrot, Ruby, MIME.
_BINARY_ENCODINGS = frozenset({BINARY, "ascii-8bit", "8bit"})
# HTTP's name for "not encoded at all" (RFC 9110, section 12.5.3), which some producers send.
_UNSPECIFIED_ENCODINGS = frozenset({"", "identity"})

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


def media_type_of(content_type: str) -> str:
    """A content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def charset_of(content_type: str) -> str | None:
    """The ``charset`` parameter of a content type, as it stands there; None without one."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None


def codec_of(charset: str) -> str | None:
    """Python's name for a character set; None unless it is one of :data:`CHARSETS`."""
    # Not codecs.lookup(), which remembers each name that it is asked for.
    name = charset.strip().lower().replace("-", "_").replace(" ", "_")
    name = aliases.get(name, name)
    return name.replace("_", "-") if name in CHARSETS else None


def charset_for(content_encoding: str | None, content_type: str, default: str) -> str | None:
    """The character set of a body; None when its decoder takes bytes.

    :param default: the one of its serializer. One that takes bytes has no use for the charset
        parameter of the content type.
    :raises DecodeError: a name that is none of :data:`CHARSETS`.
    """
    encoding = (content_encoding or "").strip().lower()
    is_binary = default.lower() in _BINARY_ENCODINGS
    if encoding not in _UNSPECIFIED_ENCODINGS and encoding not in _BINARY_ENCODINGS:
        return codec_of(encoding) or _refuse_encoding(encoding)
    parameter = None if is_binary else charset_of(content_type)
    if parameter is not None and parameter.lower() not in _BINARY_ENCODINGS:
        return codec_of(parameter) or _refuse_charset(parameter, content_type)
    if is_binary or encoding in _BINARY_ENCODINGS:
        return None
    return codec_of(default) or _refuse_encoding(default)


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


def for_decoder(data: bytes | str, content_encoding: str | None) -> bytes | str:
    """Text, when the body is in the character set that its encoding names; else the bytes."""
    codec = None if content_encoding is None else codec_of(content_encoding)
    if codec is None or isinstance(data, str):
        return data
    try:
        return data.decode(codec)
    except (UnicodeDecodeError, LookupError):
        # Celery and kombu label a compressed body so; the decoder knows what it is.
        return data


def to_text(data: bytes, charset: str) -> str:
    """*data* as text.

    :raises DecodeError: it is not in that character set.
    """
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


def to_bytes(text: str, charset: str) -> bytes:
    """*text* in that character set.

    :raises EncodeError: it can't be encoded so, or no receiver would decode that character set.
    """
    if charset != "utf-8" and codec_of(charset) is None:
        raise EncodeError(
            f"the text can't be encoded as {charset}, which is no character set that carrot "
            "decodes (carrot.serialization.CHARSETS): use utf-8, or send bytes"
        )
    try:
        return text.encode(charset)
    except (UnicodeEncodeError, LookupError) as exc:
        raise EncodeError(f"the text can't be encoded as {charset}: {exc}") from exc
