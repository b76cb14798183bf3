"""What this process has declared at a broker, which itself keeps no such thing.

ActiveMQ makes a queue when it is first used, and knows no exchanges. So exchange types, the flags
of queues and which bindings a queue has are known here, and in other processes only when they
declare the same.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from carrot.backends.pystomp import names
from carrot.backends.pystomp.errors import not_found
from carrot.exceptions import ChannelError, NotSupported

if TYPE_CHECKING:
    from carrot.backends.pystomp.channel import Channel

#: AMQP's exchanges that are there without being declared (AMQP 0-9-1, section 3.1.3).
_STANDARD = {"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic"}


class Exchange(NamedTuple):
    """What an exchange was declared as."""

    type: str
    durable: bool


class Binding(NamedTuple):
    """Which messages of an exchange a queue gets."""

    exchange: str
    pattern: tuple[str, ...]


@dataclass
class Queue:
    """What a queue was declared as, and its bindings.

    :ivar owner: the channel that it is exclusive to.
    """

    name: str
    durable: bool
    owner: weakref.ref[Channel] | None = None
    bindings: set[Binding] = field(default_factory=set)

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

    def bound_to(self, binding: Binding) -> str:
        """The queue at the broker that keeps what a binding is for."""
        return names.binding_destination(self.name, binding.exchange, binding.pattern)


class Declared:
    """The exchanges and queues of one broker; the lock guards them."""

    def __init__(self, virtual_host: str) -> None:
        self.lock = threading.RLock()
        # Backends that may consume, and want to hear of new bindings.
        self._backends: weakref.WeakSet[Any] = weakref.WeakSet()
        self._virtual_host = virtual_host
        self._exchanges = {name: Exchange(type, True) for name, type in _STANDARD.items()}
        self._queues: dict[str, Queue] = {}

    def attach(self, backend: Any) -> None:
        """*backend* may consume from now on."""
        with self.lock:
            self._backends.add(backend)

    @property
    def backends(self) -> list[Any]:
        """Those in this process that may be consuming."""
        with self.lock:
            return list(self._backends)

    def exchange(self, name: str) -> Exchange:
        """What an exchange was declared as.

        :raises NotFound: nobody has, in this process.
        """
        try:
            return self._exchanges[name]
        except KeyError:
            raise not_found("exchange", name, self._virtual_host) from None

    def queue(self, name: str) -> Queue:
        """What a queue was declared as.

        :raises NotFound: nobody has, in this process.
        """
        queue = self.find_queue(name)
        if queue is None:
            raise not_found("queue", name, self._virtual_host)
        return queue

    def find_queue(self, name: str) -> Queue | None:
        """What a queue was declared as, if it was in this process, and is still there."""
        queue = self._queues.get(name)
        if queue is not None and queue.is_over:
            self._queues.pop(name, None)
            return None
        return queue

    def declare_exchange(self, name: str, exchange: Exchange) -> None:
        """Remember an exchange.

        :raises PreconditionFailed: it was declared differently.
        """
        with self.lock:
            known = self._exchanges.setdefault(name, exchange)
        self._check_same("exchange", name, exchange._asdict(), known._asdict())

    def declare_queue(self, name: str, durable: bool, owner: Channel | None = None) -> Queue:
        """Remember a queue.

        :param owner: the channel that it is exclusive to.
        :raises PreconditionFailed: it was declared differently.
        :raises ResourceLocked: it is exclusive to another channel, or isn't and should be.
        """
        with self.lock:
            if owner is not None:  # those with names of their own are never asked for again
                for over in [one.name for one in list(self._queues.values()) if one.is_over]:
                    self._queues.pop(over, None)
            known = self.find_queue(name)
            if known is None:
                reference = None if owner is None else weakref.ref(owner)
                known = self._queues[name] = Queue(name, durable, reference)
        self.check_owner(known, owner, is_declared=True)
        self._check_same("queue", name, {"durable": durable}, {"durable": known.durable})
        return known

    def bind(self, queue: Queue, binding: Binding) -> None:
        """Remember a binding.

        :raises NotSupported: the queue has one that takes some of the same messages.
        """
        with self.lock:
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
            queue.bindings.add(binding)

    def check_owner(self, queue: Queue, channel: Channel | None, is_declared: bool = False) -> None:
        """Refuse the use of what is exclusive to somebody else.

        :raises ResourceLocked: it is.
        """
        owner = None if queue.owner is None else queue.owner()
        if owner is not channel and (owner is not None or is_declared):
            raise ChannelError.from_reply(
                405,
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue "
                f"'{queue.name}' in vhost '{self._virtual_host}'",
            )

    def _check_same(
        self, kind: str, name: str, received: Mapping[str, Any], current: Mapping[str, Any]
    ) -> None:
        for option, value in received.items():
            if value != current[option]:
                raise ChannelError.from_reply(
                    406,
                    f"PRECONDITION_FAILED - inequivalent arg '{option}' for {kind} '{name}' in "
                    f"vhost '{self._virtual_host}': received {_quoted(value)} but current is "
                    f"{_quoted(current[option])}",
                )


def _quoted(value: object) -> str:
    return f"'{str(value).lower()}'"


_brokers: dict[tuple[str, int | None, str], Declared] = {}


def _renew_locks() -> None:
    for declared in _brokers.values():
        declared.lock = threading.RLock()  # a thread of the parent's may hold it


os.register_at_fork(after_in_child=_renew_locks)


def declared_at(host: str, port: int | None, virtual_host: str) -> Declared:
    """What this process has declared there."""
    key = (host, port, virtual_host)
    return _brokers.get(key) or _brokers.setdefault(key, Declared(virtual_host))
