"""A stream over a link that a test controls: turns, answers, refusals, the end."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pamqp import commands, frame

from carrot import exits, signal_safe
from carrot.backends.amqp.framing import HEARTBEAT_FRAME
from carrot.backends.amqp.session import Session
from carrot.backends.sockets import heart, writer
from carrot.backends.sockets.poll import READ, SelectorPoll
from carrot.backends.sockets.socket import describe_progress
from carrot.backends.sockets.stream import Stream
from carrot.backends.sockets.timer import Timer
from carrot.backends.sockets.transport import StreamTransport
from carrot.deadline import Deadline, bounded_by, now
from carrot.exceptions import BrokerRefused, ConnectionLost, OperationTimeout
from carrot.settings import ConnectionSettings
from tests.conftest import Watching
from tests.waiting import eventually

CONSUME, DECLARE = commands.Basic.Consume.index, commands.Exchange.Declare.index


class FakeLink:
    """What a transport reads comes from ``say``; what it writes goes to ``written``."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.has_room = threading.Event()
        self.has_room.set()
        self.is_stuck = threading.Event()
        self.queued = deque[int]()
        self._said: deque[bytes] = deque()
        self._news = threading.Condition()
        self._is_closed = False

    def say(self, data: bytes) -> None:
        with self._news:
            self._said.append(data)
            self._news.notify_all()

    def wait(self, timeout: float | None) -> bool:
        with self._news:
            self._news.wait_for(lambda: self._said or self._is_closed, timeout)
            return bool(self._said or self._is_closed)

    def wake(self) -> None:
        pass

    def read(self) -> bytes | None:
        with self._news:
            return self._said.popleft() if self._said else b""

    def send(self, data: bytes) -> int:
        if not self.has_room.is_set():
            return 0
        if data:
            self.written.append(data)
        return len(data)

    def write_if_room(self, data: bytes) -> bytes:
        return data[self.send(data) :]

    def write(self, data: bytes, sent: int = 0) -> None:
        self.is_stuck.set()
        if not self.has_room.wait(10):
            raise TimeoutError("no room")
        self.written.append(data[sent:])

    def set_write_timeout(self, timeout: float | None) -> None:
        pass

    def unsent(self) -> int:
        return self.queued.popleft() if self.queued else 0

    def close(self) -> None:
        with self._news:
            self._is_closed = True
            self._news.notify_all()

    def abandon(self) -> None:
        self.close()


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def transport(link: FakeLink) -> Iterator[StreamTransport]:
    transport = StreamTransport(link, ConnectionSettings(), "there", Session)
    yield transport
    transport.stream.lose(ConnectionAbortedError("the test is over"))


@pytest.fixture
def stream(transport: StreamTransport) -> Stream:
    return transport.stream


