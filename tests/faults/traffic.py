"""Traffic: a publisher and a consumer at work, while a test breaks what they work with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any, Self

from carrot.connection import BrokerConnection
from carrot.message import Message
from carrot.messaging import Consumer, Publisher
from tests.faults.ledger import Ledger
from tests.waiting import eventually

UNDER_LOAD = 100  # messages received before a test begins to break things
PATIENCE = 20.0  # seconds for what must happen when nothing is broken any more


class Traffic:
    """Sends numbers and receives them, in two threads that have a connection each.

    `with Traffic(broker.url, queue) as traffic:` begins when it is under load, and at the end
    waits for all that was confirmed. What ends one of the threads is raised.

    :param queue: durable, like the messages in it, unless the options say otherwise.
    :param exchange: it is bound to this one, by its name.
    :param interval: seconds between two messages.
    :param chunk: messages that are sent in one go: alone, by send_many() and in a batch, in turn.
    :param expected: what sending may raise: the message then counts as failed.
    :ivar errors: the expected errors that came.
    :ivar times_lost: how often publisher and consumer were told that a connection was lost.
    """

    publisher: Publisher
    consumer: Consumer

    def __init__(
        self,
        url: str,
        queue: str,
        *,
        exchange: str = "",
        interval: float = 0.0,
        chunk: int = 1,
        expected: tuple[type[Exception], ...] = (),
        connection_options: Mapping[str, Any] | None = None,
        publisher_options: Mapping[str, Any] | None = None,
        consumer_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.ledger = Ledger()
        self.errors: list[Exception] = []
        self.times_lost = 0
        self._connect = partial(
            BrokerConnection,
            url,
            **{"on_connection_lost": self._count_loss, **(connection_options or {})},
        )
        self._queue, self._exchange = queue, exchange
        self._interval, self._expected = interval, expected
        self._chunk = chunk
        self._publisher_options = publisher_options or {}
        self._consumer_options = consumer_options or {}
        self._declared, self._ending = threading.Event(), threading.Event()
        self._may_send = threading.Event()
        self._may_send.set()
        self._last_sent = self._last_received = 0
        self._arrived = time.monotonic()
        self._longest_silence = 0.0
        self._fatal: list[BaseException] = []
        self._consuming = self._thread(self._consume)
        self._publishing = self._thread(self._publish)

    # -- the two threads

    def _thread(self, work: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as exc:
                self._fatal.append(exc)

        return threading.Thread(target=run, name=work.__name__, daemon=True)

    def _consume(self) -> None:
        with self._connect() as connection:
            self.consumer = Consumer(
                connection,
                self._queue,
                self._exchange,
                self._queue,
                callbacks=[self._receive],
                **self._consumer_options,
            )
            self._declared.set()
            self.consumer.wait()

    def _receive(self, number: int, message: Message) -> None:
        now = time.monotonic()
        self._longest_silence = max(self._longest_silence, now - self._arrived)
        self._arrived = now
        self.ledger.received(number)
        self._last_received = max(self._last_received, number)
        message.ack()

    def _publish(self) -> None:
        with self._connect() as connection:
            self.publisher = Publisher(
                connection, self._exchange, self._queue, **self._publisher_options
            )
            ways = cycle([self._send_alone, self._send_many, self._send_in_a_batch])
            while not self._ending.wait(self._interval):
                if self._may_send.wait(self._interval or 0.01):
                    if self._chunk == 1:
                        self._send(self.publisher.send, self._last_sent + 1)
                    else:
                        next(ways)()

    def _send_alone(self) -> None:
        for _ in range(self._chunk):
            self._send(self.publisher.send, self._last_sent + 1)

    def _send_many(self) -> None:
        numbers = range(self._last_sent + 1, self._last_sent + 1 + self._chunk)
        self._send(lambda *numbers: self.publisher.send_many(numbers), *numbers)

    def _send_in_a_batch(self) -> None:
        def send(*numbers: int) -> None:
            with self.publisher.batch() as batch:
                for number in numbers:
                    batch.send(number)

        self._send(send, *range(self._last_sent + 1, self._last_sent + 1 + self._chunk))

    def _send(self, send: Callable[..., object], *numbers: int) -> None:
        self._last_sent = numbers[-1]
        for number in numbers:
            self.ledger.attempted(number)
        try:
            send(*numbers)
        except self._expected as exc:
            self.errors.append(exc)
            write = self.ledger.failed
        else:
            write = self.ledger.confirmed
        for number in numbers:
            write(number)

    def _count_loss(self, error: Exception, interval: float) -> None:
        self.times_lost += 1

    # -- watching

    def check(self) -> None:
        """Both threads are at work.

        :raises BaseException: what ended one of them.
        """
        if self._fatal:
            raise self._fatal[0]

    def wait_for_flow(self, within: float = PATIENCE) -> float:
        """Wait until a message that is sent from now on has arrived.

        :returns: the seconds that it took.
        """
        begun, before = time.monotonic(), self._last_sent

        def messages_flow() -> bool:
            self.check()
            return self._last_received > before

        eventually(messages_flow, within)
        return time.monotonic() - begun

    @property
    def sent(self) -> int:
        """How many messages were sent so far, or failed."""
        return self._last_sent

    def take_silence(self) -> float:
        """The longest time without a message since this was last asked, in seconds."""
        silence, self._longest_silence = self._longest_silence, 0.0
        return silence

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Send nothing; begins when everything on its way has arrived."""
        self._may_send.clear()
        try:
            eventually(self._all_arrived, PATIENCE)
            yield
        finally:
            self._may_send.set()

    def _all_arrived(self) -> bool:
        self.check()
        assert not self.ledger.lost, self.ledger.summary()
        return not self.ledger.unsettled

    # -- beginning and end

    def __enter__(self) -> Self:
        self._consuming.start()
        eventually(lambda: self.check() or self._declared.is_set(), PATIENCE)
        self._publishing.start()
        eventually(lambda: self.check() or self._last_received >= UNDER_LOAD, PATIENCE)
        self.take_silence()
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        self._ending.set()
        try:
            self._publishing.join(PATIENCE)
            if exc is None:
                self.check()
                eventually(self._all_arrived, PATIENCE)
        finally:
            self.consumer.stop()
            self._consuming.join(PATIENCE)
        if exc is None:
            self.check()
            assert not any(thread.is_alive() for thread in (self._publishing, self._consuming))


def told(times: list[float]) -> str:
    """The number, the median and the worst of some times in seconds."""
    return f"{len(times)} times, median {median(times):.3f} s, worst {max(times):.3f} s"
