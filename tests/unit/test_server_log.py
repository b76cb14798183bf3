"""A client's input decides neither how many lines the broker logs nor how long they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from pamqp import commands

from carrot.backends.amqp.framing import PublishEncoder
from carrot.backends.amqp.methods import encode_method
from carrot.broker.connection import Connection
from carrot.broker.limited_log import LINES, VALUE, LimitedLog, shortened
from carrot.broker.virtual_host import VirtualHost
from carrot.server.journal import Journal
from carrot.server.protocol import FRAME_MAX, PROTOCOL_HEADER
from carrot.server.server import Server
from carrot.server.session import PATIENCE
from carrot.server.virtual_host import ServedVirtualHost

LOGIN = b"".join(
    (
        encode_method(commands.Connection.StartOk, 0, mechanism="PLAIN", response="\0ann\0secret"),
        encode_method(commands.Connection.TuneOk, 0, frame_max=FRAME_MAX, heartbeat=0),
        encode_method(commands.Connection.Open, 0, virtual_host="/"),
        encode_method(commands.Channel.Open, 1),
    )
)
#: Characters that a line of the log may have.
LINE = 800


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> LimitedLog:
    return LimitedLog(logging.getLogger("carrot.server"), lines=3, interval=60, clock=clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What handlers write, tracebacks included."""
    return caplog.text.splitlines()


# -- the log


def test_lines_over_the_limit_are_counted_and_told_of_later(log, clock, caplog):
    for number in range(10):
        log.write(logging.WARNING, "line %s", number)
    clock.now += 59.9
    log.report()
    before = caplog.messages.copy()

    clock.now += 0.1
    log.report()
    log.write(logging.WARNING, "line %s", "of the next minute")

    assert before == ["line 0", "line 1", "line 2"]
    assert caplog.messages[3:] == [
        "7 more lines were left out: too many in a minute",
        "line of the next minute",
    ]


def test_minute_in_which_all_was_written_is_not_told_of(log, clock, caplog):
    log.write(logging.WARNING, "line")
    clock.now += 60
    log.report()

    assert caplog.messages == ["line"]


def test_end_tells_at_once_what_was_left_out(log, caplog):
    for _ in range(4):
        log.write(logging.WARNING, "line")
    log.report(at_once=True)

    assert caplog.messages[-1].startswith("1 more lines were left out")


def test_value_is_one_short_line_of_printable_text(log, caplog):
    log.write(logging.WARNING, "from %s", "ann\n2026-01-01 CRITICAL forged\x1b[2J" + "x" * 10_000)

    (message,) = caplog.messages
    assert message.startswith("from ann\\n2026-01-01 CRITICAL forged\\x1b[2Jxxx")
    assert message.endswith("x…")
    assert len(message) < VALUE + 20


def test_short_text_stays_as_it_is():
    assert shortened("ümläut 🥕") == "ümläut 🥕"


@pytest.mark.parametrize(("level", "is_shown"), [(logging.DEBUG, True), (logging.WARNING, False)])
def test_traceback_is_for_debug_only(log, caplog, level, is_shown):
    caplog.set_level(level, "carrot.server")
    try:
        raise ValueError("wrong")
    except ValueError as exc:
        log.write(logging.ERROR, "fault: %s", exc, exc=exc)

    assert ("Traceback" in caplog.text) is is_shown
    assert caplog.messages[0] == "fault: wrong"


def test_line_below_the_level_counts_for_nothing(log, caplog):
    caplog.set_level(logging.ERROR, "carrot.server")
    for _ in range(10):
        log.write(logging.WARNING, "not shown")
    log.write(logging.ERROR, "shown")

    assert caplog.messages == ["shown"]


# -- the server


