"""A client's connection to a broker, and what a bad network does to its bytes.

Up is from the client to the broker, down from the broker to the client.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

READ_SIZE = 64 * 1024  # bytes
PATIENCE = 5.0  # seconds for what the proxy itself waits for

# After 50 ms (seconds, microseconds) a write that is stuck looks whether its link was cut.
STUCK = struct.pack("ll", 0, 50_000)
# To linger for no time: close() sends RST, and not FIN.
RESET = struct.pack("ii", 1, 0)
# A frame is this, the payload and one byte; a protocol header is 8 bytes, and begins with an A.
FRAME_HEAD = struct.Struct(">BHI")

#: Is given a whole frame, and returns what to pass for it: frames, or nothing.
OnFrame: TypeAlias = Callable[[bytes], bytes | None]


@dataclass(frozen=True)
class Faults:
    """What is done to the bytes of one direction; they count from the connection's first.

    :param cut_at: bytes to pass before both sides are closed.
    :param rst: cut with RST, and not with FIN.
    :param freeze_at: bytes to pass before the rest is held back; the sockets stay open.
    :param piece: bytes to send at a time.
    :param interval: seconds between two pieces.
    :param corrupt_at: offset of a byte of which all bits are flipped.
    :param on_frame: what to pass for each AMQP frame; it may keep one, and send it later.
    """

    cut_at: int | None = None
    rst: bool = False
    freeze_at: int | None = None
    piece: int | None = None
    interval: float = 0.0
    corrupt_at: int | None = None
    on_frame: OnFrame | None = None


@dataclass(frozen=True)
class Plan:
    """What happens to a connection; by default nothing.

    :param silent: it is accepted, and the broker never hears of it.
    """

    up: Faults = Faults()
    down: Faults = Faults()
    silent: bool = False


class LinkCut(Exception):
    """The link was cut while its bytes were on their way."""


class Stream:
    """One direction of a link: the thread that passes its bytes, with the faults on the way."""

    def __init__(
        self, link: Link, source: socket.socket, target: socket.socket, faults: Faults, frames: bool
    ) -> None:
        self.passed = 0  # bytes
        self._link = link
        self._source = source
        self._target = target
        self._faults = faults
        self._frames = frames
        self._partial = b""
        self._between_frames = threading.Lock()
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def faults(self) -> Faults:
        """What is done to its bytes; what is set while some are on their way is for the next."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._link.changed:
            self._faults = faults
            self._link.changed.notify_all()
        self._cut_if_due()

    def cut_after(self, size: int) -> None:
        """Cut the link when *size* more bytes have passed."""
        # What passes at this moment is counted when it has arrived, and must not be meant.
        with self._between_frames:
            faults = replace(self._faults, cut_at=self.passed + size)
        self.faults = faults

    def inject(self, data: bytes) -> None:
        """Send *data* between two frames; it is not counted, and has no faults."""
        if not self._between_frames.acquire(timeout=PATIENCE):
            raise TimeoutError("the link is frozen, or slow, in the middle of a frame")
        try:
            self._target.sendall(data)
        finally:
            self._between_frames.release()

    def _run(self) -> None:
        try:
            self._cut_if_due()
            while data := self._source.recv(READ_SIZE):
                for unit in self._units(data):
                    self._pass(unit)
            self._pass(self._partial)
            with self._link.changed:
                self._wait_while_frozen()
                self._target.shutdown(socket.SHUT_WR)
            if self._link.is_silent:
                self._link.cut()  # nobody is there to hang up, too
        except LinkCut:
            pass
        except OSError:
            # One side broke it, and the other one hears of it, when bytes pass at all.
            with suppress(LinkCut):
                self._wait_while_frozen()
                self._link.cut(rst=True)
        finally:
            self._link.leave()

    def _units(self, data: bytes) -> list[bytes]:
        """What *data* completes, in units that nothing may come between."""
        if not self._frames:
            return [data]
        frames = self._whole_frames(data)
        if on_frame := self._faults.on_frame:
            frames = [on_frame(frame) or b"" for frame in frames]
        return frames if self._faults.piece else [b"".join(frames)]

    def _whole_frames(self, data: bytes) -> list[bytes]:
        data = self._partial + data
        frames, at = [], 0
        while len(data) - at >= FRAME_HEAD.size:
            kind, _, size = FRAME_HEAD.unpack_from(data, at)
            after = at + (8 if kind == ord("A") else FRAME_HEAD.size + size + 1)
            if after > len(data):
                break
            frames.append(data[at:after])
            at = after
        self._partial = data[at:]
        return frames

    def _pass(self, data: bytes) -> None:
        self._wait_while_frozen()
        with self._between_frames:
            while data:
                self._wait_while_frozen()
                sent = self._send(data[: self._room(len(data))])
                data = data[sent:]
                self.passed += sent
                self._cut_if_due()
                self._pause()

    def _room(self, size: int) -> int:
        """How many of *size* bytes go before something happens to them."""
        faults = self._faults
        stops = (faults.cut_at, faults.freeze_at)
        ahead = [stop - self.passed for stop in stops if stop is not None]
        return max(0, min([size, faults.piece or size, *ahead]))

    def _send(self, data: bytes) -> int:
        at = self._faults.corrupt_at
        if at is not None and 0 <= at - self.passed < len(data):
            at -= self.passed
            data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        try:
            return self._target.send(data)
        except BlockingIOError:
            return 0

    def _wait_while_frozen(self) -> None:
        with self._link.changed:
            self._link.changed.wait_for(lambda: not (self._link.is_open and self._is_frozen()))
            if not self._link.is_open:
                raise LinkCut

    def _is_frozen(self) -> bool:
        return self._faults.freeze_at is not None and self.passed >= self._faults.freeze_at

    def _cut_if_due(self) -> None:
        if self._faults.cut_at is not None and self.passed >= self._faults.cut_at:
            self._link.cut(self._faults.rst)

    def _pause(self) -> None:
        if interval := self._faults.interval:
            with self._link.changed:
                self._link.changed.wait_for(lambda: not self._link.is_open, interval)


