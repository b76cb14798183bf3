"""The log records: what each looks like, and that none tells a secret or costs for nothing."""

from __future__ import annotations

import inspect
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from carrot import logs
from carrot.exceptions import ConnectionLost, DecodeError, Nacked
from carrot.serialization import registry

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "logging.rst"

FIELDS = {
    "host", "vhost", "queue", "exchange", "consumer_tag", "delivery_tag", "attempt",
}  # fmt: skip

WHERE = logs.Where("rabbit-1:5672", "feeds")
BROKER = {"host": "rabbit-1:5672", "vhost": "feeds"}
CONSUMER = {"queue": "work", "consumer_tag": "tag-1"}

# A call of each function, its level, and the text and fields of its record.
CALLS: dict[str, tuple[tuple[Any, ...], str, str, dict[str, object]]] = {
    "connected": (
        (WHERE,), "INFO", "connected to rabbit-1:5672, virtual host 'feeds'", BROKER,
    ),
    "connection_lost": (
        (WHERE, ConnectionLost("the peer hung up")), "WARNING",
        "lost the connection to rabbit-1:5672, virtual host 'feeds': the peer hung up", BROKER,
    ),
    "reconnecting": (
        (WHERE, 3, 0.4567, ConnectionLost("nobody listens")), "INFO",
        "trying to go on at rabbit-1:5672, virtual host 'feeds', in 0.46 seconds, attempt 3, "
        "because of: nobody listens",
        {**BROKER, "attempt": 3},
    ),
    "recovered": (
        (WHERE, 1.5), "INFO",
        "recovered 1.50 seconds after the loss: rabbit-1:5672, virtual host 'feeds'", BROKER,
    ),
    "blocked": (
        (WHERE, "low on memory"), "WARNING",
        "rabbit-1:5672, virtual host 'feeds', accepts no messages for now: low on memory", BROKER,
    ),
    "unblocked": (
        (WHERE,), "INFO", "rabbit-1:5672, virtual host 'feeds', accepts messages again", BROKER,
    ),
    "consumer_cancelled": (
        ("work", "tag-1", "the queue was deleted"), "WARNING",
        "the broker cancelled consumer 'tag-1' of queue 'work': the queue was deleted", CONSUMER,
    ),
    "channel_closed": (
        (WHERE, 406, "PRECONDITION_FAILED - timed out"), "WARNING",
        "rabbit-1:5672, virtual host 'feeds', closed a channel: 406 PRECONDITION_FAILED - timed "
        "out",
        BROKER,
    ),
    "message_refused": (
        ("orders", Nacked("the queue is full", [])), "WARNING",
        "a message to exchange 'orders' was refused: the queue is full", {"exchange": "orders"},
    ),
    "undecodable": (
        ("work", "tag-1", 7, DecodeError("json can't decode this")), "WARNING",
        "message 7 of queue 'work' can't be decoded: DecodeError",
        {**CONSUMER, "delivery_tag": 7},
    ),
    "no_ack_lost": (
        ("work", "tag-1", 8), "WARNING",
        "lost 8 messages of queue 'work': received with no_ack, and not processed before the "
        "channel ended",
        CONSUMER,
    ),
    "given_back_as_failed": (
        ("work", "tag-1", 5), "WARNING",
        "gave 5 unprocessed messages back to queue 'work', which counts each as a failed delivery "
        "if it is a quorum queue",
        CONSUMER,
    ),
    "slow_callback": (
        ("work", "tag-1", 12.34, 10), "WARNING",
        "a callback for queue 'work' took 12.3 seconds, longer than a heartbeat of 10 seconds",
        CONSUMER,
    ),
    "method_sent": (("Queue.Declare", 1), "DEBUG", "sent Queue.Declare on channel 1", {}),
    "method_received": (
        ("Queue.DeclareOk", 1), "DEBUG", "received Queue.DeclareOk on channel 1", {},
    ),
}  # fmt: skip


