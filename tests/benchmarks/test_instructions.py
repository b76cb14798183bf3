"""Counting instructions: the programs that are counted, and their unchanging broker."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import instructions
from benchmarks.instructions import FIGURES, Counted, CountError, Figure, command, count, main
from carrot import BrokerConnection, Consumer, Publisher
from carrot.exceptions import OperationTimeout
from carrot.message import Message

ROOT = Path(__file__).parents[2]

needs_valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="no valgrind: apt-get install valgrind"
)


@pytest.fixture(scope="module")
def amqp_peer() -> Iterator[str]:
    with instructions.amqp_peer() as url:
        yield url


@pytest.mark.parametrize("figure", FIGURES, ids=[figure.title for figure in FIGURES])
def test_the_counted_program_does_its_step_with_the_carrot_it_is_given(
    figure: Figure, amqp_peer: str
) -> None:
    url = amqp_peer if figure.driver == "amqp" else "memory://"

    done = subprocess.run(
        command(figure.step, url, 200, 400, slowdown=1),
        env=instructions.environment(ROOT),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout.strip() == str(ROOT), done.stderr


def test_the_peer_delivers_what_the_name_of_the_queue_says(amqp_peer: str) -> None:
    received: list[Message] = []

    def ack(data: object, message: Message) -> None:
        received.append(message)
        message.ack()

    with BrokerConnection(amqp_peer) as connection:
        consumer = Consumer(connection, "counted-7", prefetch_count=3, callbacks=[ack])
        with pytest.raises(OperationTimeout):
            consumer.wait(timeout=0.5)

    assert len(received) == 7
    assert len(received[0].body) == 80


def test_the_peer_confirms_each_message(amqp_peer: str) -> None:
    with BrokerConnection(amqp_peer) as connection:
        publisher = Publisher(connection, routing_key="counted-0", confirm_timeout=5)

        publisher.send("one")

        assert publisher.send_many(range(2500)) == 2500


@needs_valgrind
def test_the_same_program_is_counted_alike_each_time() -> None:
    first, second = (count(ROOT, "send", "memory://", 10, 20) for _ in range(2))

    assert first > 1_000_000
    assert first == pytest.approx(second, rel=0.01)


@needs_valgrind
def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(CountError, match="no-such-step"):
        count(ROOT, "no-such-step", "memory://", 1, 2)


@pytest.mark.parametrize(("other", "code"), [(100.0, 0), (99.0, 0), (97.0, 1)])
def test_more_instructions_than_the_limit_allows_fail(
    other: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def counted(checkout: Path, *how: object) -> Counted:
        return Counted(100.0 if checkout == ROOT else other, 0.0)

    monkeypatch.setattr(instructions, "measure", counted)
    monkeypatch.setattr(instructions, "compile_first", lambda checkout: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")

    assert main(["--against", str(tmp_path)]) == code
    assert f"× {100.0 / other:.3f}" in capsys.readouterr().out
