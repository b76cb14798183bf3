"""Backoff and Retry: how long to wait between attempts, and when to give up."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from math import inf

import pytest

from carrot.exceptions import ConfigurationError
from carrot.retry import Attempts, Backoff, Retry, pause, shorter


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (Backoff(1, 2, 6, retries=5), [1, 3, 5, 6, 6]),
        (Backoff(retries=3), [2, 4, 6]),
        (Backoff(5, 0, 30, retries=3), [5, 5, 5]),
        (Backoff(10, 1, 3, retries=2), [3, 3]),
        (Backoff(1, 1, inf, retries=3), [1, 2, 3]),
        (Backoff(0, 0.5, 1, retries=4), [0, 0.5, 1, 1]),
        (Backoff(retries=0), []),
    ],
)
def test_the_waits_grow_to_a_maximum(backoff: Backoff, waits: list[float]) -> None:
    assert list(backoff) == waits


def test_without_a_number_of_retries_it_never_ends() -> None:
    waits = list(islice(Backoff(2, 2, 30), 10_000))

    assert waits[0] == 2
    assert set(waits[14:]) == {30}


def test_each_iteration_begins_anew() -> None:
    backoff = Backoff(1, 1, 9, retries=3)

    assert list(backoff) == list(backoff) == [1, 2, 3]


def test_jitter_leaves_a_part_of_each_wait_to_chance() -> None:
    waits = list(Backoff(1, 0, 1, retries=1000, jitter=0.5))

    assert all(0.5 <= wait <= 1 for wait in waits)
    assert len(set(waits)) > 900


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Backoff(start=-1), "start must be a number of seconds, 0 or more: -1"),
        (lambda: Backoff(maximum=None), "maximum must be a number of seconds"),
        (lambda: Backoff(retries=1.5), "retries must be a whole number, 0 or more: 1.5"),
        (lambda: Backoff(jitter=2), "jitter must be a number from 0 to 1: 2"),
        (lambda: Backoff(jitter="much"), "jitter must be a number from 0 to 1: 'much'"),
        (lambda: Retry(attempts=True), "attempts must be a whole number, 0 or more: True"),
        (lambda: Retry(backoff=3), "backoff must be a Backoff.*not 3"),
        (lambda: Retry(seconds="soon"), "seconds must be a number of seconds, 0 or more: 'soon'"),
    ],
)
def test_numbers_that_cannot_be_are_told(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


def test_attempts_end_with_their_number() -> None:
    assert len(list(Attempts(Retry(attempts=4)))) == 4
    assert list(Attempts(Retry(attempts=0))) == []
    assert len(list(Attempts(Retry(backoff=Backoff(retries=2))))) == 2


def test_attempts_end_before_their_seconds_do() -> None:
    backoff = Backoff(start=0.4, step=0, maximum=0.4)
    attempts = Attempts(Retry(seconds=0.5, backoff=backoff))

    assert next(iter(attempts)) == 0.4
    assert attempts.left is not None
    assert 0 < attempts.left <= 0.5
    assert list(Attempts(Retry(seconds=0.3, backoff=backoff))) == []
    assert Attempts(Retry()).left is None


def test_the_first_attempt_comes_soon_and_none_later_than_a_second() -> None:
    waits = list(islice(Attempts(Retry()), 100))

    assert waits[0] <= 0.05
    assert max(waits) <= 1


def test_a_pause_ends_when_it_is_over() -> None:
    assert pause(60, lambda: True)
    assert not pause(0.01, lambda: False)


@pytest.mark.parametrize(
    ("one", "other", "expected"), [(1, 2, 1), (2, 1, 1), (None, 1, 1), (1, None, 1), (None,) * 3]
)
def test_the_shorter_of_two_timeouts(one: float, other: float, expected: float) -> None:
    assert shorter(one, other) == expected
