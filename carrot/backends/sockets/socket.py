"""A socket to the broker, plain or TLS: reads what is there, writes all of it, can be woken."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from carrot.backends.sockets.poll import READ, WRITE, new_poll
from carrot.backends.sockets.standstill import LOOKS
from carrot.deadline import Deadline, describe, milliseconds, shorter, thread_deadline
from carrot.exceptions import ConfigurationError
from carrot.settings import ConnectionSettings

#: How much is read at once, in bytes: with 16 KiB a body of 1 MiB takes twice the processor time.
#: Small messages come some 40 at a time, and any size will do.
READ_SIZE = 256 * 1024
#: TCP keepalive: seconds without traffic, seconds between probes, and probes without an answer.
IDLE, PROBE_INTERVAL, PROBES = 60, 10, 3
#: TCP_USER_TIMEOUT: seconds in which the peer's system must take in what was sent.
UNACKED = 60


#: How much OpenSSL gets at a time, in bytes: it tells only when it has taken all of it.
TLS_PIECE = 256 * 1024


class ByteStream(Protocol):
    """What a transport needs of its byte stream; :class:`SocketStream` documents each."""

    def wait(self, timeout: float | None) -> bool: ...
    def wake(self) -> None: ...
    def read(self) -> bytes | None: ...
    def send(self, data: bytes) -> int: ...
    def write(self, data: bytes, sent: int = 0) -> None: ...
    def write_if_room(self, data: bytes) -> bytes: ...
    def unsent(self) -> int: ...
    def set_write_timeout(self, timeout: float | None) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


def connect(settings: ConnectionSettings, port: int, deadline: Deadline) -> SocketStream:
    """A link to the broker, TLS included.

    :raises OSError: refused, unreachable, unknown host, no answer in time, or a certificate that
        doesn't fit.
    """
    sock = _dial(settings.host, port, deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _notice_dead_peers(sock)
        if settings.ssl is False:
            return SocketStream(sock, settings.operation_timeout)
        context, server_name = tls_context(settings)
        tls = context.wrap_socket(sock, server_hostname=server_name, do_handshake_on_connect=False)
        sock = tls
        _shake_hands(tls, deadline)
        return TlsStream(tls, settings.operation_timeout)
    except BaseException:
        sock.close()
        raise


def _left(deadline: Deadline) -> float | None:
    """Seconds until *deadline*.

    :raises TimeoutError: it is past.
    """
    if deadline.is_past:
        raise TimeoutError("timed out")
    return deadline.left


def resolve(hostname: str, port: int) -> list[tuple[Any, ...]]:
    """The host's addresses, as ``socket.getaddrinfo`` gives them.

    :raises OSError: there is no such host.
    """
    try:
        return socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        raise socket.gaierror(f"{hostname!r} is no name that a host can have: {exc}") from exc


def _dial(hostname: str, port: int, deadline: Deadline) -> socket.socket:
    """A TCP connection to the first of the host's addresses that answers."""
    failure: OSError | None = None
    found = resolve(hostname, port)
    for number, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            # An address that doesn't answer leaves an equal share of the time to each other one.
            left = _left(deadline)
            sock.settimeout(None if left is None else left / (len(found) - number))
            sock.connect(address)
        except OSError as exc:
            sock.close()
            # The first address is the preferred one, and its failure says most.
            failure = failure or exc
            continue
        return sock
    raise failure or OSError(f"{hostname} has no address")


def _shake_hands(tls: ssl.SSLSocket, deadline: Deadline) -> None:
    """TLS's handshake, within one deadline; a socket's timeout would be one for each read."""
    tls.setblocking(False)
    while True:
        try:
            tls.do_handshake()
            return
        except ssl.SSLWantReadError:
            wanted = READ
        except ssl.SSLWantWriteError:
            wanted = WRITE
        _poll_for(tls, wanted, _left(deadline))


def _poll_for(sock: socket.socket, wanted: int, timeout: float | None) -> bool:
    """Whether the socket is ready for that, within *timeout* seconds.

    :raises ValueError: it is closed.
    """
    poll = new_poll()
    poll.register(sock, wanted)
    return bool(poll.poll(milliseconds(timeout)))


if sys.platform == "win32":

    def _queued(fd: int) -> int:
        return 0
else:
    import fcntl
    import termios

    def _queued(fd: int) -> int:
        """Bytes in the system's queue of what is to be sent (tcp(7), SIOCOUTQ)."""
        (size,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))
        return int(size)


