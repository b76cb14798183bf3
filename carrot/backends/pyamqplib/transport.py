"""Transport: one of py-amqp's connections, and a lock around each use of it."""

from __future__ import annotations

import math
import select
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Protocol, Self

import amqp
from amqp import spec

from carrot.backends.base import BaseTransport
from carrot.backends.sockets.shared_reader import SharedReader
from carrot.deadline import milliseconds, spelled
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    NotSupported,
    OperationTimeout,
)
from carrot.settings import ConnectionSettings

# Seconds to wait for the rest of a frame that has begun to arrive.
_PATIENCE = 1.0


class _Channel(amqp.Channel):  # type: ignore[misc]  # py-amqp has no annotations
    """py-amqp's channel; when the broker closes it, only its own user is told."""

    on_broker_close: Callable[[ChannelError], None] | None = None

    def dispatch_method(self, method_sig: Any, payload: Any, content: Any) -> None:
        # While it closes, what the broker sent before is of no interest; py-amqp would log it.
        if not self.is_closing or method_sig in self._ALLOWED_METHODS_WHEN_CLOSING:
            super().dispatch_method(method_sig, payload, content)

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        # py-amqp's own would open the channel again right here, and raise in whoever is reading.
        self.send_method(spec.Channel.CloseOk)
        if not self.is_closing:
            # Else the number is free only when the broker has answered our own close.
            self.collect()
        if self.on_broker_close is not None:
            self.on_broker_close(ChannelError.from_reply(reply_code, reply_text))


class _Connection(amqp.Connection):  # type: ignore[misc]  # py-amqp has no annotations
    Channel = _Channel


class Failing(Protocol):
    """What a transport needs of the backend that uses it."""

    def take_failure(self) -> CarrotError | None: ...


