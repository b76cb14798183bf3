"""The memory driver: a client of the broker in this process.

There is one virtual host (a broker of its own) for each host, port and virtual host that somebody
has connected to, kept as long as the process lives.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import ClassVar, Self

from carrot import forks
from carrot.backends.base import BaseTransport, Capabilities
from carrot.backends.memory.channel import Channel
from carrot.backends.seam.backend import Backend as SeamBackend
from carrot.broker.connection import Connection
from carrot.broker.virtual_host import VirtualHost
from carrot.forks import Stage
from carrot.settings import ConnectionSettings, parse_url

_hosts: dict[tuple[str, int | None, str], VirtualHost] = {}
_hosts_lock = threading.Lock()


def _hold_all() -> None:
    """Before a fork: nobody is in the middle of something that the child would inherit."""
    _hosts_lock.acquire()
    for host in _hosts.values():
        host.lock.acquire()


def _let_all_go() -> None:
    for host in _hosts.values():
        host.lock.release()
    _hosts_lock.release()


forks.register(
    Stage.BROKERS, before=_hold_all, after_in_parent=_let_all_go, after_in_child=_let_all_go
)


def _name(settings: ConnectionSettings) -> tuple[str, int | None, str]:
    return settings.host, settings.port, settings.virtual_host


def _virtual_host(settings: ConnectionSettings) -> VirtualHost:
    """The broker of these settings, new if nobody has connected to it before."""
    name = _name(settings)
    with _hosts_lock:
        if name not in _hosts:
            _hosts[name] = VirtualHost(settings.virtual_host)
        return _hosts[name]


def reset(url: str = "memory://") -> None:
    """Empty the virtual host of connections to *url*: no queues, and the usual exchanges only.

    Connections to it stay open and go on; their consumers are cancelled. For tests, between two
    of them.
    """
    name = _name(ConnectionSettings(**parse_url(url)))
    with _hosts_lock:
        host = _hosts.get(name)
    if host is not None:
        host.reset()


class Transport(BaseTransport):
    """A connection to a virtual host."""

    default_port: ClassVar[int | None] = None
    # No property, which would cost 0.1 µs for each message that is sent, and that is received.
    is_open: bool = True

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.is_open = True
        self._connection = connection
        # One that is forgotten without close() gives back what it holds, as a socket would.
        weakref.finalize(self, connection.forget).atexit = False

    @classmethod
    def open(cls, settings: ConnectionSettings) -> Self:
        return cls(Connection(_virtual_host(settings), settings.userid))

    def channel(self) -> Channel:
        return Channel(self._connection)

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        self._connection.wait_for(ready, timeout)

    def interrupt(self) -> None:
        self._connection.wake()

    def close(self, timeout: float | None = None) -> None:
        self.is_open = False
        self._connection.close()

    def after_fork_in_child(self) -> None:
        """A child has a copy of the whole virtual host, which is its own."""


class Backend(SeamBackend):
    """A channel of a virtual host."""

    connector = Transport
    capabilities = Capabilities(thread_safe=True)
