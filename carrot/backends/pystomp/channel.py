"""Channel: one life of a channel on ActiveMQ, for any number of threads."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from carrot import logs
from carrot.backends.base import (
    BaseChannel,
    BaseMessage,
    Binding,
    Exchange,
    Queue,
    QueueDeclared,
)
from carrot.backends.pystomp import names
from carrot.backends.pystomp.consumers import Consumers
from carrot.backends.pystomp.declared_topology import (
    DeclaredExchange,
    QueueBinding,
)
from carrot.backends.pystomp.delivery import Delivery
from carrot.backends.pystomp.encoder import Encoder
from carrot.backends.pystomp.exclusive_queues import ExclusiveQueues
from carrot.backends.pystomp.frames import Frame
from carrot.backends.pystomp.limits import (
    UNKNOWN,
    check_binding,
    check_exchange,
    check_not_default,
    check_queue,
    require,
)
from carrot.backends.pystomp.polling import Polling
from carrot.backends.pystomp.prefetch_window import PrefetchWindow
from carrot.backends.pystomp.requests import Requests, SessionView
from carrot.backends.pystomp.settlements import ACK, NACK, REQUEUE
from carrot.backends.pystomp.subscriptions import Consumer, Subscriptions
from carrot.backends.seam.confirms import Confirms
from carrot.backends.sockets.batching import Batching
from carrot.backends.sockets.session import TransportView
from carrot.checks import entity_name, required_name
from carrot.deadline import held, remaining
from carrot.exceptions import CarrotError, ChannelError, ConnectionLost, OperationTimeout


class Channel(BaseChannel):
    """An open channel, which has the parts that the package's page lists.

    ActiveMQ has no channels: an error of ours (nobody has declared that queue) ends this one as the
    broker's does in AMQP.

    :ivar number: its name on the connection, which all its names begin with.
    :ivar prefetch_count: the limit of consumers from now on; 0: none.
    """

    def __init__(self, view: TransportView, session: SessionView, number: str) -> None:
        self.number = number
        self.is_open = True
        self.prefetch_count = 0
        self._view = view
        self._session = session
        self._declared = session.declared
        self._subscriptions = Subscriptions(number)
        self._requests = Requests(view, session, number, self, self.give_up)
        self._window = PrefetchWindow(
            number, view, self._requests, self._subscriptions, self._deliver
        )
        self._polling = Polling(self._requests, self._subscriptions, self._window)
        self._exclusive = ExclusiveQueues(
            self._requests, self._subscriptions, self._window, self._polling
        )
        self._consumers = Consumers(
            view, self._requests, self._subscriptions, self._window, self._exclusive
        )
        self._encoder = Encoder()
        self._private = partial(session.declared.private_destination, is_near=session.has)
        self._confirms: Confirms | None = None
        self._batches = Batching(view)
        self._publish_lock = threading.RLock()

    def check_open(self) -> None:
        """Asked under the lock that guards what is written.

        :raises ConnectionLost: it is closed.
        """
        if not self.is_open:
            raise ConnectionLost("the channel was closed here meanwhile")

    # -- what comes in; called by whichever thread is reading

    def on_message(self, id: str, frame: Frame) -> None:
        """The broker delivered something to the subscription of that name."""
        subscription = self._subscriptions.find(id)
        # None: it has ended, and the broker takes the message back.
        if subscription is not None:
            self._window.on_message(subscription, frame)

    def _deliver(self, tag: int, frame: Frame, consumer: Consumer) -> bool:
        """Hand a message to the listener; False: there is none, or it doesn't want any."""
        life = self.listener
        return life is not None and life.deliver(
            consumer.tag, Delivery(life, tag, frame, consumer.tag)
        )

    def on_confirm(self, number: int, answer: ChannelError | bool) -> None:
        """The broker has a message, or an objection."""
        if isinstance(answer, ChannelError):
            self._end(answer)
        elif (confirms := self._confirms) is not None:
            confirms.settle(number, multiple=False, taken=True)

    # -- topology

    def declare(self, entity: Exchange | Queue) -> QueueDeclared | None:
        with self._refusing():
            if isinstance(entity, Queue):
                return self._declare_queue(entity)
            if name := check_exchange(entity):
                declared = DeclaredExchange(entity.type, bool(entity.durable))
                self._declared.declare_exchange(name, declared)
            return None

    def _declare_queue(self, queue: Queue) -> QueueDeclared:
        name = check_queue(queue) or f"amq.gen-{secrets.token_urlsafe(16)}"
        self._declared.declare_queue(name, bool(queue.durable), self if queue.exclusive else None)
        if queue.exclusive:
            self._exclusive.declare(name)
        return QueueDeclared(name, UNKNOWN, UNKNOWN)

    def inspect(self, queue: str) -> QueueDeclared:
        require("inspection", f"declare queue {queue!r}, which does no harm")
        return QueueDeclared(queue, UNKNOWN, UNKNOWN)

    def delete_exchange(self, exchange: str, if_unused: bool) -> None:
        with self._refusing():
            check_not_default(exchange)
        require("deletion", f"exchange {exchange!r} stays as long as queues are bound to it")

    def delete_queue(self, queue: str, if_unused: bool, if_empty: bool) -> int:
        require("deletion", f"purge queue {queue!r}; an administrator can delete it")
        return 0

    def bind(self, binding: Binding) -> None:
        with self._refusing():
            check_binding(binding)
            queue = self._declared.usable_queue(entity_name("queue", binding.destination), self)
            source = self._declared.exchange(entity_name("exchange", binding.source))
            added = QueueBinding(binding.source, names.pattern(source.type, binding.routing_key))
            self._declared.bind(queue, added)
            if queue.owner is not None:
                topics = names.topics_destination(added.exchange, added.pattern)
                self._exclusive.bind(queue.name, topics)
                return
            # Also when it is not new: the broker may have lost it, with its data.
            self._polling.establish(queue.name, queue.bound_to(added))
            self._declared.announce(queue, added)

    def follow(self, queue: str, destination: str) -> None:
        """Let those who consume from *queue* get what one more queue of the broker has."""
        self._consumers.follow(queue, destination)

    def unbind(self, binding: Binding) -> None:
        if binding.to_exchange:
            check_binding(binding)
        with self._refusing():
            check_not_default(binding.source)
        require(
            "deletion",
            f"an administrator can delete the queue that binds {binding.destination!r} to "
            f"{binding.source!r}",
        )

    def purge(self, queue: str) -> int:
        with self._refusing():
            declared = self._declared.usable_queue(required_name("queue", queue), self)
            if declared.owner is not None:
                return self._exclusive.purge(queue)
            return self._polling.purge(queue, declared.destinations)

    # -- publishing

    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool
    ) -> int | None:
        if mandatory:
            require("mandatory", "publish without mandatory")
        try:
            head = self._encoder.head(message, exchange, routing_key, self._private)
        except ChannelError:
            self._leave()
            raise
        body = message.body
        with held(self._publish_lock, "sending a message"):
            confirms, number, receipt = self._confirms, None, b""
            if confirms is None:
                self._view.look()
            else:
                number = confirms.publish(message, exchange, routing_key)
                receipt = b"receipt:p%b-%d\n" % (self.number.encode(), number)
            size = b"content-length:%d\n" % len(body)
            frame = b"".join((head, size, receipt, b"\n", body, b"\0"))
            try:
                if self._batches.holds_back:
                    self._view.write_with_others(frame, self)
                else:
                    self._view.write(frame, self)
            except OperationTimeout:
                # Another thread's write took too long: this message was not written, or is kept.
                if confirms is not None and number is not None and not self._batches.holds_back:
                    confirms.withdraw(number)
                raise
            return number

    def confirm_select(self, confirms: Confirms) -> None:
        """Each message asks for its receipt, so there is nothing to ask for."""
        with held(self._publish_lock, "sending a message"):
            self._confirms = confirms

    @contextmanager
    def batching(self) -> Iterator[None]:
        with self._batches.batch():
            yield

    # -- consuming

    def qos(self, prefetch_count: int, apply_global: bool) -> None:
        self.prefetch_count = prefetch_count

    def subscribe(self, queue: str, consumer_tag: str, no_ack: bool) -> None:
        with self._refusing():
            declared = self._declared.usable_queue(required_name("queue", queue), self)
            self._consumers.subscribe(declared, consumer_tag, no_ack, self.prefetch_count)

    def unsubscribe(self, consumer_tag: str, take_unseen: Callable[[], Sequence[int]]) -> None:
        with self._refusing():
            self._consumers.unsubscribe(consumer_tag, take_unseen)

    def get(self, queue: str, no_ack: bool, timeout: float | None) -> Delivery | None:
        with self._refusing():
            declared = self._declared.usable_queue(required_name("queue", queue), self)
            if declared.owner is not None:
                taken = self._exclusive.get(queue, timeout)
                if taken is not None and no_ack:
                    self._window.settle(taken[0], ACK)
            else:
                taken = self._polling.get(queue, declared.destinations, no_ack, timeout)
        return None if taken is None else Delivery(self.listener, *taken, None, no_ack)

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self._settle(delivery_tag, ACK, multiple)

    def nack(self, delivery_tag: int, multiple: bool = False) -> None:
        self._settle(delivery_tag, REQUEUE, multiple)

    def reject(self, delivery_tag: int, requeue: bool) -> None:
        self._settle(delivery_tag, REQUEUE if requeue else NACK)

    def _settle(self, tag: int, how: bytes, multiple: bool = False) -> None:
        try:
            if multiple:
                for earlier in self._window.in_hand_up_to(tag):
                    self._window.settle(earlier, how)
            if tag or not multiple:
                self._window.settle(tag, how)
        except ChannelError:
            self._leave()
            raise

    # -- the end

    def close(self) -> None:
        if not self.is_open:
            return
        receipt = self._session.new_receipt()
        try:
            is_asked = self._leave(receipt)
            if is_asked:
                logs.method_sent("UNSUBSCRIBE", self.number)
            # Where nobody answers, not every close() shall wait for that again.
            if is_asked and not self._view.is_silent:
                with suppress(CarrotError):
                    patience = remaining(self._view.operation_timeout)
                    self._session.await_receipt(receipt, "UNSUBSCRIBE", patience)
                    logs.method_received("RECEIPT", self.number)
        finally:
            self._session.forget_receipt(receipt)

    def give_up(self) -> None:
        """Nobody waits for this channel's answers any more: what it has taken goes back."""
        self._end(ConnectionLost("the channel was given up: no answer came"))
        self._view.interrupt()

    def _end(self, error: CarrotError) -> None:
        listener = self.listener
        self._leave()
        if listener is not None:
            listener.channel_closed(error)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """End the channel when the block raises a ChannelError; its caller is told."""
        try:
            yield
        except ChannelError:
            self._leave()
            raise

    def _leave(self, receipt: str | None = None) -> bool:
        """End all subscriptions, without waiting; whether there were any.

        :param receipt: the name of a receipt to ask for.
        """
        # First: nothing that comes now is believed, and nothing is written any more.
        self._confirms = None
        self.listen(None)
        self.is_open = False
        ending = self._subscriptions.take_all()
        if ending:
            options = {} if receipt is None else {"receipt": receipt}
            *others, last = ending
            frames = [*(one.end() for one in others), last.end(**options)]
            self._view.answer(b"".join(frames))
        self._session.forget(self.number)
        return bool(ending)
