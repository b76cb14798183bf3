"""A worker that is told to stop finishes its message, gives the others back, and ends in time."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from carrot.backends.base import QueueDeclared
from carrot.connection import BrokerConnection
from carrot.exceptions import ConfigurationError
from carrot.messaging import Consumer, ConsumerSet, Publisher, stop_on_signals
from tests.brokers import RabbitMQ
from tests.faults.proxy import Proxy
from tests.waiting import eventually

DRIVERS = ("amqp", "pyamqplib")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
ROOT = Path(__file__).parents[2]
START = 20.0  # seconds in which a worker must have started, and Python with it
AT_ONCE = 2.0  # seconds in which one must end that has nothing to wait for
PREFETCH = 5

# What a message waits for comes over stdin, so that a test decides when it is finished.
WORKER = """
import sys
from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, ConsumerSet, stop_on_signals

url, kind, queue, seconds, prefetch_count = sys.argv[1:]


def say(text):
    print(text, flush=True)


def work(data, message):
    say(f"begun {data}")
    sys.stdin.readline()
    message.ack()
    say(f"done {data}")


def make(connection):
    consumer = Consumer(connection, queue, prefetch_count=int(prefetch_count))
    if kind == "set":
        consumer = ConsumerSet(connection, consumers=[consumer])
    consumer.register_callback(work)
    return consumer


with (
    BrokerConnection(url, on_connection_lost=lambda error, wait: say("lost")) as connection,
    make(connection) as consumer,
):
    with stop_on_signals(consumer, seconds=float(seconds)):
        say("started")
        consumer.wait()
    say("left")
say("closed")
"""


class Worker:
    """A worker in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.said.extend(line.rstrip("\n") for line in self._process.stdout)

    def expect(self, line: str) -> None:
        """Wait until it has said that."""
        eventually(lambda: line in self.said or self._process.poll() is not None, START)
        assert line in self.said

    def finish_message(self) -> None:
        """Let the message in hand be acked."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, within: float) -> tuple[int, float]:
        """The exit code, and the seconds until it was there."""
        started = time.monotonic()
        try:
            code = self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it ran on for {within} s, and said {self.said}") from None
        took = time.monotonic() - started
        self._reader.join(AT_ONCE)
        return code, took


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a worker: ``start_worker(url, queue)``; those that still run are killed at the end."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with ExitStack() as stack:

        def start(
            url: str, queue: str, kind: str = "consumer", seconds: float = 30, prefetch: int = 5
        ) -> Worker:
            process = subprocess.Popen(
                [sys.executable, script, url, kind, queue, str(seconds), str(prefetch)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return Worker(process)

        yield start


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """The driver under test, as URLs name it."""
    return request.param


@pytest.fixture
def url(driver: str, rabbitmq: RabbitMQ) -> str:
    return rabbitmq.url.replace("amqp://", f"{driver}://", 1)


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    """A proxy before the broker."""
    with Proxy(rabbitmq.port) as proxy:
        yield proxy


@pytest.fixture
def connection(rabbitmq: RabbitMQ) -> Iterator[BrokerConnection]:
    """The test's own."""
    with BrokerConnection(rabbitmq.url) as connection:
        yield connection


@pytest.fixture
def queue(connection: BrokerConnection, unique: Callable[..., str]) -> Iterator[str]:
    """A queue, which is deleted at the end."""
    name = unique("work")
    Consumer(connection, name).close()
    yield name
    connection.create_backend().queue_delete(name)


def look_at(connection: BrokerConnection, queue: str) -> QueueDeclared:
    """The queue, with the numbers of messages that wait in it and of its consumers."""
    with connection.create_backend() as backend:
        return backend.queue_declare(queue, durable=True, exclusive=False, auto_delete=False)


def consumers_of(connection: BrokerConnection, queue: str) -> int:
    return look_at(connection, queue).consumer_count


