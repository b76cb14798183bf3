"""Eight threads make random public calls on one connection, which is killed again and again.

CARROT_STRESS_SEED and CARROT_STRESS_SECONDS repeat a run, or change its length.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from carrot.exceptions import AccessRefused, ChannelError, ConnectionLost, NotFound
from tests.brokers import ActiveMQ, RabbitMQ, ZeroMQ
from tests.faults import watch as watching
from tests.faults.stress import (
    Run,
    given_seconds,
    given_seed,
    in_memory,
    over_amqp,
    over_stomp,
    over_zeromq,
)
from tests.faults.watch import Findings, Watch, is_expected

Unique = Callable[..., str]

#: Seconds of a run in CI: RabbitMQ's, and the one in memory.
SHORT, SHORTEST = given_seconds(60.0), given_seconds(15.0)
#: Seconds under `make faults`: RabbitMQ's, and the others.
LONG, LESS_LONG = given_seconds(600.0), given_seconds(120.0)
#: Seconds for all that comes after: closing, counting, draining.
ENDING = 240.0


def check(run: Run) -> None:
    """Do it, print its report, and fail with the report when something was found.

    Not with an assertion in which pytest would look for differences.
    """
    run()
    report = run.report()
    print(f"\n{report}")
    if list(run.findings):
        pytest.fail(report, pytrace=False)


@pytest.mark.timeout(SHORT + ENDING)
def test_random_calls_on_rabbitmq_keep_their_promises(rabbitmq: RabbitMQ, unique: Unique) -> None:
    check(over_amqp(rabbitmq, unique("stress"), given_seed(), SHORT))


@pytest.mark.timeout(SHORTEST + ENDING)
def test_random_calls_in_memory_keep_their_promises(unique: Unique) -> None:
    check(in_memory(unique("stress"), given_seed(), SHORTEST))


@pytest.mark.faults
@pytest.mark.timeout(LONG + ENDING)
def test_random_calls_on_rabbitmq_keep_their_promises_for_long(
    rabbitmq: RabbitMQ, unique: Unique
) -> None:
    check(over_amqp(rabbitmq, unique("stress"), given_seed(), LONG))


@pytest.mark.faults
@pytest.mark.timeout(LESS_LONG + ENDING)
def test_random_calls_in_memory_keep_their_promises_for_long(unique: Unique) -> None:
    check(in_memory(unique("stress"), given_seed(), LESS_LONG))


@pytest.mark.faults
@pytest.mark.timeout(LESS_LONG + ENDING)
def test_random_calls_through_py_amqp_keep_their_promises(
    rabbitmq: RabbitMQ, unique: Unique
) -> None:
    check(over_amqp(rabbitmq, unique("stress"), given_seed(), LESS_LONG, scheme="pyamqplib"))


@pytest.mark.faults
@pytest.mark.timeout(LESS_LONG + ENDING)
def test_random_calls_on_activemq_keep_their_promises(activemq: ActiveMQ, unique: Unique) -> None:
    check(over_stomp(activemq, unique("stress"), given_seed(), LESS_LONG))


@pytest.mark.faults
@pytest.mark.timeout(LESS_LONG + ENDING)
def test_random_calls_over_zeromq_keep_their_promises(zeromq: ZeroMQ, unique: Unique) -> None:
    check(over_zeromq(zeromq, unique("stress"), given_seed(), LESS_LONG))


# -- the harness itself


def kinds(findings: Findings) -> list[str]:
    return [finding.kind for finding in findings]


def test_a_late_call_is_found_with_the_stacks_of_all_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "SLACK", 0.1)
    findings = Findings()

    with Watch(findings) as watch, watch.call("Consumer.wait", 0.1):
        threading.Event().wait(0.6)

    assert kinds(findings) == [
        "stacks while a call is late: Consumer.wait",
        "a call past its deadline: Consumer.wait",
    ]
    stacks = next(iter(findings)).text
    assert "is MainThread" in stacks
    assert "in test_a_late_call_is_found_with_the_stacks_of_all_threads" in stacks


def test_a_call_that_hangs_gives_the_run_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SLACK", 0.0)
    monkeypatch.setattr(watching, "HANGING", 0.2)
    findings = Findings()

    with Watch(findings) as watch, watch.call("Consumer.wait", 0.0):
        assert watch.has_hung.wait(5.0)

    assert "a call that hangs: Consumer.wait" in kinds(findings)


def test_what_a_callback_does_is_not_counted_as_lateness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SLACK", 0.1)
    findings = Findings()

    with (
        Watch(findings) as watch,
        watch.call("Consumer.wait", 0.1),
        watch.call("Publisher.send", 2.0),
    ):
        threading.Event().wait(0.5)

    assert not kinds(findings)


def test_an_exception_that_is_not_carrots_is_found_once_with_its_traceback() -> None:
    findings = Findings()

    with Watch(findings) as watch:
        for _ in range(3):
            with watch.call("Consumer.fetch", 1.0):
                raise ValueError("list.remove(x): x not in list")

    [finding] = findings
    assert finding.kind == "an exception that is not carrot's: ValueError from Consumer.fetch"
    assert finding.times == 3
    assert "x not in list" in finding.text
    assert "test_stress.py" in finding.text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionLost("cut"), True),
        (ChannelError("this Consumer is closed: create a new one", code=504), True),
        (ChannelError("CHANNEL_ERROR - expected 'channel.open'", code=504), False),
        (NotFound("no queue"), False),
        (AccessRefused("wrong password"), False),
    ],
)
def test_only_kills_and_closing_explain_an_error(error: Exception, expected: bool) -> None:
    assert is_expected(error) is expected  # type: ignore[arg-type]
