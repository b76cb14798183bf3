"""BaseTransport: one live connection to a broker, and the Connector that opens it."""

from __future__ import annotations

import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol

from carrot import exits
from carrot.exceptions import ConfigurationError
from carrot.forks import Stage, register
from carrot.settings import ConnectionSettings


class Dispatchable(Protocol):
    """What a transport needs of the backends that use it."""

    @property
    def is_ready(self) -> bool: ...

    def dispatch(self) -> None: ...


def counts_returns(version: object) -> bool:
    """Whether a RabbitMQ of that version counts basic.nack as a failed delivery: before 4.3.

    https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    numbers = [int(part) for part in str(version).split(".")[:2] if part.isdigit()]
    return len(numbers) == 2 and numbers < [4, 3]


class BaseTransport(ABC):
    """One live connection to a broker. It never comes back: when it is lost, a new one is opened.

    With a class method ``open`` the class is its own :class:`Connector`, whose other members are
    here for it, for a broker without ports.
    """

    default_port: ClassVar[int | None] = None
    default_tls_port: ClassVar[int | None] = None
    has_curve: ClassVar[bool] = False

    def __init__(self) -> None:
        # In the order of their turns; the lock guards it.
        self._backends: list[weakref.ref[Dispatchable]] = []
        self._backends_lock = threading.Lock()
        #: Whether a message that goes back unseen counts as a failed delivery on a quorum queue.
        self.counts_returns = False
        #: Seconds in which both ends must give a sign of life, as agreed; 0: none.
        self.heartbeat = 0.0
        #: Why the broker takes no messages at present; None: it does.
        self.blocked: str | None = None
        self._blocked_watcher: weakref.WeakMethod[Callable[[str | None], object]] | None = None
        # Channels of backends that were forgotten without close().
        self._abandoned: deque[Any] = deque()
        _of_this_process.add(self)
        exits.watch(self)

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the connection is there, as far as is known without asking the broker."""

    @abstractmethod
    def channel(self) -> Any:
        """A new channel of the driver's own kind, open."""

    @abstractmethod
    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        """Take in what the broker sends until ``ready()`` is true; deliveries go to the inboxes.

        :param ready: asked again after everything that comes in, and after :meth:`interrupt`;
            it is quick and touches no broker.
        :param timeout: seconds; None waits as long as it takes, 0 takes what is there already.
        :raises OperationTimeout: not ready in time.
        :raises ConnectionLost: the connection is gone.
        """

    def wait_for_answer(
        self,
        ready: Callable[[], object],
        patience: float | None = None,
        request: int | None = None,
    ) -> None:
        """Wait for the broker's answer, where the driver can tell as long as something moves.

        :param patience: how long nothing may move, in seconds; None: for ever.
        :param request: the driver's number of the request; None: messages were published.
        :raises BrokerRefused: the broker closed the connection over this request.
        :raises OperationTimeout: no answer in time.
        :raises ConnectionLost: the connection is gone.
        """
        self.wait_for(ready, patience)

    @abstractmethod
    def interrupt(self) -> None:
        """Make threads in :meth:`wait_for` ask ``ready()`` again. Safe in a signal handler."""

    @abstractmethod
    def close(self, timeout: float | None = None) -> None:
        """Say goodbye and free everything. Always finishes; again is harmless.

        :param timeout: seconds to wait for the broker's own goodbye; None: as the settings have it.
        """

    def watch(self, blocked: Callable[[str | None], object]) -> None:
        """Call the method *blocked* with the broker's reason, or with None when that is over."""
        self._blocked_watcher = weakref.WeakMethod(blocked)

    def tell_blocked(self, reason: str | None) -> None:
        """The driver says: the broker takes no messages, for that reason; None: it does again.

        Called where no lock is held and nobody is reading.
        """
        if self._blocked_watcher is not None and (watcher := self._blocked_watcher()) is not None:
            watcher(reason)

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for one delivery on any channel, and run its callback.

        :param timeout: seconds; None waits as long as it takes.
        :raises OperationTimeout: nothing came; it is a ``socket.timeout``.
        :raises ConnectionLost: the connection is gone.
        """
        self.wait_for(self._next_ready, timeout)
        if (backend := self._next_ready()) is not None:
            self.attach(backend)  # so that a busy one doesn't starve the others
            backend.dispatch()

    def _next_ready(self) -> Dispatchable | None:
        """The first backend in line that has something to do."""
        return next((backend for backend in self.backends if backend.is_ready), None)

    @property
    def backends(self) -> list[Dispatchable]:
        """The backends that have a channel here, in the order of their turns."""
        with self._backends_lock:
            return [backend for reference in self._backends if (backend := reference())]

    def attach(self, backend: Dispatchable) -> None:
        """*backend* uses this transport from now on; its turn comes last."""
        with self._backends_lock:
            self._backends = [*self._others(backend), weakref.ref(backend)]

    def detach(self, backend: Dispatchable) -> None:
        """*backend* uses it no longer; others that are gone are forgotten too."""
        with self._backends_lock:
            self._backends = self._others(backend)

    def _others(self, backend: Dispatchable) -> list[weakref.ref[Dispatchable]]:
        return [
            reference
            for reference in self._backends
            if (other := reference()) is not None and other is not backend
        ]

    def finish(self, timeout: float) -> None:
        """The interpreter ends: send what is held back, and make sure that the broker gets it.

        Called by :mod:`carrot.exits` on each transport that is still there.

        :param timeout: seconds, at most.
        """
        if self.is_open:
            self.close(timeout)

    def after_fork_in_child(self) -> None:  # noqa: B027
        """In a forked child: the connection is the parent's, so it is not open here.

        It frees what it holds without a word to the broker, which would take it for the parent's.
        """

    def abandon(self, channel: Any) -> None:
        """Nobody has this channel any more: it is noted, for this runs in garbage collections."""
        self._abandoned.append(channel)

    def take_abandoned(self) -> Iterator[Any]:
        """The channels that nobody has any more, for the next backend to close."""
        while self._abandoned:
            yield self._abandoned.popleft()


class Connector(Protocol):
    """Opens connections for a driver: an object of its own, or a transport class."""

    @property
    def default_port(self) -> int | None:
        """The port when the settings name none; None where there are no ports."""

    @property
    def default_tls_port(self) -> int | None:
        """The same with TLS."""

    @property
    def has_curve(self) -> bool:
        """Whether it encrypts with CURVE keys."""

    def open(self, settings: ConnectionSettings) -> BaseTransport:
        """Connect and log in, within ``settings.connect_timeout`` seconds.

        :raises ConnectionFailed: with host, port, virtual host, user and cause.
        :raises AccessRefused: a wrong user or password.
        """


def refuse_eventlet() -> None:
    """Refuse to work where eventlet has replaced the sockets.

    :raises ConfigurationError: it has.
    """
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("socket"):
        raise ConfigurationError(
            "eventlet has patched the socket module, and carrot doesn't work with eventlet, which "
            "its authors have retired: use gevent, or threads"
        )


# All open transports, which a forked child inherits and must not touch.
_of_this_process: weakref.WeakSet[BaseTransport] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for transport in list(_of_this_process):
        transport._backends_lock = threading.Lock()  # a thread of the parent's may hold it
        transport.after_fork_in_child()
    _of_this_process.clear()


register(Stage.TRANSPORTS, after_in_child=_after_fork_in_child)
