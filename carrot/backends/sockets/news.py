"""News: what the program is told of a connection by a thread that does nothing else."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable

from carrot import signal_safe


class News:
    """Tells one thing after the other, where no lock is held and nobody is reading.

    The thread that learns of it may be in the middle of a request. ``_telling`` is a thread's turn
    to tell, and held meanwhile.
    """

    def __init__(self) -> None:
        self._untold: deque[Callable[[], object]] = deque()
        self.renew_locks()

    def renew_locks(self) -> None:
        """Make the lock, also in a forked child, whose parent's threads may hold the old one."""
        self._telling = threading.Lock()

    def add(self, tell: Callable[[], object]) -> None:
        """Call *tell* after the next :meth:`tell_all`."""
        self._untold.append(tell)

    def tell_all(self) -> None:
        """Tell what there is, in a thread of its own.

        As the interpreter ends there may be no such thread, and nobody to be told.
        """
        if self._untold:
            signal_safe.try_to_start(threading.Thread(target=self._tell, daemon=True))

    def _tell(self) -> None:
        with self._telling:
            while self._untold:
                try:
                    self._untold.popleft()()
                except Exception:
                    # The program's own fault, shown as that of any thread; the rest is told.
                    thread = threading.current_thread()
                    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), thread)))
