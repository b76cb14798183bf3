"""Publisher: sends messages to an exchange, and knows when the broker has them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Unpack

from carrot.backends.base import Exchange
from carrot.backends.seam.backend import Backend
from carrot.checks import seconds, whole_number
from carrot.connection import BrokerConnection
from carrot.exceptions import ConfigurationError, ConnectionFailed, ConnectionLost
from carrot.message import Message, Outgoing, Properties
from carrot.messaging.batch import Batch
from carrot.messaging.declaration import declare_exchange
from carrot.messaging.options import Configurable
from carrot.messaging.publish_options import (
    MorePropertyOptions,
    PublishOptions,
    RoutingKey,
    SendOptions,
)
from carrot.messaging.sending import DELIVERY_MODES, Sending, checked_delivery_mode
from carrot.retry import Retry


class Publisher(Configurable):
    """Sends messages to an exchange.

    Every option can be a class attribute of a subclass; keywords override it, None doesn't.

    :param connection: the broker.
    :param exchange: where messages go; ``""`` is the default exchange, in which the routing key
        is the name of the queue.
    :param routing_key: the default for :meth:`send`.
    :param exchange_type: direct, fanout, topic, headers, or a type of a broker's plug-in.
    :param durable: the exchange outlives a restart of the broker.
    :param auto_delete: the exchange goes when the last queue bound to it has gone.
    :param exchange_arguments: such as ``{"alternate-exchange": "unrouted"}``.
    :param delivery_mode: 2 or ``"persistent"``; 1 or ``"transient"`` for messages that may be
        lost when the broker restarts.
    :param serializer: a name in ``carrot.serialization.registry``; None: text and bytes as they
        are, all else as JSON.
    :param encoder: a function from data to bytes or text, instead of a serializer. A keyword for
        one of the two overrides the class's own other one.
    :param auto_declare: declare the exchange now.
    :param confirm: :meth:`send` returns when the broker has taken the message.
    :param confirm_timeout: seconds to wait for that; 0 waits as long as it takes.
    :param confirm_window: how many messages :meth:`send_many` and :meth:`batch` let be on their
        way, not yet confirmed.
    :param retry: how often and how long to send again what is not confirmed when the connection
        is lost; default 30 seconds.
    :param mandatory: a message that reaches no queue raises Unroutable.
    :param backend: the channel to use; default one of its own.
    """

    NONE_PERSISTENT_DELIVERY_MODE: ClassVar[int] = 1
    PERSISTENT_DELIVERY_MODE: ClassVar[int] = 2
    DELIVERY_MODES: ClassVar[dict[Hashable, int]] = DELIVERY_MODES

    exchange: str = ""
    routing_key: RoutingKey = ""
    exchange_type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    exchange_arguments: Mapping[str, Any] | None = None
    delivery_mode: int | str = PERSISTENT_DELIVERY_MODE
    serializer: str | None = None
    encoder: Callable[[Any], str | bytes] | None = None
    auto_declare: bool = True
    confirm: bool = True
    confirm_timeout: float | None = 30
    confirm_window: int = 1000
    mandatory: bool = False
    retry: Retry = Retry(seconds=30)

    def __init__(
        self,
        connection: BrokerConnection,
        exchange: str | None = None,
        routing_key: RoutingKey | None = None,
        *,
        exchange_type: str | None = None,
        durable: bool | None = None,
        auto_delete: bool | None = None,
        exchange_arguments: Mapping[str, Any] | None = None,
        delivery_mode: int | str | None = None,
        serializer: str | None = None,
        encoder: Callable[[Any], str | bytes] | None = None,
        auto_declare: bool | None = None,
        confirm: bool | None = None,
        confirm_timeout: float | None = None,
        confirm_window: int | None = None,
        retry: Retry | None = None,
        mandatory: bool | None = None,
        backend: Backend | None = None,
    ) -> None:
        self._use(connection, backend)
        if serializer is not None and encoder is None:
            self.encoder = None
        elif encoder is not None and serializer is None:
            self.serializer = None
        self._set_options(
            exchange=exchange,
            routing_key=routing_key,
            exchange_type=exchange_type,
            durable=durable,
            auto_delete=auto_delete,
            exchange_arguments=exchange_arguments,
            delivery_mode=delivery_mode,
            serializer=serializer,
            encoder=encoder,
            auto_declare=auto_declare,
            confirm=confirm,
            confirm_timeout=confirm_timeout,
            confirm_window=confirm_window,
            retry=retry,
            mandatory=mandatory,
        )
        self.delivery_mode = checked_delivery_mode(self.delivery_mode)
        if self.serializer is not None and self.encoder is not None:
            raise ConfigurationError(
                f"serializer={self.serializer!r} and encoder= are two ways to encode: give one"
            )
        self.confirm_window = whole_number("confirm_window", self.confirm_window, least=1)
        if self.confirm_timeout is not None:
            self.confirm_timeout = seconds("confirm_timeout", self.confirm_timeout) or None
        self._sending = Sending()
        self.is_closed = False
        if self.auto_declare:
            self.declare()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} exchange={self.exchange!r} on {self.connection!r}>"

    def declare(self) -> None:
        """Create the exchange, or check that it is as declared here; opens a closed publisher.

        :raises PreconditionFailed: it exists and is different.
        """
        self.is_closed = False
        self._follow_connection()
        declare_exchange(
            self.backend,
            Exchange(
                self.exchange, self.exchange_type, self.durable, self.auto_delete,
                self.exchange_arguments,
            ),
        )  # fmt: skip

    # -- sending

    def send(
        self,
        message_data: Any,
        routing_key: RoutingKey | None = None,
        delivery_mode: int | str | None = None,
        mandatory: bool | None = None,
        immediate: bool = False,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        exchange: str | None = None,
        *,
        headers: Mapping[str, Any] | None = None,
        expiration: float | None = None,
        message_id: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        timestamp: float | datetime | None = None,
        type: str | None = None,
        app_id: str | None = None,
    ) -> None:
        """Send a message. With ``confirm`` on, a return means that the broker has taken it.

        The parameters not named here are the publisher's own, for this message.

        :param message_data: anything the serializer takes.
        :param routing_key: text; for a headers exchange the headers may stand here, as a dict.
        :param immediate: RabbitMQ has no such thing: True is NotSupported.
        :param priority: 0 to 255; counts in queues declared with ``x-max-priority``.
        :param content_type: the data is encoded already, and goes through untouched.
        :param content_encoding: its character set; default utf-8 for text, else ``"binary"``.
        :param headers: a table of your own.
        :param expiration: seconds until the broker drops the message from its queues.
        :param timestamp: seconds since 1970, or a datetime; whole seconds travel.
        :raises Unroutable: it was mandatory, and no queue is bound so.
        :raises Nacked: the broker refused it.
        :raises EncodeError: the data can't be encoded; nothing was sent.
        :raises NotFound: there is no such exchange.
        :raises ConnectionLost: or ConnectionFailed, and all attempts of :attr:`retry` are used
            up; the broker may or may not have it.
        :raises OperationTimeout: no confirm within :attr:`confirm_timeout`; the same holds.
        """
        sending = self._sending
        options = sending.options(
            self, routing_key, delivery_mode, mandatory, immediate, priority, content_type,
            content_encoding, serializer, exchange, headers, expiration, message_id,
            correlation_id, reply_to, timestamp, type, app_id,
        )  # fmt: skip
        message = sending.message(self, message_data, options)
        try:
            life, number = sending.publish(self, message, options)
            if number is not None:
                sending.wait(self, life, (number,), options)
        except (ConnectionLost, ConnectionFailed) as exc:
            sending.recover(self, exc, lambda: self._send_again(message, options))

    def _send_again(self, message: Message, options: PublishOptions) -> None:
        life, number = self._sending.publish(self, message, options)
        if number is not None:
            self._sending.wait_again(self, life, (number,), options)

    def send_many(self, messages: Iterable[Any], **options: Unpack[SendOptions]) -> int:
        """Send each of *messages*, with :attr:`confirm_window` of them on their way at a time.

        :param messages: the data of each.
        :param options: as for :meth:`send`, for all of them.
        :returns: how many were sent, all of them taken by the broker with ``confirm`` on.
        :raises PublishError: Unroutable or Nacked, after all were sent; the ones not taken are
            in ``.messages``.
        """
        if isinstance(messages, (str, bytes, bytearray, Mapping)):
            raise ConfigurationError(
                f"send_many() takes a list of messages, and a {type(messages).__name__} is one: "
                "use send()"
            )
        checked = self._sending.options(self, **options)
        with self.batch() as batch:
            for data in messages:
                batch.put(data, checked)
        return batch.sent

    def batch(self) -> Batch:
        """Send many messages together: ``with publisher.batch() as batch: batch.send(…)``.

        They share writes, and :attr:`confirm_window` of them may be on their way, unconfirmed.
        Leaving the block waits for all confirms.
        """
        return Batch(self, self._sending)

    # -- messages

    def create_message(
        self,
        message_data: Any,
        delivery_mode: int | str | None = None,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        **properties: Unpack[MorePropertyOptions],
    ) -> Message:
        """The message that :meth:`send` would send: encoded, with its properties.

        :param properties: as for :meth:`send`.
        :raises EncodeError: the data can't be encoded.
        :raises ConfigurationError: a property that AMQP can't carry.
        """
        options = self._sending.options(
            self, "", delivery_mode, None, False, priority, content_type, content_encoding,
            serializer, **properties,
        )  # fmt: skip
        message = self._sending.message(self, message_data, options)
        # Its own properties: others go on using those that messages share.
        return Outgoing(message.body, Properties(message.properties))

    def close(self) -> None:
        """Close the publisher's channel; :meth:`declare` opens it again. Again is harmless."""
        self.is_closed = True
        if self.owns_backend:
            self.backend.close()
