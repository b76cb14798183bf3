"""Channel: what one backend does on a connection: its subscriptions, and what is not settled."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame, encode, encode_headers
from carrot.backends.pystomp.names import origin, queue_destination
from carrot.exceptions import CarrotError, ChannelError, ConnectionLost, OperationTimeout

#: ActiveMQ's word for "no limit" is a large number.
UNLIMITED = 1_000_000
#: How many messages one subscription holds for us, so that its selector fits in a header.
HOLD = 100
#: Consumers with this priority come first (ActiveMQ knows up to 127).
FIRST = "127"
#: How many messages are taken at once while a queue is purged.
PURGE_WINDOW = 500

_NOT_COPIED = {
    "ack", "content-length", "destination", "message-id", "receipt", "redelivered",
    "subscription", "timestamp",
}  # fmt: skip


class Line(Protocol):
    """What a channel needs of its connection."""

    operation_timeout: float | None
    is_silent: bool

    def write(self, data: bytes, channel: Channel | None = None) -> None: ...
    def write_soon(self, data: bytes, channel: Channel) -> None: ...
    def write_with_others(self, data: bytes, channel: Channel) -> None: ...
    def flush(self) -> None: ...
    def look(self) -> None: ...
    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None: ...
    def new_receipt(self) -> str: ...
    def call(
        self, frames: list[bytes], receipt: str, timeout: float | None, channel: Channel | None
    ) -> None: ...
    def forget(self, channel: Channel) -> None: ...


class Listener(Protocol):
    """Who is told what comes in on a channel; called by whichever thread is reading."""

    def on_delivery(self, tag: int, frame: Frame, consumer_tag: str) -> None: ...
    def on_confirm(self, number: int) -> None: ...
    def on_refusal(self, error: ChannelError) -> None: ...


@dataclass(slots=True, eq=False)
class Source:
    """A subscription at the broker.

    :ivar consumer: whose it is; None: it is there for single messages, and ends with them.
    :ivar wanted: the broker's ids of messages that it is to hold, to their delivery tags.
    :ivar arrived: what came for those who wait for it.
    :ivar is_browsed: a browser has seen all there is.
    """

    id: str
    queue: str
    destination: str
    consumer: Consumer | None = None
    wanted: dict[str, int] = field(default_factory=dict)
    arrived: list[Frame] = field(default_factory=list)
    is_browsed: bool = False

    def has_seen_all(self) -> bool:
        return self.is_browsed


@dataclass(slots=True, eq=False)
class Consumer:
    """A consumer of a queue, which is several at the broker: the limit is for them together.

    :ivar limit: how many unsettled messages it may have in hand; 0: any number.
    :ivar waiting: what the broker has sent ahead of that.
    """

    tag: str
    no_ack: bool
    limit: int
    sources: list[Source] = field(default_factory=list)
    in_hand: int = 0
    waiting: deque[tuple[int, Frame]] = field(default_factory=deque)


class Unsettled(NamedTuple):
    """A message that was delivered.

    :param ack: the broker's name of the delivery, escaped as it came.
    """

    source: Source
    ack: bytes
    frame: Frame


class Channel:
    """A channel, which is open until the backend closes it or the connection is lost.

    Its backend calls one method at a time; what comes in is added by whoever is reading.
    """

    def __init__(self, line: Line, number: str) -> None:
        self.number = number
        self.is_open = True
        self.prefetch_count = 0
        self.unsettled: dict[int, Unsettled] = {}
        self._line = line
        self._listener: weakref.ref[Listener] | None = None
        self._sources: dict[str, Source] = {}
        self._consumers: dict[str, Consumer] = {}
        # Guards what consumers have in hand, and wait for.
        self._handing = threading.Lock()
        self._numbers = itertools.count(1)
        self._tags = itertools.count(1)

    def listen(self, listener: Listener) -> None:
        """Tell *listener* what comes in; it is not kept alive for it."""
        self._listener = weakref.ref(listener)

    def check_open(self) -> None:
        """Asked under the lock that guards what is written.

        :raises ConnectionLost: it is closed.
        """
        if not self.is_open:
            raise ConnectionLost("the channel was closed here meanwhile")

    # -- what comes in

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
        if consumer.no_ack:
            self._deliver(tag, frame, consumer)
            return
        self.unsettled[tag] = Unsettled(source, _ack_of(frame), frame)
        if mapping.MARK_LINE in frame.head:
            # Of a process that ended before it could take it.
            self._settle(tag, b"ACK", is_in_hand=False)
            return
        with self._handing:
            if consumer.limit and consumer.in_hand >= consumer.limit:
                consumer.waiting.append((tag, frame))
                return
            consumer.in_hand += 1
        self._deliver(tag, frame, consumer)

    def _deliver(self, tag: int, frame: Frame, consumer: Consumer) -> None:
        listener = None if self._listener is None else self._listener()
        if listener is not None:
            listener.on_delivery(tag, frame, consumer.tag)

    def _hand_on(self, consumer: Consumer | None) -> None:
        """A message of the consumer's is settled: it may have another."""
        if consumer is None:
            return
        with self._handing:
            if not consumer.waiting:
                consumer.in_hand -= 1
                return
            tag, frame = consumer.waiting.popleft()
        self._deliver(tag, frame, consumer)

    def _on_single(self, source: Source, frame: Frame) -> None:
        if frame.header(b"\nbrowser:") == "end":
            source.is_browsed = True
        elif source.wanted:
            tag = source.wanted.pop(frame.headers()["message-id"], None)
            if tag is not None and tag in self.unsettled:
                self.unsettled[tag] = Unsettled(source, _ack_of(frame), frame)
        else:
            source.arrived.append(frame)

    def on_confirm(self, number: int, answer: ChannelError | bool) -> None:
        """The broker has a message, or an objection."""
        listener = None if self._listener is None else self._listener()
        if listener is None:
            return
        if isinstance(answer, ChannelError):
            listener.on_refusal(answer)
        else:
            listener.on_confirm(number)

    # -- asking

    def _call(
        self,
        command: str,
        headers: dict[str, str],
        before: Iterable[bytes] = (),
        timeout: float | None = None,
    ) -> None:
        """Send frames, and wait for the broker's receipt for the last one."""
        receipt = self._line.new_receipt()
        patience = self._line.operation_timeout if timeout is None else timeout
        request = encode(command, {**headers, "receipt": receipt})
        self._line.call([*before, request], receipt, patience, self)

    def _wait_for(self, ready: Callable[[], object], deadline: float | None, what: str) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            self._line.wait_for(lambda: ready() or not self.is_open, left)
        except OperationTimeout as exc:
            self._line.is_silent = True
            raise OperationTimeout(f"the broker didn't answer {what} in time") from exc
        self.check_open()

    def _deadline(self, timeout: float | None) -> float | None:
        patience = self._line.operation_timeout if timeout is None else timeout
        return None if patience is None else time.monotonic() + patience

    # -- subscribing

    def _new_source(self, queue: str, destination: str, **options: Any) -> Source:
        source = Source(f"{self.number}-{next(self._numbers)}", queue, destination, **options)
        self._sources[source.id] = source
        return source

    def _subscribe_frame(self, source: Source, prefetch: int, **options: str) -> bytes:
        return encode("SUBSCRIBE", _subscription(source, prefetch, options))

    def _end(self, source: Source) -> bytes:
        """The frame that ends a subscription, of which nothing is taken any more."""
        self._sources.pop(source.id, None)
        return encode("UNSUBSCRIBE", {"id": source.id})

    def _end_all(self, sources: Collection[Source], timeout: float | None = None) -> None:
        """End subscriptions, and wait until what they had is back in the queue."""
        if sources:
            *frames, _ = [self._end(source) for source in sources]
            self._call("UNSUBSCRIBE", {"id": list(sources)[-1].id}, frames, timeout)

    def subscribe(
        self, queue: str, destinations: Sequence[str], consumer_tag: str, no_ack: bool
    ) -> None:
        """Start a consumer of all these queues of the broker, or add them to the one it is."""
        consumer = self._consumers.setdefault(
            consumer_tag, Consumer(consumer_tag, no_ack, 0 if no_ack else self.prefetch_count)
        )
        sources = [
            self._new_source(queue, destination, consumer=consumer) for destination in destinations
        ]
        prefetch = consumer.limit or UNLIMITED
        *frames, _ = [self._subscribe_frame(source, prefetch) for source in sources]
        try:
            self._call("SUBSCRIBE", _subscription(sources[-1], prefetch), frames)
        except CarrotError:
            for source in sources:
                self._sources.pop(source.id, None)
            raise
        consumer.sources += sources

    def unsubscribe(self, consumer_tag: str, unseen: Collection[int]) -> None:
        """End a consumer.

        The broker takes back what it has delivered; those messages that the program has in hand
        are delivered again to a subscription of their own, which is asked first, and stay ours.

        :param unseen: the tags of those that nobody has seen.
        """
        consumer = self._consumers.pop(consumer_tag, None)
        if consumer is None:
            return
        with self._handing:
            unseen = {*unseen, *(tag for tag, _ in consumer.waiting)}
            consumer.waiting.clear()
        mine = [tag for tag, one in list(self.unsettled.items()) if one.source.consumer is consumer]
        in_hand = [tag for tag in mine if tag not in unseen]
        holding = list(self._holding(in_hand))
        self._line.write(
            b"".join(
                self._subscribe_frame(
                    source,
                    len(source.wanted),
                    selector=_selector(source.wanted),
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
            with suppress(OperationTimeout):  # one that has expired doesn't come again
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

    # -- single messages

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
        try:
            self._line.write(
                self._subscribe_frame(source, 1)
                + self._subscribe_frame(browser, 1, browser="true", selector="1=0"),
                self,
            )
            self._wait_for(lambda: source.arrived or browser.is_browsed, deadline, "SUBSCRIBE")
        except OperationTimeout:
            self._line.write(self._end(source) + self._end(browser), self)
            raise
        if not source.arrived:
            self._end_all([source, browser])
            return None
        self._line.write_soon(self._end(browser), self)
        frame = source.arrived.pop()
        tag = next(self._tags)
        self.unsettled[tag] = Unsettled(source, _ack_of(frame), frame)
        return tag, frame

    def purge(self, queue: str, destinations: Sequence[str]) -> int:
        """Discard what is in the queue, and say how many messages that were."""
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
            acks = [_settle_frame(b"ACK", _ack_of(frame)) for frame in frames]
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
            self._line.write(_settle_frame(b"ACK", _ack_of(frame)), self)
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

    # -- publishing and settling

    def publish(self, frame: bytes, keep: bool) -> None:
        """Send a message; *keep* it back until there are more to be sent with it."""
        if keep:
            self._line.write_with_others(frame, self)
        else:
            self._line.write(frame, self)

    def look(self) -> None:
        """Take in what has arrived, if nobody has lately."""
        self._line.look()

    def flush(self) -> None:
        """Send what was kept back."""
        self._line.flush()

    def ack(self, tag: int, multiple: bool) -> None:
        """The message is done with; *multiple*: and all that came before it."""
        if multiple:
            for earlier in [one for one in list(self.unsettled) if one < tag or not tag]:
                self._settle(earlier, b"ACK")
        if tag or not multiple:
            self._settle(tag, b"ACK")

    def reject(self, tag: int) -> None:
        """The message goes to the broker's queue of dead letters."""
        self._settle(tag, b"NACK")

    def _settle(self, tag: int, command: bytes, is_in_hand: bool = True) -> None:
        one = self._take(tag)
        data = _settle_frame(command, one.ack)
        self._line.write_soon(data + self._end_if_done(one.source), self)
        if is_in_hand:
            self._hand_on(one.source.consumer)

    def _take(self, tag: int) -> Unsettled:
        try:
            return self.unsettled.pop(tag)
        except KeyError:
            raise ChannelError.from_reply(
                406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"
            ) from None

    def _end_if_done(self, source: Source) -> bytes:
        """The frame that ends a subscription which was there for single messages."""
        if source.consumer is not None:
            return b""
        if any(one.source is source for one in self.unsettled.values()):
            return b""
        return self._end(source)

    def requeue(self, tag: int) -> None:
        """Put the message back: a fetched one at its old place, another one at the end."""
        one = self._take(tag)
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
            self._line.forget(self)


def _subscription(
    source: Source, prefetch: int, options: dict[str, str] | None = None
) -> dict[str, str]:
    return {
        "id": source.id,
        "destination": source.destination,
        "ack": "auto" if source.consumer and source.consumer.no_ack else "client-individual",
        "activemq.prefetchSize": str(prefetch),
        **(options or {}),
    }


def _ack_of(frame: Frame) -> bytes:
    """The broker's name of a delivery, escaped as it came, for it goes back so."""
    start = frame.head.find(b"\nack:") + len(b"\nack:")
    end = frame.head.find(b"\n", start)
    return frame.head[start:] if end < 0 else frame.head[start:end]


def _settle_frame(command: bytes, ack: bytes) -> bytes:
    return b"%b\nid:%b\n\n\0" % (command, ack)


def _selector(message_ids: Iterable[str]) -> str:
    """A condition that only these messages meet (JMS, section 3.8.1)."""
    quoted = ", ".join("'" + one.replace("'", "''") + "'" for one in message_ids)
    return f"JMSMessageID IN ({quoted})"
