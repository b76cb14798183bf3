"""Message: a body with its properties; once received, settled exactly once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, Protocol

from carrot import serialization
from carrot.exceptions import ConnectionLost, MessageStateError, SerializationError

RECEIVED, ACK, REJECTED, REQUEUED = "RECEIVED", "ACK", "REJECTED", "REQUEUED"

_SETTLED_AS = {ACK: "acked", REJECTED: "rejected", REQUEUED: "requeued"}

_unset: Any = object()
_decode = serialization.registry.decode


class SettlingChannel(Protocol):
    """A driver's channel, as a message needs it."""

    is_open: bool

    def ack(self, delivery_tag: Any, multiple: bool = False) -> None: ...
    def reject(self, delivery_tag: Any, requeue: bool) -> None: ...


class DeliveringLife(Protocol):
    """What a message needs of the channel that delivered it, which lives once."""

    channel: SettlingChannel
    over: Exception | None
    settle_lock: AbstractContextManager[Any]

    @property
    def is_open(self) -> bool: ...
    def note(self, message: Message) -> None: ...


class Settler(Protocol):
    """What a message made by hand needs of its backend."""

    def ack(self, delivery_tag: Any) -> None: ...
    def reject(self, delivery_tag: Any) -> None: ...
    def requeue(self, delivery_tag: Any) -> None: ...


