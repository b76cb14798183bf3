"""Functions that run at once, each in a thread of its own, always with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable

from carrot.deadline import Deadline


def start(*targets: Callable[[], object], within: float = 60.0) -> Callable[[], None]:
    """Start them; the function returned waits for their ends, and raises what the first raised.

    :param within: seconds for all of them; afterwards an AssertionError says how many still run.
    """
    errors: list[BaseException] = []

    def guarded(target: Callable[[], object]) -> None:
        try:
            target()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    deadline = Deadline.after(within)
    for thread in threads:
        thread.start()

    def join() -> None:
        for thread in threads:
            thread.join(deadline.left)
        if errors:
            raise errors[0]  # the others may hang because of it
        left = sum(thread.is_alive() for thread in threads)
        assert not left, f"{left} of {len(threads)} threads still run after {within} s"

    return join


def run(*targets: Callable[[], object], within: float = 60.0) -> None:
    """Run them at once; raise what the first of them raised."""
    start(*targets, within=within)()
