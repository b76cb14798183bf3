"""Each program in examples/ ends in time when a message of its own is lost, and says so."""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from carrot import BrokerConnection, Consumer, Message, Publisher
from carrot.exceptions import Unroutable
from tests.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"

# A deadline is 10 seconds in the programs, so this is for one that knows no deadline.
pytestmark = pytest.mark.timeout(60)

ALL_FEEDS = r"not all feeds came back within \S+ seconds"
ORDERS = r"neither delivered nor put aside within \S+ seconds: "

# What each program says when its first, second, … message is lost; "" if it waits for none.
SAYS = {
    "feed": [ALL_FEEDS] * 3,
    # Questions and answers take turns.
    "request_reply": [f"no answer to {number} " for number in (3, 3, 4, 4, 12, 12)],
    # The last goes to the people who look at what failed.
    "retries": [*(f"{ORDERS}{order}$" for order in ("book", "rowing boat", "submarine")), ""],
    "several_queues": [r"a message did not come within \S+ seconds"] * 3,
    "topic_logs": [""] * 4,
}
# These wait for no message of their own: one only sends, the other works until it is stopped, and
# the third is no program.
OTHERS = {"send_feeds", "worker", "spool_backend"}
LOSSES = [
    (name, number, says) for name, all_of in SAYS.items() for number, says in enumerate(all_of, 1)
]
# One of each kind; what is lost on its way to the broker is lost to all brokers alike.
SOME_LOSSES = [
    ("feed", 1), ("request_reply", 1), ("request_reply", 2), ("retries", 3), ("several_queues", 3),
]  # fmt: skip


Load = Callable[[str, str, float], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports an example that uses the broker at a URL and waits so many seconds."""

    def load(name: str, url: str, seconds: float) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if SAYS[name][0]:
            assert hasattr(module, "DEADLINE")
            monkeypatch.setattr(module, "DEADLINE", seconds)
        monkeypatch.setenv("CARROT_URL", url)
        return module

    return load


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Loses the nth message that is sent, whoever sends it."""
    send, send_many = Publisher.send, Publisher.send_many

    def lose(number: int) -> None:
        sent = count(1)

        def send_most(publisher: Publisher, data: Any, **options: Any) -> None:
            if next(sent) != number:
                send(publisher, data, **options)

        def send_most_of(publisher: Publisher, every: Sequence[Any], **options: Any) -> None:
            kept = [data for data in every if next(sent) != number]
            send_many(publisher, kept, **options)

        monkeypatch.setattr(Publisher, "send", send_most)
        monkeypatch.setattr(Publisher, "send_many", send_most_of)

    return lose


@pytest.fixture
def memory_url(unique: Callable[..., str]) -> str:
    """A broker in this process that no other test uses."""
    return f"memory://{unique('examples')}/"


def ending(program: ModuleType) -> str:
    """What the program says at its end; nothing, if it ends well."""
    try:
        program.main()
    except SystemExit as exc:
        return str(exc.code)
    return ""


def test_every_program_is_tried_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SAYS, *OTHERS}


@pytest.mark.parametrize(("name", "number", "says"), LOSSES)
def test_a_lost_message_ends_the_program_in_time(
    name: str, number: int, says: str, memory_url: str, load: Load, lose: Callable[[int], None]
) -> None:
    program = load(name, memory_url, 1.0)
    lose(number)

    said = ending(program)

    assert re.match(says, said)
    assert bool(said) == bool(says)


@pytest.mark.parametrize(("name", "number"), SOME_LOSSES)
def test_a_lost_message_ends_the_program_over_a_broker_too(
    name: str, number: int, clean_broker: str, load: Load, lose: Callable[[int], None]
) -> None:
    program = load(name, clean_broker, 2.0)
    lose(number)

    said = ending(program)

    assert re.match(SAYS[name][number - 1], said)


@pytest.mark.parametrize(
    ("number", "order"), [(1, "rowing boat"), (2, "submarine"), (3, "submarine")]
)
def test_an_order_that_is_lost_between_two_attempts_is_named(
    number: int, order: str, memory_url: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load("retries", memory_url, 1.5)
    rejected, reject = count(1), Message.reject

    def reject_most(message: Message) -> None:
        # What is acked is not kept for another attempt.
        (message.ack if next(rejected) == number else partial(reject, message))()

    monkeypatch.setattr(Message, "reject", reject_most)

    said = ending(program)

    assert re.match(f"{ORDERS}{order}$", said)


@pytest.mark.parametrize("broker", ["memory_url", "clean_rabbitmq", "clean_zeromq"])
def test_a_question_that_expires_before_it_is_read_gets_no_answer_and_is_gone(
    broker: str, request: pytest.FixtureRequest, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(broker)
    program = load("request_reply", url, 0.5)
    monkeypatch.setattr(program.Squares, "wait", lambda server: None)

    said = ending(program)

    assert re.match("no answer to 3 within 0.5 seconds: is the server running", said)
    with BrokerConnection(url) as connection:
        questions = Consumer(connection, queue="squares")
        eventually(lambda: _is_empty(questions))


def _is_empty(consumer: Consumer) -> bool:
    message = consumer.fetch()
    if message is not None:
        message.requeue()
    return message is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_dies_at_a_question_does_not_take_the_client_with_it(
    memory_url: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load("request_reply", memory_url, 1.0)

    def die(server: Consumer, number: int, message: Message) -> None:
        raise ArithmeticError("no squares today")

    monkeypatch.setattr(program.Squares, "receive", die)

    said = ending(program)

    assert re.match("no answer to 3 ", said)


def test_an_answer_that_comes_too_late_is_not_taken_for_that_to_the_next_question(
    memory_url: str, load: Load
) -> None:
    program = load("request_reply", memory_url, 10.0)
    gave_up = threading.Event()

    class Slow(program.Squares):  # type: ignore[name-defined, misc]
        def receive(self, number: int, message: Message) -> None:
            assert gave_up.wait(20)
            super().receive(number, message)

    with BrokerConnection(memory_url) as here, BrokerConnection(memory_url) as there:
        server, client = Slow(there), program.Client(here)
        thread = threading.Thread(target=server.wait)
        thread.start()
        try:
            program.DEADLINE = 0.5
            with pytest.raises(TimeoutError, match="no answer to 3 "):
                client.square(3)
            program.DEADLINE = 10
            gave_up.set()

            assert client.square(4) == 16
        finally:
            gave_up.set()
            server.stop()
            thread.join(20)


def test_a_question_without_a_server_is_told_at_once(memory_url: str, load: Load) -> None:
    program = load("request_reply", memory_url, 10.0)

    with BrokerConnection(memory_url) as connection, pytest.raises(Unroutable):
        program.Client(connection).square(3)
