"""Remedies: turns a driver's own exception, or a broker's reply, into carrot's error.

The error says what happened, to which object, and what to do. Exceptions are told apart by their
class and attributes; only a broker's reply has nothing but words, which patterns recognize
(RabbitMQ's; the memory broker says the same). Words that no pattern knows are passed on.
"""

from __future__ import annotations

import errno
import re
import shlex
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from carrot.exceptions import (
    AccessRefused,
    BrokerRefused,
    CarrotError,
    ChannelError,
    ConnectionFailed,
    ConnectionLost,
    ContentTooLarge,
)

#: Reply codes with which a broker closes the connection because of one request, which it would
#: refuse again (AMQP 0-9-1, section 1.2, Constants). The others are a loss: 320 is an operator's
#: doing, and after 501, 504 and 505 both ends disagree about the state of this one connection.
CLOSED_OVER_A_REQUEST: frozenset[int] = frozenset(
    (
        402,  # INVALID_PATH
        502,  # SYNTAX_ERROR: an argument that can't be
        503,  # COMMAND_INVALID: an unknown exchange type
        506,  # RESOURCE_ERROR: too many of something
        530,  # NOT_ALLOWED
        540,  # NOT_IMPLEMENTED: this kind of queue can't do that
        541,  # INTERNAL_ERROR: RabbitMQ's for values it can't cope with
    )
)


# -- what drivers raise inside ------------------------------------------------------------


class ClosedByBroker(CarrotError):
    """The broker closes the connection, and says why (AMQP: connection.close).

    :ivar code: AMQP's reply code; 0 where the protocol has none.
    :ivar text: the broker's own words.
    :ivar method: AMQP's class and method that it is about, as numbers; zeros: none.
    """

    def __init__(self, code: int, text: str, method: tuple[int, int] = (0, 0)) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.method = method

    @property
    def is_refusal(self) -> bool:
        """Whether a request is the cause, which the broker would refuse again."""
        return self.code in CLOSED_OVER_A_REQUEST


class LoginMethodNotOffered(CarrotError):
    """The broker has other login methods (SASL mechanisms).

    :ivar method: the one that was asked for.
    :ivar offered: those that the broker has.
    """

    def __init__(self, method: str, offered: Iterable[str]) -> None:
        self.method = method
        self.offered = tuple(offered)
        super().__init__(f"the broker offers {', '.join(self.offered)}, and not {method}")


# -- the broker refuses an operation ------------------------------------------------------

# Pattern and template: what the broker says, and what carrot says instead.
_Words = Sequence[tuple[str, str]]

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