class FakeListener:
    """Gives the messages of clients, and takes what is sent to them."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.sent: dict[bytes, list[bytes]] = {}
        self.closed = False

    def has_message(self) -> bool:
        return bool(self.messages)

    def wait(self, timeout: int) -> tuple[bool, bool]:
        return False, False

    def wake(self) -> None:
        pass

    def receive_identity(self) -> bytes:
        return self.messages[0][0]

    def receive(self) -> bytes:
        return self.messages.pop(0)[1]

    def receive_first(self) -> tuple[bytes, int]:
        identity, data = self.messages.pop(0)
        return data, int(identity)

    def disconnected(self) -> Iterator[int]:
        return iter(())

    def send(self, identity: bytes, data: bytes) -> None:
        self.sent.setdefault(identity, []).append(data)

    def hang_up(self, identity: bytes) -> None:
        self.send(identity, b"")

    def close(self) -> None:
        self.closed = True


def serve(listener: FakeListener, count: int, frames: bytes) -> None:
    """Serve *count* clients that log in and say *frames*, each on a connection of its own."""
    server = Server(listener, Journal())
    for number in range(count):
        identity = b"%d" % number
        listener.messages += [(identity, PROTOCOL_HEADER), (identity, LOGIN + frames)]
    while listener.messages:
        server._turn(0)
    server.stop()
    server.run()


def nested_headers(levels: int) -> bytes:
    """A message whose headers are tables in tables; not ASCII, so the broker encodes it again."""
    table = b"\x01aS\x00\x00\x00\x02\xc3\xbc"
    for _ in range(levels):
        table = b"\x01aF" + len(table).to_bytes(4) + table
    headers = b"\x20\x00" + len(table).to_bytes(4) + table
    return PublishEncoder(1, FRAME_MAX).encode("", "q", False, headers, b"x")


MALICIOUS = {
    "headers of 100 levels": nested_headers(100),
    "headers of 250 levels": nested_headers(250),
    "headers of 10000 levels": nested_headers(10_000),
    "garbage": b"\xff" * 1000,
    "unknown method": b"\x01\x00\x01\x00\x00\x00\x04\x00\xff\x00\xff\xce",
}


@pytest.mark.parametrize("frames", MALICIOUS.values(), ids=MALICIOUS)
def test_thousand_malicious_clients_are_few_short_lines(caplog, frames):
    listener = FakeListener()

    serve(listener, 1000, frames)

    said = lines(caplog)
    assert len(said) == LINES + 1
    assert max(map(len, said)) < LINE
    assert "dropped a client (user " in said[0]
    assert ": FRAME_ERROR - " in said[0]
    assert f"{1000 - LINES} more lines were left out" in said[-1]
    # Each was told, and hung up on.
    assert [sent[-1] for sent in listener.sent.values()] == [b""] * 1000
    assert listener.closed


def test_thousand_faults_of_the_broker_are_few_short_lines_without_traceback(caplog, monkeypatch):
    def fail(*args: object) -> None:
        raise RuntimeError("a text that a client has a hand in\n" * 1000)

    monkeypatch.setattr(ServedVirtualHost, "bind_queue", fail)

    serve(FakeListener(), 1000, encode_method(commands.Queue.Bind, 1, queue="q", exchange="x"))

    said = lines(caplog)
    assert len(said) == LINES + 1
    assert max(map(len, said)) < LINE
    assert "a client's request met a fault of the broker: RuntimeError: a text" in said[0]
    assert f"{__file__}:" in said[0]
    assert "Traceback" not in caplog.text


def test_stranger_and_login_in_a_long_name_leave_no_long_line(caplog):
    name = "ann\n" * 60
    login = encode_method(
        commands.Connection.StartOk, 0, mechanism="PLAIN", response=f"\0{name}\0secret"
    )
    listener = FakeListener()
    listener.messages += [(b"1", b"GET / HTTP/1.1\r\n" * 1000), (b"2", PROTOCOL_HEADER),
                          (b"2", login + b"\xff" * 100)]  # fmt: skip
    server = Server(listener, Journal())

    while listener.messages:
        server._turn(0)

    (line,) = lines(caplog)
    assert len(line) < LINE
    assert "user unknown, virtual host none" in line
    assert "secret" not in line


def test_silent_client_is_one_line(caplog):
    listener = FakeListener()
    listener.messages += [(b"1", PROTOCOL_HEADER)]
    server = Server(listener, Journal())
    server._turn(0)

    server._tick(server._last_tick + 0.5)
    server._tick(server._last_tick + PATIENCE + 0.5)
    assert lines(caplog) == []  # the broker itself may have stood still
    for _ in range(int(PATIENCE / 0.5) + 1):
        server._tick(server._last_tick + 0.5)

    (line,) = lines(caplog)
    assert "silent" in line


# -- the broker


def test_dead_letters_without_room_for_x_death_are_few_lines(caplog):
    channel = Connection(VirtualHost()).channel()
    # The first death makes the headers too large for a second one.
    for name, following in (("q", "second"), ("second", "third")):
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": following}
        channel.queue_declare(name, arguments={"x-max-length": 0, **arguments})
    headers = {"long": "y" * 119_950}

    for _ in range(3 * LINES):
        channel.publish("", "q", b"x", {"headers": headers})

    assert len(lines(caplog)) == LINES
    assert max(map(len, lines(caplog))) < LINE
