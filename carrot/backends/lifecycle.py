"""Lifecycle: a backend's channel is opened at its first use, lost, replaced and closed."""

from __future__ import annotations

import os
import threading
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from carrot.backends.confirms import Confirms
from carrot.backends.topology import Topology
from carrot.backends.transport import BaseTransport
from carrot.deadline import wait_to_hold
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConnectionFailed,
    ConnectionLost,
    NotSupported,
)
from carrot.message import Message as BaseMessage

DeliveryCallback = Callable[[BaseMessage], object]


# No dataclass: with so many fields its import takes 4 ms more.
class Capabilities(NamedTuple):
    """What a driver can do, by keywords; asked for anything else it raises NotSupported.

    :param thread_safe: several threads may use one connection at once.
    :param arguments: of queues (``x-…``), others than those that have a field of their own.
    :param deletion: of queues, exchanges and bindings.
    :param inspection: the broker says which queues and exchanges there are and what is in them,
        and refuses the use of others.
    :param overlapping_bindings: a message that matches several bindings of a queue comes once.
    :param requeue_in_place: a message that a consumer requeues comes next, and not last.
    :param topic_patterns: every ``#`` and ``*`` of AMQP, and not only some.
    """

    confirms: bool = True
    mandatory: bool = True
    immediate: bool = False
    requeue: bool = True
    prefetch_count: bool = True
    prefetch_size: bool = False
    priorities: bool = True
    expiration: bool = True
    dead_letters: bool = True
    max_length: bool = True
    headers_exchange: bool = True
    exchange_bindings: bool = True
    alternate_exchange: bool = True
    thread_safe: bool = False
    arguments: bool = True
    auto_delete: bool = True
    deletion: bool = True
    exclusive: bool = True
    global_prefetch: bool = True
    inspection: bool = True
    overlapping_bindings: bool = True
    requeue_in_place: bool = True
    topic_patterns: bool = True


class ConnectionLike(Protocol):
    """What a backend needs of its BrokerConnection: the live transport, opened if need be."""

    @property
    def connection(self) -> BaseTransport: ...


class Subscription(NamedTuple):
    """A consumer on a channel."""

    consumer_tag: str
    queue: str
    no_ack: bool
    callback: DeliveryCallback


Entry = tuple[Subscription, BaseMessage]


