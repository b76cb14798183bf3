"""SharedReader: one waiting thread reads for all, and each gets what it waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from carrot.backends.sockets.shared_reader import SharedReader
from carrot.deadline import now
from tests.waiting import eventually


class Source:
    """Something to read from: what is put into it comes, one thing at a reading."""

    def __init__(self) -> None:
        self.coming: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()
        self.arrived: list[str] = []
        self.readings = 0

    def read_once(self, timeout: float | None) -> None:
        self.readings += 1
        try:
            thing = self.coming.get(timeout=10 if timeout is None else timeout)
        except queue.Empty:
            return
        if isinstance(thing, Exception):
            raise thing
        self.arrived.append(thing)

    def has(self, thing: str) -> Callable[[], bool]:
        return lambda: thing in self.arrived


@contextmanager
def threads(*targets: Callable[[], object]) -> Iterator[list[threading.Thread]]:
    running = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in running:
        thread.start()
    yield running
    for thread in running:
        thread.join(10)
        assert not thread.is_alive()


def test_what_is_there_already_needs_no_reading() -> None:
    source = Source()
    reader = SharedReader(source.read_once)

    assert reader.wait_for(lambda: True)
    assert source.readings == 0


def test_a_thread_reads_until_its_own_has_come() -> None:
    source = Source()
    reader = SharedReader(source.read_once)
    for thing in ("a", "b", "mine", "later"):
        source.coming.put(thing)

    assert reader.wait_for(source.has("mine"), 5)

    assert source.arrived == ["a", "b", "mine"]


def test_no_time_at_all_still_reads_once() -> None:
    source = Source()
    reader = SharedReader(source.read_once)
    source.coming.put("mine")

    assert reader.wait_for(source.has("mine"), 0)
    assert not reader.wait_for(source.has("other"), 0)


def test_a_timeout_ends_the_wait_of_the_thread_that_reads() -> None:
    reader = SharedReader(Source().read_once)
    begun = now()

    assert not reader.wait_for(lambda: False, 0.1)

    assert 0.1 <= now() - begun < 2


def test_a_timeout_ends_the_wait_of_a_thread_that_does_not_read() -> None:
    source = Source()
    reader = SharedReader(source.read_once)
    with threads(lambda: reader.wait_for(source.has("end"))):
        eventually(lambda: reader.is_taken)
        begun = now()

        assert not reader.wait_for(lambda: False, 0.1)

        assert 0.1 <= now() - begun < 2
        source.coming.put("end")


def test_each_of_many_threads_gets_its_own() -> None:
    source = Source()
    reader = SharedReader(source.read_once)
    names = [f"thread {number}" for number in range(8)]
    with threads(*(lambda name=name: reader.wait_for(source.has(name), 10) for name in names)):
        for name in names:
            source.coming.put(name)

    assert sorted(source.arrived) == names
    assert not reader.is_taken


def test_an_error_is_raised_in_the_thread_that_reads_and_another_reads_on() -> None:
    source, raised = Source(), list[Exception]()
    reader = SharedReader(source.read_once)

    def wait() -> None:
        try:
            reader.wait_for(source.has("end"), 10)
        except OSError as exc:
            raised.append(exc)

    with threads(wait, wait):
        eventually(lambda: reader.is_taken)
        source.coming.put(ConnectionResetError("gone"))
        eventually(lambda: raised)
        source.coming.put("end")

    assert len(raised) == 1
    assert source.arrived == ["end"]


def test_an_interrupt_gives_the_turn_back() -> None:
    def interrupted(timeout: float | None) -> None:
        raise KeyboardInterrupt

    reader = SharedReader(interrupted)
    with pytest.raises(KeyboardInterrupt):
        reader.wait_for(lambda: False, 5)

    assert not reader.is_taken


def test_after_each_reading_the_turn_is_free() -> None:
    source, free = Source(), list[bool]()
    reader = SharedReader(source.read_once, lambda: free.append(not reader.is_taken))
    source.coming.put("a")
    source.coming.put("b")

    assert reader.wait_for(source.has("b"), 5)

    assert free == [True, True]