class Kept(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What is logged, of every level."""
    logger, handler = logging.getLogger("carrot"), Kept()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.records
    logger.setLevel(level)
    logger.removeHandler(handler)


def write(name: str) -> None:
    getattr(logs, name)(*CALLS[name][0])


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name in FIELDS}


# -- the table


def test_every_record_has_a_function_and_a_test() -> None:
    functions = {
        name
        for name, function in inspect.getmembers(logs, inspect.isfunction)
        if function.__module__ == "carrot.logs" and not name.startswith("_")
    }

    assert [record.name for record in logs.RECORDS] == list(dict.fromkeys(
        record.name for record in logs.RECORDS
    ))  # fmt: skip
    assert {record.name for record in logs.RECORDS} == set(CALLS)
    assert functions == {*CALLS, "is_debugging", "is_heard"}


@pytest.mark.parametrize("record", logs.RECORDS, ids=lambda record: record.name)
def test_the_fields_are_among_those_that_are_promised(record: logs.Record) -> None:
    assert set(record.fields) <= FIELDS
    assert record.level in (logging.DEBUG, logging.INFO, logging.WARNING)


@pytest.mark.parametrize("name", CALLS)
def test_a_record_has_its_level_text_and_fields(
    name: str, records: list[logging.LogRecord]
) -> None:
    _, level, text, fields = CALLS[name]

    write(name)

    (record,) = records
    assert (record.name, record.levelname, record.getMessage()) == ("carrot", level, text)
    assert fields_of(record) == fields


def test_a_record_names_the_place_that_reports_it(records: list[logging.LogRecord]) -> None:
    logs.connected(WHERE)
    logs.method_sent("Basic.Ack", 1)

    assert [record.funcName for record in records] == [
        "test_a_record_names_the_place_that_reports_it"
    ] * 2


def test_a_record_passes_through_a_queue_to_another_process() -> None:
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(queue)  # type: ignore[arg-type]
    logger = logging.getLogger("carrot")
    logger.addHandler(handler)
    try:
        write("connection_lost")
    finally:
        logger.removeHandler(handler)

    record = queue.get(timeout=5)
    assert record.getMessage() == CALLS["connection_lost"][2]
    assert fields_of(record) == BROKER


# -- while nobody listens


class Untouchable:
    """An error that fails the test when it is made to text."""

    def __str__(self) -> str:
        raise AssertionError("formatted, and nobody listens")


@pytest.mark.parametrize(
    "write_one",
    [
        lambda why: logs.connection_lost(WHERE, why),
        lambda why: logs.reconnecting(WHERE, 1, 0.1, why),
        lambda why: logs.blocked(WHERE, why),
        lambda why: logs.channel_closed(WHERE, 404, why),
        lambda why: logs.consumer_cancelled("work", "tag-1", why),
        lambda why: logs.message_refused("orders", why),
        lambda why: logs.undecodable("work", "tag-1", why, why),
        lambda why: logs.method_sent(why, 1),
    ],
)
def test_nothing_is_formatted_when_the_level_is_off(
    write_one: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="carrot"):
        write_one(Untouchable())

    assert not caplog.records


def test_debugging_follows_the_level_of_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="carrot"):
        assert logs.is_debugging()
    with caplog.at_level(logging.INFO, logger="carrot"):
        assert not logs.is_debugging()


def run(code: str) -> tuple[str, str]:
    """What a program prints, on both streams."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip(), done.stderr.strip()


def test_a_program_without_logging_does_not_import_it() -> None:
    code = (
        "import sys; from carrot import logs; where = logs.Where('h', 'v'); "
        "logs.connection_lost(where, 'gone'); logs.method_sent('Queue.Bind', 1); "
        "print('logging' in sys.modules)"
    )

    assert run(code) == ("False", "")


@pytest.mark.parametrize("order", ["import logging; {}", "{}; import logging"])
def test_a_program_that_sets_nothing_up_sees_no_record(order: str) -> None:
    code = order.format("from carrot import logs") + (
        "; logs.connection_lost(logs.Where('h', 'v'), 'gone')"
        "; print(logging.getLogger('carrot').handlers)"
    )

    printed, said = run(code)

    assert re.fullmatch(r"\[<NullHandler[^]]*>\]", printed)
    assert said == ""


def test_a_program_that_imports_logging_first_finds_the_handler_at_once() -> None:
    code = "import logging; import carrot.logs; print(len(logging.getLogger('carrot').handlers))"

    assert run(code) == ("1", "")


@pytest.mark.parametrize("order", ["import logging; {}", "{}; import logging"])
def test_a_program_that_sets_logging_up_sees_the_records(order: str) -> None:
    code = order.format("from carrot import logs") + (
        "; logging.basicConfig(level='INFO', format='%(levelname)s %(name)s %(message)s')"
        "; logs.unblocked(logs.Where('h', '/'))"
    )

    assert run(code) == ("", "INFO carrot h, virtual host '/', accepts messages again")


# -- secrets, and other things that have no place in a log


def test_a_password_in_an_address_is_left_out(records: list[logging.LogRecord]) -> None:
    logs.connection_lost(
        WHERE, "can't use amqp://ann:s3:c/r@t@one:5672,amqps://ben:s3cret@two/feeds"
    )

    text = records[0].getMessage()
    assert "s3" not in text
    assert "r@t" not in text
    assert "ann" in text


def test_a_password_is_left_out_where_a_long_text_is_cut(
    records: list[logging.LogRecord],
) -> None:
    address = "amqp://ann:s3cret@one:5672"
    for length in range(logs.LONGEST - len(address), logs.LONGEST + 1):
        logs.connection_lost(WHERE, "x" * length + " " + address)

    assert len(records) == len(address) + 1
    assert not [record for record in records if "s3" in record.getMessage()]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"card": 4929', "application/json"),
        (b"card: [4929", "application/x-yaml"),
        (b"\x80\x04card4929", "application/x-python-serialize"),
        (b"card 4929 \xff", "text/plain"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_not_quoted(
    body: bytes, content_type: str, records: list[logging.LogRecord]
) -> None:
    with pytest.raises(DecodeError) as caught:
        registry.decode(body, content_type, "utf-8", accept=[content_type])

    logs.undecodable("work", "tag-1", 7, caught.value)

    (record,) = records
    for text in (record.getMessage(), repr(record.args)):
        assert "card" not in text
        assert "4929" not in text


def test_an_undecodable_message_names_the_classes_of_its_errors(
    records: list[logging.LogRecord],
) -> None:
    error = DecodeError("a decoder can't decode 4929")
    error.__cause__ = ValueError("invalid literal: 4929")

    logs.undecodable("work", "tag-1", 7, error)

    assert records[0].getMessage().endswith("can't be decoded: DecodeError (ValueError)")


def test_a_record_is_one_line_whatever_the_broker_says(records: list[logging.LogRecord]) -> None:
    logs.channel_closed(WHERE, 404, "gone\r\nWARNING carrot \x1b[31mforged\u2028line\x00")
    logs.consumer_cancelled("a\nb", "c\nd", "e\nf")

    assert len(records) == 2
    for record in records:
        text = record.getMessage()
        assert text.isprintable()
        assert len(text.splitlines()) == 1


def test_a_record_has_a_bounded_length(records: list[logging.LogRecord]) -> None:
    logs.blocked(WHERE, "word " * 100_000)

    assert len(records[0].getMessage()) < 2 * logs.LONGEST


# -- the guide

_ROW = re.compile(r"^   \* - (\w+)\n     - ``(.+?)``\n     - (.+?)\n     - ", re.M)


def test_the_guide_lists_every_record_as_it_is() -> None:
    listed = [
        (level, text, set(re.findall(r"``(\w+)``", fields)))
        for level, text, fields in _ROW.findall(GUIDE.read_text())
    ]

    assert listed == [
        (logging.getLevelName(record.level), record.text, set(record.fields))
        for record in logs.RECORDS
    ]
