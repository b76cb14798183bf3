"""Handing: what the broker delivers goes to consumers, as far as their limits allow."""

from __future__ import annotations

import threading
from abc import abstractmethod

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.looking import Looking
from carrot.backends.pystomp.sources import Consumer, Source, TransportView, Unsettled, ack_of


class Handing(Looking):
    """What comes in, by whichever thread is reading."""

    def __init__(self, line: TransportView, number: str) -> None:
        super().__init__(line, number)
        # Guards what consumers have in hand, and wait for.
        self._handing = threading.Lock()

    @abstractmethod
    def _tell(self, tag: int, frame: Frame, consumer_tag: str) -> None:
        """A message is the consumer's now; this is quick, and takes no lock."""

    def on_message(self, subscription: str, frame: Frame) -> None:
        """The broker delivered something."""
        source = self._sources.get(subscription)
        if source is None:
            return  # it has ended, and the broker takes the message back
        consumer = source.consumer
        if consumer is None:
            self._on_single(source, frame)
            return
        tag = next(self._tags)
        with self._handing:
            if consumer.is_over:
                return  # the broker takes the message back
            self.unsettled[tag] = Unsettled(source, ack_of(frame), frame)
            is_mark = mapping.MARK_LINE in frame.head
            if not is_mark:
                consumer.waiting.append((tag, frame))
        if is_mark:
            self._settle(tag, b"ACK")  # of a process that ended before it could take it
        else:
            self._hand_out(consumer)

    def _on_single(self, source: Source, frame: Frame) -> None:
        if frame.header(b"\nbrowser:") == "end":
            source.is_browsed = True
        elif source.wanted:
            tag = source.wanted.pop(frame.headers()["message-id"], None)
            if tag is not None and tag in self.unsettled:
                self.unsettled[tag] = Unsettled(source, ack_of(frame), frame)
        else:
            source.arrived.append(frame)

    def _hand_out(self, consumer: Consumer) -> None:
        """Give the consumer what waits for it, as far as its limit allows."""
        while True:
            with self._handing:
                if not consumer.has_room or not consumer.waiting:
                    return
                tag, frame = consumer.waiting.popleft()
                consumer.in_hand += not consumer.no_ack
                # Under the lock: who ends the consumer knows what it has.
                self._tell(tag, frame, consumer.tag)
                if consumer.no_ack:
                    self._settle(tag, b"ACK")

    def _hand_on(self, consumer: Consumer | None) -> None:
        """A message that the consumer had in hand is settled: it may have another."""
        if consumer is not None:
            with self._handing:
                consumer.in_hand -= 1
            self._hand_out(consumer)
