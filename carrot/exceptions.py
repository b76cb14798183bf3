"""Every error that carrot raises, in one tree, and how AMQP's reply codes map onto it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from carrot.message import Message


class CarrotError(Exception):
    """The root: ``except CarrotError`` catches all that carrot raises on purpose."""

    def __str__(self) -> str:
        # Some children are also KeyError or OSError, which would print quotes or an errno.
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigurationError(CarrotError, ValueError):
    """A setting, an option, a name or a URL that can't be used; the text says what is allowed."""


class BackendNotFound(CarrotError, LookupError):
    """No driver has that name, or the driver's library is not installed."""


class NotSupported(CarrotError):
    """The driver can't do what was asked, and says so before anything was sent."""


class MessageStateError(CarrotError):
    """The message was settled before, or was never received from a broker."""


class ConsumerNotFound(CarrotError, KeyError):
    """The set has no active consumer of that queue."""


# -- the connection ---------------------------------------------------------------------


class ConnectionFailed(CarrotError, ConnectionError):
    """The connection could not be made: refused, unknown host, TLS, handshake, virtual host."""


class AccessRefused(ConnectionFailed):
    """The broker knows neither this user and password, or doesn't let them in here."""


class ConnectionLost(CarrotError, ConnectionError):
    """The connection was open and is gone. What was not confirmed or acked may happen again."""


class OperationTimeout(CarrotError, TimeoutError):
    """A reply, a confirm or an event did not come in time. It is a ``socket.timeout`` too."""


# -- the channel ------------------------------------------------------------------------


class ChannelError(CarrotError):
    """The broker refused an operation and closed the channel, which reopens at its next use.

    :ivar code: AMQP's reply code, a number (AMQP 0-9-1, section 1.2, Constants).
    :ivar text: the broker's own words.
    """

    code: int = 0
    _classes: ClassVar[dict[int, type[ChannelError]]] = {}

    def __init_subclass__(cls, code: int = 0) -> None:
        cls.code = code
        cls._classes[code] = cls

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(_explain(text))
        self.text = text
        if code is not None:
            self.code = code

    @staticmethod
    def from_reply(code: int, text: str) -> ChannelError:
        """The error of the class that *code* stands for."""
        return ChannelError._classes.get(code, ChannelError)(text, code)


class ContentTooLarge(ChannelError, code=311):
    """The message is larger than the broker takes."""


class PermissionDenied(ChannelError, code=403):
    """The user may not do this, or nobody may (the default exchange, reserved names)."""


class NotFound(ChannelError, code=404):
    """No such queue or exchange."""


class ResourceLocked(ChannelError, code=405):
    """The queue is exclusive to another connection."""


class PreconditionFailed(ChannelError, code=406):
    """Declared differently before, in use, not empty, or an unknown delivery tag."""


_VALUES = {"'true'": "True", "'false'": "False", "none": "nothing"}


def _value(words: str) -> str:
    """A value as RabbitMQ prints it, the way Python does: 'true', the value '5' of type 'long'."""
    if words in _VALUES:
        return _VALUES[words]
    match = re.fullmatch(r"the value '(.*)' of type '(\w+)'", words)
    if match:
        return repr(match[1]) if match[2] == "longstr" else match[1]
    return words


# The broker's words (RabbitMQ's; the memory broker says the same) and what to do about them.
_REMEDIES: Sequence[tuple[str, str]] = (
    (
        r"inequivalent arg '(?P<arg>.+?)' for (?P<kind>\w+) '(?P<name>.*?)' in vhost '.*?': "
        r"received (?P<received>.+?) but current is (?P<current>.+)",
        "{kind} '{name}' exists with {arg}={current}, declared here with {arg}={received}: "
        "delete it, or declare it as it is",
    ),
    (
        r"no queue '(?P<name>.*?)' in vhost '(?P<vhost>.*)'",
        "no queue '{name}' in virtual host '{vhost}': declare it first (a Consumer does, "
        "unless auto_declare=False), and check the name",
    ),
    (
        r"no exchange '(?P<name>.*?)' in vhost '(?P<vhost>.*)'",
        "no exchange '{name}' in virtual host '{vhost}': declare it first (Publisher and "
        "Consumer do, unless auto_declare=False), and check the name",
    ),
    (
        r"cannot obtain exclusive access to locked queue '(?P<name>.*?)'",
        "queue '{name}' is exclusive to another connection: use that connection, another name, "
        "or declare it there with exclusive=False",
    ),
    (
        r"unknown delivery tag (?P<tag>\d+)",
        "the broker doesn't know delivery tag {tag}: it was settled before, was delivered with "
        "no_ack, or belongs to another channel",
    ),
    (
        r"operation not permitted on the default exchange",
        "the default exchange can't be declared, deleted or bound: every queue is bound to it "
        "by its own name, so publish with exchange='' and the queue's name as routing key",
    ),
)


def _explain(text: str) -> str:
    """Say the broker's *text* with names, values and a remedy; unknown texts stay as they are."""
    for pattern, template in _REMEDIES:
        if match := re.search(pattern, text):
            words = match.groupdict()
            for field in ("received", "current"):
                if field in words:
                    words[field] = _value(words[field])
            return template.format(**words)
    return text


class ConsumerCancelled(CarrotError):
    """The broker ended a consumer: its queue was deleted, or the queue's node is gone."""


# -- publishing -------------------------------------------------------------------------


class PublishError(CarrotError):
    """The broker didn't take messages that were to be confirmed.

    :ivar messages: the messages that were not taken.
    """

    def __init__(self, text: str, messages: Sequence[Message] = ()) -> None:
        super().__init__(text)
        self.messages = tuple(messages)


class Unroutable(PublishError):
    """A mandatory message matched no queue, and came back."""


class Nacked(PublishError):
    """The broker refused the message (basic.nack): a full queue that rejects, or a fault."""


# -- serialization ----------------------------------------------------------------------


class SerializationError(CarrotError):
    """Data could not be turned into bytes, or bytes into data.

    :ivar message: the received message, still unsettled, when decoding one failed.
    """

    message: Message | None = None


class EncodeError(SerializationError):
    """The data, or a header, can't be encoded; nothing was sent."""


class DecodeError(SerializationError):
    """The body can't be decoded."""


class ContentDisallowed(DecodeError):
    """The consumer doesn't accept this content type."""


class SerializerNotInstalled(SerializationError):
    """No serializer has that name, or its library is missing; the text names the pip command."""
