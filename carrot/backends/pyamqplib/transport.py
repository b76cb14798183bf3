"""Transport: one of py-amqp's connections, and a lock around each use of it."""

from __future__ import annotations

import math
import re
import select
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Self

import amqp

from carrot import remedies, signal_safe
from carrot.backends.base import BaseTransport
from carrot.backends.pyamqplib.channel import Channel, Failing, NativeChannel
from carrot.backends.sockets.shared_reader import SharedReader
from carrot.backends.transport import counts_returns
from carrot.deadline import describe, milliseconds
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConfigurationError,
    ConnectionLost,
    NotSupported,
    OperationTimeout,
)
from carrot.remedies import ClosedByBroker, LoginMethodNotOffered
from carrot.settings import ConnectionSettings

# Seconds to wait for the rest of a frame that has begun to arrive.
_PATIENCE = 1.0


class _Connection(amqp.Connection):  # type: ignore[misc]  # py-amqp has no annotations
    """py-amqp's connection; it keeps why the broker closed it.

    py-amqp raises the same classes, with the same codes, for what it objects to by itself.
    """

    Channel = NativeChannel
    reply: ClosedByBroker | None = None

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self.reply = ClosedByBroker(reply_code, reply_text, (class_id, method_id))
        super()._on_close(reply_code, reply_text, class_id, method_id)


class Transport(BaseTransport):
    """A connection of py-amqp's.

    :ivar lock: held during each use of the connection; reading waits outside it.
    """

    default_port: ClassVar[int | None] = 5672
    default_tls_port: ClassVar[int | None] = 5671

    def __init__(self, connection: amqp.Connection, where: str, settings: ConnectionSettings):
        super().__init__()
        properties = getattr(connection, "server_properties", None) or {}
        self.counts_returns = counts_returns(properties.get("version"))
        self.lock = threading.RLock()
        self._amqp = connection
        self._is_refusal_told = False
        self._where = where
        self._close_timeout = settings.connect_timeout
        self._why_closed: ClosedByBroker | str | None = None
        self._turns = SharedReader(self._read)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._closed = threading.Event()
        self.heartbeat = float(connection.heartbeat or 0)
        if self.heartbeat:
            # What was agreed: the broker drops a client that is silent for two intervals.
            signal_safe.try_to_start(
                threading.Thread(
                    target=_send_heartbeats,
                    args=(weakref.ref(self), self._closed, self.heartbeat / 2),
                    daemon=True,
                )
            )

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
            cause = connection.reply or _sorted_out(exc)
            raise remedies.connection_failed(settings, where, cause, _AMQP) from exc
        # A deadline for every answer; py-amqp itself would wait for ever.
        connection.transport.sock.settimeout(settings.operation_timeout)
        return cls(connection, where, settings)

    @property
    def is_open(self) -> bool:
        return bool(self._amqp.connected)

    def channel(self) -> Channel:
        with self.guarded():
            return Channel(self, self._amqp.channel())

    @contextmanager
    def guarded(self, channel: Failing | None = None) -> Iterator[None]:
        """One use of the connection: under the lock, with py-amqp's errors as carrot's.

        :param channel: the one that is used; the broker's objection to it is raised here.
        """
        with self.lock, self._translating(channel):
            try:
                yield
            finally:
                # This use may have read what another thread waits for.
                if self._turns.is_taken:
                    self.interrupt()

    @contextmanager
    def _translating(self, channel: Failing | None = None) -> Iterator[None]:
        try:
            yield
        except (amqp.AMQPError, OSError, AttributeError) as exc:
            if channel is not None and (failure := channel.take_failure()) is not None:
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
            return self._objection(cause)
        reply = self._amqp.reply
        self._why_closed = self._why_closed or reply or str(_sorted_out(cause))
        self._amqp.collect()
        if reply is None or not reply.is_refusal or self._is_refusal_told:
            return self._gone()
        # Only for the first to hear of it, who made the request; the others lost a connection.
        self._is_refusal_told = True
        return remedies.broker_refused(reply.code, reply.text, self._where, reply.method)

    def _objection(self, cause: Exception) -> ChannelError:
        """The error for what py-amqp refuses by itself, on a connection that stays open."""
        code = cause.reply_code if isinstance(cause, amqp.AMQPError) else None
        if isinstance(cause, amqp.ResourceError):
            return ChannelError(
                f"all {self._amqp.channel_max} channels of the connection are in use: close "
                "publishers and consumers, share them, or raise channel_max in rabbitmq.conf",
                code,
            )
        return ChannelError(str(cause), code)

    def _gone(self) -> ConnectionLost:
        return remedies.connection_lost(self._where, self._why_closed or "for no known reason")

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        if not self._turns.wait_for(ready, timeout):
            raise OperationTimeout(f"nothing came from {self._where} within {describe(timeout)}")

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

    def after_fork_in_child(self) -> None:
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


_AMQP = remedies.AMQP._replace(garbled=(amqp.AMQPError,))
# py-amqp has no classes of its own for these two: login methods that the broker lacks, and a peer
# that hung up.
_NOT_OFFERED = re.compile(r"can offer: (?P<method>\w+); available: (?P<offered>.*?)\)")
_HUNG_UP = ("Server unexpectedly closed connection", "Socket closed")


def _sorted_out(cause: Exception) -> Exception:
    """*cause*; or, for what py-amqp only says in words, an exception with a class for it."""
    if isinstance(cause, amqp.AMQPError) and (found := _NOT_OFFERED.search(str(cause))):
        return LoginMethodNotOffered(found["method"], found["offered"].split(", "))
    if type(cause) is OSError and str(cause) in _HUNG_UP:
        return ConnectionResetError("the broker hung up")
    return cause