_CHANNEL_CLOSED: _Words = (
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


def channel_error(code: int, text: str) -> ChannelError:
    """The error for a request over which the broker closed the channel.

    :param code: AMQP's reply code.
    :param text: the broker's own words.
    """
    message = _explained(_CHANNEL_CLOSED, text)
    if _TOO_LARGE.search(text):
        return ContentTooLarge(message, code, text)  # RabbitMQ gives it the code 406
    return ChannelError.from_reply(code, text, message)


def _explained(table: _Words, text: str) -> str:
    """The broker's *text* in carrot's words, if the *table* has any for it."""
    for pattern, template in table:
        if match := re.search(pattern, text):
            return _filled(template, match.groupdict("needed"))
    return text


def _filled(template: str, words: Mapping[str, str]) -> str:
    """*template* with the *words* in it: values as Python writes them, and all also for a shell."""
    values = {name: _value(words[name]) for name in ("received", "current") if name in words}
    quoted = {f"{name}_quoted": shlex.quote(word) for name, word in words.items()}
    return template.format(**{**words, **quoted, **values})


_VALUES = {"'true'": "True", "'false'": "False", "none": "nothing"}


def _value(words: str) -> str:
    """A value as RabbitMQ prints it, the way Python does: 'true', the value '5' of type 'long'."""
    if words in _VALUES:
        return _VALUES[words]
    match = re.fullmatch(r"the value '(.*)' of type '(\w+)'", words)
    if match:
        return repr(match[1]) if match[2] == "longstr" else match[1]
    return words


# -- the broker closes the connection -----------------------------------------------------

_STREAM = r"{} not supported by stream queues queue '(?P<name>.*?)' in vhost '(?P<vhost>.*)'"
_IS_A_STREAM = "queue '{name}' in virtual host '{vhost}' is a stream, "

_CONNECTION_REFUSED: _Words = (
    (
        r"unknown exchange type '(?P<type>.*?)'",
        "the broker has no exchange type '{type}': correct exchange_type=, or enable the plug-in "
        "that brings it (rabbitmq-plugins enable)",
    ),
    (
        r"queue '(?P<name>.*?)' in vhost '(?P<vhost>.*)' does not support global qos",
        "queue '{name}' in virtual host '{vhost}' does not support global qos, a prefetch that "
        "all consumers of a channel share: leave out apply_global, or use a classic queue",
    ),
    (
        _STREAM.format(r"basic\.get"),
        f"{_IS_A_STREAM}which can't be read message by message: consume from it",
    ),
    (
        _STREAM.format("automatic acknowledgement"),
        f"{_IS_A_STREAM}which needs acks: consume with no_ack=False",
    ),
    (
        _STREAM.format(r"basic\.nack and basic\.reject"),
        f"{_IS_A_STREAM}where a message can't be rejected or requeued: ack it",
    ),
    (
        _STREAM.format(r"queue\.purge"),
        f"{_IS_A_STREAM}which can't be purged: delete it, or limit it with x-max-age or "
        "x-max-length-bytes",
    ),
    (
        r"queue '(?P<name>.*?)' in vhost '(?P<vhost>.*)'\. queue\.delete operations with "
        r"if-(?P<condition>empty|unused) flag set are not supported by (?P<type>\w+) queues",
        "queue '{name}' in virtual host '{vhost}' is a {type} queue, which can't be deleted on "
        "condition: leave out if_{condition}",
    ),
    (
        r"attempt to reuse consumer tag '(?P<tag>.*)'",
        "the channel has a consumer with the tag '{tag}' already: give each its own, or none",
    ),
    (
        r"^INTERNAL_ERROR$",
        "the broker failed, and its log says why (INTERNAL_ERROR): check the arguments of the "
        "queue, the exchange or the consumer",
    ),
)

# The methods over which brokers close connections, by AMQP's numbers for class and method.
_METHODS = {
    (20, 10): "channel.open",
    (40, 10): "exchange.declare",
    (40, 20): "exchange.delete",
    (40, 30): "exchange.bind",
    (40, 40): "exchange.unbind",
    (50, 10): "queue.declare",
    (50, 20): "queue.bind",
    (50, 30): "queue.purge",
    (50, 40): "queue.delete",
    (50, 50): "queue.unbind",
    (60, 10): "basic.qos",
    (60, 20): "basic.consume",
    (60, 30): "basic.cancel",
    (60, 40): "basic.publish",
    (60, 70): "basic.get",
    (60, 80): "basic.ack",
    (60, 90): "basic.reject",
    (60, 120): "basic.nack",
    (85, 10): "confirm.select",
}


def broker_refused(
    code: int, text: str, where: str, method: tuple[int, int] = (0, 0)
) -> BrokerRefused:
    """The error for a request over which the broker closed the connection.

    :param code: AMQP's reply code, one of :data:`CLOSED_OVER_A_REQUEST`.
    :param text: the broker's own words.
    :param where: host, port and virtual host.
    :param method: AMQP's class and method of the request, as numbers; zeros: not known.
    """
    request = f"this {_METHODS[method]}" if method in _METHODS else "this request"
    reason = _explained(_CONNECTION_REFUSED, text)
    message = f"{reason}; over {request} the broker closed the connection to {where}"
    return BrokerRefused(message, code, text)


_NOT_READ = (
    "the broker can't read what it received (does a forked process share the connection, or a "
    "proxy change what it passes on? else report a fault of the driver): {detail}"
)

_CONNECTION_LOST: _Words = (
    (
        r"^CONNECTION_FORCED - (?P<detail>.*)",
        "the broker closed it, as an operator told it to or because it shuts down (connect again, "
        "as the next use does): {detail}",
    ),
    (r"^FRAME_ERROR - (?P<detail>.*)", _NOT_READ),
    (r"^(?P<detail>(?:CHANNEL_ERROR|UNEXPECTED_FRAME) - .*)", _NOT_READ),
)


def connection_lost(where: str, cause: BaseException | str) -> ConnectionLost:
    """The error for a connection that was open and is gone.

    :param where: host, port and virtual host.
    :param cause: what ended it, :class:`ClosedByBroker` perhaps; or words for it.
    """
    reason = str(cause) or type(cause).__name__
    if isinstance(cause, ClosedByBroker):
        reason = _explained(_CONNECTION_LOST, cause.text)
    return ConnectionLost(
        f"the connection to {where} is gone: {reason}; what was not confirmed or acked may not "
        "have arrived"
    )


# -- no connection can be made ------------------------------------------------------------


class PeerProtocol(NamedTuple):
    """What the peer should speak.

    :ivar name: the protocol's, for errors.
    :ivar port: its usual port; *tls_port*: the one with TLS.
    :ivar garbled: what the driver raises when it can't understand the peer, besides ValueError,
        TypeError, LookupError and struct.error.
    """

    name: str
    port: int
    tls_port: int
    garbled: tuple[type[Exception], ...] = ()

    @property
    def with_article(self) -> str:
        return f"{'an' if self.name[0] in 'AEIOU' else 'a'} {self.name}"


AMQP = PeerProtocol("AMQP 0-9-1", 5672, 5671)


class Login(Protocol):
    """The settings that an error tells, and no others: never the password."""

    @property
    def userid(self) -> str: ...
    @property
    def virtual_host(self) -> str: ...
    @property
    def connect_timeout(self) -> float | None: ...


def connection_failed(
    settings: Login, where: str, cause: Exception, protocol: PeerProtocol = AMQP
) -> ConnectionFailed:
    """The error for a connection that can't be made: an AccessRefused, if access is the matter.

    :param where: host, port and virtual host.
    :param cause: the system's exception, the driver's own, :class:`ClosedByBroker` or
        :class:`LoginMethodNotOffered`.
    """
    names = {
        "user": settings.userid,
        "vhost": settings.virtual_host,
        "timeout": str(settings.connect_timeout),
        "protocol": protocol.name,
        "a_protocol": protocol.with_article,
        "port": str(protocol.port),
        "tls_port": str(protocol.tls_port),
    }
    cls: type[ConnectionFailed] = ConnectionFailed
    if isinstance(cause, ClosedByBroker):
        cls, template, details = _why_not_let_in(cause)
    else:
        template, details = _why_not_connected(cause, protocol)
    reason = _filled(template, {**details, **names})
    return cls(f"can't connect to {where}, as user {settings.userid!r}: {reason}")


_Details = Mapping[str, str]
# Whether it is the cause, and then the details that the template wants.
_Test = Callable[[Exception], _Details | None]


def _is(*classes: type[Exception]) -> _Test:
    return lambda cause: {} if isinstance(cause, classes) else None


def _is_of(module: str, *classes: str) -> _Test:
    return lambda cause: {} if _is_one_of(cause, module, *classes) else None


def _is_one_of(cause: Exception, module: str, *classes: str) -> bool:
    """Whether *cause* is of one of these *classes* of a *module* that whoever raised it has loaded.

    Other programs needn't wait for socket and ssl, whose import takes 10 ms.
    """
    loaded = sys.modules.get(module)
    return isinstance(cause, tuple(getattr(loaded, name) for name in classes if loaded))


def _is_no_host(cause: Exception) -> _Details | None:
    if _is_one_of(cause, "socket", "gaierror"):
        return {"detail": getattr(cause, "strerror", None) or str(cause)}
    # Python encodes names of hosts before it asks the system.
    is_name = type(cause) is UnicodeError or getattr(cause, "encoding", None) == "idna"
    return {"detail": str(cause)} if is_name else None


def _has_no_way(cause: Exception) -> _Details | None:
    # OpenSSL's errors are OSErrors, with numbers of its own.
    if not isinstance(cause, OSError) or _is_one_of(cause, "ssl", "SSLError"):
        return None
    return {} if cause.errno in _NO_WAY else None


def _has_a_certificate(*codes: int) -> _Test:
    """Whether a certificate failed verification, with one of these *codes* of OpenSSL's, or any."""

    def test(cause: Exception) -> _Details | None:
        if not _is_one_of(cause, "ssl", "SSLCertVerificationError"):
            return None
        if codes and getattr(cause, "verify_code", None) not in codes:
            return None
        return {"detail": getattr(cause, "verify_message", str(cause)).rstrip(".")}

    return test


def _is_no_file(cause: Exception) -> _Details | None:
    if isinstance(cause, OSError) and (details := _is_tls(cause)) is not None:
        # A file that is no PEM, or a certificate that is none, or doesn't fit its key.
        is_file = cause.errno in _NO_PEM or getattr(cause, "library", None) == "X509"
        return details if is_file else None
    is_systems = isinstance(cause, (FileNotFoundError, PermissionError, IsADirectoryError))
    return {"detail": str(cause)} if is_systems else None


def _is_not_tls(cause: Exception) -> _Details | None:
    return {} if any(words in _reason(cause) for words in _NO_TLS) else None


def _is_tls(cause: Exception) -> _Details | None:
    if not _is_one_of(cause, "ssl", "SSLError"):
        return None
    # Without the place in Python's own source.
    return {"detail": str(cause).partition(" (_ssl")[0]}


def _reason(cause: Exception) -> str:
    """OpenSSL's name for it."""
    return getattr(cause, "reason", None) or "" if _is_one_of(cause, "ssl", "SSLError") else ""


def _is_not_offered(cause: Exception) -> _Details | None:
    if not isinstance(cause, LoginMethodNotOffered):
        return None
    return {"method": cause.method, "offered": ", ".join(cause.offered)}


# EPERM is how a local firewall says no.
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM)
# OpenSSL's codes (X509_V_ERR_…): the name of the host, e-mail, address; not yet valid, expired.
_OTHER_NAME, _OTHER_TIME = (62, 63, 64), (9, 10)
# Its codes for a file that it can't parse (ERR_R_PEM_LIB), in versions 1.1 and 3.
_NO_PEM = (0x9, 0x80009)
# What its reasons have in common when bytes come that are no TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE")

