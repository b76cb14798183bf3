"""A socket to the broker, plain or TLS: reads what is there, writes all of it, can be woken."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from carrot.deadline import milliseconds, spelled, within
from carrot.exceptions import ConfigurationError
from carrot.settings import ConnectionSettings

#: How much is read at once, in bytes: with 16 KiB a body of 1 MiB takes twice the processor time.
#: Small messages come some 40 at a time, and any size will do.
READ_SIZE = 256 * 1024
#: TCP keepalive: seconds without traffic, seconds between probes, and probes without an answer.
IDLE, PROBE_INTERVAL, PROBES = 60, 10, 3
#: TCP_USER_TIMEOUT: seconds in which the peer's system must take in what was sent.
UNACKED = 60


class ByteStream(Protocol):
    """What a transport needs of its byte stream; :class:`SocketStream` documents each."""

    def wait(self, timeout: float | None) -> bool: ...
    def wake(self) -> None: ...
    def read(self) -> bytes | None: ...
    def write(self, data: bytes) -> None: ...
    def write_if_room(self, data: bytes) -> bytes: ...
    def hurry(self, timeout: float | None) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


def connect(settings: ConnectionSettings, port: int, deadline: float | None) -> SocketStream:
    """A link to the broker, TLS included.

    :param deadline: as ``time.monotonic()`` counts; None waits for ever.
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


def _seconds_until(deadline: float | None) -> float | None:
    """What is left until *deadline*.

    :raises TimeoutError: nothing.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def resolve(hostname: str, port: int) -> list[tuple[Any, ...]]:
    """The host's addresses, as ``socket.getaddrinfo`` gives them.

    :raises OSError: there is no such host.
    """
    try:
        return socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        raise socket.gaierror(f"{hostname!r} is no name that a host can have: {exc}") from exc


def _dial(hostname: str, port: int, deadline: float | None) -> socket.socket:
    """A TCP connection to the first of the host's addresses that answers."""
    failure: OSError | None = None
    found = resolve(hostname, port)
    for number, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            # One that is silent leaves each of those behind it the same share of the time.
            left = _seconds_until(deadline)
            sock.settimeout(None if left is None else left / (len(found) - number))
            sock.connect(address)
        except OSError as exc:
            sock.close()
            # The first address is the preferred one, and its failure says most.
            failure = failure or exc
            continue
        return sock
    raise failure or OSError(f"{hostname} has no address")


def _shake_hands(tls: ssl.SSLSocket, deadline: float | None) -> None:
    """TLS's handshake; a timeout of the socket's own would be one for each of its reads."""
    tls.setblocking(False)
    while True:
        try:
            tls.do_handshake()
            return
        except ssl.SSLWantReadError:
            wanted = select.POLLIN
        except ssl.SSLWantWriteError:
            wanted = select.POLLOUT
        _poll_for(tls.fileno(), wanted, _seconds_until(deadline))


