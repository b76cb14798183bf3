"""Every error that carrot raises, in one tree, and how AMQP's reply codes map onto it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from carrot.message import Message
    from carrot.settings import ConnectionSettings


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

    @staticmethod
    def from_cause(
        settings: ConnectionSettings,
        where: str,
        told: str,
        protocol: tuple[str, int, int] = ("AMQP 0-9-1", 5672, 5671),
    ) -> ConnectionFailed:
        """The error, of the class and with the remedy that belong to what was *told*.

        :param where: host, port and virtual host.
        :param told: an exception's class and text, ``0`` and what a library found out, or the
            broker's reply code and text.
        :param protocol: its name, and its usual ports, without and with TLS.
        """
        cls, reason = _explain_failure(settings, told, protocol)
        return cls(f"can't connect to {where}, as user {settings.userid!r}: {reason}")


class AccessRefused(ConnectionFailed):
    """The broker knows neither this user and password, or doesn't let them in here."""


class ConnectionLost(CarrotError, ConnectionError):
    """The connection was open and is gone. What was not confirmed or acked may happen again."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(_explain_loss(str(text)) for text in args))


class BrokerRefused(CarrotError):
    """The broker closed the connection over a request; it would do so each time it is repeated.

    :ivar code: AMQP's reply code, such as 530, 540 or 541.
    :ivar text: the broker's own words.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


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
        cls = ChannelError._classes.get(code, ChannelError)
        if _TOO_LARGE.search(text):
            cls = ContentTooLarge  # RabbitMQ gives it the code 406
        return cls(text, code)


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


