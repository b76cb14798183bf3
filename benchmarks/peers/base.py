"""What a scenario asks of each client."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

#: Processes the data of a message; true ends the consuming.
OnData = Callable[[Any], bool]


class Peer(ABC):
    """A client library, used as its documentation recommends.

    Messages are transient and carry JSON, which each client
    encodes and decodes as its users would.

    :param url: the broker, as an amqp URL, its virtual host escaped: some clients insist.
    :param queue: exists already, when there is no exchange.
    :param exchange: declare it, and the queue, bound with its own name; only for those that have
        an in-memory broker.
    """

    #: What encodes the data.
    encoder: ClassVar[str] = "json"

    def __init__(self, url: str, queue: str, exchange: str = "") -> None:
        self.url = url
        self.queue = queue
        self.exchange = exchange

    @staticmethod
    def dumps(data: Any) -> str | bytes:
        """The data as this client encodes it, to make a body of the right size."""
        return json.dumps(data)

    @abstractmethod
    def sender(self, confirm: bool) -> Callable[[Any], object]:
        """Open a channel, and return a function that sends data over it.

        :param confirm: the function returns when the broker has confirmed the message.
        """

    @abstractmethod
    def sync(self) -> None:
        """Return when the broker has read all that the last sender sent."""

    @abstractmethod
    def consume(self, on_data: OnData, prefetch: int, acks: bool) -> None:
        """Open a channel and consume: decode each message, call *on_data*, until that is true.

        :param prefetch: messages; 0 is no limit.
        :param acks: ack each message by itself; else consume without acks.
        """
