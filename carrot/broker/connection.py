"""Connection: a client's channels, and the threads that wait for their deliveries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import ClassVar

from carrot.broker.channel import Channel, close_channels
from carrot.broker.virtual_host import VirtualHost
from carrot.deadline import Deadline, shorter
from carrot.exceptions import ConnectionLost, OperationTimeout


class Connection:
    """A client of the broker, whose lock guards it.

    :param broker: the virtual host.
    :param user: the name that a message's ``user_id`` must be.
    :cvar channel_cls: the class of its channels.
    :ivar waiting: a queue for each thread that waits for deliveries; whatever is put in wakes it.
    """

    channel_cls: ClassVar[type[Channel]] = Channel

    def __init__(self, broker: VirtualHost, user: str = "guest") -> None:
        self.broker = broker
        self.user = user
        self.is_open = True
        self._channels: dict[Channel, None] = {}
        # A SimpleQueue's put() may interrupt itself, so a wake-up needs no lock and is safe in a
        # signal handler.
        self.waiting: set[SimpleQueue[None]] = set()
        with broker.lock:
            broker.connections[self] = None

    def check_open(self) -> None:
        """:raises ConnectionLost: :meth:`close` was called."""
        if not self.is_open:
            raise ConnectionLost("the connection to the memory broker was closed here")

    def channel(self) -> Channel:
        """A new channel."""
        with self.broker.lock:
            self.check_open()
            channel = self.channel_cls(self, self.broker)
            self._channels[channel] = None
            return channel

    def remove(self, channel: Channel) -> None:
        """Forget a closed channel."""
        self._channels.pop(channel, None)

    def close(self) -> None:
        """Close all channels and delete the exclusive queues. Again is harmless."""
        with self.broker.lock:
            if not self.is_open:
                return
            self.is_open = False
            close_channels(tuple(self._channels))
            for queue in [q for q in self.broker.queues.values() if q.owner is self]:
                self.broker.remove_queue(queue)
            self.broker.connections.pop(self, None)
        self.wake()

    def forget(self) -> None:
        """Close it soon: nobody has it any more.

        This runs in garbage collections, in the middle of anything, so it takes no lock: the next
        thread that asks the broker for something, or waits, closes it.
        """
        self.broker.forgotten.append(self)
        self.broker.wake_sleepers()

    # -- waiting

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        """Return once ``ready()`` is true, asking again after each delivery to this connection.

        :param timeout: seconds; None is no limit.
        :raises OperationTimeout: not ready in time.
        :raises ConnectionLost: the connection was closed.
        """
        deadline = Deadline.after(timeout)
        wake_ups: SimpleQueue[None] = SimpleQueue()
        # Before the first check, so that no wake-up gets lost between checking and sleeping.
        self.waiting.add(wake_ups)
        try:
            while True:
                idle = self._run_timers()
                if ready():
                    return
                left = deadline.left
                if left == 0:
                    raise OperationTimeout(f"nothing came within {timeout} seconds")
                _sleep(wake_ups, shorter(idle, left))
        finally:
            self.waiting.discard(wake_ups)

    def _run_timers(self) -> float | None:
        """Run the timers that are due; returns the seconds until the next one, or None."""
        with self.broker.lock:
            self.broker.close_forgotten()
            self.check_open()
            timers = self.broker.timers
            timers.run()
            return None if timers.next_due is None else max(0.0, timers.next_due - timers.clock())

    def wake(self) -> None:
        """Let waiting threads check again; needs no lock."""
        for wake_ups in tuple(self.waiting):
            wake_ups.put(None)


def _sleep(wake_ups: SimpleQueue[None], seconds: float | None) -> None:
    """Sleep until woken, or for so many *seconds*."""
    with suppress(Empty):
        wake_ups.get(timeout=seconds)
