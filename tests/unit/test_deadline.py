"""Deadlines: values, and those of a thread, which only get shorter inside a block."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from carrot.deadline import (
    Deadline,
    bounded_by,
    describe,
    held,
    milliseconds,
    now,
    remaining,
    shorter,
    thread_deadline,
)
from carrot.exceptions import OperationTimeout
from tests.waiting import eventually

# -- the value


def test_a_deadline_tells_what_is_left() -> None:
    ahead = Deadline.after(10)

    assert ahead.left is not None
    assert 9 < ahead.left <= 10
    assert not ahead.is_past


def test_a_deadline_that_is_past_has_nothing_left() -> None:
    past = Deadline.after(-1)

    assert past.left == 0
    assert past.is_past
    assert Deadline.after(0).is_past


def test_no_deadline_is_never_past() -> None:
    assert Deadline.after(None) == Deadline.NEVER
    assert Deadline.NEVER.left is None
    assert not Deadline.NEVER.is_past


def test_the_earlier_of_two_counts() -> None:
    soon, late, never = Deadline(5.0), Deadline(7.0), Deadline.NEVER

    assert soon.earlier(late) is soon
    assert late.earlier(soon) is soon
    assert never.earlier(late) is late
    assert late.earlier(never) is late
    assert never.earlier(never) is never


def test_a_deadline_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Deadline.after(1).at = 5.0  # type: ignore[misc]


# -- a thread's own


def test_without_a_deadline_a_timeout_is_what_it_is() -> None:
    assert remaining(None) is None
    assert remaining(3) == 3
    assert thread_deadline() is Deadline.NEVER


def test_a_deadline_only_gets_shorter_inside_a_block() -> None:
    with bounded_by(Deadline.after(10)):
        with bounded_by(Deadline.after(1000)):
            assert 9 < (remaining(None) or 0) <= 10
        with bounded_by(Deadline.after(2)):
            assert 1 < (remaining(60) or 0) <= 2
            assert remaining(0.5) == 0.5
        with bounded_by(Deadline.NEVER):
            assert 9 < (remaining(60) or 0) <= 10
    assert remaining(None) is None


def test_a_moment_and_none_are_taken_for_deadlines() -> None:
    with bounded_by(now() + 2), bounded_by(None):
        assert 1 < (remaining(60) or 0) <= 2


def test_a_deadline_that_is_over_leaves_nothing() -> None:
    with bounded_by(Deadline.after(-1)):
        assert remaining(None) == 0


def test_an_error_in_a_block_ends_its_deadline() -> None:
    with pytest.raises(ZeroDivisionError), bounded_by(Deadline.after(1)):
        raise ZeroDivisionError

    assert thread_deadline() is Deadline.NEVER


def test_other_threads_have_their_own() -> None:
    seen: list[float | None] = []
    with bounded_by(Deadline.after(1)):
        thread = threading.Thread(target=lambda: seen.append(remaining(None)))
        thread.start()
        thread.join(5)
    assert seen == [None]


# -- timeouts


def test_it_is_described_for_people() -> None:
    assert describe(30) == "30 seconds"
    assert describe(0.5) == "0.5 seconds"
    assert describe(0.33333) == "0.33 seconds"
    assert describe(None) == "ever"


def test_the_shorter_of_two_timeouts_counts() -> None:
    assert shorter(1, 2) == shorter(2, 1) == shorter(None, 1) == shorter(1, None) == 1
    assert shorter(None, None) is None


def test_no_wait_is_longer_than_poll_can_count() -> None:
    assert milliseconds(None) is None
    assert milliseconds(1.5) == 1500
    assert milliseconds(4e9) < 2**31


@pytest.fixture
def busy() -> Iterator[tuple[threading.RLock, threading.Event]]:
    """A lock that another thread holds until an event is set."""
    lock, is_held, release = threading.RLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(5)
    yield lock, release
    release.set()
    thread.join(5)


def test_a_lock_is_waited_for_until_the_deadline(busy: Any) -> None:
    lock, _ = busy

    with (
        bounded_by(Deadline.after(0.1)),
        pytest.raises(OperationTimeout, match=r"too long for nothing: 0.1"),
        held(lock, "for nothing"),
    ):
        pytest.fail("it is not ours")

    with pytest.raises(OperationTimeout), held(lock, "for nothing", 0.1):
        pytest.fail("it is not ours")


def test_a_lock_is_held_and_free_again_also_when_it_is_held_twice(busy: Any) -> None:
    lock, release = busy
    release.set()

    with bounded_by(Deadline.after(5)):
        with held(lock, "for nothing"), held(lock, "for nothing"):
            assert lock._is_owned()
        assert not lock._is_owned()
        with pytest.raises(ZeroDivisionError), held(lock, "for nothing"):
            _ = 1 / 0
    assert not lock._is_owned()


def test_many_that_wait_for_one_lock_all_keep_their_deadlines(busy: Any) -> None:
    """With a look at the lock before it was taken, whoever came second waited without one."""
    lock, release = busy
    waiting, done, begun = threading.Barrier(5), threading.Event(), now()
    got, late = [], []

    def take() -> None:
        try:
            with bounded_by(Deadline.after(0.5)):
                waiting.wait(5)
                with held(lock, "for nothing"):
                    got.append(now() - begun)
                    done.wait(5)  # longer than the others can wait
        except OperationTimeout:
            late.append(now() - begun)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting.wait(5)
    release.set()
    eventually(lambda: len(got) + len(late) == 4, 4)
    done.set()
    for thread in threads:
        thread.join(5)

    assert len(got) == 1
