"""Inbox: the deliveries of one life of a channel that are not dispatched yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

from carrot.backends.seam.subscriptions import Stage, Subscription
from carrot.message import Message

Entry = tuple[Subscription, Message]
#: Looked up once: a member of an Enum costs 0.1 µs.
ENDED = Stage.ENDED


class Inbox(deque[Entry]):
    """In the order in which they came. One thread adds, and any number take out.

    What an ended subscription had received without acks stays, for whoever consumes or fetches
    next: nobody would deliver it again.
    """

    __slots__ = ()

    @property
    def has_next(self) -> bool:
        """Whether :meth:`take_next` would find one."""
        try:
            if self[0][0].stage is not ENDED:
                return True
        except IndexError:  # it is empty, or another thread was faster
            return False
        return any(entry[0].stage is not ENDED for entry in tuple(self))

    def take_next(self) -> Entry | None:
        """The oldest delivery of a subscription that has not ended; None: there is none."""
        try:
            entry = self.popleft()
        except IndexError:
            return None
        if entry[0].stage is not ENDED:
            return entry
        self.appendleft(entry)
        for entry in tuple(self):
            if entry[0].stage is not ENDED and self._removed(entry):
                return entry
        return None

    def take(self, consumer_tag: str) -> Message | None:
        """The oldest delivery of that consumer, if any."""
        for entry in tuple(self):
            if entry[0].consumer_tag == consumer_tag and self._removed(entry):
                return entry[1]
        return None

    def take_unseen(self, subscription: Subscription) -> list[Any]:
        """The delivery tags of what came for *subscription* and is to go back, in order."""
        unseen = []
        for entry in tuple(self):
            if entry[0] is subscription and not entry[1].acknowledged and self._removed(entry):
                unseen.append(entry[1].delivery_tag)
        return unseen

    def drop_unsettled(self) -> None:
        """Its life is over: what could not be acked any more is not worth processing."""
        for entry in tuple(self):
            if not entry[1].acknowledged:
                self._removed(entry)

    def of(self, subscription: Subscription) -> bool:
        """Whether anything came for *subscription*."""
        return any(entry[0] is subscription for entry in tuple(self))

    def last_of(self, consumer_tags: Collection[str]) -> int:
        """How many came for these consumers by subscriptions that will bring no more."""
        return sum(
            one.stage is Stage.COMPLETE and one.consumer_tag in consumer_tags
            for one, _ in tuple(self)
        )

    def forgotten_by_broker(self) -> list[Entry]:
        """What nobody delivers again, for it came without acks."""
        return [entry for entry in tuple(self) if entry[1].acknowledged]

    def _removed(self, entry: Entry) -> bool:
        """Take *entry* out; False: another thread was faster."""
        try:
            self.remove(entry)
        except ValueError:
            return False
        return True
