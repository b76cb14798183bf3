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
            "queue 'feed' is exclusive to another connection: use that connection, another "
            "name, or declare it there with exclusive=False",
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
