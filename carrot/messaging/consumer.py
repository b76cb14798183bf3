"""Consumer: declares a queue, binds it to an exchange, and receives messages from it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Self

from carrot import logs
from carrot.backends.seam.backend import Backend
from carrot.checks import check_prefetch_count, required_name, seconds
from carrot.connection import BrokerConnection
from carrot.deadline import Deadline, bounded_by
from carrot.exceptions import (
    ChannelError,
    ConfigurationError,
    SerializationError,
)
from carrot.message import Message
from carrot.messaging.callbacks import Callback, Callbacks, ErrorCallback
from carrot.messaging.declaration import BindingLike, Declaration, RoutingKeys
from carrot.messaging.decoding import check_accept, decoding_as
from carrot.messaging.fetching import discard, discard_sent_ahead, each, next_message
from carrot.messaging.members import Members
from carrot.messaging.options import Configurable
from carrot.messaging.queue_subscription import QueueSubscription, is_single_active
from carrot.messaging.waiting import Waiting
from carrot.retry import Retry


class Consumer(Configurable, Callbacks, Waiting):
    """Receives messages from a queue, which it declares and binds to an exchange.

    Use it with :meth:`register_callback`, or in a subclass with ``receive()``. Every option can
    be a class attribute of a subclass; keywords override it, None doesn't.

    :param connection: the broker.
    :param queue: the queue's name.
    :param exchange: the exchange it is bound to; without one it is not bound.
    :param routing_key: what of the exchange's messages it gets: a name for a direct exchange, a
        pattern for a topic one (``*`` one word, ``#`` zero or more), a dict of headers for a
        headers exchange; a fanout exchange needs none.
        Several are a list: ``["order.*", "invoice.*"]``.
    :param bindings: more bindings, each a dict of ``exchange``, ``routing_key`` and ``arguments``;
        the exchange is there, or is declared when ``exchange_type`` is given too.
    :param exchange_type: direct, fanout, topic, headers, or a type of a broker's plug-in.
    :param durable: exchange and queue outlive a restart of the broker.
    :param exclusive: only this connection may use the queue, and it goes when the connection
        does; implies *auto_delete* for the queue.
    :param auto_delete: the queue goes with its last consumer, the exchange with its last queue.
    :param auto_ack: messages are acked as soon as they are decoded, before your callback runs.
    :param no_ack: the broker forgets each message as it delivers it: faster, and a message is
        lost when the program dies before it has processed it.
    :param auto_declare: declare queue, exchange and binding now.
    :param queue_type: classic or quorum; default the broker's own, classic. Quorum queues are
        replicated among the nodes of a cluster.
    :param queue_arguments: such as ``{"x-message-ttl": 60000}`` (milliseconds).
    :param exchange_arguments: such as ``{"alternate-exchange": "unrouted"}``.
    :param binding_arguments: for a headers exchange, such as ``{"x-match": "any", "type": "pdf"}``.
    :param warn_if_exists: warn with QueueAlreadyExistsWarning when the queue exists already.
    :param prefetch_count: how many messages may be here, delivered and not settled; 0: no limit.
    :param decoder: a function from the body (text, or bytes when it is binary) to data, used
        whatever the content type says.
    :param accept: the serializers' names or content types to decode; None is every safe one.
    :param default_content_type: how to decode a body that names no content type, such as
        ``"application/json"``; default: the bytes as they are.
    :param on_decode_error: called with the message and the error when a body can't be decoded;
        without it the error leaves the loop, and the message is in its ``.message``.
    :param callbacks: functions to call with the data and the message.
    :param retry: how often and how long to try to go on when the connection is lost; by default
        until it works.
    :param raise_on_cancel: raise ConsumerCancelled when the broker ends the subscription (the
        queue was deleted, or its node is gone), instead of declaring and subscribing again.
    :param backend: the channel to use; default one of its own.
    """

    queue: str = ""
    exchange: str = ""
    routing_key: RoutingKeys = ""
    exchange_type: str = "direct"
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    auto_ack: bool = False
    no_ack: bool = False
    auto_declare: bool = True
    queue_type: str | None = None
    queue_arguments: Mapping[str, Any] | None = None
    exchange_arguments: Mapping[str, Any] | None = None
    binding_arguments: Mapping[str, Any] | None = None
    warn_if_exists: bool = False
    prefetch_count: int = 100
    decoder: Callable[[Any], Any] | None = None
    accept: Collection[str] | None = None
    on_decode_error: ErrorCallback | None = None
    default_content_type: str | None = None
    bindings: Sequence[BindingLike] | None = None
    retry: Retry = Retry()
    raise_on_cancel: bool = False
    consumer_tag: str

    def __init__(
        self,
        connection: BrokerConnection,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: RoutingKeys | None = None,
        *,
        exchange_type: str | None = None,
        durable: bool | None = None,
        exclusive: bool | None = None,
        auto_delete: bool | None = None,
        auto_ack: bool | None = None,
        no_ack: bool | None = None,
        auto_declare: bool | None = None,
        queue_type: str | None = None,
        queue_arguments: Mapping[str, Any] | None = None,
        exchange_arguments: Mapping[str, Any] | None = None,
        binding_arguments: Mapping[str, Any] | None = None,
        warn_if_exists: bool | None = None,
        prefetch_count: int | None = None,
        decoder: Callable[[Any], Any] | None = None,
        accept: Collection[str] | None = None,
        default_content_type: str | None = None,
        bindings: Sequence[BindingLike] | None = None,
        on_decode_error: ErrorCallback | None = None,
        callbacks: Sequence[Callback] | None = None,
        retry: Retry | None = None,
        raise_on_cancel: bool | None = None,
        backend: Backend | None = None,
    ) -> None:
        self._use(connection, backend)
        self._set_options(
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            exchange_type=exchange_type,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            auto_ack=auto_ack,
            no_ack=no_ack,
            auto_declare=auto_declare,
            queue_type=queue_type,
            queue_arguments=queue_arguments,
            exchange_arguments=exchange_arguments,
            binding_arguments=binding_arguments,
            warn_if_exists=warn_if_exists,
            prefetch_count=prefetch_count,
            decoder=decoder,
            accept=accept,
            default_content_type=default_content_type,
            bindings=bindings,
            on_decode_error=on_decode_error,
            retry=retry,
            raise_on_cancel=raise_on_cancel,
        )
        self._set_callbacks(callbacks)
        # Exclusive queues go with their connection; the exchange is everybody's, and stays.
        self.exchange_auto_delete = self.auto_delete
        self.auto_delete = self.auto_delete or self.exclusive
        check_prefetch_count(self.prefetch_count)
        check_accept(self.accept)
        if not self.queue:
            raise ConfigurationError(
                f"{type(self).__name__} needs a queue to receive from: give its name as queue=, or "
                "as a class attribute"
            )
        self._declaration = Declaration(self)
        self._subscription = QueueSubscription(self, is_single_active(self.queue_arguments))
        self._members = Members(self, _weakly(self))
        self._receiver: Callbacks | None = None
        self._closed = False
        if self.auto_declare:
            self.declare()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} queue={self.queue!r} on {self.connection!r}>"

    # -- topology

    def declare(self) -> Self:
        """Create queue, exchange and binding, or check that they are as declared here.

        Opens a closed consumer; may be called again, after ``connection`` or ``backend`` was
        replaced too.

        :raises PreconditionFailed: the queue or the exchange exists and is different.
        :raises ResourceLocked: the queue is exclusive to another connection.
        """
        self._closed = False
        self._follow_connection()
        self._declaration.declare()
        return self

    def usable_queue(self) -> str:
        """The queue's name, when this consumer is open and has one."""
        if self._closed:
            raise ChannelError(
                f"this {type(self).__name__} (queue {self.queue!r}) is closed: create a new one, "
                "or open it again with declare()",
                code=504,
            )
        return required_name("queue", self.queue)

    # -- what to do with a message

    def _receive_callback(self, message: Message) -> None:
        """What becomes of a delivery."""
        # As _find_receiver() says, without its call for each message.
        receiver = self if self._receiver is None else self._find_receiver()
        self.process(message, receiver, self.auto_ack, self.on_decode_error)

    def _find_receiver(self) -> Callbacks:
        """Who receives: this consumer, unless another that has something to do with it was set."""
        receiver = self._receiver
        return self if receiver is None or not receiver.has_receiver else receiver

    def process(
        self,
        message: Message,
        receiver: Callbacks | None,
        auto_ack: bool,
        on_decode_error: ErrorCallback | None,
    ) -> None:
        """Decode *message*, ack it with *auto_ack*, and hand it to *receiver*."""
        try:
            if (
                self.decoder is not None
                or self.accept is not None
                or self.default_content_type is not None
            ):
                decoding_as(self, message)
            data = message.decode()
        except SerializationError as exc:
            logs.undecodable(self.queue, self.consumer_tag, message.delivery_tag, exc)
            if on_decode_error is None:
                raise
            on_decode_error(message, exc)
            return
        # Acked only when it can be decoded and somebody takes it: else it would be lost.
        if auto_ack and not message.acknowledged and (receiver is None or receiver.has_receiver):
            message.ack()
        if receiver is not None:
            receiver.receive(data, message)

    # -- consuming

    def consume(self, no_ack: bool | None = None) -> None:
        """Subscribe to the queue; harmless when it is subscribed already.

        The messages come through :meth:`wait`, :meth:`iterconsume` or the connection's
        ``drain_events()``.

        :raises NotFound: no such queue.
        """
        self.usable_queue()
        self._subscription.begin(no_ack)

    @property
    def channel_open(self) -> bool:
        """Whether this consumer is subscribed."""
        return self._subscription.is_running

    def iterconsume(
        self,
        limit: int | None = None,
        no_ack: bool | None = None,
        *,
        timeout: float | None = None,
    ) -> Iterator[bool]:
        """Subscribe now; each step of the iterator waits for a message and processes it.

        :param limit: stop after this many; None goes on until :meth:`stop`, :meth:`cancel` or
            :meth:`close`. The subscription stays until one of the last two.
        :param timeout: seconds for all of it; then it raises OperationTimeout.
        """
        return self._members.loop(limit, timeout, lambda at_most: self.consume(no_ack))

    def cancel(self) -> None:
        """End the subscription: what was sent ahead and not processed goes back to the queue."""
        self._members.cancel()

    def is_recoverable(self, error: Exception) -> bool:
        """Whether this consumer is subscribed again after *error*."""
        return not self._closed and self._members.is_recoverable(error)

    # -- one message at a time

    def fetch(
        self,
        no_ack: bool | None = None,
        auto_ack: bool | None = None,
        enable_callbacks: bool = False,
        *,
        timeout: float | None = None,
    ) -> Message | None:
        """Take the next message, or None when there is none.

        :param no_ack: default the consumer's own.
        :param auto_ack: default the consumer's own.
        :param enable_callbacks: process it as :meth:`wait` would.
        :param timeout: seconds for the broker's answers; default ``operation_timeout``. (The driver
            pyamqplib knows only that.)
        :raises OperationTimeout: no answer in time.
        :raises ConnectionLost: the connection is gone; the next call makes a new one.
        :raises DecodeError: with *auto_ack* or callbacks, for a body that can't be decoded; the
            message is unsettled, in ``.message``.
        """
        queue = self.usable_queue()
        no_ack = self.no_ack if no_ack is None else no_ack
        auto_ack = self.auto_ack if auto_ack is None else auto_ack
        timeout = None if timeout is None else seconds("timeout", timeout)
        with bounded_by(Deadline.after(timeout)):
            message = next_message(self, queue, no_ack, timeout)
        if message is None:
            return None
        if enable_callbacks or auto_ack or no_ack:
            receiver = self._find_receiver() if enable_callbacks else None
            self.process(message, receiver, auto_ack or no_ack, self.on_decode_error)
        return decoding_as(self, message)

    def process_next(self) -> Message | None:
        """``fetch(enable_callbacks=True)``."""
        return self.fetch(enable_callbacks=True)

    def iterqueue(
        self, limit: int | None = None, infinite: bool = False
    ) -> Iterator[Message | None]:
        """Yield messages one at a time, asking the broker for each.

        :param limit: stop after this many messages.
        :param infinite: yield None when the queue is empty, and go on; else stop.
        """
        return each(self.fetch, limit, infinite)

    def __iter__(self) -> Iterator[Message | None]:
        """``iterqueue(infinite=True)``."""
        return self.iterqueue(infinite=True)

    def discard_all(self, filterfunc: Callable[[Message], object] | None = None) -> int:
        """Discard the waiting messages, and say how many they were.

        :param filterfunc: discard only messages for which it is true; the others go back.
        """
        queue = self.usable_queue()
        if filterfunc is None:
            # The queue first: what it still held when this began can't be sent ahead any more.
            return self.backend.queue_purge(queue) + discard_sent_ahead(self)
        if self.no_ack or self.auto_ack:
            raise ConfigurationError(
                "discard_all(filterfunc) can't put messages back with auto_ack or no_ack: use a "
                "consumer without them"
            )
        return discard(self.fetch, filterfunc)

    purge = discard_all

    # -- the channel

    def qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> None:
        """Limit what may be here, delivered and not settled; for subscriptions from now on.

        :param prefetch_size: bytes; RabbitMQ knows no such limit, so 0.
        :param prefetch_count: messages; 0 is no limit.
        :param apply_global: limit all consumers of this channel together, at once.
        """
        self.usable_queue()
        self.backend.qos(prefetch_size, prefetch_count, apply_global)
        if not apply_global:
            self.prefetch_count = prefetch_count

    def flow(self, active: bool) -> None:
        """Pause (False) and restart (True) deliveries."""
        self.usable_queue()
        self.backend.flow(active)

    def _use_channel(self, backend: Backend) -> None:
        """Use another's channel from now on; a subscription ends first."""
        if backend is self.backend:
            return
        if self.owns_backend:
            self.backend.close()
        else:
            self.cancel()
        backend.lives.adopt(self.backend.lives.topology)
        self.owns_backend, self.backend = False, backend

    def close(self) -> None:
        """End the subscription and close the channel: unsettled messages go back to the queue.

        :meth:`declare` opens it again. Again is harmless.
        """
        self._closed = self._members.is_cancelled = True
        if self.owns_backend:
            self.backend.close()
        else:
            self.cancel()


def _weakly(consumer: Consumer) -> Callable[[], Sequence[Consumer]]:
    """Gives the consumer, while it is there: a circle would keep it, when it is forgotten."""
    reference = weakref.ref(consumer)

    def consumers() -> Sequence[Consumer]:
        alive = reference()
        return () if alive is None else (alive,)

    return consumers
