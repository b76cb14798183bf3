"""A broker that says the same each time: as much AMQP 0-9-1 as publishing and consuming take.

It answers every request, confirms every message, and keeps none. A queue named ``counted-2000`` has
2 000 messages, all the same, for each who consumes from it. `python -m benchmarks.amqp_peer` prints
its port.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any

from pamqp import commands, frame, header
from pamqp.base import Frame

from benchmarks.bodies import SMALL, body

HOST = "127.0.0.1"
FRAME_MAX, CHANNEL_MAX = 131072, 2047
READ = 65536  # bytes
BUFFER = 4 * 1024 * 1024  # bytes: all that is delivered fits in, so that no write is cut in two
PROTOCOL_HEADER = 8  # bytes
FRAME_HEAD = struct.Struct(">BHI")

_BODY = repr(body(SMALL)).replace("'", '"').replace("True", "true").encode()
_HEADER = header.ContentHeader(
    0, len(_BODY), commands.Basic.Properties("application/json", "utf-8", delivery_mode=2)
)


class Consumer:
    """What is delivered to one consumer: what its queue has, and as much as may be unacked.

    :param prefetch: messages; 0: no limit.
    """

    def __init__(self, tag: str, queue: str, channel: int, prefetch: int) -> None:
        self._tag = tag
        self._channel = channel
        number = queue.rpartition("-")[2]
        self._queued = int(number) if number.isdecimal() else 0
        self._room = prefetch or self._queued
        # All frames of a delivery but its number are the same each time.
        self._content = frame.marshal(_HEADER, channel) + _body_frame(channel)
        self._number = 0

    def take(self) -> bytes:
        """The deliveries that it lets come now."""
        parts = []
        for _ in range(min(self._room, self._queued)):
            self._room -= 1
            self._queued -= 1
            self._number += 1
            deliver = commands.Basic.Deliver(self._tag, self._number, False, "counted", "counted")
            parts += [frame.marshal(deliver, self._channel), self._content]
        return b"".join(parts)

    def settled(self, count: int) -> None:
        """So many are acked."""
        self._room += count


class Channel:
    """One channel: what it confirms, and its consumer."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._confirms = False
        self._published = 0
        self._acked = 0
        self._prefetch = 0
        self._consumer: Consumer | None = None

    def answer(self, method: Any) -> bytes:
        """The bytes that *method*, or a part of a message, is answered with."""
        return b"".join(self._answers(method))

    def _answers(self, method: Any) -> Iterator[bytes]:
        if isinstance(method, header.ContentHeader):
            # The last but the body, which needs no look.
            if self._confirms:
                self._published += 1
                yield self._marshal(commands.Basic.Ack(self._published))
            return
        if isinstance(method, commands.Confirm.Select):
            self._confirms = True
        elif isinstance(method, commands.Basic.Qos):
            self._prefetch = method.prefetch_count
        elif isinstance(method, commands.Basic.Ack):
            self._settle(method)
        if (reply := reply_to(method)) is not None:  # one without arguments is false
            yield self._marshal(reply)
        if isinstance(method, commands.Basic.Consume):
            self._consumer = Consumer(
                method.consumer_tag, method.queue, self._number, self._prefetch
            )
        elif isinstance(method, commands.Basic.Cancel):
            self._consumer = None
        if self._consumer is not None:
            yield self._consumer.take()

    def _settle(self, ack: commands.Basic.Ack) -> None:
        tag = ack.delivery_tag
        count = tag - self._acked if ack.multiple else 1
        self._acked = max(self._acked, tag)
        if self._consumer is not None:
            self._consumer.settled(count)

    def _marshal(self, method: Frame) -> bytes:
        return frame.marshal(method, self._number)


def reply_to(method: Any) -> Frame | None:
    """What a request is answered with; None: it is none."""
    if isinstance(method, commands.Connection.StartOk):
        return commands.Connection.Tune(CHANNEL_MAX, FRAME_MAX, 0)
    if isinstance(method, commands.Queue.Declare):
        return commands.Queue.DeclareOk(method.queue, 0, 0)
    if isinstance(method, commands.Basic.Consume):
        return commands.Basic.ConsumeOk(method.consumer_tag)
    if isinstance(method, commands.Basic.Cancel):
        return commands.Basic.CancelOk(method.consumer_tag)
    if isinstance(method, commands.Basic.Get):
        return commands.Basic.GetEmpty()
    if not getattr(method, "synchronous", False) or getattr(method, "nowait", False):
        return None
    group, _, name = method.valid_responses[0].partition(".")
    reply: type[Frame] = getattr(getattr(commands, group), name)
    if reply is commands.Queue.PurgeOk or reply is commands.Queue.DeleteOk:
        return reply(0)
    return reply()


def _body_frame(channel: int) -> bytes:
    return FRAME_HEAD.pack(3, channel, len(_BODY)) + _BODY + b"\xce"


def serve(client: socket.socket) -> None:
    """Answer one client until it hangs up."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    channels: dict[int, Channel] = {}
    with client:
        for number, method in requests(client):
            channel = channels.setdefault(number, Channel(number))
            if answer := channel.answer(method):
                client.sendall(answer)
            if isinstance(method, commands.Connection.Close):
                return
            if isinstance(method, commands.Channel.Close):
                del channels[number]


def requests(client: socket.socket) -> Iterator[tuple[int, Any]]:
    """Each method and content header that comes in, with its channel; the first is a greeting."""
    data = b""
    while len(data) < PROTOCOL_HEADER:
        data += client.recv(READ)
    start = commands.Connection.Start(0, 9, {}, "PLAIN AMQPLAIN", "en_US")
    client.sendall(frame.marshal(start, 0))
    data = data[PROTOCOL_HEADER:]
    while piece := client.recv(READ):
        data += piece
        at = 0
        while len(data) - at >= FRAME_HEAD.size:
            kind, number, size = FRAME_HEAD.unpack_from(data, at)
            end = at + FRAME_HEAD.size + size + 1
            if end > len(data):
                break
            if kind in (1, 2):
                yield number, frame.unmarshal(data[at:end])[2]
            at = end
        data = data[at:]


def main() -> None:
    """Serve clients, each in a thread, until standard input ends."""
    listener = socket.create_server((HOST, 0))
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
