"""PrefetchWindow: what was delivered and not settled, and how much of it a consumer may have."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterator

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.requests import Requests
from carrot.backends.pystomp.settlements import (
    ACK,
    REQUEUE,
    marked_as_requeued,
    settle_frame,
    settlement,
)
from carrot.backends.pystomp.subscriptions import (
    Consumer,
    Subscription,
    Subscriptions,
    Unsettled,
    ack_of,
)
from carrot.backends.sockets.session import TransportView
from carrot.deadline import held
from carrot.remedies import channel_error

#: How many messages one subscription holds for us, so that its selector fits in a header.
HOLD = 100

#: Hands a message to a consumer; False: nobody is there to have it.
Deliver = Callable[[int, Frame, Consumer], bool]


class PrefetchWindow:
    """The messages that a channel has at the broker's expense.

    The thread that reads adds them; any thread settles them. ``lock`` guards all of it, and the
    consumers' fields; what is queued under it goes out in this order. ``settle_lock`` is held
    while a settlement is written, too; see the page of the package.

    :ivar unsettled: by delivery tag.
    """

    def __init__(
        self,
        number: str,
        view: TransportView,
        requests: Requests,
        subscriptions: Subscriptions,
        deliver: Deliver,
    ) -> None:
        self.unsettled: dict[int, Unsettled] = {}
        self.lock = threading.RLock()
        self.settle_lock = threading.RLock()
        self._number = number
        self._view = view
        self._requests = requests
        self._subscriptions = subscriptions
        self._deliver = deliver
        self._tags = itertools.count(1)

    # -- what comes in; called by whichever thread is reading

    def on_message(self, subscription: Subscription, frame: Frame) -> None:
        """Take what the broker delivered to a subscription."""
        consumer = subscription.consumer
        if consumer is not None:
            self._take_in(consumer, subscription, frame)
        elif subscription.wanted is not None:
            self._take_back(subscription, subscription.wanted, frame)
        elif frame.header(b"\nbrowser:") == "end":
            subscription.is_browsed = True
        else:
            subscription.arrived.append(frame)

    def _take_in(self, consumer: Consumer, subscription: Subscription, frame: Frame) -> None:
        tag = next(self._tags)
        with self.lock:
            if consumer.is_over:
                return  # the broker takes the message back
            if mapping.MARK_LINE in frame.head:
                # Of a process that ended before it could take it.
                self._view.answer(settle_frame(ACK, ack_of(frame)))
                return
            self.unsettled[tag] = Unsettled(subscription, ack_of(frame), frame, tag, True)
            consumer.waiting.append(tag)
        self.hand_out(consumer)

    def _take_back(
        self, subscription: Subscription, wanted: dict[str, Unsettled], frame: Frame
    ) -> None:
        """Take a message again that a program has in hand, and settle it as was said meanwhile."""
        with self.lock:
            one = wanted.pop(message_id(frame), None)
            if one is None:
                return
            one.ack = ack_of(frame)
            if one.then is not None:
                ends = subscription.held == 1
                data = self._frames(one, one.then, ends)
                self._view.answer(data + self._release_one(subscription))

    def hand_out(self, consumer: Consumer) -> bool:
        """Give the consumer what waits for it, as far as its limit allows; whether that is any."""
        is_any = False
        while True:
            with self.lock:
                if not consumer.has_room or not consumer.waiting:
                    return is_any
                tag = consumer.waiting[0]
                one = self.unsettled[tag]
                if not self._deliver(tag, one.frame, consumer):
                    return is_any
                consumer.waiting.popleft()
                one.is_waiting = False
                is_any = True
                if consumer.no_ack:
                    # Under the lock: whoever ends the consumer knows what it has.
                    assert one.ack is not None
                    del self.unsettled[tag]
                    self._view.answer(settle_frame(ACK, one.ack))
                else:
                    consumer.in_hand += 1

    # -- what programs have

    def hold(self, subscription: Subscription, frame: Frame) -> int:
        """Count a message that was fetched as unsettled; its delivery tag."""
        tag = next(self._tags)
        with self.lock:
            subscription.held = 1
            self.unsettled[tag] = Unsettled(subscription, ack_of(frame), frame, tag)
        return tag

    def take(self, consumer: Consumer) -> tuple[int, Frame] | None:
        """The next message that waits for a consumer, whatever its limit; None: there is none."""
        with self.lock:
            if not consumer.waiting:
                return None
            tag = consumer.waiting.popleft()
            one = self.unsettled[tag]
            one.is_waiting = False
            consumer.in_hand += 1
            return tag, one.frame

    def take_waiting(self, consumer: Consumer) -> list[int]:
        """The tags of all that waits for a consumer, and does so no more."""
        with self.lock:
            tags = list(consumer.waiting)
            consumer.waiting.clear()
            consumer.in_hand += len(tags)
        return tags

    def put_back(self, consumer: Consumer, tags: Collection[int]) -> None:
        """Let what nobody has seen wait for the queue's next consumer."""
        with self.lock:
            for tag in tags:
                if (one := self.unsettled.get(tag)) is not None:
                    self._wait_in_place(consumer, tag, one)
                    consumer.in_hand -= 1

    def _wait_in_place(self, consumer: Consumer, tag: int, one: Unsettled) -> None:
        """Put a message where it was among those that wait."""
        one.is_waiting = True
        behind = 0
        for other in consumer.waiting:
            if self.unsettled[other].place > one.place:
                break
            behind += 1
        consumer.waiting.insert(behind, tag)

    def in_hand_up_to(self, tag: int) -> list[int]:
        """The tags before that one (0: all) of messages that a program has."""
        with self.lock:
            return [
                one
                for one, unsettled in self.unsettled.items()
                if (one < tag or not tag) and not unsettled.is_waiting
            ]

    # -- settling

    def settle(self, tag: int, how: bytes) -> None:
        """Tell the broker what became of a message: ACK, NACK or REQUEUE.

        :raises PreconditionFailed: there is no such message.
        """
        with held(self.settle_lock, "settling messages"):
            one = self._unsettled_or_later(tag, how)
            if one is None:
                return
            subscription, consumer = one.subscription, one.subscription.consumer
            if how is REQUEUE and consumer is not None and consumer.is_exclusive:
                self._requeue_here(tag, one, consumer)
            else:
                is_last = consumer is None and subscription.held == 1
                data = self._frames(one, how, is_last)
                self._requests.write_soon(data + (subscription.end() if is_last else b""))
                with self.lock:
                    self.unsettled.pop(tag, None)
                    # It may have become the last only now, by what the reader has settled.
                    end = b"" if consumer is not None else self._release_one(subscription)
                if end and not is_last:
                    self._requests.write_soon(end)
        if consumer is not None:
            with self.lock:
                consumer.in_hand -= 1
            if self.hand_out(consumer):
                self._view.interrupt()  # somebody may be waiting for it, and nothing comes in

    def _unsettled_or_later(self, tag: int, how: bytes) -> Unsettled | None:
        """The message of that tag; None: it is settled when the broker has delivered it again."""
        with self.lock:
            one = self.unsettled.get(tag)
            if one is None:
                raise channel_error(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}")
            if one.ack is not None:
                return one
            one.then = how
            del self.unsettled[tag]
            return None

    def _frames(self, one: Unsettled, how: bytes, is_last: bool) -> bytes:
        """The frames that settle a message.

        :param is_last: its subscription ends with it.
        """
        if how is REQUEUE and is_last:
            return b""  # what was not acked goes back by itself
        return settlement(one, how, f"t{self._number}-{one.place}")

    def _release_one(self, subscription: Subscription) -> bytes:
        """One message less is held; the frame that ends a subscription which holds no more."""
        subscription.held -= 1
        return b"" if subscription.held else self._subscriptions.end(subscription)

    def _requeue_here(self, tag: int, one: Unsettled, consumer: Consumer) -> None:
        """The message of an exclusive queue comes next, marked as redelivered."""
        again = next(self._tags)
        with self.lock:
            del self.unsettled[tag]
            one.frame = marked_as_requeued(one.frame)
            self.unsettled[again] = one
            self._wait_in_place(consumer, again, one)

    # -- the end of a consumer

    def release(self, consumer: Consumer, unseen: Collection[int]) -> list[Subscription]:
        """Let go of what a consumer has that ends, under ``settle_lock``.

        Those of its messages that a program has in hand are to be delivered again, to subscriptions
        of their own; what is said of them meanwhile is done then.

        :param unseen: the tags of those that nobody has seen.
        :returns: these subscriptions, which are to begin.
        """
        with self.lock:
            consumer.is_over = True
            for tag in {*unseen, *consumer.waiting}:
                self.unsettled.pop(tag, None)
            consumer.waiting.clear()
            in_hand = [
                one for one in self.unsettled.values() if one.subscription.consumer is consumer
            ]
            return list(self._hold_again(in_hand))

    def _hold_again(self, messages: list[Unsettled]) -> Iterator[Subscription]:
        by_destination: dict[str, list[Unsettled]] = {}
        for one in messages:
            by_destination.setdefault(one.subscription.destination, []).append(one)
        for destination, group in by_destination.items():
            queue = group[0].subscription.queue
            for start in range(0, len(group), HOLD):
                part = group[start : start + HOLD]
                wanted = {message_id(one.frame): one for one in part}
                holding = self._subscriptions.new(queue, destination, wanted=wanted, held=len(part))
                for one in part:
                    one.subscription, one.ack = holding, None
                yield holding


def message_id(frame: Frame) -> str:
    """The broker's name of a message, which it keeps when it is delivered again."""
    return frame.headers()["message-id"]
