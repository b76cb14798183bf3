"""ConsumerSet: several consumers in one loop, on one channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakMethod

from carrot.backends.seam.backend import Backend
from carrot.connection import BrokerConnection
from carrot.exceptions import ConfigurationError, ConsumerNotFound
from carrot.message import Message
from carrot.messaging.callbacks import Callback, Callbacks, ErrorCallback
from carrot.messaging.consumer import Consumer
from carrot.messaging.members import Members
from carrot.messaging.options import Configurable
from carrot.messaging.queue_subscription import QueueSubscription
from carrot.messaging.waiting import Waiting
from carrot.retry import Retry


class ConsumerSet(Configurable, Callbacks, Waiting):
    """Receives from several queues in one loop.

    A consumer's own callbacks, or its ``receive()``, come first; the messages of consumers
    without any go to the callbacks of the set, or to its ``receive()``.

    :param connection: the broker.
    :param from_dict: queue names to the options of their consumers, such as ``{"feed":
        {"exchange": "feed", "exchange_type": "topic", "binding_key": "feed.#"}}``.
    :param consumers: consumers, which move to the set's channel.
    :param callbacks: functions to call with the data and the message.
    :param auto_ack: ack the messages of every consumer as soon as they are decoded.
    :param on_decode_error: called with the message and the error, for consumers without their own.
    :param retry: how often and how long to try to go on when the connection is lost; by default
        until it works.
    :param raise_on_cancel: raise ConsumerCancelled when the broker ends a subscription, instead
        of declaring and subscribing again.
    :param backend: the channel to use; default one of its own.
    """

    auto_ack: bool = False
    on_decode_error: ErrorCallback | None = None
    retry: Retry = Retry()
    raise_on_cancel: bool = False

    def __init__(
        self,
        connection: BrokerConnection,
        from_dict: Mapping[str, Mapping[str, Any]] | None = None,
        consumers: Iterable[Consumer] | None = None,
        callbacks: Sequence[Callback] | None = None,
        *,
        auto_ack: bool | None = None,
        on_decode_error: ErrorCallback | None = None,
        retry: Retry | None = None,
        raise_on_cancel: bool | None = None,
        backend: Backend | None = None,
    ) -> None:
        self._use(connection, backend)
        self._set_options(
            auto_ack=auto_ack,
            on_decode_error=on_decode_error,
            retry=retry,
            raise_on_cancel=raise_on_cancel,
        )
        self._set_callbacks(callbacks)
        if isinstance(consumers, Consumer) or not isinstance(from_dict, (Mapping, type(None))):
            raise ConfigurationError(
                "a ConsumerSet takes consumers=[…], a list, and from_dict={queue: options}, a dict"
            )
        #: All consumers; one that is appended here is subscribed by the next :meth:`consume`.
        self.consumers: list[Consumer] = []
        self._is_consuming = False
        here, callback = WeakMethod(self._members_here), WeakMethod(self._callback_of)
        self._members = Members(
            self,
            lambda: _alive(here)(),
            lambda subscription: _alive(callback)(subscription),
        )
        for consumer in consumers or ():
            self.add_consumer(consumer)
        for queue, options in (from_dict or {}).items():
            self.add_consumer_from_dict(**{"queue": queue, **(options or {})})

    def __repr__(self) -> str:
        queues = [consumer.queue for consumer in self.consumers]
        return f"<{type(self).__name__} queues={queues!r} on {self.connection!r}>"

    # -- its consumers

    def add_consumer(self, consumer: Consumer) -> None:
        """Add a consumer; while the set consumes, it is subscribed at once.

        :raises ConfigurationError: it is none, or works with another broker.
        """
        if not isinstance(consumer, Consumer):
            raise ConfigurationError(f"a ConsumerSet takes Consumer objects, not {consumer!r}")
        consumer._check_channel(self.backend)
        self.consumers.append(consumer)
        if self._is_consuming or self._members.is_waiting:
            self._members.subscribe_more()

    def add_consumer_from_dict(
        self,
        queue: str,
        *,
        binding_key: str | None = None,
        default_routing_key: str | None = None,
        **options: Any,
    ) -> Consumer:
        """Add a consumer of *queue* with these options of :class:`Consumer`, and return it.

        :param binding_key: another name of ``routing_key``.
        :param default_routing_key: accepted for configurations shared with a publisher.
        """
        if binding_key is not None:
            options.setdefault("routing_key", binding_key)
        try:
            consumer = Consumer(self.connection, queue, backend=self.backend, **options)
        except TypeError as exc:
            exc.add_note(f"That is said of the options of queue {queue!r}.")
            raise
        self.add_consumer(consumer)
        return consumer

    def cancel_by_queue(self, queue: str) -> None:
        """Remove the consumers of *queue*; what was sent ahead to them goes back.

        :raises ConsumerNotFound: the set has none; it is a KeyError.
        """
        removed = [consumer for consumer in self.consumers if consumer.queue == queue]
        if not removed:
            known = ", ".join(repr(consumer.queue) for consumer in self.consumers) or "none"
            raise ConsumerNotFound(f"the set has no consumer of queue {queue!r}; it has {known}")
        for consumer in removed:
            with suppress(ValueError):  # another thread was faster
                self.consumers.remove(consumer)
            consumer.cancel()

    def _members_here(self) -> list[Consumer]:
        """Its consumers, which move to the set's channel."""
        consumers = list(self.consumers)
        for consumer in consumers:
            consumer._use_channel(self.backend)
        return consumers

    def _callback_of(self, subscription: QueueSubscription) -> Callable[[Message], None]:
        consumer: Any = subscription.subscriber
        return partial(self._receive_callback, consumer)

    def _receive_callback(self, consumer: Consumer, message: Message) -> None:
        """What becomes of a delivery."""
        consumer.process(
            message,
            receiver=consumer if consumer.has_receiver else self,
            auto_ack=consumer.auto_ack or self.auto_ack,
            on_decode_error=consumer.on_decode_error or self.on_decode_error,
        )

    # -- consuming

    def consume(self) -> None:
        """Subscribe the consumers that are not subscribed yet.

        :raises NotFound: a queue isn't there.
        """
        self._members.subscribe()
        self._is_consuming = True

    def iterconsume(
        self, limit: int | None = None, *, timeout: float | None = None
    ) -> Iterator[bool]:
        """Subscribe now; each step of the iterator waits for a message and processes it.

        :param limit: stop after this many; None goes on until :meth:`stop`, :meth:`cancel` or
            :meth:`close`. The subscription stays until one of the last two.
        :param timeout: seconds for all of it; then it raises OperationTimeout.
        """
        return self._members.loop(limit, timeout, lambda at_most: self.consume())

    @property
    def channel_open(self) -> bool:
        """Whether the set is subscribed."""
        return any(consumer.channel_open for consumer in self.consumers)

    def cancel(self) -> None:
        """End the subscriptions: what was sent ahead and not processed goes back."""
        self._is_consuming = False
        self._members.cancel()

    def discard_all(self) -> int:
        """Discard the messages waiting in all queues, and say how many they were."""
        return sum(consumer.discard_all() for consumer in self.consumers)

    purge = discard_all

    # -- the channel

    def flow(self, active: bool) -> None:
        """Pause (False) and restart (True) deliveries."""
        self.backend.flow(active)

    def qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> None:
        """Limit what may be here unsettled, for each consumer; see :meth:`Consumer.qos`."""
        self.backend.qos(prefetch_size, prefetch_count, apply_global)
        if not apply_global:
            for consumer in self.consumers:
                consumer.prefetch_count = prefetch_count

    def close(self) -> None:
        """End the subscriptions and close the channel. Again is harmless."""
        self.cancel()
        for consumer in self.consumers:
            consumer.close()
        if self.owns_backend:
            self.backend.close()


def _alive(method: WeakMethod[Any]) -> Any:
    """The method of a set, whose parts go with it."""
    alive = method()
    assert alive is not None, "its parts go with it"
    return alive
