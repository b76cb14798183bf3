"""The seam: all that a driver must know. It writes a transport and a channel, one life each.

A **transport** is one live connection to a broker, a **channel** one life of a channel on it.
Neither comes back when it is over, and neither knows of recovery: that is written once, in
:mod:`carrot.backends.seam`. A driver's ``Backend`` only names its transport and what it can do.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from carrot.backends.transport import BaseTransport, Connector
from carrot.checks import required_name, short_string, table
from carrot.exceptions import CarrotError, ConfigurationError, EncodeError
from carrot.message import Message

__all__ = [
    "BaseChannel",
    "BaseMessage",
    "BaseTransport",
    "Binding",
    "Capabilities",
    "ChannelListener",
    "Connector",
    "Exchange",
    "Queue",
    "QueueAlreadyExistsWarning",
    "QueueDeclared",
]

#: The name that carrot has always had for a received message.
BaseMessage = Message

Arguments = Mapping[str, Any] | None


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
    :param holds_deliveries: what a consumer has received stays in hand, and is not marked as
        redelivered, when the consumer ends.
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
    holds_deliveries: bool = True
    topic_patterns: bool = True


# -- what is declared -------------------------------------------------------------------


class Exchange(NamedTuple):
    """An exchange to declare.

    :param type: direct, fanout, topic, headers, or a type that the broker adds (``x-…``).
    """

    name: str
    type: str
    durable: bool
    auto_delete: bool
    arguments: Arguments = None


class Queue(NamedTuple):
    """A queue to declare; for the name ``""`` the broker makes one up."""

    name: str
    durable: bool
    exclusive: bool
    auto_delete: bool
    arguments: Arguments = None


class Binding(NamedTuple):
    """What an exchange routes by that key, or those headers, goes on to a queue or an exchange.

    :param to_exchange: the destination is an exchange (RabbitMQ's extension).
    """

    destination: str
    source: str
    routing_key: str = ""
    arguments: Arguments = None
    to_exchange: bool = False

    def named(self) -> dict[str, Any]:
        """What it says, by AMQP's names for the arguments of queue.bind and exchange.bind."""
        names = ("destination", "source") if self.to_exchange else ("queue", "exchange")
        return {
            names[0]: self.destination,
            names[1]: self.source,
            "routing_key": self.routing_key,
            "arguments": self.arguments,
        }

    def check(self) -> None:
        """:raises ConfigurationError: it can't be made; names the binding."""
        try:
            required_name("the exchange of a binding", self.source)
            short_string("the routing key of a binding", self.routing_key)
            if self.arguments is not None:
                table("the arguments of a binding", self.arguments)
        except EncodeError as exc:
            raise ConfigurationError(str(exc)) from exc


class QueueDeclared(NamedTuple):
    """The broker's answer to a declaration: the name, ready messages, consumers."""

    queue: str
    message_count: int
    consumer_count: int


class QueueAlreadyExistsWarning(UserWarning):
    """The queue was there before, so a new binding adds to its old ones."""


# -- the channel ------------------------------------------------------------------------


class ChannelListener(Protocol):
    """Who is told what comes in on a channel; called by whichever thread is reading.

    Its methods are quick, wait for nothing and ask the broker nothing.
    """

    def deliver(self, consumer_tag: str, message: Message) -> bool:
        """The broker delivered *message*, which knows its life, to that consumer.

        That it came without acks, its subscription tells it.

        :returns: False: there is no such consumer any more, and the broker takes it back.
        """

    def consumer_cancelled(self, consumer_tag: str) -> None:
        """The broker ended that consumer (basic.cancel)."""

    def channel_closed(self, error: CarrotError) -> None:
        """The broker closed the channel, or nobody will hear its answers any more."""


def _nobody() -> None:
    return None


class BaseChannel(ABC):
    """One life of a channel, open from the moment it is made.

    Every method may raise ChannelError (the broker refused, and the channel is over),
    BrokerRefused (the same for the whole connection), ConnectionLost and OperationTimeout.

    :ivar is_open: as far as is known without asking the broker.
    """

    is_open: bool
    _listener: Callable[[], ChannelListener | None] = staticmethod(_nobody)

    def listen(self, listener: ChannelListener | None) -> None:
        """Tell *listener* what comes in from now on, or nobody; it is not kept alive for it."""
        self._listener = _nobody if listener is None else weakref.ref(listener)

    @property
    def listener(self) -> ChannelListener | None:
        """Who is told what comes in, if anybody is."""
        return self._listener()

    @property
    def native(self) -> Any:
        """The channel of the library that the driver works with; the same object if none."""
        return self

    # -- topology

    @abstractmethod
    def declare(self, entity: Exchange | Queue) -> QueueDeclared | None:
        """Create an exchange or a queue, or check that the one of that name is the same.

        :raises PreconditionFailed: it exists and is different.
        :raises ResourceLocked: the queue is exclusive to another connection.
        """

    @abstractmethod
    def inspect(self, queue: str) -> QueueDeclared:
        """Ask for a queue without creating it; the channel is used for nothing else.

        :raises NotFound: there is none.
        """

    @abstractmethod
    def delete_exchange(self, exchange: str, if_unused: bool) -> None:
        """Delete an exchange; one that isn't there is no error."""

    @abstractmethod
    def delete_queue(self, queue: str, if_unused: bool, if_empty: bool) -> int:
        """Delete a queue, and say how many messages went with it; none there is no error."""

    @abstractmethod
    def bind(self, binding: Binding) -> None:
        """Make a binding.

        :raises NotFound: no such queue, or no such exchange.
        """

    @abstractmethod
    def unbind(self, binding: Binding) -> None:
        """Undo :meth:`bind`; a binding that isn't there is no error."""

    @abstractmethod
    def purge(self, queue: str) -> int:
        """Discard the queue's ready messages, and say how many they were."""

    # -- publishing

    @abstractmethod
    def publish(
        self, message: Message, exchange: str, routing_key: str, mandatory: bool
    ) -> int | None:
        """Hand *message* to the broker.

        :returns: its number in the books of :meth:`confirm_select`; None: there is nothing to
            wait for.
        """

    @abstractmethod
    def confirm_select(self, confirms: Any) -> None:
        """From now on the broker confirms what is published; *confirms* are the books."""

    @contextmanager
    def batching(self) -> Iterator[None]:
        """While in this context, messages may be held back, to send several at once."""
        yield

    # -- consuming

    @abstractmethod
    def qos(self, prefetch_count: int, apply_global: bool) -> None:
        """Limit unsettled deliveries: of each consumer from now on, or of the whole channel."""

    @abstractmethod
    def subscribe(self, queue: str, consumer_tag: str, no_ack: bool) -> None:
        """Start a consumer. Its deliveries, which may overtake the answer, go to the listener.

        :raises NotFound: no such queue.
        """

    @abstractmethod
    def unsubscribe(self, consumer_tag: str, take_unseen: Callable[[], Sequence[Any]]) -> None:
        """End a consumer, and give back in one step what nobody has seen.

        :param take_unseen: called once, when no delivery can come in any more, or (a driver that
            can hold deliveries back) before: returns the delivery tags of what goes back.
        """

    @abstractmethod
    def get(self, queue: str, no_ack: bool, timeout: float | None) -> Message | None:
        """Take the next message from *queue*, or None when it is empty.

        :param no_ack: the broker forgets the message as it delivers it.
        :param timeout: seconds for the answer, where the driver can tell; None: its default.
        """

    # -- settling

    @abstractmethod
    def ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """The message is done with; *multiple*: and all that came before it."""

    @abstractmethod
    def nack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """Put a message back uncounted where the broker can, or all up to that one."""

    @abstractmethod
    def reject(self, delivery_tag: Any, requeue: bool) -> None:
        """Discard or dead-letter the message, or put it back where it was in its queue."""

    # -- the end

    @abstractmethod
    def close(self) -> None:
        """Close the channel: what was delivered and not settled goes back in one step.

        Again is harmless. Nothing of it is told to the listener.
        """


def __getattr__(name: str) -> Any:
    if name == "BaseBackend":
        # The name that this module had for it before. By its path, for it stands above this.
        return import_module("carrot.backends.seam.backend").Backend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
