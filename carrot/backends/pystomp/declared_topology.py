"""What this process has declared at a broker, which itself keeps no such thing.

ActiveMQ makes a queue when it is first used, and knows no exchanges. So exchange types, the flags
of queues and which bindings a queue has are known here, and in other processes only when they
declare the same.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from carrot.backends.pystomp import names
from carrot.backends.pystomp.errors import not_found
from carrot.exceptions import NotSupported
from carrot.forks import Stage, register
from carrot.remedies import channel_error

#: AMQP's exchanges that are there without being declared (AMQP 0-9-1, section 3.1.3).
_STANDARD = {"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic"}


class Follower(Protocol):
    """A channel: it may have exclusive queues, and consumers that follow their queue's bindings."""

    is_open: bool

    def follow(self, queue: str, destination: str) -> None: ...


class DeclaredExchange(NamedTuple):
    """What an exchange was declared as."""

    type: str
    durable: bool


class QueueBinding(NamedTuple):
    """Which messages of an exchange a queue gets."""

    exchange: str
    pattern: tuple[str, ...]


@dataclass(eq=False)
class DeclaredQueue:
    """What a queue was declared as, and its bindings.

    :ivar owner: the channel that it is exclusive to.
    :ivar bindings: replaced, and not changed: other threads may be looking.
    """

    name: str
    durable: bool
    owner: weakref.ref[Follower] | None = None
    bindings: frozenset[QueueBinding] = frozenset()

    @property
    def is_over(self) -> bool:
        """Whether it was exclusive to a channel that is closed."""
        return self.owner is not None and ((owner := self.owner()) is None or not owner.is_open)

    @property
    def destinations(self) -> list[str]:
        """The queues that it is at the broker: itself, and one for each binding.

        (As one composite destination ActiveMQ would not deliver what virtual topics bring.)
        """
        bound = [self.bound_to(binding) for binding in sorted(self.bindings)]
        return [*bound, names.queue_destination(self.name)]

    def bound_to(self, binding: QueueBinding) -> str:
        """The queue at the broker that keeps what a binding is for."""
        return names.binding_destination(self.name, binding.exchange, binding.pattern)


