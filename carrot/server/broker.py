"""Broker: the in-process broker, served over ZeroMQ by a thread of this program."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

import zmq

from carrot import signal_safe
from carrot.exceptions import ConfigurationError
from carrot.server.journal import Journal
from carrot.server.listener import Listener
from carrot.server.protocol import DEFAULT_ADDRESS
from carrot.server.server import Server
from carrot.server.store import Store


def _check_secret(key: bytes) -> None:
    """Check a CURVE key; the error never shows it."""
    try:
        zmq.curve_public(key)
    except (zmq.ZMQError, ValueError):
        raise ConfigurationError(
            "curve_secret_key is no CURVE key: a key is 40 characters, as zmq.curve_keypair() "
            "makes them"
        ) from None


class Broker:
    """A message broker that serves from :meth:`start` to :meth:`stop`, or inside ``with``.

    :param bind: ZeroMQ's addresses. The default, ``tcp://127.0.0.1:5555``, is reached from this
        machine only; the port ``*`` is a free one; ``ipc:///run/carrot.sock`` is a Unix socket.
    :param store: the file that keeps durable queues and persistent messages over a restart; None
        keeps nothing.
    :param curve_secret_key: encrypt, and refuse clients that don't know the public key that
        belongs to this secret one.
    :param curve_clients: the public keys of the clients that may connect; None lets in all that
        know the broker's public key.
    """

    def __init__(
        self,
        bind: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        store: str | Path | None = None,
        curve_secret_key: str | None = None,
        curve_clients: Collection[str] | None = None,
    ) -> None:
        # A broker's own URL is an address, too.
        addresses = [bind] if isinstance(bind, str) else bind
        self._bind = [address.removeprefix("zeromq+") for address in addresses]
        self._store = store
        self._secret_key = None if curve_secret_key is None else curve_secret_key.encode()
        self._clients = None if curve_clients is None else [key.encode() for key in curve_clients]
        if self._secret_key is not None:
            _check_secret(self._secret_key)
        elif self._clients is not None:
            raise ConfigurationError("curve_clients needs curve_secret_key, the broker's own")
        self._journal = Journal()
        self._listener: Listener | None = None
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        state = "stopped" if self._server is None else f"at {', '.join(self.urls)}"
        return f"<{type(self).__module__}.{type(self).__name__} {state}>"

    @property
    def url(self) -> str:
        """The URL for a BrokerConnection to the first address."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """The URLs of all addresses."""
        assert self._listener is not None, "not started"
        return [f"zeromq+{address}" for address in self._listener.addresses]

    def open(self) -> None:
        """Bind, and read the store; :meth:`serve` has to follow.

        :raises ConnectionFailed: an address can't be bound.
        :raises StoreError: the store can't be used.
        """
        store = None if self._store is None else Store(Path(self._store))
        self._journal = store or Journal()
        try:
            virtual_hosts = store.virtual_hosts() if store else []
            self._listener = Listener(self._bind, self._secret_key, self._clients)
            self._server = Server(self._listener, self._journal, virtual_hosts)
        except BaseException:
            self._journal.close()
            raise

    def serve(self) -> None:
        """Serve in this thread, after :meth:`open`, until :meth:`stop`."""
        assert self._server is not None, "not opened"
        try:
            self._server.run()
        finally:
            self._journal.close()

    def start(self) -> Self:
        """Serve in a thread of its own."""
        self.open()
        self._thread = threading.Thread(target=self.serve, name="carrot-broker", daemon=True)
        signal_safe.start(self._thread)
        return self

    def stop(self) -> None:
        """Say goodbye to the clients and end. Again is harmless; safe in a signal handler."""
        if self._server is not None:
            self._server.stop()

    def stop_at(self, *signals: signal.Signals) -> None:
        """Let these signals stop it, in a program that only serves it; in the main thread.

        A signal that comes just before the wait for clients begins would not end that by itself:
        Python calls the handler only afterwards (https://docs.python.org/3/library/signal.html).
        """
        assert self._listener is not None, "not opened"
        signal.set_wakeup_fd(self._listener.fileno(), warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda number, frame: self.stop())

    def close(self) -> None:
        """Stop, and wait until everything is written and freed."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()
