"""What Publisher, Consumer and ConsumerSet have in common: options and the with statement."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from carrot.backends.seam.backend import Backend
from carrot.checks import check_function
from carrot.connection import BrokerConnection
from carrot.exceptions import CarrotError, ConfigurationError
from carrot.function_options import keep_plain_functions
from carrot.retry import Retry


class Configurable:
    """An object whose options are class attributes that keywords override; closed by ``with``."""

    function_options: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "on_decode_error")

    connection: BrokerConnection
    backend: Backend

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check_attributes(cls)
        keep_plain_functions(cls, cls.function_options)

    def _use(self, connection: BrokerConnection, backend: Backend | None) -> None:
        """Work over *connection*, on the channel *backend*, or else on one of its own."""
        if not isinstance(connection, BrokerConnection):
            raise ConfigurationError(
                f"{type(self).__name__} needs a connection, not {type(connection).__name__}: "
                "pass BrokerConnection(…), which takes a URL too"
            )
        self.connection = connection
        if backend is not None:
            self._check_channel(backend)
        self.owns_backend = backend is None
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
        if self.owns_backend and self.backend.connection is not self.connection:
            self.backend.close()
            self.backend = self.connection.create_backend()

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


# Names that are options in no class, and that programs use for one, closely enough to be told.
_MEANT = {"prefetch": "prefetch_count", "callback": "callbacks"}


def _check_attributes(cls: type) -> None:
    """Refuse a class attribute that is nearly an option's name: it would have no effect.

    :raises ConfigurationError: names the option.
    """
    bases = [base for base in cls.__mro__ if base.__module__.startswith("carrot.")]
    known = {name for base in bases for name in (*base.__dict__, *base.__annotations__)}
    given = [
        name
        for name, value in cls.__dict__.items()
        if not (name.startswith("_") or name in known or callable(value))
        and not isinstance(value, (property, classmethod, staticmethod))
    ]
    if cls in bases or not given:
        return
    options = {name for base in bases for name in base.__annotations__}
    for name in given:
        meant = _MEANT.get(name) if _MEANT.get(name) in options else _nearest(name, options)
        if meant is not None:
            raise ConfigurationError(
                f"{cls.__name__} has no option {name}: do you mean {meant}? (For an attribute of "
                "your own take a name that is less like it.)"
            )


def _nearest(name: str, options: set[str]) -> str | None:
    # Only here: few classes have attributes of their own, and its import takes 3 ms.
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, options, 1, 0.85)), None)
