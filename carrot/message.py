"""Message: a body with its properties; once received, settled exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from carrot import serialization
from carrot.exceptions import ConnectionLost, MessageStateError, SerializationError

RECEIVED, ACK, REJECTED, REQUEUED = "RECEIVED", "ACK", "REJECTED", "REQUEUED"

_SETTLED_AS = {ACK: "acked", REJECTED: "rejected", REQUEUED: "requeued"}

# The names of AMQP's basic properties (section 1.8.1); `headers` is the application's own table.
PROPERTIES = (
    "content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id",
    "reply_to", "expiration", "message_id", "timestamp", "type", "user_id", "app_id",
)  # fmt: skip

_unset = object()
# Guards the step from received to settled, which another thread may take at the same moment.
_state_lock = threading.Lock()


class Settler(Protocol):
    """What a message needs of the backend that delivered it."""

    generation: int

    def ack(self, delivery_tag: Any, multiple: bool = False) -> None: ...
    def reject(self, delivery_tag: Any) -> None: ...
    def requeue(self, delivery_tag: Any) -> None: ...


class Message:
    """A message, to be sent or received.

    :param backend: the backend that delivered it; None for a message made by hand.
    :param body: the encoded body, bytes.
    :param delivery_tag: the broker's number of this delivery on its channel.
    :param delivery_info: ``exchange``, ``routing_key``, ``redelivered``, ``consumer_tag``.
    :param properties: AMQP's basic properties by name, as the wire has them (``expiration`` is
        text in milliseconds, ``timestamp`` whole seconds since 1970).
    :param decoder: a function to use instead of the registry: takes text when the content
        encoding is a character set, bytes when it is binary or missing.
    :param accept: names or content types that may be decoded; None is every safe one.
    :param no_ack: the broker settled the message as it delivered it.
    """

    MessageStateError = MessageStateError

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
        self.backend = backend
        self.body = body
        self.delivery_tag = delivery_tag
        self.properties: dict[str, Any] = dict(properties or {})
        if content_type is not None:
            self.properties["content_type"] = content_type
        if content_encoding is not None:
            self.properties["content_encoding"] = content_encoding
        self.delivery_info: dict[str, Any] = dict(delivery_info or {})
        self.decoder = decoder
        self.accept = accept
        self.no_ack = no_ack
        self.generation: int | None = getattr(backend, "generation", None)
        self._state = ACK if no_ack else RECEIVED
        self._decoded: Any = _unset

    def __repr__(self) -> str:
        info = self.delivery_info
        return (
            f"<{type(self).__name__} {len(self.body)} bytes, content_type={self.content_type!r}, "
            f"exchange={info.get('exchange')!r}, routing_key={info.get('routing_key')!r}, "
            f"delivery_tag={self.delivery_tag!r}, {self._state}>"
        )

    @property
    def content_type(self) -> str | None:
        return self.properties.get("content_type")

    @property
    def content_encoding(self) -> str | None:
        return self.properties.get("content_encoding")

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

        :raises SerializationError: a DecodeError, ContentDisallowed or SerializerNotInstalled,
            with this message, as it was, in ``.message``.
        """
        if self._decoded is _unset:
            try:
                self._decoded = serialization.registry.decode(
                    self.body,
                    self.content_type,
                    self.content_encoding,
                    accept=self.accept,
                    decoder=self.decoder,
                )
            except SerializationError as exc:
                exc.message = self
                raise
        return self._decoded

    @property
    def payload(self) -> Any:
        """The same as :meth:`decode`."""
        return self.decode()

    # -- settling

    @property
    def acknowledged(self) -> bool:
        """The message is settled: acked, rejected or requeued."""
        return self._state != RECEIVED

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

    def _settle(self, state: str) -> None:
        with _state_lock:
            if self._state != RECEIVED:
                raise self.MessageStateError(self._why_not(state))
            backend = self.backend
            if backend is None:
                raise self.MessageStateError(
                    f"this message can't be {_SETTLED_AS[state]}: no broker delivered it"
                )
            self._state = state
        try:
            if self.generation not in (None, backend.generation):
                raise ConnectionLost(
                    f"message {self.delivery_tag} can't be {_SETTLED_AS[state]}: it was delivered "
                    "on an earlier connection or channel; the broker will redeliver it"
                )
            if state == ACK:
                backend.ack(self.delivery_tag)
            elif state == REJECTED:
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
