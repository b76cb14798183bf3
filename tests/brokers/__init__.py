"""Private brokers for the tests: on free ports, in a temporary folder, gone at the end."""

from tests.brokers.activemq import ActiveMQ
from tests.brokers.process import BrokerError
from tests.brokers.rabbitmq import ErlangHome, RabbitMQ, amqp_version
from tests.brokers.zeromq import ZeroMQ

__all__ = ["ActiveMQ", "BrokerError", "ErlangHome", "RabbitMQ", "ZeroMQ", "amqp_version"]
