"""Subscriptions: what a channel is subscribed to at the broker, under names of its own. No I/O."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from carrot.backends.pystomp.frames import Frame, encode

#: ActiveMQ's word for "no limit" is a large number.
UNLIMITED = 1_000_000
#: How many messages without acks the broker may send ahead of our ACK frames. It reads nothing
#: while it writes, so those frames (some 75 bytes each) must fit into its system's buffer of
#: 64 KiB. When that overflows, Linux 6.17 and later drop our acknowledgements of what the broker
#: writes, too, and the connection stands still for good, both ways.
UNACKED_AHEAD = 500
#: Consumers with this priority come first (ActiveMQ knows up to 127).
FIRST = "127"


@dataclass(slots=True, eq=False)
class Consumer:
    """A consumer of a queue, which is several subscriptions: the limit is for them together.

    :ivar limit: how many unsettled messages it may have in hand; 0: any number.
    :ivar is_exclusive: of an exclusive queue, whose messages wait here and not at the broker.
    :ivar is_paused: nobody consumes at present.
    :ivar is_over: nobody will any more, and what still comes is not for us.
    :ivar waiting: the tags of what the broker has sent ahead of the limit.
    """

    tag: str
    queue: str
    no_ack: bool
    limit: int
    is_exclusive: bool = False
    is_paused: bool = False
    is_over: bool = False
    subscriptions: list[Subscription] = field(default_factory=list)
    in_hand: int = 0
    waiting: deque[int] = field(default_factory=deque)

    @property
    def prefetch(self) -> int:
        """How many messages the broker may send to each subscription before it is told of one."""
        return UNACKED_AHEAD if self.no_ack else self.limit or UNLIMITED

    @property
    def has_room(self) -> bool:
        """Whether it may have one more."""
        return not self.is_paused and (not self.limit or self.in_hand < self.limit)


@dataclass(slots=True, eq=False)
class Subscription:
    """A subscription at the broker, to one destination.

    :ivar queue: carrot's queue, of which the destination is a part.
    :ivar consumer: whose it is; None: it is there for single messages, and ends with them.
    :ivar held: how many messages a subscription without a consumer is there for.
    :ivar wanted: those of them that have yet to come, by the broker's id; None: it takes any.
    :ivar arrived: what came for those who wait for it.
    :ivar is_browsed: a browser has seen all there is.
    """

    id: str
    queue: str
    destination: str
    consumer: Consumer | None = None
    held: int = 0
    wanted: dict[str, Unsettled] | None = None
    arrived: list[Frame] = field(default_factory=list)
    is_browsed: bool = False

    def has_any(self) -> bool:
        return bool(self.arrived)

    def headers(self, prefetch: int, **options: str) -> dict[str, str]:
        """The headers of its SUBSCRIBE."""
        return {
            "id": self.id,
            "destination": self.destination,
            # Never "auto": what the broker settles as it sends it may be lost, or come twice, when
            # the subscription ends in that moment.
            "ack": "client-individual",
            "activemq.prefetchSize": str(prefetch),
            **options,
        }

    def begin(self, prefetch: int, **options: str) -> bytes:
        """The frame that begins it."""
        return encode("SUBSCRIBE", self.headers(prefetch, **options))

    def end(self, **options: str) -> bytes:
        """The frame that ends it: the broker takes back what isn't settled."""
        return encode("UNSUBSCRIBE", {"id": self.id, **options})


@dataclass(slots=True, eq=False)
class Unsettled:
    """A message that was delivered.

    :ivar subscription: the one that holds it at the broker.
    :ivar ack: the broker's name of the delivery, escaped as it came; None: it is being delivered
        again, to another subscription of ours.
    :ivar place: where it stands in its queue, when it is put back.
    :ivar is_waiting: no program has it yet.
    :ivar then: how it was settled while it had no name.
    """

    subscription: Subscription
    ack: bytes | None
    frame: Frame
    place: int
    is_waiting: bool = False
    then: bytes | None = None


class Subscriptions:
    """The subscriptions of a channel, by name.

    Names and entries are made and removed in one step each, so it needs no lock.

    :param number: the channel's, which all names begin with.
    """

    def __init__(self, number: str) -> None:
        self._number = number
        self._by_id: dict[str, Subscription] = {}
        self._numbers = itertools.count(1)

    def new_name(self) -> str:
        """A name that nothing else on this connection has."""
        return f"{self._number}-{next(self._numbers)}"

    def new(self, queue: str, destination: str, **options: Any) -> Subscription:
        """A subscription that is to begin."""
        subscription = Subscription(self.new_name(), queue, destination, **options)
        self._by_id[subscription.id] = subscription
        return subscription

    def find(self, id: str) -> Subscription | None:
        """The subscription of that name, if it has not ended."""
        return self._by_id.get(id)

    def forget(self, subscriptions: Iterable[Subscription]) -> None:
        """They have ended, and what still comes for them goes back to the broker's queue."""
        for subscription in subscriptions:
            self._by_id.pop(subscription.id, None)

    def end(self, *subscriptions: Subscription) -> bytes:
        """The frames that end them; nothing that comes for them is taken any more."""
        self.forget(subscriptions)
        return b"".join(subscription.end() for subscription in subscriptions)

    def take_all(self) -> list[Subscription]:
        """All of them, of which nothing is taken any more."""
        taken = []
        while self._by_id:
            try:
                taken.append(self._by_id.popitem()[1])
            except KeyError:
                break  # another thread was faster
        return taken


def ack_of(frame: Frame) -> bytes:
    """The broker's name of a delivery, escaped as it came, for it goes back so."""
    start = frame.head.find(b"\nack:") + len(b"\nack:")
    end = frame.head.find(b"\n", start)
    return frame.head[start:] if end < 0 else frame.head[start:end]


def selector(message_ids: Iterable[str]) -> str:
    """A condition that only these messages meet (JMS, section 3.8.1)."""
    quoted = ", ".join("'" + one.replace("'", "''") + "'" for one in message_ids)
    return f"JMSMessageID IN ({quoted})"
