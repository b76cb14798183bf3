"""Receiver: what Consumer, ConsumerSet and Messaging do with a message, and their loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from carrot.exceptions import CarrotError, SerializationError
from carrot.message import Message
from carrot.messaging.options import Configurable

Callback = Callable[[Any, Message], object]
ErrorCallback = Callable[[Message, SerializationError], object]


class Receiver(Configurable):
    """Hands messages to its callbacks, or to the ``receive()`` of a subclass."""

    callbacks: Sequence[Callback] = ()

    def register_callback(self, callback: Callback) -> None:
        """Call ``callback(message_data, message)`` with each message."""
        self.callbacks = [*self.callbacks, callback]

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
    """Consumes until it is told to stop."""

    def iterconsume(self, limit: int | None = None) -> Iterator[bool]:
        """Subscribe now; each step of the iterator waits for a message and processes it."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End the subscription: what was sent ahead and not processed goes back to the queue."""
        raise NotImplementedError

    @property
    def channel_open(self) -> bool:
        """Whether there is a subscription."""
        raise NotImplementedError

    def _release(self) -> None:
        """End the subscription, unless the queue would go with it."""
        raise NotImplementedError

    def wait(self, limit: int | None = None) -> None:
        """Process messages as they arrive, until :meth:`stop`, or until *limit* are processed.

        On return the subscription that it made is ended, and what the broker had sent ahead is
        back in the queue. Only with ``auto_delete`` the subscription stays until :meth:`cancel`
        or :meth:`close`, because the queue goes with its last one.

        :raises Exception: what a callback raises; the message stays as the callback left it.
        :raises DecodeError: a body that can't be decoded, without ``on_decode_error``.
        :raises ConnectionLost: the connection is gone.
        """
        was_open = self.channel_open
        try:
            for _ in self.iterconsume(limit):
                pass
        except BaseException:
            if not was_open:
                with suppress(CarrotError):
                    self._release()
            raise
        if not was_open:
            self._release()
