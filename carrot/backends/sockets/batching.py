"""Batching: which threads' messages are held back, to go out together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Flushing(Protocol):
    """What sends what was held back."""

    def flush(self) -> None: ...
    def flush_soon(self) -> None: ...


class Batching:
    """The threads of a channel that are in a batch."""

    def __init__(self, view: Flushing) -> None:
        self._view = view
        self._threads: set[int] = set()

    @property
    def holds_back(self) -> bool:
        """Whether what this thread publishes is sent with what follows it."""
        return bool(self._threads) and threading.get_ident() in self._threads

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Hold back what this thread publishes in this context, and send it at the end."""
        thread = threading.get_ident()
        self._threads.add(thread)
        try:
            yield
        except BaseException:
            self._threads.discard(thread)
            self._view.flush_soon()
            raise
        self._threads.discard(thread)
        self._view.flush()
