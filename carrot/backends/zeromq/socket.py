"""A DEALER socket to the broker, as the amqp driver's transport wants a link: a stream of bytes.

ZeroMQ's sockets are not for several threads, so a lock is held around each use of one. No use of
it waits: waiting is for the socket's file descriptor, outside the lock.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import cast

import zmq
from zmq.utils.monitor import recv_monitor_message

from carrot.backends.sockets.poll import READ, new_poll
from carrot.backends.sockets.socket import describe_progress, resolve
from carrot.backends.zeromq.errors import CurveRefused, Refused
from carrot.deadline import Deadline, describe, milliseconds, thread_deadline
from carrot.forks import Stage, register
from carrot.server.protocol import (
    EVENTS,
    HIGH_WATER_MARK,
    NOBLOCK,
    PIECE,
    POLLIN,
    notice_dead_peers,
)
from carrot.settings import ConnectionSettings

#: Seconds that a full socket is waited for at a time; another thread may see that there is room.
ROOM_INTERVAL = 0.05
#: Milliseconds in which what was sent must leave, when the socket is forgotten without a goodbye.
LINGER = 1000

#: Milliseconds until ZeroMQ would connect again by itself, as another client. The transport notices
#: long before that the connection is gone. With -1, ZeroMQ drops what is not read yet.
NEVER = 24 * 60 * 60 * 1000

#: Three for each connection; ZeroMQ's default is 1023.
MAX_SOCKETS = 30_000

_EVENTS = (
    zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
# Of EVENT_HANDSHAKE_FAILED_PROTOCOL: one side wants CURVE and the other doesn't.
_MECHANISM_MISMATCH = zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH

_monitors = count(1)


class _Contexts:
    """The process's ZeroMQ context: one thread for the sockets of all its connections."""

    def __init__(self) -> None:
        self._current: zmq.Context[zmq.Socket[bytes]] | None = None
        self._lock = threading.Lock()
        # A child of a fork keeps what it inherits, and touches it never.
        self.inherited: list[object] = []

    def get(self) -> zmq.Context[zmq.Socket[bytes]]:
        with self._lock:
            if self._current is None:
                self._current = zmq.Context()
                self._current.max_sockets = MAX_SOCKETS
            return self._current

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self.inherited.append(self._current)
        self._current = None


_contexts = _Contexts()
register(Stage.TRANSPORTS, after_in_child=_contexts.after_fork_in_child)


def connect(settings: ConnectionSettings, port: int, deadline: Deadline) -> ZeromqStream:
    """A link to the broker, its handshake included.

    :raises OSError: refused, unreachable, unknown host, no answer in time.
    :raises CurveRefused: the CURVE keys don't fit.
    """
    failure: OSError | None = None
    found = _endpoints(settings, port)
    for number, (endpoint, family, address) in enumerate(found):
        # An address that doesn't answer leaves an equal share of the time to each other one.
        left = deadline.left
        share = Deadline.after(None if left is None else left / (len(found) - number))
        try:
            return _connect(endpoint, family, address, settings, share)
        except OSError as exc:
            # The first address is the preferred one, and its failure says most.
            failure = failure or exc
    raise failure or OSError(f"{settings.host} has no address")


def _endpoints(
    settings: ConnectionSettings, port: int
) -> list[tuple[str, socket.AddressFamily, object]]:
    """ZeroMQ's address, the family and the system's address, for all addresses of the host."""
    if settings.host.startswith("/"):
        return [(f"ipc://{settings.host}", socket.AF_UNIX, settings.host)]
    # ZeroMQ resolves names itself, and tries the first address only, without a word.
    found = resolve(settings.host, port)
    return [
        (f"tcp://[{address[0]}]:{port}" if family == socket.AF_INET6 else
         f"tcp://{address[0]}:{port}", family, address)
        for family, _, _, _, address in found
    ]  # fmt: skip


def _connect(
    endpoint: str,
    family: socket.AddressFamily,
    address: object,
    settings: ConnectionSettings,
    deadline: Deadline,
) -> ZeromqStream:
    sock = monitor = None
    try:
        sock = _contexts.get().socket(zmq.DEALER)
        sock.linger = LINGER
        sock.reconnect_ivl = NEVER
        sock.sndhwm = sock.rcvhwm = HIGH_WATER_MARK
        notice_dead_peers(sock)
        sock.ipv6 = family == socket.AF_INET6
        if settings.curve_server_key is not None:
            _use_curve(sock, settings)
        monitor = _monitor(sock)
        sock.connect(endpoint)
        if not _shake_hands(monitor, deadline):
            raise _why_not(family, address, deadline)
        return ZeromqStream(sock, monitor, settings.operation_timeout)
    except BaseException as exc:
        if sock is not None:
            sock.disable_monitor()
            sock.close(linger=0)
        if monitor is not None:
            monitor.close(linger=0)
        if isinstance(exc, zmq.ZMQError):
            raise OSError(exc.errno, str(exc)) from exc
        raise


