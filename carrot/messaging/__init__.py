"""Sending and receiving: Publisher, Consumer, ConsumerSet, Messaging, Message."""

from carrot.message import Message
from carrot.messaging.consumer import Consumer
from carrot.messaging.consumer_set import ConsumerSet
from carrot.messaging.messaging import Messaging
from carrot.messaging.publisher import Publisher
from carrot.messaging.stopping import stop_on_signals

__all__ = ["Consumer", "ConsumerSet", "Message", "Messaging", "Publisher", "stop_on_signals"]
