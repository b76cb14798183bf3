"""Channel: one life of one of py-amqp's channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Protocol

import amqp
from amqp import spec

from carrot import remedies
from carrot.backends.base import (
    BaseChannel,
    BaseMessage,
    Binding,
    ChannelListener,
    Exchange,
    Queue,
    QueueDeclared,
)
from carrot.backends.pyamqplib.message import Message
from carrot.backends.seam.confirms import Confirms
from carrot.checks import entity_name, method_arguments
from carrot.exceptions import CarrotError, ConnectionLost


class Failing(Protocol):
    """What a use of the connection needs of the channel that is used."""

    def take_failure(self) -> CarrotError | None: ...


class Guarding(Protocol):
    """What a channel needs of its transport."""

    @property
    def is_open(self) -> bool: ...

    def guarded(self, channel: Failing | None = None) -> AbstractContextManager[None]: ...


class NativeChannel(amqp.Channel):  # type: ignore[misc]  # py-amqp has no annotations
    """py-amqp's channel; when the broker closes it, only its own user is told."""

    on_broker_close: Callable[[int, str], None] | None = None

    def dispatch_method(self, method_sig: Any, payload: Any, content: Any) -> None:
        # While it closes, what the broker sent before is of no interest; py-amqp would log it.
        if not self.is_closing or method_sig in self._ALLOWED_METHODS_WHEN_CLOSING:
            super().dispatch_method(method_sig, payload, content)

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        # py-amqp's own would open the channel again right here, and raise in whoever is reading.
        self.send_method(spec.Channel.CloseOk)
        if not self.is_closing:
            # Else the number is free only when the broker has answered our own close.
            self.collect()
        if self.on_broker_close is not None:
            self.on_broker_close(reply_code, reply_text)


