"""SharedReader: any number of threads wait on one connection, and each reads for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from carrot.deadline import Deadline, shorter

#: How often a waiting thread looks at the turn again, in seconds: the reading thread may have been
#: ended by a signal handler's exception, without a word to the others.
LOOK = 1.0


class SharedReader:
    """Lets one of the waiting threads read for all; there is no thread that only reads.

    A waiting thread takes the turn and reads once. If another one has the turn, it waits until that
    one has read. Then it looks whether what it waits for has come.

    :param read_once: takes in what has come, waiting at most so many seconds for it (None: as long
        as it takes), and returns at once when it is woken.
    :param afterwards: called after each reading, when the turn is free again.
    :ivar is_taken: whether a thread is reading, or waiting to read.
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
        if ready():
            return True
        deadline = Deadline.after(timeout)
        while True:
            left = deadline.left
            mine = False
            try:
                with self._passed:
                    if not self.is_taken:
                        self.is_taken = mine = True
                    # It may have come between the look before this and the lock.
                    elif ready():
                        return True
                    elif not self._passed.wait(shorter(left, LOOK)) and deadline.is_past:
                        return bool(ready())
                # It may have come with what the thread before this one has read.
                if mine and not ready():
                    self._read_once(left)
            finally:
                if mine:
                    # Before any call: a signal handler may raise in each of them.
                    self.is_taken = False
                    self._wake_the_others()
            if mine:
                self._afterwards()
            if ready():
                return True
            if left == 0:
                return False

    def _wake_the_others(self) -> None:
        """The turn is free again: let all waiting threads look."""
        with self._passed:
            self._passed.notify_all()
