"""StreamTransport: a socket that any number of threads share, without a reader thread.

Whoever waits for something reads for everyone: see :meth:`StreamTransport.wait_for`. A driver of a
protocol over TCP says how to log in and what to do with the bytes that come.
"""

from __future__ import annotations

import threading
import time
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Protocol, Self

from carrot import signal_safe
from carrot.backends.sockets import socket as link_module
from carrot.backends.sockets.shared_reader import SharedReader
from carrot.backends.sockets.socket import ByteStream
from carrot.backends.sockets.timer import timer
from carrot.backends.transport import BaseTransport
from carrot.deadline import spelled, within
from carrot.exceptions import CarrotError, ConfigurationError, ConnectionLost, OperationTimeout
from carrot.retry import pause, shorter
from carrot.settings import ConnectionSettings

#: Seconds between signs of life, unless the settings say otherwise.
HEARTBEAT = 10
#: How long may nobody have read, in seconds, when a message is sent that nobody confirms.
UNREAD = 0.5
#: How late an ack may be, in seconds, so that it can share a write with others: 2.5 to 4.5 µs
#: saved for each message, of some 10 for consuming it.
ACK_DELAY = 0.001
#: How long to wait, in seconds, for somebody else to have written, or for room.
NO_ROOM_DELAY = 0.01
#: How much is kept back, in bytes, while many messages are sent together: 9 µs (of 23) saved for
#: each small one, in confirm mode.
LARGE_WRITE = 64 * 1024


class Writer(Protocol):
    """What the transport needs of a channel that writes."""

    is_open: bool

    def check_open(self) -> None: ...


class TransportView(Protocol):
    """What a channel needs of its connection, whatever the protocol."""

    operation_timeout: float | None
    is_silent: bool
    blocked: str | None

    def answer(self, data: bytes) -> None: ...
    def write(self, data: bytes, channel: Writer | None = None) -> None: ...
    def write_soon(self, data: bytes, channel: Writer) -> None: ...
    def write_with_others(self, data: bytes, channel: Writer) -> None: ...
    def flush(self) -> None: ...
    def flush_soon(self) -> None: ...
    def look(self) -> None: ...
    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None: ...


class StreamChannel:
    """What channels on a StreamTransport have in common: when what they publish goes out."""

    is_open: bool
    _line: TransportView

    def check_open(self) -> None:
        """Asked under the lock that guards what is written; raises why it is closed."""
        raise NotImplementedError

    def publish(self, data: bytes, keep: bool) -> None:
        """Send a message; *keep* it back until there are more to be sent with it."""
        if keep:
            self._line.write_with_others(data, self)
        else:
            self._line.write(data, self)

    def look(self) -> None:
        """Take in what has arrived, if nobody has lately."""
        self._line.look()

    def flush(self) -> None:
        """Send what was kept back."""
        self._line.flush()

    def flush_soon(self) -> None:
        """Let what was kept back be sent, without waiting for it."""
        self._line.flush_soon()


