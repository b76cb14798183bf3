"""The memory driver: RabbitMQ's semantics inside this process, with no broker to install."""

from __future__ import annotations

from carrot.backends.base import BaseMessage as Message
from carrot.backends.memory.backend import Backend, Transport, reset

__all__ = ["Backend", "Message", "Transport", "reset"]
