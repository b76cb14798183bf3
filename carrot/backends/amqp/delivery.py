"""What the native driver delivers: a message that decodes what it says of itself when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import origin_of
from carrot.backends.amqp.tables import decode_content, decode_properties
from carrot.exceptions import DecodeError
from carrot.message import Message

_Read = TypeVar("_Read")


class Delivery(Message):
    """A received message.

    :param wire: its flags and property list, as they came.
    :param arguments: of the method that delivered it; exchange and routing key begin at *origin*.
    :param consumer_tag: whose it is; None when it was fetched.
    :param no_ack: it was fetched without acks.
    """

    def __init__(
        self,
        life: Any,
        delivery_tag: int,
        body: bytes,
        wire: bytes,
        arguments: bytes,
        origin: int,
        redelivered: bool,
        consumer_tag: str | None,
        no_ack: bool = False,
    ) -> None:
        self.life = life
        self.delivery_tag = delivery_tag
        self.body = body
        self._wire = wire
        self._came = (arguments, origin, redelivered, consumer_tag)
        if no_ack:
            self.settled_by_broker()

    def _load_properties(self) -> dict[str, Any]:
        return self._read(decode_properties)

    def _load_origin(self) -> tuple[str, str, bool, str | None]:
        arguments, origin, redelivered, consumer_tag = self._came
        return (*origin_of(arguments, origin), redelivered, consumer_tag)

    def _content(self) -> tuple[str | None, str | None]:
        try:  # as _read() does, without its call for each message
            return decode_content(self._wire)
        except FramingError:
            return self._read(decode_content)

    def _read(self, decode: Callable[[bytes], _Read]) -> _Read:
        """What *decode* makes of the properties.

        :raises DecodeError: they can't be read, such as tables nested without end.
        """
        try:
            return decode(self._wire)
        except FramingError as exc:
            raise DecodeError(f"the message's properties can't be read: {exc}") from exc