class Channel(BaseChannel):
    """An open channel; the transport's lock is held during each use.

    py-amqp keeps its channels, and what they call, until they are closed. What is called is this
    object, which holds its listener weakly.
    """

    def __init__(self, transport: Guarding, native: NativeChannel) -> None:
        self._is_over = False
        self._transport = transport
        self._native = native
        self._confirms: Confirms | None = None
        self._refusal: tuple[int, str] | None = None
        native.on_broker_close = self._on_broker_close
        # Without anybody to call, py-amqp raises it in whoever is reading.
        native.events["basic_return"].add(self._on_return)

    def listen(self, listener: ChannelListener | None) -> None:
        super().listen(listener)
        # Bodies stay bytes: carrot decodes them, once, when somebody asks. A channel that has no
        # listener is for py-amqp's own programs, which expect text.
        self._native.auto_decode = False

    @property
    def is_open(self) -> bool:  # type: ignore[override]
        return not self._is_over and self._transport.is_open

    @property
    def native(self) -> amqp.Channel:
        return self._native

    # -- asking

    def _guarded(self) -> AbstractContextManager[None]:
        return self._transport.guarded(self)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the channel, when its arguments are such that AMQP can carry them."""
        checked = method_arguments(kwargs)
        with self._guarded():
            return getattr(self._native, method)(*args, **checked)

    def take_failure(self) -> CarrotError | None:
        """Why a use of this channel has failed, as an error of its own for each; None: not here."""
        if self._refusal is not None:
            return remedies.channel_error(*self._refusal)
        if self._is_over and self._transport.is_open:
            return ConnectionLost("the channel was closed here meanwhile")
        return None

    # -- what comes in; called by whichever thread is reading

    def _on_broker_close(self, code: int, text: str) -> None:
        self._refusal = (code, text)
        self._is_over = True
        # A thread that waits for an answer raises it; else the channel's next user does.
        if (listener := self.listener) is not None:
            listener.channel_closed(remedies.channel_error(code, text))

    def _on_cancel(self, consumer_tag: str) -> None:
        if (listener := self.listener) is not None:
            listener.consumer_cancelled(consumer_tag)

    def _on_delivery(self, consumer_tag: str, no_ack: bool, raw: amqp.Message) -> None:
        # None: it was closed here meanwhile, and the broker takes the message back.
        if (listener := self.listener) is not None:
            listener.deliver(consumer_tag, Message(None, raw, life=listener, no_ack=no_ack))

    def _on_settled(self, taken: bool, number: int, multiple: bool) -> None:
        if self._confirms is not None:
            self._confirms.settle(number, multiple, taken)

    def _on_return(
        self, error: amqp.AMQPError, exchange: str, routing_key: str, raw: amqp.Message
    ) -> None:
        if self._confirms is not None:
            self._confirms.returned(Message(None, raw), exchange, routing_key, error.reply_text)

    # -- topology

    def declare(self, entity: Exchange | Queue) -> QueueDeclared | None:
        if isinstance(entity, Exchange):
            self._call("exchange_declare", exchange=entity.name, type=entity.type,
                       durable=entity.durable, auto_delete=entity.auto_delete,
                       arguments=entity.arguments)  # fmt: skip
            return None
        return QueueDeclared(
            *self._call("queue_declare", queue=entity.name, durable=entity.durable,
                        exclusive=entity.exclusive, auto_delete=entity.auto_delete,
                        arguments=entity.arguments)
        )  # fmt: skip

    def inspect(self, queue: str) -> QueueDeclared:
        return QueueDeclared(*self._call("queue_declare", queue=queue, passive=True))

    def delete_exchange(self, exchange: str, if_unused: bool) -> None:
        self._call("exchange_delete", exchange=exchange, if_unused=if_unused)

    def delete_queue(self, queue: str, if_unused: bool, if_empty: bool) -> int:
        return int(self._call("queue_delete", queue=queue, if_unused=if_unused, if_empty=if_empty))

    def bind(self, binding: Binding) -> None:
        self._call("exchange_bind" if binding.to_exchange else "queue_bind", **binding.named())

    def unbind(self, binding: Binding) -> None:
        self._call("exchange_unbind" if binding.to_exchange else "queue_unbind", **binding.named())

    def purge(self, queue: str) -> int:
        return int(self._call("queue_purge", queue=queue))

    # -- publishing

    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool
    ) -> int | None:
        properties = dict(message.properties)
        if "headers" in properties:
            properties["application_headers"] = properties.pop("headers")
        raw = amqp.Message(message.body, **properties)
        with self._guarded():
            self._native.basic_publish(raw, exchange, routing_key, mandatory)
            # Afterwards: before it writes, py-amqp reads, and what it reads is of older messages.
            if self._confirms is None:
                return None
            return self._confirms.publish(message, exchange, routing_key, mandatory)

    def confirm_select(self, confirms: Confirms) -> None:
        with self._guarded():
            self._native.confirm_select()
            self._native.events["basic_ack"].add(partial(self._on_settled, True))
            self._native.events["basic_nack"].add(partial(self._on_settled, False))
            self._confirms = confirms

    # -- consuming

    def qos(self, prefetch_count: int, apply_global: bool) -> None:
        self._call("basic_qos", 0, prefetch_count, apply_global)

    def subscribe(self, queue: str, consumer_tag: str, no_ack: bool) -> None:
        entity_name("queue", queue)
        with self._guarded():
            self._native.basic_consume(
                queue=queue,
                consumer_tag=consumer_tag,
                no_ack=no_ack,
                callback=partial(self._on_delivery, consumer_tag, no_ack),
                on_cancel=self._on_cancel,
            )

    def unsubscribe(self, consumer_tag: str, take_unseen: Callable[[], Sequence[int]]) -> None:
        with self._guarded():
            self._native.basic_cancel(consumer_tag)
            for delivery_tag in take_unseen():
                self.nack(delivery_tag)

    def get(self, queue: str, no_ack: bool, timeout: float | None) -> Message | None:
        # py-amqp has one timeout for all answers: operation_timeout.
        raw = self._call("basic_get", queue=queue, no_ack=no_ack)
        return None if raw is None else Message(None, raw, life=self.listener, no_ack=no_ack)

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self._call("basic_ack", delivery_tag, multiple)

    def nack(self, delivery_tag: int, multiple: bool = False) -> None:
        # RabbitMQ's extension; py-amqp only reads it. The tag, and the bits multiple and requeue.
        self._call("send_method", spec.Basic.Nack, "Lbb", (delivery_tag, multiple, True))

    def reject(self, delivery_tag: int, requeue: bool) -> None:
        self._call("basic_reject", delivery_tag, requeue)

    # -- the end

    def close(self) -> None:
        if not self._is_over:
            # Confirms first: one whose return was not heard would be a wrong answer.
            self._confirms = None
            self.listen(None)
            self._is_over = True
            with suppress(CarrotError), self._guarded():
                self._native.close()
