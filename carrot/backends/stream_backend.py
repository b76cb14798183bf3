"""StreamBackend: what backends on a StreamTransport have in common: when what is sent goes out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from carrot.backends.base import BaseBackend
from carrot.backends.confirms import Confirms


class StreamBackend(BaseBackend):
    """A channel whose messages are numbered as they are written, by any number of threads.

    Its channels have ``is_open``, ``confirms`` (their books), ``flush()`` and ``flush_soon()``.
    ``_publishing`` is held from a message's number to its write.
    """

    def renew_locks(self) -> None:
        super().renew_locks()
        self._publishing = threading.RLock()
        #: The threads whose messages are kept back, to go out together.
        self._batching: set[int] = set()

    # -- the channel's life

    def _is_usable(self, channel: Any) -> bool:
        return channel is not None and channel.is_open

    def on_give_up(self, channel: Any) -> None:
        """The channel says: nobody waits for its answers any more."""
        if channel is self._channel:
            self._forget_channel()
            self.interrupt()

    def close(self) -> None:
        # Not between a message's number and its write.
        with self._publishing:
            super().close()

    # -- publishing

    @contextmanager
    def batching(self) -> Iterator[None]:
        thread = threading.get_ident()
        self._batching.add(thread)
        try:
            yield
        except BaseException:
            self._batching.discard(thread)
            if (channel := self._channel) is not None:
                channel.flush_soon()
            raise
        self._batching.discard(thread)
        if (channel := self._channel) is not None:
            channel.flush()

    @property
    def _keeps_back(self) -> bool:
        """Whether what this thread publishes is sent with what follows it."""
        return threading.get_ident() in self._batching

    def confirm_select(self) -> None:
        with self._publishing:
            super().confirm_select()

    def _confirming(self, channel: Any) -> Confirms:
        # Its own: what is read of an earlier channel, while this one is opened, is not for these.
        channel.confirms = confirms = super()._confirming(channel)
        return confirms

    def _channel_and_books(self) -> tuple[Any, Confirms | None]:
        """The channel and the confirms that belong to it; a reader may take both away any time."""
        while True:
            channel = self._channel
            if channel is None or not channel.is_open or self._failure is not None:
                channel = self.channel  # opens one, or raises why there is none
            confirms = self.confirms
            # They come before the channel, and go after it.
            if channel is self._channel and (confirms is not None or not self._is_confirming):
                return channel, confirms
