"""StreamWriter: what goes out on a connection, from any number of threads, whole and in turns."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from carrot import exits
from carrot.backends.sockets.socket import ByteStream
from carrot.backends.sockets.timer import timer
from carrot.deadline import describe, now, remaining, shorter, thread_deadline
from carrot.exceptions import OperationTimeout

#: How late an ack may be, in seconds, so that it can share a write with others: 2.5 to 4.5 µs
#: saved for each message, of some 10 for consuming it.
ACK_DELAY = 0.001
#: How long to wait, in seconds, until another thread has written, or there is room.
NO_ROOM_DELAY = 0.01
#: How often a thread that waits for its turn to write looks again, in seconds: the writing thread
#: may have been ended by a signal handler's exception, without a word to the others.
TURN_LOOK = 1.0
#: How much is kept back, in bytes, while many messages are sent together: 9 µs (of 23) saved for
#: each small one, in confirm mode.
LARGE_WRITE = 64 * 1024


class Writer(Protocol):
    """What is needed of a channel that writes."""

    is_open: bool

    def check_open(self) -> None: ...


class Losable(Protocol):
    """What is needed of the connection."""

    def lose(self, cause: Exception) -> None: ...
    def raise_lost(self) -> None: ...


class StreamWriter:
    """Sends frames whole, one after the other, and keeps back what may wait for others.

    A lock guards what is kept back, and whose turn it is to write. It is never held over a wait: a
    write that doesn't go out at once keeps its turn instead, and other threads wait for that within
    their deadlines.

    :param where: host, port and virtual host, for errors.
    :ivar is_closed: nothing is written any more; the connection sets it.
    :ivar is_writing_on: a thread is in the middle of a write, and waits for room.
    :ivar kept: what is kept back, in order; others only look whether there is anything.
    :ivar last_write: when something was written last.
    :ivar is_draining: the last large write may still be on its way.
    """

    def __init__(self, link: ByteStream, connection: Losable, where: str) -> None:
        self._link = link
        self._connection = connection
        self._where = where
        self.is_closed = False
        self.kept: list[bytes] = []
        self._kept_size = 0
        self._flush_is_due = False
        self.last_write = now()
        self.is_draining = False
        self.renew_locks()

    def renew_locks(self) -> None:
        """Make the lock, also in a forked child, whose parent's threads may hold the old one."""
        self._lock = threading.Lock()
        self._turn_is_over = threading.Condition(self._lock)
        self.is_writing_on = False

    # -- at once

    def write(self, data: bytes, channel: Writer | None = None) -> None:
        """Send *data*, and before it what was kept back.

        It takes as long as something moves, but not past the thread's deadline.

        :param channel: the one it is for, which must be open.
        :raises ConnectionLost: the connection is gone.
        :raises OperationTimeout: another thread's write took too long; nothing was sent.
        """
        has_begun = False
        try:
            # An acquire() of our own could be interrupted before its release() is certain.
            with self._lock:
                if self.is_writing_on:
                    self._wait_for_turn()
                if self.is_closed or (channel is not None and not channel.is_open):
                    self._refuse(channel)
                has_begun = True
                if self.kept:
                    data = self._take_kept() + data
                sent = self._link.send(data)
                if sent == len(data):
                    self.last_write = now()
                    return
                self.is_writing_on = True
            self._write_on(data, sent)
        except BaseException as exc:
            if has_begun:
                self._give_up(exc)
            raise

    def _write_on(self, data: bytes, sent: int) -> None:
        """Send what the peer is slow to take; this thread has the turn to write."""
        self._link.write(data, sent)
        self.last_write = now()
        self.is_draining = True
        self._end_turn()

    def _end_turn(self) -> None:
        with self._lock:
            self.is_writing_on = False
            self._turn_is_over.notify_all()

    def _give_up(self, failure: BaseException) -> None:
        """The connection ends with a write that failed: how much was written, nobody knows.

        :raises ConnectionLost: instead of the *failure*, unless that is an interrupt.
        """
        if isinstance(failure, (OSError, ValueError)):
            self._connection.lose(failure)
            self._end_turn()
            self._connection.raise_lost()
        self._connection.lose(_interrupted(failure))
        self._end_turn()

    def _wait_for_turn(self) -> None:
        """Wait, under the lock, until another thread's write is over, or the connection."""
        patience, bound = remaining(None), thread_deadline()
        while self.is_writing_on and not self.is_closed:
            if bound.is_past:
                raise OperationTimeout(
                    f"the broker didn't take what another thread sends to {self._where} within "
                    f"{describe(patience)}"
                )
            self._turn_is_over.wait(shorter(bound.left, TURN_LOOK))

    def _refuse(self, channel: Writer | None) -> None:
        """Say why nothing can be written."""
        self._connection.raise_lost()
        if channel is not None:
            channel.check_open()

    # -- kept back

    def _take_kept(self) -> bytes:
        """What was kept back, under the lock; :meth:`answer` may add to it meanwhile."""
        count = len(self.kept)
        data = b"".join(self.kept[:count])
        del self.kept[:count]
        self._kept_size = 0
        return data

    def answer(self, data: bytes) -> None:
        """Send *data* soon, from the thread that reads, which waits for no other."""
        self.kept.append(data)
        self.flush_soon()

    def write_with_others(self, data: bytes, channel: Writer) -> None:
        """Send *data* when there is enough for a large write, or with the next one."""
        with self._lock:
            if self.is_closed or not channel.is_open:
                self._refuse(channel)
            self.kept.append(data)
            self._kept_size += len(data)
        if self._kept_size >= LARGE_WRITE:
            self.flush()

    def write_soon(self, data: bytes, channel: Writer) -> None:
        """Send *data* with the next write, before the next read, or in about a millisecond.

        At once when nothing was written for that long: then no other write is likely to follow.
        """
        if now() - self.last_write > ACK_DELAY:
            self.write(data, channel)
            return
        with self._lock:
            if self.is_closed or not channel.is_open:
                self._refuse(channel)
            self.kept.append(data)
        if not self._flush_is_due:
            self.flush_soon()

    def flush(self) -> None:
        """Send what was kept back.

        :raises ConnectionLost: the connection is gone.
        """
        if self.kept:
            self.write(b"")

    def flush_soon(self, delay: float = ACK_DELAY) -> None:
        """Let the timer send what was kept back; as the interpreter ends, send it now."""
        if self._flush_is_due:
            return
        self._flush_is_due = True
        try:
            if not exits.has_run and timer.call_in(delay, self._late_flush(delay)):
                return
        except BaseException:
            self._flush_is_due = False
            raise
        self._flush_is_due = False
        self.flush()

    def _late_flush(self, delay: float) -> Callable[[], object]:
        # The first time it keeps a forgotten connection alive: what was handed over goes out.
        return self._flush_late if delay == ACK_DELAY else weakly(self._flush_late)

    def _flush_late(self) -> None:
        self._flush_is_due = False  # first: what is kept back from now on asks for its own
        self.write_if_room(b"")
        self._try_again()

    def flush_if_room(self) -> None:
        """Send what was kept back, as far as that goes without waiting."""
        if not self._lock.locked():
            with self._lock:
                self._write_what_fits(b"")
        self._try_again()

    def _try_again(self) -> None:
        if self.kept and not self.is_closed:
            self.flush_soon(NO_ROOM_DELAY)  # another thread was writing, or there was no room

    def write_if_room(self, data: bytes) -> None:
        """Send what is kept back and *data* without waiting: the timer serves others too."""
        if self._lock.acquire(blocking=False):
            try:
                self._write_what_fits(data)
            finally:
                self._lock.release()

    def _write_what_fits(self, data: bytes) -> None:
        """The same, under the lock."""
        if self.is_closed or self.is_writing_on:
            return
        try:
            data = self._take_kept() + data
            if data and (rest := self._link.write_if_room(data)):
                self.kept.insert(0, rest)
                self._kept_size = len(rest)
            self.last_write = now()
        except (OSError, ValueError):
            pass  # the next thread that reads or writes finds out
        except BaseException as exc:
            self._connection.lose(_interrupted(exc))
            raise


def _interrupted(failure: BaseException) -> ConnectionAbortedError:
    return ConnectionAbortedError(f"{type(failure).__name__} interrupted a write")


def weakly(method: Callable[[], object]) -> Callable[[], None]:
    """*method*, without keeping a forgotten connection alive."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (alive := reference()) is not None:
            alive()

    return call
