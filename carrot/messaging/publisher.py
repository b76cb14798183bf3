"""Publisher: sends messages to an exchange, and knows when the broker has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Unpack

from carrot.backends.base import BaseBackend
from carrot.checks import seconds, short_string, table, whole_number
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    EncodeError,
    Nacked,
)
from carrot.message import Message, Outgoing, Properties
from carrot.messaging.batch import Batch
from carrot.messaging.message_ids import unique_id
from carrot.messaging.options import Configurable
from carrot.messaging.publish_options import (
    PublishOptions,
    RoutingKey,
    SendOptions,
    checked_properties,
)
from carrot.recovery import recover
from carrot.retry import Retry
from carrot.serialization import RAW_TYPE, call_encoder, registry, to_bytes

_NONE_GIVEN = (None,) * 9
# How many different envelopes a publisher remembers.
_REMEMBERED = 512


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
    DELIVERY_MODES: ClassVar[dict[Hashable, int]] = {
        "non-persistent": 1,
        "transient": 1,
        "persistent": 2,
        1: 1,
        2: 2,
    }

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
        backend: BaseBackend | None = None,
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
        self.delivery_mode = self._delivery_mode(self.delivery_mode)
        if self.serializer is not None and self.encoder is not None:
            raise ConfigurationError(
                f"serializer={self.serializer!r} and encoder= are two ways to encode: give one"
            )
        self.confirm_window = whole_number("confirm_window", self.confirm_window, least=1)
        if self.confirm_timeout is not None:
            self.confirm_timeout = seconds("confirm_timeout", self.confirm_timeout) or None
        self._envelopes: dict[tuple[Any, ...], PublishOptions] = {}
        self._declared_at: int | None = None
        self._closed = False
        if self.auto_declare:
            self.declare()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} exchange={self.exchange!r} on {self.connection!r}>"

    def declare(self) -> None:
        """Create the exchange, or check that it is as declared here; opens a closed publisher.

        :raises PreconditionFailed: it exists and is different.
        """
        self._closed = False
        self._follow_connection()
        self._declare_again()

    def _declare_again(self) -> None:
        self._declare_exchange(
            self.exchange,
            self.exchange_type,
            self.durable,
            self.auto_delete,
            self.exchange_arguments,
        )
        self._declared_at = self.backend.generation

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
        envelope = self.envelope(
            routing_key, delivery_mode, mandatory, immediate, priority, content_type,
            content_encoding, serializer, exchange, headers=headers, expiration=expiration,
            message_id=message_id, correlation_id=correlation_id, reply_to=reply_to,
            timestamp=timestamp, type=type, app_id=app_id,
        )  # fmt: skip
        message = self.message(message_data, envelope)
        try:
            number = self.publish(message, envelope)
            if number is not None:
                self.backend.wait_for_confirms((number,), self.confirm_timeout)
        except (ConnectionLost, ConnectionFailed) as exc:
            self.recover(exc, lambda: self._send_again(message, envelope))

    def _send_again(self, message: Message, envelope: PublishOptions) -> None:
        number = self.publish(message, envelope)
        if number is not None:
            self.wait_again((number,))

    def wait_again(self, numbers: Collection[int]) -> None:
        """Wait for the confirms of messages that were sent again.

        :raises Nacked: worth another attempt, on another channel: RabbitMQ's may hold on to the
            dead leader of a quorum queue, and refuse everything.
        """
        try:
            self.backend.wait_for_confirms(numbers, self.confirm_timeout)
        except Nacked:
            if self._owns_backend:
                self.backend.close()
            raise

    def recover(self, lost: CarrotError, again: Callable[[], object]) -> None:
        """Do it *again* over a new connection, as often as :attr:`retry` allows.

        :raises ConnectionLost: it didn't work; the last attempt's error, or ConnectionFailed.
        """
        recover(self.connection, lost, again, self.retry)

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
        envelope = self.envelope(**options)
        with self.batch() as batch:
            for data in messages:
                batch.put(data, envelope)
        return batch.sent

    def batch(self) -> Batch:
        """Send many messages together: ``with publisher.batch() as batch: batch.send(…)``.

        They share writes, and :attr:`confirm_window` of them may be on their way, unconfirmed.
        Leaving the block waits for all confirms.
        """
        return Batch(self)

    def envelope(
        self,
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
    ) -> PublishOptions:
        """All about a message but its data, checked."""
        given = (
            self.exchange if exchange is None else exchange,
            self.routing_key if routing_key is None else routing_key,
            self.mandatory if mandatory is None else mandatory,
            self.delivery_mode if delivery_mode is None else delivery_mode,
            content_type,
            content_encoding,
            serializer or self.serializer,
            self.confirm,
        )
        others = (priority, headers, expiration, message_id, correlation_id, reply_to, timestamp,
                  type, app_id)  # fmt: skip
        if immediate:
            self.backend.require("immediate", "send without immediate=True")
        if others != _NONE_GIVEN:
            if priority is not None:
                self.backend.require("priorities", f"send without priority={priority!r}")
            if expiration is not None:
                self.backend.require("expiration", f"send without expiration={expiration!r}")
            properties = checked_properties(
                priority=priority, headers=headers, expiration=expiration, message_id=message_id,
                correlation_id=correlation_id, reply_to=reply_to, timestamp=timestamp, type=type,
                app_id=app_id,
            )  # fmt: skip
            return self._checked(*given, properties)
        # Few are in use, and remembering them saves 1.5 µs for each message.
        try:
            envelope = self._envelopes.get(given)
        except TypeError:
            return self._checked(*given, {})  # a dict for a routing key
        if envelope is None:
            envelope = self._checked(*given, {})
            if len(self._envelopes) >= _REMEMBERED:
                self._envelopes.clear()
            self._envelopes[given] = envelope
        return envelope

    def _checked(
        self,
        exchange: str,
        key: RoutingKey,
        mandatory: bool,
        delivery_mode: int | str,
        content_type: str | None,
        content_encoding: str | None,
        serializer: str | None,
        confirm: bool,
        properties: dict[str, Any],
    ) -> PublishOptions:
        if isinstance(key, Mapping) and self.exchange_type == "headers":
            properties["headers"] = {**table("headers", key), **properties.get("headers", {})}
            key = ""
        if mandatory:
            self.backend.require("mandatory", "send without mandatory=True")
        properties["delivery_mode"] = self._delivery_mode(delivery_mode)
        return PublishOptions(
            short_string("exchange", exchange),
            short_string("routing key", key),
            mandatory,
            content_type,
            content_encoding,
            serializer,
            # Only those that may be sent again.
            confirm and "message_id" not in properties,
            properties,
            {},
        )

    def publish(self, message: Message, envelope: PublishOptions) -> int | None:
        """Hand a message to the broker; returns its number when a confirm will come.

        The exchange is declared again when the channel is not the one where it was declared.
        """
        if self._closed:
            raise ChannelError(
                f"this {type(self).__name__} (exchange {self.exchange!r}) is closed: create a new "
                "one, or open it again with declare()",
                code=504,
            )
        backend = self.backend
        if not backend.is_steady(self._declared_at):
            if self._declared_at is not None and not backend.is_on(self._declared_at):
                self._declare_again()
            backend.wait_until_unblocked(self.confirm_timeout)
            backend.open()  # here, where who waits for another thread may have a deadline
        # A returned message is only known to be one when the confirm comes after it.
        if backend.confirms is None and (self.confirm or envelope.mandatory):
            backend.confirm_select()
        return backend.publish(message, envelope.exchange, envelope.routing_key, envelope.mandatory)

    # -- messages

    def create_message(
        self,
        message_data: Any,
        delivery_mode: int | str | None = None,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        *,
        headers: Mapping[str, Any] | None = None,
        expiration: float | None = None,
        message_id: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        timestamp: float | datetime | None = None,
        type: str | None = None,
        app_id: str | None = None,
    ) -> Message:
        """The message that :meth:`send` would send: encoded, with its properties.

        :raises EncodeError: the data can't be encoded.
        :raises ConfigurationError: a property that AMQP can't carry.
        """
        envelope = self.envelope(
            "", delivery_mode, None, False, priority, content_type, content_encoding, serializer,
            headers=headers, expiration=expiration, message_id=message_id,
            correlation_id=correlation_id, reply_to=reply_to, timestamp=timestamp, type=type,
            app_id=app_id,
        )  # fmt: skip
        message = self.message(message_data, envelope)
        # Its own properties: others go on using those that messages share.
        return Outgoing(message.body, Properties(message.properties))

    def message(self, data: Any, envelope: PublishOptions) -> Message:
        """The message that carries *data*, encoded.

        :raises EncodeError: the data can't be encoded.
        """
        if envelope.content_type or self.encoder is not None:
            content_type, content_encoding, body = self._encode(data, envelope)
        else:
            content_type, content_encoding, body = registry.encode(data, envelope.serializer)
        properties = envelope.complete.get(content_type)
        if properties is None or properties["content_encoding"] != content_encoding:
            properties = envelope.complete[content_type] = Properties(
                envelope.properties, content_type=content_type, content_encoding=content_encoding
            )
        return Outgoing(body, properties, unique_id() if envelope.has_id else None)

    def _encode(self, data: Any, envelope: PublishOptions) -> tuple[str, str, bytes]:
        """Content type, content encoding and body of data that no serializer encodes."""
        content_type, content_encoding = envelope.content_type, envelope.content_encoding
        if not content_type:
            if envelope.serializer is not None or self.encoder is None:
                return registry.encode(data, envelope.serializer)
            content_type, data = RAW_TYPE, call_encoder(self.encoder, data, "encoder=")
        short_string("content_type", content_type)
        if content_encoding is not None:
            short_string("content_encoding", content_encoding)
        if isinstance(data, str):
            charset = content_encoding or "utf-8"
            return content_type, charset, to_bytes(data, charset)
        if isinstance(data, (bytes, bytearray, memoryview)):
            return content_type, content_encoding or "binary", bytes(data)
        raise EncodeError(
            f"with content_type={content_type!r} the data must be encoded already, as bytes or "
            f"str, and is a {type(data).__name__}: leave content_type out, or encode it"
        )

    @classmethod
    def _delivery_mode(cls, mode: Any) -> int:
        try:
            # True is 1, and would mean transient.
            return cls.DELIVERY_MODES[repr(mode) if isinstance(mode, bool) else mode]
        except (KeyError, TypeError):
            raise ConfigurationError(
                f"delivery_mode can't be {mode!r}: use 2 or 'persistent', 1 or 'transient'"
            ) from None

    def close(self) -> None:
        """Close the publisher's channel; :meth:`declare` opens it again. Again is harmless."""
        self._closed = True
        if self._owns_backend:
            self.backend.close()
