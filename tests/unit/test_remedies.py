"""What a driver's exception, or a broker's reply, becomes: which error, in which words."""

from __future__ import annotations

import errno
import socket
import ssl
import struct

import pytest

from carrot.exceptions import (
    AccessRefused,
    BrokerRefused,
    ConnectionFailed,
    ConnectionLost,
    ContentTooLarge,
    NotFound,
)
from carrot.remedies import (
    CLOSED_OVER_A_REQUEST,
    ClosedByBroker,
    LoginMethodNotOffered,
    PeerProtocol,
    broker_refused,
    channel_error,
    connection_failed,
    connection_lost,
)
from carrot.settings import ConnectionSettings

# -- the broker closes the channel


def inequivalent(arg: str, kind: str, received: str, current: str) -> str:
    return (
        f"PRECONDITION_FAILED - inequivalent arg '{arg}' for {kind} 'feed' in vhost '/': "
        f"received {received} but current is {current}"
    )


@pytest.mark.parametrize(
    ("text", "explained"),
    [
        (
            inequivalent("durable", "queue", "'true'", "'false'"),
            "queue 'feed' exists with durable=False, declared here with durable=True: "
            "delete it, or declare it as it is",
        ),
        (
            inequivalent("type", "exchange", "'topic'", "'direct'"),
            "exchange 'feed' exists with type='direct', declared here with type='topic': "
            "delete it, or declare it as it is",
        ),
        (
            inequivalent("x-max-length", "queue", "none", "the value '5' of type 'long'"),
            "queue 'feed' exists with x-max-length=5, declared here with x-max-length=nothing: "
            "delete it, or declare it as it is",
        ),
        (
            inequivalent("x-overflow", "queue", "the value 'x' of type 'longstr'", "none"),
            "queue 'feed' exists with x-overflow=nothing, declared here with x-overflow='x': "
            "delete it, or declare it as it is",
        ),
        (
            "NOT_FOUND - no queue 'feed' in vhost 'app'",
            "no queue 'feed' in virtual host 'app': declare it first (a Consumer does, unless "
            "auto_declare=False), and check the name",
        ),
        (
            "NOT_FOUND - no exchange 'feed' in vhost '/'",
            "no exchange 'feed' in virtual host '/': declare it first (Publisher and Consumer "
            "do, unless auto_declare=False), and check the name",
        ),
        (
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'feed' in vhost "
            "'/'. It could be originally declared on another connection or the exclusive "
            "property value does not match that of the original declaration.",
            "queue 'feed' in virtual host '/' is exclusive to another connection, or exists and "
            "is not exclusive: use that connection, another name, or the same exclusive= in both "
            "places",
        ),
        (
            "ACCESS_REFUSED - access to queue 'feed' in vhost 'my app' refused for user 'bob'",
            "user 'bob' lacks the needed permission for queue 'feed' in virtual host 'my app' "
            "(configure to declare or delete it, write to bind it, read to consume from it or "
            "purge it): rabbitmqctl set_permissions -p 'my app' bob '.*' '.*' '.*' (patterns of "
            "the names for configure, write and read)",
        ),
        (
            # RabbitMQ 4 says which permission it is.
            "ACCESS_REFUSED - write access to exchange 'feed' in vhost '/' refused for user 'bob'",
            "user 'bob' lacks the write permission for exchange 'feed' in virtual host '/' "
            "(configure to declare or delete it, write to publish to it, read to bind a queue to "
            "it): rabbitmqctl set_permissions -p / bob '.*' '.*' '.*' (patterns of the names for "
            "configure, write and read)",
        ),
        (
            "PRECONDITION_FAILED - unknown delivery tag 5",
            "the broker doesn't know delivery tag 5: it was settled before, was delivered with "
            "no_ack, or belongs to another channel",
        ),
        (
            "ACCESS_REFUSED - operation not permitted on the default exchange",
            "the default exchange can't be declared, deleted or bound: every queue is bound to "
            "it by its own name, so publish with exchange='' and the queue's name as routing key",
        ),
        (
            "PRECONDITION_FAILED - queue 'feed' in vhost '/' in use",
            "PRECONDITION_FAILED - queue 'feed' in vhost '/' in use",
        ),
    ],
    ids=lambda text: text[:40],
)
def test_a_refusal_says_what_to_do_and_keeps_the_brokers_words(text: str, explained: str) -> None:
    error = channel_error(406, text)

    assert str(error) == explained
    assert error.text == text


def test_a_name_with_quotes_in_it_is_explained_whole() -> None:
    error = channel_error(404, "NOT_FOUND - no queue 'it's' in vhost 'o'hara'")

    assert str(error).startswith("no queue 'it's' in virtual host 'o'hara'")


