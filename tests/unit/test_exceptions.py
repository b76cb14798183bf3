"""The tree of errors: plain classes that hold what they are given."""

from __future__ import annotations

import pickle
import socket

import pytest

from carrot.exceptions import (
    AccessRefused,
    BackendNotFound,
    BrokerRefused,
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
    assert BrokerRefused("for some reason").code == 0


@pytest.mark.parametrize("error", [BrokerRefused, NotFound])
def test_an_error_prints_its_message_and_keeps_the_brokers_words(
    error: type[BrokerRefused | ChannelError],
) -> None:
    refusal = error("say it plainly", 404, "NOT_FOUND - in the broker's words")

    assert str(refusal) == "say it plainly"
    assert (refusal.code, refusal.text) == (404, "NOT_FOUND - in the broker's words")


def test_a_refusal_that_closes_the_connection_is_no_network_error() -> None:
    assert not issubclass(BrokerRefused, ConnectionError | ChannelError)


def test_a_failure_to_encode_has_no_message() -> None:
    assert EncodeError("no such type").message is None


def test_a_publish_error_holds_its_messages() -> None:
    message = Message(body=b"x")

    assert Unroutable("matched no queue", [message]).messages == (message,)
    assert PublishError("for some reason").messages == ()


@pytest.mark.parametrize(
    "error",
    [
        ChannelError.from_reply(404, "NOT_FOUND - in the broker's words", "say it plainly"),
        BrokerRefused("say it plainly", 540, "NOT_IMPLEMENTED - in the broker's words"),
        ConnectionLost("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_a_process_boundary(error: CarrotError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
