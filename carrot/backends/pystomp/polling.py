"""Polling: one message at a time, all of them, or none: what is done without a consumer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.prefetch_window import PrefetchWindow
from carrot.backends.pystomp.requests import Requests
from carrot.backends.pystomp.settlements import ACK, settle_frame
from carrot.backends.pystomp.subscriptions import (
    FIRST,
    Subscription,
    Subscriptions,
    ack_of,
)
from carrot.deadline import Deadline

#: How many messages are taken at once while a queue is purged.
PURGE_WINDOW = 500


class Polling:
    """Subscriptions that are there for what they find at once; each request has its own."""

    def __init__(
        self, requests: Requests, subscriptions: Subscriptions, window: PrefetchWindow
    ) -> None:
        self._requests = requests
        self._subscriptions = subscriptions
        self._window = window

    def get(
        self, queue: str, destinations: Sequence[str], no_ack: bool, timeout: float | None
    ) -> tuple[int, Frame] | None:
        """Take the next message, with its delivery tag (0 with *no_ack*); None: there is none."""
        deadline = self._requests.deadline(timeout)
        # Else an interrupt would leave a subscription that holds a message nobody has.
        with self._requests.answered():
            for destination in destinations:
                while (taken := self._get_from(queue, destination, deadline)) is not None:
                    subscription, frame = taken
                    is_mark = mapping.MARK_LINE in frame.head
                    if not is_mark and not no_ack:
                        return self._window.hold(subscription, frame), frame
                    self._requests.write_soon(
                        settle_frame(ACK, ack_of(frame)), self._subscriptions.end(subscription)
                    )
                    if not is_mark:
                        return 0, frame
        return None

    def _get_from(
        self, queue: str, destination: str, deadline: Deadline
    ) -> tuple[Subscription, Frame] | None:
        """The next message of one queue of the broker, and the subscription that has it."""
        subscription = self._subscriptions.new(queue, destination)
        rest = self.look(subscription, subscription.begin(1), deadline, subscription.has_any)
        if not subscription.arrived:
            rest = self.look(subscription, rest, deadline, subscription.has_any)
        self._requests.write_soon(rest)
        if not subscription.arrived:
            self._end(subscription, deadline)
            return None
        return subscription, subscription.arrived.pop()

    def look(
        self,
        subscription: Subscription,
        before: bytes,
        deadline: Deadline,
        is_enough: Callable[[], object] = lambda: False,
    ) -> bytes:
        """Wait until the broker has delivered to the subscription what there is.

        A browser that wants nothing is told that it has seen all when the broker has looked through
        the queue, and by then it has delivered. Only a second look is sure: the first may have come
        while the broker was looking, and had delivered already.

        :param before: frames to be sent first.
        :param is_enough: asked whether there is enough already.
        :returns: frames to be sent afterwards.
        """
        browser = self._subscriptions.new(subscription.queue, subscription.destination)
        self._requests.write(before, browser.begin(1, browser="true", selector="1=0"))
        self._requests.wait_for(lambda: browser.is_browsed or is_enough(), deadline, "SUBSCRIBE")
        return self._subscriptions.end(browser)

    def purge(self, queue: str, destinations: Sequence[str]) -> int:
        """Discard what is in the queue, and say how many messages that were."""
        # One for all of it: somebody may be sending as fast as this takes away.
        deadline = self._requests.deadline()
        with self._requests.answered():
            return sum(self._purge(queue, destination, deadline) for destination in destinations)

    def _purge(self, queue: str, destination: str, deadline: Deadline) -> int:
        subscription = self._subscriptions.new(queue, destination)
        rest = subscription.begin(PURGE_WINDOW)
        count = looks = 0
        while looks < 2:
            rest = self.look(subscription, rest, deadline)
            frames, subscription.arrived = subscription.arrived, []
            looks = 0 if frames else looks + 1
            rest += b"".join(settle_frame(ACK, ack_of(frame)) for frame in frames)
            count += sum(mapping.MARK_LINE not in frame.head for frame in frames)
        self._requests.write_soon(rest)
        self._end(subscription, deadline)
        return count

    def establish(self, queue: str, destination: str) -> None:
        """Make a queue at the broker that outlives its restart, also when it was always empty.

        The store remembers a queue from its first persistent message on. So an empty one gets such
        a message, which a subscription that is asked first takes out again.
        """
        if self._has_persistent(queue, destination):
            return
        mark = f"{self._subscriptions.new_name()}-{secrets.token_hex(8)}"
        taker = self._subscriptions.new(queue, destination)
        self._requests.write(
            taker.begin(1, selector=f"{mapping.MARK}='{mark}'", **{"activemq.priority": FIRST})
        )
        self._requests.call(
            "SEND",
            {
                "destination": destination,
                "persistent": "true",
                "content-length": "0",
                mapping.MARK: mark,
            },
        )
        # Behind many messages the broker doesn't look for it: then a consumer drops it one day.
        rest = self.look(taker, b"", self._requests.deadline(), taker.has_any)
        rest += b"".join(settle_frame(ACK, ack_of(frame)) for frame in taker.arrived)
        self._requests.write_soon(rest)
        self._end(taker)

    def _has_persistent(self, queue: str, destination: str) -> bool:
        """Whether the first message of a queue is one that the broker stores."""
        browser = self._subscriptions.new(queue, destination)
        self._requests.write(browser.begin(1, browser="true"))
        self._requests.wait_for(
            lambda: browser.arrived or browser.is_browsed, self._requests.deadline(), "SUBSCRIBE"
        )
        self._end(browser)
        return any(frame.header(b"\npersistent:") == "true" for frame in browser.arrived)

    def _end(self, subscription: Subscription, deadline: Deadline | None = None) -> None:
        """End a subscription, and wait until what it had is back in the queue."""
        self._subscriptions.forget([subscription])
        with self._requests.receipt_for("UNSUBSCRIBE", deadline) as receipt:
            self._requests.write(subscription.end(receipt=receipt))