def waiting_in(connection: BrokerConnection, queue: str) -> list[tuple[int, bool]]:
    """What waits in the queue, in its order, and whether it was delivered before; it is taken."""
    with Consumer(connection, queue) as consumer:
        fetched = iter(lambda: consumer.fetch(auto_ack=True), None)
        return [(message.payload, message.redelivered) for message in fetched]


@contextmanager
def no_rude_end(broker: RabbitMQ) -> Iterator[None]:
    """Meanwhile each client says goodbye before it hangs up."""
    before = broker.log.stat().st_size
    yield

    def closed() -> str:
        log = broker.log.read_bytes()[before:].decode(errors="replace")
        return log if "closing AMQP connection" in log else ""

    assert "client unexpectedly closed" not in eventually(closed)


def with_message_in_hand(
    start_worker: StartWorker,
    connection: BrokerConnection,
    url: str,
    queue: str,
    kind: str = "consumer",
    seconds: float = 30,
) -> Worker:
    """A worker in the middle of message 0, to which 1 to 4 were sent ahead; 5 to 9 wait."""
    with Publisher(connection, routing_key=queue) as publisher:
        publisher.send_many(range(10))
    worker = start_worker(url, queue, kind=kind, seconds=seconds, prefetch=PREFETCH)
    worker.expect("begun 0")
    eventually(lambda: look_at(connection, queue).message_count == 10 - PREFETCH)
    return worker


# -- the first signal


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("kind", ["consumer", "set"])
def test_message_in_hand_is_finished_and_the_others_go_back(
    start_worker, connection, rabbitmq, url, queue, kind, number
):
    with no_rude_end(rabbitmq):
        worker = with_message_in_hand(start_worker, connection, url, queue, kind)

        worker.signal(number)
        worker.finish_message()
        code, _ = worker.end(within=AT_ONCE)

    assert code == 0
    assert worker.said == ["started", "begun 0", "done 0", "left", "closed"]
    assert consumers_of(connection, queue) == 0
    back = waiting_in(connection, queue)
    assert [data for data, _ in back] == list(range(1, 10))
    # The ack of message 0 may have called for one more.
    assert sum(redelivered for _, redelivered in back) in (PREFETCH - 1, PREFETCH)


@pytest.mark.parametrize("number", SIGNALS)
def test_idle_worker_stops_at_once(start_worker, connection, rabbitmq, url, queue, number):
    with no_rude_end(rabbitmq):
        worker = start_worker(url, queue)
        worker.expect("started")
        eventually(lambda: consumers_of(connection, queue) == 1)

        worker.signal(number)
        code, took = worker.end(within=AT_ONCE)

    assert code == 0
    assert took < AT_ONCE
    assert worker.said == ["started", "left", "closed"]
    assert consumers_of(connection, queue) == 0


def test_worker_without_its_broker_stops_at_once(start_worker, driver, proxy, connection, queue):
    worker = start_worker(proxy.url.replace("amqp://", f"{driver}://", 1), queue)
    eventually(lambda: consumers_of(connection, queue) == 1, START)
    proxy.refuse()
    proxy.cut_all()
    eventually(lambda: worker.said.count("lost") >= 2)

    worker.signal(signal.SIGTERM)
    code, _ = worker.end(within=AT_ONCE)

    assert code == 0
    assert worker.said[-2:] == ["left", "closed"]


# -- the second, and the end of patience


@pytest.mark.parametrize("number", SIGNALS)
def test_second_signal_ends_it_at_once(start_worker, connection, url, queue, number):
    worker = with_message_in_hand(start_worker, connection, url, queue)

    worker.signal(number)
    # Two of a kind that come together are one to the system.
    worker.signal(signal.SIGINT if number is signal.SIGTERM else signal.SIGTERM)
    code, _ = worker.end(within=AT_ONCE)

    assert code in {128 + signal.SIGTERM, 128 + signal.SIGINT}
    assert "done 0" not in worker.said
    back = waiting_in(connection, queue)
    assert [data for data, _ in back] == list(range(10))
    assert back[0] == (0, True)


