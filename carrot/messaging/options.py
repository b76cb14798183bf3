"""What Publisher, Consumer and ConsumerSet have in common: options and the with statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from carrot.backends.base import BaseBackend
from carrot.checks import check_function
from carrot.connection import BrokerConnection
from carrot.exceptions import CarrotError, ConfigurationError, ConnectionLost, NotSupported
from carrot.function_options import FunctionOptions
from carrot.retry import Retry
from carrot.routing import check_exchange_type


class Configurable(FunctionOptions):
    """An object whose options are class attributes that keywords override; closed by ``with``."""

    function_options = ("encoder", "decoder", "on_decode_error")

    connection: BrokerConnection
    backend: BaseBackend

    def _use(self, connection: BrokerConnection, backend: BaseBackend | None) -> None:
        """Work over *connection*, on the channel *backend*, or else on one of its own."""
        if not isinstance(connection, BrokerConnection):
            raise ConfigurationError(
                f"{type(self).__name__} needs a connection, not {type(connection).__name__}: "
                "pass BrokerConnection(…), which takes a URL too"
            )
        self.connection = connection
        if backend is not None:
            self._check_channel(backend)
        self._owns_backend = backend is None
        self.backend = connection.create_backend() if backend is None else backend

    def _check_channel(self, backend: Any) -> None:
        if isinstance(backend, (BrokerConnection, str)):
            raise ConfigurationError(
                f"backend= takes a channel, such as connection.channel(), and not {backend!r}"
            )
        other = getattr(backend, "connection", None)
        if isinstance(other, BrokerConnection) and other.settings != self.connection.settings:
            raise ConfigurationError(
                f"the channel is of another connection: {type(self).__name__} works over "
                f"{self.connection!r}, and its channel over {other!r}"
            )

    def _follow_connection(self) -> None:
        """After ``connection`` was replaced, work over the new one."""
        if self._owns_backend and self.backend.connection is not self.connection:
            self.backend.close()
            self.backend = self.connection.create_backend()

    def _declare_exchange(
        self,
        exchange: str,
        exchange_type: str,
        durable: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None,
    ) -> None:
        check_exchange_type(exchange_type)
        if not exchange:
            return  # the default one is always there
        try:
            self.backend.exchange_declare(
                exchange=exchange,
                type=exchange_type,
                durable=durable,
                auto_delete=auto_delete,
                arguments=arguments,
            )
        except ConnectionLost as exc:
            # RabbitMQ closes the connection of those who ask for what its plug-ins don't know.
            if "exchange type" not in str(exc):
                raise
            raise NotSupported(
                f"the broker has no exchange type {exchange_type!r}: enable its plug-in, or use "
                "another type (the broker closed the connection, which opens again when used)"
            ) from exc

    def _set_options(self, **options: Any) -> None:
        """Set the attributes whose option is given; None means the class's own."""
        retry = options.get("retry")
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigurationError(f"retry must be a Retry(attempts=…, seconds=…), not {retry!r}")
        for name in self.function_options:
            if (function := options.get(name)) is not None:
                check_function(name, function)
        for name, value in options.items():
            if value is not None:
                setattr(self, name, value)

    def close(self) -> None:
        """Free what this object holds. Again is harmless."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        try:
            self.close()
        except CarrotError:
            # The error that ended the block is the one to hear about.
            if exc is None:
                raise
