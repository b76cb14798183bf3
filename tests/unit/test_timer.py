"""The timer thread: it starts when it is needed, also when it could not be before."""

from __future__ import annotations

import threading

import pytest

from carrot import signal_safe
from carrot.backends.sockets.timer import Timer


def test_a_thread_that_could_not_be_started_is_started_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []

    def start(thread: threading.Thread) -> None:
        started.append(thread.name)
        if len(started) == 1:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(signal_safe, "start", start)
    timer = Timer()

    with pytest.raises(RuntimeError):
        timer.call_in(0, list)
    timer.call_in(0, list)
    timer.call_in(0, list)

    assert started == ["carrot-timer"] * 2
