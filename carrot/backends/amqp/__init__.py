"""The native driver for RabbitMQ: AMQP 0-9-1, thread-safe, and a few microseconds a message."""

from carrot.backends.amqp.backend import Backend
from carrot.backends.base import BaseMessage as Message

__all__ = ["Backend", "Message"]
