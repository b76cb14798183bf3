"""Consumers: subscribes and cancels, and hands on what is delivered, whichever life is current."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from carrot import logs
from carrot.backends.seam.inbox import ENDED, Entry
from carrot.backends.seam.life import CLOSING, Life
from carrot.backends.seam.lives import Lives
from carrot.backends.seam.stop_flag import StopFlag
from carrot.backends.seam.subscriptions import (
    DeliveryCallback,
    Resubscribe,
    Stage,
    Subscription,
)
from carrot.checks import short_string
from carrot.deadline import Deadline
from carrot.exceptions import CarrotError, OperationTimeout


class Consumers:
    """The consumers of a backend.

    A consumer that somebody waits for is *wanted*, and outlives the lives on which it is
    subscribed. One that is wanted and not subscribed on the current life is lost: nothing else
    says so. Changes are made during the thread's turn; readers look at copies.

    :ivar is_paused: see :meth:`flow`.
    """

    def __init__(self, lives: Lives, stop_flag: StopFlag) -> None:
        self._lives = lives
        self._stop_flag = stop_flag
        #: By consumer tag: how to subscribe it again; None: nobody can.
        self._wanted: dict[str, Resubscribe | None] = {}
        self.is_paused = False

    # -- subscribing

    def subscribe(
        self,
        queue: str,
        no_ack: bool,
        callback: DeliveryCallback,
        consumer_tag: str,
        resubscribe: Resubscribe | None = None,
        life: Life | None = None,
        is_noted: bool = False,
    ) -> None:
        """Subscribe to *queue*; harmless when that consumer is subscribed already.

        :param resubscribe: called when the subscription is lost, with the reason, to have it back.
        :param is_noted: its callback notes each message in ``life.in_hand``, so that the channel
            can be closed to give back the others.
        :param life: the life to do it on, when what was done before counts on that one only.
        :raises NotFound: no such queue.
        """
        short_string("consumer tag", consumer_tag)
        with self._lives.changing():
            life = life or self._lives.live()
            known = life.subscriptions.get(consumer_tag)
            if known is not None and known.stage in (Stage.BEGINNING, Stage.RUNNING):
                return
            subscription = known or Subscription(consumer_tag, queue, no_ack, callback)
            subscription.callback, subscription.stage = callback, Stage.BEGINNING
            subscription.no_ack = no_ack
            life.is_all_noted = life.is_all_noted and is_noted
            former = life.cancelled.get(consumer_tag)
            # First: deliveries may overtake the broker's answer.
            life.subscriptions[consumer_tag] = subscription
            try:
                if not self.is_paused:
                    with life.used() as channel:
                        channel.subscribe(queue, consumer_tag, no_ack)
            except BaseException:
                life.subscriptions.pop(consumer_tag, None)
                raise
            subscription.stage = Stage.RUNNING
            # Afterwards: one that is wanted and not there is lost, for loops of other threads.
            self._wanted[consumer_tag] = resubscribe
            # Not another one, that came meanwhile.
            if life.cancelled.get(consumer_tag) is former:
                life.cancelled.pop(consumer_tag, None)

    def is_consuming(self, consumer_tag: str) -> bool:
        """Whether the broker delivers to that consumer, on the current life."""
        life = self._lives.current
        if life is None or not life.is_open:
            return False
        subscription = life.subscriptions.get(consumer_tag)
        return subscription is not None and subscription.stage is Stage.RUNNING

    def leave(self, consumer_tag: str) -> bool:
        """Wait no more for that consumer, which is complete; whether something of it is here."""
        self._wanted.pop(consumer_tag, None)
        life, subscription = self._find(consumer_tag)
        if life is None or subscription is None:
            return False
        if life.inbox.of(subscription):
            return True
        life.subscriptions.pop(consumer_tag, None)
        return False

    def complete(self, consumer_tag: str) -> None:
        """Let the broker deliver no more; what is here is still processed."""
        with self._lives.changing():
            life, subscription = self._find(consumer_tag)
            if life is not None and subscription and subscription.stage is Stage.RUNNING:
                self._end(life, subscription, Stage.COMPLETE)

    def cancel(self, consumer_tag: str, closes_channel: bool = False) -> None:
        """End a subscription; what it received and nobody has seen goes back to the queue.

        :param closes_channel: give it back by closing the channel, when nothing else is on it.
        """
        returned = 0
        with self._lives.changing():
            self._wanted.pop(consumer_tag, None)
            life, subscription = self._find(consumer_tag)
            if life is not None and subscription is not None:
                if closes_channel and self._is_alone(life, subscription):
                    returned = len(life.inbox)
                    self._lives.close()
                else:
                    returned = self._end(life, subscription, Stage.ENDED)
        if life is not None:
            life.transport.interrupt()  # loops end with the last subscription
            if (
                returned
                and subscription is not None
                and life.transport.counts_returns
                and self._may_count(subscription)
            ):
                logs.given_back_as_failed(subscription.queue, consumer_tag, returned)

    def _may_count(self, subscription: Subscription) -> bool:
        """Whether its queue counts failed deliveries, as far as is known: it was not declared here,
        or as a quorum queue.
        """
        queue = self._lives.topology.find_queue(subscription.queue)
        return queue is None or (queue.arguments or {}).get("x-queue-type") == "quorum"

    def _find(self, consumer_tag: str) -> tuple[Life | None, Subscription | None]:
        life = self._lives.current
        return life, None if life is None else life.subscriptions.get(consumer_tag)

    @property
    def is_drained(self) -> bool:
        """Whether all that the consumers wanted has been taken."""
        life = self._lives.current
        if life is None or life.inbox.has_next:
            return False
        there = tuple(life.subscriptions.values())
        return any(
            one.stage is Stage.COMPLETE and one.consumer_tag in self._wanted for one in there
        )

    def _is_alone(self, life: Life, subscription: Subscription) -> bool:
        """Whether all that is unsettled on *life* is of *subscription*, and unseen."""
        return (
            life.is_open
            and life.confirms is None
            and tuple(life.subscriptions.values()) == (subscription,)
            and life.holds_unseen_only
        )

    def _end(self, life: Life, subscription: Subscription, stage: Stage) -> int:
        """End a subscription at the broker, during this thread's turn; how many go back."""
        returned: list[Any] = []

        def take_unseen() -> Sequence[Any]:
            if give_back:
                returned.extend(life.inbox.take_unseen(subscription))
            return returned

        was, subscription.stage = subscription.stage, stage
        tag = subscription.consumer_tag
        give_back = stage is Stage.ENDED
        try:
            if not life.is_open:
                return 0  # the broker takes back what it delivered
            with life.used() as channel:
                if was is Stage.RUNNING and not self.is_paused:
                    channel.unsubscribe(tag, take_unseen)
                else:
                    for unseen in take_unseen():
                        channel.nack(unseen)
        finally:
            if give_back and not life.inbox.of(subscription):
                life.subscriptions.pop(tag, None)
        return len(returned)

    def flow(self, active: bool) -> None:
        """Pause (False) or restart (True) deliveries."""
        with self._lives.changing():
            life = self._lives.live()
            if active == (not self.is_paused):
                return
            for tag, subscription in tuple(life.subscriptions.items()):
                if subscription.stage is not Stage.RUNNING:
                    continue
                with life.used() as channel:
                    if active:
                        channel.subscribe(subscription.queue, tag, subscription.no_ack)
                    else:
                        channel.unsubscribe(tag, partial(life.inbox.take_unseen, subscription))
            self.is_paused = not active

    def end_unacked(self) -> None:
        """Take in all that the broker has sent to consumers without acks, and has forgotten."""
        life = self._lives.current
        running = [] if life is None or not life.is_open else tuple(life.subscriptions.values())
        for subscription in running:
            if subscription.no_ack and subscription.stage is Stage.RUNNING:
                with suppress(CarrotError), self._lives.changing(CLOSING):
                    self.cancel(subscription.consumer_tag)

    def forget_all(self) -> None:
        """Nobody waits for any consumer, and nothing is paused."""
        self._wanted.clear()
        self.is_paused = False

    # -- lost and had again

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a consumer of this channel, be it subscribed or lost."""
        return bool(self._wanted)

    def lost(self) -> list[str]:
        """The tags of the wanted consumers that are not subscribed on the current life."""
        life = self._lives.current
        wanted = tuple(self._wanted)
        return [tag for tag in wanted if life is None or not life.has_consumer(tag)]

    def why_lost(self, consumer_tag: str) -> CarrotError:
        """Why a lost consumer was lost, as an error of its own for each thread."""
        life = self._lives.current
        if life is None:
            return Life.gone()
        cancelled = life.cancelled.get(consumer_tag)
        if cancelled is None:
            return Life.gone()
        if consumer_tag not in life.told_cancelled:
            life.told_cancelled.add(consumer_tag)
            logs.consumer_cancelled(cancelled.queue, consumer_tag, cancelled)
        return type(cancelled)(str(cancelled), cancelled.queue)

    def raise_cancelled(self, consumer_tag: str) -> None:
        """:raises ConsumerCancelled: the broker has ended that consumer, and nobody was told."""
        life = self._lives.current
        if life is not None and consumer_tag in life.cancelled.keys() - life.told_cancelled:
            raise self.why_lost(consumer_tag)

    def subscribe_lost_again(self) -> None:
        """Have all lost consumers subscribed again, whoever waits for them, in any thread.

        One that can't be, or is not there again after it, is forgotten.

        :raises CarrotError: one of them could not be subscribed.
        """
        for tag in self.lost():
            with self._lives.changing():
                if tag not in self.lost():
                    continue  # another thread was faster
                if (resubscribe := self._wanted.get(tag)) is not None:
                    resubscribe(self.why_lost(tag))
                if tag in self.lost():
                    self._wanted.pop(tag, None)

    # -- deliveries

    def next_delivery(
        self, stops: int | None = None, deadline: Deadline | None = None
    ) -> Entry | None:
        """Wait for a delivery of any consumer of the channel, and take it.

        :param stops: as :attr:`StopFlag.heeded` was when the loop began; default what it is now.
        :returns: None after a stop, when no consumer is wanted any more, and when all that the
            consumers wanted has been taken.
        :raises OperationTimeout: nothing was delivered in time.
        :raises ConnectionLost: the connection is gone.
        :raises ConsumerCancelled: the broker ended a subscription.
        :raises ChannelError: or BrokerRefused: the broker closed the channel.
        """
        stop_flag = self._stop_flag
        if stops is None:
            stops = stop_flag.heeded
        while True:
            life = self._lives.current
            # Not is_asked(): a call for each message.
            if life is not None and life.inbox and stop_flag.asked == stops:
                if life.over is not None or not life.transport.is_open:
                    life.inbox.drop_unsettled()
                try:  # as take_next() does, without its call
                    entry = life.inbox.popleft()
                except IndexError:
                    continue  # another thread was faster
                if entry[0].stage is not ENDED:
                    return entry
                life.inbox.appendleft(entry)
                if (later := life.inbox.take_next()) is not None:
                    return later
            if not self._wait_for_delivery(life, stops, deadline):
                return None

    def _wait_for_delivery(self, life: Life | None, stops: int, deadline: Deadline | None) -> bool:
        """Wait until there may be one; False: there will be none."""
        lives, stop_flag, wanted = self._lives, self._stop_flag, self._wanted

        def ready() -> bool:
            return (
                stop_flag.is_asked(stops)
                or lives.current is not life
                or life is None
                or life.is_ready
                or not all(map(life.has_consumer, tuple(wanted)))
                or not wanted
                or self.is_drained
            )

        if stop_flag.is_asked(stops):
            stop_flag.heed()
            return False
        if wanted and life is not None and life.over is None and not life.transport.is_open:
            life.transport.wait_for(_never, 0)  # says why
        if life is not None and not ready():
            try:
                life.transport.wait_for(ready, None if deadline is None else deadline.left)
            except OperationTimeout as exc:
                raise OperationTimeout(
                    "no more messages were delivered within the timeout"
                ) from exc
        if stop_flag.is_asked(stops):
            stop_flag.heed()
            return False
        if life is not None and lives.current is life and life.over and not life.is_told:
            life.raise_over()
        if lost := self.lost():
            raise self.why_lost(lost[0])
        life = lives.current
        if life is None:
            return bool(wanted)
        return life.inbox.has_next or (bool(wanted) and not self.is_drained)


def _never() -> bool:
    return False
