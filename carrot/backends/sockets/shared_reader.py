"""SharedReader: any number of threads wait on one connection, and each reads for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds after which who waits for a turn looks again: a signal handler's exception may have
#: ended the one who had it before it could say so.
LOOK = 1.0


class SharedReader:
    """Who of the waiting threads reads. There is no thread of its own.

    A thread that waits takes the turn and reads once, or, when another one has the turn, waits
    until that has read; then it looks whether what it waits for has come.

    :param read_once: takes in what has come, waiting at most so many seconds for it (None: as long
        as it takes), and returns at once when it is woken.
    :param afterwards: called when somebody has read, and the turn is free again.
    :ivar is_taken: whether somebody is reading, or waiting to read.
    """

    def __init__(
        self,
        read_once: Callable[[float | None], object],
        afterwards: Callable[[], object] = lambda: None,
    ) -> None:
        self._read_once = read_once
        self._afterwards = afterwards
        self._passed = threading.Condition()
        self.is_taken = False

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> bool:
        """Wait until ``ready()`` is true; False: it was not, within *timeout* seconds.

        With 0 seconds it still reads once.

        :raises Exception: what reading raises.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not ready():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            mine = False
            try:
                with self._passed:
                    if self.is_taken:
                        # It may have come between the look above and the lock.
                        if ready():
                            return True
                        pause = LOOK if left is None else min(left, LOOK)
                        if not self._passed.wait(pause) and pause == left:
                            return bool(ready())
                        continue
                    self.is_taken = mine = True
                # It may have come with what the one before us read.
                if not ready():
                    self._read_once(left)
            finally:
                if mine:
                    # Before any call: a signal handler may raise in each of them.
                    self.is_taken = False
                    self._wake_the_others()
            self._afterwards()
            if left == 0:
                return bool(ready())
        return True

    def _wake_the_others(self) -> None:
        """The turn is free again; everybody looks whether theirs has come."""
        with self._passed:
            self._passed.notify_all()
