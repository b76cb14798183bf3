"""The methods off the hot path: pamqp knows their arguments, and decodes them.

Encoding goes by pamqp's lists of arguments, but without its checks of names, which refuse some
that brokers take, and with this driver's own tables.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as struct_error
from typing import Any

from pamqp import base, commands
from pamqp import exceptions as pamqp_exceptions

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.tables import encode_table, long_string, short_string

_head = Struct(">BHII")

_ENCODERS: dict[str, tuple[Any, Callable[[Any], bytes]]] = {
    "octet": (0, Struct(">B").pack),
    "short": (0, Struct(">H").pack),
    "long": (0, Struct(">I").pack),
    "longlong": (0, Struct(">Q").pack),
    "shortstr": ("", short_string),
    "longstr": ("", long_string),
    "table": ({}, encode_table),
}


def encode_method(method: type[base.Frame], channel: int, **arguments: Any) -> bytes:
    """The frame of a method; arguments that are not given, or None, are zero or empty."""
    parts: list[bytes] = []
    bits: list[bool] = []
    for name in method.attributes():
        kind = method.amqp_type(name)
        value = arguments.pop(name, None)
        if kind == "bit":
            bits.append(bool(value))
            continue
        parts.append(_packed(bits))
        empty, encode = _ENCODERS[kind]
        parts.append(encode(empty if value is None else value))
    parts.append(_packed(bits))
    if arguments:
        raise TypeError(f"{method.name} has no argument {sorted(arguments)}")
    payload = b"".join(parts)
    return _head.pack(1, channel, 4 + len(payload), method.index) + payload + b"\xce"


def _packed(bits: list[bool]) -> bytes:
    """Consecutive bits share octets, from the lowest up (AMQP 0-9-1, section 4.2.5.2)."""
    octets = bytes(
        sum(bit << position for position, bit in enumerate(bits[at : at + 8]))
        for at in range(0, len(bits), 8)
    )
    bits.clear()
    return octets


def decode_method(method: int, arguments: bytes) -> base.Frame:
    """pamqp's frame of a method that came in.

    :param method: class and method, as :class:`carrot.backends.amqp.framing.Event` has them.
    :raises FramingError: an unknown method, or arguments that can't be decoded.
    """
    try:
        frame: base.Frame = commands.INDEX_MAPPING[method]()
        frame.unmarshal(arguments)
    except (
        LookupError, ValueError, ArithmeticError, RecursionError, struct_error,
        pamqp_exceptions.PAMQPException,
    ) as exc:  # fmt: skip
        raise FramingError(
            f"method {method >> 16}.{method & 0xFFFF} can't be decoded: {exc}"
        ) from exc
    return frame
