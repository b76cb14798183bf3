"""Interleavings of two threads on purpose: one is held at a line of carrot's, the other runs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import carrot

HELD = 0.02  # seconds that the first waits for the second, which may need what the first holds
PATIENCE = 20.0
CARROT = str(Path(carrot.__file__).parent)


class _Held:
    """Runs a function in a thread, and holds it at the line of that number."""

    def __init__(self, line: int, function: Callable[[], object]) -> None:
        self.is_held = False
        self._line = line
        self._function = function
        self._arrived, self._go_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        sys.settrace(self._trace)
        try:
            self._function()
        finally:
            sys.settrace(None)
            self._arrived.set()

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(CARROT):
            return None
        if event == "line":
            self._line -= 1
            if self._line == 0:
                self.is_held = True
                self._arrived.set()
                self._go_on.wait(PATIENCE)
        return self._trace

    def start(self) -> None:
        """Let it run as far as that line, or to its end."""
        self.thread.start()
        assert self._arrived.wait(PATIENCE), "the first thread hangs"

    def go_on(self) -> None:
        self._go_on.set()


def interleave(line: int, first: Callable[[], object], second: Callable[[], object]) -> bool:
    """Hold *first* at so many lines of carrot's, run *second*, and let both end.

    :returns: whether *first* has so many lines; else *second* ran behind it.
    """
    held, other = _Held(line, first), threading.Thread(target=second)
    held.start()
    other.start()
    other.join(HELD)
    held.go_on()
    for thread in (held.thread, other):
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"a thread hangs (held at line {line})"
    return held.is_held
