"""A private cluster of RabbitMQ nodes, whose nodes the tests kill and restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from secrets import token_hex

from tests.brokers.process import Started
from tests.brokers.rabbitmq import ErlangHome, RabbitMQ
from tests.waiting import eventually

ELECTION_TIMEOUT = 30.0  # seconds


class Cluster(Started):
    """Several nodes with the same queues and exchanges.

    :param size: how many nodes.
    """

    def __init__(self, size: int = 3) -> None:
        self._home = ErlangHome()
        self.nodes = [RabbitMQ(name=f"carrot{n}", home=self._home) for n in range(1, size + 1)]

    @property
    def url(self) -> str:
        """An amqp URL that names all nodes, for the user guest and the virtual host ``/``."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"amqp://guest:guest@{hosts}//"

    def start(self) -> None:
        """Start all nodes at once, and join them; it takes some 20 seconds.

        :raises BrokerError: one of them didn't start or join.
        """
        self._share_cookie()
        self._home.start()
        _at_once(node.start for node in self.nodes)
        first, *others = self.nodes
        _at_once(partial(node.ctl, "stop_app") for node in others)
        # One after the other: each join changes the table of members.
        for node in others:
            node.ctl("join_cluster", first.node)
        _at_once(partial(node.ctl, "start_app") for node in others)

    def _share_cookie(self) -> None:
        # Nodes that start at the same time would each make one of their own.
        cookie = self._home.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(token_hex(16))
            cookie.chmod(0o400)

    def leader_of(self, queue: str) -> RabbitMQ:
        """The node that leads a quorum queue, after the election if there is one.

        :raises AssertionError: nobody leads it, or there is no such queue.
        """
        return eventually(partial(self._leader_now, queue), ELECTION_TIMEOUT)

    def _leader_now(self, queue: str) -> RabbitMQ:
        asked = next(node for node in self.nodes if node.is_running)
        queues = json.loads(asked.ctl("list_queues", "name", "leader", "--formatter", "json"))
        leaders = {found["name"]: found["leader"] for found in queues}
        for node in self.nodes:
            if node.node == leaders.get(queue) and node.is_running:
                return node
        raise AssertionError(f"nobody leads the queue {queue!r}; the leaders are {leaders}")

    def remove(self) -> None:
        """Kill all nodes and remove all that they had."""
        for node in self.nodes:
            node.remove()
        self._home.remove()


def _at_once(actions: Iterable[Callable[[], object]]) -> None:
    """Do all, each in a thread of its own; raise what the first of them raised."""
    actions = list(actions)
    with ThreadPoolExecutor(len(actions) or 1) as threads:
        for done in [threads.submit(action) for action in actions]:
            done.result()
