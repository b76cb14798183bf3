"""ServerChannel: carries out the methods of one client's channel on the in-process broker.

AMQP 0-9-1, section 1.8 (the classes channel, exchange, queue, basic), and RabbitMQ's confirm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pamqp import base, commands

from carrot.backends.amqp import framing
from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import Event
from carrot.backends.amqp.methods import encode_method
from carrot.backends.amqp.tables import short_string
from carrot.broker.message import QueuedMessage
from carrot.broker.replies import not_found
from carrot.broker.virtual_host import Outcome
from carrot.exceptions import CarrotError, ChannelError, NotSupported
from carrot.server.frames import (
    BrokerEncoder,
    ack_frame,
    command_of,
    encoded_properties,
    nack_frame,
    properties_of,
    publication_of,
)
from carrot.server.protocol import FRAME_MAX
from carrot.server.virtual_host import RemoteChannel, ServedVirtualHost

#: AMQP's reply codes for errors of carrot's that have none (AMQP 0-9-1, section 1.2).
INTERNAL_ERROR, NOT_IMPLEMENTED = 541, 540

# How many different exchanges and routing keys a channel remembers.
_REMEMBERED = 512


class Client(Protocol):
    """A session, as its channels use it."""

    virtual_host: ServedVirtualHost

    def send(self, frames: bytes) -> None: ...
    def unsettled(self, channel: ServerChannel) -> None: ...
    def forget(self, channel: ServerChannel) -> None: ...


class ServerChannel:
    """A channel that a client has opened.

    :param number: its number in the client's frames.
    :param channel: the in-process broker's channel.
    """

    def __init__(self, client: Client, number: int, channel: RemoteChannel) -> None:
        self.number = number
        self.channel = channel
        self._client = client
        self._encoder = BrokerEncoder(number, FRAME_MAX)
        self._is_closing = False
        self._confirms = False
        self._published = self._acked = 0  # in confirm mode
        self._origins: dict[bytes, tuple[str, str, bool]] = {}

    def _reply(self, method: type[base.Frame], **arguments: Any) -> None:
        self._client.send(encode_method(method, self.number, **arguments))

    # -- what comes in

    def handle(self, event: Event) -> None:
        """Carry out a method.

        :raises FramingError: a client may not send that method.
        """
        if self._is_closing:
            self._await_goodbye(event.method)
            return
        try:
            if event.method == framing.PUBLISH:
                self._publish(event)
            elif event.method == framing.ACK:
                self.channel.ack(*framing.settled_of(event.arguments))
            elif event.method == framing.REJECT:
                self.channel.reject(*framing.settled_of(event.arguments))
            else:
                command = command_of(event)
                do = _COMMANDS.get(type(command))
                if do is None:
                    raise FramingError(f"{command.name} is not supported by this broker")
                do(self, command)
        except FramingError:
            raise
        except ChannelError as exc:
            self._refuse(exc.code, exc.text)
        except NotSupported as exc:
            self._refuse(NOT_IMPLEMENTED, str(exc))
        except CarrotError as exc:
            self._refuse(INTERNAL_ERROR, str(exc))

    def _refuse(self, code: int, text: str) -> None:
        """Close the channel, and tell the client why."""
        self.settle()
        self.channel.close()
        self._is_closing = True
        # A short string, cut between two characters.
        short = text.encode()[:255].decode(errors="ignore")
        self._reply(commands.Channel.Close, reply_code=code, reply_text=short)

    def _await_goodbye(self, method: int) -> None:
        if method == commands.Channel.Close.index:
            self._reply(
                commands.Channel.CloseOk
            )  # both closed at once: the client's CloseOk is still to come
        elif method == commands.Channel.CloseOk.index:
            self._client.forget(self)

    def _close(self, command: commands.Channel.Close) -> None:
        self.settle()
        self.channel.close()
        self._client.forget(self)
        self._reply(commands.Channel.CloseOk)

    # -- publishing

    def _publish(self, event: Event) -> None:
        origin = self._origins.get(event.arguments)
        if origin is None:
            if len(self._origins) >= _REMEMBERED:
                self._origins.clear()
            origin = self._origins[event.arguments] = publication_of(event.arguments)
        exchange, routing_key, is_mandatory = origin
        outcome = self.channel.publish(
            exchange, routing_key, event.body, properties_of(event.properties)
        )
        if outcome is Outcome.UNROUTABLE and is_mandatory:
            self._client.send(
                self._encoder.unroutable(exchange, routing_key, event.properties, event.body)
            )
        if not self._confirms:
            return
        if outcome is Outcome.REJECTED:
            self.settle()
            self._published += 1
            self._acked = self._published
            self._client.send(nack_frame(self.number, self._published))
            return
        if self._published == self._acked:
            self._client.unsettled(self)
        self._published += 1

    def settle(self) -> None:
        """Confirm all messages published since the last confirm, in one frame."""
        if self._published > self._acked:
            is_many = self._published - self._acked > 1
            self._acked = self._published
            self._client.send(ack_frame(self.number, self._published, is_many))

    def _confirm_select(self, command: commands.Confirm.Select) -> None:
        self._confirms = True
        self._reply(commands.Confirm.SelectOk)

    # -- exchanges

    def _exchange_declare(self, command: commands.Exchange.Declare) -> None:
        self.channel.exchange_declare(
            command.exchange, command.exchange_type, command.durable, command.auto_delete,
            command.arguments,
        )  # fmt: skip
        self._reply(commands.Exchange.DeclareOk)

    def _exchange_delete(self, command: commands.Exchange.Delete) -> None:
        self.channel.exchange_delete(command.exchange, command.if_unused)
        self._reply(commands.Exchange.DeleteOk)

    def _exchange_bind(self, command: commands.Exchange.Bind) -> None:
        self.channel.exchange_bind(
            command.destination, command.source, command.routing_key, command.arguments
        )
        self._reply(commands.Exchange.BindOk)

    def _exchange_unbind(self, command: commands.Exchange.Unbind) -> None:
        self.channel.exchange_unbind(
            command.destination, command.source, command.routing_key, command.arguments
        )
        self._reply(commands.Exchange.UnbindOk)

    # -- queues

    def _queue_declare(self, command: commands.Queue.Declare) -> None:
        virtual_host = self._client.virtual_host
        if command.passive:
            if not self.channel.queue_exists(command.queue):
                raise not_found(f"queue '{command.queue}' in vhost '{virtual_host.name}'")
            queue = virtual_host.queues[command.queue]
            declared = queue.name, queue.ready.size, len(queue.consumers)
        else:
            declared = self.channel.queue_declare(
                command.queue, command.durable, command.exclusive, command.auto_delete,
                command.arguments,
            )  # fmt: skip
        name, messages, consumers = declared
        self._reply(
            commands.Queue.DeclareOk, queue=name, message_count=messages, consumer_count=consumers
        )

    def _queue_bind(self, command: commands.Queue.Bind) -> None:
        self.channel.queue_bind(
            command.queue, command.exchange, command.routing_key, command.arguments
        )
        self._reply(commands.Queue.BindOk)

    def _queue_unbind(self, command: commands.Queue.Unbind) -> None:
        self.channel.queue_unbind(
            command.queue, command.exchange, command.routing_key, command.arguments
        )
        self._reply(commands.Queue.UnbindOk)

    def _queue_purge(self, command: commands.Queue.Purge) -> None:
        purged = self.channel.queue_purge(command.queue)
        self._reply(commands.Queue.PurgeOk, message_count=purged)

    def _queue_delete(self, command: commands.Queue.Delete) -> None:
        deleted = self.channel.queue_delete(command.queue, command.if_unused, command.if_empty)
        self._reply(commands.Queue.DeleteOk, message_count=deleted)

    # -- messages

    def _qos(self, command: commands.Basic.Qos) -> None:
        self.channel.qos(command.prefetch_count, command.global_)
        self._reply(commands.Basic.QosOk)

    def _get(self, command: commands.Basic.Get) -> None:
        got = self.channel.get(command.queue, command.no_ack)
        if got is None:
            self._reply(commands.Basic.GetEmpty)
            return
        delivery_tag, message = got
        left = self._client.virtual_host.queues[message.queue.name].ready.size
        self._client.send(
            self._encoder.get_ok(
                delivery_tag, message.redelivered, message.exchange, message.routing_key,
                left, encoded_properties(message), message.body,
            )
        )  # fmt: skip

    def _consume(self, command: commands.Basic.Consume) -> None:
        tag = command.consumer_tag
        encoded_tag = short_string(tag)
        encode, send = self._encoder.deliver, self._client.send

        def deliver(delivery_tag: int, message: QueuedMessage) -> None:
            send(
                encode(encoded_tag, delivery_tag, message.redelivered, message.exchange,
                       message.routing_key, encoded_properties(message), message.body)
            )  # fmt: skip

        def on_cancel() -> None:
            self._reply(commands.Basic.Cancel, consumer_tag=tag)

        # Deliveries may precede the reply; clients are prepared for that.
        self.channel.consume(command.queue, tag, command.no_ack, deliver, on_cancel)
        self._reply(commands.Basic.ConsumeOk, consumer_tag=tag)

    def _nack(self, command: commands.Basic.Nack) -> None:
        self.channel.nack(command.delivery_tag, command.multiple, command.requeue)

    def _cancel(self, command: commands.Basic.Cancel) -> None:
        tag = command.consumer_tag or ""
        self.channel.cancel(tag)
        self._reply(commands.Basic.CancelOk, consumer_tag=tag)


_COMMANDS: dict[type[base.Frame], Callable[[ServerChannel, Any], None]] = {
    commands.Channel.Close: ServerChannel._close,
    commands.Confirm.Select: ServerChannel._confirm_select,
    commands.Exchange.Declare: ServerChannel._exchange_declare,
    commands.Exchange.Delete: ServerChannel._exchange_delete,
    commands.Exchange.Bind: ServerChannel._exchange_bind,
    commands.Exchange.Unbind: ServerChannel._exchange_unbind,
    commands.Queue.Declare: ServerChannel._queue_declare,
    commands.Queue.Bind: ServerChannel._queue_bind,
    commands.Queue.Unbind: ServerChannel._queue_unbind,
    commands.Queue.Purge: ServerChannel._queue_purge,
    commands.Queue.Delete: ServerChannel._queue_delete,
    commands.Basic.Qos: ServerChannel._qos,
    commands.Basic.Get: ServerChannel._get,
    commands.Basic.Consume: ServerChannel._consume,
    commands.Basic.Cancel: ServerChannel._cancel,
    commands.Basic.Nack: ServerChannel._nack,
}
