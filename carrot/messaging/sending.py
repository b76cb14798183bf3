"""Sending: how Publisher and Batch make messages, hand them to the broker, and send them again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from datetime import datetime
from typing import Any, Protocol

from carrot import logs
from carrot.backends.seam.backend import Backend
from carrot.backends.seam.life import Life
from carrot.checks import short_string, table
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConfigurationError,
    EncodeError,
    Nacked,
    PublishError,
)
from carrot.message import Message, Outgoing, Properties
from carrot.messaging.message_ids import unique_id
from carrot.messaging.publish_options import PublishOptions, RoutingKey, checked_properties
from carrot.recovery import recover
from carrot.retry import Retry
from carrot.serialization import RAW_TYPE, call_encoder, charset_of, registry, to_bytes

_NONE_GIVEN = (None,) * 9
_PROPERTIES = (
    "priority", "headers", "expiration", "message_id", "correlation_id", "reply_to", "timestamp",
    "type", "app_id",
)  # fmt: skip
# How many different options a publisher remembers.
_REMEMBERED = 512

#: Names of delivery modes to AMQP's numbers.
DELIVERY_MODES: dict[Hashable, int] = {
    "non-persistent": 1,
    "transient": 1,
    "persistent": 2,
    1: 1,
    2: 2,
}


class Sender(Protocol):
    """What is needed of a Publisher."""

    connection: BrokerConnection
    backend: Backend
    retry: Retry
    exchange: str
    exchange_type: str
    routing_key: RoutingKey
    delivery_mode: int | str
    serializer: str | None
    encoder: Callable[[Any], str | bytes] | None
    mandatory: bool
    confirm: bool
    confirm_window: int
    confirm_timeout: float | None

    @property
    def is_closed(self) -> bool: ...
    @property
    def owns_backend(self) -> bool: ...


class Sending:
    """The work behind a publisher, which each method is given.

    Holding it would make a circle of references, and a publisher that is forgotten without close()
    keep its channel until the next garbage collection.
    """

    def __init__(self) -> None:
        self._remembered: dict[tuple[Any, ...], PublishOptions] = {}

    # -- options

    def options(
        self,
        sender: Sender,
        routing_key: RoutingKey | None = None,
        delivery_mode: int | str | None = None,
        mandatory: bool | None = None,
        immediate: bool = False,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        exchange: str | None = None,
        headers: Mapping[str, Any] | None = None,
        expiration: float | None = None,
        message_id: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        timestamp: float | datetime | None = None,
        type: str | None = None,
        app_id: str | None = None,
    ) -> PublishOptions:
        """All about a message but its data, checked; None is the publisher's own."""
        given = (
            sender.exchange if exchange is None else exchange,
            sender.routing_key if routing_key is None else routing_key,
            sender.mandatory if mandatory is None else mandatory,
            sender.delivery_mode if delivery_mode is None else delivery_mode,
            content_type,
            content_encoding,
            serializer or sender.serializer,
            sender.confirm,
        )
        others = (priority, headers, expiration, message_id, correlation_id, reply_to, timestamp,
                  type, app_id)  # fmt: skip
        if immediate:
            sender.backend.require("immediate", "send without immediate=True")
        if others != _NONE_GIVEN:
            return self._checked(sender, *given, self._properties(sender, others))
        # Few are in use, and remembering them saves 1.5 µs for each message.
        try:
            options = self._remembered.get(given)
        except TypeError:
            return self._checked(sender, *given, {})  # a dict for a routing key
        if options is None:
            options = self._checked(sender, *given, {})
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[given] = options
        return options

    def _properties(self, sender: Sender, values: tuple[Any, ...]) -> dict[str, Any]:
        given = dict(zip(_PROPERTIES, values, strict=True))
        for name, feature in (("priority", "priorities"), ("expiration", "expiration")):
            if given[name] is not None:
                sender.backend.require(feature, f"send without {name}={given[name]!r}")
        return checked_properties(given)

    def _checked(
        self,
        sender: Sender,
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
        if isinstance(key, Mapping) and sender.exchange_type == "headers":
            properties["headers"] = {**table("headers", key), **properties.get("headers", {})}
            key = ""
        if mandatory:
            sender.backend.require("mandatory", "send without mandatory=True")
        properties["delivery_mode"] = checked_delivery_mode(delivery_mode)
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

    # -- messages

    def message(self, sender: Sender, data: Any, options: PublishOptions) -> Message:
        """The message that carries *data*, encoded.

        :raises EncodeError: the data can't be encoded.
        """
        if options.content_type or sender.encoder is not None:
            content_type, content_encoding, body = self._encode(sender, data, options)
        else:
            content_type, content_encoding, body = registry.encode(data, options.serializer)
        properties = options.complete.get(content_type)
        if properties is None or properties["content_encoding"] != content_encoding:
            properties = options.complete[content_type] = Properties(
                options.properties, content_type=content_type, content_encoding=content_encoding
            )
        return Outgoing(body, properties, unique_id() if options.has_id else None)

    def _encode(self, sender: Sender, data: Any, options: PublishOptions) -> tuple[str, str, bytes]:
        """Content type, content encoding and body of data that no serializer encodes."""
        content_type, content_encoding = options.content_type, options.content_encoding
        encoder = sender.encoder
        if not content_type:
            if options.serializer is not None or encoder is None:
                return registry.encode(data, options.serializer)
            content_type, data = RAW_TYPE, call_encoder(encoder, data, "encoder=")
        short_string("content_type", content_type)
        if content_encoding is not None:
            short_string("content_encoding", content_encoding)
        if isinstance(data, str):
            charset = content_encoding or charset_of(content_type) or "utf-8"
            return content_type, charset, to_bytes(data, charset)
        if isinstance(data, (bytes, bytearray, memoryview)):
            return content_type, content_encoding or "binary", bytes(data)
        raise EncodeError(
            f"with content_type={content_type!r} the data must be encoded already, as bytes or "
            f"str, and is a {type(data).__name__}: leave content_type out, or encode it"
        )

    # -- to the broker

    def publish(
        self, sender: Sender, message: Message, options: PublishOptions
    ) -> tuple[Life, int | None]:
        """Hand a message to the broker.

        :returns: the life it went out on, and its number there when a confirm will come.
        """
        life = sender.backend.lives.current
        if life is None or sender.is_closed or not life.can_publish_now():
            life = self._prepared(sender)
        # A returned message is only known to be one when the confirm comes after it.
        if life.confirms is None and (sender.confirm or options.mandatory):
            life = sender.backend.confirm_select()
        return life, life.publish(message, options.exchange, options.routing_key, options.mandatory)

    def _prepared(self, sender: Sender) -> Life:
        """A life on which all is declared, when the broker takes messages.

        :raises OperationTimeout: it doesn't take any, and says why.
        """
        if sender.is_closed:
            raise ChannelError(
                f"this {type(sender).__name__} (exchange {sender.exchange!r}) is closed: create a "
                "new one, or open it again with declare()",
                code=504,
            )
        life = sender.backend.lives.restored()
        if life.transport.blocked is not None:
            life.wait_until_unblocked(sender.confirm_timeout)
        return life

    def wait(
        self, sender: Sender, life: Life, numbers: Collection[int], options: PublishOptions
    ) -> None:
        """Wait for the confirms of these messages.

        :param options: of the first of them.
        :raises PublishError: the broker didn't take some of them.
        """
        try:
            life.wait_for_confirms(numbers, sender.confirm_timeout)
        except PublishError as exc:
            logs.message_refused(options.exchange, exc)
            raise

    def wait_again(
        self, sender: Sender, life: Life, numbers: Collection[int], options: PublishOptions
    ) -> None:
        """Wait for the confirms of messages that were sent again.

        :raises Nacked: worth another attempt, on another channel: RabbitMQ's may hold on to the
            dead leader of a quorum queue, and refuse everything.
        """
        try:
            self.wait(sender, life, numbers, options)
        except Nacked:
            if sender.owns_backend:
                sender.backend.lives.close()
            raise

    def recover(self, sender: Sender, lost: CarrotError, attempt: Callable[[], object]) -> None:
        """Make an *attempt* over a new connection, as often as the publisher's retry allows.

        :raises ConnectionLost: none worked; the last attempt's error, or ConnectionFailed.
        """
        recover(sender.connection, lost, attempt, sender.retry)


def checked_delivery_mode(mode: Any) -> int:
    """AMQP's number of a delivery mode, given by that or by name."""
    try:
        # True is 1, and would mean transient.
        return DELIVERY_MODES[repr(mode) if isinstance(mode, bool) else mode]
    except (KeyError, TypeError):
        raise ConfigurationError(
            f"delivery_mode can't be {mode!r}: use 2 or 'persistent', 1 or 'transient'"
        ) from None
