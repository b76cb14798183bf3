"""Subscription: a consumer on one life of a channel."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from carrot.exceptions import CarrotError
from carrot.message import Message

DeliveryCallback = Callable[[Message], object]
#: Subscribes again, when called with why the subscription ended.
Resubscribe = Callable[[CarrotError], object]


class Stage(Enum):
    """How far a subscription is."""

    #: The broker was asked to deliver: what it delivers may overtake its answer.
    BEGINNING = "beginning"
    #: The broker delivers.
    RUNNING = "running"
    #: The broker delivers no more, for all that was wanted is here; it is still processed.
    COMPLETE = "complete"
    #: It has ended. What it received without acks waits for whoever subscribes or fetches next.
    ENDED = "ended"


class Subscription:
    """A consumer on a channel.

    :param no_ack: the broker forgets each message as it delivers it.
    :ivar stage: guarded by the backend's turn to change.
    """

    __slots__ = ("callback", "consumer_tag", "no_ack", "queue", "stage")

    def __init__(
        self, consumer_tag: str, queue: str, no_ack: bool, callback: DeliveryCallback
    ) -> None:
        self.consumer_tag = consumer_tag
        self.queue = queue
        self.no_ack = no_ack
        self.callback = callback
        self.stage = Stage.BEGINNING

    def __repr__(self) -> str:
        return f"<Subscription {self.consumer_tag!r} of {self.queue!r}, {self.stage.value}>"
