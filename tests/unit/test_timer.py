"""The timer thread: it starts when it is needed, and says so when it can't."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from carrot import signal_safe
from carrot.backends.sockets.timer import Timer


class EndingTimer(Timer):
    """One whose thread ends when a function that it calls raises SystemExit."""

    def _run(self) -> None:
        with suppress(SystemExit):
            super()._run()


@pytest.fixture
def timer() -> Iterator[Timer]:
    """A timer whose thread ends with the test: others count the threads of the process."""
    timer = EndingTimer()
    yield timer
    if (thread := timer._thread) is not None and thread.is_alive():
        timer.call_in(0, sys.exit)
        thread.join(5)
        assert not thread.is_alive()


def test_a_thread_that_could_not_be_started_is_started_by_the_next_call(
    timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def start(thread: threading.Thread) -> None:
        started.append(thread.name)
        if len(started) == 1:
            raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(signal_safe, "start", start)

    assert not timer.call_in(0, list)
    assert timer.call_in(0, list)
    assert timer.call_in(0, list)

    assert started == ["carrot-timer"] * 2


def test_what_is_due_is_called_in_its_order(timer: Timer) -> None:
    called, is_done = list[int](), threading.Event()

    timer.call_in(0.1, lambda: (called.append(3), is_done.set()))
    timer.call_in(0.01, lambda: called.append(1))
    timer.call_in(0.02, lambda: called.append(2))

    assert is_done.wait(5)
    assert called == [1, 2, 3]


def test_a_function_that_raises_stops_no_other(timer: Timer) -> None:
    is_done = threading.Event()

    timer.call_in(0, lambda: 1 / 0)
    timer.call_in(0.01, is_done.set)

    assert is_done.wait(5)
