"""Freezing: a broker that does nothing any more, and not only from some time soon on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.waiting import eventually

PROC = Path("/proc")


def wait_until_stopped(pid: int) -> None:
    """Return when SIGSTOP, sent before, has reached every thread of the process and its group.

    Sending it returns at once, while other processors go on for a moment: enough for an answer.
    """
    if PROC.joinpath("self", "task").exists():  # elsewhere it is quick, as far as is known
        eventually(lambda: set(_states(pid)) <= set("TtZX"))


def _states(pid: int) -> Iterator[str]:
    for stat in PROC.glob("[0-9]*/stat"):
        fields = _fields(stat)
        if fields and (int(stat.parent.name) == pid or fields[2] == str(pid)):
            for thread in stat.parent.glob("task/*/stat"):
                yield from _fields(thread)[:1]


def _fields(stat: Path) -> list[str]:
    """State, parent, process group and so on (proc(5)); empty: it has ended."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
