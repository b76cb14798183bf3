"""The least client there can be: one channel, frames encoded beforehand, and large writes.

It makes, fills and deletes the queues that the peers use, alike for all of them, and it is the
limit against which publishing is measured: a client can't do less for a message than this.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from pamqp import commands, frame, header
from pamqp.base import Frame

TIMEOUT = 60.0  # seconds for each read and write
FRAME_MAX = 131072
WRITE = 65536  # bytes
PROTOCOL = b"AMQP\x00\x00\x09\x01"


class Wire:
    """A connection with one channel, to the broker of an amqp URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = create_connection(
            (parts.hostname or "localhost", parts.port or 5672), TIMEOUT
        )
        self._socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._read = b""
        self._socket.sendall(PROTOCOL)
        self._reply()
        login = f"\0{unquote(parts.username or 'guest')}\0{unquote(parts.password or 'guest')}"
        self.call(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), 0)
        self._write(commands.Connection.TuneOk(1, FRAME_MAX, 0), 0)
        self.call(commands.Connection.Open(unquote(parts.path[1:]) or "/"), 0)
        self.call(commands.Channel.Open())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def _write(self, method: Frame, channel: int = 1) -> None:
        self._socket.sendall(frame.marshal(method, channel))

    def _reply(self) -> None:
        """Read the broker's next answer.

        :raises ConnectionError: it is a refusal.
        """
        while True:
            # A frame is 7 bytes, the payload whose length is in the last four of them, and 1 byte.
            if len(self._read) >= 7:
                length = struct.unpack_from(">I", self._read, 3)[0] + 8
                if len(self._read) >= length:
                    found, self._read = self._read[:length], self._read[length:]
                    _check(frame.unmarshal(found)[2])
                    return
            piece = self._socket.recv(WRITE)
            if not piece:
                raise ConnectionError("the broker closed the connection")
            self._read += piece

    def call(self, method: Frame, channel: int = 1) -> None:
        """Send a method and read the broker's answer."""
        self._write(method, channel)
        self._reply()

    # -- queues

    def declare(self, queue: str) -> None:
        # Durable, because newer brokers refuse queues that are neither that nor exclusive.
        self.call(commands.Queue.Declare(queue=queue, durable=True))

    def delete(self, queue: str) -> None:
        self.call(commands.Queue.Delete(queue=queue))

    def sync(self, queue: str) -> None:
        """Return when the broker has read all that was sent before."""
        self.call(commands.Queue.Declare(queue=queue, passive=True))

    # -- publishing

    def publish(self, queue: str, bodies: Iterable[bytes], size: int) -> None:
        """Send *bodies*, all of *size* bytes, transient and unconfirmed, 64 KiB in a write."""
        enclose = enclosed(queue, size)
        parts: list[bytes] = []
        pending = 0
        for body in bodies:
            parts.append(enclose(body))
            pending += len(parts[-1])
            if pending >= WRITE:
                self._socket.sendall(b"".join(parts))
                parts.clear()
                pending = 0
        self._socket.sendall(b"".join(parts))


def enclosed(queue: str, size: int) -> Callable[[bytes], bytes]:
    """A function from a body of *size* bytes to all its frames, of which all else is constant."""
    properties = commands.Basic.Properties("application/json", "utf-8", delivery_mode=1)
    prefix = frame.marshal(commands.Basic.Publish(routing_key=queue), 1)
    prefix += frame.marshal(header.ContentHeader(0, size, properties), 1)
    room = FRAME_MAX - 8
    if size <= room:
        prefix += struct.pack(">BHI", 3, 1, size)
        return lambda body: b"%b%b\xce" % (prefix, body)

    def in_pieces(body: bytes) -> bytes:
        parts = [prefix]
        for start in range(0, size, room):
            piece = body[start : start + room]
            parts += struct.pack(">BHI", 3, 1, len(piece)), piece, b"\xce"
        return b"".join(parts)

    return in_pieces


def _check(reply: object) -> None:
    if isinstance(reply, commands.Connection.Close | commands.Channel.Close):
        raise ConnectionError(f"the broker refused: {reply.reply_code} {reply.reply_text}")
