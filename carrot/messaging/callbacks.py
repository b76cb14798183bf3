"""Callbacks: what Consumer, ConsumerSet and Messaging do with a decoded message."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import AsyncGeneratorType, FunctionType, GeneratorType, MethodType
from typing import Any

from carrot.exceptions import ConfigurationError, SerializationError
from carrot.message import Message

Callback = Callable[[Any, Message], object]
ErrorCallback = Callable[[Message, SerializationError], object]

# inspect has them too, for an import of 5 ms.
_CO_VARARGS, _CO_GENERATOR, _CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x04, 0x20, 0x80, 0x200
_NOT_PLAIN = {
    _CO_GENERATOR: "a generator function, whose call only makes a generator",
    _CO_COROUTINE: "a coroutine function, and carrot is synchronous",
    _CO_ASYNC_GENERATOR: "an asynchronous generator function, and carrot is synchronous",
}
_WANTED = "a callback is a plain function of (message_data, message)"


def checked(callback: Any, arguments: int = 2) -> Any:
    """*callback* itself, when it can be called with so many arguments and does its work then.

    :raises ConfigurationError: it can't be.
    """
    if not callable(callback):
        raise ConfigurationError(f"{_WANTED}, and this is none: {callback!r}")
    function, given = _unwrapped(callback)
    if type(function) is not FunctionType:  # a mock passes for one
        return callback
    code = function.__code__
    for flag, what in _NOT_PLAIN.items():
        if code.co_flags & flag:
            raise ConfigurationError(f"{_WANTED}, and {callback!r} is {what}")
    if given is not None:
        _check_parameters(callback, function, given + arguments)
    return callback


def _unwrapped(callback: Any) -> tuple[Any, int | None]:
    """The function behind *callback*, and how many arguments it has already; None: not known."""
    given = 0
    while type(callback) is not FunctionType:
        if isinstance(callback, functools.partial):
            if callback.keywords:
                return _unwrapped(callback.func)[0], None
            given += len(callback.args)
            callback = callback.func
        elif isinstance(callback, MethodType):
            callback = callback.__func__
            given += 1
        elif isinstance(callback, type) or type(type(callback).__call__) is not FunctionType:
            break  # a class, or written in C: nothing is known of its parameters
        else:
            callback = type(callback).__call__
            given += 1
    return callback, given


def _check_parameters(callback: Any, function: Any, count: int) -> None:
    code = function.__code__
    most = code.co_argcount
    least = most - len(function.__defaults__ or ())
    required = {
        name
        for name in code.co_varnames[most : most + code.co_kwonlyargcount]
        if name not in (function.__kwdefaults__ or {})
    }
    fits = least <= count and (count <= most or code.co_flags & _CO_VARARGS)
    if not fits or required:
        raise ConfigurationError(
            f"{_WANTED}, and {callback!r} can't be called with these: it takes "
            f"{', '.join(code.co_varnames[: most + code.co_kwonlyargcount]) or 'none'}"
        )


def _check_receive(cls: type, receive: Any) -> None:
    """Refuse a ``receive`` in a class body that can't be called with a message."""
    given = 2 if isinstance(receive, staticmethod) else 3
    function = getattr(receive, "__func__", receive)
    try:
        checked(function, given if isinstance(function, FunctionType) else 2)
    except ConfigurationError as exc:
        raise ConfigurationError(f"receive() of {cls.__name__}: {exc}") from None


class Callbacks:
    """Hands messages to functions, or to the ``receive()`` of a subclass."""

    callbacks: Sequence[Callback] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "receive" in cls.__dict__:
            _check_receive(cls, cls.__dict__["receive"])

    def _set_callbacks(self, callbacks: Sequence[Callback] | None) -> None:
        given: Any = self.callbacks if callbacks is None else callbacks
        if callable(given) or isinstance(given, str):
            raise ConfigurationError(f"callbacks must be a list of functions, not {given!r}")
        self.callbacks = [checked(callback) for callback in given]
        checked(self.receive)

    def register_callback(self, callback: Callback) -> None:
        """Call ``callback(message_data, message)`` with each message.

        :raises ConfigurationError: it is no plain function of two arguments.
        """
        self.callbacks = [*self.callbacks, checked(callback)]

    def receive(self, message_data: Any, message: Message) -> None:
        """Called with each message: hands it to the callbacks. Override it in a subclass.

        :raises NotImplementedError: there are no callbacks.
        """
        if not self.callbacks:
            raise NotImplementedError(
                f"{type(self).__name__} doesn't know what to do with messages: call "
                "register_callback(f) with f(message_data, message), or subclass it with "
                "receive(self, message_data, message)"
            )
        for callback in self.callbacks:
            # What a callback returns is ignored; a coroutine or generator would not run.
            if (result := callback(message_data, message)) is not None:
                _check_result(callback, result)

    @property
    def has_receiver(self) -> bool:
        """Whether there are callbacks, or a ``receive()`` of a subclass."""
        return bool(self.callbacks) or type(self).receive is not Callbacks.receive


def _check_result(callback: Callback, result: Any) -> None:
    """Refuse what could not be known before the callback was called.

    :raises ConfigurationError: the message is as it was.
    """
    if hasattr(result, "__await__") or isinstance(result, (GeneratorType, AsyncGeneratorType)):
        if not isinstance(result, AsyncGeneratorType) and hasattr(result, "close"):
            result.close()  # else Python warns that nobody has awaited it
        kind = "a coroutine" if hasattr(result, "__await__") else "a generator"
        raise ConfigurationError(
            f"{callback!r} returned {kind}, which nobody runs: carrot is synchronous, so give it a "
            "plain function, such as one that calls asyncio.run()"
        )
