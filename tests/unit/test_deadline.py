"""A thread's deadline: it only gets shorter inside a block, and is nobody else's."""

from __future__ import annotations

import threading
import time

import pytest

from carrot.deadline import milliseconds, spelled, until, wait_to_hold, within
from carrot.exceptions import OperationTimeout


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


def test_a_lock_is_waited_for_until_the_deadline() -> None:
    lock, is_held, release = threading.RLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(5)
    try:
        wait_to_hold(lock, "for nothing")  # without a deadline it doesn't wait: with does
        with (
            until(time.monotonic() + 0.1),
            pytest.raises(OperationTimeout, match=r"too long for nothing: 0.1"),
        ):
            wait_to_hold(lock, "for nothing")
    finally:
        release.set()
        thread.join(5)
    with until(time.monotonic() + 5):
        wait_to_hold(lock, "for nothing")
        assert lock.acquire(blocking=False)


def test_no_wait_is_longer_than_poll_can_count() -> None:
    assert milliseconds(None) is None
    assert milliseconds(1.5) == 1500
    assert milliseconds(4e9) < 2**31
