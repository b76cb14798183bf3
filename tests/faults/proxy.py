"""A TCP proxy between a client and a broker, which does to their bytes what bad networks do."""

from __future__ import annotations

import socket
import threading
from collections import deque
from typing import Self

from tests.brokers.process import free_port
from tests.faults.link import PATIENCE, Faults, Link, Plan

__all__ = ["Faults", "Link", "Plan", "Proxy"]

HOST = "127.0.0.1"


class Proxy:
    """Listens on a port of its own, and passes each connection on to the broker.

    `with Proxy(broker.port) as proxy:` listens, and ends all connections at the end.

    :param target_port: the broker's, on 127.0.0.1.
    :param frames: pass AMQP frames whole; False for peers that speak something else.
    """

    def __init__(self, target_port: int, frames: bool = True) -> None:
        self.port = free_port()
        self.connections = 0  # accepted so far
        self._target_port = target_port
        self._frames = frames
        self._lock = threading.Lock()
        self._next_plans: deque[Plan] = deque()
        self._plan = Plan()
        self._links: list[Link] = []
        self._link: Link | None = None
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        # Nobody accepts what is connected to this, so nobody answers.
        self._silence = socket.create_server((HOST, 0))

    @property
    def url(self) -> str:
        """An amqp URL for the user guest and the virtual host ``/``."""
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    @property
    def link(self) -> Link:
        """The last connection, running or ended."""
        assert self._link is not None, "nobody has connected"
        return self._link

    @property
    def links(self) -> list[Link]:
        """The running connections, the oldest first."""
        with self._lock:
            return [link for link in self._links if link.is_open]

    # -- what happens to connections

    def plan(self, plan: Plan) -> None:
        """Let this happen to every connection from now on."""
        with self._lock:
            self._plan = plan

    def plan_next(self, *plans: Plan) -> None:
        """Let these happen to the next connections, one to each; then :meth:`plan` counts."""
        with self._lock:
            self._next_plans.extend(plans)

    def cut_all(self, rst: bool = False) -> None:
        """End all running connections, on both sides."""
        for link in self.links:
            link.cut(rst)

    # -- listening

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=128)
            self._thread = threading.Thread(
                target=self._accept, args=(self._listener,), daemon=True
            )
            self._thread.start()

    def refuse(self) -> None:
        """Refuse connections until :meth:`listen`; the running ones go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)  # which wakes its thread
            assert self._thread is not None
            self._thread.join(2 * PATIENCE)
            listener.close()

    def close(self) -> None:
        """Refuse connections, and end the running ones."""
        self.refuse()
        self.cut_all()
        self._silence.close()

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            link = self._connect(client)
            with self._lock:
                self.connections += 1
                if link is None:
                    continue
                self._links = [*(other for other in self._links if other.is_open), link]
                self._link = link
            link.start()

    def _connect(self, client: socket.socket) -> Link | None:
        """The link to the broker; when that is down, the client is hung up on."""
        with self._lock:
            plan = self._next_plans.popleft() if self._next_plans else self._plan
        port = self._silence.getsockname()[1] if plan.silent else self._target_port
        try:
            broker = socket.create_connection((HOST, port), PATIENCE)
        except OSError:
            client.close()
            return None
        return Link(client, broker, plan, self._frames)
