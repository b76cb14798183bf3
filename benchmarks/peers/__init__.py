"""The clients by name, each loaded in the worker that measures it."""

from __future__ import annotations

from importlib import import_module

from benchmarks.peers.base import Peer

#: In the order of the tables.
PEERS = {
    "carrot": "carrot_:CarrotPeer",
    "carrot-pyamqplib": "carrot_:PyamqplibPeer",
    "kombu": "kombu_:KombuPeer",
    "pika": "pika_:PikaPeer",
    "amqpstorm": "amqpstorm_:AmqpstormPeer",
    "rabbitpy": "rabbitpy_:RabbitpyPeer",
    "py-amqp": "pyamqp_:PyamqpPeer",
    "node": "node",
}

#: Python clients that are not carrot.
PYTHON = ("kombu", "pika", "amqpstorm", "rabbitpy", "py-amqp")

#: What to install for each, to report its version.
DISTRIBUTIONS = {
    "carrot": "carrot",
    "kombu": "kombu",
    "pika": "pika",
    "amqpstorm": "AMQPStorm",
    "rabbitpy": "rabbitpy",
    "py-amqp": "amqp",
}


def peer_class(name: str) -> type[Peer]:
    """The class of a Python client.

    :raises ImportError: its library is not installed.
    """
    module, _, class_name = PEERS[name].partition(":")
    cls: type[Peer] = getattr(import_module(f"benchmarks.peers.{module}"), class_name)
    return cls
