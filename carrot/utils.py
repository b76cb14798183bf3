"""Three functions that programs written for carrot 0.10 import from here."""

from __future__ import annotations

from uuid import uuid4

__all__ = ["gen_unique_id", "partition", "rpartition"]


def gen_unique_id() -> str:
    """A new random UUID, as text."""
    return str(uuid4())


def partition(text: str, separator: str) -> tuple[str, str, str]:
    """``text.partition(separator)``."""
    return text.partition(separator)


def rpartition(text: str, separator: str) -> tuple[str, str, str]:
    """``text.rpartition(separator)``."""
    return text.rpartition(separator)
