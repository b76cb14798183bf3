"""Publisher: sends messages to an exchange, and knows when the broker has them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, TypedDict, Unpack

from carrot.backends.base import BaseBackend
from carrot.backends.confirms import merged
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ChannelError,
    ConfigurationError,
    EncodeError,
    PublishError,
)
from carrot.message import Message
from carrot.messaging.options import Configurable
from carrot.routing import check_exchange_type
from carrot.serialization import RAW_TYPE, call_encoder, registry
from carrot.values import short_string, table

RoutingKey = str | Mapping[str, Any]


class MoreSendOptions(TypedDict, total=False):
    """The keywords of :meth:`Publisher.send`, without the delivery mode."""

    routing_key: RoutingKey | None
    mandatory: bool | None
    immediate: bool
    priority: int | None
    content_type: str | None
    content_encoding: str | None
    serializer: str | None
    exchange: str | None
    headers: Mapping[str, Any] | None
    expiration: float | None
    message_id: str | None
    correlation_id: str | None
    reply_to: str | None
    timestamp: float | datetime | None
    type: str | None
    app_id: str | None


class SendOptions(MoreSendOptions, total=False):
    """The keywords of :meth:`Publisher.send`."""

    delivery_mode: int | str | None


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
    :param encoder: a function from data to bytes or text, instead of a serializer.
    :param auto_declare: declare the exchange now.
    :param confirm: :meth:`send` returns when the broker has taken the message.
    :param confirm_timeout: seconds to wait for that; None waits as long as it takes.
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
    #: How many messages :meth:`send_many` lets be on their way, not yet confirmed.
    confirm_window: int = 1000
    mandatory: bool = False

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
        mandatory: bool | None = None,
        backend: BaseBackend | None = None,
    ) -> None:
        self._use(connection, backend)
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
            mandatory=mandatory,
        )
        self.delivery_mode = self._delivery_mode(self.delivery_mode)
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
        check_exchange_type(self.exchange_type)
        if self.exchange:
            self.backend.exchange_declare(
                exchange=self.exchange,
                type=self.exchange_type,
                durable=self.durable,
                auto_delete=self.auto_delete,
                arguments=self.exchange_arguments,
            )

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
        :raises ConnectionLost: the broker may or may not have it.
        """
        mandatory = self.mandatory if mandatory is None else mandatory
        key, headers = self._address(routing_key, headers)
        message = self.create_message(
            message_data,
            delivery_mode,
            priority,
            content_type,
            content_encoding,
            serializer,
            headers=headers,
            expiration=expiration,
            message_id=message_id,
            correlation_id=correlation_id,
            reply_to=reply_to,
            timestamp=timestamp,
            type=type,
            app_id=app_id,
        )
        number = self._publish(message, key, exchange, mandatory, immediate)
        if number is not None:
            self.backend.wait_for_confirms((number,), self.confirm_timeout)

    def send_many(self, messages: Iterable[Any], **options: Unpack[SendOptions]) -> int:
        """Send each of *messages*, with :attr:`confirm_window` of them on their way at a time.

        :param messages: the data of each.
        :param options: as for :meth:`send`, for all of them.
        :returns: how many were sent, all of them taken by the broker with ``confirm`` on.
        :raises PublishError: Unroutable or Nacked, after all were sent; the ones not taken are
            in ``.messages``.
        """
        unconfirmed: deque[int] = deque()
        failures: list[PublishError] = []
        sent = 0
        try:
            for data in messages:
                number = self._send_one(data, **options)
                sent += 1
                if number is not None:
                    unconfirmed.append(number)
                if len(unconfirmed) >= self.confirm_window:
                    self._settle(unconfirmed, self.confirm_window // 2, failures)
        except Exception as exc:
            exc.add_note(f"send_many: {sent} messages had been sent before this one")
            raise
        finally:
            self._settle(unconfirmed, 0, failures)
        if failures:
            raise merged(failures)
        return sent

    def _settle(self, numbers: deque[int], leave: int, failures: list[PublishError]) -> None:
        """Wait for the confirms of the oldest, until *leave* are left."""
        oldest = [numbers.popleft() for _ in range(len(numbers) - leave)]
        if oldest:
            try:
                self.backend.wait_for_confirms(oldest, self.confirm_timeout)
            except PublishError as exc:
                failures.append(exc)

    def _send_one(
        self,
        data: Any,
        routing_key: RoutingKey | None = None,
        mandatory: bool | None = None,
        immediate: bool = False,
        exchange: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **properties: Any,
    ) -> int | None:
        """Send a message, and leave its confirm for later."""
        key, headers = self._address(routing_key, headers)
        message = self.create_message(data, headers=headers, **properties)
        mandatory = self.mandatory if mandatory is None else mandatory
        return self._publish(message, key, exchange, mandatory, immediate)

    def _address(
        self, routing_key: RoutingKey | None, headers: Mapping[str, Any] | None
    ) -> tuple[str, Mapping[str, Any] | None]:
        """The routing key and the headers: for a headers exchange the key may be the headers."""
        key = self.routing_key if routing_key is None else routing_key
        if isinstance(key, Mapping) and self.exchange_type == "headers":
            return "", {**key, **(headers or {})}
        return short_string("routing key", key), headers

    def _publish(
        self, message: Message, key: str, exchange: str | None, mandatory: bool, immediate: bool
    ) -> int | None:
        if self._closed:
            raise ChannelError(
                f"this {type(self).__name__} (exchange {self.exchange!r}) is closed: create a new "
                "one, or open it again with declare()",
                code=504,
            )
        exchange = self.exchange if exchange is None else short_string("exchange", exchange)
        if immediate:
            self.backend.require("immediate", "send without immediate=True")
        if mandatory:
            self.backend.require("mandatory", "send without mandatory=True")
        if self.confirm or mandatory:
            # A returned message is only known to be one when the confirm comes after it.
            self.backend.confirm_select()
        return self.backend.publish(message, exchange, key, mandatory)

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
        content_type, content_encoding, body = self._encode(
            message_data, content_type, content_encoding, serializer
        )
        if priority is not None:
            self.backend.require("priorities", f"send without priority={priority!r}")
        if expiration is not None:
            self.backend.require("expiration", f"send without expiration={expiration!r}")
        mode = self.delivery_mode if delivery_mode is None else delivery_mode
        return self.backend.prepare_message(
            body,
            self._delivery_mode(mode),
            priority=None if priority is None else _octet("priority", priority),
            content_type=short_string("content_type", content_type),
            content_encoding=short_string("content_encoding", content_encoding),
            headers=None if headers is None else table("headers", headers),
            expiration=None if expiration is None else _milliseconds(expiration),
            message_id=_optional_text("message_id", message_id),
            correlation_id=_optional_text("correlation_id", correlation_id),
            reply_to=_optional_text("reply_to", reply_to),
            timestamp=None if timestamp is None else _whole_seconds(timestamp),
            type=_optional_text("type", type),
            app_id=_optional_text("app_id", app_id),
        )

    def _encode(
        self,
        data: Any,
        content_type: str | None,
        content_encoding: str | None,
        serializer: str | None,
    ) -> tuple[str, str, bytes]:
        if not content_type:
            if serializer is None and self.encoder is not None:
                data = call_encoder(self.encoder, data, "encoder=")
                content_type = RAW_TYPE
            else:
                return registry.encode(data, serializer or self.serializer)
        if isinstance(data, str):
            charset = content_encoding or "utf-8"
            try:
                return content_type, charset, data.encode(charset)
            except (UnicodeEncodeError, LookupError) as exc:
                raise EncodeError(f"the text can't be encoded as {charset}: {exc}") from exc
        if isinstance(data, (bytes, bytearray, memoryview)):
            return content_type, content_encoding or "binary", bytes(data)
        raise EncodeError(
            f"with content_type={content_type!r} the data must be encoded already, as bytes or "
            f"str, and is a {type(data).__name__}: leave content_type out, or encode it"
        )

    @classmethod
    def _delivery_mode(cls, mode: Any) -> int:
        try:
            return cls.DELIVERY_MODES[mode]
        except (KeyError, TypeError):
            raise ConfigurationError(
                f"delivery_mode can't be {mode!r}: use 2 or 'persistent', 1 or 'transient'"
            ) from None

    def close(self) -> None:
        """Close the publisher's channel; :meth:`declare` opens it again. Again is harmless."""
        self._closed = True
        if self._owns_backend:
            self.backend.close()


def _octet(what: str, value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= 255:
        raise ConfigurationError(f"{what} must be a whole number from 0 to 255: {value!r}")
    return value


def _milliseconds(seconds: object) -> str:
    """AMQP's expiration: text, in milliseconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ConfigurationError(f"expiration must be a number of seconds, 0 or more: {seconds!r}")
    milliseconds = round(min(seconds, 2**32) * 1000)
    if milliseconds >= 2**32:
        raise ConfigurationError(
            f"expiration can't be more than 4294967 seconds, some 49 days: {seconds!r}"
        )
    return str(milliseconds)


def _whole_seconds(timestamp: object) -> int:
    if isinstance(timestamp, datetime):
        timestamp = timestamp.timestamp()
    if not isinstance(timestamp, (int, float)) or not 0 <= timestamp < 2**63:
        raise ConfigurationError(
            f"timestamp must be a datetime, or seconds since 1970: {timestamp!r}"
        )
    return int(timestamp)


def _optional_text(what: str, value: str | None) -> str | None:
    return None if value is None else short_string(what, value)
