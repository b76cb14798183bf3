"""Every error that carrot raises, in one tree.

The classes only hold what they are given; what to say and do about a broker's or a system's own
error is in :mod:`carrot.remedies`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


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
    """The broker rejected the credentials, or denies this user access to the virtual host."""


class ConnectionLost(CarrotError, ConnectionError):
    """The connection was open and is gone. What was not confirmed or acked may happen again."""


class BrokerRefused(CarrotError):
    """The broker closed the connection over a request; it would do so each time it is repeated.

    :ivar code: AMQP's reply code, such as 530, 540 or 541.
    :ivar text: the broker's own words.
    """

    def __init__(self, message: str, code: int = 0, text: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.text = message if text is None else text


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

    def __init__(self, message: str, code: int | None = None, text: str | None = None) -> None:
        super().__init__(message)
        self.text = message if text is None else text
        if code is not None:
            self.code = code

    @staticmethod
    def from_reply(code: int, text: str, message: str | None = None) -> ChannelError:
        """The error of the class that *code* stands for.

        :param message: what the error prints; the broker's own *text* unless given.
        """
        cls = ChannelError._classes.get(code, ChannelError)
        return cls(text if message is None else message, code, text)


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


class ConsumerCancelled(CarrotError):
    """The broker ended a consumer: its queue was deleted, or the queue's node is gone.

    :ivar queue: the name of the queue.
    """

    def __init__(self, text: str, queue: str = "") -> None:
        super().__init__(text)
        self.queue = queue


# -- publishing -------------------------------------------------------------------------


class PublishError(CarrotError):
    """The broker didn't take messages that were to be confirmed.

    :ivar messages: the messages that were not taken, each a :class:`carrot.message.Message`.
    """

    # Any, since the class of messages is made of what raises these errors.
    def __init__(self, text: str, messages: Sequence[Any] = ()) -> None:
        super().__init__(text)
        self.messages: tuple[Any, ...] = tuple(messages)


class Unroutable(PublishError):
    """A mandatory message matched no queue, and came back."""


class Nacked(PublishError):
    """The broker refused the message (basic.nack): a full queue that rejects, or a fault."""


# -- serialization ----------------------------------------------------------------------


class SerializationError(CarrotError):
    """Data could not be turned into bytes, or bytes into data.

    :ivar message: the received :class:`carrot.message.Message`, still unsettled, when decoding
        one failed; None when encoding did.
    """

    message: Any = None


class EncodeError(SerializationError):
    """The data, or a header, can't be encoded; the message was not sent."""


class DecodeError(SerializationError):
    """The body can't be decoded."""


class ContentDisallowed(DecodeError):
    """The consumer doesn't accept this content type."""


class SerializerNotInstalled(SerializationError):
    """No serializer has that name, or its library is missing; the text names the pip command."""