@contextmanager
def in_thread(target: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    yield
    thread.join(5)
    assert not thread.is_alive()


def close_over(code: int, text: str, method: int) -> bytes:
    return frame.marshal(commands.Connection.Close(code, text, method >> 16, method & 0xFFFF), 0)


# -- turns of writing


def test_a_write_waits_for_anothers_until_the_deadline_and_leaves_nothing(
    link: FakeLink, stream: Stream, transport: StreamTransport
) -> None:
    link.has_room.clear()
    with in_thread(lambda: stream.write(b"slow")):
        assert link.is_stuck.wait(5)
        begun = now()

        with bounded_by(Deadline.after(0.1)), pytest.raises(OperationTimeout, match=r"0\.1 sec"):
            stream.write(b"late")

        assert now() - begun < 1
        link.has_room.set()
    stream.write(b"next")
    assert link.written == [b"slow", b"next"]
    assert transport.is_open


def test_a_write_goes_on_when_anothers_is_over(link: FakeLink, stream: Stream) -> None:
    link.has_room.clear()
    with in_thread(lambda: stream.write(b"first")):
        assert link.is_stuck.wait(5)
        with in_thread(lambda: stream.write(b"second")):
            link.has_room.set()

    assert link.written == [b"first", b"second"]


def test_no_lock_is_held_while_a_write_waits_for_room(link: FakeLink, stream: Stream) -> None:
    link.has_room.clear()
    with in_thread(lambda: stream.write(b"slow")):
        assert link.is_stuck.wait(5)

        assert not stream._writer._lock.locked()
        assert not stream._ending.locked()
        stream._writer.write_if_room(HEARTBEAT_FRAME)  # the timer comes by, and goes

        link.has_room.set()
    assert link.written == [b"slow"]


def test_an_interrupt_in_a_write_ends_the_connection_and_frees_the_turn(
    link: FakeLink, stream: Stream, transport: StreamTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(data: bytes, sent: int = 0) -> None:
        raise KeyboardInterrupt

    link.has_room.clear()
    monkeypatch.setattr(link, "write", interrupted)

    with pytest.raises(KeyboardInterrupt):
        stream.write(b"half")

    assert not transport.is_open
    with pytest.raises(ConnectionLost, match="KeyboardInterrupt interrupted a write"):
        stream.write(b"next")


def test_threads_that_wait_to_write_hear_of_the_end(link: FakeLink, stream: Stream) -> None:
    link.has_room.clear()
    failures: list[Exception] = []

    def write() -> None:
        try:
            stream.write(b"x")
        except ConnectionLost as exc:
            failures.append(exc)

    with in_thread(lambda: stream.write(b"slow")):
        assert link.is_stuck.wait(5)
        with in_thread(write):
            stream.lose(ConnectionResetError("gone"))
            link.has_room.set()

    assert len(failures) == 1


# -- answers


def test_an_answer_is_waited_for_while_its_request_is_still_going_out(
    link: FakeLink, stream: Stream
) -> None:
    stream._writer.is_draining = True
    link.queued.extend(range(12, 0, -1))  # one byte less at each look
    begun = now()

    with pytest.raises(OperationTimeout):
        stream.wait_for_answer(lambda: False, 0.2)

    assert 12 * 0.05 <= now() - begun < 12 * 0.05 + 0.2 + 1


def test_a_request_that_went_out_has_its_patience_and_no_more(stream: Stream) -> None:
    begun = now()

    with pytest.raises(OperationTimeout, match=r"nothing came from there within 0\.2 seconds"):
        stream.wait_for_answer(lambda: False, 0.2)

    assert 0.2 <= now() - begun < 1


def test_heartbeats_do_not_prolong_the_wait_for_an_answer(link: FakeLink, stream: Stream) -> None:
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(0.02):
            link.say(HEARTBEAT_FRAME)

    begun = now()
    with in_thread(beat):
        with pytest.raises(OperationTimeout):
            stream.wait_for_answer(lambda: False, 0.2)
        is_over.set()

    assert now() - begun < 0.2 * 1.25 + 1


def test_own_heartbeats_do_not_prolong_the_wait_for_an_answer(
    link: FakeLink, stream: Stream
) -> None:
    link.queued.extend([8, 0] * 100)  # one is on its way at every second look
    begun = now()

    with pytest.raises(OperationTimeout):
        stream.wait_for_answer(lambda: False, 0.2)

    assert now() - begun < 0.2 * 1.25 + 1


def test_the_threads_deadline_bounds_the_whole_wait(link: FakeLink, stream: Stream) -> None:
    stream._writer.is_draining = True
    link.queued.extend(range(1000, 0, -1))
    begun = now()

    with bounded_by(Deadline.after(0.2)), pytest.raises(OperationTimeout):
        stream.wait_for_answer(lambda: False, 0.4)

    assert now() - begun < 1


# -- refusals


def test_a_request_over_which_the_connection_is_closed_is_refused(
    link: FakeLink, stream: Stream
) -> None:
    link.say(close_over(540, "NOT_IMPLEMENTED - no global qos", CONSUME))

    with pytest.raises(BrokerRefused, match="no global qos") as caught:
        stream.wait_for_answer(lambda: False, 5, CONSUME)

    assert caught.value.code == 540
    with pytest.raises(ConnectionLost):
        stream.write(b"later")


def test_each_thread_that_asked_the_same_gets_an_error_of_its_own(
    link: FakeLink, stream: Stream, transport: StreamTransport
) -> None:
    refusals: list[BrokerRefused] = []

    def ask() -> None:
        try:
            stream.wait_for_answer(lambda: not transport.is_open, 5, CONSUME)
        except BrokerRefused as exc:
            refusals.append(exc)

    with in_thread(ask), in_thread(ask):
        eventually(lambda: stream._turns.is_taken)
        link.say(close_over(540, "NOT_IMPLEMENTED", CONSUME))

    first, second = refusals
    assert first is not second


@pytest.mark.parametrize(
    ("code", "method", "request_"),
    [(540, CONSUME, DECLARE), (540, CONSUME, None), (320, 0, DECLARE), (504, DECLARE, DECLARE)],
    ids=["another request", "a publish", "an operator", "a confused state"],
)
def test_what_is_not_a_refusal_of_this_request_is_a_loss(
    link: FakeLink, stream: Stream, code: int, method: int, request_: int | None
) -> None:
    link.say(close_over(code, "CLOSED", method))

    with pytest.raises(ConnectionLost, match="CLOSED"):
        stream.wait_for_answer(lambda: False, 5, request_)


def test_a_refusal_that_names_no_method_concerns_every_request(
    link: FakeLink, stream: Stream
) -> None:
    link.say(close_over(503, "COMMAND_INVALID - unknown exchange type 'x'", 0))

    with pytest.raises(BrokerRefused, match="no exchange type 'x'"):
        stream.wait_for_answer(lambda: False, 5, DECLARE)


def test_a_thread_that_only_waits_for_deliveries_is_not_refused(
    link: FakeLink, stream: Stream
) -> None:
    link.say(close_over(540, "NOT_IMPLEMENTED", CONSUME))

    with pytest.raises(ConnectionLost):
        stream.wait_for(lambda: False, 5)


# -- what the program is told


def test_what_ends_the_connection_is_logged_when_nobody_is_reading(
    link: FakeLink, stream: Stream, watching: Watching
) -> None:
    link.say(close_over(320, "CONNECTION_FORCED", 0))

    with pytest.raises(ConnectionLost):
        stream.wait_for(lambda: False, 5)

    eventually(lambda: watching.texts == ["received Connection.Close on channel 0"])
    assert not watching.held


def test_a_block_is_known_at_once_and_told_in_another_thread(
    link: FakeLink, stream: Stream, transport: StreamTransport
) -> None:
    told: list[tuple[str | None, int]] = []

    class Watcher:
        def on_blocked(self, reason: str | None) -> None:
            told.append((reason, threading.get_ident()))

    watcher = Watcher()
    transport.watch(watcher.on_blocked)
    link.say(frame.marshal(commands.Connection.Blocked("no disk"), 0))
    stream.wait_for(lambda: transport.blocked, 5)
    assert transport.blocked == stream.blocked == "no disk"
    link.say(frame.marshal(commands.Connection.Unblocked(), 0))
    stream.wait_for(lambda: transport.blocked is None, 5)

    eventually(lambda: [reason for reason, _ in told] == ["no disk", None])
    assert threading.get_ident() not in [ident for _, ident in told]


# -- as the interpreter ends


class Channel:
    is_open = True

    def check_open(self) -> None: ...


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(signal_safe, "start", refuse)
    for module in (heart, writer):
        monkeypatch.setattr(module, "timer", Timer())


@pytest.mark.usefixtures("no_threads")
def test_without_a_timer_what_is_kept_back_goes_at_once(link: FakeLink, stream: Stream) -> None:
    stream._writer.last_write = now() + 60  # as if just now

    stream.write_soon(b"ack", Channel())

    assert link.written == [b"ack"]


@pytest.mark.usefixtures("no_threads")
def test_without_a_timer_the_thread_that_reads_sends_heartbeats(
    link: FakeLink, stream: Stream
) -> None:
    stream.start_heart(0.2)

    with pytest.raises((OperationTimeout, ConnectionLost)):
        stream.wait_for(lambda: False, 0.35)

    assert HEARTBEAT_FRAME in link.written


def test_after_the_exit_handler_nothing_is_kept_back(
    link: FakeLink, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "has_run", True)
    stream._writer.last_write = now() + 60

    stream.write_soon(b"ack", Channel())

    assert link.written == [b"ack"]


def test_the_exit_handler_lets_every_connection_finish_within_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares: list[float] = []

    class Connection:
        def finish(self, timeout: float) -> None:
            shares.append(timeout)
            raise OSError("already gone")

    connections = [Connection() for _ in range(5)]
    monkeypatch.setattr(exits, "has_run", False)
    monkeypatch.setattr(exits, "_watched", set(connections))

    exits._finish_all()

    assert exits.has_run
    assert len(shares) == 5
    assert 0.9 * exits.TIMEOUT / 5 < shares[0] <= exits.TIMEOUT / 5
    assert shares[-1] <= exits.TIMEOUT


# -- small things


def test_progress_is_described_in_a_fitting_unit() -> None:
    assert describe_progress(3_200_000, 24_000_000) == "3.2 of 24 MB"
    assert describe_progress(0, 180_000) == "0 of 180 kB"
    assert describe_progress(7, 40) == "7 of 40 bytes"
    assert describe_progress(-5, 40) == "0 of 40 bytes"


def test_polling_works_without_the_systems_poll() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        poll = SelectorPoll()
        poll.register(ours, READ)
        assert poll.poll(0) == []

        theirs.send(b"x")

        assert [fd for fd, _ in poll.poll(1000)] == [ours.fileno()]
