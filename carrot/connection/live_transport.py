"""LiveTransport: the one transport of a BrokerConnection, and the turns of those that open it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from carrot.backends.base import BaseTransport
from carrot.deadline import Deadline, describe, remaining
from carrot.exceptions import ConnectionFailed, ConnectionLost, OperationTimeout
from carrot.forks import Stage, register

#: Opens a transport, until the deadline.
Open = Callable[[Deadline], BaseTransport]


class LiveTransport:
    """The last transport that was opened. One thread at a time opens another, under a lock.

    Those that wait for their turn meanwhile take what that thread gets: the transport, or the
    error. Reading needs no lock.

    :ivar transport: it may be lost; None before the first one, and after :meth:`close`.
    :ivar was_open: whether there has been one.
    :ivar is_closed: no other is opened, because :meth:`close` was called.
    """

    def __init__(self) -> None:
        self.transport: BaseTransport | None = None
        self.was_open = self.is_closed = False
        self.renew_lock()
        _of_this_process.add(self)
        # How often none could be opened, and the last reason.
        self._failures = 0
        self._failure: ConnectionFailed | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is alive, as far as is known without asking the broker."""
        transport = self.transport
        return transport is not None and transport.is_open

    def reopen(self, open: Open, hosts: str) -> BaseTransport:
        """The live transport, opened if there is none, within this thread's deadline.

        :param hosts: where that is, for the errors.
        :raises ConnectionFailed: it can't be made.
        :raises ConnectionLost: :meth:`close` was called.
        :raises OperationTimeout: another thread is trying, and hasn't got through in time.
        """
        left = remaining(None)
        deadline = Deadline.after(left)
        failures = self._failures
        opening = self._opening
        if not opening.acquire(timeout=-1 if left is None else left):
            raise OperationTimeout(
                f"no connection to {hosts} within {describe(left)}: another thread is still "
                "trying to make it"
            )
        try:
            self._check_may_open(hosts)
            if self.transport is None or not self.transport.is_open:
                if self._failures != failures and self._failure is not None:
                    # What another thread has tried meanwhile, need not be tried again for us.
                    raise type(self._failure)(str(self._failure)) from self._failure
                if self.transport is not None:
                    self.transport.close()  # it is lost; what it still holds is freed
                self.transport = self._opened(open, deadline, hosts)
                self.was_open = True
            return self.transport
        finally:
            opening.release()

    def renew_lock(self) -> None:
        """Make the lock, also in a forked child, whose parent's threads may hold the old one."""
        self._opening = threading.Lock()

    def _opened(self, open: Open, deadline: Deadline, hosts: str) -> BaseTransport:
        try:
            transport = open(deadline)
        except ConnectionFailed as exc:
            self._failures, self._failure = self._failures + 1, exc
            raise
        try:
            self._check_may_open(hosts)
        except ConnectionLost:
            transport.close()
            raise
        return transport

    def _check_may_open(self, hosts: str) -> None:
        if self.is_closed:
            raise ConnectionLost(
                f"the connection to {hosts} was closed here with close(): connect() opens a new one"
            )

    def close(self, timeout: float | None, most: float | None) -> None:
        """Close it, and let nobody open another.

        :param timeout: seconds to wait for the broker's goodbye; None: as the settings have it.
        :param most: seconds to wait for a thread that is opening one; None: as long as it takes.
        """
        # Whoever is connecting finds out, too.
        self.is_closed = True
        opening = self._opening
        has_turn = opening.acquire(timeout=-1 if most is None else most)
        try:
            transport, self.transport = self.transport, None
        finally:
            if has_turn:
                opening.release()
        if transport is not None:
            transport.close(timeout)


# All of them, with their locks, which a forked child inherits.
_of_this_process: weakref.WeakSet[LiveTransport] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for live in list(_of_this_process):
        live.renew_lock()


register(Stage.TRANSPORTS, after_in_child=_after_fork_in_child)