class StreamTransport(BaseTransport):
    """A connection over TCP or TLS, and the turn of reading.

    :cvar breaks_with: what ends the connection when reading raises it: the system's errors, and
        the driver's own for a peer that can't be understood, or has said that it hangs up.
    :cvar heartbeat_bytes: a sign of life.
    :ivar is_silent: an answer was due and has not come, nor anything since.

    Reading takes turns; ``_writing`` guards what goes out, ``_numbers`` the channels and the end.
    """

    breaks_with: ClassVar[tuple[type[Exception], ...]] = (OSError, ValueError)
    heartbeat_bytes: ClassVar[bytes]
    # No property, which would cost 0.1 µs for each message that is sent, and that is received.
    is_open: bool = True

    def __init__(self, link: ByteStream, settings: ConnectionSettings, where: str) -> None:
        super().__init__()
        self.operation_timeout = settings.operation_timeout
        self.is_silent = False
        self._link = link
        self._where = where
        #: Seconds in which this end, and the broker, must give a sign of life; 0: none.
        self._heartbeat = 0.0
        self.is_open = True
        self._lost: ConnectionLost | None = None
        self._blocked_news: deque[str | None] = deque()
        self._renew_locks()
        self._soon: list[bytes] = []
        self._soon_size = 0
        self._flush_is_due = False
        self._last_write = self._last_read = self._last_look = time.monotonic()

    def _renew_locks(self) -> None:
        """Make the locks, also in a forked child, whose parent's threads may hold the old ones."""
        self._numbers = threading.Lock()
        self._turns = SharedReader(self._read_once, self._tell_blocked)
        self._telling = threading.Lock()
        self._writing = threading.Lock()

    # -- what a driver says

    @abstractmethod
    def _shake_hands(self, settings: ConnectionSettings, deadline: float | None) -> None:
        """Log in."""

    @abstractmethod
    def _feed(self, data: bytes) -> None:
        """Take in what has come, in pieces of any size, and hand it to whom it is for."""

    @abstractmethod
    def _close_channels(self) -> None:
        """The connection is gone: no channel is open any more."""

    @abstractmethod
    def _say_goodbye(self, deadline: float | None) -> None:
        """End the connection as the protocol has it, and wait for the broker's answer."""

    @classmethod
    @abstractmethod
    def _connection_failed(
        cls, settings: ConnectionSettings, where: str, cause: Exception
    ) -> CarrotError:
        """Why connecting failed, and what to do about it."""

    # -- opening

    @classmethod
    def open(cls, settings: ConnectionSettings) -> Self:
        where = cls._place(settings)
        timeout = settings.connect_timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        transport = None
        try:
            transport = cls(cls._dial(settings, deadline), settings, where)
            transport._shake_hands(settings, deadline)
        except BaseException as exc:
            if transport is not None:
                transport._lose(ConnectionAbortedError("it could not be opened"))
            if isinstance(exc, ConfigurationError) or not isinstance(exc, (OSError, CarrotError)):
                raise
            # The reason behind a ConnectionLost: this connection never was.
            cause = exc.__cause__ if isinstance(exc, ConnectionLost) else exc
            failure = cause if isinstance(cause, Exception) else exc
            if isinstance(exc, OperationTimeout):
                failure = TimeoutError()
            raise cls._connection_failed(settings, where, failure) from exc
        return transport

    @classmethod
    def _port(cls, settings: ConnectionSettings) -> int:
        port = settings.port or (cls.default_tls_port if settings.ssl else cls.default_port)
        assert port is not None
        return port

    @classmethod
    def _place(cls, settings: ConnectionSettings) -> str:
        """Host, port and virtual host, for errors."""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{host}:{cls._port(settings)}, virtual host {settings.virtual_host!r}"

    @classmethod
    def _dial(cls, settings: ConnectionSettings, deadline: float | None) -> ByteStream:
        """The link to the broker, over which the handshake goes.

        :raises OSError: it can't be made.
        """
        return link_module.connect(settings, cls._port(settings), deadline)

    # -- alive or not

    def _lose(self, cause: Exception) -> None:
        """The connection is gone, for everybody; the first reason counts."""
        with self._numbers:
            if self._lost is not None:
                return
            # First: whatever comes between, it is never taken for open.
            self.is_open = False
            self._lost = ConnectionLost(
                f"the connection to {self._where} is gone: {cause}; what was not confirmed or "
                "acked may not have arrived"
            )
            self._lost.__cause__ = cause
            self._close_channels()
        # Wakes whoever is reading, who then wakes the others.
        self._link.close()

    def _raise_lost(self) -> None:
        if self._lost is not None:
            # A new object for each: a traceback belongs to one thread.
            raise ConnectionLost(str(self._lost)) from self._lost.__cause__

    # -- reading

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        # Whoever has the turn may have flushed before this was kept back.
        if self._soon and not ready():
            self._flush_if_room()
        if not self._turns.wait_for(ready, timeout):
            raise OperationTimeout(f"nothing came from {self._where} within {spelled(timeout)}")

    def look(self) -> None:
        """Take in what has arrived, if nobody has lately: the end of the connection, perhaps."""
        if time.monotonic() - self._last_look > UNREAD:
            self._last_look = time.monotonic()
            self._turns.wait_for(_never, 0)

    def _read_once(self, timeout: float | None) -> None:
        """Read what there is, waiting for it at most *timeout* seconds."""
        self._raise_lost()
        self._flush_if_room()
        if self._heartbeat:
            silent_at = self._last_read + 2 * self._heartbeat
            timeout = shorter(timeout, max(0.0, silent_at - time.monotonic()))
        try:
            if not self._link.wait(timeout):
                self._check_silence()
                return
        except (OSError, ValueError) as exc:
            self._lose(exc)
            self._raise_lost()
        self._take_in()

    def _take_in(self) -> None:
        """Read what has arrived, and hand it to whom it is for."""
        try:
            data = self._link.read()
            if data is None:
                return
            if not data:
                raise ConnectionResetError("the broker hung up")
            self._last_read = self._last_look = time.monotonic()
            self.is_silent = False
            self._feed(data)
        except self.breaks_with as exc:
            self._lose(exc)
            self._raise_lost()
        except BaseException as exc:
            # An interrupt, in the middle of what can't be read again.
            self._lose(ConnectionAbortedError(f"{type(exc).__name__} interrupted a read"))
            raise

    def _check_silence(self) -> None:
        """A broker that sends nothing for two intervals is gone (AMQP 0-9-1, section 4.2.7)."""
        silent = time.monotonic() - self._last_read
        if self._heartbeat and silent >= 2 * self._heartbeat:
            raise ConnectionResetError(f"the broker has been silent for {silent:.1f} seconds")

    def _tell_blocked(self) -> None:
        # In a thread of its own: the one that reads may be in the middle of a request.
        if self._blocked_news:
            signal_safe.start(threading.Thread(target=self._tell_news, daemon=True))

    def _tell_news(self) -> None:
        with self._telling:
            while self._blocked_news:
                self.tell_blocked(self._blocked_news.popleft())

    def interrupt(self) -> None:
        self._link.wake()

    # -- writing

    def write(self, data: bytes, channel: Writer | None = None) -> None:
        """Send *data*, and before it what was to be sent soon.

        :param channel: the one it is for, which must be open.
        :raises ConnectionLost: the connection is gone.
        """
        if self._writing.locked():
            self._wait_to_write()
        # An acquire() of our own could be interrupted before its release() is certain.
        with self._writing:
            if self._lost is not None or (channel is not None and not channel.is_open):
                self._refuse(channel)
            try:
                if self._soon:
                    data = self._take_soon() + data
                self._link.write(data)
            except (OSError, ValueError) as exc:
                failure: BaseException = exc
            except BaseException as exc:
                failure = exc  # an interrupt: how much was written, nobody knows
            else:
                self._last_write = time.monotonic()
                return
        if isinstance(failure, Exception):
            self._lose(failure)
            self._raise_lost()
        self._lose(ConnectionAbortedError(f"{type(failure).__name__} interrupted a write"))
        raise failure

    def _take_soon(self) -> bytes:
        """What was to be sent soon, under the lock; :meth:`answer` may add to it meanwhile."""
        count = len(self._soon)
        data = b"".join(self._soon[:count])
        del self._soon[:count]
        self._soon_size = 0
        return data

    def answer(self, data: bytes) -> None:
        """Send *data* soon, from the thread that reads, which waits for no other."""
        self._soon.append(data)
        self.flush_soon()

    def _wait_to_write(self) -> None:
        """Another thread writes: wait until it has, if this one has a deadline."""
        patience = within(None)
        if patience is not None and not pause(patience, lambda: not self._writing.locked()):
            raise OperationTimeout(
                f"the broker didn't take what another thread sends to {self._where} within "
                f"{spelled(patience)}"
            )

    def write_with_others(self, data: bytes, channel: Writer) -> None:
        """Send *data* when there is enough for a large write, or with the next one."""
        with self._writing:
            if self._lost is not None or not channel.is_open:
                self._refuse(channel)
            self._soon.append(data)
            self._soon_size += len(data)
        if self._soon_size >= LARGE_WRITE:
            self.flush()

    def write_soon(self, data: bytes, channel: Writer) -> None:
        """Send *data* with the next write, before the next read, or in about a millisecond.

        At once when nothing was written for that long: then nobody is in a hurry to follow.
        """
        if time.monotonic() - self._last_write > ACK_DELAY:
            self.write(data, channel)
            return
        with self._writing:
            if self._lost is not None or not channel.is_open:
                self._refuse(channel)
            self._soon.append(data)
        if not self._flush_is_due:
            self.flush_soon()

    def flush_soon(self, delay: float = ACK_DELAY) -> None:
        """Let the timer send what was to be sent soon."""
        if not self._flush_is_due:
            self._flush_is_due = True
            try:
                timer.call_in(delay, _weakly(self._flush_late))
            except BaseException:
                self._flush_is_due = False
                raise

    def _refuse(self, channel: Writer | None) -> None:
        """Say why nothing can be written."""
        self._raise_lost()
        if channel is not None:
            channel.check_open()

    def flush(self) -> None:
        """Send what was to be sent soon.

        :raises ConnectionLost: the connection is gone.
        """
        if self._soon:
            self.write(b"")

    def _flush_late(self) -> None:
        self._flush_is_due = False  # first: what is kept back from now on asks for its own
        self._write_if_room(b"")
        self._try_again()

    def _flush_if_room(self) -> None:
        """Send what was to be sent soon, as far as that goes without waiting."""
        if self._soon:
            if not self._writing.locked():
                with self._writing:
                    self._write_what_fits(b"")
            self._try_again()

    def _try_again(self) -> None:
        if self._soon and self._lost is None:
            self.flush_soon(NO_ROOM_DELAY)  # somebody else was writing, or there was no room

    def _start_heart(self) -> None:
        """Send signs of life from now on, if any were agreed."""
        if self._heartbeat:
            timer.call_in(self._heartbeat / 2, _weakly(self._beat))

    def _beat(self) -> None:
        """Called by the timer: send a heartbeat, if nothing else was sent lately."""
        if self._lost is not None:
            return
        interval = self._heartbeat / 2
        if time.monotonic() - self._last_write >= interval * 0.9:
            self._write_if_room(self.heartbeat_bytes)
        timer.call_in(interval, _weakly(self._beat))

    def _write_if_room(self, data: bytes) -> None:
        """Send what is kept back and *data* without waiting: the timer serves others too."""
        if self._writing.acquire(blocking=False):
            try:
                self._write_what_fits(data)
            finally:
                self._writing.release()

    def _write_what_fits(self, data: bytes) -> None:
        """The same, under the lock."""
        if self._lost is not None:
            return
        try:
            kept = self._take_soon() + data
            if rest := self._link.write_if_room(kept) if kept else b"":
                self._soon.insert(0, rest)
                self._soon_size = len(rest)
            self._last_write = time.monotonic()
        except (OSError, ValueError):
            pass  # the next one who reads or writes finds out
        except BaseException as exc:
            self._lose(ConnectionAbortedError(f"{type(exc).__name__} interrupted a write"))
            raise

    # -- closing

    def close(self, timeout: float | None = None) -> None:
        if self._lost is not None:
            return
        patience = self.operation_timeout if timeout is None else timeout
        deadline = None if patience is None else time.monotonic() + patience
        if self.is_silent or self.blocked is not None:
            # A broker doesn't read what a blocked connection sends, so it won't answer.
            patience, deadline = 0.0, time.monotonic()
        # A write that hangs is not waited for: hanging up ends it.
        if self._writing.acquire(timeout=-1 if patience is None else patience):
            try:
                with suppress(OSError):  # lost this very moment
                    self._link.hurry(patience)
            finally:
                self._writing.release()
            with suppress(CarrotError):
                self._say_goodbye(deadline)
        self._lose(ConnectionAbortedError("it was closed here"))

    def disown(self) -> None:
        self._renew_locks()
        self.is_open = False
        self._lost = ConnectionLost("the connection is the parent process's")
        self._close_channels()
        self._link.abandon()


def _never() -> bool:
    return False


def _weakly(method: Callable[[], object]) -> Callable[[], None]:
    """*method*, without keeping a forgotten connection alive."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (alive := reference()) is not None:
            alive()

    return call
