"""Sending and receiving: Publisher, Consumer, ConsumerSet, Messaging, Message."""

from carrot.message import Message
from carrot.messaging.consumer import Consumer
from carrot.messaging.consumerset import ConsumerSet
from carrot.messaging.messaging import Messaging
from carrot.messaging.publisher import Publisher

__all__ = ["Consumer", "ConsumerSet", "Message", "Messaging", "Publisher"]
