"""The tree of errors, and the words in which a broker's refusals reach the user."""

from __future__ import annotations

import pickle
import socket

import pytest

from carrot.exceptions import (
    AccessRefused,
    BackendNotFound,
    CarrotError,
    ChannelError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    ConsumerNotFound,
    ContentDisallowed,
    ContentTooLarge,
    DecodeError,
    EncodeError,
    MessageStateError,
    Nacked,
    NotFound,
    OperationTimeout,
    PermissionDenied,
    PreconditionFailed,
    PublishError,
    ResourceLocked,
    SerializationError,
    SerializerNotInstalled,
    Unroutable,
)
from carrot.message import Message
from carrot.settings import ConnectionSettings


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (ConfigurationError, ValueError),
        (BackendNotFound, LookupError),
        (ConsumerNotFound, KeyError),
        (ConnectionFailed, ConnectionError),
        (ConnectionLost, ConnectionError),
        (AccessRefused, ConnectionFailed),
        (OperationTimeout, TimeoutError),
        (OperationTimeout, socket.timeout),
        (Unroutable, PublishError),
        (Nacked, PublishError),
        (EncodeError, SerializationError),
        (DecodeError, SerializationError),
        (ContentDisallowed, DecodeError),
        (SerializerNotInstalled, SerializationError),
        (NotFound, ChannelError),
    ],
)
def test_an_error_can_be_caught_as(error: type[Exception], base: type[Exception]) -> None:
    assert issubclass(error, base)
    assert issubclass(error, CarrotError)


@pytest.mark.parametrize(
    "error", [ConsumerNotFound, ConnectionLost, OperationTimeout, ConfigurationError]
)
def test_an_error_prints_its_text_without_quotes_or_numbers(error: type[Exception]) -> None:
    assert str(error("no consumer of 'feed'")) == "no consumer of 'feed'"


def test_an_error_without_a_text_prints_its_name() -> None:
    assert str(MessageStateError()) == "MessageStateError"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (311, ContentTooLarge),
        (403, PermissionDenied),
        (404, NotFound),
        (405, ResourceLocked),
        (406, PreconditionFailed),
        (540, ChannelError),
    ],
)
def test_a_reply_code_becomes_a_class(code: int, error: type[ChannelError]) -> None:
    raised = ChannelError.from_reply(code, "SOMETHING - the broker's words")

    assert type(raised) is error
    assert raised.code == code
    assert raised.text == str(raised) == "SOMETHING - the broker's words"


def test_an_error_made_by_hand_has_the_code_of_its_class() -> None:
    assert NotFound("no such queue").code == 404
    assert ChannelError("of some kind").code == 0


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
    error = ChannelError.from_reply(406, text)

    assert str(error) == explained
    assert error.text == text


def test_a_name_with_quotes_in_it_is_explained_whole() -> None:
    error = NotFound("NOT_FOUND - no queue 'it's' in vhost 'o'hara'")

    assert str(error).startswith("no queue 'it's' in virtual host 'o'hara'")


def test_a_message_that_is_too_large_has_a_class_though_rabbitmq_has_no_code_for_it() -> None:
    error = ChannelError.from_reply(
        406, "PRECONDITION_FAILED - message size 5000 is larger than configured max size 4096"
    )

    assert type(error) is ContentTooLarge
    assert error.code == 406
    assert str(error) == (
        "the message is 5000 bytes long, and the broker takes at most 4096: send less, or raise "
        "max_message_size in rabbitmq.conf"
    )


@pytest.mark.parametrize("code", ["", "320 "], ids=["native", "py-amqp"])
def test_a_lost_connection_says_why_and_stays_so_when_it_is_raised_again(code: str) -> None:
    error = ConnectionLost(f"the connection is gone: {code}CONNECTION_FORCED - at noon; see there")

    again = pickle.loads(pickle.dumps(ConnectionLost(str(error))))

    assert str(again) == str(error)
    assert str(error) == (
        "the connection is gone: the broker closed it, as an operator told it to or because it "
        "shuts down (connect again, as the next use does): at noon; see there"
    )


@pytest.mark.parametrize(
    ("told", "error", "reason"),
    [
        (
            "OSError: [Errno 113] No route to host",
            ConnectionFailed,
            "the network has no way there: check the address, the routes and the firewalls",
        ),
        (
            "SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
            "certificate has expired (_ssl.c:1006)",
            ConnectionFailed,
            "the broker's certificate is not valid today (certificate has expired): renew it, or "
            "set this machine's clock",
        ),
        (
            "SSLError: [SSL] PEM lib (_ssl.c:3926)",
            ConnectionFailed,
            "a file for TLS can't be loaded ([SSL] PEM lib): check ca_certs, certfile and keyfile "
            "in ssl={…}",
        ),
        (
            "SSLError: [SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required "
            "(_ssl.c:2580)",
            ConnectionFailed,
            "TLS failed ([SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate "
            "required): check ciphers, certfile and keyfile in ssl={…}, and what the broker's "
            "ssl_options ask for",
        ),
        (
            "UnicodeEncodeError: 'utf-8' codec can't encode character",
            ConnectionFailed,
            "user or password can't be encoded as UTF-8: were they decoded from bytes as they "
            "should?",
        ),
        (
            "541 INTERNAL_ERROR - access to vhost 'app' refused for user 'bob': vhost 'app' is "
            "down",
            ConnectionFailed,
            "the broker takes no more connections here (access to vhost 'app' refused for user "
            "'bob': vhost 'app' is down): close some, or see rabbitmqctl list_vhost_limits, "
            "list_user_limits and status",
        ),
        (
            "403 ACCESS_REFUSED - for a reason of its own",
            AccessRefused,
            "ACCESS_REFUSED - for a reason of its own: check user and password, and that the user "
            "may enter the virtual host",
        ),
        (
            "OSError: of a kind not met before",
            ConnectionFailed,
            "OSError: of a kind not met before",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_failure_to_connect_says_what_to_do(
    told: str, error: type[ConnectionFailed], reason: str
) -> None:
    settings = ConnectionSettings(userid="bob", password="s3cret-pass", virtual_host="app")

    failure = ConnectionFailed.from_cause(settings, "there", told)

    assert type(failure) is error
    assert str(failure) == f"can't connect to there, as user 'bob': {reason}"


def test_a_publish_error_holds_its_messages() -> None:
    message = Message(body=b"x")

    assert Unroutable("matched no queue", [message]).messages == (message,)
    assert PublishError("for some reason").messages == ()


def test_a_channel_error_survives_a_process_boundary() -> None:
    error = ChannelError.from_reply(404, "NOT_FOUND - no queue 'feed' in vhost '/'")

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), copy.code, copy.text, str(copy)) == (
        NotFound,
        404,
        error.text,
        str(error),
    )
