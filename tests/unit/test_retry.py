"""Backoff: how long to wait between attempts."""

from __future__ import annotations

from itertools import islice

import pytest

from carrot.retry import Backoff


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (Backoff(1, 2, 6, retries=5), [1, 3, 5, 6, 6]),
        (Backoff(retries=3), [2, 4, 6]),
        (Backoff(5, 0, 30, retries=3), [5, 5, 5]),
        (Backoff(10, 1, 3, retries=2), [3, 3]),
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
