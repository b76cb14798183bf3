"""BrokerConnection: which broker, and whether the connection to it is alive."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar, NoReturn, Self

from carrot import logs
from carrot.backends import get_backend_cls
from carrot.backends.base import BaseTransport
from carrot.backends.seam.backend import Backend as BaseBackend
from carrot.checks import check_function, seconds
from carrot.deadline import Deadline, describe, now, remaining
from carrot.exceptions import (
    AccessRefused,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    OperationTimeout,
)
from carrot.function_options import keep_plain_functions
from carrot.retry import Backoff
from carrot.settings import (
    ConnectionSettings,
    SslOption,
    check_django_conninfo,
    check_tls,
    get_django_conninfo,
    is_url,
    parse_url,
)

__all__ = [
    "AMQPConnection",
    "AMQPConnectionException",
    "BrokerConnection",
    "DjangoAMQPConnection",
    "DjangoBrokerConnection",
    "DummyConnection",
    "get_django_conninfo",
]

#: What programs written for carrot 0.10 catch when a connection fails or is lost.
AMQPConnectionException = ConnectionError

_SETTINGS = tuple(f.name for f in fields(ConnectionSettings) if f.name != "backend")


class BrokerConnection:
    """A broker's settings, and the live connection once there is one.

    Lazy: the broker is contacted at the first use, or by :meth:`connect`. Every parameter can be
    a class attribute of a subclass instead.

    :param hostname: the machine, or a URL: ``amqp://user:password@host:5672/vhost?heartbeat=30``.
        Several of a cluster are a list, ``["one", "two:5673"]``, or ``amqp://one,two:5673/vhost``;
        they are tried in turn.
    :param userid: default guest.
    :param password: default guest.
    :param virtual_host: the broker's world of queues and exchanges; default ``/``.
    :param vhost: another name of *virtual_host*.
    :param port: a number, also as text; default the driver's (5672 for AMQP).
    :param ssl: True, a dict of the driver's TLS options, or an ``ssl.SSLContext``.
    :param connect_timeout: seconds for connecting and logging in; default 5, 0 waits forever.
    :param heartbeat: seconds between signs of life; 0 sends none. The default is 10, and with
        pyamqplib none.
    :param operation_timeout: seconds for the broker's answer to a request, and for taking what
        is sent to it; default 30, 0 waits forever.
    :param shuffle_hosts: try the hosts in random order; default False.
    :param reconnect: publishers and consumers go on over a new connection when this one is lost;
        default True.
    :param on_connection_lost: called with the error and the seconds until the next attempt, by
        each publisher and consumer that wants to go on; what it raises ends the attempts.
    :param on_recovered: called without arguments when it goes on.
    :param on_blocked: called with the broker's reason when it takes no messages for a while.
    :param on_unblocked: called without arguments when it takes them again.
    :param login_method: PLAIN (the default), AMQPLAIN, or EXTERNAL with a client certificate.
    :param curve_server_key: the public key of a ZeroMQ broker, which encrypts; default none.
    :param curve_secret_key: the client's own secret key, for a broker that knows its clients.
    :param backend_cls: the driver: an alias, a dotted path or a class.
    :param transport: another name of *backend_cls*.
    :param insist: accepted for old programs, without effect.
    :raises ConfigurationError: a value that can't be right.
    """

    hostname: str | Sequence[str] | None = None
    userid: str | None = None
    password: str | None = None
    virtual_host: str | None = None
    vhost: str | None = None
    port: int | str | None = None
    insist: bool | None = None
    shuffle_hosts: bool | None = None
    reconnect: bool | None = None
    on_connection_lost: Callable[[Exception, float], object] | None = None
    on_recovered: Callable[[], object] | None = None
    on_blocked: Callable[[str], object] | None = None
    on_unblocked: Callable[[], object] | None = None
    ssl: SslOption | None = None
    connect_timeout: float | None = ConnectionSettings.connect_timeout
    heartbeat: float | None = None
    operation_timeout: float | None = ConnectionSettings.operation_timeout
    login_method: str | None = None
    curve_server_key: str | None = None
    curve_secret_key: str | None = None
    backend_cls: str | type[BaseBackend] | None = None
    transport: str | type[BaseBackend] | None = None

    function_options: ClassVar[tuple[str, ...]] = (
        "on_connection_lost",
        "on_recovered",
        "on_blocked",
        "on_unblocked",
    )
    ConnectionException: ClassVar[type[Exception]] = AMQPConnectionException

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keep_plain_functions(cls, cls.function_options)

    def __init__(
        self,
        hostname: str | Sequence[str] | None = None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | str | None = None,
        *,
        vhost: str | None = None,
        insist: bool | None = None,
        ssl: SslOption | None = None,
        connect_timeout: float | None = None,
        heartbeat: float | None = None,
        operation_timeout: float | None = None,
        login_method: str | None = None,
        shuffle_hosts: bool | None = None,
        reconnect: bool | None = None,
        on_connection_lost: Callable[[Exception, float], object] | None = None,
        on_recovered: Callable[[], object] | None = None,
        on_blocked: Callable[[str], object] | None = None,
        on_unblocked: Callable[[], object] | None = None,
        curve_server_key: str | None = None,
        curve_secret_key: str | None = None,
        backend_cls: str | type[BaseBackend] | None = None,
        transport: str | type[BaseBackend] | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "hostname": hostname,
            "userid": userid,
            "password": password,
            "virtual_host": _one_of("virtual_host", virtual_host, "vhost", vhost),
            "port": port,
            "insist": insist,
            "ssl": ssl,
            "connect_timeout": connect_timeout,
            "heartbeat": heartbeat,
            "operation_timeout": operation_timeout,
            "login_method": login_method,
            "shuffle_hosts": shuffle_hosts,
            "reconnect": reconnect,
            "curve_server_key": curve_server_key,
            "curve_secret_key": curve_secret_key,
            "backend": _one_of("backend_cls", backend_cls, "transport", transport),
        }
        for name, value in self._merged(given).items():
            setattr(self, name, value)
        watchers = {
            "on_connection_lost": on_connection_lost,
            "on_recovered": on_recovered,
            "on_blocked": on_blocked,
            "on_unblocked": on_unblocked,
        }
        for name, watcher in watchers.items():
            if watcher is not None:
                check_function(name, watcher)
                setattr(self, name, watcher)
        self._transport: BaseTransport | None = None
        self._was_open = self._closed = False
        # For the log: since when it is lost, and how often it was attempted to connect since.
        self._lost_at: float | None = None
        self._attempts = 0
        self._opening, self._pid = threading.Lock(), os.getpid()
        # How often it could not be made, and the last reason.
        self._failures = 0
        self._failure: ConnectionFailed | None = None

    def _merged(self, given: dict[str, Any]) -> dict[str, Any]:
        """The attributes of this connection: keywords over the URL over the class's own."""
        inherited: dict[str, Any] = {name: getattr(self, name) for name in _SETTINGS}
        inherited["virtual_host"] = _one_of("virtual_host", self.virtual_host, "vhost", self.vhost)
        inherited["backend"] = _one_of("backend_cls", self.backend_cls, "transport", self.transport)
        hostname = given["hostname"] or inherited["hostname"]
        from_url: dict[str, Any] = {}
        if is_url(hostname):
            from_url = parse_url(hostname)
            inherited["hostname"] = given["hostname"] = None
            if inherited["backend"] is not None:
                given["backend"] = given["backend"] or inherited["backend"]
        merged = {
            name: value
            for layer in (inherited, from_url, given)
            for name, value in layer.items()
            if value is not None
        }
        check_tls(merged.get("backend"), merged.get("ssl"))
        settings = ConnectionSettings(**merged)
        attributes = {name: getattr(settings, name) for name in _SETTINGS}
        for name in ("connect_timeout", "operation_timeout"):
            if inherited[name] is None and name not in merged:
                attributes[name] = None  # a subclass that waits for ever
        return {**attributes, "backend_cls": settings.backend}

    @property
    def settings(self) -> ConnectionSettings:
        """The settings as they are now, checked."""
        return ConnectionSettings(
            backend=self.backend_cls, **{name: getattr(self, name) for name in _SETTINGS}
        )

    # -- where

    @property
    def host(self) -> str:
        """``hostname:port``, or the hostname where there are no ports; several with commas."""
        hosts = [(host.host, self._port_or_default(host.port)) for host in self.settings.hosts]
        return ",".join(
            f"{name}" if port is None or name.startswith("/") else f"{name}:{port}"
            for name, port in hosts
        )

    def _port_or_default(self, port: int | str | None) -> int | None:
        if port:
            return int(port)
        connector = self.get_backend_cls().connector
        return connector.default_tls_port if self.ssl else connector.default_port

    def info(self) -> dict[str, Any]:
        """The settings by name, with the secrets hidden."""
        backend = self.backend_cls or "amqp"
        return {
            **self.settings.info(),
            "port": self._port_or_default(self.port),
            "backend_cls": backend,
            "transport_cls": backend,
        }

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self.is_open else "not connected"
        where = f"{self.userid}@{self._hosts}" + (f":{self.port}" if self.port else "")
        return f"<{type(self).__name__} {where} vhost={self.virtual_host!r} {state}>"

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} can't be pickled or copied: give the other process the URL or the settings, "
            "and make a connection of its own there"
        )

    @property
    def where(self) -> logs.Where:
        """The broker, for the log."""
        return logs.Where(self.host, str(self.virtual_host))

    @property
    def _hosts(self) -> str:
        """As they were given."""
        return self.hostname if isinstance(self.hostname, str) else ",".join(self.hostname or ())

    # -- alive or not

    @property
    def connection(self) -> BaseTransport:
        """The live connection, which is opened if there is none.

        It has ``channel()``, a channel of the driver's own kind, and ``drain_events(timeout)``.

        :raises ConnectionFailed: it can't be made.
        :raises ConnectionLost: :meth:`close` was called; :meth:`connect` opens a new one.
        """
        transport = self._transport
        if transport is not None and transport.is_open:
            return transport
        return self.reopen()

    def reopen(self) -> BaseTransport:
        """The live connection, opened if there is none, within this thread's deadline.

        :raises ConnectionFailed: it can't be made.
        :raises ConnectionLost: :meth:`close` was called; :meth:`connect` opens a new one.
        :raises OperationTimeout: another thread is trying, and hasn't got through in time.
        """
        left = remaining(None)
        deadline = Deadline.after(left)
        failures = self._failures
        opening = self._renewed_lock()
        if not opening.acquire(timeout=-1 if left is None else left):
            raise OperationTimeout(
                f"no connection to {self._hosts} within {describe(left)}: another thread is "
                "still trying to make it"
            )
        try:
            if not self._may_open():
                raise self._closed_here()
            if self._transport is None or not self._transport.is_open:
                if self._failures != failures and self._failure is not None:
                    # What another thread has tried meanwhile, need not be tried again for us.
                    raise type(self._failure)(str(self._failure)) from self._failure
                if self._transport is not None:
                    self._transport.close()  # it is lost; what it still holds is freed
                self._transport = self._opened(deadline)
                self._was_open = True
            return self._transport
        finally:
            opening.release()

    def _renewed_lock(self) -> threading.Lock:
        """The lock for opening; a forked child's own, for a thread of the parent's may hold it."""
        if self._pid != os.getpid():
            self._opening, self._pid = threading.Lock(), os.getpid()
        return self._opening

    def _opened(self, deadline: Deadline) -> BaseTransport:
        try:
            transport = self._open(deadline)
        except ConnectionFailed as exc:
            self._failures, self._failure = self._failures + 1, exc
            raise
        if not self._may_open():
            transport.close()  # close() was called meanwhile
            raise self._closed_here()
        return transport

    def _may_open(self) -> bool:
        return not self._closed

    def _closed_here(self) -> ConnectionLost:
        return ConnectionLost(
            f"the connection to {self._hosts} was closed here with close(): connect() opens a "
            "new one"
        )

    def _open(self, deadline: Deadline) -> BaseTransport:
        """A connection to the first host that lets us in."""
        connector = self.get_backend_cls().connector
        if self.curve_server_key is not None and not connector.has_curve:
            raise ConfigurationError(
                "curve_server_key is for ZeroMQ, and this driver would not encrypt: use ssl=, or a "
                "zeromq URL"
            )
        failures: list[ConnectionFailed] = []
        for settings in self.settings.to_try:
            if deadline.left is not None:
                left = max(0.1, round(deadline.left, 1))
                patience = min(left, settings.connect_timeout or left)
                settings = replace(settings, connect_timeout=patience)
            try:
                transport = connector.open(settings)
            except AccessRefused:
                raise  # a wrong password is wrong on every host
            except ConnectionFailed as exc:
                failures.append(exc)
                continue
            transport.watch(self._tell_blocked)
            logs.connected(self.where)
            return transport
        if len(failures) == 1:
            raise failures[0]
        raise ConnectionFailed(
            f"none of the {len(failures)} hosts can be reached: "
            + "; ".join(str(failure) for failure in failures)
        ) from failures[-1]

    # -- what recovery needs of it, and tells

    @property
    def may_reconnect(self) -> bool:
        """Whether publishers and consumers go on over a new connection."""
        return self.reconnect is not False and self._was_open and not self._closed

    def tell_lost(self, error: Exception, interval: float) -> None:
        """Call :attr:`on_connection_lost`, and log the attempt."""
        if self._lost_at is None:
            self._lost_at = now()
            logs.connection_lost(self.where, error)
        self._attempts += 1
        logs.reconnecting(self.where, self._attempts, interval, error)
        if self.on_connection_lost is not None:
            self.on_connection_lost(error, interval)

    def tell_recovered(self) -> None:
        """Call :attr:`on_recovered`, and log how long it took."""
        lost_at, self._lost_at, self._attempts = self._lost_at, None, 0
        if lost_at is not None:
            logs.recovered(self.where, now() - lost_at)
        if self.on_recovered is not None:
            self.on_recovered()

    def _tell_blocked(self, reason: str | None) -> None:
        if reason is None:
            logs.unblocked(self.where)
        else:
            logs.blocked(self.where, reason)
        if reason is None:
            if self.on_unblocked is not None:
                self.on_unblocked()
        elif self.on_blocked is not None:
            self.on_blocked(reason)

    @property
    def is_open(self) -> bool:
        """Whether there is a live connection, as far as is known without asking the broker."""
        return self._transport is not None and self._transport.is_open

    @property
    def connected(self) -> bool:
        """The same as :attr:`is_open`."""
        return self.is_open

    def connect(self) -> BaseTransport:
        """Connect now, also after :meth:`close`; an open connection stays as it is.

        :raises ConnectionFailed: it can't be made.
        """
        self._closed = False
        return self.connection

    def ensure_connection(
        self,
        errback: Callable[[Exception, float], object] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
    ) -> Self:
        """Connect, trying again until it works.

        :param errback: called with the error and the seconds until the next attempt.
        :param max_retries: how often to try again; None goes on for ever.
        :param interval_start: seconds before the second attempt.
        :param interval_step: seconds that each wait is longer than the one before.
        :param interval_max: seconds that no wait exceeds.
        :raises AccessRefused: a wrong user or password, at once.
        :raises ConnectionFailed: the last attempt's, when all have failed.
        """
        for interval in Backoff(interval_start, interval_step, interval_max, max_retries):
            try:
                self.connect()
                return self
            except AccessRefused:
                raise  # a wrong password doesn't become right by trying again
            except self.connection_errors as exc:
                if errback is not None:
                    errback(exc, interval)
                time.sleep(interval)
        self.connect()
        return self

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for one delivery on any channel of this connection, and run its callback.

        :param timeout: seconds; None waits as long as it takes.
        :raises OperationTimeout: nothing came; it is a ``socket.timeout``.
        :raises ConnectionLost: the connection is gone.
        """
        self.connection.drain_events(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Close the connection and every channel on it. Again is harmless.

        :param timeout: seconds to wait for the broker's goodbye; default ``operation_timeout``
            (with pyamqplib ``connect_timeout``).
        """
        patience = None if timeout is None else seconds("timeout", timeout)
        # Whoever is connecting finds out, too.
        self._closed = True
        opening = self._renewed_lock()
        most = self.operation_timeout if patience is None else patience
        has_turn = opening.acquire(timeout=-1 if most is None else most)
        try:
            transport, self._transport = self._transport, None
        finally:
            if has_turn:
                opening.release()
        if transport is not None:
            transport.close(patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- backends

    def get_backend_cls(self) -> type[BaseBackend]:
        """The driver's class.

        :raises BackendNotFound: lists what was tried and the known names.
        """
        return get_backend_cls(self.backend_cls)

    def create_backend(self) -> BaseBackend:
        """A new backend: one channel on this connection, opened at its first use."""
        return self.get_backend_cls()(connection=self)

    def channel(self) -> BaseBackend:
        """The same as :meth:`create_backend`."""
        return self.create_backend()

    def get_channel(self) -> Any:
        """A new channel of the driver's own kind; on RabbitMQ with pyamqplib, py-amqp's."""
        return self.connection.channel().native

    @property
    def connection_errors(self) -> tuple[type[Exception], ...]:
        """What the connection may raise when it fails or is lost."""
        return self.get_backend_cls().connection_errors

    @property
    def channel_errors(self) -> tuple[type[Exception], ...]:
        """What a channel may raise when the broker refuses something."""
        return self.get_backend_cls().channel_errors


def _one_of(name: str, value: Any, other_name: str, other: Any) -> Any:
    if value is not None and other is not None and value != other:
        raise ConfigurationError(
            f"{name}={value!r} and {other_name}={other!r} are two names of one setting: give one"
        )
    return value if value is not None else other


#: The name of carrot 0.1 to 0.6, which stays.
AMQPConnection = BrokerConnection


class DjangoBrokerConnection(BrokerConnection):
    """A BrokerConnection with the settings of the Django project; keywords override them.

    Reads ``BROKER_HOST BROKER_PORT BROKER_USER BROKER_PASSWORD BROKER_VHOST``, or the same with
    ``AMQP_`` (and ``AMQP_SERVER`` for the host), or ``BROKER_URL``; and ``CARROT_BACKEND``.

    :param settings: an object to read instead of ``django.conf.settings``.
    :raises ConfigurationError: names the settings that are missing.
    """

    def __init__(
        self,
        hostname: str | None = None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | str | None = None,
        *,
        settings: object = None,
        **options: Any,
    ) -> None:
        given = {
            "hostname": hostname,
            "userid": userid,
            "password": password,
            "virtual_host": virtual_host,
            "port": port,
            **options,
        }
        given = {name: value for name, value in given.items() if value is not None}
        for alias, name in (("vhost", "virtual_host"), ("transport", "backend_cls")):
            if alias in given:
                given[name] = _one_of(name, given.get(name), alias, given.pop(alias))
        keywords = get_django_conninfo(settings)
        if is_url(given.get("hostname")):
            keywords = {}
        keywords.update(given)
        backend = get_backend_cls(keywords["backend_cls"]) if keywords.get("backend_cls") else None
        # A driver without ports has no login either: the memory one needs no settings at all.
        needs_login = backend is None or backend.connector.default_port is not None
        if needs_login and "://" not in str(keywords.get("hostname")):
            check_django_conninfo(keywords)
        super().__init__(**keywords)


#: The name of carrot 0.1 to 0.6, which stays.
DjangoAMQPConnection = DjangoBrokerConnection


class DummyConnection(BrokerConnection):
    """A connection to the default memory world, whatever the arguments."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(backend_cls="memory")

    @property
    def host(self) -> str:
        """Always empty."""
        return ""
