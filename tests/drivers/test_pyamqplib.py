"""What only the py-amqp driver does; what it shares with the other is in test_amqp_drivers.py."""

import ssl
from collections.abc import Iterator

import amqp
import pytest

from carrot.backends import pyamqplib
from carrot.connection import BrokerConnection
from carrot.exceptions import NotSupported


@pytest.fixture
def connection(amqp_url: str) -> Iterator[BrokerConnection]:
    with BrokerConnection(amqp_url, backend_cls="pyamqplib") as connection:
        yield connection


def test_channel_of_the_backend_is_py_amqps(connection):
    assert isinstance(connection.create_backend().channel, amqp.Channel)
    assert isinstance(connection.get_channel(), amqp.Channel)
    assert isinstance(connection.connection.channel(), amqp.Channel)


@pytest.mark.parametrize("alias", ["amqplib", "pyamqplib"])
def test_old_aliases_name_this_driver(amqp_url, alias):
    connection = BrokerConnection(amqp_url, backend_cls=alias)
    by_url = BrokerConnection(amqp_url.replace("amqp:", f"{alias}:", 1))

    assert connection.get_backend_cls() is by_url.get_backend_cls() is pyamqplib.Backend


def test_message_can_be_built_of_one_of_py_amqps(connection):
    raw = amqp.Message(b'{"a": 1}', content_type="application/json", application_headers={"h": 1})

    message = pyamqplib.Message(connection.create_backend(), raw)

    assert message.payload == {"a": 1}
    assert message.headers == {"h": 1}
    assert message._amqp_message is raw


def test_ssl_context_is_not_supported():
    connection = BrokerConnection(
        "localhost", ssl=ssl.create_default_context(), backend_cls="pyamqplib"
    )

    with pytest.raises(NotSupported, match="SSLContext"):
        connection.connect()
