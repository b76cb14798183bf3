"""Lives: which life of a backend's channel is the current one; opens it, and replaces it whole."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from carrot import forks
from carrot.backends.base import BaseTransport
from carrot.backends.seam.life import Life
from carrot.backends.seam.limits import Require
from carrot.backends.seam.topology import DeclaredTopology
from carrot.deadline import held
from carrot.exceptions import ConnectionLost
from carrot.forks import Stage
from carrot.logs import Where


class ConnectionLike(Protocol):
    """What a backend needs of its BrokerConnection: the live transport, opened if need be."""

    @property
    def connection(self) -> BaseTransport: ...
    @property
    def where(self) -> Where: ...


class Lives:
    """The current life of a channel, which one assignment replaces.

    ``_lock`` guards that assignment and is held for nothing else. Readers take a reference, and
    use it to the end. The turn (see :meth:`changing`) is held while a life is opened.

    :ivar current: None before the first use, and after :meth:`close`.
    :ivar topology: what was declared, and is declared again on each new life before it is used by
        those who count on it.
    """

    def __init__(self, connection: ConnectionLike, require: Require) -> None:
        self._connection = connection
        self.current: Life | None = None
        self.topology = DeclaredTopology(require)
        self._count = self._closes = 0
        self._is_confirming = False
        self._channel_limit = 0
        self.renew_locks()
        _of_this_process.add(self)

    def renew_locks(self) -> None:
        """Make the locks, also in a forked child, whose parent's threads may hold the old ones."""
        self._turn = threading.RLock()
        self._lock = threading.Lock()
        if self.current is not None:
            self.current.renew_locks()

    def changing(self, patience: float | None = None) -> AbstractContextManager[Any]:
        """This thread's turn to open a life, or to change its consumers.

        :param patience: seconds to wait for it; None: only the thread's deadline counts.
        :raises OperationTimeout: other threads took longer than this one may wait.
        """
        return held(self._turn, "changing the channel", patience)

    def live(self) -> Life:
        """The current life, opened if there is none.

        :raises ChannelError: or BrokerRefused: why the broker ended the last one, to its next
            user, once.
        :raises ConnectionFailed: there is no connection, and none can be made.
        """
        life = self.current
        if life is not None and life.over is not None and not (life.is_told or life.is_blamed):
            life.raise_over()
        transport = self._connection.connection
        if life is not None and life.transport is transport and life.is_open:
            return life
        with self.changing():
            life = self.current
            if life is not None and life.transport is transport and life.is_open:
                return life  # another thread was faster
            return self._open(transport)

    def _open(self, transport: BaseTransport) -> Life:
        """Replace the current life, during this thread's turn."""
        closes, former = self._closes, self.current
        for forgotten in transport.take_abandoned():
            forgotten.close()
        self._count += 1
        life = Life(self._count, transport, transport.channel(), self._connection.where)
        try:
            if former is not None:
                life.replace(former)
            life.is_restored = not self.topology
            if self._is_confirming:
                life.select_confirms()
            if self._channel_limit:
                with life.used() as channel:
                    channel.qos(self._channel_limit, True)
        except BaseException:
            life.close()
            raise
        with self._lock:
            is_wanted = self._closes == closes
            if is_wanted:
                self.current = life
        if not is_wanted:
            life.close()
            raise ConnectionLost("the channel was closed here while it was being opened")
        transport.attach(life)
        return life

    def restored(self) -> Life:
        """The current life, on which everything that was declared on others is there."""
        life = self.live()
        if not life.is_restored:
            with self.changing():
                while not life.is_restored:
                    # What is deleted meanwhile has to be declared once more.
                    cancellations = life.cancellations
                    with life.used() as channel:
                        self.topology.restore(channel)
                    life.is_restored = cancellations == life.cancellations
        return life

    def adopt(self, topology: DeclaredTopology) -> None:
        """What was declared through another backend is to be there on this one, too."""
        self.topology.add(topology)
        if self.current is not None:
            self.current.is_restored = not self.topology

    @contextmanager
    def batching(self) -> Iterator[None]:
        """While in this context, this thread's messages may be held back, to go out together."""
        with self.live().channel.batching():
            yield

    def delivering(self) -> Life:
        """The life there is; settling a message never opens another.

        :raises ConnectionLost: there is none, so the broker redelivers what it had delivered.
        """
        life = self.current
        if life is None or not life.is_open:
            raise ConnectionLost(
                "the channel that delivered this message is gone; the broker will redeliver it"
            )
        return life

    def select_confirms(self) -> Life:
        """The current life, which confirms what is published, as all that follow it will."""
        life = self.live()
        if life.confirms is None:
            with self.changing():
                life.select_confirms()
                self._is_confirming = True
        return life

    def qos(self, prefetch_count: int, apply_global: bool, life: Life | None = None) -> None:
        """Limit unsettled deliveries; a limit of the channel holds on all lives that follow.

        :param life: default the current one.
        """
        with (life or self.live()).used() as channel:
            channel.qos(prefetch_count, apply_global)
            if apply_global:
                self._channel_limit = prefetch_count
            elif self._channel_limit:
                # RabbitMQ lifts the channel's limit when one for consumers is set.
                channel.qos(self._channel_limit, True)

    def close(self) -> None:
        """Close the current life, if there is one; the next use opens another."""
        with self._lock:
            life, self.current = self.current, None
            self._closes += 1
        self._channel_limit = 0
        if life is not None:
            life.close()


# All of this process, whose locks a forked child inherits as they are at that moment.
_of_this_process: weakref.WeakSet[Lives] = weakref.WeakSet()


def _renew_all_locks() -> None:
    for lives in list(_of_this_process):
        lives.renew_locks()


forks.register(Stage.BACKENDS, after_in_child=_renew_all_locks)
