"""The locks that the tests run with: they note their order, and find two taken both ways round."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import conftest
from tests.locks import LockOrder

PATIENCE = 10.0  # seconds
ROOT = Path(__file__).parents[2]


@pytest.fixture
def order() -> LockOrder:
    """Of this test's own, so that what it does wrong is not the run's."""
    return LockOrder()


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


# -- finding inversions


def test_two_locks_taken_both_ways_round_are_found_with_both_stacks(order: LockOrder) -> None:
    first = order.lock()
    second = order.lock()

    def one_way() -> None:
        with first, second:
            pass

    def the_other_way() -> None:
        with second, first:
            pass

    one_way()
    in_a_thread(the_other_way)

    assert len(order.inversions) == 1
    report = order.report()
    assert "in test_two_locks_taken_both_ways_round_are_found_with_both_stacks" in report
    assert ".one_way" in report
    assert ".the_other_way" in report
    assert "(first = order.lock())" in report
    assert "(second = order.lock())" in report


def test_one_order_kept_by_all_threads_is_no_inversion(order: LockOrder) -> None:
    first = order.lock()
    second = order.rlock()

    def in_order() -> None:
        with first, second:
            pass

    in_order()
    in_a_thread(in_order)

    assert len(order.edges) == 1
    assert not order.report()


def test_locks_that_are_let_go_in_another_order_are_forgotten(order: LockOrder) -> None:
    first = order.lock()
    second = order.lock()
    first.acquire()
    second.acquire()
    first.release()
    second.release()

    with second, first:
        pass

    assert len(order.inversions) == 1
    assert not order.held.get(threading.get_ident())


def test_locks_that_were_never_held_together_have_no_order(order: LockOrder) -> None:
    first = order.lock()
    second = order.lock()

    with first:
        pass
    with second:
        pass

    assert not order.edges


def test_three_locks_taken_in_a_ring_are_found(order: LockOrder) -> None:
    first = order.lock()
    second = order.lock()
    third = order.lock()

    for held, wanted in ((first, second), (second, third), (third, first)):
        with held, wanted:
            pass

    [ring] = order.inversions
    assert len(ring.sites) == len(ring.stacks) == 3


def test_two_locks_of_one_line_are_reported_apart(order: LockOrder) -> None:
    first, second = (order.lock() for _ in range(2))

    with first, second:
        pass
    assert not order.report()
    with second, first:
        pass

    assert not order.inversions
    assert len(order.twin_inversions) == 1
    assert "two locks of one line" in order.report()


def test_a_lock_that_another_thread_lets_go_is_no_longer_held(order: LockOrder) -> None:
    first = order.lock()
    second = order.lock()
    first.acquire()
    in_a_thread(first.release)

    with second:
        pass

    assert not order.edges


def test_a_lock_that_was_never_let_go_is_forgotten_when_it_is_gone(order: LockOrder) -> None:
    second = order.lock()
    order.lock().acquire()

    with second:
        pass

    assert not order.edges


# -- what is no order


def test_a_try_that_fails_adds_nothing(order: LockOrder) -> None:
    first = order.lock()
    second = order.lock()

    def try_it() -> None:
        with first:
            assert not second.acquire(blocking=False)
            assert not second.acquire(timeout=0)

    with second:
        in_a_thread(try_it)

    assert not order.edges
    assert not order.tries


def test_a_try_that_succeeds_is_noted_apart_and_counts_as_held(order: LockOrder) -> None:
    first = order.lock()
    second = order.lock()
    third = order.lock()

    with first:
        assert second.acquire(blocking=False)
        with third:
            pass
        second.release()

    assert [(a.line, b.line) for a, b in order.tries] == [(first.site.line, second.site.line)]
    assert {(a.line, b.line) for a, b in order.edges} == {
        (first.site.line, third.site.line),
        (second.site.line, third.site.line),
    }


def test_a_wait_with_a_timeout_is_an_order_also_when_it_is_over(order: LockOrder) -> None:
    first = order.lock()
    second = order.lock()

    def wait_for_it() -> None:
        with first:
            assert not second.acquire(timeout=0.01)

    with second:
        in_a_thread(wait_for_it)

    assert len(order.edges) == 1
    assert not order.held.get(threading.get_ident())


def test_a_lock_taken_again_by_its_thread_has_no_order(order: LockOrder) -> None:
    first = order.rlock()
    second = order.lock()

    with first, second, first:
        pass

    assert len(order.edges) == 1
    assert not order.report()


def test_a_lock_taken_twice_is_held_until_it_is_let_go_twice(order: LockOrder) -> None:
    first = order.rlock()
    second = order.lock()

    first.acquire()
    first.acquire()
    first.release()
    with second:
        pass
    first.release()

    assert len(order.edges) == 1
    assert not order.held.get(threading.get_ident())


# -- conditions


@pytest.mark.parametrize("kind", ["lock", "rlock"])
def test_a_condition_lets_its_lock_go_while_it_waits(order: LockOrder, kind: str) -> None:
    condition = threading.Condition(getattr(order, kind)())
    other = order.lock()
    waiting = threading.Event()
    seen: list[list[str]] = []

    def wait() -> None:
        with condition:
            waiting.set()
            assert condition.wait(PATIENCE)
            seen.append(order.held[threading.get_ident()])
        seen.append(order.held.get(threading.get_ident(), []))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert waiting.wait(PATIENCE)
    with condition:  # which it can have only when the other one waits
        ident = thread.ident
        assert ident is not None
        assert ident not in order.held
        condition.notify()
    thread.join(PATIENCE)

    assert [len(locks) for locks in seen] == [1, 0]
    with other, condition:
        pass
    assert not order.report()


def test_a_condition_that_takes_its_lock_again_has_an_order(order: LockOrder) -> None:
    condition = threading.Condition(order.rlock())
    other = order.lock()

    with condition, other:
        condition.wait(0.01)

    # Its lock first; and waiting lets only that one go, so it is taken again behind the other.
    assert len(order.inversions) == 1


# -- forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on_with_locks_of_its_own(order: LockOrder) -> None:
    old = order.lock()
    other = order.lock()
    holding, ending = threading.Event(), threading.Event()

    def hold() -> None:
        with old:
            holding.set()
            ending.wait(PATIENCE)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert holding.wait(PATIENCE)
    with other:
        child = os.fork()
        if not child:
            # Renewed, as carrot does it: the old one stays locked for ever here.
            new = order.lock()
            done = new.acquire(timeout=1.0) and len(order.edges) == 1
            new.release()
            os._exit(0 if done else 1)
    _, status = os.waitpid(child, 0)
    ending.set()
    thread.join(PATIENCE)

    assert os.waitstatus_to_exitcode(status) == 0
    assert not order.edges


# -- plugging in

INSTALLED = """
import threading
from tests import conftest
from tests.locks import LockOrder, NotingLock, NotingRLock

