"""Looking: one message at a time, all of them, or none: what is done without a consumer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.sources import FIRST, Source, Sources, Unsettled, ack_of, settle_frame

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
        """The next message of one queue of the broker."""
        source = self._new_source(queue, destination)
        with self._answered():
            rest = self._look(source, self._subscribe_frame(source, 1), deadline, source.has_any)
            if not source.arrived:
                rest = self._look(source, rest, deadline, source.has_any)
        self._line.write_soon(rest, self)
        if not source.arrived:
            self._end_all([source])
            return None
        frame = source.arrived.pop()
        tag = next(self._tags)
        self.unsettled[tag] = Unsettled(source, ack_of(frame), frame)
        return tag, frame

    def _look(
        self,
        source: Source,
        before: bytes,
        deadline: float | None,
        is_enough: Callable[[], object] = lambda: False,
    ) -> bytes:
        """Wait until the broker has delivered to the source what there is.

        A browser that wants nothing is told that it has seen all when the broker has looked through
        the queue, and by then it has delivered. Only a second look is sure: the first may have come
        while the broker was looking, and had delivered already.

        :param before: frames to be sent first.
        :param is_enough: asked whether there is enough already.
        :returns: frames to be sent afterwards.
        """
        browser = self._new_source(source.queue, source.destination)
        self._line.write(
            before + self._subscribe_frame(browser, 1, browser="true", selector="1=0"), self
        )
        self._wait_for(lambda: browser.is_browsed or is_enough(), deadline, "SUBSCRIBE")
        return self._end(browser)

    def purge(self, queue: str, destinations: Sequence[str]) -> int:
        """Discard what is in the queue, and say how many messages that were."""
        # Of all of it: somebody may be sending as fast as this takes away.
        deadline = self._deadline(None)
        with self._answered():
            return sum(self._purge(queue, destination, deadline) for destination in destinations)

    def _purge(self, queue: str, destination: str, deadline: float | None) -> int:
        source = self._new_source(queue, destination)
        rest = self._subscribe_frame(source, PURGE_WINDOW)
        count = looks = 0
        while looks < 2:
            rest = self._look(source, rest, deadline)
            frames, source.arrived = source.arrived, []
            looks = 0 if frames else looks + 1
            rest += b"".join(settle_frame(b"ACK", ack_of(frame)) for frame in frames)
            count += sum(mapping.MARK_LINE not in frame.head for frame in frames)
        self._line.write_soon(rest, self)
        self._end_all([source])
        return count

    def establish(self, queue: str, destination: str) -> None:
        """Make a queue at the broker that outlives its restart, also when it was always empty.

        The store remembers a queue from its first persistent message on. So an empty one gets such
        a message, which a subscription that is asked first takes out again.
        """
        if self._has_persistent(queue, destination):
            return
        mark = f"{self.number}-{next(self._numbers)}-{time.time_ns()}"
        source = self._new_source(queue, destination)
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
        # Behind many messages the broker doesn't look for it: then a consumer drops it one day.
        rest = self._look(source, b"", self._deadline(None), source.has_any)
        rest += b"".join(settle_frame(b"ACK", ack_of(frame)) for frame in source.arrived)
        self._line.write_soon(rest, self)
        self._end_all([source])

    def _has_persistent(self, queue: str, destination: str) -> bool:
        """Whether the first message of a queue is one that the broker stores."""
        browser = self._new_source(queue, destination)
        self._line.write(self._subscribe_frame(browser, 1, browser="true"), self)
        self._wait_for(
            lambda: browser.arrived or browser.is_browsed, self._deadline(None), "SUBSCRIBE"
        )
        self._end_all([browser])
        return any(frame.header(b"\npersistent:") == "true" for frame in browser.arrived)
