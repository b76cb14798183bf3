"""What happens before the interpreter ends: every open connection sends what it holds back.

The handler of ``atexit`` is registered here, once, when carrot is imported. Handlers run in the
reverse order of their registration, so those of the program that are registered later may still use
their connections. What a program does after this handler is sent at once: see :data:`has_run`.
"""

from __future__ import annotations

import atexit
import sys
import weakref
from contextlib import suppress
from typing import Protocol

from carrot.deadline import Deadline
from carrot.forks import Stage, register

#: Seconds for all connections together.
TIMEOUT = 5.0

#: Whether it is over: from now on nothing may be kept back.
has_run = False


class Finishing(Protocol):
    """What holds something back."""

    def finish(self, timeout: float) -> None: ...


_watched: weakref.WeakSet[Finishing] = weakref.WeakSet()
_is_registered = False


def watch(connection: Finishing) -> None:
    """Call ``connection.finish(seconds)`` when the interpreter ends, if it is still there then."""
    _watched.add(connection)
    if not _is_registered:
        _register()


def _register() -> None:
    global _is_registered
    _is_registered = True
    atexit.register(_finish_all)
    # Before Python 3.14, a forked child of multiprocessing ends without running atexit's handlers.
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _finish_all, exitpriority=0)


def _finish_all() -> None:
    """Let each connection send what it holds back; one that fails keeps no other from it."""
    global has_run
    has_run = True
    deadline = Deadline.after(TIMEOUT)
    connections = list(_watched)
    for number, connection in enumerate(connections):
        # One that doesn't answer leaves an equal share of the time to each other one.
        share = (deadline.left or 0.0) / (len(connections) - number)
        with suppress(Exception):
            connection.finish(share)


def _after_fork_in_child() -> None:
    """The connections are the parent's; the child's own handlers may have been cleared."""
    global has_run, _is_registered
    has_run = _is_registered = False
    _watched.clear()


_register()
register(Stage.TRANSPORTS, after_in_child=_after_fork_in_child)
