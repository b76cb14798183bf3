"""ConsumerSet: several consumers in one loop, on one channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from carrot.backends.base import BaseBackend
from carrot.connection import BrokerConnection
from carrot.exceptions import ConfigurationError, ConsumerNotFound
from carrot.message import Message
from carrot.messaging.consumer import Consumer
from carrot.messaging.receiver import Callback, ErrorCallback, Loop
from carrot.retry import Retry


class ConsumerSet(Loop):
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
        backend: BaseBackend | None = None,
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
        if self._is_consuming:
            self._subscribe(consumer)

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
            self.consumers.remove(consumer)
            consumer.cancel()

    def _subscribe(self, consumer: Consumer, at_most: int | None = None) -> None:
        if consumer.backend is not self.backend:
            consumer.move_to(self.backend)
        if not consumer.channel_open:
            consumer.consume(
                callback=partial(self._receive_callback, consumer),
                at_most=None if consumer.auto_delete else at_most,
            )

    def _subscribe_all(self, at_most: int | None = None) -> None:
        if self.consumers:
            with self.backend.one_channel():
                for consumer in list(self.consumers):
                    self._subscribe(consumer, at_most)

    def _subscribe_for(self, limit: int) -> None:
        self._subscribe_all(limit)

    def _subscribe_again(self) -> None:
        for consumer in self.consumers:
            if not consumer.channel_open:
                consumer.forget_declaration()
        self._subscribe_all()

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
        self._subscribe_all()
        self._is_consuming = True

    @property
    def channel_open(self) -> bool:
        """Whether the set is subscribed."""
        return any(consumer.channel_open for consumer in self.consumers)

    def cancel(self) -> None:
        self._is_cancelled = True
        self._is_consuming = False
        for consumer in self.consumers:
            if consumer.backend is self.backend:
                consumer.cancel()

    def _release(self) -> None:
        self._is_consuming = False
        for consumer in self.consumers:
            consumer._release()

    def discard_all(self) -> int:
        """Discard the messages waiting in all queues, and say how many they were."""
        return sum(consumer.discard_all() for consumer in self.consumers)

    purge = discard_all

    # -- the channel

    def stop(self) -> None:
        """End :meth:`wait` and :meth:`iterconsume`; see :meth:`Consumer.stop`."""
        self.backend.stop()

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
        if self._owns_backend:
            self.backend.close()
