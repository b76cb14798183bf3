"""Consuming: the part of the seam that receives: subscriptions, the inbox, and the loop."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from carrot.backends.lifecycle import DeliveryCallback, Entry, Lifecycle, Subscription
from carrot.backends.loop import ConsumeIterator
from carrot.checks import check_prefetch_count, short_string
from carrot.exceptions import CarrotError, ConsumerCancelled, OperationTimeout
from carrot.message import Message as BaseMessage


def _removed(box: deque[Entry], entry: Entry) -> bool:
    """Take *entry* out of *box*; False: another thread was faster."""
    try:
        box.remove(entry)
    except ValueError:
        return False
    return True


class Consuming(Lifecycle):
    """Deliveries wait in ``inbox`` for :meth:`dispatch` or :meth:`consume`."""

    @abstractmethod
    def get(
        self, queue: str, no_ack: bool = False, timeout: float | None = None
    ) -> BaseMessage | None:
        """Take the next message from *queue*, or None when it is empty.

        :param no_ack: the broker forgets the message as it delivers it.
        :param timeout: seconds for the broker's answer, where the driver can tell; None:
            ``operation_timeout``.
        :raises NotFound: no such queue; the channel reopens by itself.
        :raises ConnectionLost: the connection dropped; safe to retry.
        """

    def declare_consumer(
        self,
        queue: str,
        no_ack: bool,
        callback: DeliveryCallback,
        consumer_tag: str,
        nowait: bool = False,
        again: Callable[[CarrotError], object] | None = None,
    ) -> None:
        """Subscribe to *queue*: what it delivers is handed to *callback* by :meth:`dispatch`.

        :param nowait: accepted for old programs; the broker's answer is always awaited, so that
            a missing queue is told here.
        :param again: called when the subscription is lost, with the reason, to have it back; see
            :meth:`subscribe_lost_again`.
        :raises NotFound: no such queue.
        """
        short_string("consumer tag", consumer_tag)
        self._wait_to_change()
        with self.changing:
            channel = self.channel
            if consumer_tag in self._subscriptions:
                return
            was_wanted, loss = consumer_tag in self._wanted, self._lost.get(consumer_tag)
            self._wanted[consumer_tag] = again
            # First: deliveries may overtake the broker's answer.
            self._subscriptions[consumer_tag] = Subscription(consumer_tag, queue, no_ack, callback)
            try:
                if not self._paused:
                    self._subscribe(channel, queue, consumer_tag, no_ack)
            except BaseException:
                self._subscriptions.pop(consumer_tag, None)
                if not was_wanted:
                    self._forget_wanted(consumer_tag)
                raise
            # Not another one, that came meanwhile.
            if loss is not None and self._lost.get(consumer_tag) is loss:
                del self._lost[consumer_tag]

    def is_consuming(self, consumer_tag: str) -> bool:
        """Whether that consumer is subscribed on this channel, as it is now."""
        # One that was lost may be on its way back, under the same tag.
        return (
            self.is_open and consumer_tag in self._subscriptions and consumer_tag not in self._lost
        )

    def cancel(self, consumer_tag: str) -> None:
        """End a subscription; what it received and nobody has seen goes back to the queue.

        A tag that isn't subscribed is no error. Messages delivered with no_ack can't go back:
        they are kept for :meth:`take`.
        """
        self._wait_to_change()
        with self.changing:
            subscription, is_open = self._subscriptions.get(consumer_tag), self.is_open
            try:
                if subscription is not None and is_open and not self._paused:
                    self._unsubscribe(self._channel, consumer_tag)
            finally:
                self._subscriptions.pop(consumer_tag, None)
                self._forget_wanted(consumer_tag)
            if subscription is not None and is_open:  # else the broker takes back what it delivered
                self._return_inbox(subscription)
        self.interrupt()  # consume() ends with the last subscription

    def _forget_wanted(self, consumer_tag: str) -> None:
        """Nobody waits for that consumer any more."""
        self._lost.pop(consumer_tag, None)
        self._wanted.pop(consumer_tag, None)

    def _return_inbox(self, subscription: Subscription) -> None:
        """Give back what a subscription that has ended received and nobody has seen."""
        for entry in tuple(self.inbox):
            if entry[0] is subscription and _removed(self.inbox, entry):
                if subscription.no_ack:
                    self._left_over.append(entry)
                else:
                    entry[1].requeue()

    @abstractmethod
    def _subscribe(self, channel: Any, queue: str, consumer_tag: str, no_ack: bool) -> None:
        """Start a consumer on the broker; its deliveries go to :meth:`deliver`."""

    @abstractmethod
    def _unsubscribe(self, channel: Any, consumer_tag: str) -> None:
        """End a consumer on the broker; deliveries may still arrive until it has answered."""

    def deliver(self, consumer_tag: str, message: BaseMessage) -> None:
        """The driver's reader says: the broker delivered *message* to that consumer."""
        subscription = self._subscriptions.get(consumer_tag)
        if subscription is not None:
            self.inbox.append((subscription, message))
        # Else the channel was closed meanwhile, and the broker takes the message back.

    def cancelled_by_broker(self, consumer_tag: str) -> None:
        """The driver's reader says: the broker ended that consumer. Its user is told why."""
        subscription = self._subscriptions.pop(consumer_tag, None)
        if subscription is not None:
            self._failure = self._lost[consumer_tag] = ConsumerCancelled(
                f"the broker cancelled the consumer of queue {subscription.queue!r}: the queue "
                "was deleted, or its node is gone; declare() and consume again"
            )

    def take(self, consumer_tag: str) -> BaseMessage | None:
        """The next message that was delivered to that consumer and not dispatched, if any."""
        for box in (self._left_over, self.inbox):
            for entry in tuple(box):
                if entry[0].consumer_tag == consumer_tag and _removed(box, entry):
                    return entry[1]
        return None

    def dispatch(self) -> None:
        if self._failure is not None:
            self._raise_failure()
        try:
            subscription, message = self.inbox.popleft()
        except IndexError:
            return  # another thread was faster
        subscription.callback(message)

    @property
    def is_ready(self) -> bool:
        return bool(self.inbox) or self._failure is not None

    def consume(
        self,
        limit: int | None = None,
        deadline: float | None = None,
        heal: Callable[[CarrotError, int], bool] | None = None,
    ) -> ConsumeIterator:
        """Dispatch deliveries, one at each step, waiting for them when there are none.

        :param limit: stop after this many; None goes on until :meth:`stop` or :meth:`close`, or
            until there is no subscription left.
        :param deadline: as ``time.monotonic()`` counts; then it raises OperationTimeout.
        :param heal: called with the error when the connection, the channel or a consumer is
            gone, and with what :meth:`is_stopping` wants; returns True when the consumers are
            there again, for which :meth:`subscribe_lost_again` cares.
        """
        return ConsumeIterator(self, limit, deadline, heal)

    def next_delivery(self, timeout: float | None = None, stops: int | None = None) -> Entry | None:
        """Wait for a delivery, and take it.

        :param timeout: seconds; None waits as long as it takes.
        :param stops: :attr:`stops_heeded` when the loop began; default what it is now.
        :returns: None after :meth:`stop` or :meth:`close`, and when no subscription is left.
        :raises OperationTimeout: nothing was delivered in time.
        :raises ConnectionLost: the connection is gone.
        :raises ConsumerCancelled: the broker ended the subscription.
        :raises ChannelError: the broker closed the channel.
        """
        deadline = None
        if stops is None:
            stops = self.stops_heeded
        while True:
            if self.inbox and self._stops == stops and self._failure is None:
                transport = self._transport
                if transport is None or not transport.is_open:
                    self._drop_what_will_be_redelivered()
                try:
                    return self.inbox.popleft()
                except IndexError:
                    continue  # another thread was faster
            if timeout is not None:
                # Another thread may take what this one has waited for.
                deadline = deadline or time.monotonic() + timeout
                timeout = max(0.0, deadline - time.monotonic())
            if not self._wait_for_delivery(timeout, stops):
                return None

    def delivered(self, message: BaseMessage) -> bool:
        """Whether *message* came on the channel that is open now, and can be settled there."""
        return self.is_open and message.generation in (None, self.generation)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a consumer of this channel, be it subscribed or lost."""
        return bool(self._wanted)

    def subscribe_lost_again(self) -> None:
        """Have all that ended unasked subscribed again, whoever waits for it, in any thread.

        What has no *again*, or is not there again after it, is forgotten.

        :raises CarrotError: one of them could not be had again.
        """
        for tag, why in tuple(self._lost.items()):
            with self.unchanged():
                if self._lost.get(tag) is not why:
                    continue  # another thread was faster
                if (again := self._wanted.get(tag)) is not None:
                    again(why)
                if self._lost.get(tag) is why:
                    self._forget_wanted(tag)

    def _is_missing(self) -> bool:
        """Whether a subscription is lost that somebody waits for."""
        return not self._wanted.keys().isdisjoint(self._lost)

    def _wait_for_delivery(self, timeout: float | None, stops: int) -> bool:
        """Wait until there may be one; False: there will be none.

        :raises CarrotError: why a subscription has ended.
        """

        def ready() -> bool:
            return self._stops != stops or self.is_ready or self._is_missing() or not self._wanted

        if self._transport is not None and not ready():
            try:
                self._transport.wait_for(ready, timeout)
            except OperationTimeout as exc:
                raise OperationTimeout(
                    "no more messages were delivered within the timeout"
                ) from exc
        if self._stops != stops:
            self.forget_stop()
            return False
        self._raise_failure()
        # Each of the threads that wait here is told, with an error of its own.
        for tag, why in tuple(self._lost.items()):
            if tag in self._wanted:
                raise type(why)(str(why))
        return bool(self._wanted or self.inbox)

    def _drop_what_will_be_redelivered(self) -> None:
        """The connection is gone: what could not be acked any more is not worth processing."""
        for entry in tuple(self.inbox):
            # Another thread may have made a new one meanwhile, and got something on it.
            if not entry[0].no_ack and not self.delivered(entry[1]):
                _removed(self.inbox, entry)

    def is_stopping(self, stops: int) -> bool:
        """Whether :meth:`stop` was called for a loop that began at *stops* heeded."""
        return self._stops != stops

    def forget_stop(self) -> None:
        """The iteration that :meth:`stop` was to end has ended otherwise."""
        self.stops_heeded = self._stops

    def stop(self) -> None:
        """End the running iterations of :meth:`consume` (or else the next) after their step.

        From any thread, a callback or a signal handler.
        """
        self._stops += 1
        self.interrupt()

    def flow(self, active: bool) -> None:
        """Pause (False) or restart (True) this channel's deliveries.

        RabbitMQ has no ``channel.flow`` for clients, so pausing ends the subscriptions at the
        broker and restarting begins them again; what waits in the inbox goes back meanwhile.
        """
        channel = self.channel
        if active == (not self._paused):
            return
        if active:
            self.inbox.extend(self._left_over)
            self._left_over.clear()
        for consumer_tag, subscription in tuple(self._subscriptions.items()):
            if active:
                self._subscribe(channel, subscription.queue, consumer_tag, subscription.no_ack)
            else:
                self._unsubscribe(channel, consumer_tag)
                self._return_inbox(subscription)
        self._paused = not active

    def qos(self, prefetch_size: int, prefetch_count: int, apply_global: bool = False) -> None:
        """Limit how many messages may be delivered and not yet settled.

        :param prefetch_size: bytes; 0 is no limit, and RabbitMQ knows no other.
        :param prefetch_count: messages; 0 is no limit.
        :param apply_global: False limits each consumer subscribed from now on, True all
            consumers of the channel together
            (https://www.rabbitmq.com/docs/consumer-prefetch).
        """
        if prefetch_size:
            self.require("prefetch_size", f"prefetch_size={prefetch_size!r}; use prefetch_count")
        check_prefetch_count(prefetch_count)
        channel = self.channel
        self._qos(channel, prefetch_count, apply_global)
        if apply_global:
            self._channel_limit = prefetch_count
        elif self._channel_limit:
            # RabbitMQ lifts the channel's limit when one for consumers is set.
            self._qos(channel, self._channel_limit, True)