class Link:
    """A client's connection and the broker's; its lock guards the state of both directions."""

    def __init__(
        self, client: socket.socket, broker: socket.socket, plan: Plan, frames: bool
    ) -> None:
        self.is_open = True
        self.is_silent = plan.silent
        self.changed = threading.Condition(threading.RLock())
        self._sockets = (client, broker)
        for sock in self._sockets:
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, STUCK)
        self.up = Stream(self, client, broker, plan.up, frames)
        self.down = Stream(self, broker, client, plan.down, frames)
        self._running = 2
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to pass bytes."""
        for stream in (self.up, self.down):
            stream.thread.start()

    def send_down(self, frame: bytes) -> None:
        """Send the client a frame, or garbage, as if it came from the broker."""
        self.down.inject(frame)

    def freeze(self) -> None:
        """Pass nothing, with both sockets open, until :meth:`thaw`."""
        self._freeze_at(0)

    def thaw(self) -> None:
        """Pass what was held back, and go on."""
        self._freeze_at(None)

    def _freeze_at(self, passed: int | None) -> None:
        for stream in (self.up, self.down):
            stream.faults = replace(stream.faults, freeze_at=passed)

    def cut(self, rst: bool = False) -> None:
        """Close both sides now."""
        with self.changed:
            if self.is_open:
                self.is_open = False
                self.changed.notify_all()
                for sock in self._sockets:
                    # Closing a socket has no effect while a thread reads from it, so this wakes
                    # the thread; SHUT_RD does so without a FIN.
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RD if rst else socket.SHUT_RDWR)
                    if rst:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if threading.current_thread() not in (self.up.thread, self.down.thread):
            self._ended.wait(PATIENCE)

    def leave(self) -> None:
        """Called by each stream as it ends; the last one closes the sockets."""
        with self.changed:
            self._running -= 1
            if self._running:
                return
            self.is_open = False
            for sock in self._sockets:
                sock.close()
        self._ended.set()
