"""The memory driver: RabbitMQ's semantics inside this process, with no broker to install."""

from __future__ import annotations

from carrot.backends.memory.backend import Backend, Message, Transport, reset

__all__ = ["Backend", "Message", "Transport", "reset"]