_TOO_LARGE = re.compile(
    r"message size (?P<size>\d+) is larger than (?:configured )?max size (?P<limit>\d+)"
)
_REFUSED = (
    r"(?:(?P<right>configure|write|read) )?access to {} in vhost '(?P<vhost>.*?)' "
    r"refused for user '(?P<user>.*?)'(?= |:|$)"
)
_LACKS = "user '{user}' lacks the {right} permission for"
_GRANT = (
    "rabbitmqctl set_permissions -p {vhost_quoted} {user_quoted} '.*' '.*' '.*' (patterns of the "
    "names for configure, write and read)"
)

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
        r"cannot obtain exclusive access to locked queue '(?P<name>.*?)' in vhost '(?P<vhost>.*?)'",
        "queue '{name}' in virtual host '{vhost}' is exclusive to another connection, or exists "
        "and is not exclusive: use that connection, another name, or the same exclusive= in both "
        "places",
    ),
    (
        _REFUSED.format("exchange 'amq.default'"),
        f"{_LACKS} the default exchange in virtual host '{{vhost}}', which patterns know as "
        f"'amq.default' (write to publish to it): {_GRANT}",
    ),
    (
        _REFUSED.format("exchange '(?P<name>.*?)'"),
        f"{_LACKS} exchange '{{name}}' in virtual host '{{vhost}}' (configure to declare or "
        f"delete it, write to publish to it, read to bind a queue to it): {_GRANT}",
    ),
    (
        _REFUSED.format("queue '(?P<name>.*?)'"),
        f"{_LACKS} queue '{{name}}' in virtual host '{{vhost}}' (configure to declare or delete "
        f"it, write to bind it, read to consume from it or purge it): {_GRANT}",
    ),
    (
        _TOO_LARGE.pattern,
        "the message is {size} bytes long, and the broker takes at most {limit}: send less, or "
        "raise max_message_size in rabbitmq.conf",
    ),
    (
        r"No free channel ids, current=\d+, channel_max=(?P<limit>\d+)",  # py-amqp's words
        "all {limit} channels of the connection are in use: close publishers and consumers, share "
        "them, or raise channel_max in rabbitmq.conf",
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
            return _filled(template, match.groupdict("needed"))
    return text


def _filled(template: str, words: Mapping[str, str]) -> str:
    """*template* with the *words* in it: values as Python writes them, and all also for a shell."""
    values = {name: _value(words[name]) for name in ("received", "current") if name in words}
    quoted = {f"{name}_quoted": shlex.quote(word) for name, word in words.items()}
    return template.format(**{**words, **quoted, **values})


# Why a connection was lost, in the broker's words, and the words to put in their place. Before it
# the text says where, and behind it come the broker's details.
_LOSSES: Sequence[tuple[str, str]] = (
    (
        r"(?:320 )?CONNECTION_FORCED - ",
        "the broker closed it, as an operator told it to or because it shuts down (connect again, "
        "as the next use does): ",
    ),
    (
        r"(?:501 )?FRAME_ERROR - ",
        "the broker can't read what it received (does a forked process share the connection, or a "
        "proxy change what it passes on? else report a fault of the driver): ",
    ),
    (
        r"(?:503 )?COMMAND_INVALID - unknown exchange type '(?P<type>.*?)'",
        r"the broker has no exchange type '\g<type>': correct exchange_type=, or enable the "
        "plug-in that brings it (rabbitmq-plugins enable)",
    ),
)


def _explain_loss(text: str) -> str:
    """*text* with the broker's words for why it closed the connection made plain."""
    for pattern, words in _LOSSES:
        text = re.sub(pattern, words, text)
    return text


_NO_METHOD = (
    "the broker has no login method {method}, but {offered}: give one of these as login_method=, "
    "or add {method} to auth_mechanisms in rabbitmq.conf"
)

# Why a connection could not be made: what was told, and the reason to give.
_FAILURES: Sequence[tuple[str, str]] = (
    (
        r"^ConnectionRefusedError",
        "nobody listens there: is the broker running, and is this its host and port (usually "
        "{port}, and {tls_port} for TLS)?",
    ),
    (
        # The last: no name of a host at all.
        r"^(?:gaierror: (?:\[Errno .*?\] )?|UnicodeError: )(?P<detail>.*)",
        "the host name can't be resolved ({detail}): check its spelling, and this machine's DNS "
        "and /etc/hosts",
    ),
    (
        r"No route to host|Network is unreachable",
        "the network has no way there: check the address, the routes and the firewalls",
    ),
    (
        r"^TimeoutError",
        "no answer within {timeout} seconds: is this {a_protocol} broker's port, and no firewall "
        "in between? Where all is well and slow, raise connect_timeout",
    ),
    # -- TLS
    (
        r"certificate verify failed: (?P<detail>\w+(?: \w+)? mismatch.*?)\.? \(",
        "the broker's certificate is for another name ({detail}): connect by a name that is in "
        "it, or give that name as ssl={{'server_hostname': …}}",
    ),
    (
        r"certificate verify failed: (?P<detail>.*(?:expired|not yet valid).*?)\.? \(",
        "the broker's certificate is not valid today ({detail}): renew it, or set this machine's "
        "clock",
    ),
    (
        r"certificate verify failed: (?P<detail>.*?)\.? \(",
        "the broker's certificate is not trusted ({detail}): name the file of the authority that "
        "signed it, as ssl={{'ca_certs': …}}",
    ),
    (
        r"^(?:FileNotFoundError|PermissionError|IsADirectoryError|SSLError(?=.*(?:PEM lib|X509))): "
        r"(?P<detail>.*?)(?: \(_ssl.*)?$",
        "a file for TLS can't be loaded ({detail}): check ca_certs, certfile and keyfile in "
        "ssl={{…}}",
    ),
    (
        r"^SSLError: .*(?:WRONG_VERSION_NUMBER|UNEXPECTED_MESSAGE|RECORD_LAYER_FAILURE)",
        "the peer doesn't speak TLS: use the broker's TLS port (usually {tls_port}), or ssl=False "
        "with this one",
    ),
    (
        r"^SSLError: (?P<detail>.*?)(?: \(_ssl.*)?$",
        "TLS failed ({detail}): check ciphers, certfile and keyfile in ssl={{…}}, and what the "
        "broker's ssl_options ask for",
    ),
    # -- a peer that is no broker
    (
        r"^(?:ConnectionResetError|ConnectionAbortedError|BrokenPipeError|SSLEOFError|"
        r"SSLZeroReturnError)|closed connection|^OSError: Socket closed",
        "the peer hung up before it let anybody in: is this {a_protocol} broker's port (usually "
        "{port}, and {tls_port} with ssl=True), or a proxy's without a broker behind it?",
    ),
    (
        r"offers the login methods (?P<offered>.*?), and not (?P<method>\w+)",
        _NO_METHOD,
    ),
    (
        r"can offer: (?P<method>\w+); available: (?P<offered>.*?)\)",  # py-amqp's words
        _NO_METHOD,
    ),
    (
        r"^UnicodeEncodeError",
        "user or password can't be encoded as UTF-8: were they decoded from bytes as they should?",
    ),
    (
        r"^(?:FramingError|ValueError|TypeError|KeyError|IndexError|error|0|505)\b",
        "the peer doesn't speak {protocol}: is this a broker's port (usually {port}, and "
        "{tls_port} with ssl=True)?",
    ),
    # -- a broker that refuses
    (
        r"vhost '?.*?'? not found",
        "there is no such virtual host: create the virtual host (rabbitmqctl add_vhost "
        "{vhost_quoted}), or check its name",
    ),
    (
        r"^\d+ \w+ - (?P<detail>.*(?:limit .*is reached|is down).*)",
        "the broker takes no more connections here ({detail}): close some, or see rabbitmqctl "
        "list_vhost_limits, list_user_limits and status",
    ),
)

# The same, for a user whom the broker doesn't know or doesn't let in: AccessRefused.
_ACCESS_REFUSALS: Sequence[tuple[str, str]] = (
    (
        r"access to vhost .* refused for user",
        f"the user has no permissions in this virtual host: {_GRANT}",
    ),
    (
        r"refused using authentication mechanism EXTERNAL",
        "the broker didn't let the client certificate in: give certfile and keyfile in ssl={{…}}, "
        "of a certificate that names a user of the broker (ssl_cert_login_from in rabbitmq.conf)",
    ),
    (
        r"refused using authentication mechanism (?P<method>\w+)",
        "the broker refused the login ({method}): check user and password (rabbitmqctl "
        "authenticate_user {user_quoted}); RabbitMQ lets guest in from its own machine only",
    ),
    (
        r"^(?:403|530) (?P<detail>.*)",
        "{detail}: check user and password, and that the user may enter the virtual host",
    ),
)


def _explain_failure(
    settings: ConnectionSettings, told: str, protocol: tuple[str, int, int]
) -> tuple[type[ConnectionFailed], str]:
    """The error's class, and the reason with a remedy; unknown reasons are given as they are."""
    names = {
        "user": settings.userid,
        "vhost": settings.virtual_host,
        "timeout": str(settings.connect_timeout),
        "protocol": protocol[0],
        "a_protocol": f"{'an' if protocol[0][0] in 'AEIOU' else 'a'} {protocol[0]}",
        "port": str(protocol[1]),
        "tls_port": str(protocol[2]),
    }
    for cls, table in ((ConnectionFailed, _FAILURES), (AccessRefused, _ACCESS_REFUSALS)):
        for pattern, template in table:
            if match := re.search(pattern, told):
                return cls, _filled(template, {**match.groupdict(), **names})
    return ConnectionFailed, told


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
    """The data, or a header, can't be encoded; the message was not sent."""


class DecodeError(SerializationError):
    """The body can't be decoded."""


class ContentDisallowed(DecodeError):
    """The consumer doesn't accept this content type."""


class SerializerNotInstalled(SerializationError):
    """No serializer has that name, or its library is missing; the text names the pip command."""