class DeclaredTopology:
    """The exchanges and queues of one broker, for all connections of this process.

    ``_lock`` guards them; nothing else is done under it.
    """

    def __init__(self, virtual_host: str) -> None:
        self.renew_locks()
        # Channels that may consume, and want to hear of new bindings.
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self._virtual_host = virtual_host
        self._exchanges = {name: DeclaredExchange(type, True) for name, type in _STANDARD.items()}
        self._queues: dict[str, DeclaredQueue] = {}

    def renew_locks(self) -> None:
        """Make the lock, also in a forked child, whose parent's threads may hold the old one."""
        self._lock = threading.RLock()

    def attach(self, channel: Follower) -> None:
        """*channel* may consume from now on; it is not kept alive for it."""
        with self._lock:
            self._followers.add(channel)

    def announce(self, queue: DeclaredQueue, binding: QueueBinding) -> None:
        """Tell the channels of this process, which may be consuming, of a new binding."""
        with self._lock:
            followers = list(self._followers)
        for channel in followers:
            if channel.is_open:
                channel.follow(queue.name, queue.bound_to(binding))

    def exchange(self, name: str) -> DeclaredExchange:
        """What an exchange was declared as.

        :raises NotFound: nobody has, in this process.
        """
        try:
            return self._exchanges[name]
        except KeyError:
            raise not_found("exchange", name, self._virtual_host) from None

    def queue(self, name: str) -> DeclaredQueue:
        """What a queue was declared as.

        :raises NotFound: nobody has, in this process.
        """
        queue = self.find_queue(name)
        if queue is None:
            raise not_found("queue", name, self._virtual_host)
        return queue

    def find_queue(self, name: str) -> DeclaredQueue | None:
        """What a queue was declared as, if it was in this process, and is still there."""
        queue = self._queues.get(name)
        return None if queue is None or queue.is_over else queue

    def usable_queue(self, name: str, channel: Follower) -> DeclaredQueue:
        """A queue that was declared here, and is nobody else's.

        :raises NotFound: it wasn't.
        :raises ResourceLocked: it is.
        """
        found = self.queue(name)
        self.check_owner(found, channel)
        return found

    def private_destination(
        self, name: str, is_near: Callable[[Follower | None], bool]
    ) -> str | None:
        """Where what is for an exclusive queue goes; None: it is no exclusive queue.

        :param is_near: whether a channel is on the connection that asks.
        :raises ResourceLocked: it is another connection's: that is reached by a ``reply_to`` only.
        """
        found = self.find_queue(name)
        if found is None or found.owner is None:
            return None
        if not is_near(found.owner()):
            self.check_owner(found, None)
        return names.temporary_destination(name)

    def declare_exchange(self, name: str, exchange: DeclaredExchange) -> None:
        """Remember an exchange.

        :raises PreconditionFailed: it was declared differently.
        """
        with self._lock:
            known = self._exchanges.setdefault(name, exchange)
        self._check_same("exchange", name, exchange._asdict(), known._asdict())

    def declare_queue(
        self, name: str, durable: bool, owner: Follower | None = None
    ) -> DeclaredQueue:
        """Remember a queue.

        :param owner: the channel that it is exclusive to.
        :raises PreconditionFailed: it was declared differently.
        :raises ResourceLocked: it is exclusive to another channel, or isn't and should be.
        """
        with self._lock:
            if owner is not None:  # those with names of their own are never asked for again
                for over in [one.name for one in list(self._queues.values()) if one.is_over]:
                    self._queues.pop(over, None)
            known = self.find_queue(name)
            if known is None:
                reference = None if owner is None else weakref.ref(owner)
                known = self._queues[name] = DeclaredQueue(name, durable, reference)
        self.check_owner(known, owner, is_declared=True)
        self._check_same("queue", name, {"durable": durable}, {"durable": known.durable})
        return known

    def bind(self, queue: DeclaredQueue, binding: QueueBinding) -> None:
        """Remember a binding.

        :raises NotSupported: the queue has one that takes some of the same messages.
        """
        with self._lock:
            if binding in queue.bindings:
                return
            for other in queue.bindings:
                if other.exchange == binding.exchange and names.overlap(
                    other.pattern, binding.pattern
                ):
                    raise NotSupported(
                        "the pystomp driver has no overlapping_bindings: queue "
                        f"{queue.name!r} is bound to exchange {binding.exchange!r} with "
                        f"{'.'.join(other.pattern)!r} already, and what "
                        f"{'.'.join(binding.pattern)!r} takes as well would come twice (in "
                        "ActiveMQ's way of writing: '>' is AMQP's '#')"
                    )
            queue.bindings |= {binding}

    def check_owner(
        self, queue: DeclaredQueue, channel: Follower | None, is_declared: bool = False
    ) -> None:
        """Refuse the use of what is exclusive to somebody else.

        :raises ResourceLocked: it is.
        """
        owner = None if queue.owner is None else queue.owner()
        if owner is not channel and (owner is not None or is_declared):
            raise channel_error(
                405,
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue "
                f"'{queue.name}' in vhost '{self._virtual_host}'",
            )

    def _check_same(
        self, kind: str, name: str, received: Mapping[str, Any], current: Mapping[str, Any]
    ) -> None:
        for option, value in received.items():
            if value != current[option]:
                raise channel_error(
                    406,
                    f"PRECONDITION_FAILED - inequivalent arg '{option}' for {kind} '{name}' in "
                    f"vhost '{self._virtual_host}': received {_quoted(value)} but current is "
                    f"{_quoted(current[option])}",
                )


def _quoted(value: object) -> str:
    return f"'{str(value).lower()}'"


_brokers: dict[tuple[str, int | None, str], DeclaredTopology] = {}


def _renew_locks() -> None:
    for declared in _brokers.values():
        declared.renew_locks()


register(Stage.TRANSPORTS, after_in_child=_renew_locks)


def declared_at(host: str, port: int | None, virtual_host: str) -> DeclaredTopology:
    """What this process has declared there."""
    key = (host, port, virtual_host)
    return _brokers.get(key) or _brokers.setdefault(key, DeclaredTopology(virtual_host))
