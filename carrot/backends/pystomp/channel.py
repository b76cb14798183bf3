"""Channel: what one backend does on a connection: it consumes, publishes and settles."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from carrot.backends.confirms import Confirms
from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame, encode, encode_headers
from carrot.backends.pystomp.names import origin, queue_destination
from carrot.backends.pystomp.private import Private
from carrot.backends.pystomp.sources import (
    FIRST,
    UNLIMITED,
    Consumer,
    Source,
    TransportView,
    selector,
    subscription_headers,
)
from carrot.exceptions import ChannelError

#: How many messages one subscription holds for us, so that its selector fits in a header.
HOLD = 100

_NOT_COPIED = {
    "ack", "content-length", "destination", "message-id", "receipt", "redelivered",
    "subscription", "timestamp",
}  # fmt: skip


class Listener(Protocol):
    """Who is told what comes in on a channel; called by whichever thread is reading."""

    def on_delivery(self, tag: int, frame: Frame, consumer_tag: str) -> None: ...
    def on_refusal(self, channel: Channel, error: ChannelError) -> None: ...
    def on_give_up(self, channel: Channel) -> None: ...


class Channel(Private):
    """A channel, which is open until the backend closes it or the connection is lost.

    Its backend calls one method at a time; what comes in is added by whoever is reading.

    :ivar prefetch_count: the limit of consumers from now on; 0: none.
    :ivar confirms: the books of what was published here, when it is confirmed.
    """

    def __init__(self, line: TransportView, number: str) -> None:
        super().__init__(line, number)
        self.prefetch_count = 0
        self.confirms: Confirms | None = None
        self._listener: weakref.ref[Listener] | None = None
        self._consumers: dict[str, Consumer] = {}

    def listen(self, listener: Listener) -> None:
        """Tell *listener* what comes in; it is not kept alive for it."""
        self._listener = weakref.ref(listener)

    # -- what comes in

    def _tell(self, tag: int, frame: Frame, consumer_tag: str) -> None:
        listener = None if self._listener is None else self._listener()
        if listener is not None:
            listener.on_delivery(tag, frame, consumer_tag)

    def on_confirm(self, number: int, answer: ChannelError | bool) -> None:
        """The broker has a message, or an objection."""
        if isinstance(answer, ChannelError):
            self.confirms = None  # nothing that comes now is believed
            if self._listener is not None and (listener := self._listener()) is not None:
                listener.on_refusal(self, answer)
        elif self.confirms is not None:
            self.confirms.settle(number, multiple=False, taken=True)

    # -- consuming

    def subscribe(
        self, queue: str, destinations: Sequence[str], consumer_tag: str, no_ack: bool
    ) -> None:
        """Start a consumer of all these queues of the broker; it delivers to the listener."""
        limit = 0 if no_ack else self.prefetch_count
        if queue in self._private:
            private = self._consume_private(queue, consumer_tag, no_ack, limit)
            self._consumers[consumer_tag] = private
            self._hand_out(private)
            return
        consumer = Consumer(consumer_tag, no_ack, limit)
        sources = [
            self._new_source(queue, destination, consumer=consumer) for destination in destinations
        ]
        prefetch = consumer.limit or UNLIMITED
        *frames, _ = [self._subscribe_frame(source, prefetch) for source in sources]
        try:
            self._call("SUBSCRIBE", subscription_headers(sources[-1], prefetch), frames)
        except ChannelError:
            self._end_all(sources)  # those that the broker did not refuse
            raise
        consumer.sources += sources
        self._consumers[consumer_tag] = consumer

    def extend(self, consumer_tag: str, queue: str, destination: str) -> None:
        """Let a consumer get what one more queue of the broker has; from any thread."""
        consumer = self._consumers.get(consumer_tag)
        if consumer is None or destination in {one.destination for one in consumer.sources}:
            return
        source = self._new_source(queue, destination, consumer=consumer)
        self._call("SUBSCRIBE", subscription_headers(source, consumer.limit or UNLIMITED))
        with self._handing:
            is_there = self._consumers.get(consumer_tag) is consumer
            if is_there:
                consumer.sources.append(source)
        if not is_there:  # it has ended meanwhile
            self._line.write(self._end(source), self)

    def pause(self, consumer_tag: str) -> None:
        """Deliver nothing more to a consumer that is about to end."""
        with self._handing:
            if (consumer := self._consumers.get(consumer_tag)) is not None:
                consumer.is_paused = True

    def unsubscribe(self, consumer_tag: str, unseen: Collection[int]) -> None:
        """End a consumer that is paused. Meanwhile nobody settles what it has.

        The broker takes back what it has delivered; those messages that the program has in hand
        are delivered again to a subscription of their own, which is asked first, and stay ours.

        :param unseen: the tags of those that nobody has seen.
        """
        with self._handing:
            consumer = self._consumers.pop(consumer_tag, None)
        if consumer is None:
            return
        if consumer.is_private:
            self._leave_private(consumer, list(unseen))
            return
        with self._handing:
            consumer.is_over = True
            unseen = {*unseen, *(tag for tag, _ in consumer.waiting)}
            consumer.waiting.clear()
            mine = [tag for tag, one in self.unsettled.items() if one.source.consumer is consumer]
        in_hand = [tag for tag in mine if tag not in unseen]
        holding = list(self._holding(in_hand))
        self._line.write(
            b"".join(
                self._subscribe_frame(
                    source,
                    len(source.wanted),
                    selector=selector(source.wanted),
                    **{"activemq.priority": FIRST},
                )
                for source in holding
            ),
            self,
        )
        self._end_all(consumer.sources)
        for tag in mine:
            if tag not in in_hand:
                self.unsettled.pop(tag, None)
        if holding:
            self._wait_for(
                lambda: not any(source.wanted for source in holding),
                self._deadline(None),
                "SUBSCRIBE",
            )
        for source in holding:
            for tag in source.wanted.values():
                self.unsettled.pop(tag, None)

    def _holding(self, tags: list[int]) -> Iterable[Source]:
        """Subscriptions that are to hold these messages."""
        by_queue: dict[tuple[str, str], list[int]] = {}
        for tag in tags:
            source = self.unsettled[tag].source
            by_queue.setdefault((source.queue, source.destination), []).append(tag)
        for (queue, destination), group in by_queue.items():
            for start in range(0, len(group), HOLD):
                wanted = {
                    self.unsettled[tag].frame.headers()["message-id"]: tag
                    for tag in group[start : start + HOLD]
                }
                yield self._new_source(queue, destination, wanted=wanted)

    # -- publishing and settling

    def ack(self, tag: int, multiple: bool) -> None:
        """The message is done with; *multiple*: and all that came before it."""
        if multiple:
            for earlier in self._in_hand_up_to(tag):
                self._hand_on(self._settle(earlier, b"ACK").source.consumer)
        if tag or not multiple:
            self._hand_on(self._settle(tag, b"ACK").source.consumer)

    def _in_hand_up_to(self, tag: int) -> list[int]:
        """The tags before that one (0: all) of messages that a program has."""
        with self._handing:
            consumers = [*self._consumers.values(), *self._private.values()]
            waiting = {one for consumer in consumers for one, _ in consumer.waiting}
            return [one for one in self.unsettled if (one < tag or not tag) and one not in waiting]

    def reject(self, tag: int) -> None:
        """The message goes to the broker's queue of dead letters."""
        self._hand_on(self._settle(tag, b"NACK").source.consumer)

    def requeue(self, tag: int) -> None:
        """Put the message back: a fetched one at its old place, another one at the end."""
        one = self._take(tag)
        if one.source.consumer is not None and one.source.consumer.is_private:
            self._requeue_private(one, one.source.consumer)
            return
        if one.source.consumer is None and (end := self._end_if_done(one.source)):
            # What was not acked goes back by itself.
            self._line.write(end, self)
            return
        transaction = f"t{self.number}-{tag}"
        headers = {
            name: value
            for name, value in one.frame.headers().items()
            if name not in _NOT_COPIED and not (name == "expires" and value == "0")
        }
        exchange, routing_key = origin(one.frame.headers().get("destination", ""))
        headers.setdefault(mapping.EXCHANGE, exchange)
        headers.setdefault(mapping.ROUTING_KEY, routing_key)
        headers |= {
            "destination": queue_destination(one.source.queue),
            "transaction": transaction,
            "content-length": str(len(one.frame.body)),
            mapping.REQUEUED: "true",
        }
        self._line.write(
            b"".join(
                [
                    encode("BEGIN", {"transaction": transaction}),
                    b"SEND\n", encode_headers(headers), b"\n", one.frame.body, b"\0",
                    b"ACK\ntransaction:", transaction.encode(), b"\nid:", one.ack, b"\n\n\0",
                    encode("COMMIT", {"transaction": transaction}),
                    self._end_if_done(one.source),
                ]
            ),
            self,
        )  # fmt: skip
        self._hand_on(one.source.consumer)

    # -- the end

    def give_up(self) -> None:
        self.confirms = None  # nothing that comes now is believed
        listener = None if self._listener is None else self._listener()
        self._listener = None
        super().give_up()
        if listener is not None:
            listener.on_give_up(self)

    def close(self) -> None:
        """End all subscriptions; what was delivered and not settled goes back."""
        if not self.is_open:
            return
        self._listener = None
        try:
            if self._line.is_silent:
                # Nobody answers; not every close() shall wait for that again.
                frames = [self._end(source) for source in list(self._sources.values())]
                self._line.write(b"".join(frames), self)
            else:
                self._end_all(list(self._sources.values()))
        finally:
            self.is_open = False
            self._line.forget(self.number)
