"""Message: carrot's message, made of one of py-amqp's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from carrot.backends.base import BaseMessage


class Message(BaseMessage):
    """A message that py-amqp received.

    :param amqp_message: py-amqp's message, or anything with its attributes.
    :param life: of the channel that delivered it, if one did.
    """

    def __init__(self, backend: Any, amqp_message: Any, life: Any = None, **options: Any) -> None:
        self.life = life
        self._amqp_message = amqp_message
        properties = dict(amqp_message.properties)
        if (headers := properties.pop("application_headers", None)) is not None:
            properties["headers"] = _with_utc(headers)
        info = getattr(amqp_message, "delivery_info", None) or {}
        super().__init__(
            backend,
            # py-amqp leaves an empty body as the text it began with.
            body=amqp_message.body or b"",
            delivery_tag=getattr(amqp_message, "delivery_tag", None) if info else None,
            delivery_info=info,
            properties=properties,
            **options,
        )


def _with_utc(value: Any) -> Any:
    """Header values as every driver gives them: py-amqp's datetimes lack their time zone."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    if isinstance(value, dict):
        return {key: _with_utc(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_utc(item) for item in value]
    return value
