"""Connections: which broker, and whether the connection to it is alive.

- ``broker_connection``: BrokerConnection, which programs make; its ``options``, the ``hosts`` that
  it tries in turn, and its ``live_transport``
- ``django``: with the settings of a Django project
- ``dummy``: to the memory backend, whatever the arguments
"""

from carrot.connection.broker_connection import (
    AMQPConnection,
    AMQPConnectionException,
    BrokerConnection,
)
from carrot.connection.django import DjangoAMQPConnection, DjangoBrokerConnection
from carrot.connection.dummy import DummyConnection
from carrot.settings import get_django_conninfo

__all__ = [
    "AMQPConnection",
    "AMQPConnectionException",
    "BrokerConnection",
    "DjangoAMQPConnection",
    "DjangoBrokerConnection",
    "DummyConnection",
    "get_django_conninfo",
]