def _notice_dead_peers(sock: socket.socket) -> None:
    """Let the system notice a peer that is gone without a word, where it knows how.

    An idle connection is probed after IDLE seconds, and what was sent must be taken within
    UNACKED seconds.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", IDLE),
        ("TCP_KEEPINTVL", PROBE_INTERVAL),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", UNACKED * 1000),
    ):
        if hasattr(socket, option):
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class SocketStream:
    """A TCP connection. One thread reads at a time, and one writes.

    The socket never blocks: whoever waits, waits in poll(), which cooperative threads such as
    gevent's replace by their own.

    :param timeout: how long a write may stand still, in seconds; None: for ever.
    """

    def __init__(self, sock: socket.socket, timeout: float | None) -> None:
        self._sock = sock
        self._timeout = timeout
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self._waker, self._woken = socket.socketpair()
        for one in (self._sock, self._waker, self._woken):
            one.setblocking(False)
        self._poll = new_poll()
        self._poll.register(sock, READ)
        self._poll.register(self._woken, READ)
        self._fd = sock.fileno()
        self._is_waiting = self._is_closed = False

    def set_write_timeout(self, timeout: float | None) -> None:
        """From now on a write may stand still for so many seconds; None: for ever."""
        self._timeout = timeout

    # -- reading

    def wait(self, timeout: float | None) -> bool:
        """Wait until there is something to read; False: it was woken, or nothing came.

        :param timeout: seconds; None waits as long as it takes.
        :raises OSError: the link is closed.
        """
        arrived = False
        try:
            self._is_waiting = True
            if self._is_closed:
                raise ConnectionAbortedError("it was closed here")
            for fd, _ in self._poll.poll(milliseconds(timeout)):
                if fd == self._fd:
                    arrived = True
                else:
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
        finally:
            self._is_waiting = False
            if self._is_closed:
                self.abandon()
        return arrived

    def wake(self) -> None:
        """End :meth:`wait`, the running one or the next. Safe in a signal handler."""
        # A full pipe wakes as well, and nobody waits for a closed link.
        with suppress(OSError):
            self._waker.send(b"\0")

    def read(self) -> bytes | None:
        """What has arrived, after :meth:`wait` said so; empty: the peer hung up; None: not yet.

        :raises OSError: the connection is broken.
        """
        try:
            size = self._sock.recv_into(self._buffer)
        except BlockingIOError:
            return None
        return bytes(self._view[:size])

    # -- writing

    def send(self, data: bytes) -> int:
        """Send as much of *data* as goes without waiting; returns how many bytes that was.

        :raises OSError: the connection is broken.
        """
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def write_if_room(self, data: bytes) -> bytes:
        """The same; returns the rest."""
        return data[self.send(data) :]

    def write(self, data: bytes, sent: int = 0) -> None:
        """Send all of *data*, however long that takes, as long as something moves.

        :param sent: how many bytes of it were sent before.
        :raises OSError: the connection is broken, or nothing moved for the write timeout, or the
            thread's deadline is past. How much the peer got is not known then, so the link is of
            no more use.
        """
        rest = memoryview(data)[sent:]
        bound, still = thread_deadline(), Deadline.after(self._timeout)
        unsent = self.unsent()
        while True:
            done, wanted = self._send(rest)
            rest = rest[done:]
            if not rest:
                return
            if bound.is_past or still.is_past:
                raise self._stuck(len(data) - len(rest), len(data), still)
            look = None if self._timeout is None else self._timeout / LOOKS
            has_room = _poll_for(self._sock, wanted, shorter(look, bound.left))
            # The system tells of room only when it has a lot, so its own queue tells more.
            before, unsent = unsent, self.unsent()
            if has_room or unsent < before:
                still = Deadline.after(self._timeout)

    def _send(self, data: memoryview) -> tuple[int, int]:
        """Send as much of *data* as goes; returns the number of bytes, and what to poll for."""
        try:
            return self._sock.send(data), WRITE
        except BlockingIOError:
            return 0, WRITE

    def _stuck(self, sent: int, total: int, still: Deadline) -> TimeoutError:
        """The error for a write that was given up."""
        progress = describe_progress(sent - self.unsent(), total)
        why = f"nothing moved for {describe(self._timeout)}" if still.is_past else "time was up"
        return TimeoutError(
            f"the broker didn't take what was sent in time: sent {progress}, then {why}: is it "
            "blocked by an alarm, or overloaded? (A standstill may take operation_timeout.)"
        )

    def unsent(self) -> int:
        """Bytes that were written, and that the peer has not received yet, as far as is known."""
        try:
            return _queued(self._sock.fileno())
        except (OSError, ValueError):
            return 0  # it is closed, or the system doesn't tell

    # -- the end

    def close(self) -> None:
        """Hang up. Again is harmless."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.wake()
        # Else the waiting thread does it: what it polls must not become another's meanwhile.
        if not self._is_waiting:
            self.abandon()

    def abandon(self) -> None:
        """Free the socket without a word to the peer, as a forked child does."""
        for sock in (self._sock, self._waker, self._woken):
            sock.close()


