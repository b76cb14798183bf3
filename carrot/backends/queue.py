"""The name that the memory driver had in carrot 0.10."""

from __future__ import annotations

from carrot.backends.memory import Backend, Message

__all__ = ["Backend", "Message"]
