"""Fork hooks: they run in the order that carrot.forks states, and one that fails stops no other."""

from __future__ import annotations

import os

import pytest

from carrot import forks
from carrot.forks import Stage


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(forks, "_registered", [])
    return []


def test_hooks_run_by_stages_down_before_and_up_after_a_fork(called: list[str]) -> None:
    for stage in (Stage.BACKENDS, Stage.BROKERS, Stage.TRANSPORTS):
        forks.register(
            stage,
            before=lambda stage=stage: called.append(f"before {stage.name}"),
            after_in_parent=lambda stage=stage: called.append(f"parent {stage.name}"),
            after_in_child=lambda stage=stage: called.append(f"child {stage.name}"),
        )

    forks._before()
    forks._after_in_parent()
    forks._after_in_child()

    assert called == [
        *("before BACKENDS", "before TRANSPORTS", "before BROKERS"),
        *("parent BROKERS", "parent TRANSPORTS", "parent BACKENDS"),
        *("child BROKERS", "child TRANSPORTS", "child BACKENDS"),
    ]


def test_within_a_stage_the_order_is_that_of_registration(called: list[str]) -> None:
    for name in "abc":
        forks.register(Stage.TIMERS, after_in_child=lambda name=name: called.append(name))

    forks._after_in_child()

    assert called == ["a", "b", "c"]


def test_a_hook_that_fails_keeps_no_other_from_running(called: list[str]) -> None:
    forks.register(Stage.BROKERS, after_in_child=lambda: 1 / 0)
    forks.register(Stage.BACKENDS, after_in_child=lambda: called.append("ran"))

    with pytest.raises(ZeroDivisionError):
        forks._after_in_child()

    assert called == ["ran"]


def test_a_fork_runs_the_hooks(called: list[str]) -> None:
    forks.register(
        Stage.TIMERS,
        before=lambda: called.append("before"),
        after_in_parent=lambda: called.append("parent"),
        after_in_child=lambda: called.append("child"),
    )

    pid = os.fork()
    if pid == 0:
        os._exit(0 if called == ["before", "child"] else 1)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert called == ["before", "parent"]
