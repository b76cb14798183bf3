"""A socket to the broker, plain or TLS: reads what is there, writes all of it, can be woken."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress

from carrot.exceptions import ConfigurationError
from carrot.settings import ConnectionSettings

#: How much is read at once, in bytes: large reads decode many messages in one step.
READ_SIZE = 256 * 1024


def connect(settings: ConnectionSettings, port: int) -> Link:
    """A link to the broker, within ``settings.connect_timeout`` seconds, TLS included.

    :raises OSError: refused, unreachable, unknown host, or a certificate that doesn't fit.
    """
    sock = socket.create_connection((settings.hostname, port), settings.connect_timeout)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if settings.ssl is False:
            return Link(sock, settings.operation_timeout)
        context, server_name = tls_context(settings)
        # Within connect_timeout, which is the socket's timeout now.
        return TlsLink(
            context.wrap_socket(sock, server_hostname=server_name), settings.operation_timeout
        )
    except BaseException:
        sock.close()
        raise


class Link:
    """A TCP connection. One thread reads at a time; writers exclude each other by themselves.

    :param timeout: seconds in which a write must get on; None waits for ever.
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
        if self._timeout is not None:
            seconds, fraction = divmod(self._timeout, 1)
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
        for fd, _ in self._poll.poll(None if timeout is None else timeout * 1000):
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

        :raises OSError: the connection is broken, or stuck for the timeout; what was sent of the
            data is not known, so the link is of no more use.
        """
        try:
            self._sock.sendall(data)
        except BlockingIOError as exc:
            raise TimeoutError(f"the broker took nothing for {self._timeout} seconds") from exc

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


class TlsLink(Link):
    """A TLS connection; OpenSSL wants reads and writes to exclude each other."""

    _sock: ssl.SSLSocket

    def _prepare(self) -> None:
        self._sock.setblocking(False)
        self._tls_lock = threading.Lock()
        self._begun = b""

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
        view = memoryview(self._begun + data)
        self._begun = b""
        while view:
            wanted = select.POLLOUT
            try:
                with self._tls_lock:
                    sent = self._sock.send(view)
                view = view[sent:]
                continue
            except ssl.SSLWantReadError:
                wanted = select.POLLIN  # TLS has something of its own to settle first
            except ssl.SSLWantWriteError:
                pass
            room = select.poll()
            room.register(self._fd, wanted)
            if not room.poll(None if self._timeout is None else self._timeout * 1000):
                raise TimeoutError(f"the broker took nothing for {self._timeout} seconds")

    def write_if_room(self, data: bytes) -> bytes:
        data, self._begun = self._begun + data, b""
        try:
            with self._tls_lock:
                return data[self._sock.send(data) :]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            # OpenSSL may have begun with it, and wants the same bytes next.
            self._begun = data
            return b""


_TLS_OPTIONS = ("ca_certs", "certfile", "keyfile", "server_hostname", "cert_reqs", "ciphers")


def tls_context(settings: ConnectionSettings) -> tuple[ssl.SSLContext, str]:
    """The context, and the name that the certificate must be for.

    :raises ConfigurationError: an unknown option, or a file that can't be loaded.
    """
    if isinstance(settings.ssl, ssl.SSLContext):
        return settings.ssl, settings.hostname
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
    return context, options.get("server_hostname") or settings.hostname
