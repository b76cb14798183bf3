"""The ids by which a receiver can tell that a message came twice."""

from __future__ import annotations

import os
from itertools import count

# Of this process, and then a number: 0.2 µs, where a uuid4 takes 2.
_process = os.urandom(9).hex()
# Any thread may take the next one: count() is one step of the interpreter's.
_numbers = count(1)


def new_message_id() -> str:
    """An id that no other message has."""
    return f"{_process}-{next(_numbers)}"


def _after_fork_in_child() -> None:
    global _process
    _process = os.urandom(9).hex()


os.register_at_fork(after_in_child=_after_fork_in_child)
