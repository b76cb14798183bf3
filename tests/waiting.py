"""Waiting for something to become true, always with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE = 0.01  # seconds between two looks


def eventually(check: Callable[[], T], within: float = 5.0) -> T:
    """What *check* returns as soon as that is true; it may also assert, and then pass.

    :param within: seconds; afterwards an AssertionError says what the last look saw.
    """
    deadline = time.monotonic() + within
    while True:
        is_last = time.monotonic() >= deadline
        try:
            seen = check()
            if seen:
                return seen
            assert not is_last, repr(seen)
        except AssertionError as exc:
            if is_last:
                name = getattr(check, "__qualname__", repr(check))
                raise AssertionError(f"{name} was not true within {within} s: {exc}") from exc
        time.sleep(PAUSE)
