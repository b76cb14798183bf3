"""Transport: the amqp driver's connection, over a DEALER socket."""

from __future__ import annotations

from typing import ClassVar

from carrot.backends.amqp.transport import Transport as AmqpTransport
from carrot.backends.zeromq.errors import connection_failed
from carrot.backends.zeromq.socket import ZeromqStream, connect
from carrot.deadline import Deadline
from carrot.exceptions import ConfigurationError, ConnectionFailed
from carrot.server.protocol import DEFAULT_PORT, MESSAGE_MAX
from carrot.settings import ConnectionSettings


class Transport(AmqpTransport):
    """A connection to a broker of :mod:`carrot.backends.zeromq`."""

    default_port: ClassVar[int | None] = DEFAULT_PORT
    default_tls_port: ClassVar[int | None] = DEFAULT_PORT
    has_curve: ClassVar[bool] = True
    message_max: ClassVar[int | None] = MESSAGE_MAX

    @classmethod
    def _place(cls, settings: ConnectionSettings) -> str:
        if settings.host.startswith("/"):
            return f"ipc://{settings.host}, virtual host {settings.virtual_host!r}"
        return super()._place(settings)

    @classmethod
    def _dial(cls, settings: ConnectionSettings, deadline: Deadline) -> ZeromqStream:
        if settings.ssl:
            raise ConfigurationError(
                "the zeromq driver has no TLS: encrypt with CURVE, by curve_server_key= and "
                "curve_secret_key="
            )
        return connect(settings, cls._port(settings), deadline)

    @classmethod
    def _connection_failed(
        cls, settings: ConnectionSettings, where: str, cause: Exception
    ) -> ConnectionFailed:
        return connection_failed(settings, where, cause)