class TlsStream(SocketStream):
    """A TLS connection; OpenSSL wants reads and writes to exclude each other."""

    _sock: ssl.SSLSocket

    def __init__(self, sock: ssl.SSLSocket, timeout: float | None) -> None:
        # Reentrant, because a signal handler may close the link that it interrupts.
        self._tls_lock = threading.RLock()
        super().__init__(sock, timeout)

    def wait(self, timeout: float | None) -> bool:
        # What is decrypted already is no longer in the socket.
        with self._tls_lock:
            if not self._is_closed and self._sock.pending():
                return True
        return super().wait(timeout)

    def read(self) -> bytes | None:
        try:
            with self._tls_lock:
                self._check_open()
                size = self._sock.recv_into(self._buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None  # a part of a record, or one that was TLS's own
        return bytes(self._view[:size])

    def _send(self, data: memoryview | bytes) -> tuple[int, int]:
        try:
            with self._tls_lock:
                self._check_open()
                return self._sock.send(data[:TLS_PIECE]), WRITE
        except ssl.SSLWantReadError:
            return 0, READ  # TLS has something of its own to settle first
        except ssl.SSLWantWriteError:
            # OpenSSL may have begun with it. It wants the same bytes next, and gets them: what is
            # kept back goes first.
            return 0, WRITE

    def send(self, data: bytes) -> int:
        return self._send(data)[0]

    def _check_open(self) -> None:
        # Python's shutdown() takes TLS away, and then data would come and go unencrypted.
        if self._is_closed:
            raise ConnectionAbortedError("it was closed here")

    def close(self) -> None:
        with self._tls_lock:
            super().close()


def describe_progress(done: int, total: int) -> str:
    """How far something came, for an error: "3.2 of 24 MB"."""
    unit, name = next(
        (unit, name) for unit, name in ((1e6, "MB"), (1e3, "kB"), (1, "bytes"))
        if total >= unit or unit == 1
    )  # fmt: skip
    return f"{max(0, done) / unit:.3g} of {total / unit:.3g} {name}"


_TLS_OPTIONS = ("ca_certs", "certfile", "keyfile", "server_hostname", "cert_reqs", "ciphers")


def tls_context(settings: ConnectionSettings) -> tuple[ssl.SSLContext, str]:
    """The context, and the name that the certificate must be for.

    :raises ConfigurationError: an unknown option, or a file that can't be loaded.
    """
    if isinstance(settings.ssl, ssl.SSLContext):
        return settings.ssl, settings.host
    options = dict(settings.ssl) if isinstance(settings.ssl, Mapping) else {}
    unknown = sorted(set(options) - set(_TLS_OPTIONS))
    if unknown:
        raise ConfigurationError(
            f"unknown TLS options {unknown}: use {', '.join(_TLS_OPTIONS)}, or an SSLContext"
        )
    try:
        context = ssl.create_default_context(cafile=options.get("ca_certs"))
        if options.get("certfile"):
            context.load_cert_chain(options["certfile"], options.get("keyfile"))
    except (OSError, ValueError) as exc:
        files = {
            name: options[name] for name in ("ca_certs", "certfile", "keyfile") if name in options
        }
        raise ConfigurationError(f"the TLS files {files} can't be loaded: {exc}") from exc
    if options.get("ciphers"):
        context.set_ciphers(options["ciphers"])
    if "cert_reqs" in options:
        context.check_hostname = options["cert_reqs"] == ssl.CERT_REQUIRED
        context.verify_mode = options["cert_reqs"]
    return context, options.get("server_hostname") or settings.host
