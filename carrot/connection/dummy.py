"""DummyConnection: a connection for tests, with the memory backend."""

from __future__ import annotations

from carrot.connection.broker_connection import BrokerConnection


class DummyConnection(BrokerConnection):
    """A connection to the default memory virtual host, whatever the arguments."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(backend_cls="memory")

    @property
    def host(self) -> str:
        """Always empty."""
        return ""
