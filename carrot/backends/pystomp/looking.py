"""Looking: one message at a time, all of them, or none: what is done without a consumer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.sources import FIRST, Sources, Unsettled, ack_of, settle_frame

#: How many messages are taken at once while a queue is purged.
PURGE_WINDOW = 500


class Looking(Sources):
    """Subscriptions that are there for what they find at once."""

    def get(
        self, queue: str, destinations: Sequence[str], timeout: float | None
    ) -> tuple[int, Frame] | None:
        """Take the next message, with its delivery tag; None: there is none."""
        deadline = self._deadline(timeout)
        for destination in destinations:
            while (taken := self._get_from(queue, destination, deadline)) is not None:
                tag, frame = taken
                if mapping.MARK_LINE not in frame.head:
                    return taken
                self._settle(tag, b"ACK")
        return None

    def _get_from(
        self, queue: str, destination: str, deadline: float | None
    ) -> tuple[int, Frame] | None:
        """The next message of one queue of the broker.

        A browser that wants nothing is told that it has seen all when the broker has looked
        through the queue, and by then the message has been delivered, if there is one.
        """
        source = self._new_source(queue, destination)
        browser = self._new_source(queue, destination)
        with self._answered():
            self._line.write(
                self._subscribe_frame(source, 1)
                + self._subscribe_frame(browser, 1, browser="true", selector="1=0"),
                self,
            )
            self._wait_for(lambda: source.arrived or browser.is_browsed, deadline, "SUBSCRIBE")
        if not source.arrived:
            self._end_all([source, browser])
            return None
        self._line.write_soon(self._end(browser), self)
        frame = source.arrived.pop()
        tag = next(self._tags)
        self.unsettled[tag] = Unsettled(source, ack_of(frame), frame)
        return tag, frame

    def purge(self, queue: str, destinations: Sequence[str]) -> int:
        """Discard what is in the queue, and say how many messages that were."""
        with self._answered():
            return sum(self._purge(queue, destination) for destination in destinations)

    def _purge(self, queue: str, destination: str) -> int:
        source = self._new_source(queue, destination)
        self._line.write(self._subscribe_frame(source, PURGE_WINDOW), self)
        count = 0
        while True:
            browser = self._new_source(queue, destination)
            self._line.write(
                self._subscribe_frame(browser, 1, browser="true", selector="1=0"), self
            )
            self._wait_for(browser.has_seen_all, self._deadline(None), "SUBSCRIBE")
            frames, source.arrived = source.arrived, []
            if not frames:
                self._end_all([source, browser])
                return count
            acks = [settle_frame(b"ACK", ack_of(frame)) for frame in frames]
            self._line.write(b"".join([*acks, self._end(browser)]), self)
            count += sum(mapping.MARK_LINE not in frame.head for frame in frames)

    def establish(self, queue: str, destination: str) -> None:
        """Make a queue at the broker that outlives its restart, also when it was always empty.

        The store remembers a queue from its first persistent message on. So an empty one gets such
        a message, which a subscription that is asked first takes out again.
        """
        if self._has_persistent(queue, destination):
            return
        mark = f"{self.number}-{next(self._numbers)}-{time.time_ns()}"
        source = self._new_source(queue, destination)
        browser = self._new_source(queue, destination)
        self._line.write(
            self._subscribe_frame(
                source,
                1,
                selector=f"{mapping.MARK}='{mark}'",
                **{"activemq.priority": FIRST},
            ),
            self,
        )
        self._call(
            "SEND",
            {
                "destination": destination,
                "persistent": "true",
                "content-length": "0",
                mapping.MARK: mark,
            },
        )
        self._line.write(
            self._subscribe_frame(browser, 1, browser="true", selector="1=0"),
            self,
        )
        # Behind many messages the broker doesn't look for it: then a consumer drops it one day.
        self._wait_for(
            lambda: source.arrived or browser.is_browsed, self._deadline(None), "SUBSCRIBE"
        )
        for frame in source.arrived:
            self._line.write(settle_frame(b"ACK", ack_of(frame)), self)
        self._end_all([source, browser])

    def _has_persistent(self, queue: str, destination: str) -> bool:
        """Whether the first message of a queue is one that the broker stores."""
        browser = self._new_source(queue, destination)
        self._line.write(self._subscribe_frame(browser, 1, browser="true"), self)
        self._wait_for(
            lambda: browser.arrived or browser.is_browsed, self._deadline(None), "SUBSCRIBE"
        )
        self._end_all([browser])
        return any(frame.header(b"\npersistent:") == "true" for frame in browser.arrived)
