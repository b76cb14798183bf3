"""Every program in examples/, run as a user runs it: in memory, and over each broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest

from carrot import BrokerConnection, Publisher
from carrot.backends.base import BaseBackend
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

DEADLINE = 60.0  # seconds, for a program that takes about one

FEEDS = [
    "https://example.org/news.rss",
    "https://example.com/weather.atom",
    "https://example.net/comics.rss",
]

# What each program prints, by its name.
PRINTS = {
    "feed": [*(f"sent      {feed}" for feed in FEEDS), *(f"received  {feed}" for feed in FEEDS)],
    "request_reply": ["3 squared is 9", "4 squared is 16", "12 squared is 144"],
    "retries": [
        "attempt 1: book delivered",
        "attempt 1: no rowing boat here, later perhaps",
        "attempt 1: no submarine here, later perhaps",
        "attempt 2: rowing boat delivered",
        "attempt 2: no submarine here, later perhaps",
        "attempt 3: no submarine here, put aside",
        "failed: submarine",
    ],
    "several_queues": [
        "mail to ann@example.org: three new feeds",
        "text to +44 20 7946 0018: three new feeds",
    ],
    "send_feeds": [f"sent      {feed}" for feed in FEEDS],
    "topic_logs": [
        "everything  web.info         GET /feed 200",
        "everything  web.error        GET /comics 500",
        "everything  db.error         deadlock",
        "everything  db.replica.info  caught up",
        "errors      web.error        GET /comics 500",
        "errors      db.error         deadlock",
        "database    db.error         deadlock",
        "database    db.replica.info  caught up",
    ],
}
# What this needs, and ActiveMQ can't do.
NOT_OVER_ACTIVEMQ = {
    "retries": "dead_letters",
}
# The order of messages in different queues is the broker's.
IN_ANY_ORDER = {"several_queues"}
# Run in tests of their own: one has no end, the other is no program.
OTHERS = {"worker", "spool_backend"}


def environment(url: str | None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name != "CARROT_URL"}
    own["PYTHONPATH"] = str(ROOT)
    return {**own, "CARROT_URL": url} if url else own


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]


def run(name: str, url: str | None, *arguments: str) -> list[str]:
    """The lines that a program prints; it must end well, and say nothing on stderr."""
    done = subprocess.run(
        command(name, *arguments),
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


class Worker:
    """examples/worker.py as a process, whose lines are read as they come."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            command("worker"),
            env=environment(url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: Queue[str] = Queue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def next_line(self, within: float = DEADLINE) -> str:
        try:
            return self._lines.get(timeout=within)
        except Empty:
            raise AssertionError(f"the worker printed nothing within {within} s") from None

    def stop(self, number: int) -> int:
        """Send it a signal; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def run_and_compare(name: str, url: str | None) -> None:
    """Run a program, and compare what it prints."""
    in_order = sorted if name in IN_ANY_ORDER else list
    assert in_order(run(name, url)) == in_order(PRINTS[name])


def test_every_program_is_tried_here() -> None:
    programs = {path.stem for path in EXAMPLES.glob("*.py")}

    assert programs == {*PRINTS, *OTHERS}


@pytest.mark.parametrize("name", PRINTS)
def test_a_program_runs_in_memory(name: str) -> None:
    run_and_compare(name, None)


@pytest.mark.parametrize("name", PRINTS)
def test_a_program_runs_over_activemq_or_says_what_that_cannot_do(
    name: str, stomp_url: str
) -> None:
    capabilities = BrokerConnection(stomp_url).get_backend_cls().capabilities
    if feature := NOT_OVER_ACTIVEMQ.get(name):
        assert not getattr(capabilities, feature)
        done = subprocess.run(
            command(name),
            env=environment(stomp_url),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert f"NotSupported: the pystomp driver has no {feature}: " in done.stderr
    else:
        run_and_compare(name, stomp_url)


def test_feeds_go_from_process_to_process_over_activemq(stomp_url: str) -> None:
    feeds = [f"https://example.org/{number}.rss" for number in range(100)]
    with Worker(stomp_url) as worker:
        assert worker.next_line() == "waiting for feeds"
        run("send_feeds", stomp_url, *feeds)
        received = []
        while len(received) < len(feeds):
            # What the other tests left in the queue comes too, for nothing deletes it.
            line = worker.next_line()
            if line.removeprefix("received  ") in feeds:
                received.append(line)
        code = worker.stop(signal.SIGTERM)
        last = worker.next_line()

    assert received == [f"received  {feed}" for feed in feeds]
    assert (last, code) == ("stopped", 0)


@pytest.mark.parametrize("name", PRINTS)
def test_a_program_runs_over_a_broker_and_again(name: str, clean_broker: str) -> None:
    run_and_compare(name, clean_broker)
    run_and_compare(name, clean_broker)


def test_feeds_that_were_sent_by_one_process_are_imported_by_another(clean_broker: str) -> None:
    feeds = [f"https://example.org/{number}.rss" for number in range(100)]
    run("send_feeds", clean_broker, *feeds[:50])

    with Worker(clean_broker) as worker:
        assert worker.next_line() == "waiting for feeds"
        run("send_feeds", clean_broker, *feeds[50:])
        received = [worker.next_line() for _ in feeds]
        code = worker.stop(signal.SIGTERM)
        last = worker.next_line()

    assert received == [f"received  {feed}" for feed in feeds]
    assert (last, code) == ("stopped", 0)
    with BrokerConnection(clean_broker) as connection, closing(connection.channel()) as channel:
        assert channel.queue_purge("feed") == 0


def test_two_workers_share_the_feeds_and_each_is_imported_once(clean_broker: str) -> None:
    feeds = [f"https://example.org/{number}.rss" for number in range(100)]
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(clean_broker)) for _ in range(2)]
        assert [worker.next_line() for worker in workers] == ["waiting for feeds"] * 2

        run("send_feeds", clean_broker, *feeds)
        with BrokerConnection(clean_broker) as connection, closing(connection.channel()) as channel:
            eventually(lambda: _is_empty(channel), within=DEADLINE)
        codes = [worker.stop(signal.SIGTERM) for worker in workers]
        lines = []
        for worker in workers:
            while (line := worker.next_line()) != "stopped":
                lines.append(line)

    assert codes == [0, 0]
    assert sorted(lines) == sorted(f"received  {feed}" for feed in feeds)


def test_a_worker_that_is_killed_loses_no_feed(clean_broker: str) -> None:
    # So many that the first worker is not through with them when it is killed.
    feeds = [f"https://example.org/{number}.rss" for number in range(1000)]
    run("send_feeds", clean_broker, *feeds)
    with Worker(clean_broker) as worker:
        lines = {worker.next_line() for _ in range(10)}
        worker.stop(signal.SIGKILL)
        with suppress(AssertionError):
            while True:
                lines.add(worker.next_line(within=0.2))

    with Worker(clean_broker) as worker:
        assert worker.next_line() == "waiting for feeds"
        while not {f"received  {feed}" for feed in feeds} <= lines:
            lines.add(worker.next_line())
        code = worker.stop(signal.SIGTERM)

    assert code == 0


def _is_empty(channel: BaseBackend) -> bool:
    return channel.queue_declare("feed", True, False, False).message_count == 0


def test_a_worker_ends_well_at_ctrl_c(clean_broker: str) -> None:
    with Worker(clean_broker) as worker:
        worker.next_line()

        code = worker.stop(signal.SIGINT)

        assert (worker.next_line(), code) == ("stopped", 0)


def test_a_feed_that_is_no_feed_is_rejected(clean_broker: str) -> None:
    with Worker(clean_broker) as worker:
        worker.next_line()
        run("send_feeds", clean_broker, "https://example.org/before.rss")
        worker.next_line()

        with BrokerConnection(clean_broker) as connection:
            nonsense = Publisher(connection, exchange="feed", routing_key="importer")
            nonsense.send({"action": "sing"})
        line = worker.next_line()
        code = worker.stop(signal.SIGTERM)

    assert line == "rejected  {'action': 'sing'}"
    assert code == 0
