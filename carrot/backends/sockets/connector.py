"""StreamConnector: opens the connections of a driver over a byte stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial

from carrot.backends.sockets import socket as sockets
from carrot.backends.sockets.session import StreamSession, StreamView
from carrot.backends.sockets.socket import ByteStream
from carrot.backends.sockets.transport import StreamTransport
from carrot.deadline import Deadline, bounded_by
from carrot.exceptions import CarrotError, ConfigurationError, ConnectionLost, OperationTimeout
from carrot.settings import ConnectionSettings


class StreamConnector(ABC):
    """Connects, starts a session of the driver's and logs in; a driver says what is its own.

    :cvar default_port: as of :class:`~carrot.backends.base.Connector`, like the other two.
    """

    default_port: int | None
    default_tls_port: int | None
    has_curve = False

    @abstractmethod
    def start_session(self, settings: ConnectionSettings, stream: StreamView) -> StreamSession:
        """A session over *stream*, which is not logged in yet."""

    @abstractmethod
    def connection_failed(
        self, settings: ConnectionSettings, where: str, cause: Exception
    ) -> CarrotError:
        """Why connecting failed, and what to do about it."""

    def dial(self, settings: ConnectionSettings, deadline: Deadline) -> ByteStream:
        """The link to the broker, over which the handshake goes.

        :raises OSError: it can't be made.
        """
        return sockets.connect(settings, self.port(settings), deadline)

    def place(self, settings: ConnectionSettings) -> str:
        """Host, port and virtual host, for errors."""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{host}:{self.port(settings)}, virtual host {settings.virtual_host!r}"

    def port(self, settings: ConnectionSettings) -> int:
        """The port to connect to."""
        port = settings.port or (self.default_tls_port if settings.ssl else self.default_port)
        assert port is not None
        return port

    def open(self, settings: ConnectionSettings) -> StreamTransport:
        """As of :class:`~carrot.backends.base.Connector`."""
        where = self.place(settings)
        deadline = Deadline.after(settings.connect_timeout)
        transport = None
        try:
            link = self.dial(settings, deadline)
            start_session = partial(self.start_session, settings)
            transport = StreamTransport(link, settings, where, start_session)
            with bounded_by(deadline):
                transport.log_in(settings, deadline)
        except BaseException as exc:
            if transport is not None:
                transport.stream.lose(ConnectionAbortedError("it could not be opened"))
            if isinstance(exc, ConfigurationError) or not isinstance(exc, (OSError, CarrotError)):
                raise
            # The reason behind a ConnectionLost: this connection never was.
            cause = exc.__cause__ if isinstance(exc, ConnectionLost) else exc
            failure = cause if isinstance(cause, Exception) else exc
            if isinstance(exc, OperationTimeout):
                failure = TimeoutError()
            raise self.connection_failed(settings, where, failure) from exc
        return transport