def test_a_message_that_is_too_large_has_a_class_though_rabbitmq_has_no_code_for_it() -> None:
    error = channel_error(
        406, "PRECONDITION_FAILED - message size 5000 is larger than configured max size 4096"
    )

    assert type(error) is ContentTooLarge
    assert error.code == 406
    assert str(error) == (
        "the message is 5000 bytes long, and the broker takes at most 4096: send less, or raise "
        "max_message_size in rabbitmq.conf"
    )


def test_a_channel_error_has_the_class_of_its_code() -> None:
    error = channel_error(404, "NOT_FOUND - no queue 'feed' in vhost '/'")

    assert type(error) is NotFound
    assert error.code == 404


# -- the broker closes the connection

HERE = "127.0.0.1:5672, virtual host '/'"


@pytest.mark.parametrize(
    ("code", "is_refusal"),
    [
        (320, False),  # an operator, or a shutdown
        (402, True),
        (501, False),  # bytes went astray: so do the next two
        (504, False),
        (505, False),
        (502, True),
        (503, True),
        (506, True),
        (530, True),
        (540, True),
        (541, True),
        (0, False),
    ],
)
def test_a_table_says_which_codes_refuse_a_request(code: int, is_refusal: bool) -> None:
    assert (code in CLOSED_OVER_A_REQUEST) is is_refusal
    assert ClosedByBroker(code, "for some reason").is_refusal is is_refusal


