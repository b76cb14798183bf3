"""One timer thread a process: it beats the hearts of all connections, and flushes late acks."""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from carrot import signal_safe


class Timer:
    """Calls functions at their time, one after the other, in a thread that starts when needed.

    Owns its thread and its heap; a lock guards both. The functions are quick and never raise.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None

    def after_fork_in_child(self) -> None:
        """The thread stayed with the parent, and so did what it was to do."""
        self._forget()

    def call_in(self, seconds: float, function: Callable[[], object]) -> None:
        """Call *function* once, in that many seconds."""
        when = time.monotonic() + seconds
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._numbers), function))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="carrot-timer", daemon=True)
                signal_safe.start(thread)
                self._thread = thread  # when it could be started: the next call tries again
            elif self._heap[0][0] == when:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._heap:
                    self._changed.wait()
                when, _, function = self._heap[0]
                pause = when - time.monotonic()
                if pause > 0:
                    self._changed.wait(pause)
                    continue
                heapq.heappop(self._heap)
            # What goes wrong on one connection shows there, and must not stop the hearts of others.
            with suppress(Exception):
                function()


#: The process's own.
timer = Timer()
os.register_at_fork(after_in_child=timer.after_fork_in_child)
