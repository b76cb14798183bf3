"""Listener: the broker's bound ROUTER socket, and the news of clients that are gone.

One thread uses it, but for :meth:`Listener.wake`.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import cast

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from carrot.exceptions import ConnectionFailed
from carrot.server.protocol import (
    EVENTS,
    HANG_UP,
    HIGH_WATER_MARK,
    NOBLOCK,
    PIECE,
    POLLIN,
    RCVMORE,
    SNDMORE,
    notice_dead_peers,
)

#: Milliseconds that the goodbyes may take.
LINGER = 1000


class _KnownClients:
    """Lets in the clients with these public keys, for ZeroMQ's authenticator."""

    def __init__(self, keys: Collection[bytes]) -> None:
        self._keys = frozenset(keys)

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self._keys


class Listener:
    """A bound socket.

    :param bind: ZeroMQ's addresses, ``tcp://127.0.0.1:5555``; the port ``*`` is a free one.
    :param secret_key: CURVE: refuse clients without the public key that belongs to this one.
    :param known_clients: refuse clients with other public keys than these, too.
    :raises ConnectionFailed: an address can't be bound.
    :ivar addresses: those that it is bound to.
    """

    def __init__(
        self,
        bind: Sequence[str],
        secret_key: bytes | None = None,
        known_clients: Collection[bytes] | None = None,
    ) -> None:
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._context = zmq.Context()
        self._authenticator: ThreadAuthenticator | None = None
        self._router = self._context.socket(zmq.ROUTER)
        self._monitor = self._context.socket(zmq.PAIR)
        try:
            self._configure(secret_key, known_clients)
            self.addresses = [self._bind(address) for address in bind]
        except BaseException:
            self.close()
            raise
        # Polled by hand, because this is a part of each round trip: pyzmq's Poller is slower.
        self._events = cast(Callable[[int], int], self._router.get)
        self._router_fd, self._monitor_fd = int(self._router.fd), int(self._monitor.fd)
        self._poll = select.poll()
        for fd in (self._router_fd, self._monitor_fd, self._woken.fileno()):
            self._poll.register(fd, select.POLLIN)

    def _configure(self, secret_key: bytes | None, known_clients: Collection[bytes] | None) -> None:
        router = self._router
        router.linger = LINGER
        router.router_mandatory = True  # sending to a client that is gone is an error
        router.sndhwm = router.rcvhwm = HIGH_WATER_MARK
        router.maxmsgsize = PIECE
        notice_dead_peers(router)
        if secret_key is not None:
            router.curve_server = True
            router.curve_secretkey = secret_key
            if known_clients is not None:
                self._authenticator = ThreadAuthenticator(self._context)
                self._authenticator.start()
                self._authenticator.configure_curve_callback(
                    domain="*", credentials_provider=_KnownClients(known_clients)
                )
        router.monitor("inproc://monitor", zmq.EVENT_DISCONNECTED)
        self._monitor.connect("inproc://monitor")

    def _bind(self, address: str) -> str:
        try:
            self._router.ipv6 = "[" in address
            self._router.bind(address)
        except zmq.ZMQError as exc:
            raise ConnectionFailed(
                f"can't listen at {address}: {exc}: is it in use, and is it ZeroMQ's, such as "
                "tcp://127.0.0.1:5555 or ipc:///run/carrot.sock?"
            ) from exc
        return self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    # -- waiting

    def has_message(self) -> bool:
        """Whether :meth:`receive` has a message at once."""
        return bool(self._events(EVENTS) & POLLIN)

    def wait(self, timeout: int) -> tuple[bool, bool]:
        """Wait until something happens.

        :param timeout: milliseconds; -1 is no limit.
        :returns: whether messages may have come, and whether clients may be gone.
        """
        has_message = has_disconnected = False
        for fd, _ in self._poll.poll(timeout):
            if fd == self._router_fd:
                has_message = True
            elif fd == self._monitor_fd:
                has_disconnected = True
            else:
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
        return has_message, has_disconnected

    def fileno(self) -> int:
        """Where a byte that is written ends :meth:`wait`, too: for signal.set_wakeup_fd()."""
        return self._waker.fileno()

    def wake(self) -> None:
        """End :meth:`wait`, from any thread or a signal handler."""
        with suppress(OSError):
            self._waker.send(b"\0")

    # -- receiving

    def receive_identity(self) -> bytes:
        """The client of the next message, which :meth:`receive` or :meth:`receive_first` reads.

        :raises zmq.Again: there is no message.
        """
        identity: bytes = self._router.recv(NOBLOCK)
        return identity

    def receive(self) -> bytes:
        """The message of that client; empty if it is not exactly one frame."""
        data: bytes = self._router.recv(NOBLOCK)
        return data if self._was_last() else b""

    def receive_first(self) -> tuple[bytes, int]:
        """The same, with the number of the client's connection, which is in use only once."""
        frame = self._router.recv(NOBLOCK, copy=False)
        number = frame.get(zmq.SRCFD)
        assert isinstance(number, int)
        return (frame.bytes if self._was_last() else b""), number

    def _was_last(self) -> bool:
        """Whether that frame was the message's last; otherwise read the rest."""
        if not self._router.get(RCVMORE):
            return True
        while self._router.get(RCVMORE):
            self._router.recv(NOBLOCK)
        return False

    def disconnected(self) -> Iterator[int]:
        """The numbers of the connections that are gone."""
        while self._monitor.poll(0):
            yield recv_monitor_message(self._monitor)["value"]

    # -- sending

    def send(self, identity: bytes, data: bytes) -> None:
        """Send one message.

        :raises zmq.ZMQError: there is no room (``zmq.Again``), or no such client any more.
        """
        self._router.send(identity, NOBLOCK | SNDMORE)
        self._router.send(data, NOBLOCK)

    def hang_up(self, identity: bytes) -> None:
        """Tell a client that its connection is over, if there is room."""
        with suppress(zmq.ZMQError):
            self.send(identity, HANG_UP)

    def close(self) -> None:
        """Free everything, when what was sent has left or LINGER is over."""
        self._router.disable_monitor()
        self._router.close()
        self._monitor.close(linger=0)
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
        self._waker.close()
        self._woken.close()
