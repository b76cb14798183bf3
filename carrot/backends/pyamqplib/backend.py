"""Backend: one of py-amqp's channels behind the seam."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import amqp

from carrot.backends.base import (
    BaseBackend,
    BaseMessage,
    BaseTransport,
    Capabilities,
    QueueDeclared,
)
from carrot.backends.pyamqplib.message import Message
from carrot.backends.pyamqplib.transport import Transport
from carrot.checks import entity_name, method_arguments
from carrot.exceptions import CarrotError
from carrot.routing import check_exchange_type


def _weakly(method: Callable[..., object]) -> Callable[..., None]:
    """*method*, without keeping its object alive: py-amqp keeps channels until they are closed."""
    reference = weakref.WeakMethod(method)

    def call(*args: Any) -> None:
        if (alive := reference()) is not None:
            alive(*args)

    return call


class Backend(BaseBackend):
    """A channel of py-amqp's."""

    transport_cls = Transport
    capabilities = Capabilities(thread_safe=False)
    Message = Message

    # -- the channel's life

    def _open_channel(self, transport: BaseTransport) -> amqp.Channel:
        channel = transport.channel()
        # Bodies stay bytes: carrot decodes them, once, when somebody asks.
        channel.auto_decode = False
        channel.on_broker_close = _weakly(self.fail)
        channel.events["basic_return"].add(_weakly(self._on_return))
        channel.events["basic_ack"].add(_weakly(self._on_ack))
        channel.events["basic_nack"].add(_weakly(self._on_nack))
        return channel

    def _close_channel(self, channel: amqp.Channel) -> None:
        with suppress(CarrotError), self._guarded():
            channel.close()

    def _guarded(self) -> Any:
        assert isinstance(self._transport, Transport)
        return self._transport.guarded(self)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the channel, when its arguments are such that AMQP can carry them."""
        checked = method_arguments(kwargs)
        call = getattr(self.channel, method)
        with self._guarded():
            return call(*args, **checked)

    # -- topology

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        check_exchange_type(type)
        self._call("exchange_declare", exchange=exchange, type=type, durable=durable,
                   auto_delete=auto_delete, arguments=arguments)  # fmt: skip

    def exchange_delete(self, exchange: str, if_unused: bool = False) -> None:
        self._call("exchange_delete", exchange=exchange, if_unused=if_unused)

    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call("exchange_bind", destination=destination, source=source,
                   routing_key=routing_key, arguments=arguments)  # fmt: skip

    def exchange_unbind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call("exchange_unbind", destination=destination, source=source,
                   routing_key=routing_key, arguments=arguments)  # fmt: skip

    def queue_declare(
        self,
        queue: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        warn_if_exists: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> QueueDeclared:
        if warn_if_exists and queue:
            self._warn_existing(queue)
        return QueueDeclared(
            *self._call("queue_declare", queue=queue, durable=durable, exclusive=exclusive,
                        auto_delete=auto_delete, arguments=arguments)
        )  # fmt: skip

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call("queue_bind", queue=queue, exchange=exchange,
                   routing_key=routing_key, arguments=arguments)  # fmt: skip

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call("queue_unbind", queue=queue, exchange=exchange,
                   routing_key=routing_key, arguments=arguments)  # fmt: skip

    def queue_exists(self, queue: str) -> bool:
        return self._is_there(lambda probe: probe._call("queue_declare", queue=queue, passive=True))

    def queue_purge(self, queue: str) -> int:
        return int(self._call("queue_purge", queue=queue))

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        return int(self._call("queue_delete", queue=queue, if_unused=if_unused, if_empty=if_empty))

    # -- publishing

    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool = False
    ) -> int | None:
        channel = self.channel
        properties = dict(message.properties)
        if "headers" in properties:
            properties["application_headers"] = properties.pop("headers")
        with self._guarded():
            channel.basic_publish(
                amqp.Message(message.body, **properties), exchange, routing_key, mandatory
            )
            # Afterwards: before it writes, py-amqp reads, and what it reads is of older messages.
            if self.confirms is not None:
                return self.confirms.publish(message, exchange, routing_key, mandatory)
        return None

    def _confirm_select(self, channel: amqp.Channel) -> None:
        with self._guarded():
            channel.confirm_select()

    def _on_ack(self, number: int, multiple: bool) -> None:
        if self.confirms is not None:
            self.confirms.settle(number, multiple, taken=True)

    def _on_nack(self, number: int, multiple: bool) -> None:
        if self.confirms is not None:
            self.confirms.settle(number, multiple, taken=False)

    def _on_return(
        self, error: amqp.AMQPError, exchange: str, routing_key: str, message: amqp.Message
    ) -> None:
        if self.confirms is not None:
            back = self.message_to_python(message)
            self.confirms.returned(back, exchange, routing_key, error.reply_text)

    # -- receiving

    def get(
        self, queue: str, no_ack: bool = False, timeout: float | None = None
    ) -> BaseMessage | None:
        # py-amqp has one timeout for all answers: operation_timeout.
        raw = self._call("basic_get", queue=queue, no_ack=no_ack)
        return None if raw is None else self.message_to_python(raw, no_ack=no_ack)

    def message_to_python(self, raw_message: Any, no_ack: bool = False) -> BaseMessage:
        """carrot's message for one of py-amqp's."""
        return self.Message(self, raw_message, no_ack=no_ack)

    def _subscribe(
        self, channel: amqp.Channel, queue: str, consumer_tag: str, no_ack: bool
    ) -> None:
        entity_name("queue", queue)
        with self._guarded():
            channel.basic_consume(
                queue=queue,
                consumer_tag=consumer_tag,
                no_ack=no_ack,
                callback=partial(_weakly(self._on_delivery), consumer_tag, no_ack),
                on_cancel=_weakly(self.cancelled_by_broker),
            )

    def _on_delivery(self, consumer_tag: str, no_ack: bool, raw: amqp.Message) -> None:
        self.deliver(consumer_tag, self.message_to_python(raw, no_ack=no_ack))

    def _unsubscribe(self, channel: amqp.Channel, consumer_tag: str) -> None:
        with self._guarded():
            channel.basic_cancel(consumer_tag)

    def _qos(self, channel: amqp.Channel, prefetch_count: int, apply_global: bool) -> None:
        with self._guarded():
            channel.basic_qos(0, prefetch_count, apply_global)

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        channel = self.delivering_channel
        with self._guarded():
            channel.basic_ack(delivery_tag, multiple)

    def reject(self, delivery_tag: int) -> None:
        channel = self.delivering_channel
        with self._guarded():
            channel.basic_reject(delivery_tag, requeue=False)

    def requeue(self, delivery_tag: int) -> None:
        channel = self.delivering_channel
        with self._guarded():
            channel.basic_reject(delivery_tag, requeue=True)
