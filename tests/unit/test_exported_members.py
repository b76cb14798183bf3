"""The public names, and what importing carrot costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import carrot
import carrot.connection
import carrot.exceptions
import carrot.messaging

PUBLIC = {
    carrot: {
        "AMQPConnection",
        "BrokerConnection",
        "CarrotError",
        "Consumer",
        "ConsumerSet",
        "DjangoAMQPConnection",
        "DjangoBrokerConnection",
        "Message",
        "Messaging",
        "Publisher",
        "Retry",
        "Backoff",
        "stop_on_signals",
        "__version__",
    },
    carrot.messaging: {
        "Consumer",
        "ConsumerSet",
        "Message",
        "Messaging",
        "Publisher",
        "stop_on_signals",
    },
    carrot.connection: {
        "AMQPConnection",
        "AMQPConnectionException",
        "BrokerConnection",
        "DjangoAMQPConnection",
        "DjangoBrokerConnection",
        "DummyConnection",
        "get_django_conninfo",
    },
}

EXCEPTIONS = {
    "AccessRefused",
    "BackendNotFound",
    "BrokerRefused",
    "CarrotError",
    "ChannelError",
    "ConfigurationError",
    "ConnectionFailed",
    "ConnectionLost",
    "ConsumerCancelled",
    "ConsumerNotFound",
    "ContentDisallowed",
    "ContentTooLarge",
    "DecodeError",
    "EncodeError",
    "MessageStateError",
    "Nacked",
    "NotFound",
    "NotSupported",
    "OperationTimeout",
    "PermissionDenied",
    "PreconditionFailed",
    "PublishError",
    "ResourceLocked",
    "SerializationError",
    "SerializerNotInstalled",
    "Unroutable",
}


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_the_public_names_are_these_and_all_are_there(module: object) -> None:
    assert set(module.__all__) == PUBLIC[module]  # type: ignore[attr-defined, index]
    assert all(hasattr(module, name) for name in PUBLIC[module])  # type: ignore[index]


def test_every_error_is_a_carrot_error() -> None:
    errors = {
        name
        for name, value in vars(carrot.exceptions).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }

    assert errors == EXCEPTIONS
    assert all(
        issubclass(getattr(carrot.exceptions, name), carrot.CarrotError) for name in EXCEPTIONS
    )


def test_the_names_of_old_are_the_same_classes() -> None:
    assert carrot.AMQPConnection is carrot.BrokerConnection
    assert carrot.DjangoAMQPConnection is carrot.DjangoBrokerConnection
    assert carrot.Message is carrot.messaging.Message


def test_importing_carrot_is_silent_and_loads_no_optional_library() -> None:
    code = (
        "import carrot, sys; "
        "print(sorted({'amqp', 'pamqp', 'django', 'yaml', 'msgpack', 'orjson'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
