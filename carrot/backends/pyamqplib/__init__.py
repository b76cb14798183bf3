"""RabbitMQ through py-amqp's ordinary calls: plain and short, one thread at a time.

A lock around each call keeps threads from spoiling each other's work; the driver reads only when
something has arrived, so that a waiting consumer holds up nobody.
"""

from carrot.backends.base import QueueAlreadyExistsWarning
from carrot.backends.pyamqplib.backend import Backend
from carrot.backends.pyamqplib.message import Message
from carrot.backends.pyamqplib.transport import Transport

__all__ = ["Backend", "Message", "QueueAlreadyExistsWarning", "Transport"]
