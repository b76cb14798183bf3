"""Receiver: what Consumer, ConsumerSet and Messaging do with a message, and their loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from carrot.checks import seconds
from carrot.deadline import until
from carrot.exceptions import (
    AccessRefused,
    CarrotError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    ConsumerCancelled,
    OperationTimeout,
    PreconditionFailed,
    SerializationError,
)
from carrot.message import Message
from carrot.messaging.options import Configurable
from carrot.recovery import passes, recover
from carrot.retry import Retry, pause

Callback = Callable[[Any, Message], object]
ErrorCallback = Callable[[Message, SerializationError], object]


#: Seconds for ending a subscription when a loop ends, and how late that may be for its deadline.
RELEASE, LATE = 5.0, 0.5

_CO_COROUTINE = 0x80  # inspect has it too, for an import of 5 ms


def _checked(callback: Callback) -> Callback:
    code = getattr(callback, "__code__", None)
    if not callable(callback) or (code is not None and code.co_flags & _CO_COROUTINE):
        raise ConfigurationError(
            f"a callback is a plain function of (message_data, message), and this is none: "
            f"{callback!r}"
        )
    return callback


class Receiver(Configurable):
    """Hands messages to its callbacks, or to the ``receive()`` of a subclass."""

    callbacks: Sequence[Callback] = ()

    def _set_callbacks(self, callbacks: Sequence[Callback] | None) -> None:
        given: Any = self.callbacks if callbacks is None else callbacks
        if callable(given) or isinstance(given, str):
            raise ConfigurationError(f"callbacks must be a list of functions, not {given!r}")
        self.callbacks = [_checked(callback) for callback in given]
        _checked(self.receive)

    def register_callback(self, callback: Callback) -> None:
        """Call ``callback(message_data, message)`` with each message."""
        self.callbacks = [*self.callbacks, _checked(callback)]

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
            callback(message_data, message)

    @property
    def has_receiver(self) -> bool:
        """Whether there are callbacks, or a ``receive()`` of a subclass."""
        return bool(self.callbacks) or type(self).receive is not Receiver.receive


class Loop(Receiver):
    """Consumes until it is told to stop, and goes on over a new connection when one is lost.

    :ivar retry: how often and how long it tries to; by default until it works.
    :ivar raise_on_cancel: raise ConsumerCancelled when the broker ends a subscription, instead of
        declaring everything and subscribing again.
    """

    retry: Retry = Retry()
    raise_on_cancel: bool = False
    # Since the loop began: a loop that is reconnecting has no subscription to end.
    _is_cancelled: bool = False
    # The wait()s that run (the first makes a set of its own), and whether there was a subscription
    # before.
    _waiting: set[object] = set()  # noqa: RUF012
    _keeps_subscription: bool = False

    def consume(self) -> None:
        """Subscribe; harmless when it is subscribed already."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End the subscription: what was sent ahead and not processed goes back to the queue."""
        raise NotImplementedError

    @property
    def channel_open(self) -> bool:
        """Whether there is a subscription."""
        raise NotImplementedError

    def _subscribe_for(self, limit: int) -> None:
        """Subscribe in order to process so many messages, if that makes a difference."""
        raise NotImplementedError

    def _subscribe_again(self) -> None:
        """Subscribe as before, on a new channel."""
        raise NotImplementedError

    def _release(self) -> None:
        """End the subscription, unless the queue would go with it."""
        raise NotImplementedError

    def wait(self, limit: int | None = None, timeout: float | None = None) -> None:
        """Process messages as they arrive, until :meth:`stop`, or until *limit* are processed.

        On return the subscription that it made is ended, and what the broker had sent ahead is
        back in the queue; where several threads wait, when the last of them returns. With
        ``auto_delete`` the subscription stays until :meth:`cancel` or :meth:`close`, because the
        queue goes with its last one.

        When the connection is lost, it is made again, and everything declared and subscribed.

        :param timeout: seconds for all of it; None waits as long as it takes.
        :raises OperationTimeout: not all were processed in time.
        :raises Exception: what a callback raises; the message stays as the callback left it.
        :raises DecodeError: a body that can't be decoded, without ``on_decode_error``.
        :raises ConnectionLost: or ConnectionFailed: the connection is gone, and the attempts of
            :attr:`retry` are used up, or the connection has ``reconnect=False``.
        """
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise ConfigurationError(f"limit must be a whole number, or None: {limit!r}")
        deadline = _deadline(timeout)
        self._is_cancelled = False
        # As it is now: a stop() that comes while this subscribes may be heeded by another's loop.
        stops = self.backend.stops_heeded
        this = object()
        try:
            with until(deadline):
                self._begin_waiting(this)
            if limit is not None and limit > 0 and not self.channel_open:
                self._subscribing(lambda: self._subscribe_for(limit), stops, deadline)
            left = {} if deadline is None else {"timeout": max(0.0, deadline - time.monotonic())}
            if not self.backend.is_stopping(stops):
                for _ in self.iterconsume(limit, **left):
                    pass
        finally:
            self.backend.forget_stop()
            if this in self._waiting:  # else it has not begun, and another's is not its to end
                self._waiting.discard(this)
                if not self._keeps_subscription:
                    self._release_soon(deadline)

    def _begin_waiting(self, this: object) -> None:
        """Several threads may wait: what the first of them subscribes is ended by the last."""
        with self.backend.unchanged():
            if not self._waiting:
                self._waiting, self._keeps_subscription = set(), self.channel_open
            self._waiting.add(this)

    def _release_soon(self, deadline: float | None) -> None:
        """End the subscription; when that fails, the broker takes everything back as well."""
        now = time.monotonic()
        patience = RELEASE if deadline is None else max(0.0, deadline - now) + LATE
        with (
            suppress(CarrotError),
            until(now + min(RELEASE, patience)),
            self.backend.unchanged(),
        ):
            if not self._waiting:
                self._release()

    def iterconsume(
        self, limit: int | None = None, *, timeout: float | None = None
    ) -> Iterator[bool]:
        """Subscribe now; each step of the iterator waits for a message and processes it.

        :param limit: stop after this many; None goes on until :meth:`stop`, :meth:`cancel` or
            :meth:`close`. The subscription stays until one of the last two.
        :param timeout: seconds for all of it; then it raises OperationTimeout.
        """
        return self._iterate(self.consume, limit, timeout)

    def _iterate(
        self, subscribe: Callable[[], object], limit: int | None, timeout: float | None
    ) -> Iterator[bool]:
        deadline = _deadline(timeout)
        self._is_cancelled = False
        # First, as in wait().
        heal = partial(self._heal, deadline=deadline)
        iterator = self.backend.consume(limit=limit, deadline=deadline, heal=heal)
        self._subscribing(subscribe, iterator.stops, deadline)
        return iterator

    # -- the connection, lost and found

    def _subscribing(
        self, subscribe: Callable[[], object], stops: int, deadline: float | None
    ) -> None:
        try:
            with until(deadline):
                subscribe()
        except CarrotError as exc:
            if not self._heal(exc, stops, deadline):
                raise

    def _heal(self, error: CarrotError, stops: int, deadline: float | None) -> bool:
        """Go on after *error*, if it is such that one can; False: it is to be raised."""
        if not (self.connection.may_reconnect and self._is_curable(error)):
            return False
        retry = self.retry
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        is_shorter = left is not None and (retry.seconds is None or left < retry.seconds)
        try:
            recover(
                self.connection,
                error,
                self._subscribe_if_wanted,
                replace(retry, seconds=left) if is_shorter else retry,
                lambda: self._is_over(stops, deadline),
                self._is_worth_another,
            )
        except (ConnectionLost, ConnectionFailed, OperationTimeout) as exc:
            gave_up = retry.attempts is not None or not self.connection.may_reconnect
            if not is_shorter or gave_up or isinstance(exc, AccessRefused):
                raise
            # No other attempt would end in time.
            left = max(0.0, (deadline or 0.0) - time.monotonic())
            pause(left, lambda: self._is_over(stops, deadline))
            if not _is_past(deadline):
                return True  # it was told to stop
            raise OperationTimeout(f"the timeout is over, and the last attempt: {exc}") from exc
        if _is_past(deadline):
            raise OperationTimeout(f"the timeout is over, and this is not mended: {error}")
        return True

    def _is_over(self, stops: int, deadline: float | None) -> bool:
        """Whether nobody needs another attempt."""
        return (
            self.backend.is_stopping(stops)
            or (self._is_cancelled and not self.backend.is_wanted)
            or _is_past(deadline)
        )

    def _subscribe_if_wanted(self) -> None:
        if not self._is_cancelled:
            self._subscribe_again()
        # Others may share the channel, and have no loop of their own.
        self.backend.subscribe_lost_again()
        if self._is_cancelled:
            self.cancel()  # meanwhile

    def _is_worth_another(self, error: Exception) -> bool:
        """Whether to try once more after an attempt that ended so."""
        # What happened to an earlier channel may only be told now.
        return passes(error) or self._is_curable(error)

    def _is_curable(self, error: Exception) -> bool:
        if isinstance(error, ConsumerCancelled):
            return not self.raise_on_cancel
        if isinstance(error, PreconditionFailed):
            # Of a message that was not acked in time; it is delivered again
            # (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
            return "timed out" in error.text
        return isinstance(error, (ConnectionLost, ConnectionFailed)) and passes(error)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + seconds("timeout", timeout)


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