@pytest.mark.parametrize(
    ("code", "text", "explained"),
    [
        (
            503,
            "COMMAND_INVALID - unknown exchange type 'late'",
            "the broker has no exchange type 'late': correct exchange_type=, or enable the plug-in "
            "that brings it (rabbitmq-plugins enable)",
        ),
        (
            540,
            "NOT_IMPLEMENTED - queue 'feed' in vhost '/' does not support global qos",
            "queue 'feed' in virtual host '/' does not support global qos, a prefetch that all "
            "consumers of a channel share: leave out apply_global, or use a classic queue",
        ),
        (
            540,
            "NOT_IMPLEMENTED - basic.get not supported by stream queues queue 'log' in vhost '/'",
            "queue 'log' in virtual host '/' is a stream, which can't be read message by message: "
            "consume from it",
        ),
        (
            540,
            "NOT_IMPLEMENTED - automatic acknowledgement not supported by stream queues queue "
            "'log' in vhost '/'",
            "queue 'log' in virtual host '/' is a stream, which needs acks: consume with "
            "no_ack=False",
        ),
        (
            540,
            "NOT_IMPLEMENTED - basic.nack and basic.reject not supported by stream queues queue "
            "'log' in vhost '/'",
            "queue 'log' in virtual host '/' is a stream, where a message can't be rejected or "
            "requeued: ack it",
        ),
        (
            540,
            "NOT_IMPLEMENTED - queue.purge not supported by stream queues queue 'log' in vhost '/'",
            "queue 'log' in virtual host '/' is a stream, which can't be purged: delete it, or "
            "limit it with x-max-age or x-max-length-bytes",
        ),
        (
            540,
            "NOT_IMPLEMENTED - cannot delete queue 'feed' in vhost '/'. queue.delete operations "
            "with if-empty flag set are not supported by quorum queues",
            "queue 'feed' in virtual host '/' is a quorum queue, which can't be deleted on "
            "condition: leave out if_empty",
        ),
        (
            530,
            "NOT_ALLOWED - attempt to reuse consumer tag 'me'",
            "the channel has a consumer with the tag 'me' already: give each its own, or none",
        ),
        (
            541,
            "INTERNAL_ERROR",
            "the broker failed, and its log says why (INTERNAL_ERROR): check the arguments of the "
            "queue, the exchange or the consumer",
        ),
        (540, "NOT_IMPLEMENTED - immediate=true", "NOT_IMPLEMENTED - immediate=true"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_a_refusal_that_closes_the_connection_says_what_to_do(
    code: int, text: str, explained: str
) -> None:
    error = broker_refused(code, text, HERE)

    assert type(error) is BrokerRefused
    assert str(error) == (
        f"{explained}; over this request the broker closed the connection to {HERE}"
    )
    assert (error.code, error.text) == (code, text)


def test_a_refusal_names_the_request_when_the_broker_does() -> None:
    error = broker_refused(541, "INTERNAL_ERROR", HERE, method=(60, 20))

    assert str(error).endswith(
        f"; over this basic.consume the broker closed the connection to {HERE}"
    )


UNREADABLE = (
    "the broker can't read what it received (does a forked process share the connection, or a "
    "proxy change what it passes on? else report a fault of the driver): "
)


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (
            ClosedByBroker(320, "CONNECTION_FORCED - at noon"),
            "the broker closed it, as an operator told it to or because it shuts down (connect "
            "again, as the next use does): at noon",
        ),
        (ClosedByBroker(501, "FRAME_ERROR - type 1"), f"{UNREADABLE}type 1"),
        (
            ClosedByBroker(504, "CHANNEL_ERROR - expected 'channel.open'"),
            f"{UNREADABLE}CHANNEL_ERROR - expected 'channel.open'",
        ),
        (
            ClosedByBroker(505, "UNEXPECTED_FRAME - no header"),
            f"{UNREADABLE}UNEXPECTED_FRAME - no header",
        ),
        (ClosedByBroker(0, "for a reason of its own"), "for a reason of its own"),
        (ConnectionResetError("the broker hung up"), "the broker hung up"),
        (TimeoutError(), "TimeoutError"),
        ("it was closed here", "it was closed here"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_lost_connection_says_why(cause: Exception | str, reason: str) -> None:
    error = connection_lost(HERE, cause)

    assert type(error) is ConnectionLost
    assert str(error) == (
        f"the connection to {HERE} is gone: {reason}; what was not confirmed or acked may not have "
        "arrived"
    )


# -- no connection can be made


class Garbled(Exception):
    """A driver's own, for bytes that it can't read."""


STOMP = PeerProtocol("STOMP", 61613, 61614, garbled=(Garbled,))


def of_certificate(code: int, words: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(
        1, f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {words} (_ssl.c:1006)"
    )
    error.reason, error.verify_code, error.verify_message = "CERTIFICATE_VERIFY_FAILED", code, words
    return error


def of_tls(library: str, reason: str | None, words: str = "", number: int = 1) -> ssl.SSLError:
    where = f"[{library}: {reason}]" if reason else f"[{library}]"
    error = ssl.SSLError(number, f"{where} {words} (_ssl.c:2580)")
    error.library, error.reason = library, reason
    return error


NOT_STOMP = (
    "the peer doesn't speak STOMP: is this a broker's port (usually 61613, and 61614 with "
    "ssl=True)?"
)
HUNG_UP = (
    "the peer hung up before it let anybody in: is this a STOMP broker's port (usually 61613, and "
    "61614 with ssl=True), or a proxy's without a broker behind it?"
)
NO_TLS = (
    "the peer doesn't speak TLS: use the broker's TLS port (usually 61614), or ssl=False with "
    "this one"
)
NO_WAY = "the network has no way there: check the address, the routes and the firewalls"
NO_HOST = "check its spelling, and this machine's DNS and /etc/hosts"
NO_FILE = "check ca_certs, certfile and keyfile in ssl={…}"


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            "nobody listens there: is the broker running, and is this its host and port (usually "
            "61613, and 61614 for TLS)?",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            f"the host name can't be resolved (Name or service not known): {NO_HOST}",
        ),
        (
            UnicodeError("label empty or too long"),
            f"the host name can't be resolved (label empty or too long): {NO_HOST}",
        ),
        (
            UnicodeEncodeError("idna", "a" * 70, 0, 70, "label too long"),
            "the host name can't be resolved ('idna' codec can't encode characters in position "
            f"0-69: label too long): {NO_HOST}",
        ),
        (OSError(errno.EHOSTUNREACH, "No route to host"), NO_WAY),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), NO_WAY),
        (PermissionError(errno.EPERM, "Operation not permitted"), NO_WAY),
        (
            TimeoutError("timed out"),
            "no answer within 7.0 seconds: is this a STOMP broker's port, and no firewall in "
            "between? Where all is well and slow, raise connect_timeout",
        ),
        (
            of_certificate(62, "Hostname mismatch, certificate is not valid for 'b'."),
            "the broker's certificate is for another name (Hostname mismatch, certificate is not "
            "valid for 'b'): connect by a name that is in it, or give that name as "
            "ssl={'server_hostname': …}",
        ),
        (
            of_certificate(10, "certificate has expired"),
            "the broker's certificate is not valid today (certificate has expired): renew it, or "
            "set this machine's clock",
        ),
        (
            of_certificate(9, "certificate is not yet valid"),
            "the broker's certificate is not valid today (certificate is not yet valid): renew "
            "it, or set this machine's clock",
        ),
        (
            of_certificate(19, "self-signed certificate in certificate chain"),
            "the broker's certificate is not trusted (self-signed certificate in certificate "
            "chain): name the file of the authority that signed it, as ssl={'ca_certs': …}",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory"),
            f"a file for TLS can't be loaded ([Errno 2] No such file or directory): {NO_FILE}",
        ),
        (
            of_tls("SSL", None, "PEM lib", 0x80009),
            f"a file for TLS can't be loaded ([SSL] PEM lib): {NO_FILE}",
        ),
        (
            of_tls("X509", "KEY_VALUES_MISMATCH", "key values mismatch"),
            "a file for TLS can't be loaded ([X509: KEY_VALUES_MISMATCH] key values mismatch): "
            f"{NO_FILE}",
        ),
        (of_tls("SSL", "WRONG_VERSION_NUMBER"), NO_TLS),
        (of_tls("SSL", "RECORD_LAYER_FAILURE"), NO_TLS),
        (
            of_tls("SSL", "TLSV13_ALERT_CERTIFICATE_REQUIRED", "tlsv13 alert"),
            "TLS failed ([SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert): check ciphers, "
            "certfile and keyfile in ssl={…}, and what the broker's ssl_options ask for",
        ),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), HUNG_UP),
        (ConnectionResetError("the broker hung up"), HUNG_UP),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), HUNG_UP),
        (
            LoginMethodNotOffered("EXTERNAL", ["PLAIN", "AMQPLAIN"]),
            "the broker has no login method EXTERNAL, but PLAIN, AMQPLAIN: give one of these as "
            "login_method=, or add EXTERNAL to auth_mechanisms in rabbitmq.conf",
        ),
        (
            UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
            "user or password can't be encoded as UTF-8: were they decoded from bytes as they "
            "should?",
        ),
        (Garbled("nonsense"), NOT_STOMP),
        (ValueError("nonsense"), NOT_STOMP),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), NOT_STOMP),
        (KeyError("nonsense"), NOT_STOMP),
        (struct.error("nonsense"), NOT_STOMP),
        (OSError("of a kind not met before"), "OSError: of a kind not met before"),
        (
            ClosedByBroker(541, "INTERNAL_ERROR - vhost 'app' is down"),
            "the broker takes no more connections here (vhost 'app' is down): close some, or see "
            "rabbitmqctl list_vhost_limits, list_user_limits and status",
        ),
        (
            ClosedByBroker(530, "NOT_ALLOWED - vhost app not found"),
            "there is no such virtual host: create the virtual host (rabbitmqctl add_vhost 'my "
            "app'), or check its name",
        ),
        (ClosedByBroker(540, "NOT_IMPLEMENTED - so"), "540 NOT_IMPLEMENTED - so"),
        (ClosedByBroker(0, "for a reason of its own"), "for a reason of its own"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_failure_to_connect_says_what_to_do(cause: Exception, reason: str) -> None:
    failure = failed(cause)

    assert type(failure) is ConnectionFailed
    assert str(failure) == f"can't connect to there, as user 'bob': {reason}"


def failed(cause: Exception, password: str = "s3cret-pass") -> ConnectionFailed:
    settings = ConnectionSettings(
        userid="bob", password=password, virtual_host="my app", connect_timeout=7
    )
    return connection_failed(settings, "there", cause, STOMP)


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (
            ClosedByBroker(
                403,
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For "
                "details see the broker logfile.",
            ),
            "the broker refused the login (PLAIN): check user and password (rabbitmqctl "
            "authenticate_user bob); RabbitMQ lets guest in from its own machine only",
        ),
        (
            ClosedByBroker(530, "NOT_ALLOWED - access to vhost 'my app' refused for user 'bob'"),
            "the user has no permissions in this virtual host: rabbitmqctl set_permissions -p 'my "
            "app' bob '.*' '.*' '.*' (patterns of the names for configure, write and read)",
        ),
        (
            ClosedByBroker(403, "ACCESS_REFUSED - for a reason of its own"),
            "ACCESS_REFUSED - for a reason of its own: check user and password, and that the user "
            "may enter the virtual host",
        ),
    ],
    ids=["password", "virtual host", "unknown"],
)
def test_a_user_who_is_not_let_in_is_told_so(cause: Exception, reason: str) -> None:
    failure = failed(cause)

    assert type(failure) is AccessRefused
    assert str(failure) == f"can't connect to there, as user 'bob': {reason}"


@pytest.mark.parametrize(
    ("name", "article"), [("AMQP 0-9-1", "an AMQP 0-9-1"), ("STOMP", "a STOMP")]
)
def test_a_protocol_has_its_article(name: str, article: str) -> None:
    assert PeerProtocol(name, 1, 2).with_article == article


def test_an_error_says_the_time_out_and_never_the_password() -> None:
    failure = failed(TimeoutError("timed out"), password="{timeout} of 7.0 seconds")

    assert "no answer within 7.0 seconds" in str(failure)
    assert "of 7.0 seconds" not in str(failure)
    assert "password" not in repr(failure)
