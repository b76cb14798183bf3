"""A driver without a broker, for what happens above the seam."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

from carrot.backends.base import (
    BaseChannel,
    BaseTransport,
    Capabilities,
    Connector,
    Exchange,
    Queue,
    QueueDeclared,
)
from carrot.backends.seam.backend import Backend as SeamBackend
from carrot.exceptions import ConnectionLost
from carrot.settings import ConnectionSettings


def _nothing(self: object, *args: object, **kwargs: object) -> None:
    """An operation that succeeds."""


class Channel(BaseChannel):
    """Every operation succeeds, and does nothing."""

    is_open = True

    delete_exchange = bind = unbind = confirm_select = qos = subscribe = unsubscribe = _nothing
    get = publish = ack = nack = reject = _nothing

    def declare(self, entity: Exchange | Queue) -> QueueDeclared | None:
        return None if isinstance(entity, Exchange) else self.inspect(entity.name)

    def inspect(self, queue: str) -> QueueDeclared:
        return QueueDeclared(queue, 0, 0)

    def delete_queue(self, queue: str, if_unused: bool, if_empty: bool) -> int:
        return 0

    def purge(self, queue: str) -> int:
        return 0

    def close(self) -> None:
        self.is_open = False


class FakeTransport(BaseTransport):
    """Opens, or fails to: `errors` holds what the next attempts raise.

    :cvar opened: the settings of each attempt.
    """

    default_port: ClassVar[int | None] = 1234
    default_tls_port: ClassVar[int | None] = 1235
    errors: ClassVar[list[Exception]] = []
    opened: ClassVar[list[ConnectionSettings]] = []

    is_open = True
    interrupt = _nothing

    @classmethod
    def open(cls, settings: ConnectionSettings) -> Self:
        cls.opened.append(settings)
        if cls.errors:
            raise cls.errors.pop(0)
        return cls()

    def channel(self) -> Channel:
        return Channel()

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        if not self.is_open:
            raise ConnectionLost("it was closed")
        assert ready() is None, "the fake has nothing to deliver"

    def close(self, timeout: float | None = None) -> None:
        self.is_open = False


class Backend(SeamBackend):
    """A channel of the driver without a broker."""

    connector: ClassVar[Connector] = FakeTransport
    capabilities: ClassVar[Capabilities] = Capabilities()


def make_driver(errors: Iterable[Exception] = ()) -> type[Backend]:
    """A driver with books of its own.

    :param errors: what the first attempts to connect raise, one each.
    """
    members: dict[str, Any] = {"errors": list(errors), "opened": []}
    connector = type("Transport", (FakeTransport,), members)
    return type("Driver", (Backend,), {"connector": connector})
