"""Channel: one life of an AMQP channel, for any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pamqp import base, commands

from carrot import logs
from carrot.backends.amqp import framing
from carrot.backends.amqp.delivery import Delivery
from carrot.backends.amqp.framing import Event
from carrot.backends.amqp.methods import decode_method, encode_method
from carrot.backends.amqp.rpc import Rpc, SessionView
from carrot.backends.amqp.tables import (
    encode_properties,
    encode_shared_properties,
    read_short_string,
)
from carrot.backends.base import (
    BaseChannel,
    BaseMessage,
    Binding,
    Exchange,
    Queue,
    QueueDeclared,
)
from carrot.backends.seam.confirms import Confirms
from carrot.backends.sockets.batching import Batching
from carrot.backends.sockets.session import TransportView
from carrot.checks import method_arguments
from carrot.deadline import held
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConnectionLost,
    EncodeError,
    NotSupported,
    OperationTimeout,
)
from carrot.message import Outgoing
from carrot.remedies import channel_error

#: AMQP's reply code for what a broker can't do (AMQP 0-9-1, section 1.2).
NOT_IMPLEMENTED = 540


class Channel(BaseChannel):
    """An open channel. ``_publish_lock`` is held from a message's number to its write.

    :ivar number: its number on the connection.
    :ivar properties_max: bytes that a message's flags and properties may take here.
    :ivar message_max: bytes that a body may have; None: the broker says.
    """

    def __init__(
        self,
        view: TransportView,
        session: SessionView,
        number: int,
        message_max: int | None = None,
    ) -> None:
        self.number = number
        self.properties_max = session.frame_max - framing.CONTENT_HEADER
        self.message_max = message_max
        self.is_open = True
        self._view = view
        self._rpc = Rpc(view, session, number, self)
        self._confirms: Confirms | None = None
        #: The frames of a message: see :meth:`framing.PublishEncoder.encode`.
        self._encode = framing.PublishEncoder(number, session.frame_max).encode
        self._batches = Batching(view)
        self._publish_lock = threading.RLock()

    # -- asking

    def call(self, method: type[base.Frame], **arguments: Any) -> Any:
        """Ask the broker, and log it, where no lock is held; the answer."""
        logs.method_sent(method.name, self.number)
        answer = self._ask(method, **arguments)
        logs.method_received(answer.name, self.number)
        return answer

    def _ask(self, method: type[base.Frame], timeout: float | None = None, **arguments: Any) -> Any:
        """Ask the broker, when the arguments are such that AMQP can carry them; the answer."""
        checked = method_arguments(arguments)
        try:
            return self._rpc.call(method, timeout, **checked)
        except ChannelError as exc:
            if exc.code == NOT_IMPLEMENTED:  # a broker of carrot.server; RabbitMQ hangs up
                raise NotSupported(f"{exc.text} (its broker serves the zeromq driver)") from exc
            raise

    def check_open(self) -> None:
        """Asked under the lock that guards what is written; raises why it is closed."""
        if not self.is_open:
            self._rpc.check_open()

    # -- what comes in; called by whichever thread is reading

    def on_delivery(self, event: Event) -> None:
        """Take a delivery."""
        arguments = event.arguments
        tag, delivery_tag, redelivered, origin = framing.delivery_of(arguments)
        listener_of = self._listener  # looked up and called as a method, it would cost 0.05 µs more
        life = listener_of()
        # None: closed here meanwhile, and the broker takes the message back.
        if life is not None:
            life.deliver(
                tag,
                Delivery(life, delivery_tag, event.body, event.properties, arguments, origin,
                         redelivered, tag),
            )  # fmt: skip

    def handle(self, event: Event) -> None:
        """Take an event that is not a delivery."""
        method = event.method
        if not self.is_open:
            self._rpc.take_late(method)
        elif method == framing.ACK or method == framing.NACK:
            number, multiple = framing.settled_of(event.arguments)
            if (confirms := self._confirms) is not None:
                confirms.settle(number, multiple, method == framing.ACK)
        elif method == framing.GET_OK:
            self._rpc.take_in("Basic.GetOk", event)
        elif method == framing.RETURN:
            self._on_return(event)
        else:
            self._handle_command(decode_method(method, event.arguments))

    def _handle_command(self, command: base.Frame) -> None:
        listener = self.listener
        if isinstance(command, commands.Channel.Close):
            error = channel_error(command.reply_code or 0, command.reply_text)
            self._rpc.refusal = error
            self.is_open = False
            self._rpc.take_goodbye()
            # A thread that waits for an answer raises it; else the channel's next user does.
            if listener is not None:
                listener.channel_closed(error)
        elif isinstance(command, commands.Basic.Cancel):
            self._rpc.note(logs.method_received, commands.Basic.Cancel)
            if listener is not None:
                listener.consumer_cancelled(command.consumer_tag or "")
        elif isinstance(command, commands.Channel.Flow):
            self._view.answer(
                encode_method(commands.Channel.FlowOk, self.number, active=command.active)
            )
            self._rpc.note(logs.method_received, commands.Channel.Flow)
            self._rpc.note(logs.method_sent, commands.Channel.FlowOk)
        else:
            self._rpc.take_in(command.name, command)

    def _on_return(self, event: Event) -> None:
        # Reply code and text, exchange and routing key (AMQP 0-9-1, section 1.8.3.10).
        text, at = read_short_string(event.arguments, 2)
        exchange, routing_key = framing.origin_of(event.arguments, at)
        if (confirms := self._confirms) is not None:
            back = Delivery(None, 0, event.body, event.properties, b"", 0, False, None, True)
            confirms.returned(back, exchange, routing_key, text)

    # -- topology

    def declare(self, entity: Exchange | Queue) -> QueueDeclared | None:
        if isinstance(entity, Exchange):
            self.call(
                commands.Exchange.Declare, exchange=entity.name, exchange_type=entity.type,
                durable=entity.durable, auto_delete=entity.auto_delete,
                arguments=entity.arguments,
            )  # fmt: skip
            return None
        return _declared(
            self.call(
                commands.Queue.Declare, queue=entity.name, durable=entity.durable,
                exclusive=entity.exclusive, auto_delete=entity.auto_delete,
                arguments=entity.arguments,
            )
        )  # fmt: skip

    def inspect(self, queue: str) -> QueueDeclared:
        return _declared(self.call(commands.Queue.Declare, queue=queue, passive=True))

    def delete_exchange(self, exchange: str, if_unused: bool) -> None:
        self.call(commands.Exchange.Delete, exchange=exchange, if_unused=if_unused)

    def delete_queue(self, queue: str, if_unused: bool, if_empty: bool) -> int:
        answer = self.call(
            commands.Queue.Delete, queue=queue, if_unused=if_unused, if_empty=if_empty
        )
        return int(answer.message_count)

    def bind(self, binding: Binding) -> None:
        method = commands.Exchange.Bind if binding.to_exchange else commands.Queue.Bind
        self.call(method, **binding.named())

    def unbind(self, binding: Binding) -> None:
        method = commands.Exchange.Unbind if binding.to_exchange else commands.Queue.Unbind
        self.call(method, **binding.named())

    def purge(self, queue: str) -> int:
        return int(self.call(commands.Queue.Purge, queue=queue).message_count)

    # -- publishing

    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool
    ) -> int | None:
        wire = encoded_properties(message)
        if len(wire) > self.properties_max:
            raise EncodeError(
                f"the message's properties take {len(wire)} bytes, and must fit in one frame, "
                f"of {self.properties_max} on this connection: put large things into the body"
            )
        if self.message_max is not None and len(message.body) > self.message_max:
            # The broker would drop the connection, lest a client fill its memory.
            raise channel_error(
                311, f"message size {len(message.body)} is larger than max size {self.message_max}"
            )
        frames = self._encode(exchange, routing_key, mandatory, wire, message.body)
        # The broker counts messages in the order they are written, from the moment it confirms.
        with held(self._publish_lock, "sending a message"):
            confirms, number = self._confirms, None
            try:
                if confirms is None:
                    self._view.look()
                else:
                    number = confirms.publish(message, exchange, routing_key, mandatory)
                if self._batches.holds_back:
                    self._view.write_with_others(frames, self)
                else:
                    self._view.write(frames, self)
            except OperationTimeout:
                # Another thread's write took too long: this message was not written, or is kept.
                if confirms is not None and number is not None and not self._batches.holds_back:
                    confirms.withdraw(number)
                raise
            except CarrotError:
                raise
            except BaseException:
                # An interrupt: a number may be taken without a message, and all later confirms
                # would be another message's.
                self.give_up()
                raise
            return number

    def confirm_select(self, confirms: Confirms) -> None:
        logs.method_sent(commands.Confirm.Select.name, self.number)
        # No message of another thread may come between: the broker counts from here on.
        with held(self._publish_lock, "sending a message"):
            answer = self._ask(commands.Confirm.Select)
            self._confirms = confirms
        logs.method_received(answer.name, self.number)

    @contextmanager
    def batching(self) -> Iterator[None]:
        with self._batches.batch():
            yield

    # -- consuming

    def qos(self, prefetch_count: int, apply_global: bool) -> None:
        self.call(commands.Basic.Qos, prefetch_count=prefetch_count, global_=apply_global)

    def subscribe(self, queue: str, consumer_tag: str, no_ack: bool) -> None:
        self.call(commands.Basic.Consume, queue=queue, consumer_tag=consumer_tag, no_ack=no_ack)

    def unsubscribe(self, consumer_tag: str, take_unseen: Callable[[], Sequence[int]]) -> None:
        self.call(commands.Basic.Cancel, consumer_tag=consumer_tag)
        if unseen := take_unseen():
            frames = [framing.nack_frame(self.number, tag, False, True) for tag in unseen]
            self._view.write(b"".join(frames), self)

    def get(self, queue: str, no_ack: bool, timeout: float | None) -> Delivery | None:
        answer = self._ask(commands.Basic.Get, timeout, queue=queue, no_ack=no_ack)
        if not isinstance(answer, Event):
            return None
        if (life := self.listener) is None:
            raise ConnectionLost("the channel was closed here meanwhile")
        delivery_tag, redelivered = framing.settled_of(answer.arguments)
        return Delivery(life, delivery_tag, answer.body, answer.properties,
                        answer.arguments, 9, redelivered, None, no_ack)  # fmt: skip

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        # Looked up and called as a method, it would cost 0.05 µs more.
        write_soon = self._view.write_soon
        write_soon(
            framing.settlement.pack(
                framing.METHOD, self.number, 13, framing.ACK, delivery_tag, multiple,
                framing.FRAME_END,
            ),
            self,
        )  # fmt: skip

    def nack(self, delivery_tag: int, multiple: bool = False) -> None:
        self._view.write_soon(framing.nack_frame(self.number, delivery_tag, multiple, True), self)

    def reject(self, delivery_tag: int, requeue: bool) -> None:
        self._view.write_soon(framing.reject_frame(self.number, delivery_tag, requeue), self)

    # -- the end

    def close(self) -> None:
        if self.is_open:
            self._leave()
            with suppress(CarrotError):
                self._rpc.await_goodbye()

    def give_up(self) -> None:
        """Nobody waits for this channel's answers any more."""
        listener = self.listener
        self._leave()
        if listener is not None:
            listener.channel_closed(ConnectionLost("the channel was given up: no answer came"))

    def _leave(self) -> None:
        # Confirms first: one whose return was not heard would be a wrong answer.
        self._confirms = None
        self.listen(None)
        self.is_open = False
        self._rpc.say_goodbye()


def _declared(answer: Any) -> QueueDeclared:
    return QueueDeclared(answer.queue, answer.message_count, answer.consumer_count)


def encoded_properties(message: BaseMessage) -> bytes:
    """A message's flags and property list."""
    if type(message) is not Outgoing:
        return encode_properties(message.properties)
    # Those that are sent alike share their properties: encoded once, 2 µs saved for each.
    shared, message_id = message.shared, message.message_id
    encoded = shared.encoded
    if encoded is None or encoded[0] is not encode_shared_properties:
        parts = encode_shared_properties(shared, message_id is not None)
        shared.encoded = encode_shared_properties, parts
    else:
        parts = encoded[1]
    if message_id is None:
        return parts[0]
    return parts[0] + bytes((len(message_id),)) + message_id.encode() + parts[1]