order = LockOrder()
order.install()
from carrot import BrokerConnection, Consumer, Publisher
import carrot.backends.sockets.timer, queue

assert isinstance(carrot.backends.sockets.timer.timer._changed._lock, NotingLock)
assert isinstance(threading.Condition(), threading.Condition)
for foreign in (threading.Lock(), threading.Condition()._lock, queue.Queue().mutex):
    assert not isinstance(foreign, (NotingLock, NotingRLock)), foreign
with BrokerConnection("memory://") as connection:
    Publisher(connection, routing_key="feed").send(1)
    consumer = Consumer(connection, "feed", callbacks=[lambda data, message: message.ack()])
    Publisher(connection, routing_key="feed").send(2)
    consumer.wait(limit=1, timeout=5)
assert order.edges
assert all("carrot" in site.path for edge in order.edges for site in edge)
order.uninstall()
assert not isinstance(threading.Lock(), NotingLock)
print("fine")
"""


class Session:
    """What pytest tells of a run."""

    exitstatus: int = pytest.ExitCode.OK


def test_an_inversion_fails_the_run(order: LockOrder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "LOCK_ORDER", order)
    good, bad = Session(), Session()

    conftest.pytest_sessionfinish(good)
    first = order.lock()
    second = order.lock()
    with first, second:
        pass
    with second, first:
        pass
    conftest.pytest_sessionfinish(bad)

    assert good.exitstatus == pytest.ExitCode.OK
    assert bad.exitstatus == pytest.ExitCode.TESTS_FAILED


def test_installed_it_makes_the_locks_of_carrot_and_no_others() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == "fine\n", done.stderr
