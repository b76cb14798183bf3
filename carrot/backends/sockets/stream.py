"""StreamTransport: a socket that any number of threads share, without a reader thread.

A thread that waits for something reads for all of them: see :meth:`StreamTransport.wait_for`. A
driver of a protocol over TCP says how to log in and what to do with the bytes that come.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Protocol, Self

from carrot import remedies, signal_safe
from carrot.backends.sockets import socket as link_module
from carrot.backends.sockets.heart import Heart
from carrot.backends.sockets.shared_reader import SharedReader
from carrot.backends.sockets.socket import ByteStream, describe_progress
from carrot.backends.sockets.standstill import Standstill
from carrot.backends.sockets.writer import StreamWriter, Writer
from carrot.backends.transport import BaseTransport, refuse_eventlet
from carrot.deadline import (
    Deadline,
    bounded_by,
    describe,
    now,
    remaining,
    shorter,
    thread_deadline,
)
from carrot.exceptions import CarrotError, ConfigurationError, ConnectionLost, OperationTimeout
from carrot.settings import ConnectionSettings

__all__ = ["HEARTBEAT", "StreamTransport", "TransportView", "Writer"]

#: Seconds between signs of life, unless the settings say otherwise.
HEARTBEAT = 10
#: Seconds without a reading, after which sending a message that nobody confirms reads first.
UNREAD = 0.5


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
    def wait_for_answer(
        self,
        ready: Callable[[], object],
        patience: float | None = None,
        request: int | None = None,
    ) -> None: ...


class StreamTransport(BaseTransport):
    """A connection over TCP or TLS, and the turns of reading and writing.

    :cvar breaks_with: what ends the connection when reading raises it: the system's errors, and
        the driver's own for a peer that can't be understood, or has said that it hangs up.
    :cvar heartbeat_bytes: a sign of life.
    :ivar is_silent: an answer was due and has not come, nor anything since.

    Its parts: ``_turns`` (a SharedReader) says which thread reads, ``_writer`` guards what goes
    out, ``_heart`` beats. ``_numbers`` guards the channels and the end.
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
        self._last_look = now()
        self._writer = writer = StreamWriter(link, self, where)
        self._heart = Heart(writer, 0, self.heartbeat_bytes)
        self._renew_locks()
        # Bound here, which saves a call for each message.
        self.write = writer.write
        self.write_soon = writer.write_soon
        self.write_with_others = writer.write_with_others

    def _renew_locks(self) -> None:
        """Make the locks, also in a forked child, whose parent's threads may hold the old ones."""
        self._numbers = threading.Lock()
        self._turns = SharedReader(self._read_once, self._tell_blocked)
        self._telling = threading.Lock()
        self._writer.renew_lock()

    # -- what a driver says

    @abstractmethod
    def _shake_hands(self, settings: ConnectionSettings, deadline: float | None) -> None:
        """Log in.

        :param deadline: as :func:`carrot.deadline.now` counts; the thread's deadline is the same.
        """

    @abstractmethod
    def _feed(self, data: bytes) -> None:
        """Take in what has come, in pieces of any size, and hand it to whom it is for."""

    @abstractmethod
    def _close_channels(self) -> None:
        """The connection is gone: no channel is open any more."""

    @abstractmethod
    def _say_goodbye(self, deadline: float | None) -> None:
        """End the connection as the protocol has it, and wait for the broker's answer.

        :param deadline: as :func:`carrot.deadline.now` counts; the thread's deadline is the same.
        """

    def _refusal(self, request: int | None) -> CarrotError | None:
        """A new error for a thread over whose *request* the broker closed the connection.

        :param request: the driver's number of it; None: a message was published.
        :returns: None: the connection is not lost, or not over this request.
        """
        return None

    def _large(self) -> tuple[int, int] | None:
        """The largest content that is arriving: bytes so far, and in all; None: there is none.

        One that fits in a frame doesn't count: where small messages come, there may always be one.
        """
        return None

    @classmethod
    @abstractmethod
    def _connection_failed(
        cls, settings: ConnectionSettings, where: str, cause: Exception
    ) -> CarrotError:
        """Why connecting failed, and what to do about it."""

    # -- opening

    @classmethod
    def open(cls, settings: ConnectionSettings) -> Self:
        refuse_eventlet()
        where = cls._place(settings)
        deadline = Deadline.after(settings.connect_timeout)
        transport = None
        try:
            transport = cls(cls._dial(settings, deadline), settings, where)
            with bounded_by(deadline):
                transport._shake_hands(settings, deadline.at)
        except BaseException as exc:
            if transport is not None:
                transport.lose(ConnectionAbortedError("it could not be opened"))
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
    def _dial(cls, settings: ConnectionSettings, deadline: Deadline) -> ByteStream:
        """The link to the broker, over which the handshake goes.

        :raises OSError: it can't be made.
        """
        return link_module.connect(settings, cls._port(settings), deadline)

    # -- alive or not

    def lose(self, cause: Exception) -> None:
        """The connection is gone, for everybody; the first reason counts."""
        with self._numbers:
            if self._lost is not None:
                return
            # First: whatever comes between, it is never taken for open.
            self.is_open = False
            self._lost = remedies.connection_lost(self._where, cause)
            self._lost.__cause__ = cause
            self._writer.is_closed = True
            self._close_channels()
        # It wakes the reading thread, which then wakes the others.
        self._link.close()

    def raise_lost(self) -> None:
        """Say why the connection is gone, if it is."""
        if self._lost is not None:
            # A new object for each: a traceback belongs to one thread.
            raise ConnectionLost(str(self._lost)) from self._lost.__cause__

    def _raise_lost(self) -> None:  # the name that drivers use
        self.raise_lost()

    # -- reading

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        self._flush_before(ready)
        if not self._turns.wait_for(ready, timeout):
            raise OperationTimeout(f"nothing came from {self._where} within {describe(timeout)}")

    def _flush_before(self, ready: Callable[[], object]) -> None:
        # The thread that has the turn may have flushed before this was kept back.
        if self._writer.keeps_something and not ready():
            self._writer.flush_if_room()

    def wait_for_answer(
        self,
        ready: Callable[[], object],
        patience: float | None = None,
        request: int | None = None,
    ) -> None:
        """Wait for the broker's answer to something that this thread has written.

        What moves is not given up. The patience begins anew while the request is still going out
        (as far as the system tells), and while a content larger than a frame is arriving on the
        connection, which may be the answer, or in front of it. Heartbeats and the deliveries of
        small messages don't count: with them a request that is never answered would wait for ever.

        :param ready: as for :meth:`wait_for`; it is true as well when the channel is closed.
        :param patience: how long nothing may move, in seconds; None: for ever. The thread's
            deadline bounds the whole.
        :param request: the driver's number of the request (for AMQP: the method's index); None:
            messages were published.
        :raises BrokerRefused: the broker closed the connection over this request.
        :raises OperationTimeout: nothing moved for so long, or the thread's deadline is past.
        :raises ConnectionLost: the connection is gone.
        """
        self._flush_before(ready)
        begun = now()
        try:
            # What fits into the system's queue at once arrives soon; looking would cost more.
            if self._writer.is_draining or not self._turns.wait_for(ready, remaining(patience)):
                self._wait_while_moving(ready, patience, begun)
        except ConnectionLost:
            self._raise_refusal(request)
            raise
        if self._lost is not None:
            self._raise_refusal(request)

    def _wait_while_moving(
        self, ready: Callable[[], object], patience: float | None, begun: float
    ) -> None:
        """Wait on, as long as something moves, looking often enough to see it."""
        bound = thread_deadline()
        still = Standstill(self, begun, patience, self._writer.is_draining)
        while True:
            if bound.is_past or still.is_too_long:
                raise self._late(patience)
            if self._turns.wait_for(ready, remaining(still.interval)):
                return
            self._writer.is_draining = still.look()

    @property
    def last_read(self) -> float:
        """When something came last."""
        return self._heart.last_read

    def unsent(self) -> int:
        """Bytes that were written, and that the peer has not received yet, as far as is known."""
        return self._link.unsent()

    def arrived(self) -> int:
        """Bytes of a large content that is arriving; 0: there is none."""
        progress = self._large()
        return 0 if progress is None else progress[0]

    def _late(self, patience: float | None) -> OperationTimeout:
        """The error for an answer that didn't come in time."""
        if (progress := self._large()) is not None:
            came = describe_progress(*progress)
            return OperationTimeout(
                f"{came} came from {self._where}, then nothing for {describe(patience)}"
            )
        return OperationTimeout(f"nothing came from {self._where} within {describe(patience)}")

    def _raise_refusal(self, request: int | None) -> None:
        if (refusal := self._refusal(request)) is not None:
            raise refusal

    def look(self) -> None:
        """Take in what has arrived, if nobody has lately: the end of the connection, perhaps."""
        if now() - self._last_look > UNREAD:
            self._last_look = now()
            self._turns.wait_for(_never, 0)

    def _read_once(self, timeout: float | None) -> None:
        """Read what there is, waiting for it at most *timeout* seconds."""
        self.raise_lost()
        self._writer.flush_if_room()
        if self._heartbeat:
            timeout = shorter(timeout, self._heart.patience)
        try:
            if not self._link.wait(timeout):
                self._heart.check()
                return
        except (OSError, ValueError) as exc:
            self.lose(exc)
            self.raise_lost()
        self._take_in()

    def _take_in(self) -> None:
        """Read what has arrived, and pass it on."""
        try:
            data = self._link.read()
            if data is None:
                return
            if not data:
                raise ConnectionResetError("the broker hung up")
            self._heart.last_read = self._last_look = now()
            self.is_silent = False
            self._feed(data)
        except self.breaks_with as exc:
            self.lose(exc)
            self.raise_lost()
        except BaseException as exc:
            # An interrupt, in the middle of what can't be read again.
            self.lose(ConnectionAbortedError(f"{type(exc).__name__} interrupted a read"))
            raise

    def _tell_blocked(self) -> None:
        # In a thread of its own: the one that reads may be in the middle of a request. As the
        # interpreter ends there may be no such thread, and nobody to be told.
        if self._blocked_news:
            signal_safe.try_to_start(threading.Thread(target=self._tell_news, daemon=True))

    def _tell_news(self) -> None:
        with self._telling:
            while self._blocked_news:
                self.tell_blocked(self._blocked_news.popleft())

    def interrupt(self) -> None:
        self._link.wake()

    # -- writing

    def answer(self, data: bytes) -> None:
        """Send *data* soon, from the thread that reads, which waits for no other."""
        self._writer.answer(data)

    def flush(self) -> None:
        """Send what was kept back.

        :raises ConnectionLost: the connection is gone.
        """
        self._writer.flush()

    def flush_soon(self) -> None:
        """Let what was kept back be sent, without waiting for it."""
        self._writer.flush_soon()

    def _start_heart(self) -> None:
        """Send signs of life from now on, if any were agreed."""
        self._heart.interval = self._heartbeat
        self._heart.start()

    # -- closing

    def close(self, timeout: float | None = None) -> None:
        if self._lost is not None:
            return
        patience = self.operation_timeout if timeout is None else timeout
        if self.is_silent or self.blocked is not None:
            # A broker doesn't read what a blocked connection sends, so it won't answer.
            patience = 0.0
        deadline = Deadline.after(patience)
        self._link.set_write_timeout(patience)
        # A write that hangs is not waited for any longer: hanging up ends it.
        with suppress(CarrotError), bounded_by(deadline):
            self._say_goodbye(deadline.at)
        self.lose(ConnectionAbortedError("it was closed here"))

    def finish(self, timeout: float) -> None:
        if self._lost is not None:
            return
        if self._turns.is_taken:
            # A daemon thread waits here, and isn't disturbed while the interpreter ends.
            with bounded_by(Deadline.after(timeout)):
                self.flush()
            return
        # Only the broker's goodbye tells that it has seen all that came before: of a connection
        # that just ends, RabbitMQ drops what its channels have not looked at yet.
        self.close(timeout)

    def after_fork_in_child(self) -> None:
        self._renew_locks()
        self.is_open = False
        self._lost = ConnectionLost("the connection is the parent process's")
        self._close_channels()
        self._link.abandon()


def _never() -> bool:
    return False
