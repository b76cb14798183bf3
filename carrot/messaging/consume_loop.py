"""ConsumeLoop: takes deliveries one by one, and is the only place that recovers consumers.

Theory of operation. A loop is in one of four states, and each event leads to the next state by
:data:`TRANSITIONS`; everything that changes the state stands in this file. What ends a subscription
is sorted once, by :meth:`Members.is_recoverable` and the table of :mod:`carrot.recovery`: the loop
recovers from what is transient, raises at once what the broker refused, and ends when it is told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from enum import Enum
from typing import Protocol

from carrot import logs
from carrot.backends.seam.backend import Backend
from carrot.backends.seam.inbox import Entry
from carrot.connection import BrokerConnection
from carrot.deadline import Deadline, bounded_by, now
from carrot.exceptions import (
    AccessRefused,
    CarrotError,
    ConnectionFailed,
    ConnectionLost,
    OperationTimeout,
)
from carrot.recovery import is_transient, recover
from carrot.retry import Retry, pause

#: Seconds for ending a subscription when a loop ends, and how late that may be for its deadline.
RELEASE, LATE = 5.0, 0.5


def bounded_end(deadline: Deadline) -> AbstractContextManager[None]:
    """Bound the end of a subscription, for a loop with that *deadline*.

    A little later than that: a request that is given up takes the channel with it.
    """
    left = deadline.left
    return bounded_by(Deadline.after(RELEASE if left is None else min(RELEASE, left + LATE)))


class State(Enum):
    """Where a loop is."""

    SUBSCRIBING = "subscribing"
    WAITING = "waiting"
    RECOVERING = "recovering"
    ENDED = "ended"


_ALWAYS, _NEVER = sys.maxsize, -1


class Event(Enum):
    """What happens to a loop."""

    SUBSCRIBED = "the broker delivers"
    DRAINED = "what the broker may send ahead is processed, and more is wanted"
    TRANSIENT = "the subscription has ended, and can be had again"
    REFUSED = "the broker refused it, or no attempt is left: raised"
    TOLD = "stop, cancel, close, or the limit is reached"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.SUBSCRIBING, Event.SUBSCRIBED): State.WAITING,
    (State.SUBSCRIBING, Event.TRANSIENT): State.RECOVERING,
    (State.SUBSCRIBING, Event.REFUSED): State.ENDED,
    (State.WAITING, Event.DRAINED): State.SUBSCRIBING,
    (State.WAITING, Event.TRANSIENT): State.RECOVERING,
    (State.WAITING, Event.REFUSED): State.WAITING,  # the next step may begin again
    (State.WAITING, Event.TOLD): State.ENDED,
    (State.RECOVERING, Event.SUBSCRIBED): State.WAITING,
    (State.RECOVERING, Event.REFUSED): State.WAITING,
    (State.RECOVERING, Event.TOLD): State.WAITING,  # which finds out what it is told
}


class Members(Protocol):
    """The subscriptions that a loop drives; see :class:`carrot.messaging.members.Members`."""

    is_cancelled: bool
    #: How many messages the broker may send ahead of what is processed; None: as many as it likes,
    #: and what is not processed by this loop stays for the next.
    window: int | None

    @property
    def backend(self) -> Backend: ...
    @property
    def connection(self) -> BrokerConnection: ...
    @property
    def retry(self) -> Retry: ...
    def subscribe(self, at_most: int | None) -> None: ...
    def subscribe_again(self, at_most: int | None) -> None: ...
    def complete(self) -> None: ...
    def cancel(self) -> None: ...
    @property
    def is_alone(self) -> bool: ...
    def remaining(self) -> int | None: ...
    def is_recoverable(self, error: Exception) -> bool: ...


class ConsumeLoop(Iterator[bool]):
    """Each step waits for a delivery and processes it; it outlives an exception in a callback.

    One thread drives it. ``limit`` deliveries reach it and no more, where it made the subscription
    itself: before it processes a message whose ack would let the broker send more than is wanted,
    the subscription is completed; when what had come by then is not enough, it is made again, for
    what is missing.

    :param limit: the number of steps; None goes on until there is nothing to wait for.
    :param deadline: then it raises OperationTimeout.
    :ivar remaining: how many more steps there will be; None: any number.
    """

    def __init__(
        self,
        members: Members,
        limit: int | None,
        deadline: Deadline,
        subscribe: Callable[[int | None], object] | None = None,
    ) -> None:
        self.state = State.SUBSCRIBING
        self.remaining = limit
        self._members = members
        self._consumers = members.backend.consumers
        self._deadline = deadline
        self._subscribe = subscribe or members.subscribe
        # One stop() ends all loops that run, in whatever threads. As it is now: a stop() that
        # comes while this subscribes may be heeded by another's loop.
        self._stops = members.backend.stop_flag.heeded
        # The window has to be looked at from when so few steps remain.
        self._window_counts_at = _ALWAYS
        self._is_exact = False
        #: Seconds that a callback may take without a word; 0: any number.
        self._patience = 0.0

    @property
    def is_told(self) -> bool:
        """Whether it was told to stop."""
        return self._members.backend.stop_flag.is_asked(self._stops)

    def start(self, at_most: int | None = None) -> None:
        """Subscribe, over a new connection if need be."""
        self._window_counts_at, self._is_exact = _ALWAYS, at_most is not None
        try:
            with bounded_by(self._deadline):
                self._subscribe(at_most)
        except CarrotError as exc:
            self._recover_or_raise(exc)
        else:
            self._enter(Event.SUBSCRIBED)

    def _enter(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]
        if event is Event.SUBSCRIBED:
            life = self._members.backend.life
            self._patience = 0.0
            if life is not None and logs.is_heard():
                self._patience = life.transport.heartbeat
        if self.state is State.ENDED:
            self.remaining = 0

    def __next__(self) -> bool:
        if self.remaining == 0:
            self._members.backend.stop_flag.heed()
            raise StopIteration
        at = self._deadline.at
        while True:
            if at is not None and now() >= at:
                raise OperationTimeout("the timeout is over, and not all messages were processed")
            try:
                entry = self._consumers.next_delivery(self._stops, self._deadline)
            except CarrotError as exc:
                self._recover_or_raise(exc)
                continue
            if entry is None:
                if self._subscribe_for_more():
                    continue
                self._enter(Event.TOLD)
                raise StopIteration
            if (remaining := self.remaining) is not None:
                self.remaining = remaining = remaining - 1
                if remaining <= self._window_counts_at:
                    self._look_at_window(remaining)
            message = entry[1]
            begun = now() if self._patience else 0.0
            try:
                entry[0].callback(message)
            except ConnectionLost as exc:
                # Of another connection's, perhaps; else the message will be delivered again.
                life = message.life
                is_here = life is not None and life.is_open
                if is_here or not self._recovers(exc):
                    raise
                if self.remaining is not None:
                    self.remaining += 1
                continue
            if begun and now() - begun > self._patience:
                self._tell_slow(entry, now() - begun)
            return True

    def _tell_slow(self, entry: Entry, seconds: float) -> None:
        subscription = entry[0]
        logs.slow_callback(subscription.queue, subscription.consumer_tag, seconds, self._patience)

    # -- no more than the limit

    def look_again(self) -> None:
        """There is a new window, perhaps another thread's, which this loop takes from, too."""
        self._window_counts_at = _ALWAYS

    def _look_at_window(self, remaining: int) -> None:
        """Before the message in hand is processed: let no ack bring more than is wanted."""
        members = self._members
        window, wanted = members.window, members.remaining()
        # Those of other threads take from the same.
        self._window_counts_at = _NEVER if members.is_alone else _ALWAYS
        if window is None or wanted is None:
            self._window_counts_at = _NEVER
        elif window > wanted:
            # When it fails, the next step finds out, and the broker sends nothing more either.
            with suppress(CarrotError), bounded_end(self._deadline):
                members.complete()
        elif members.is_alone:
            self._window_counts_at = remaining - (wanted - window) - 1

    def _subscribe_for_more(self) -> bool:
        """Subscribe for what is still wanted, when all that had come is processed."""
        members = self._members
        wanted = members.remaining()
        if self.is_told or members.is_cancelled or not members.backend.consumers.is_drained:
            return False
        self._enter(Event.DRAINED)
        # All of it: the callback may settle none before it has them all.
        self.start(None if wanted is None else max(1, wanted))
        return True

    # -- the connection, lost and found

    def _recover_or_raise(self, error: CarrotError) -> None:
        if not self._recovers(error):
            self._enter(Event.REFUSED)
            raise error

    def _recovers(self, error: CarrotError) -> bool:
        """Go on after *error*, if it is such that one can; False: it is to be raised."""
        members = self._members
        if not (members.connection.may_reconnect and members.is_recoverable(error)):
            return False
        self._enter(Event.TRANSIENT)
        try:
            is_subscribed = self._retry(error)
        except BaseException:
            self._enter(Event.REFUSED)
            raise
        self._window_counts_at = _ALWAYS
        self._enter(Event.SUBSCRIBED if is_subscribed else Event.TOLD)
        return True

    def _retry(self, error: CarrotError) -> bool:
        """Attempt it within the limits of the retry and of the deadline; False: it was told."""
        members, retry, left = self._members, self._members.retry, self._deadline.left
        is_shorter = left is not None and (retry.seconds is None or left < retry.seconds)
        try:
            is_subscribed = recover(
                members.connection,
                error,
                self._attempt,
                replace(retry, seconds=left) if is_shorter else retry,
                self._is_over,
                lambda exc: is_transient(exc) or members.is_recoverable(exc),
            )
        except (ConnectionLost, ConnectionFailed, OperationTimeout) as exc:
            gave_up = retry.attempts is not None or not members.connection.may_reconnect
            if not is_shorter or gave_up or isinstance(exc, AccessRefused):
                raise
            # No other attempt would end in time.
            pause(self._deadline.left or 0.0, self._is_over)
            if not self._deadline.is_past:
                return False
            raise OperationTimeout(
                f"timed out before the connection was restored; the last attempt: {exc}"
            ) from exc
        if self._deadline.is_past:
            raise OperationTimeout(f"timed out before the connection was restored: {error}")
        return is_subscribed

    def _attempt(self) -> None:
        """Subscribe again; others may share the channel, and have no loop of their own."""
        members = self._members
        if not members.is_cancelled:
            wanted = members.remaining() if self._is_exact else None
            members.subscribe_again(None if wanted is None else max(1, wanted))
        members.backend.consumers.subscribe_lost_again()
        if members.is_cancelled:
            members.cancel()  # meanwhile

    def _is_over(self) -> bool:
        """Whether nobody needs another attempt."""
        members = self._members
        return (
            self.is_told
            or (members.is_cancelled and not members.backend.consumers.is_wanted)
            or self._deadline.is_past
        )