def test_callback_that_hangs_is_ended_when_patience_is(start_worker, connection, url, queue):
    worker = with_message_in_hand(start_worker, connection, url, queue, seconds=1)

    worker.signal(signal.SIGTERM)
    code, took = worker.end(within=1 + AT_ONCE)

    assert code == 128 + signal.SIGTERM
    assert took >= 0.9
    assert [data for data, _ in waiting_in(connection, queue)] == list(range(10))


def test_patience_also_ends_where_the_broker_says_nothing(
    start_worker, driver, proxy, connection, queue
):
    worker = start_worker(proxy.url.replace("amqp://", f"{driver}://", 1), queue, seconds=1)
    eventually(lambda: consumers_of(connection, queue) == 1, START)
    proxy.link.freeze()

    worker.signal(signal.SIGTERM)
    code, took = worker.end(within=1 + AT_ONCE)

    assert code == 128 + signal.SIGTERM
    assert took >= 0.9


# -- stop() without signals


@pytest.mark.parametrize("kind", ["consumer", "set"])
def test_stop_from_another_thread_ends_the_wait(url, queue, kind):
    with BrokerConnection(url) as connection, _loop(connection, queue, kind) as loop:
        loop.register_callback(print)
        waiting = threading.Thread(target=loop.wait)
        waiting.start()
        eventually(lambda: loop.channel_open)

        loop.stop()

        waiting.join(AT_ONCE)
        assert not waiting.is_alive()
        assert not loop.channel_open
        assert connection.is_open


@pytest.mark.parametrize("kind", ["consumer", "set"])
def test_stop_in_a_callback_ends_the_wait_after_it(url, queue, kind):
    done: list[int] = []

    with BrokerConnection(url) as connection, _loop(connection, queue, kind) as loop:
        Publisher(connection, routing_key=queue).send_many(range(10))

        def work(data: int, message: object) -> None:
            if data == 2:
                loop.stop()
            message.ack()
            done.append(data)

        loop.register_callback(work)
        loop.wait(timeout=START)

        assert done == [0, 1, 2]
        assert [data for data, _ in waiting_in(connection, queue)] == list(range(3, 10))


def _loop(connection: BrokerConnection, queue: str, kind: str) -> Consumer | ConsumerSet:
    consumer = Consumer(connection, queue, prefetch_count=PREFETCH)
    return ConsumerSet(connection, consumers=[consumer]) if kind == "set" else consumer


# -- the handlers


class Nothing:
    """A loop that is never told to stop."""

    def stop(self) -> None:
        raise AssertionError("nobody sent a signal")


def test_signals_outside_the_main_thread_are_refused():
    errors: list[Exception] = []

    def use() -> None:
        try:
            with stop_on_signals(Nothing()):
                pass
        except ConfigurationError as exc:
            errors.append(exc)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(AT_ONCE)

    assert "main thread" in str(errors[0])


def test_handlers_come_back_when_no_signal_came():
    before = [signal.getsignal(number) for number in SIGNALS]

    with stop_on_signals(Nothing()):
        within = [signal.getsignal(number) for number in SIGNALS]

    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not set(within) & set(before)


def test_handlers_come_back_when_the_block_raises():
    before = [signal.getsignal(number) for number in SIGNALS]

    with pytest.raises(ZeroDivisionError), stop_on_signals(Nothing()):
        raise ZeroDivisionError

    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_handlers_are_there_without_a_block():
    before = [signal.getsignal(number) for number in SIGNALS]
    try:
        stop_on_signals(Nothing())

        assert not {signal.getsignal(number) for number in SIGNALS} & set(before)
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("loops", [(), (print,), (Nothing(), None)])
def test_what_can_not_be_stopped_is_refused(loops):
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(ConfigurationError, match="takes the Consumers and ConsumerSets"):
        stop_on_signals(*loops)

    assert signal.getsignal(signal.SIGTERM) is before


def test_only_the_signals_that_are_named_are_taken():
    before = signal.getsignal(signal.SIGINT)

    with stop_on_signals(Nothing(), signals=[signal.SIGTERM]):
        assert signal.getsignal(signal.SIGINT) is before
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