def _poll_for(fd: int, wanted: int, timeout: float | None) -> bool:
    """Whether the socket is ready for that, within *timeout* seconds."""
    poll = select.poll()
    poll.register(fd, wanted)
    return bool(poll.poll(milliseconds(timeout)))


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
    """A TCP connection. One thread reads at a time; writers exclude each other by themselves.

    :param timeout: seconds in which the peer must take what is written; None waits for ever.
    """

    def __init__(self, sock: socket.socket, timeout: float | None) -> None:
        self._sock = sock
        self._timeout = timeout
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        self._fd = sock.fileno()
        self._prepare()

    def _prepare(self) -> None:
        # A timeout of Python's own would cost a poll() for every write; the kernel's costs nothing.
        self._sock.settimeout(None)
        self.hurry(self._timeout)

    def hurry(self, timeout: float | None) -> None:
        """From now on the peer must take what is written within so many seconds."""
        self._timeout = timeout
        # The kernel's timeout is for a part of the data; how long it all takes is looked at then.
        self._slice = max(0.001, min(1.0, 1.0 if timeout is None else timeout))
        if timeout is not None:
            seconds, fraction = divmod(self._slice, 1)
            self._sock.setsockopt(
                socket.SOL_SOCKET,
                socket.SO_SNDTIMEO,
                struct.pack("ll", int(seconds), int(fraction * 1_000_000)),
            )

    def wait(self, timeout: float | None) -> bool:
        """Wait until there is something to read; False: it was woken, or nothing came.

        :param timeout: seconds; None waits as long as it takes.
        """
        arrived = False
        for fd, _ in self._poll.poll(milliseconds(timeout)):
            if fd == self._fd:
                arrived = True
            else:
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
        return arrived

    def wake(self) -> None:
        """End :meth:`wait`, the running one or the next. Safe in a signal handler."""
        # A full pipe wakes as well, and of a closed link nobody waits for anything.
        with suppress(OSError):
            self._waker.send(b"\0")

    def read(self) -> bytes | None:
        """What has arrived, after :meth:`wait` said so; empty: the peer hung up; None: not yet.

        :raises OSError: the connection is broken.
        """
        size = self._sock.recv_into(self._buffer)
        return bytes(self._view[:size])

    def write(self, data: bytes) -> None:
        """Send all of *data*.

        :raises OSError: the connection is broken, or didn't take it all within the timeout; what
            was sent of the data is not known, so the link is of no more use.
        """
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._write_on(memoryview(data)[sent:])

    def _write_on(self, rest: memoryview) -> None:
        """Send the *rest* of what the peer is slow to take."""
        deadline, patience = None, within(self._timeout)
        if patience is not None:
            deadline = time.monotonic() + patience - self._slice
        while rest:
            if deadline is not None and time.monotonic() >= deadline:
                raise self._stuck(patience)
            with suppress(BlockingIOError):
                rest = rest[self._sock.send(rest) :]

    def _stuck(self, patience: float | None) -> TimeoutError:
        return TimeoutError(
            f"the broker didn't take what was sent within {spelled(patience)}: is it blocked by an "
            "alarm, or overloaded? (At most operation_timeout.)"
        )

    def write_if_room(self, data: bytes) -> bytes:
        """Send as much of *data* as goes without waiting; returns the rest."""
        try:
            return data[self._sock.send(data, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return data

    def close(self) -> None:
        """Hang up. Again is harmless."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.abandon()

    def abandon(self) -> None:
        """Free the socket without a word to the peer, as a forked child does."""
        for sock in (self._sock, self._waker, self._woken):
            sock.close()


class TlsStream(SocketStream):
    """A TLS connection; OpenSSL wants reads and writes to exclude each other."""

    _sock: ssl.SSLSocket

    def hurry(self, timeout: float | None) -> None:
        self._timeout = timeout

    def _prepare(self) -> None:
        self._sock.setblocking(False)
        # Reentrant, for a signal handler may close what it interrupts.
        self._tls_lock = threading.RLock()

    def wait(self, timeout: float | None) -> bool:
        # What is decrypted already is no longer in the socket.
        with self._tls_lock:
            if self._sock.pending():
                return True
        return super().wait(timeout)

    def read(self) -> bytes | None:
        try:
            with self._tls_lock:
                size = self._sock.recv_into(self._buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None  # a part of a record, or one that was TLS's own
        return bytes(self._view[:size])

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        patience = within(self._timeout)
        deadline = None if patience is None else time.monotonic() + patience
        while view:
            try:
                with self._tls_lock:
                    sent = self._sock.send(view)
                view = view[sent:]
                continue
            except ssl.SSLWantReadError:
                wanted = select.POLLIN  # TLS has something of its own to settle first
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not _poll_for(self._fd, wanted, left):
                raise self._stuck(patience)

    def write_if_room(self, data: bytes) -> bytes:
        try:
            with self._tls_lock:
                return data[self._sock.send(data) :]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            # OpenSSL may have begun with it. It wants the same bytes next, and gets them: what is
            # kept back goes first.
            return data

    def close(self) -> None:
        # Python's shutdown() takes TLS away first, and what another thread sends in that moment
        # would go out as it is.
        with self._tls_lock:
            super().close()


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
