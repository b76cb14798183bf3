"""Life: everything that ends together with one channel; made together, and replaced whole."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from carrot import logs
from carrot.backends.base import BaseChannel
from carrot.backends.seam.confirms import Confirms, concerns
from carrot.backends.seam.inbox import Inbox
from carrot.backends.seam.subscriptions import Stage, Subscription
from carrot.backends.transport import BaseTransport
from carrot.deadline import describe, held, remaining
from carrot.exceptions import (
    BrokerRefused,
    CarrotError,
    ChannelError,
    ConnectionLost,
    ConsumerCancelled,
    OperationTimeout,
)
from carrot.message import Message

#: Seconds that a close() waits for what other threads do with the channel.
CLOSING = 1.0
_THERE = (Stage.RUNNING, Stage.COMPLETE)


class Life:
    """One life of a backend's channel. A late event of an old life changes the old life only.

    The thread that reads adds deliveries and cancellations; the backend's turn guards the
    subscriptions; ``settle_lock`` the messages while they are settled.

    :ivar where: the broker, for the log.
    :ivar number: counts up with the lives of a backend.
    :ivar confirms: which published messages are settled; None: they are not confirmed.
    :ivar subscriptions: by consumer tag; those that have ended stay while messages of theirs do.
    :ivar cancelled: the consumers that the broker has ended, and what to say of it.
    :ivar told_cancelled: those of them of which somebody has been told.
    :ivar inbox: deliveries not yet dispatched.
    :ivar over: why it ended; set once, by whoever finds out first.
    :ivar is_told: somebody has been told why it ended.
    :ivar is_blamed: the books tell that to those whose message was the reason.
    :ivar is_restored: what was declared on earlier lives is there on this one.
    :ivar cancellations: how many consumers the broker has ended.
    :ivar in_hand: messages that the program has, as far as they are noted: what was fetched, and
        the deliveries of consumers that ask for it.
    :ivar is_all_noted: there was no other consumer.
    """

    def __init__(
        self, number: int, transport: BaseTransport, channel: BaseChannel, where: logs.Where
    ) -> None:
        self.number = number
        self.where = where
        self.transport = transport
        self.channel = channel
        self.confirms: Confirms | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.cancelled: dict[str, ConsumerCancelled] = {}
        self.told_cancelled: set[str] = set()
        self.inbox = Inbox()
        self.over: CarrotError | None = None
        self.is_told = self.is_blamed = False
        self.is_restored = True
        self.cancellations = 0
        self.in_hand: weakref.WeakSet[Message] = weakref.WeakSet()
        self.is_all_noted = True
        self.renew_locks()
        channel.listen(self)
        # One that is forgotten without close(), and all its messages with it.
        self._finalizer = weakref.finalize(self, transport.abandon, channel)
        self._finalizer.atexit = False

    def renew_locks(self) -> None:
        """Make the lock, also in a forked child, whose parent's threads may hold the old one."""
        self.settle_lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Life {self.number}, {'open' if self.is_open else 'over'}>"

    # -- alive or over

    @property
    def is_open(self) -> bool:
        """Whether it goes on, as far as is known without asking the broker."""
        return self.over is None and self.channel.is_open and self.transport.is_open

    def can_publish_now(self) -> bool:
        """Whether it is open, restored, and not blocked, as far as is known."""
        return (
            self.over is None
            and self.is_restored
            and self.channel.is_open
            and self.transport.blocked is None
            and self.transport.is_open
        )

    def end(self, error: CarrotError, is_told: bool = False) -> None:
        """It is over, for that reason; the first one counts."""
        if self.over is None:
            self.is_told = is_told
            self.over = error
        elif is_told:
            self.is_told = True

    def close(self) -> None:
        """End it here, and close its channel: what is unsettled goes back in one step."""
        # Not while a message is settled in another thread, unless that takes long.
        closed = ConnectionLost("the channel was closed here")
        with suppress(OperationTimeout), held(self.settle_lock, "settling a message", CLOSING):
            self.end(closed, is_told=True)
        self.end(closed, is_told=True)
        lost = Counter(entry[0] for entry in self.inbox.forgotten_by_broker())
        self.forget()
        if self.transport.is_open:
            self.channel.close()
        self.transport.interrupt()
        for subscription, count in lost.items():
            logs.no_ack_lost(subscription.queue, subscription.consumer_tag, count)

    def raise_over(self) -> NoReturn:
        """Raise why it ended: once the broker's reason, and from then on that it is gone.

        :raises ChannelError: or BrokerRefused: the broker's reason, once.
        :raises ConnectionLost: everything else.
        """
        if self.over is not None and not self.is_told:
            self.is_told = True
            self._log(self.over)
            raise self.over
        raise self.gone()

    def _log(self, error: CarrotError) -> None:
        """Log that the broker closed the channel, when the first thread is told."""
        if isinstance(error, ChannelError):
            logs.channel_closed(self.where, error.code, error.text)

    def replace(self, former: Life) -> None:
        """Take the place of *former*, of which nothing counts any more.

        What that had received without acks nobody will deliver again: it comes along.
        """
        former.end(self.gone(), is_told=True)
        for entry in former.inbox.forgotten_by_broker():
            subscription = entry[0]
            subscription.stage = Stage.ENDED
            self.subscriptions[subscription.consumer_tag] = subscription
            self.inbox.append(entry)
        former.forget()

    def forget(self) -> None:
        """Nobody uses it any more."""
        self.inbox.clear()
        self._finalizer.detach()
        self.transport.detach(self)

    @staticmethod
    def gone() -> ConnectionLost:
        """That a life is over, as an error of its own for each thread."""
        return ConnectionLost(
            "the channel was closed, or its connection replaced; consume again: unsettled messages "
            "will be redelivered"
        )

    @property
    def holds_unseen_only(self) -> bool:
        """Whether nothing but what is in the inbox goes back when the channel is closed."""
        with self.settle_lock:
            return self.is_all_noted and all(message.acknowledged for message in self.in_hand)

    def note(self, message: Message) -> None:
        """The program gets *message*, by fetching it or in a callback."""
        with self.settle_lock:
            self.in_hand.add(message)

    @contextmanager
    def used(self) -> Iterator[BaseChannel]:
        """Ask the broker something on the channel; a refusal is told here, and ends the life."""
        try:
            yield self.channel
        except (ChannelError, BrokerRefused) as exc:
            self._end_for(exc)
            raise

    def _end_for(self, error: ChannelError | BrokerRefused) -> None:
        """If the life ended with *error*, this thread is the one that is told why."""
        if not self.channel.is_open or isinstance(error, BrokerRefused):
            self.end(error, is_told=True)
            self._log(error)

    # -- what comes in (ChannelListener)

    def deliver(self, consumer_tag: str, message: Message) -> bool:
        subscription = self.subscriptions.get(consumer_tag)
        if subscription is None:
            return False
        if subscription.no_ack:
            message.settled_by_broker()
        self.inbox.append((subscription, message))
        return True

    def consumer_cancelled(self, consumer_tag: str) -> None:
        subscription = self.subscriptions.get(consumer_tag)
        if subscription is not None and subscription.stage is not Stage.ENDED:
            # First: a thread that finds the subscription gone looks for the reason.
            self.cancelled[consumer_tag] = ConsumerCancelled(
                f"the broker cancelled the consumer of queue {subscription.queue!r}: the queue "
                "was deleted, or its node is gone; declare() and consume again",
                subscription.queue,
            )
            self.subscriptions.pop(consumer_tag, None)
            self.cancellations += 1
            self.is_restored = False  # its queue may be gone

    def channel_closed(self, error: CarrotError) -> None:
        confirms = self.confirms
        # First: a thread that finds it over looks whether it is the one to be told.
        self.is_blamed = (
            confirms is not None and isinstance(error, ChannelError) and confirms.blame(error)
        )
        # That it was given up here, somebody has been told already.
        self.end(error, is_told=isinstance(error, ConnectionLost))

    # -- publishing

    def publish(
        self, message: Message, exchange: str, routing_key: str, mandatory: bool = False
    ) -> int | None:
        """Hand *message* to the broker; its number for :meth:`wait_for_confirms`, if any.

        :raises ConnectionLost: the broker may or may not have it.
        """
        try:
            return self.channel.publish(message, exchange, routing_key, mandatory)
        except (ChannelError, BrokerRefused) as exc:
            self._end_for(exc)
            if isinstance(exc, ChannelError) and concerns(exc, message, exchange) is False:
                raise ConnectionLost(
                    "another message that was sent on this channel has closed it; this one was "
                    "not sent"
                ) from exc
            raise

    def select_confirms(self) -> None:
        """From now on the broker confirms what is published."""
        if self.confirms is None:
            confirms = Confirms()
            with self.used() as channel:
                channel.confirm_select(confirms)
            self.confirms = confirms

    def wait_for_confirms(self, numbers: Collection[int], timeout: float | None) -> None:
        """Wait until the broker has said of all these messages whether it took them.

        :param numbers: as :meth:`publish` returned them.
        :param timeout: seconds; None waits as long as it takes.
        :raises PublishError: Unroutable or Nacked, with the messages it didn't take, when all
            are settled.
        :raises OperationTimeout: no word in time; whether the broker has them is not known.
        :raises ChannelError: the broker refused and closed the channel.
        :raises ConnectionLost: it ended before; whether the broker has them is not known.
        """
        confirms = self.confirms
        if confirms is None:
            self._raise_unconfirmed()
        if not confirms.all_settled(numbers):
            self._wait_until_settled(confirms, numbers, timeout)
        confirms.raise_failures(numbers)

    def _wait_until_settled(
        self, confirms: Confirms, numbers: Collection[int], timeout: float | None
    ) -> None:
        timeout = remaining(timeout)
        transport = self.transport
        try:
            transport.wait_for_answer(
                lambda: confirms.all_settled(numbers) or not self.is_open, timeout
            )
        except OperationTimeout as exc:
            confirms.forget(numbers)
            raise OperationTimeout(
                f"the broker confirmed nothing within {describe(timeout)}: it may or may not have "
                f"the message ({self.why_blocked(timeout)})"
            ) from exc
        if not confirms.all_settled(numbers):
            self._raise_unconfirmed()

    def _raise_unconfirmed(self) -> NoReturn:
        if self.over is not None and not (self.is_told or self.is_blamed):
            self.raise_over()
        raise ConnectionLost(
            "the channel was closed before the broker confirmed: it may or may not have the message"
        )

    def wait_until_unblocked(self, timeout: float | None) -> None:
        """Wait until the broker takes messages again, as far as is known.

        :raises OperationTimeout: it doesn't, and says why.
        """
        transport, timeout = self.transport, remaining(timeout)
        try:
            transport.wait_for(lambda: transport.blocked is None, timeout)
        except OperationTimeout as exc:
            raise OperationTimeout(
                f"the message was not sent: {self.why_blocked(timeout)}"
            ) from exc

    def why_blocked(self, timeout: float | None) -> str:
        """Why the broker takes no messages, as far as is known, and what to do."""
        if (reason := self.transport.blocked) is None:
            return "is it blocked by an alarm, or overloaded?"
        return (
            f"for {describe(timeout)} it has been blocking publishers, for an alarm: {reason!r}; "
            "free memory or disk space there, or let consumers catch up"
        )

    # -- receiving

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`dispatch` has something to do."""
        return self.inbox.has_next or (self.over is not None and not self.is_told)

    def has_consumer(self, consumer_tag: str) -> bool:
        """Whether that consumer is subscribed here, or has received all that was wanted."""
        if not self.is_open:
            return False
        subscription = self.subscriptions.get(consumer_tag)
        return subscription is not None and subscription.stage in _THERE

    def take(self, consumer_tag: str) -> Message | None:
        """The oldest delivery of that consumer that was not dispatched, if any."""
        message = self.inbox.take(consumer_tag)
        if message is not None:
            self.note(message)
        return message

    def put(self, consumer_tag: str, message: Message) -> bool:
        """Put a message that was fetched behind what was delivered to that consumer, if it runs."""
        subscription = self.subscriptions.get(consumer_tag)
        if subscription is not None:
            self.inbox.append((subscription, message))
        return subscription is not None

    def dispatch(self) -> None:
        """Run the callback of the next delivery.

        :raises Exception: what the callback raises; the message stays as the callback left it.
        """
        if self.over is not None and not self.is_told:
            self.raise_over()
        entry = self.inbox.take_next()
        if entry is not None:
            entry[0].callback(entry[1])
