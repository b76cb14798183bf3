"""What is compared: one line of the plan, measured for several peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers import PEERS

CARROTS = ("carrot", "carrot-pyamqplib")
EVERYBODY = tuple(PEERS)
#: Those whose documentation lets several threads publish over one connection.
THREADED = (*CARROTS, "amqpstorm", "rabbitpy")


@dataclass(frozen=True)
class Case:
    """A comparison: the same work for each of *peers*.

    :ivar name: short, for the command line and the JSON file.
    :ivar title: for people.
    :ivar peers: who can do it; the others are shown as "-".
    :ivar messages: at most so many in one run of one peer.
    :ivar fill: messages are put into the queue before, for the worker to consume.
    :ivar broker: it needs RabbitMQ.
    :ivar reference: the peer that the others are compared with.
    """

    name: str
    title: str
    scenario: str
    peers: tuple[str, ...] = EVERYBODY
    messages: int = 20_000
    fill: bool = False
    broker: bool = True
    reference: str = "carrot"
    options: Mapping[str, Any] = field(default_factory=dict)


def grouped(number: float) -> str:
    """A whole number as people read it: 10 000."""
    return f"{number:,.0f}".replace(",", " ")
