"""Connector: opens connections to AMQP brokers."""

from __future__ import annotations

from carrot.backends.amqp.errors import connection_failed
from carrot.backends.amqp.session import Session
from carrot.backends.sockets.connector import StreamConnector
from carrot.backends.sockets.session import StreamView
from carrot.exceptions import ConnectionFailed
from carrot.settings import ConnectionSettings


class Connector(StreamConnector):
    """Opens connections over TCP or TLS."""

    default_port = 5672
    default_tls_port = 5671

    def start_session(self, settings: ConnectionSettings, stream: StreamView) -> Session:
        return Session(stream)

    def connection_failed(
        self, settings: ConnectionSettings, where: str, cause: Exception
    ) -> ConnectionFailed:
        return connection_failed(settings, where, cause)
