"""A driver without a broker, for what happens above the seam."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

from carrot.backends.base import BaseBackend, BaseTransport, Capabilities
from carrot.settings import ConnectionSettings


def _nothing(self: object, *args: object, **kwargs: object) -> None:
    """An operation that succeeds."""


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

    def channel(self) -> object:
        return object()

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        assert ready() is None, "the fake has nothing to deliver"

    def close(self, timeout: float | None = None) -> None:
        self.is_open = False


class Backend(BaseBackend):
    """Every operation succeeds, and does nothing."""

    transport_cls: ClassVar[type[BaseTransport]] = FakeTransport
    capabilities: ClassVar[Capabilities] = Capabilities()

    _open_channel = _close_channel = _confirm_select = _qos = _nothing  # type: ignore[assignment]
    exchange_declare = exchange_delete = exchange_bind = exchange_unbind = _nothing
    queue_declare = queue_bind = queue_unbind = queue_exists = _nothing  # type: ignore[assignment]
    queue_purge = queue_delete = get = publish = _nothing  # type: ignore[assignment]
    _subscribe = _unsubscribe = ack = reject = requeue = _nothing


def make_driver(errors: Iterable[Exception] = ()) -> type[Backend]:
    """A driver with books of its own.

    :param errors: what the first attempts to connect raise, one each.
    """
    members: dict[str, Any] = {"errors": list(errors), "opened": []}
    transport_cls = type("Transport", (FakeTransport,), members)
    return type("Driver", (Backend,), {"transport_cls": transport_cls})
