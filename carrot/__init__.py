"""Carrot: the simplest way to send and receive messages in Python."""

from carrot.connection import (
    AMQPConnection,
    BrokerConnection,
    DjangoAMQPConnection,
    DjangoBrokerConnection,
)
from carrot.exceptions import CarrotError
from carrot.messaging import Consumer, ConsumerSet, Message, Messaging, Publisher

__version__ = "1.0.0"

__all__ = [
    "AMQPConnection",
    "BrokerConnection",
    "CarrotError",
    "Consumer",
    "ConsumerSet",
    "DjangoAMQPConnection",
    "DjangoBrokerConnection",
    "Message",
    "Messaging",
    "Publisher",
    "__version__",
]
