"""Sources: a channel's subscriptions at the broker, and the messages that are not settled."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from carrot.backends.pystomp.frames import Frame, encode
from carrot.backends.sockets import stream
from carrot.deadline import within
from carrot.exceptions import CarrotError, ChannelError, ConnectionLost, OperationTimeout

#: ActiveMQ's word for "no limit" is a large number.
UNLIMITED = 1_000_000
#: Consumers with this priority come first (ActiveMQ knows up to 127).
FIRST = "127"


class TransportView(stream.TransportView, Protocol):
    """What a channel needs of its connection."""

    def new_receipt(self) -> str: ...
    def call(
        self,
        frames: list[bytes],
        receipt: str,
        timeout: float | None,
        channel: stream.Writer | None,
    ) -> None: ...
    def forget(self, number: str) -> None: ...


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

    def has_any(self) -> bool:
        return bool(self.arrived)


@dataclass(slots=True, eq=False)
class Consumer:
    """A consumer of a queue, which is several at the broker: the limit is for them together.

    :ivar limit: how many unsettled messages it may have in hand; 0: any number.
    :ivar is_private: of an exclusive queue, whose messages wait here and not at the broker.
    :ivar is_paused: nobody consumes at present.
    :ivar is_over: nobody will any more, and what still comes is not for us.
    :ivar waiting: what the broker has sent ahead of that.
    """

    tag: str
    no_ack: bool
    limit: int
    is_private: bool = False
    is_paused: bool = False
    is_over: bool = False
    sources: list[Source] = field(default_factory=list)
    in_hand: int = 0
    waiting: deque[tuple[int, Frame]] = field(default_factory=deque)

    @property
    def has_room(self) -> bool:
        """Whether it may have one more."""
        return not self.is_paused and (not self.limit or self.in_hand < self.limit)


class Unsettled(NamedTuple):
    """A message that was delivered.

    :param ack: the broker's name of the delivery, escaped as it came.
    """

    source: Source
    ack: bytes
    frame: Frame


class Sources(stream.StreamChannel):
    """Subscriptions under names of their own, and requests that are answered by receipts.

    :ivar number: the channel's, which all its names begin with.
    :ivar unsettled: what was delivered and is not settled, by delivery tag.
    """

    def __init__(self, line: TransportView, number: str) -> None:
        self.number = number
        self.is_open = True
        self.unsettled: dict[int, Unsettled] = {}
        self._line: TransportView = line
        self._sources: dict[str, Source] = {}
        self._numbers = itertools.count(1)
        self._tags = itertools.count(1)

    def check_open(self) -> None:
        """Asked under the lock that guards what is written.

        :raises ConnectionLost: it is closed.
        """
        if not self.is_open:
            raise ConnectionLost("the channel was closed here meanwhile")

    # -- asking

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """What is asked for in this block is answered, or nobody waits for this channel any more.

        Else a subscription that is made late would take messages that nobody gets.
        """
        try:
            yield
        except (ChannelError, ConnectionLost):
            raise
        except BaseException:  # no answer in time, or an interrupt
            self.give_up()
            raise

    def give_up(self) -> None:
        """Nobody uses this channel any more: what it has taken goes back to its queue."""
        self.is_open = False
        frames = [self._end(source) for source in list(self._sources.values())]
        with suppress(CarrotError):
            self._line.write(b"".join(frames))
        self._line.forget(self.number)

    def _call(
        self,
        command: str,
        headers: dict[str, str],
        before: Iterable[bytes] = (),
        timeout: float | None = None,
    ) -> None:
        """Send frames, and wait for the broker's receipt for the last one."""
        receipt = self._line.new_receipt()
        patience = within(self._line.operation_timeout if timeout is None else timeout)
        request = encode(command, {**headers, "receipt": receipt})
        with self._answered():
            self._line.call([*before, request], receipt, patience, self)

    def _wait_for(self, ready: Callable[[], object], deadline: float | None, what: str) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        with self._answered():
            try:
                self._line.wait_for(lambda: ready() or not self.is_open, left)
            except OperationTimeout as exc:
                self._line.is_silent = True
                raise OperationTimeout(f"the broker didn't answer {what} in time") from exc
        self.check_open()

    def _deadline(self, timeout: float | None) -> float | None:
        patience = within(self._line.operation_timeout if timeout is None else timeout)
        return None if patience is None else time.monotonic() + patience

    # -- subscriptions

    def _new_source(self, queue: str, destination: str, **options: Any) -> Source:
        source = Source(f"{self.number}-{next(self._numbers)}", queue, destination, **options)
        self._sources[source.id] = source
        return source

    def _subscribe_frame(self, source: Source, prefetch: int, **options: str) -> bytes:
        return encode("SUBSCRIBE", subscription_headers(source, prefetch, options))

    def _end(self, source: Source) -> bytes:
        """The frame that ends a subscription, of which nothing is taken any more."""
        self._sources.pop(source.id, None)
        return encode("UNSUBSCRIBE", {"id": source.id})

    def _end_all(self, sources: Collection[Source], timeout: float | None = None) -> None:
        """End subscriptions, and wait until what they had is back in the queue."""
        if sources:
            *frames, _ = [self._end(source) for source in sources]
            self._call("UNSUBSCRIBE", {"id": list(sources)[-1].id}, frames, timeout)

    # -- settling

    def _settle(self, tag: int, command: bytes) -> Unsettled:
        """Tell the broker what became of a message."""
        one = self._take(tag)
        data = settle_frame(command, one.ack)
        self._line.write_soon(data + self._end_if_done(one.source), self)
        return one

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


def subscription_headers(
    source: Source, prefetch: int, options: dict[str, str] | None = None
) -> dict[str, str]:
    return {
        "id": source.id,
        "destination": source.destination,
        # Never "auto": what the broker settles as it sends it may be lost, or come twice, when the
        # subscription ends in that moment.
        "ack": "client-individual",
        "activemq.prefetchSize": str(prefetch),
        **(options or {}),
    }


def ack_of(frame: Frame) -> bytes:
    """The broker's name of a delivery, escaped as it came, for it goes back so."""
    start = frame.head.find(b"\nack:") + len(b"\nack:")
    end = frame.head.find(b"\n", start)
    return frame.head[start:] if end < 0 else frame.head[start:end]


def settle_frame(command: bytes, ack: bytes) -> bytes:
    return b"%b\nid:%b\n\n\0" % (command, ack)


def selector(message_ids: Iterable[str]) -> str:
    """A condition that only these messages meet (JMS, section 3.8.1)."""
    quoted = ", ".join("'" + one.replace("'", "''") + "'" for one in message_ids)
    return f"JMSMessageID IN ({quoted})"
