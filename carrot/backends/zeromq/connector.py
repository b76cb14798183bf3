"""Connector: opens the amqp driver's sessions at ZeroMQ brokers, over DEALER sockets."""

from __future__ import annotations

from carrot.backends.amqp.session import Session
from carrot.backends.sockets.connector import StreamConnector
from carrot.backends.sockets.session import StreamView
from carrot.backends.zeromq.errors import connection_failed
from carrot.backends.zeromq.socket import ZeromqStream, connect
from carrot.deadline import Deadline
from carrot.exceptions import ConfigurationError, ConnectionFailed
from carrot.server.protocol import DEFAULT_PORT, MESSAGE_MAX
from carrot.settings import ConnectionSettings


class Connector(StreamConnector):
    """Opens connections to brokers of :mod:`carrot.server`.

    :ivar message_max: bytes that the body of a message may have.
    """

    default_port = DEFAULT_PORT
    default_tls_port = DEFAULT_PORT
    has_curve = True

    def __init__(self) -> None:
        self.message_max = MESSAGE_MAX

    def start_session(self, settings: ConnectionSettings, stream: StreamView) -> Session:
        return Session(stream, self.message_max)

    def place(self, settings: ConnectionSettings) -> str:
        if settings.host.startswith("/"):
            return f"ipc://{settings.host}, virtual host {settings.virtual_host!r}"
        return super().place(settings)

    def dial(self, settings: ConnectionSettings, deadline: Deadline) -> ZeromqStream:
        if settings.ssl:
            raise ConfigurationError(
                "the zeromq driver has no TLS: encrypt with CURVE, by curve_server_key= and "
                "curve_secret_key="
            )
        return connect(settings, self.port(settings), deadline)

    def connection_failed(
        self, settings: ConnectionSettings, where: str, cause: Exception
    ) -> ConnectionFailed:
        return connection_failed(settings, where, cause)
