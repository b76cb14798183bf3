"""QueueSubscription: how one Consumer subscribes to its queue, and subscribes again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from carrot.backends.seam.backend import Backend
from carrot.checks import SHORT_STRING_BYTES, check_prefetch_count
from carrot.exceptions import CarrotError
from carrot.message import Message
from carrot.messaging.message_ids import unique_id
from carrot.recovery import is_transient

DeliveryCallback = Callable[[Message], object]


class Subscriber(Protocol):
    """What is needed of a Consumer."""

    backend: Backend
    consumer_tag: str
    prefetch_count: int
    no_ack: bool
    auto_delete: bool

    def usable_queue(self) -> str: ...
    def is_recoverable(self, error: Exception) -> bool: ...
    def _receive_callback(self, message: Message) -> None: ...


class QueueSubscription:
    """The subscription of a consumer. The backend's turn guards what changes.

    :ivar window: how many unsettled messages the broker may send ahead; 0: no limit.
    """

    def __init__(self, subscriber: Subscriber, is_single_active: bool) -> None:
        # Not a circle: if it is forgotten while it isn't subscribed, it is freed at once.
        self._owner = weakref.ref(subscriber)
        self._is_single_active = is_single_active
        self._has_begun = False
        #: The tags of complete subscriptions, of which something may be here.
        self._former: list[str] = []
        self._no_ack = False
        self._callback: DeliveryCallback | None = None
        self.window = 0
        subscriber.consumer_tag = self._new_tag()

    @property
    def subscriber(self) -> Subscriber:
        """The consumer."""
        subscriber = self._owner()
        assert subscriber is not None, "its parts go with it"
        return subscriber

    def _new_tag(self) -> str:
        """A tag that no other consumer has, and that tells an operator whose it is."""
        cls = type(self.subscriber)
        return f"{cls.__module__}.{cls.__name__}-{unique_id()}"[-SHORT_STRING_BYTES:]

    @property
    def backend(self) -> Backend:
        """The channel it is on."""
        return self.subscriber.backend

    @property
    def is_running(self) -> bool:
        """Whether the broker delivers."""
        return self.backend.consumers.is_consuming(self.subscriber.consumer_tag)

    @property
    def stays(self) -> bool:
        """Whether a loop leaves it: the queue would go with its last subscription."""
        return self.subscriber.auto_delete

    def begin(
        self,
        no_ack: bool | None = None,
        callback: DeliveryCallback | None = None,
        at_most: int | None = None,
    ) -> None:
        """Subscribe; harmless when it is subscribed already.

        :param no_ack: default the consumer's own.
        :param callback: what to do with each delivery; default as the consumer has it.
        :param at_most: never have more than so many messages sent ahead.
        """
        if self.is_running:
            return
        subscriber, lives = self.subscriber, self.backend.lives
        queue = subscriber.usable_queue()
        self.backend.consumers.raise_cancelled(subscriber.consumer_tag)
        with lives.changing():
            if self.backend.consumers.is_consuming(subscriber.consumer_tag):
                return  # another thread was faster
            life = lives.restored()
            self._no_ack = subscriber.no_ack if no_ack is None else no_ack
            self._callback = callback or self._callback
            self.window = _window(subscriber.prefetch_count, at_most)
            # The broker knows no limit for deliveries without acks: then they are acked here.
            is_limited = self._no_ack and at_most is not None
            callback = self._callback or subscriber._receive_callback
            if is_limited:
                callback = partial(_take_settled, callback)
            if self._is_single_active:
                callback = partial(_take_noted, callback)
            former = tag = subscriber.consumer_tag
            if self._has_begun and not self._no_ack:
                # RabbitMQ's quorum queues lose their way when a tag is used again. (With no_ack
                # the tag stays: it is the name of what is left over.)
                tag = self._new_tag()
            self._has_begun = True
            lives.qos(self.window, False, life)
            self.backend.consumers.subscribe(
                queue,
                self._no_ack and not is_limited,
                callback,
                tag,
                resubscribe=self._resubscribe,
                life=life,
                is_noted=self._is_single_active,
            )
            if tag != former:
                subscriber.consumer_tag = tag
                # Not before: other threads that wait for it would think that nobody does.
                if self.backend.consumers.leave(former):
                    self._former.append(former)

    def begin_again(self, at_most: int | None, callback: DeliveryCallback | None = None) -> None:
        """Subscribe as before, on a new life."""
        no_ack = self._no_ack if self._has_begun else None
        self.begin(no_ack, callback or self._callback, at_most)

    def _resubscribe(self, why: CarrotError) -> None:
        """Subscribe again in the loop of another on the same channel, if that is wanted."""
        if not self.subscriber.is_recoverable(why):
            return
        try:
            self.begin_again(None)
        except CarrotError as exc:
            if not (is_transient(exc) or self.subscriber.is_recoverable(exc)):
                self.end()  # told now, and not once more
            raise

    def complete(self) -> None:
        """Let the broker deliver no more; what is here is still processed."""
        self.backend.consumers.complete(self.subscriber.consumer_tag)

    def end(self) -> None:
        """End it: what was sent ahead and not processed goes back to the queue."""
        # Another thread may be subscribing, with a new tag.
        with self.backend.lives.changing():
            while self._former:
                self.backend.consumers.cancel(self._former.pop())
            self.backend.consumers.cancel(
                self.subscriber.consumer_tag, closes_channel=self._is_single_active
            )


def _take_settled(callback: DeliveryCallback, message: Message) -> None:
    """Take a message that the consumer wants without acks."""
    if not message.acknowledged:
        message.settle_for_receiver()
    callback(message)


def _take_noted(callback: DeliveryCallback, message: Message) -> None:
    """Take a message of which its life is to know."""
    if (life := message.life) is not None:
        life.note(message)
    callback(message)


def _window(prefetch_count: int, at_most: int | None) -> int:
    prefetch = check_prefetch_count(prefetch_count)
    return min(prefetch or at_most, at_most, 65535) if at_most else prefetch


def is_single_active(arguments: Any) -> bool:
    """Whether the queue serves one consumer at a time, by its arguments."""
    return bool((arguments or {}).get("x-single-active-consumer"))