_HUNG_UP = (
    "the peer hung up before it let anybody in: is this {a_protocol} broker's port (usually "
    "{port}, and {tls_port} with ssl=True), or a proxy's without a broker behind it?"
)
# Why a connection can't be made, and what to say about it; the first that fits counts.
_CAUSES: Sequence[tuple[_Test, str]] = (
    (
        _is(ConnectionRefusedError),
        "nobody listens there: is the broker running, and is this its host and port (usually "
        "{port}, and {tls_port} for TLS)?",
    ),
    (
        _is_no_host,
        "the host name can't be resolved ({detail}): check its spelling, and this machine's DNS "
        "and /etc/hosts",
    ),
    (
        _has_no_way,
        "the network has no way there: check the address, the routes and the firewalls",
    ),
    (
        _is(TimeoutError),
        "no answer within {timeout} seconds: is this {a_protocol} broker's port, and no firewall "
        "in between? Where all is well and slow, raise connect_timeout",
    ),
    (
        _has_a_certificate(*_OTHER_NAME),
        "the broker's certificate is for another name ({detail}): connect by a name that is in it,"
        " or give that name as ssl={{'server_hostname': …}}",
    ),
    (
        _has_a_certificate(*_OTHER_TIME),
        "the broker's certificate is not valid today ({detail}): renew it, or set this machine's "
        "clock",
    ),
    (
        _has_a_certificate(),
        "the broker's certificate is not trusted ({detail}): name the file of the authority that "
        "signed it, as ssl={{'ca_certs': …}}",
    ),
    # Before the other errors of TLS, of whose kind these are.
    (
        _is_of("ssl", "SSLEOFError", "SSLZeroReturnError"),
        _HUNG_UP,
    ),
    (
        _is_no_file,
        "a file for TLS can't be loaded ({detail}): check ca_certs, certfile and keyfile in "
        "ssl={{…}}",
    ),
    (
        _is_not_tls,
        "the peer doesn't speak TLS: use the broker's TLS port (usually {tls_port}), or ssl=False "
        "with this one",
    ),
    (
        _is_tls,
        "TLS failed ({detail}): check ciphers, certfile and keyfile in ssl={{…}}, and what the "
        "broker's ssl_options ask for",
    ),
    (
        _is(ConnectionResetError, ConnectionAbortedError, BrokenPipeError),
        _HUNG_UP,
    ),
    (
        _is_not_offered,
        "the broker has no login method {method}, but {offered}: give one of these as "
        "login_method=, or add {method} to auth_mechanisms in rabbitmq.conf",
    ),
    (
        _is(UnicodeEncodeError),
        "user or password can't be encoded as UTF-8: were they decoded from bytes as they should?",
    ),
)