class Transport(BaseTransport):
    """A connection of py-amqp's.

    :ivar lock: held during each use of the connection; reading waits outside it.
    """

    default_port: ClassVar[int | None] = 5672
    default_tls_port: ClassVar[int | None] = 5671

    def __init__(self, connection: amqp.Connection, where: str, settings: ConnectionSettings):
        super().__init__()
        self.lock = threading.RLock()
        self._amqp = connection
        self._where = where
        self._close_timeout = settings.connect_timeout
        self._why_closed: str | None = None
        self._turns = SharedReader(self._read)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._closed = threading.Event()
        if connection.heartbeat:
            # What was agreed: the broker drops a client that is silent for two intervals.
            threading.Thread(
                target=_send_heartbeats,
                args=(weakref.ref(self), self._closed, connection.heartbeat / 2),
                daemon=True,
            ).start()

    @classmethod
    def open(cls, settings: ConnectionSettings) -> Self:
        port = settings.port or (cls.default_tls_port if settings.ssl else cls.default_port)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        where = f"{host}:{port}, virtual host {settings.virtual_host!r}"
        connection = _Connection(
            host=f"{host}:{port}",
            userid=settings.userid,
            password=settings.password,
            login_method=settings.login_method,
            virtual_host=settings.virtual_host,
            ssl=_tls_options(settings),
            connect_timeout=settings.connect_timeout,
            heartbeat=math.ceil(settings.heartbeat or 0),
        )
        try:
            connection.connect()
        except (amqp.AMQPError, OSError, ValueError, TypeError, LookupError) as exc:
            # Anything can come of a peer that doesn't speak AMQP.
            connection.collect()
            raise _connection_failed(settings, where, exc) from exc
        # A deadline for every answer; py-amqp itself would wait for ever.
        connection.transport.sock.settimeout(settings.operation_timeout)
        return cls(connection, where, settings)

    @property
    def is_open(self) -> bool:
        return bool(self._amqp.connected)

    def channel(self) -> amqp.Channel:
        """A channel of py-amqp's."""
        with self.guarded():
            return self._amqp.channel()

    @contextmanager
    def guarded(self, backend: Failing | None = None) -> Iterator[None]:
        """One use of the connection: under the lock, with py-amqp's errors as carrot's.

        :param backend: whose channel is used; the broker's objection to it is raised here.
        """
        with self.lock, self._translating(backend):
            try:
                yield
            finally:
                # This use may have read what another thread waits for.
                if self._turns.is_taken:
                    self.interrupt()

    @contextmanager
    def _translating(self, backend: Failing | None = None) -> Iterator[None]:
        try:
            yield
        except (amqp.AMQPError, OSError, AttributeError) as exc:
            if backend is not None and (failure := backend.take_failure()) is not None:
                raise failure from exc
            # py-amqp goes on with a channel that what it just read has closed.
            if isinstance(exc, AttributeError) and self.is_open:
                raise
            raise self._translated(exc) from exc
        except CarrotError:
            raise
        except BaseException as exc:
            # What was written and read by then, nobody knows.
            self._why_closed = self._why_closed or f"{type(exc).__name__} interrupted a call"
            self._amqp.collect()
            raise

    def _translated(self, cause: Exception) -> CarrotError:
        if self.is_open and not isinstance(cause, (OSError, amqp.UnexpectedFrame)):
            return ChannelError(str(cause))
        said = (
            f"{cause.reply_code} {cause.reply_text}" if isinstance(cause, amqp.AMQPError) else cause
        )
        self._why_closed = self._why_closed or str(said)
        self._amqp.collect()
        return self._gone()

    def _gone(self) -> ConnectionLost:
        return ConnectionLost(
            f"the connection to {self._where} is gone: {self._why_closed}; what was not "
            "confirmed or acked may not have arrived"
        )

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        if not self._turns.wait_for(ready, timeout):
            raise OperationTimeout(f"nothing came from {self._where} within {spelled(timeout)}")

    def _read(self, timeout: float | None) -> None:
        """Wait for something from the broker, and take one frame in."""
        if self._has_arrived(timeout):
            # Meanwhile a call of another thread may have taken it.
            with self.lock, self._translating():
                if self._has_arrived(0):
                    with suppress(TimeoutError):
                        self._amqp.blocking_read(_PATIENCE)

    def _has_arrived(self, timeout: float | None) -> bool:
        """Whether there is something to read, waiting at most *timeout* seconds for it."""
        if not self._amqp.connected:
            raise self._gone()
        poll = select.poll()
        try:
            tcp = self._amqp.transport.sock
            # What TLS has decrypted is no longer in the socket.
            if getattr(tcp, "pending", lambda: 0)():
                return True
            poll.register(tcp, select.POLLIN)
            poll.register(self._wake_reader, select.POLLIN)
            arrived = {fd for fd, _ in poll.poll(milliseconds(timeout))}
            if self._wake_reader.fileno() in arrived:
                with suppress(BlockingIOError):
                    self._wake_reader.recv(4096)
            return tcp.fileno() in arrived
        except (OSError, ValueError, AttributeError) as exc:
            # Another thread closed the sockets under our hands.
            raise self._gone() from exc

    def interrupt(self) -> None:
        # A full pipe wakes as well, and a closed one has nobody left to wake.
        with suppress(OSError):
            self._wake_writer.send(b"\0")

    def send_heartbeat(self) -> None:
        """Tell the broker that this end is alive."""
        with self.lock, suppress(amqp.AMQPError, OSError, AttributeError):
            if self.is_open:
                self._amqp.send_heartbeat()

    def close(self, timeout: float | None = None) -> None:
        self._why_closed = self._why_closed or "it was closed here"
        self._closed.set()
        patience = self._close_timeout if timeout is None else timeout
        # A call that hangs is not waited for: hanging up ends it.
        has_lock = self.lock.acquire(timeout=-1 if patience is None else patience)
        try:
            if self._amqp.connected and has_lock:
                with suppress(amqp.AMQPError, OSError, AttributeError):
                    self._amqp.transport.sock.settimeout(patience)
                    self._amqp.close()
            self._amqp.collect()
        finally:
            if has_lock:
                self.lock.release()
        self.interrupt()
        self._free()

    def disown(self) -> None:
        # A thread of the parent's may hold the lock, or have the turn.
        self.lock, self._turns = threading.RLock(), SharedReader(self._read)
        sock = self._amqp.transport.sock if self._amqp.connected else None
        # Only this process's copy: a goodbye, or a shutdown, would reach the parent's peer.
        self._amqp._transport = None
        if sock is not None:
            sock.close()
        self._free()

    def _free(self) -> None:
        self._wake_reader.close()
        self._wake_writer.close()


def _send_heartbeats(
    transport: weakref.ref[Transport], closed: threading.Event, interval: float
) -> None:
    """What the thread does, until the transport is closed, lost or forgotten."""
    while not closed.wait(interval):
        alive = transport()
        if alive is None or not alive.is_open:
            return
        alive.send_heartbeat()
        del alive


_TLS_OPTIONS = frozenset(
    ("keyfile", "certfile", "ca_certs", "cert_reqs", "server_hostname", "ciphers", "context")
)


def _tls_options(settings: ConnectionSettings) -> bool | dict[str, Any]:
    """The options for py-amqp's TLS transport, which verifies the host's name when it has one."""
    if isinstance(settings.ssl, bool):
        return {"server_hostname": settings.host} if settings.ssl else False
    if isinstance(settings.ssl, Mapping):
        if unknown := sorted(set(settings.ssl) - _TLS_OPTIONS):
            raise ConfigurationError(
                f"unknown TLS options {unknown}: use {', '.join(sorted(_TLS_OPTIONS))}"
            )
        return {"server_hostname": settings.host, **settings.ssl}
    raise NotSupported(
        "the pyamqplib driver takes no SSLContext: pass ssl=True, or a dict of keyfile, certfile, "
        "ca_certs, cert_reqs, server_hostname, ciphers"
    )


def _connection_failed(
    settings: ConnectionSettings, where: str, cause: Exception
) -> ConnectionFailed:
    told = f"{type(cause).__name__}: {cause}"
    if isinstance(cause, amqp.AMQPError):
        told = f"{cause.reply_code} {cause.reply_text}"
    return ConnectionFailed.from_cause(settings, where, told)
