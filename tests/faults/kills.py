"""Ways to kill a connection under the program that uses it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from pamqp import commands, frame

from carrot.connection import BrokerConnection
from carrot.exceptions import CarrotError
from tests.faults.proxy import Faults, Link, Plan, Proxy

#: How long a connection stands still before it is cut, in seconds, at most: longer than a call may
#: be late, else nobody would see that it waits for more than its deadline.
FROZEN = 3.0


class Kills(Protocol):
    """What a stress run does to its connection."""

    def kill(self, chance: random.Random) -> str:
        """Kill it in one of several ways, and say in which."""

    def end(self) -> None:
        """Kill no more, and let connections live that are being made."""

    def close(self) -> None:
        """Free everything, threads included."""


class KillsInMemory:
    """Closes the transport of a connection behind the back of what uses it."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection

    def kill(self, chance: random.Random) -> str:
        with suppress(CarrotError):
            self._connection.connection.close()
        return "closed"

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass


class KillsByProxy:
    """Cuts what goes through a proxy.

    :param speaks_amqp: the broker's own words can be put in between.
    """

    def __init__(self, proxy: Proxy, speaks_amqp: bool) -> None:
        self._proxy = proxy
        self._ways: list[Callable[[Link, random.Random], str]] = [
            self._fin,
            self._rst,
            self._at_a_byte,
            self._in_the_handshake,
            self._refused,
            self._frozen,
        ]
        if speaks_amqp:
            self._ways.append(self._told)

    def kill(self, chance: random.Random) -> str:
        links = self._proxy.links
        if not links:
            return "not connected"
        return chance.choice(self._ways)(links[-1], chance)

    def end(self) -> None:
        self._proxy.plan(Plan())
        self._proxy.listen()

    def close(self) -> None:
        self._proxy.close()

    def _fin(self, link: Link, chance: random.Random) -> str:
        link.cut()
        return "FIN"

    def _rst(self, link: Link, chance: random.Random) -> str:
        link.cut(rst=True)
        return "RST"

    def _at_a_byte(self, link: Link, chance: random.Random) -> str:
        chance.choice([link.up, link.down]).cut_after(chance.randrange(1, 3000))
        return "cut at a byte"

    def _in_the_handshake(self, link: Link, chance: random.Random) -> str:
        faults = Faults(cut_at=chance.randrange(1, 800))
        up = chance.random() < 0.5
        self._proxy.plan_next(Plan(up=faults) if up else Plan(down=faults))
        link.cut()
        return "cut, and again in the handshake"

    def _refused(self, link: Link, chance: random.Random) -> str:
        self._proxy.refuse()
        link.cut()
        _pause(chance.uniform(0.02, 0.3))
        self._proxy.listen()
        return "refused"

    def _frozen(self, link: Link, chance: random.Random) -> str:
        link.freeze()
        _pause(chance.uniform(0.1, FROZEN))
        link.cut()
        return "frozen, then cut"

    def _told(self, link: Link, chance: random.Random) -> str:
        close = commands.Connection.Close(320, "CONNECTION_FORCED - maintenance", 0, 0)
        with suppress(OSError):  # it ends this very moment, for another reason
            link.send_down(frame.marshal(close, 0))
        return "connection.close"


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
