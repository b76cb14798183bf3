"""Members: the subscriptions of a Consumer or ConsumerSet, shared by the loops of all threads."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from carrot.backends.seam.backend import Backend
from carrot.checks import seconds
from carrot.connection import BrokerConnection
from carrot.deadline import Deadline, bounded_by
from carrot.exceptions import (
    CarrotError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    ConsumerCancelled,
    PreconditionFailed,
)
from carrot.message import Message
from carrot.messaging.consume_loop import ConsumeLoop, bounded_end
from carrot.messaging.queue_subscription import QueueSubscription
from carrot.recovery import is_transient
from carrot.retry import Retry

Subscribe = Callable[[int | None], object]


class HasSubscription(Protocol):
    """A Consumer."""

    _subscription: QueueSubscription


class Owner(Protocol):
    """What is needed of a Consumer or a ConsumerSet."""

    connection: BrokerConnection
    backend: Backend
    retry: Retry
    raise_on_cancel: bool


class Members:
    """Subscribes all of them, for as long as loops run. The backend's turn guards what changes.

    :param consumers: gives those there are at present; another thread may remove one meanwhile.
    :param callback: gives what to do with a subscription's deliveries; None: as its consumer has
        it.
    :ivar is_cancelled: since the last loop began: one that is recovering has nothing to end.
    :ivar window: as :class:`ConsumeLoop` says.
    """

    def __init__(
        self,
        owner: Owner,
        consumers: Callable[[], Sequence[HasSubscription]],
        callback: Callable[[QueueSubscription], Callable[[Message], object] | None] = (
            lambda subscription: None
        ),
    ) -> None:
        # Not a circle: if it is forgotten while it isn't subscribed, it is freed at once.
        self._owner_of = weakref.ref(owner)
        self._consumers = consumers
        self._callback = callback
        self.is_cancelled = False
        self.window: int | None = None
        # The wait()s that run, and whether there was a subscription before them.
        self._waiting: dict[ConsumeLoop, None] = {}
        self._keeps_subscription = False

    @property
    def _owner(self) -> Owner:
        owner = self._owner_of()
        assert owner is not None, "its parts go with it"
        return owner

    @property
    def backend(self) -> Backend:
        return self._owner.backend

    @property
    def connection(self) -> BrokerConnection:
        return self._owner.connection

    @property
    def retry(self) -> Retry:
        return self._owner.retry

    @property
    def is_running(self) -> bool:
        """Whether any of them is subscribed."""
        return any(consumer._subscription.is_running for consumer in self._consumers())

    @property
    def is_alone(self) -> bool:
        """Whether one thread at most waits."""
        return len(self._waiting) <= 1

    # -- subscribing

    def subscribe(self, at_most: int | None = None) -> None:
        """Subscribe those that are not subscribed yet.

        :param at_most: have no more messages sent ahead, all together.
        :raises NotFound: a queue isn't there.
        """
        consumers = self._consumers()  # held, as long as their subscriptions are used
        subscriptions = [consumer._subscription for consumer in consumers]
        if not subscriptions:
            return
        with self.backend.lives.changing():
            if at_most is not None and self._waiting:
                at_most = self._still_wanted(at_most, consumers)
                if at_most == 0:
                    return
            fresh = [one for one in subscriptions if not one.is_running]
            is_all = len(fresh) == len(subscriptions)
            is_bounded = at_most is not None and (is_all or self.window is not None)
            share = None if at_most is None else max(1, at_most // len(subscriptions))
            for subscription in fresh:
                subscription.begin(
                    None, self._callback(subscription), None if subscription.stays else share
                )
            if fresh:
                is_bounded = (
                    is_bounded
                    and self.backend.capabilities.holds_deliveries
                    and not any(one.stays for one in subscriptions)
                )
                self.window = sum(one.window for one in subscriptions) if is_bounded else None
                for loop in tuple(self._waiting):
                    loop.look_again()

    def _still_wanted(self, at_most: int, consumers: Sequence[HasSubscription]) -> int:
        """The same, or less: others may have subscribed while this thread waited for its turn.

        :returns: 0: what they were sent, and nobody has taken yet, is enough.
        """
        life, wanted = self.backend.life, self.remaining()
        if wanted is None:
            return at_most
        tags = {consumer._subscription.subscriber.consumer_tag for consumer in consumers}
        sent = 0 if life is None else life.inbox.last_of(tags)
        return max(0 if sent else 1, min(at_most, wanted - sent))

    def subscribe_more(self) -> None:
        """Subscribe what was added, for the loops that run."""
        self.subscribe(None if self.window is None else self.remaining())

    @property
    def is_waiting(self) -> bool:
        """Whether a loop runs that has made the subscription."""
        return bool(self._waiting)

    def subscribe_again(self, at_most: int | None) -> None:
        """Subscribe as before, on a new life, those that are not."""
        with self.backend.lives.changing():
            consumers = self._consumers()
            subscriptions = [consumer._subscription for consumer in consumers]
            share = None if at_most is None else max(1, at_most // max(1, len(subscriptions)))
            for subscription in subscriptions:
                if not subscription.is_running:
                    subscription.begin_again(
                        None if subscription.stays else share, self._callback(subscription)
                    )
            if self.window is not None:
                self.window = sum(one.window for one in subscriptions)

    def complete(self) -> None:
        """Let the broker deliver no more; what is here is still processed."""
        with self.backend.lives.changing():
            for consumer in self._consumers():
                consumer._subscription.complete()

    def cancel(self) -> None:
        """End them all: what was sent ahead and not processed goes back to the queues."""
        self.is_cancelled = True
        for consumer in self._consumers():
            if consumer._subscription.backend is self.backend:
                consumer._subscription.end()

    def remaining(self) -> int | None:
        """How many more messages the loops that run want, at least; None: any number.

        Those of other threads may have taken one each, and not counted it yet.
        """
        loops = tuple(self._waiting)
        total = 1 - len(loops)
        for loop in loops:
            if loop.remaining is None:
                return None
            total += loop.remaining
        return max(0, total)

    # -- loops

    def loop(self, limit: int | None, timeout: float | None, subscribe: Subscribe) -> ConsumeLoop:
        """A loop that begins now; the subscription stays when it ends."""
        deadline = Deadline.after(None if timeout is None else seconds("timeout", timeout))
        self.is_cancelled = False
        loop = ConsumeLoop(self, limit, deadline, subscribe)
        loop.start()
        return loop

    def wait(self, limit: int | None, timeout: float | None) -> None:
        """Process messages until *limit*, and end the subscription that was made for it."""
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise ConfigurationError(f"limit must be a whole number, or None: {limit!r}")
        if limit is not None and limit < 0:
            raise ConfigurationError(f"limit must be 0 or more, or None: {limit!r}")
        deadline = Deadline.after(None if timeout is None else seconds("timeout", timeout))
        self.is_cancelled = False
        if limit is not None and limit <= 0:
            return
        loop = ConsumeLoop(self, limit, deadline)
        try:
            with bounded_by(deadline):
                self._begin_waiting(loop)
            if not loop.is_told:
                loop.start(limit)
                for _ in loop:
                    pass
        finally:
            self.backend.stop_flag.heed()
            if loop in self._waiting:  # else it has not begun, and another's is not its to end
                self._waiting.pop(loop, None)
                self._release_soon(deadline)

    def _begin_waiting(self, loop: ConsumeLoop) -> None:
        """Several threads may wait: what the first of them subscribes is ended by the last."""
        with self.backend.lives.changing():
            if not self._waiting:
                self._keeps_subscription = self.is_running
                if self._keeps_subscription:
                    self.window = None
            self._waiting[loop] = None

    def _release_soon(self, deadline: Deadline) -> None:
        """End the subscription; when that fails, the broker takes everything back as well."""
        with suppress(CarrotError), bounded_end(deadline):
            with self.backend.lives.changing():
                if not self._waiting and not self._keeps_subscription:
                    self.release()
            if (life := self.backend.life) is not None:
                life.transport.interrupt()  # the others may want what this one has left

    def release(self) -> None:
        """End those whose queue does not go with them."""
        for consumer in self._consumers():
            if not consumer._subscription.stays:
                consumer._subscription.end()

    # -- what one recovers from

    def is_recoverable(self, error: Exception) -> bool:
        """Whether a loop goes on after *error*, by subscribing again."""
        if isinstance(error, ConsumerCancelled):
            return not self._owner.raise_on_cancel
        if isinstance(error, PreconditionFailed):
            # Of a message that was not acked in time; it is delivered again
            # (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
            return "timed out" in error.text
        return isinstance(error, (ConnectionLost, ConnectionFailed)) and is_transient(error)