_GARBLED = (
    "the peer doesn't speak {protocol}: is this a broker's port (usually {port}, and {tls_port} "
    "with ssl=True)?"
)
_GARBLED_BY_NATURE = (ValueError, TypeError, LookupError, struct.error)


def _why_not_connected(cause: Exception, protocol: PeerProtocol) -> tuple[str, _Details]:
    """A template for the reason, and the details for it."""
    for test, template in _CAUSES:
        if (details := test(cause)) is not None:
            return template, details
    if isinstance(cause, (*protocol.garbled, *_GARBLED_BY_NATURE)):
        return _GARBLED, {}
    return "{detail}", {"detail": f"{type(cause).__name__}: {cause}"}


_REFUSED_ENTRY: Sequence[tuple[type[ConnectionFailed], str, str]] = (
    (
        ConnectionFailed,
        r"vhost '?.*?'? not found",
        "there is no such virtual host: create the virtual host (rabbitmqctl add_vhost "
        "{vhost_quoted}), or check its name",
    ),
    (
        ConnectionFailed,
        r"^\w+ - (?P<detail>.*(?:limit .*is reached|is down).*)",
        "the broker takes no more connections here ({detail}): close some, or see rabbitmqctl "
        "list_vhost_limits, list_user_limits and status",
    ),
    (
        AccessRefused,
        r"access to vhost .* refused for user",
        f"the user has no permissions in this virtual host: {_GRANT}",
    ),
    (
        AccessRefused,
        r"refused using authentication mechanism EXTERNAL",
        "the broker didn't let the client certificate in: give certfile and keyfile in ssl={{…}}, "
        "of a certificate that names a user of the broker (ssl_cert_login_from in rabbitmq.conf)",
    ),
    (
        AccessRefused,
        r"refused using authentication mechanism (?P<method>\w+)",
        "the broker refused the login ({method}): check user and password (rabbitmqctl "
        "authenticate_user {user_quoted}); RabbitMQ lets guest in from its own machine only",
    ),
)
# The codes of a broker that doesn't let this user in, for whatever reason.
_ACCESS_CODES = (403, 530)


def _why_not_let_in(reply: ClosedByBroker) -> tuple[type[ConnectionFailed], str, _Details]:
    """The error's class, a template for the reason, and the details for it."""
    for cls, pattern, template in _REFUSED_ENTRY:
        if match := re.search(pattern, reply.text):
            return cls, template, match.groupdict()
    if reply.code in _ACCESS_CODES:
        template = "{detail}: check user and password, and that the user may enter the virtual host"
        return AccessRefused, template, {"detail": reply.text}
    said = f"{reply.code} {reply.text}" if reply.code else reply.text
    return ConnectionFailed, "{detail}", {"detail": said}