class Properties(dict[str, Any]):
    """A message's properties by name. Messages that are sent alike share one, so it is not changed.

    :ivar encoded: how a driver encodes them, once one has: whose encoding it is, and the bytes.
        A driver uses its own only.
    """

    __slots__ = ("encoded",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encoded: tuple[object, Any] | None = None


class Message:
    """A message, to be sent or received.

    :param backend: the backend that delivered it; None for a message made by hand.
    :param body: the encoded body, bytes.
    :param delivery_tag: the broker's number of this delivery on its channel.
    :param delivery_info: ``exchange``, ``routing_key``, ``redelivered``, ``consumer_tag``.
    :param properties: AMQP's basic properties by name, as the wire has them (``expiration`` is
        text in milliseconds, ``timestamp`` whole seconds since 1970).
    :param decoder: a function to use instead of the registry: takes text when the content
        encoding names the character set that the body is in, and bytes in every other case.
    :param accept: names or content types that may be decoded; None is every safe one.
    :param no_ack: the broker settled the message as it delivered it.
    """

    MessageStateError = MessageStateError

    # What most messages have alike stands here: setting it for each would cost 0.3 µs.
    backend: Settler | None = None
    body: bytes = b""
    delivery_tag: Any = None
    decoder: Callable[[Any], Any] | None = None
    accept: Collection[str] | None = None
    #: The content type of a body that has none; None leaves such a body the bytes that it is.
    default_content_type: str | None = None
    no_ack: bool = False
    #: The life of the channel that delivered it; None for a message made by hand.
    life: DeliveringLife | None = None
    _state: str = RECEIVED
    _decoded: Any = _unset
    _properties: dict[str, Any] | None = None
    _delivery_info: dict[str, Any] | None = None

    def __init__(
        self,
        backend: Settler | None = None,
        body: bytes = b"",
        delivery_tag: Any = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        delivery_info: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        decoder: Callable[[Any], Any] | None = None,
        accept: Collection[str] | None = None,
        no_ack: bool = False,
    ) -> None:
        self.body = body
        self._properties = dict(properties or {})
        if content_type is not None:
            self._properties["content_type"] = content_type
        if content_encoding is not None:
            self._properties["content_encoding"] = content_encoding
        self._delivery_info = dict(delivery_info or {})
        self.decoder = decoder
        self.accept = accept
        self._delivered_by(backend, delivery_tag, no_ack)

    def _delivered_by(self, backend: Settler | None, delivery_tag: Any, no_ack: bool) -> None:
        self.backend = backend
        self.delivery_tag = delivery_tag
        if no_ack:
            self.settled_by_broker()

    def settled_by_broker(self) -> None:
        """Say that the broker settled it as it delivered it (no_ack)."""
        self.no_ack = True
        self._state = ACK

    def __repr__(self) -> str:
        info = self.delivery_info
        try:
            content_type = repr(self.content_type)
        except SerializationError:
            content_type = "unreadable"
        return (
            f"<{type(self).__name__} {len(self.body)} bytes, content_type={content_type}, "
            f"exchange={info.get('exchange')!r}, routing_key={info.get('routing_key')!r}, "
            f"delivery_tag={self.delivery_tag!r}, {self._state}>"
        )

    @property
    def properties(self) -> dict[str, Any]:
        """AMQP's basic properties by name, as the wire has them."""
        # No __getattr__ in place of this: with that each look at any attribute costs 0.1 µs more.
        if self._properties is None:
            self._properties = self._load_properties()
        return self._properties

    @property
    def delivery_info(self) -> dict[str, Any]:
        """``exchange``, ``routing_key``, ``redelivered``, ``delivery_tag``, ``consumer_tag``."""
        if self._delivery_info is None:
            self._delivery_info = self._load_delivery_info()
        return self._delivery_info

    # A driver's subclass makes what a delivery says of itself when it is first asked for: made for
    # each message it would cost 1.5 to 4 µs, and most programs never look at it.

    def _load_properties(self) -> dict[str, Any]:
        """The properties, for this receiver alone."""
        raise NotImplementedError

    def _load_origin(self) -> tuple[str, str, bool, str | None]:
        """Exchange, routing key, redelivered, and the consumer tag (None: it was fetched)."""
        raise NotImplementedError

    def _load_delivery_info(self) -> dict[str, Any]:
        exchange, routing_key, redelivered, consumer_tag = self._load_origin()
        info = {
            "delivery_tag": self.delivery_tag,
            "redelivered": redelivered,
            "exchange": exchange,
            "routing_key": routing_key,
        }
        if consumer_tag is not None:
            info["consumer_tag"] = consumer_tag
        return info

    @property
    def content_type(self) -> str | None:
        return self._content()[0]

    @property
    def content_encoding(self) -> str | None:
        return self._content()[1]

    @property
    def headers(self) -> dict[str, Any]:
        """The application's headers; empty when it sent none."""
        headers: dict[str, Any] = self.properties.get("headers") or {}
        return headers

    @property
    def redelivered(self) -> bool:
        """The message may have been delivered before."""
        return bool(self.delivery_info.get("redelivered"))

    # -- decoding

    def decode(self) -> Any:
        """The data that was sent. Decoded at the first call, the same object ever after.

        A body without content type is taken for a :attr:`default_content_type`, if one is set, and
        otherwise is the bytes that it is.

        :raises SerializationError: a DecodeError, ContentDisallowed or SerializerNotInstalled,
            with this message, as it was, in ``.message``.
        """
        if self._decoded is _unset:
            try:
                kind, encoding = self._content()
                self._decoded = _decode(
                    self.body,
                    kind or self.default_content_type,
                    encoding,
                    self.accept,
                    self.decoder,
                )
            except SerializationError as exc:
                exc.message = self
                raise
        return self._decoded

    def _content(self) -> tuple[str | None, str | None]:
        """Content type and content encoding."""
        return self.properties.get("content_type"), self.properties.get("content_encoding")

    @property
    def payload(self) -> Any:
        """The same as :meth:`decode`."""
        return self.decode()

    # -- settling

    @property
    def acknowledged(self) -> bool:
        """The message is settled: acked, rejected or requeued."""
        return self._state is not RECEIVED

    def ack(self) -> None:
        """Tell the broker that the message is done with, so that it forgets it.

        :raises MessageStateError: settled before, or never received.
        :raises ConnectionLost: the connection that delivered it is gone.
        """
        self._settle(ACK)

    def reject(self) -> None:
        """Discard the message: it goes to the queue's dead letter exchange, if there is one.

        :raises MessageStateError: settled before, or never received.
        :raises ConnectionLost: the connection that delivered it is gone.
        """
        self._settle(REJECTED)

    def requeue(self) -> None:
        """Put the message back on its queue, at its old place, marked redelivered.

        :raises MessageStateError: settled before, or never received.
        :raises ConnectionLost: the connection that delivered it is gone.
        """
        self._settle(REQUEUED)

    def settle_for_receiver(self) -> None:
        """Ack it before it is processed, for a receiver that wants no acks."""
        self._settle(ACK)
        self.no_ack = True

    def _settle(self, state: str) -> None:
        life = self.life
        if life is None:
            self._settle_by_backend(state)
            return
        channel = life.channel
        # Nobody settles it in another thread meanwhile, and nobody ends its life.
        with life.settle_lock:
            if self._state is not RECEIVED:
                raise self.MessageStateError(self._why_not(state))
            if life.over is not None or not channel.is_open:
                raise ConnectionLost(
                    f"message {self.delivery_tag} can't be {_SETTLED_AS[state]}: it was delivered "
                    "on an earlier connection or channel; the broker will redeliver it"
                )
            self._state = state
            try:
                if state is ACK:
                    channel.ack(self.delivery_tag)
                else:
                    channel.reject(self.delivery_tag, state is REQUEUED)
            except BaseException:
                self._state = RECEIVED
                raise

    def _settle_by_backend(self, state: str) -> None:
        """Settle a message that was made by hand, on a backend given with it."""
        backend = self.backend
        if backend is None or self._state is not RECEIVED:
            raise self.MessageStateError(
                f"this message can't be {_SETTLED_AS[state]}: no broker delivered it"
                if self._state is RECEIVED
                else self._why_not(state)
            )
        self._state = state
        try:
            if state is ACK:
                backend.ack(self.delivery_tag)
            elif state is REJECTED:
                backend.reject(self.delivery_tag)
            else:
                backend.requeue(self.delivery_tag)
        except BaseException:
            self._state = RECEIVED
            raise

    def _why_not(self, state: str) -> str:
        wish = _SETTLED_AS[state]
        if self.no_ack:
            return f"this message can't be {wish}: delivered with no_ack, it needs no settling"
        return (
            f"this message can't be {wish}: it was {_SETTLED_AS[self._state]} before; settle "
            "each message once (with auto_ack=True it is acked before your callback runs)"
        )


class Outgoing(Message):
    """A message to be sent.

    :param shared: its properties, which it may share with others.
    :param message_id: its own, which they have not.
    """

    _delivery_info: Any = MappingProxyType({})

    def __init__(self, body: bytes, shared: Properties, message_id: str | None = None) -> None:
        self.body = body
        self.shared = shared
        self.message_id = message_id

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {len(self.body)} bytes, content_type={self.content_type!r}, "
            f"message_id={self.message_id!r}>"
        )

    @property
    def properties(self) -> dict[str, Any]:
        """AMQP's basic properties by name, as the wire has them."""
        if self.message_id is None:
            return self.shared
        return {**self.shared, "message_id": self.message_id}
