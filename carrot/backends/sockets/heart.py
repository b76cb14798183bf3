"""Heart: the signs of life that both ends of a connection give each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from carrot.backends.sockets.timer import timer
from carrot.backends.sockets.writer import weakly
from carrot.deadline import Deadline, now


class Beating(Protocol):
    """What is needed of the connection's writer."""

    is_closed: bool
    last_write: float

    def write_if_room(self, data: bytes) -> None: ...


class Heart:
    """Sends a sign of life twice in each interval, and notices when the broker sends none.

    :param interval: seconds in which each end must give a sign of life; 0: never.
    :param data: a sign of life.
    :ivar last_read: when something came last; whoever reads sets it.
    """

    def __init__(self, writer: Beating, interval: float, data: bytes) -> None:
        self.interval = interval
        self.last_read = now()
        self._writer = writer
        self._data = data
        #: When to send the next one, where the timer can't; None: it does.
        self._next_beat: Deadline | None = None

    def start(self) -> None:
        """Send signs of life from now on."""
        if self.interval:
            self._beat_later()

    def _beat_later(self) -> None:
        half = self.interval / 2
        self._next_beat = None if _call_in(half, self._beat) else Deadline.after(half)

    def _beat(self) -> None:
        """Send a sign of life, unless something else was sent lately."""
        if self._writer.is_closed:
            return
        if now() - self._writer.last_write >= self.interval / 2 * 0.9:
            self._writer.write_if_room(self._data)
        self._beat_later()

    @property
    def patience(self) -> float:
        """How long to wait for something to read, in seconds, before :meth:`check`."""
        left = max(0.0, self.last_read + 2 * self.interval - now())
        if self._next_beat is None:
            return left
        # As the interpreter ends there is no timer any more: whoever reads beats.
        if self._next_beat.is_past:
            self._beat()
        return left if self._next_beat is None else min(left, self._next_beat.left or 0.0)

    def check(self) -> None:
        """A broker that sends nothing for two intervals is gone (AMQP 0-9-1, section 4.2.7).

        :raises ConnectionResetError: it is.
        """
        silent = now() - self.last_read
        if self.interval and silent >= 2 * self.interval:
            raise ConnectionResetError(f"the broker has been silent for {silent:.1f} seconds")


def _call_in(seconds: float, method: Callable[[], object]) -> bool:
    return timer.call_in(seconds, weakly(method))
