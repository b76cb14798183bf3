"""Stream: a connection that any number of threads share, without a reader thread.

A thread that waits for something reads for all of them: see :meth:`Stream.wait_for`. What the bytes
mean, a driver's :class:`~carrot.backends.sockets.session.StreamSession` knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from carrot import remedies
from carrot.backends.sockets.heart import Heart
from carrot.backends.sockets.news import News
from carrot.backends.sockets.session import StreamSession, StreamView
from carrot.backends.sockets.shared_reader import SharedReader
from carrot.backends.sockets.socket import ByteStream, describe_progress
from carrot.backends.sockets.standstill import Standstill
from carrot.backends.sockets.writer import StreamWriter
from carrot.deadline import (
    Deadline,
    bounded_by,
    describe,
    now,
    remaining,
    shorter,
    thread_deadline,
)
from carrot.exceptions import CarrotError, ConnectionLost, OperationTimeout

#: Seconds without a reading, after which sending a message that nobody confirms reads first.
UNREAD = 0.5


class Owner(Protocol):
    """What the layers above look at: the transport, whose state the stream keeps true."""

    is_open: bool
    blocked: str | None

    def tell_blocked(self, reason: str | None) -> None: ...


class Stream:
    """A connection over a byte stream: the turns of reading and writing, signs of life, the end.

    Its parts: ``_turns`` (a SharedReader) says which thread reads, ``_writer`` guards what goes
    out, ``_heart`` beats, ``_news`` tells the program. ``_ending`` guards the end.

    :param timeout: seconds that a request may take, and a write stand still; None: for ever.
    :param where: host, port and virtual host, for errors.
    :param start_session: makes the session, which uses this stream.
    :ivar is_silent: an answer was due and has not come, nor anything since.
    """

    def __init__(
        self,
        link: ByteStream,
        timeout: float | None,
        where: str,
        owner: Owner,
        start_session: Callable[[StreamView], StreamSession],
    ) -> None:
        self.operation_timeout = timeout
        self.where = where
        self.is_silent = False
        self._link = link
        self._owner = owner
        self._lost: ConnectionLost | None = None
        self._last_look = now()
        self._news = News()
        self._writer = writer = StreamWriter(link, self, where)
        # Bound here, which saves a call for each message.
        self.write = writer.write
        self.write_soon = writer.write_soon
        self.write_with_others = writer.write_with_others
        self.session = session = start_session(self)
        self._heart = Heart(writer, 0, session.heartbeat_bytes)
        self._make_turns()

    def _make_turns(self) -> None:
        """Make the locks, also in a forked child, whose parent's threads may hold the old ones."""
        self._ending = threading.Lock()
        self._turns = SharedReader(self._read_once, self._news.tell_all)

    # -- alive or not

    def lose(self, cause: Exception) -> None:
        """The connection is gone, for everybody; the first reason counts."""
        with self._ending:
            if self._lost is not None:
                return
            # First: whatever comes between, it is never taken for open.
            self._owner.is_open = False
            self._lost = remedies.connection_lost(self.where, cause)
            self._lost.__cause__ = cause
            self._writer.is_closed = True
            self.session.close_channels()
        # It wakes the reading thread, which then wakes the others.
        self._link.close()
        # A reading that fails is the last one, and tells nothing.
        self._news.tell_all()

    def raise_lost(self) -> None:
        """Say why the connection is gone, if it is."""
        if self._lost is not None:
            # A new object for each: a traceback belongs to one thread.
            raise ConnectionLost(str(self._lost)) from self._lost.__cause__

    # -- reading

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        """As of :class:`~carrot.backends.base.BaseTransport`."""
        self._flush_before(ready)
        if not self._turns.wait_for(ready, timeout):
            raise OperationTimeout(f"nothing came from {self.where} within {describe(timeout)}")

    def _flush_before(self, ready: Callable[[], object]) -> None:
        # The thread that has the turn may have flushed before this was kept back.
        if self._writer.kept and not ready():
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
        try:
            # What fits into the system's queue at once arrives soon; looking would cost more.
            waited = 0.0 if self._writer.is_draining else remaining(patience)
            if self._writer.is_draining or not self._turns.wait_for(ready, waited):
                self._wait_while_moving(ready, patience, now() - (waited or 0.0))
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
        progress = self.session.large()
        return 0 if progress is None else progress[0]

    def _late(self, patience: float | None) -> OperationTimeout:
        """The error for an answer that didn't come in time."""
        if (progress := self.session.large()) is not None:
            came = describe_progress(*progress)
            return OperationTimeout(
                f"{came} came from {self.where}, then nothing for {describe(patience)}"
            )
        return OperationTimeout(f"nothing came from {self.where} within {describe(patience)}")

    def _raise_refusal(self, request: int | None) -> None:
        if self._lost is not None:
            refusal = self.session.refusal(self._lost.__cause__, request)
            if refusal is not None:
                raise refusal

    def look(self) -> None:
        """Take in what has arrived, if nobody has lately: the end of the connection, perhaps."""
        if now() - self._last_look > UNREAD:
            self._last_look = now()
            self._turns.wait_for(_never, 0)

    def _read_once(self, timeout: float | None) -> None:
        """Read what there is, waiting for it at most *timeout* seconds."""
        self.raise_lost()
        if self._writer.kept:
            self._writer.flush_if_room()
        heart = self._heart
        if heart.interval:
            timeout = shorter(timeout, heart.patience)
        try:
            if not self._link.wait(timeout):
                heart.check()
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
            self.session.feed(data)
        except self.session.breaks_with as exc:
            self.lose(exc)
            self.raise_lost()
        except BaseException as exc:
            # An interrupt, in the middle of what can't be read again.
            self.lose(ConnectionAbortedError(f"{type(exc).__name__} interrupted a read"))
            raise

    def interrupt(self) -> None:
        """Make threads in :meth:`wait_for` ask ``ready()`` again. Safe in a signal handler."""
        self._link.wake()

    # -- what the program is told

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages at present; None: it does."""
        return self._owner.blocked

    def block(self, reason: str | None) -> None:
        """The broker takes no messages, for that reason; None: it does again."""
        self._owner.blocked = reason
        self._news.add(partial(self._owner.tell_blocked, reason))

    def tell_soon(self, tell: Callable[[], object]) -> None:
        """Call *tell* in another thread, which holds no lock, when nobody is reading any more."""
        self._news.add(tell)
        if not self._turns.is_taken:
            self._news.tell_all()

    # -- writing

    def write_if_room(self, data: bytes) -> None:
        """Send *data*, as far as that goes without waiting for room, or for another thread."""
        self._writer.write_if_room(data)

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

    @property
    def heartbeat(self) -> float:
        """Seconds in which each end gives a sign of life, as agreed; 0: none."""
        return self._heart.interval

    def start_heart(self, interval: float) -> None:
        """Send signs of life from now on.

        :param interval: seconds in which this end, and the broker, must give one; 0: none.
        """
        self._heart.interval = interval
        self._heart.start()

    # -- closing

    def close(self, timeout: float | None = None) -> None:
        """Say goodbye and hang up, within *timeout* seconds; None: the operation timeout."""
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
            self.session.say_goodbye(deadline)
        self.lose(ConnectionAbortedError("it was closed here"))

    def finish(self, timeout: float) -> None:
        """The interpreter ends: see that the broker gets what is kept back."""
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
        """The connection is the parent's: it is not open here, and not a word is sent."""
        self._make_turns()
        self._news.renew_locks()
        self._writer.renew_locks()
        self.session.renew_locks()
        self._owner.is_open = False
        self._lost = ConnectionLost("the connection is the parent process's")
        self.session.close_channels()
        self._link.abandon()


def _never() -> bool:
    return False