class Lifecycle(Topology):
    """One channel, opened at its first use and again after it was closed.

    Not the owner of its connection: it asks it for the live transport, and knows when that is a
    new one. Deliveries wait in ``inbox`` until :meth:`dispatch` runs their callback, so callbacks
    may use the channel freely.

    :ivar generation: counts the channels this backend has had; a delivery remembers its own.
    """

    transport_cls: ClassVar[type[BaseTransport]]
    capabilities: ClassVar[Capabilities]
    Message: ClassVar[type[BaseMessage]] = BaseMessage

    connection_errors: ClassVar[tuple[type[Exception], ...]] = (ConnectionFailed, ConnectionLost)
    channel_errors: ClassVar[tuple[type[Exception], ...]] = (ChannelError,)

    def __init__(self, connection: ConnectionLike) -> None:
        self.connection = connection
        self.generation = 0
        self.inbox: deque[Entry] = deque()
        # Delivered with no_ack to subscriptions that have ended: they can't go back.
        self._left_over: deque[Entry] = deque()
        self.confirms: Confirms | None = None
        # Those of the channel before: somebody may still have to look into them.
        self._former_confirms: Confirms | None = None
        self._next_number = 1
        self._is_confirming = False
        self._subscriptions: dict[str, Subscription] = {}
        # The tags of those that somebody waits for, subscribed, or lost and to be healed: how.
        self._wanted: dict[str, Callable[[CarrotError], object] | None] = {}
        # Those that ended unasked, by their tag, and why; until they begin again, or are cancelled.
        self._lost: dict[str, CarrotError] = {}
        self._paused = False
        self._channel_limit = 0
        # How often stop() was called, and how often when a loop last ended.
        self._stops = self.stops_heeded = 0
        self._failure: CarrotError | None = None
        self._failure_is_blamed = False
        self._transport: BaseTransport | None = None
        self._channel: Any = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self.renew_locks()
        _of_this_process.add(self)

    def renew_locks(self) -> None:
        """Make the locks, also in a forked child, whose parent's threads may hold the old ones."""
        #: Held while the channel, its mode or its consumers change.
        self.changing = threading.RLock()
        #: Held while a message is settled, and while what it could be settled on goes.
        self.settling = threading.RLock()
        self._must_stay = False

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<{type(self).__module__}.{type(self).__name__} {state}>"

    @classmethod
    def require(cls, feature: str, why: str) -> None:
        """Refuse what the driver can't do.

        :param feature: a field of :class:`Capabilities`.
        :raises NotSupported: names the driver and *why* it was asked.
        """
        if not getattr(cls.capabilities, feature):
            path = cls.__module__.split(".")
            driver = path[2] if path[:2] == ["carrot", "backends"] else path[-1]
            raise NotSupported(f"the {driver} driver has no {feature}: {why}")

    # -- the channel's life

    @property
    def default_port(self) -> int | None:
        return self.transport_cls.default_port

    @property
    def is_open(self) -> bool:
        """Whether there is a channel now; the next use opens one."""
        transport = self._transport
        return self._is_usable(self._channel) and transport is not None and transport.is_open

    def is_on(self, generation: int) -> bool:
        """Whether the channel of that :attr:`generation` is the one in use, and open."""
        return generation == self.generation and self.is_open

    def is_steady(self, generation: int | None) -> bool:
        """The same (None: for any), and the broker takes messages, as far as is known."""
        transport = self._transport
        return (
            transport is not None
            and transport.is_open
            and transport.blocked is None
            and (generation is None or generation == self.generation)
        )

    @property
    def channel(self) -> Any:
        """The driver's own channel, open.

        :raises ChannelError: once, when the broker closed the channel since the last use.
        :raises ConnectionFailed: there is no connection, and none can be made.
        """
        if self._failure is not None:
            if not self._failure_is_blamed:
                self._raise_failure()
            self.take_failure()
        transport = self.connection.connection
        channel = self._channel
        if transport is not self._transport or not self._is_usable(channel):
            self._wait_to_change()
            with self.changing:
                channel = self._channel
                if transport is not self._transport or not self._is_usable(channel):
                    channel = self._replace_channel(transport)
        return channel

    def _wait_to_change(self) -> None:
        """Wait for :attr:`changing`, which is taken next, no longer than this thread may."""
        wait_to_hold(self.changing, "changing the channel")

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Nobody else changes the channel or its subscriptions in this block."""
        self._wait_to_change()
        with self.changing:
            yield

    def open(self) -> None:
        """Open a channel, if there is none, and nobody has to be told why the last was closed."""
        if self._failure is None:
            self.channel  # noqa: B018  # opens one

    @contextmanager
    def one_channel(self) -> Iterator[None]:
        """What is done in this block is done on one channel; others that need it open wait.

        A queue may be exclusive to its connection, and a limit holds on its channel: what follows
        is of no use on the next one.

        :raises ConnectionLost: the channel is gone: do all of it again.
        """
        with self.unchanged():
            stayed = self._must_stay
            if not stayed:
                self.channel  # noqa: B018  # opens one, or says why there is none
            self._must_stay = True
            try:
                yield
            finally:
                self._must_stay = stayed

    def _replace_channel(self, transport: BaseTransport) -> Any:
        if self._must_stay:
            raise ConnectionLost(
                "the channel was lost between two steps that must be done on the same one: "
                "do them again"
            )
        with self.settling:
            self._forget_channel()
        self._transport = transport
        for forgotten in transport.take_abandoned():
            self._close_channel(forgotten)
        channel = self._open_channel(transport)
        if self._is_confirming:
            self.confirms = self._confirming(channel)
        if self._channel_limit:
            self._qos(channel, self._channel_limit, True)
        transport.attach(self)
        self._finalizer = weakref.finalize(self, transport.abandon, channel)
        # Last: another thread may use it from now on.
        self._channel = channel
        return channel

    @property
    def delivering_channel(self) -> Any:
        """The channel there is; settling a message never opens another.

        :raises ConnectionLost: there is none, so the broker redelivers what it had delivered.
        """
        if not self.is_open:
            raise ConnectionLost(
                "the channel that delivered this message is gone; the broker will redeliver it"
            )
        return self._channel

    def _forget_channel(self) -> None:
        """Nothing that belonged to the last channel counts any more."""
        self._channel = None
        if self._finalizer is not None:
            self._finalizer.detach()
        # Before the generation: whoever is reading looks at them the other way round.
        for tag in tuple(self._subscriptions):
            self._lost[tag] = ConnectionLost(
                "the channel that consumed was closed by the broker, or its connection replaced; "
                "consume again: unsettled messages will be redelivered"
            )
        self._subscriptions.clear()
        self.generation += 1
        self.inbox.clear()
        self._left_over.clear()
        # Two threads may be here at once.
        if (confirms := self.confirms) is not None:
            self._next_number = confirms.next
            self.confirms, self._former_confirms = None, confirms

    def fail(self, error: CarrotError, is_blamed: bool = False) -> None:
        """The driver's reader says: the broker closed this channel. Its next user is told why.

        :param is_blamed: the books tell those who wait for a confirm whose fault it was, so that
            only a loop that would not hear of it is told besides.
        """
        self._forget_channel()
        self._failure, self._failure_is_blamed = error, is_blamed

    def take_failure(self) -> CarrotError | None:
        """Why the broker closed the channel or a consumer, for the one who raises it."""
        failure, self._failure, self._failure_is_blamed = self._failure, None, False
        return failure

    def _raise_failure(self) -> None:
        if (failure := self.take_failure()) is not None:
            raise failure

    def close(self) -> None:
        """Close the channel; what was delivered and not settled goes back. Again is harmless."""
        channel, transport = self._channel, self._transport
        with self.settling:
            self._forget_channel()
        self._lost.clear()
        self._wanted.clear()
        self._paused = False
        self._channel_limit = 0
        if transport is not None:
            transport.detach(self)
            if channel is not None and transport.is_open:
                self._close_channel(channel)
            self.interrupt()
        # At the end: closing may have met what the broker objects to.
        self._failure = None

    def interrupt(self) -> None:
        """Let threads that wait for something of this channel look whether it still comes."""
        if self._transport is not None:
            self._transport.interrupt()

    def _is_there(self, declare_passively: Callable[[Self], object]) -> bool:
        """Whether the broker knows what is declared passively, on a channel opened for that.

        The broker closes the channel that asks for what isn't there.
        """
        probe = type(self)(self.connection)
        try:
            declare_passively(probe)
        except ChannelError as exc:
            if exc.code not in (404, 405):
                raise
            # Exclusive to another connection (405), it exists all the same.
            return exc.code == 405
        finally:
            probe.close()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @abstractmethod
    def _open_channel(self, transport: BaseTransport) -> Any:
        """A new channel on *transport*, which becomes :attr:`channel`."""

    def _is_usable(self, channel: Any) -> bool:
        """Whether there is a channel, and the driver has not given it up."""
        return channel is not None

    @abstractmethod
    def _close_channel(self, channel: Any) -> None:
        """Close *channel*; a connection that is lost meanwhile is no error."""

    def _confirming(self, channel: Any) -> Confirms:
        """The books of *channel*, which is in confirm mode from now on."""
        self._confirm_select(channel)
        return Confirms(self._next_number)

    @abstractmethod
    def _confirm_select(self, channel: Any) -> None:
        """Put *channel* into confirm mode."""

    @abstractmethod
    def _qos(self, channel: Any, prefetch_count: int, apply_global: bool) -> None:
        """Limit what *channel* may deliver unsettled."""

    @property
    @abstractmethod
    def is_ready(self) -> bool:
        """Whether :meth:`dispatch` has something to do."""

    @abstractmethod
    def dispatch(self) -> None:
        """Run the callback of the next delivery in the inbox.

        :raises Exception: what the callback raises; the message stays as the callback left it.
        """


# All backends, whose locks a forked child inherits as they are at that moment.
_of_this_process: weakref.WeakSet[Lifecycle] = weakref.WeakSet()


def _renew_all_locks() -> None:
    for backend in list(_of_this_process):
        backend.renew_locks()


os.register_at_fork(after_in_child=_renew_all_locks)
