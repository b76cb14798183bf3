"""ConsumeLoop without a driver: its states, what it recovers from, and no more than the limit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from carrot.backends.seam.stop_flag import StopFlag
from carrot.backends.seam.subscriptions import Subscription
from carrot.deadline import Deadline
from carrot.exceptions import (
    CarrotError,
    ConnectionFailed,
    ConnectionLost,
    ConsumerCancelled,
    NotFound,
    OperationTimeout,
)
from carrot.logs import Where
from carrot.message import Message
from carrot.messaging import consume_loop
from carrot.messaging.consume_loop import TRANSITIONS, ConsumeLoop, Event, State
from carrot.recovery import is_transient
from carrot.remedies import broker_refused
from carrot.retry import Backoff, Retry

LOST = ConnectionLost("gone")
CANCELLED = ConsumerCancelled("the queue was deleted", "q")
REFUSED = broker_refused(540, "NOT_IMPLEMENTED - no global qos", "here")
MISSING = NotFound("NOT_FOUND - no queue 'q'", code=404)


class Life:
    """The life that delivers."""

    def __init__(self) -> None:
        self.over: Exception | None = None
        self.channel = SimpleNamespace(is_open=True)
        self.transport = SimpleNamespace(heartbeat=0.0)

    @property
    def is_open(self) -> bool:
        return self.over is None


class Consumers:
    """Delivers what it is given, message by message; an error is raised, and None is the end."""

    def __init__(self, life: Life, script: Iterable[object]) -> None:
        self.script = list(script)
        self.processed: list[object] = []
        self.fails: Callable[[Message], None] = lambda message: None
        self.is_drained = False
        self.is_wanted = True
        self.resubscribed = 0
        self._life = life
        self._subscription = Subscription("tag", "q", False, self._process)

    def _process(self, message: Message) -> None:
        self.fails(message)
        self.processed.append(message.body)

    def next_delivery(self, stops: int, deadline: Deadline) -> tuple[Subscription, Message] | None:
        found = self.script.pop(0) if self.script else None
        if isinstance(found, Exception):
            raise found
        if not isinstance(found, bytes):
            return None
        message = Message(None, found)
        message.life = self._life  # type: ignore[assignment]
        return self._subscription, message

    def subscribe_lost_again(self) -> None:
        self.resubscribed += 1


class Connection:
    """Opens again as often as it is told, or fails."""

    where = Where("here", "/")

    def __init__(self) -> None:
        self.may_reconnect = True
        self.failures: list[Exception] = []
        self.reopened = 0
        self.told: list[object] = []

    def reopen(self) -> None:
        self.reopened += 1
        if self.failures:
            raise self.failures.pop(0)

    def _note_loss(self, error: Exception | None) -> None: ...

    def _tell_lost(self, error: Exception, interval: float) -> None:
        self.told.append(error)

    def _tell_recovered(self) -> None:
        self.told.append("recovered")


class Members:
    """One subscription, and a book of what a loop did with it."""

    def __init__(self, *script: object, errors: Iterable[CarrotError] = ()) -> None:
        life = Life()
        self.consumers = Consumers(life, script)
        self.backend: Any = SimpleNamespace(
            consumers=self.consumers, stop_flag=StopFlag(), life=life
        )
        self.connection: Any = Connection()
        self.retry = Retry(attempts=3, backoff=Backoff(0, 0, 0))
        self.is_cancelled = False
        self.window: int | None = None
        self.is_alone = True
        self.loop: ConsumeLoop | None = None
        self.done: list[object] = []
        self._errors = list(errors)

    def subscribe(self, at_most: int | None) -> None:
        self.done.append(("subscribe", at_most))
        if self._errors:
            raise self._errors.pop(0)

    def subscribe_again(self, at_most: int | None) -> None:
        self.done.append(("again", at_most))
        if self._errors:
            raise self._errors.pop(0)

    def complete(self) -> None:
        self.done.append("complete")

    def cancel(self) -> None:
        self.done.append("cancel")

    def remaining(self) -> int | None:
        assert self.loop is not None
        return self.loop.remaining

    def is_recoverable(self, error: Exception) -> bool:
        return isinstance(error, ConsumerCancelled) or is_transient(error)


def looping(members: Members, limit: int | None = None, timeout: float | None = 10) -> ConsumeLoop:
    """A loop that is not started yet."""
    members.loop = ConsumeLoop(members, limit, Deadline.after(timeout))
    return members.loop


# -- the table


def test_every_state_is_reached_and_leads_to_the_end() -> None:
    reached = {State.ENDED}
    while found := {a for (a, _), b in TRANSITIONS.items() if b in reached} - reached:
        reached |= found

    assert reached == set(State)
    assert set(TRANSITIONS.values()) | {State.SUBSCRIBING} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert State.ENDED not in {a for a, _ in TRANSITIONS}


@pytest.mark.parametrize("state", [State.SUBSCRIBING, State.WAITING])
@pytest.mark.parametrize("event", [Event.TRANSIENT, Event.REFUSED])
def test_whatever_the_broker_can_answer_has_a_row(state: State, event: Event) -> None:
    assert (state, event) in TRANSITIONS


# -- a loop that is told


def test_it_takes_what_comes_until_there_is_nothing_to_wait_for() -> None:
    members = Members(b"1", b"2", None, b"late")
    loop = looping(members)

    loop.start()
    assert loop.state is State.WAITING
    assert list(loop) == [True, True]

    assert members.consumers.processed == [b"1", b"2"]
    assert loop.state is State.ENDED
    assert list(loop) == []


def test_its_time_is_over() -> None:
    loop = looping(Members(b"1"), timeout=0)

    with pytest.raises(OperationTimeout):
        next(loop)


# -- what it recovers from, and what it raises


@pytest.mark.parametrize("error", [LOST, CANCELLED], ids=["connection", "consumer"])
def test_it_goes_on_after_what_passes(error: CarrotError) -> None:
    members = Members(b"1", error, b"2")
    loop = looping(members)

    loop.start()
    assert list(loop) == [True, True]

    assert members.consumers.processed == [b"1", b"2"]
    assert members.done == [("subscribe", None), ("again", None)]
    assert members.consumers.resubscribed == 1
    assert members.connection.told == [error, "recovered"]


def test_it_subscribes_over_a_new_connection_when_the_first_one_is_gone() -> None:
    members = Members(b"1", errors=[LOST, LOST])
    loop = looping(members)

    loop.start()

    assert loop.state is State.WAITING
    assert members.done == [("subscribe", None), ("again", None), ("again", None)]
    assert list(loop) == [True]


@pytest.mark.parametrize("error", [REFUSED, MISSING], ids=["540", "404"])
def test_a_refusal_is_raised_at_once_and_never_repeated(error: CarrotError) -> None:
    members = Members(errors=[error])
    loop = looping(members)

    with pytest.raises(type(error)):
        loop.start()

    assert loop.state is State.ENDED
    assert members.connection.reopened == 0
    assert members.done == [("subscribe", None)]
    assert list(loop) == []


def test_a_refusal_while_it_waits_is_raised_and_the_next_step_may_go_on() -> None:
    members = Members(REFUSED, b"1")
    loop = looping(members)
    loop.start()

    with pytest.raises(type(REFUSED)):
        next(loop)

    assert loop.state is State.WAITING
    assert members.connection.reopened == 0
    assert next(loop)


def test_when_no_attempt_is_left_it_raises() -> None:
    members = Members(LOST)
    members.connection.failures = [ConnectionFailed("refused") for _ in range(3)]
    loop = looping(members)
    loop.start()

    with pytest.raises(ConnectionFailed):
        next(loop)

    assert members.connection.reopened == 3


def test_without_reconnecting_a_loss_is_raised() -> None:
    members = Members(LOST)
    members.connection.may_reconnect = False
    loop = looping(members)
    loop.start()

    with pytest.raises(ConnectionLost):
        next(loop)
    assert members.connection.reopened == 0


def test_it_is_told_while_it_recovers() -> None:
    members = Members(LOST)
    members.connection.failures = [ConnectionFailed("refused")] * 3
    members.connection._tell_lost = lambda error, interval: members.backend.stop_flag.ask()
    loop = looping(members)
    loop.start()

    assert list(loop) == []
    assert loop.state is State.ENDED


# -- an exception of a callback


def lose(message: Message) -> None:
    raise ConnectionLost("the ack could not be sent")


def test_a_loss_of_its_own_in_a_callback_is_recovered_and_the_message_does_not_count() -> None:
    members = Members(b"1", b"1")
    loop = looping(members, limit=1)
    loop.start(1)

    def lose_once(message: Message) -> None:
        members.consumers.fails = lambda message: None
        members.backend.life.over = LOST
        lose(message)

    members.consumers.fails = lose_once
    assert list(loop) == [True]

    assert members.consumers.processed == [b"1"]
    assert ("again", 1) in members.done


def test_a_loss_of_another_connections_in_a_callback_is_raised() -> None:
    members = Members(b"1", b"2")
    loop = looping(members)
    loop.start()
    members.consumers.fails = lose

    with pytest.raises(ConnectionLost, match="ack"):
        next(loop)

    members.consumers.fails = lambda message: None
    assert next(loop)
    assert members.connection.reopened == 0


# -- no more than the limit


@pytest.mark.parametrize(("window", "limit"), [(1, 1), (1, 3), (2, 3), (3, 3), (2, 10)])
def test_the_subscription_is_completed_before_an_ack_could_bring_too_much(
    window: int, limit: int
) -> None:
    members = Members(*[b"x"] * limit)
    members.window = window
    completed_after: list[int] = []
    members.complete = lambda: completed_after.append(  # type: ignore[method-assign]
        len(members.consumers.processed)
    )
    loop = looping(members, limit)

    loop.start(limit)
    assert len(list(loop)) == limit

    # Each ack brings one more: so many were in hand, or on their way, when it was completed.
    assert completed_after[0] + window == limit


def test_when_less_had_come_it_subscribes_for_what_is_missing() -> None:
    members = Members(b"1", None, b"2", b"3")
    members.window = 3
    loop = looping(members, 3)
    members.consumers.is_drained = True

    loop.start(3)
    assert len(list(loop)) == 3

    assert members.done[:3] == [("subscribe", 3), "complete", ("subscribe", 2)]


# -- slow callbacks


@pytest.mark.parametrize(("heartbeat", "is_told"), [(10.0, True), (60.0, False), (0.0, False)])
def test_a_callback_that_takes_longer_than_a_heartbeat_is_logged(
    heartbeat: float,
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(consume_loop, "now", lambda: clock[0])
    members = Members(b"1")
    members.backend.life.transport.heartbeat = heartbeat
    members.consumers.fails = lambda message: clock.__setitem__(0, clock[0] + 12.5)
    loop = looping(members, timeout=None)

    with caplog.at_level(logging.WARNING, logger="carrot"):
        loop.start()
        assert list(loop) == [True]

    told = [record.getMessage() for record in caplog.records]
    expected = "a callback for queue 'q' took 12.5 seconds, longer than a heartbeat of 10 seconds"
    assert told == [expected] * is_told
