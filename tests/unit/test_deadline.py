"""A thread's deadline: it only gets shorter inside a block, and is nobody else's."""

from __future__ import annotations

import threading
import time

from carrot.deadline import spelled, until, within


def test_without_a_deadline_a_timeout_is_what_it_is() -> None:
    assert within(None) is None
    assert within(3) == 3


def test_the_inner_block_may_only_be_shorter() -> None:
    now = time.monotonic()
    with until(now + 10):
        with until(now + 1000):
            assert 9 < (within(None) or 0) <= 10
        with until(now + 2):
            assert 1 < (within(60) or 0) <= 2
            assert within(0.5) == 0.5
        with until(None):
            assert 9 < (within(60) or 0) <= 10
    assert within(None) is None


def test_a_deadline_that_is_over_leaves_nothing() -> None:
    with until(time.monotonic() - 1):
        assert within(None) == 0


def test_other_threads_have_their_own() -> None:
    seen: list[float | None] = []
    with until(time.monotonic() + 1):
        thread = threading.Thread(target=lambda: seen.append(within(None)))
        thread.start()
        thread.join(5)
    assert seen == [None]


def test_it_is_spelled_for_people() -> None:
    assert spelled(30) == "30 seconds"
    assert spelled(0.5) == "0.5 seconds"
    assert spelled(0.33333) == "0.33 seconds"
