"""BrokerConnection: which broker, and whether the connection to it is alive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn, Self

from carrot import logs
from carrot.backends import get_backend_cls
from carrot.backends.base import BaseTransport
from carrot.backends.seam.backend import Backend
from carrot.backends.transport import refuse_eventlet
from carrot.checks import check_function, seconds
from carrot.connection.hosts import open_first
from carrot.connection.live_transport import LiveTransport
from carrot.connection.options import SETTINGS, merged, one_of
from carrot.deadline import Deadline, now, sleep
from carrot.exceptions import AccessRefused, CarrotError
from carrot.function_options import keep_plain_functions
from carrot.retry import Backoff
from carrot.settings import ConnectionSettings, SslOption

#: What programs written for carrot 0.10 catch when a connection fails or is lost.
AMQPConnectionException = ConnectionError


class BrokerConnection:
    """A broker's settings, and the live connection once there is one.

    Lazy: the broker is contacted at the first use, or by :meth:`connect`. Every parameter can be
    a class attribute of a subclass instead.

    :param hostname: the machine, or a URL: ``amqp://user:password@host:5672/vhost?heartbeat=30``.
        Several of a cluster are a list, ``["one", "two:5673"]``, or ``amqp://one,two:5673/vhost``;
        they are tried in turn.
    :param userid: default guest.
    :param password: default guest.
    :param virtual_host: which of the broker's; each has queues of its own; default ``/``.
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
    backend_cls: str | type[Backend] | None = None
    transport: str | type[Backend] | None = None

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
        backend_cls: str | type[Backend] | None = None,
        transport: str | type[Backend] | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "hostname": hostname,
            "userid": userid,
            "password": password,
            "virtual_host": one_of("virtual_host", virtual_host, "vhost", vhost),
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
            "backend": one_of("backend_cls", backend_cls, "transport", transport),
        }
        for name, value in merged(self, given).items():
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
        self._live = LiveTransport()
        # For the log: since when it is lost, and how often it was attempted to connect since.
        self._lost_at: float | None = None
        #: The transport whose loss is logged.
        self._noted: BaseTransport | None = None
        self._attempts = 0

    @property
    def settings(self) -> ConnectionSettings:
        """The settings as they are now, checked."""
        return ConnectionSettings(
            backend=self.backend_cls, **{name: getattr(self, name) for name in SETTINGS}
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
        state = "closed" if self._live.is_closed else "open" if self.is_open else "not connected"
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
        transport = self._live.transport
        if transport is not None and transport.is_open:
            return transport
        return self.reopen()

    def reopen(self) -> BaseTransport:
        """The live connection, opened if there is none, within this thread's deadline.

        :raises ConnectionFailed: it can't be made.
        :raises ConnectionLost: :meth:`close` was called; :meth:`connect` opens a new one.
        :raises OperationTimeout: another thread is trying, and hasn't got through in time.
        """
        self._note_loss(None)
        return self._live.reopen(self._open, self._hosts)

    def _open(self, deadline: Deadline) -> BaseTransport:
        refuse_eventlet()
        transport = open_first(self.get_backend_cls().connector, self.settings, deadline)
        transport.watch(self._tell_blocked)
        logs.connected(self.where)
        return transport

    # -- what recovery needs of it, and tells

    @property
    def may_reconnect(self) -> bool:
        """Whether publishers and consumers go on over a new connection."""
        return self.reconnect is not False and self._live.was_open and not self._live.is_closed

    def _note_loss(self, error: Exception | None) -> None:
        """Log that the connection is gone, once, if it is and was not closed here.

        :param error: why; None: the connection is asked.
        """
        transport = self._live.transport
        if transport is None or transport.is_open or transport is self._noted:
            return
        self._noted = transport
        try:
            if error is None:
                transport.wait_for(lambda: False, 0)
        except CarrotError as exc:
            error = exc
        # The cause alone: the text of the error has the host as well.
        cause = None if error is None else error.__cause__
        logs.connection_lost(self.where, cause or error)

    def _tell_lost(self, error: Exception, interval: float) -> None:
        """Call :attr:`on_connection_lost`, and log the attempt."""
        self._note_loss(error)
        if self._lost_at is None:
            self._lost_at = now()
        self._attempts += 1
        logs.reconnecting(self.where, self._attempts, interval, error)
        if self.on_connection_lost is not None:
            self.on_connection_lost(error, interval)

    def _tell_recovered(self) -> None:
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
        return self._live.is_open

    @property
    def connected(self) -> bool:
        """The same as :attr:`is_open`."""
        return self.is_open

    def connect(self) -> BaseTransport:
        """Connect now, also after :meth:`close`; an open connection stays as it is.

        :raises ConnectionFailed: it can't be made.
        """
        self._live.is_closed = False
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
                sleep(interval)
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
        self._live.close(patience, self.operation_timeout if patience is None else patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- backends

    def get_backend_cls(self) -> type[Backend]:
        """The driver's class.

        :raises BackendNotFound: lists what was tried and the known names.
        """
        return get_backend_cls(self.backend_cls)

    def create_backend(self) -> Backend:
        """A new backend: one channel on this connection, opened at its first use."""
        return self.get_backend_cls()(connection=self)

    def channel(self) -> Backend:
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


#: The name of carrot 0.1 to 0.6, which stays.
AMQPConnection = BrokerConnection
