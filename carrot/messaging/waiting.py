"""Waiting: the loop that Consumer and ConsumerSet run."""

from __future__ import annotations

from carrot.backends.seam.backend import Backend
from carrot.messaging.members import Members


class Waiting:
    """Consumes until it is told to stop, and goes on over a new connection when one is lost."""

    backend: Backend
    _members: Members

    def wait(self, limit: int | None = None, timeout: float | None = None) -> None:
        """Process messages as they arrive, until :meth:`stop`, or until *limit* are processed.

        No more than *limit* messages are taken from the queue, where the subscription is its own.
        On return the subscription that it made is ended, and what the broker had sent ahead is
        back in the queue; where several threads wait, when the last of them returns. With
        ``auto_delete`` the subscription stays until :meth:`cancel` or :meth:`close`, because the
        queue goes with its last one.

        When the connection is lost, it is made again, and everything declared and subscribed.

        :param timeout: seconds for all of it; None waits as long as it takes.
        :raises OperationTimeout: not all were processed in time.
        :raises Exception: what a callback raises; the message stays as the callback left it.
        :raises DecodeError: a body that can't be decoded, without ``on_decode_error``.
        :raises BrokerRefused: or ChannelError: the broker refuses the subscription; not repeated.
        :raises ConnectionLost: or ConnectionFailed: the connection is gone, and the attempts of
            ``retry`` are used up, or the connection has ``reconnect=False``.
        """
        self._members.wait(limit, timeout)

    def stop(self) -> None:
        """End :meth:`wait` and :meth:`iterconsume` when the message in hand is processed.

        From a callback, a signal handler or another thread. It ends those of all threads; called
        while none is running, it ends the next one at once.
        """
        self.backend.stop()
