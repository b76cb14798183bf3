"""A clean stop: a signal ends the loops when the message in hand is done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Protocol

from carrot import signal_safe
from carrot.checks import seconds as checked_seconds
from carrot.exceptions import ConfigurationError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Seconds for closing, when the program is to end at once; then it ends without.
CLOSING = 1.0


class Stoppable(Protocol):
    """A Consumer, or a ConsumerSet."""

    def stop(self) -> None: ...


class _Stop(AbstractContextManager["_Stop"]):
    """What the first signal begins, and the second, or the end of patience, cuts short."""

    def __init__(
        self,
        loops: Sequence[Stoppable],
        patience: float | None,
        signals: Sequence[signal.Signals],
    ) -> None:
        self.was_asked = False
        self._loops = loops
        self._patience = patience
        self._before: dict[signal.Signals, Any] = {
            number: signal.signal(number, self) for number in signals
        }

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.was_asked:
            # As the shell counts what a signal ended. What is unsettled goes back to its queue.
            _later(CLOSING, os._exit, 128 + number)
            raise SystemExit(128 + number)
        self.was_asked = True
        if self._patience is not None:
            _later(self._patience, os.kill, os.getpid(), number)
        for loop in self._loops:
            loop.stop()

    def __exit__(self, *error: object) -> None:
        # When the program is to end, a second signal ends it at once, and patience has an end.
        if not self.was_asked:
            for number, handler in self._before.items():
                signal.signal(number, handler)


def _later(pause: float, function: Callable[..., object], *args: int) -> None:
    timer = threading.Timer(pause, function, args)
    timer.daemon = True
    signal_safe.start(timer)


def stop_on_signals(
    *loops: Stoppable,
    seconds: float | None = 30,
    signals: Sequence[signal.Signals] = SIGNALS,
) -> AbstractContextManager[object]:
    """Let a signal end ``wait()`` and ``iterconsume()`` when the message in hand is done.

    What the broker sent ahead goes back to its queue, and the program goes on behind the loop, to
    close its connection and end. A second signal ends it at once, with SystemExit, and so does
    the first one when the program still runs *seconds* later. What that SystemExit lets run on the
    way out has a second, and then the process is gone.

    :param loops: each Consumer and ConsumerSet that is to stop.
    :param seconds: None waits as long as it takes.
    :param signals: default SIGTERM (systemd, containers) and SIGINT (Ctrl-C).
    :returns: for ``with``: when no signal came in the block, they do what they did before. Called
        without ``with`` it holds for as long as the program runs.
    :raises ConfigurationError: nothing that could be stopped; or used outside the main thread,
        where Python has no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "stop_on_signals() works in the main thread only: call the consumer's stop() instead"
        )
    if not loops or not all(callable(getattr(loop, "stop", None)) for loop in loops):
        raise ConfigurationError(
            f"stop_on_signals() takes the Consumers and ConsumerSets that are to stop: {loops!r}"
        )
    return _Stop(loops, None if seconds is None else checked_seconds("seconds", seconds), signals)
