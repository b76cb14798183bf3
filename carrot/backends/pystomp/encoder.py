"""Encoder: a message as the head of a SEND, with what messages have in common encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp import names
from carrot.backends.pystomp.frames import encode_headers
from carrot.checks import entity_name, short_string
from carrot.message import Message, Outgoing, Properties

#: How many ways of messages are remembered, encoded.
REMEMBERED = 1000

#: The destination of an exclusive queue, by its name; None: it is none.
PrivateDestination = Callable[[str], str | None]


class Encoder:
    """Remembers the ways that messages went; Properties remember their own lines."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], bytes] = {}

    def head(
        self, message: Message, exchange: str, routing_key: str, private: PrivateDestination
    ) -> bytes:
        """Command and headers, but for those of the body and the receipt.

        :raises EncodeError: what STOMP, or ActiveMQ, can't carry.
        """
        if not exchange and (temporary := private(routing_key)):
            route = _encode_route(exchange, routing_key, temporary)
        else:
            route = self._routes.get((exchange, routing_key)) or self._remember(
                exchange, routing_key
            )
        if type(message) is not Outgoing:
            properties = message.properties
            headers = mapping.of_properties(properties, private)
            return route + encode_headers(headers) + _expires(properties)
        # Those that are sent alike share their properties, and what these are encoded.
        shared, message_id = message.shared, message.message_id
        lines = _encode_shared(shared, private) + _expires(shared)
        if message_id is None:
            return route + lines
        return b"%b%b%b%b\n" % (route, lines, mapping.MESSAGE_ID_LINE, message_id.encode())

    def _remember(self, exchange: str, routing_key: str) -> bytes:
        entity_name("exchange", exchange)
        short_string("routing key", routing_key)
        if len(self._routes) >= REMEMBERED:
            self._routes.clear()
        destination = names.destination(exchange, routing_key)
        route = _encode_route(exchange, routing_key, destination)
        self._routes[exchange, routing_key] = route
        return route


def _encode_shared(shared: Properties, private: PrivateDestination) -> bytes:
    """The lines of what messages have in common; another driver's encoding is none of ours."""
    if "reply_to" in shared:
        # What an exclusive queue is called depends on the connection.
        return encode_headers(mapping.of_properties(shared, private))
    encoded = shared.encoded
    if encoded is None or encoded[0] is not Encoder:
        encoded = shared.encoded = Encoder, encode_headers(mapping.of_properties(shared, private))
    lines: bytes = encoded[1]
    return lines


def _encode_route(exchange: str, routing_key: str, destination: str) -> bytes:
    return b"SEND\n" + encode_headers(mapping.of_route(exchange, routing_key, destination))


def _expires(properties: Mapping[str, Any]) -> bytes:
    if "expiration" in properties:
        return b"expires:%d\n" % mapping.expires(properties)
    return b""
