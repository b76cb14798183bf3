"""How a consumer decodes: options that it checks, and that its messages take over."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from carrot.exceptions import ConfigurationError
from carrot.message import Message
from carrot.serialization import registry


class DecodingOptions(Protocol):
    """What is needed of a Consumer."""

    decoder: Callable[[Any], Any] | None
    accept: Collection[str] | None
    default_content_type: str | None


def check_accept(accept: Collection[str] | None) -> None:
    """:raises ConfigurationError: it is no list of content types and known serializers."""
    if isinstance(accept, str):
        raise ConfigurationError(
            f"accept must be a list of names, not text: write accept=[{accept!r}]"
        )
    for name in accept or ():
        if "/" not in str(name):
            registry.check_name(name)


def decoding_as(options: DecodingOptions, message: Message) -> Message:
    """*message*, which decodes as the options say from now on."""
    message.decoder = options.decoder
    message.accept = options.accept
    message.default_content_type = options.default_content_type
    return message