def _use_curve(sock: zmq.Socket[bytes], settings: ConnectionSettings) -> None:
    """Encrypt, and know the broker by its key; without a key of its own a client makes one up."""
    assert settings.curve_server_key is not None
    secret = settings.curve_secret_key
    if secret is None:
        public_key, secret_key = zmq.curve_keypair()
    else:
        public_key, secret_key = zmq.curve_public(secret.encode()), secret.encode()
    sock.curve_serverkey = settings.curve_server_key.encode()
    sock.curve_publickey, sock.curve_secretkey = public_key, secret_key


def _monitor(sock: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """A socket that tells what becomes of the connection of *sock*."""
    # A name of its own: pyzmq's would be that of another socket that had the same number before.
    address = f"inproc://carrot-monitor-{next(_monitors)}"
    sock.monitor(address, _EVENTS)
    monitor = _contexts.get().socket(zmq.PAIR)
    monitor.connect(address)
    return monitor


def _shake_hands(monitor: zmq.Socket[bytes], deadline: Deadline) -> bool:
    """Wait for ZeroMQ's own handshake; False: nobody listens, or the peer hung up.

    :raises CurveRefused: the CURVE keys don't fit.
    :raises Refused: it failed.
    :raises TimeoutError: no answer.
    """
    failed = None
    while True:
        left = milliseconds(deadline.left)
        if not monitor.poll(None if left is None else int(left)):
            if deadline.is_past:
                raise failed or TimeoutError("timed out")
            continue
        message = recv_monitor_message(monitor)
        event, value = message["event"], message["value"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return True
        if event in (zmq.EVENT_CLOSED, zmq.EVENT_DISCONNECTED):
            if failed is not None:
                raise failed
            return False
        failed = _handshake_failure(event, value)


def _handshake_failure(event: int, value: int) -> OSError:
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return CurveRefused("the broker doesn't know this client's key")
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == _MECHANISM_MISMATCH:
        return CurveRefused("one side wants CURVE, and the other doesn't")
    return Refused("ZeroMQ's handshake failed")


def _why_not(family: socket.AddressFamily, address: object, deadline: Deadline) -> OSError:
    """ZeroMQ doesn't tell why it can't connect, so the system is asked."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        left = deadline.left
        probe.settimeout(None if left is None else max(0.001, left))
        try:
            probe.connect(address)  # type: ignore[arg-type]
        except OSError as exc:
            return exc
    return Refused("the peer hung up before it let anybody in")


class ZeromqStream:
    """A connection to the broker. One thread reads at a time; any may write.

    Its lock guards the two sockets, and is reentrant: a signal handler may interrupt its holder,
    though never inside ZeroMQ.

    :param monitor: tells when the connection is gone.
    :param timeout: how long a write may stand still, in seconds; None: for ever.
    """

    def __init__(
        self, sock: zmq.Socket[bytes], monitor: zmq.Socket[bytes], timeout: float | None
    ) -> None:
        self._sock = sock
        self._events = cast(Callable[[int], int], sock.get)
        self._monitor = monitor
        self._timeout = timeout
        self._lock = threading.RLock()
        self._is_waiting = self._is_closed = self._is_gone = False
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._fd, self._monitor_fd = int(sock.fd), int(monitor.fd)
        self._woken_fd = self._woken.fileno()
        self._poll = new_poll()
        for fd in (self._fd, self._monitor_fd, self._woken_fd):
            self._poll.register(fd, READ)
        # A file descriptor tells nothing until its socket was found to be empty.
        self._look_at_monitor()

    def set_write_timeout(self, timeout: float | None) -> None:
        """From now on a write may stand still for so many seconds; None: for ever."""
        self._timeout = timeout

    # -- reading

    def wait(self, timeout: float | None) -> bool:
        """Wait until there is something to read; False: it was woken, or nothing came.

        :param timeout: seconds; None waits as long as it takes.
        :raises OSError: the link is closed.
        """
        with self._lock:
            self._check_open()
            if self._has_arrived():
                return True
            self._is_waiting = True
        ready: list[int] = []
        try:
            ready = [fd for fd, _ in self._poll.poll(milliseconds(timeout))]
        finally:
            with self._lock:
                self._is_waiting = False
                if self._is_closed:
                    self._free()
        if self._monitor_fd in ready:
            self._look_at_monitor()
        if self._woken_fd in ready:
            with suppress(OSError):  # there is no more, or it was closed
                self._woken.recv(4096)
        # The news may be another one, and then there is nothing to read, and that is all right.
        return self._fd in ready or self._is_gone

    def wake(self) -> None:
        """End :meth:`wait`, the running one or the next. Safe in a signal handler."""
        # A full pipe wakes as well, and of a closed link nobody waits for anything.
        with suppress(OSError):
            self._waker.send(b"\0")

    def _has_arrived(self) -> bool:
        # The file descriptor tells of changes only: what is there already, the socket knows.
        return self._is_gone or bool(self._events(EVENTS) & POLLIN)

    def _has_unread(self) -> bool:
        with self._lock:
            self._check_open()
            return bool(self._events(EVENTS) & POLLIN)

    def _look_at_monitor(self) -> None:
        """Whether the connection is gone."""
        with self._lock, suppress(zmq.ZMQError):
            self._check_open()
            while self._monitor.poll(0):
                event = recv_monitor_message(self._monitor)["event"]
                self._is_gone = self._is_gone or event == zmq.EVENT_DISCONNECTED

    def read(self) -> bytes | None:
        """What has arrived, after :meth:`wait` said so; empty: the peer hung up; None: not yet.

        :raises OSError: the link is closed.
        """
        with self._lock:
            self._check_open()
            try:
                return self._sock.recv(NOBLOCK)
            except zmq.Again:
                # What came before the end is read before it.
                return b"" if self._is_gone else None
            except zmq.ZMQError as exc:
                raise OSError(exc.errno, str(exc)) from exc

    # -- writing

    def write(self, data: bytes, sent: int = 0) -> None:
        """Send all of *data*, however long that takes, as long as something moves.

        :param sent: how many bytes of it were sent before.
        :raises OSError: the link is gone, or nothing moved for the write timeout, or the thread's
            deadline is past.
        """
        rest = memoryview(data)[sent:]
        bound, still = thread_deadline(), Deadline.after(self._timeout)
        room = new_poll()
        room.register(self._fd, READ)  # which is ready for writing, too
        while True:
            if done := self.send(rest):
                still = Deadline.after(self._timeout)
                rest = rest[done:]
            if not rest:
                return
            self._look_at_monitor()
            if self._is_gone:
                self.wake()
                if self._has_unread():
                    return  # lost, as TCP would lose it; what was sent before the end says why
                raise ConnectionResetError("the broker hung up")
            if bound.is_past or still.is_past:
                raise self._stuck(len(data) - len(rest), len(data), still)
            room.poll(1000 * ROOM_INTERVAL)

    def _stuck(self, sent: int, total: int, still: Deadline) -> TimeoutError:
        why = f"nothing moved for {describe(self._timeout)}" if still.is_past else "time was up"
        return TimeoutError(
            f"the broker didn't take what was sent in time: sent {describe_progress(sent, total)}, "
            f"then {why}: is it overloaded? (A standstill may take operation_timeout.)"
        )

    def write_if_room(self, data: bytes) -> bytes:
        """Send as much of *data* as goes without waiting; returns the rest."""
        return data[self.send(data) :]

    def send(self, data: bytes | memoryview) -> int:
        """The same; returns how many bytes that was."""
        sent, size = 0, len(data)
        with self._lock:
            self._check_open()
            try:
                while sent < size:
                    self._sock.send(data[sent : sent + PIECE], NOBLOCK)
                    sent = min(size, sent + PIECE)
            except zmq.Again:
                pass
            except zmq.ZMQError as exc:
                raise OSError(exc.errno, str(exc)) from exc
            # Sending takes in what has happened, and then the file descriptor doesn't tell it.
            if self._is_waiting and self._has_arrived():
                self.wake()
        return sent

    def unsent(self) -> int:
        """Not known: ZeroMQ has a queue of its own."""
        return 0

    # -- the end

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConnectionAbortedError("it was closed here")

    def close(self) -> None:
        """Hang up. Again is harmless."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self.wake()
            # Else the one who waits does it: the numbers it waits for must not become others'.
            if not self._is_waiting:
                self._free()

    def _free(self) -> None:
        self._sock.disable_monitor()
        self._sock.close(linger=0)
        self._monitor.close(linger=0)
        self._waker.close()
        self._woken.close()

    def abandon(self) -> None:
        """In a forked child: ZeroMQ's sockets are the parent's, and only it may use them."""
        self._lock = threading.RLock()
        self._is_closed = True
        _contexts.inherited += (self._sock, self._monitor)
        self._waker.close()
        self._woken.close()
