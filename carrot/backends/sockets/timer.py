"""One timer thread for the process: it sends all heartbeats, and the acks that were kept back."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from carrot import signal_safe
from carrot.deadline import now
from carrot.forks import Stage, register


class Timer:
    """Calls functions at their time, one after the other, in a thread that starts at the first.

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

    def call_in(self, seconds: float, function: Callable[[], object]) -> bool:
        """Call *function* once, in that many *seconds*.

        :returns: False: no thread can be started (as the interpreter ends, from Python 3.12 on), so
            it won't be called.
        """
        with self._changed:
            if self._thread is None and not self._start():
                return False
            when = now() + seconds
            heapq.heappush(self._heap, (when, next(self._numbers), function))
            if self._heap[0][0] == when:
                self._changed.notify()
        return True

    def _start(self) -> bool:
        """Start the thread, under the lock; when that fails, the next call tries again."""
        thread = threading.Thread(target=self._run, name="carrot-timer", daemon=True)
        if not signal_safe.try_to_start(thread):
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._heap:
                    self._changed.wait()
                when, _, function = self._heap[0]
                pause = when - now()
                if pause > 0:
                    self._changed.wait(pause)
                    continue
                heapq.heappop(self._heap)
            # A fault on one connection shows there, and must not stop the heartbeats of others.
            with suppress(Exception):
                function()


#: The process's own.
timer = Timer()
register(Stage.TIMERS, after_in_child=timer.after_fork_in_child)
