"""STOMP 1.2 frames to bytes and back, with stomp.py's codec. No I/O.

https://stomp.github.io/stomp-specification-1.2.html
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from carrot.exceptions import CarrotError, EncodeError

# Else stomp.py asks the DNS for this machine's name when it is imported.
_SCAN = "STOMP_SKIP_HOSTNAME_SCAN"
_was_there = _SCAN in os.environ
os.environ.setdefault(_SCAN, "1")
from stomp.utils import Frame as StompFrame  # noqa: E402
from stomp.utils import convert_frame, pack, parse_frame  # noqa: E402

if not _was_there:
    del os.environ[_SCAN]

#: What ActiveMQ reads of one header, in bytes, with its name (StompWireFormat).
MAX_HEADER = 10 * 1024
#: A head that is larger is none.
MAX_HEAD = 1024 * 1024
HEARTBEAT = b"\n"

# STOMP 1.2, "Value Encoding".
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", ":": "\\c"})


class FramingError(CarrotError):
    """The bytes are not STOMP. The transport turns it into ConnectionLost."""


class Frame(NamedTuple):
    """A frame that has come; its headers are decoded when somebody asks.

    :param head: command and headers, as they came.
    """

    command: bytes
    head: bytes
    body: bytes

    def header(self, name: bytes) -> str | None:
        """One header, without decoding the others.

        :param name: between a line break and a colon: ``b"\\nack:"``.
        """
        start = self.head.find(name)
        if start < 0:
            return None
        start += len(name)
        end = self.head.find(b"\n", start)
        value = self.head[start:] if end < 0 else self.head[start:end]
        if b"\\" in value:
            return self.headers()[name[1:-1].decode()]
        return value.decode(errors="replace").removesuffix("\r")

    def headers(self) -> dict[str, str]:
        """All headers; of one that comes twice, the first."""
        headers: dict[str, str] = parse_frame(self.head + b"\n\n").headers
        return headers


def encode(command: str, headers: Mapping[str, str], escape: bool = True) -> bytes:
    """A frame without a body.

    :param escape: False for CONNECT, in which STOMP 1.2 escapes nothing.
    """
    checked = {name: _checked(name, value) for name, value in headers.items()}
    if escape:
        checked = {name: value.translate(_ESCAPES) for name, value in checked.items()}
    encoded: bytes = pack(convert_frame(StompFrame(command, checked)))
    return encoded


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Lines of headers, each with its end.

    :raises EncodeError: a header that STOMP can't carry, or that is too large for ActiveMQ.
    """
    escaped = {
        name.translate(_ESCAPES): _checked(name, value).translate(_ESCAPES)
        for name, value in headers.items()
    }
    lines: list[bytes] = convert_frame(StompFrame("", escaped))
    for line in lines:
        if len(line) > MAX_HEADER:
            name = line[:40].partition(b":")[0].decode(errors="replace")
            raise EncodeError(
                f"the header {name} is {len(line)} bytes long, and ActiveMQ takes {MAX_HEADER}: "
                "put large things into the body"
            )
    return b"".join(lines[:-1])  # the last is the empty line in front of a body


def _checked(name: str, value: str) -> str:
    if "\0" in value:
        raise EncodeError(f"{name} has a NUL character, which no STOMP header can carry")
    return value


class Decoder:
    """Takes in bytes as they come, and gives the frames that are complete."""

    def __init__(self) -> None:
        self._buffer = b""
        self._needed = 0  # bytes, until there is more to see

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that *data* completes.

        :raises FramingError: that is no STOMP.
        """
        buffer = self._buffer + data if self._buffer else data
        if len(buffer) < self._needed:
            self._buffer = buffer
            return []
        frames: list[Frame] = []
        position, self._needed = 0, 0
        while True:
            # Line ends between two frames are signs of life.
            while buffer[position : position + 1] in (b"\n", b"\r"):
                position += 1
            found = self._frame(buffer, position)
            if found is None:
                break
            frame, position = found
            frames.append(frame)
        self._buffer = buffer[position:]
        self._needed = max(0, self._needed - position)
        return frames

    def _frame(self, buffer: bytes, position: int) -> tuple[Frame, int] | None:
        """The frame at *position*, and where it ends; None: it is not complete."""
        end = buffer.find(b"\n\n", position)
        body = end + 2
        windows = buffer.find(b"\r\n\r\n", position, end if end >= 0 else len(buffer))
        if windows >= 0:
            end, body = windows, windows + 4
        if end < 0:
            if len(buffer) - position > MAX_HEAD:
                raise FramingError("the head of a frame has no end")
            return None
        head = buffer[position:end]
        line = head.find(b"\n")
        command = (head if line < 0 else head[:line]).rstrip(b"\r")
        if not command.isalpha():
            raise FramingError(f"a frame can't begin with {command[:20]!r}")
        size = _content_length(head)
        if size is None:
            stop = buffer.find(b"\0", body)
            if stop < 0:
                return None
        else:
            stop = body + size
            if len(buffer) <= stop:
                self._needed = stop + 1
                return None
            if buffer[stop] != 0:
                raise FramingError(f"no NUL behind a body of {size} bytes")
        return Frame(command, head, buffer[body:stop]), stop + 1


def _content_length(head: bytes) -> int | None:
    start = head.find(b"\ncontent-length:")
    if start < 0:
        return None
    start += len(b"\ncontent-length:")
    end = head.find(b"\n", start)
    try:
        size = int(head[start:] if end < 0 else head[start:end])
    except ValueError:
        size = -1
    if size < 0:
        raise FramingError("content-length is no number")
    return size
