"""Backend: a channel of the native driver behind the seam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pamqp import base, commands

from carrot.backends.amqp import framing
from carrot.backends.amqp.channel import Channel
from carrot.backends.amqp.delivery import Delivery
from carrot.backends.amqp.framing import Event
from carrot.backends.amqp.tables import (
    encode_properties,
    encode_shared_properties,
    read_short_string,
)
from carrot.backends.amqp.transport import Transport
from carrot.backends.base import (
    BaseMessage,
    BaseTransport,
    Capabilities,
    QueueDeclared,
)
from carrot.backends.confirms import Confirms, concerns
from carrot.backends.stream_backend import StreamBackend
from carrot.checks import method_arguments
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConnectionLost,
    EncodeError,
    OperationTimeout,
)
from carrot.message import Outgoing
from carrot.routing import check_exchange_type


class Backend(StreamBackend):
    """A channel on RabbitMQ, for any number of threads."""

    transport_cls = Transport
    capabilities = Capabilities(thread_safe=True)

    # -- the channel's life

    def _open_channel(self, transport: BaseTransport) -> Channel:
        channel: Channel = transport.channel()
        channel.listen(self)
        return channel

    def _close_channel(self, channel: Channel) -> None:
        with suppress(CarrotError):
            channel.close()

    def _call(
        self, method: type[base.Frame], timeout: float | None = None, **arguments: Any
    ) -> Any:
        """Ask the broker, when the arguments are such that AMQP can carry them."""
        return self._call_on(lambda: self.channel, method, timeout, **arguments)

    def _call_on(
        self,
        channel: Callable[[], Channel],
        method: type[base.Frame],
        timeout: float | None = None,
        **arguments: Any,
    ) -> Any:
        checked = method_arguments(arguments)
        try:
            return channel().call(method, timeout, **checked)
        except ChannelError:
            self.take_failure()  # this is it, raised where it belongs
            raise

    # -- topology

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call(
            commands.Exchange.Declare,
            exchange=exchange,
            exchange_type=check_exchange_type(type),
            durable=durable,
            auto_delete=auto_delete,
            arguments=arguments,
        )

    def exchange_delete(self, exchange: str, if_unused: bool = False) -> None:
        self._call(commands.Exchange.Delete, exchange=exchange, if_unused=if_unused)

    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call(
            commands.Exchange.Bind,
            destination=destination,
            source=source,
            routing_key=routing_key,
            arguments=arguments,
        )

    def exchange_unbind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call(
            commands.Exchange.Unbind,
            destination=destination,
            source=source,
            routing_key=routing_key,
            arguments=arguments,
        )

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
        answer = self._call(
            commands.Queue.Declare,
            queue=queue,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )
        return QueueDeclared(answer.queue, answer.message_count, answer.consumer_count)

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call(
            commands.Queue.Bind,
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            arguments=arguments,
        )

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call(
            commands.Queue.Unbind,
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            arguments=arguments,
        )

    def queue_exists(self, queue: str) -> bool:
        return self._is_there(
            lambda probe: probe._call(commands.Queue.Declare, queue=queue, passive=True)
        )

    def queue_purge(self, queue: str) -> int:
        return int(self._call(commands.Queue.Purge, queue=queue).message_count)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        answer = self._call(
            commands.Queue.Delete, queue=queue, if_unused=if_unused, if_empty=if_empty
        )
        return int(answer.message_count)

    # -- publishing

    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool = False
    ) -> int | None:
        if type(message) is Outgoing:
            # Those that are sent alike share their properties: encoded once, 2 µs saved for each.
            shared, message_id = message.shared, message.message_id
            parts = shared.wire
            if parts is None:
                has_id = message_id is not None
                parts = shared.wire = encode_shared_properties(shared, has_id)
            if message_id is None:
                wire = parts[0]
            else:
                wire = parts[0] + bytes((len(message_id),)) + message_id.encode() + parts[1]
        else:
            wire = encode_properties(message.properties)
        # The broker counts messages in the order they are written, from the moment it confirms.
        with self._publishing:
            channel, confirms = self._channel, self.confirms
            # Looked at again, because a reader may take both away: see _channel_and_books.
            if (
                channel is None
                or not channel.is_open
                or self._failure is not None
                or channel is not self._channel
            ):
                channel, confirms = self._channel_and_books()
            if len(wire) > channel.properties_max:
                raise EncodeError(
                    f"the message's properties take {len(wire)} bytes, and must fit in one frame, "
                    f"of {channel.properties_max} on this connection: put large things into the "
                    "body"
                )
            frames = channel.encode(exchange, routing_key, mandatory, wire, message.body)
            number = None
            try:
                if confirms is None:
                    channel.look()
                else:
                    number = confirms.publish(message, exchange, routing_key, mandatory)
                channel.publish(frames, self._batching and self._keeps_back)
            except ChannelError as exc:
                self.take_failure()  # this is it, raised where it belongs
                if concerns(exc, message, exchange) is False:
                    raise ConnectionLost(
                        "another message that was sent on this channel has closed it; this one was "
                        "not sent"
                    ) from exc
                raise
            except OperationTimeout:
                # Another thread's write took too long: this message was not written, or is kept.
                if number is not None and not self._keeps_back:
                    assert confirms is not None
                    confirms.withdraw(number)
                raise
            except CarrotError:
                raise
            except BaseException:
                # An interrupt: a number may be taken without a message, and all later confirms
                # would be another message's.
                channel.give_up()
                raise
            return number

    def _confirm_select(self, channel: Channel) -> None:
        channel.call(commands.Confirm.Select)

    # -- what comes in; called by whichever thread is reading

    def on_delivery(self, event: Event) -> None:
        arguments = event.arguments
        tag, delivery_tag, redelivered, origin = framing.delivery_of(arguments)
        # First: when the channel is replaced meanwhile, its subscriptions go before its number.
        generation = self.generation
        subscription = self._subscriptions.get(tag)
        # None: the channel was closed here meanwhile, and the broker takes the message back.
        if subscription is not None:
            self.inbox.append(
                (
                    subscription,
                    Delivery(self, generation, delivery_tag, event.body, event.properties,
                            arguments, origin, redelivered, tag, subscription.no_ack),
                )
            )  # fmt: skip

    def on_return(self, event: Event, confirms: Confirms | None) -> None:
        # Reply code and text, exchange and routing key (AMQP 0-9-1, section 1.8.3.10).
        text, at = read_short_string(event.arguments, 2)
        exchange, routing_key = framing.origin_of(event.arguments, at)
        if confirms is not None:
            back = Delivery(self, 0, 0, event.body, event.properties, b"", 0, False, None, True)
            confirms.returned(back, exchange, routing_key, text)

    def on_cancel(self, channel: Channel, consumer_tag: str) -> None:
        if channel is self._channel:
            self.cancelled_by_broker(consumer_tag)

    def on_close(self, channel: Channel, error: ChannelError) -> None:
        # Of one that is being opened, or was replaced, nobody else needs to be told.
        if channel is self._channel:
            confirms = channel.confirms
            self.fail(error, confirms is not None and confirms.blame(error))

    # -- receiving

    def get(
        self, queue: str, no_ack: bool = False, timeout: float | None = None
    ) -> BaseMessage | None:
        channel, generation = self._numbered_channel()
        answer = self._call_on(
            lambda: channel, commands.Basic.Get, timeout, queue=queue, no_ack=no_ack
        )
        if not isinstance(answer, Event):
            return None
        delivery_tag, redelivered = framing.settled_of(answer.arguments)
        return Delivery(self, generation, delivery_tag, answer.body, answer.properties,
                       answer.arguments, 9, redelivered, None, no_ack)  # fmt: skip

    def _numbered_channel(self) -> tuple[Channel, int]:
        """The channel and its generation; a reader may take it away any time."""
        while True:
            channel, generation = self.channel, self.generation
            # It goes before its number changes.
            if channel is self._channel:
                return channel, generation

    def _subscribe(self, channel: Channel, queue: str, consumer_tag: str, no_ack: bool) -> None:
        # On this channel, and not on one that has replaced it meanwhile.
        self._call_on(
            lambda: channel,
            commands.Basic.Consume,
            queue=queue,
            consumer_tag=consumer_tag,
            no_ack=no_ack,
        )

    def _unsubscribe(self, channel: Channel, consumer_tag: str) -> None:
        self._call_on(lambda: channel, commands.Basic.Cancel, consumer_tag=consumer_tag)

    def _qos(self, channel: Channel, prefetch_count: int, apply_global: bool) -> None:
        self._call_on(
            lambda: channel,
            commands.Basic.Qos,
            prefetch_count=prefetch_count,
            global_=apply_global,
        )

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        channel = self._channel
        if channel is None or not channel.is_open:
            channel = self.delivering_channel  # raises why there is none
        channel.ack(delivery_tag, multiple)

    def reject(self, delivery_tag: int) -> None:
        self.delivering_channel.reject(delivery_tag, requeue=False)

    def requeue(self, delivery_tag: int) -> None:
        self.delivering_channel.reject(delivery_tag, requeue=True)
