"""Threads that make random public calls on shared objects, and the books of what they did."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from carrot.connection import BrokerConnection
from carrot.message import Message
from carrot.messaging import Consumer, ConsumerSet, Publisher
from carrot.retry import Retry
from tests.faults.ledger import Ledger
from tests.faults.watch import Findings, Watch

#: The options of the connection and the publishers, in seconds, and what follows from them.
CONNECT, OPERATION, CONFIRM, RETRY = 2.0, 3.0, 4.0, 4.0
#: For a call without a timeout of its own: it connects, asks, and asks once more.
ASKING = CONNECT + 2 * OPERATION
#: For a send: its channel and its confirm, and then all that retry allows.
SENDING = OPERATION + CONFIRM + RETRY

PREFETCH = 20
BATCH = 20  # messages at most
FLEETING = 6  # consumers at most that a set has
#: The data of messages that may be lost.
SCRATCH = "scratch"


class Names(NamedTuple):
    """Queues and an exchange that exist, durable, and are bound by the queues' names."""

    exchange: str
    queues: tuple[str, ...]
    scratch: str  # for messages that may be lost


class Trails:
    """What happened to each message, for the report of those that are lost. Any thread may add."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._steps: defaultdict[str, list[tuple[float, str, str]]] = defaultdict(list)

    def note(self, id: str, step: str) -> None:
        """This is about to happen to it, or has just happened."""
        at = time.monotonic() - self._begun
        self._steps[id].append((at, threading.current_thread().name, step))

    def of(self, id: str) -> str:
        """All steps of one message."""
        return "; ".join(f"{at:.3f} s {thread}: {step}" for at, thread, step in self._steps[id])


class Stage:
    """What all threads share: the objects on the one connection, and the books.

    :ivar is_ending: no thread begins another call.
    """

    def __init__(self, connection: BrokerConnection, names: Names, seed: int) -> None:
        self.connection, self.names, self.seed = connection, names, seed
        self.findings = Findings()
        self.watch = Watch(self.findings)
        self.ledger = Ledger(seed)
        self.trails = Trails()
        self.has_mandatory = connection.get_backend_cls().capabilities.mandatory
        self.is_ending = False
        # All that was ever made, in order to close it.
        self.made: list[Publisher | Consumer | ConsumerSet] = []
        self.publishers: list[Publisher] = []
        self.consumers: list[Consumer] = []
        self.sets: list[ConsumerSet] = []

    def set_up(self) -> None:
        """Make the objects. A set that is closed later is replaced."""
        names = self.names
        self.publishers += [
            self.make_publisher(exchange) for exchange in ("", names.exchange, names.exchange)
        ]
        self.careless = self.make_publisher("", confirm=False)
        self.consumers += [
            self.make_consumer(queue, exchange=names.exchange, routing_key=queue)
            for queue in names.queues
        ]
        # Its acks are carrot's; and the broker forgets what it sends to the other one.
        self.consumers.append(self.make_consumer(names.queues[0], auto_ack=True))
        self.consumers.append(self.make_consumer(names.scratch, no_ack=True))
        self.sets += [self.make_set(), self.make_set()]

    def make_publisher(self, exchange: str, **options: Any) -> Publisher:
        """A new one, with the deadlines of all."""
        made = Publisher(
            self.connection,
            exchange,
            retry=Retry(seconds=RETRY),
            confirm_timeout=CONFIRM,
            **options,
        )
        self.made.append(made)
        return made

    def make_consumer(self, queue: str, **options: Any) -> Consumer:
        """A new one, which settles as it likes."""
        made = Consumer(
            self.connection, queue, callbacks=[receive], prefetch_count=PREFETCH, **options
        )
        self.made.append(made)
        return made

    def make_set(self) -> ConsumerSet:
        """A new one, empty."""
        made = ConsumerSet(self.connection, callbacks=[receive])
        self.made.append(made)
        return made


class Actor:
    """One of the threads, and its chances."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.stage = stage
        self.chance = random.Random(f"{stage.seed}-{number}")
        self.thread = threading.Thread(target=self._act, name=f"stress-{number}", daemon=True)
        self._number = number
        self._sent = 0

    def _act(self) -> None:
        _actors.mine = self
        names, weights = list(ACTIONS), [action.weight for action in ACTIONS.values()]
        while not self.stage.is_ending:
            name = self.chance.choices(names, weights)[0]
            action = ACTIONS[name]
            try:
                action.do(self)
            except Exception as exc:
                self.stage.findings.error("the harness is broken", name, exc)
                return

    # -- helpers of the actions

    def call(self, name: str, seconds: float = ASKING) -> Any:
        """A block that makes one call, under watch."""
        return self.stage.watch.call(name, seconds)

    def timeout(self) -> float:
        return self.chance.choice([0.0, 0.02, 0.1, 0.3, 1.0])

    def limit(self) -> int | None:
        return self.chance.choice([1, 1, 2, 5, 20, None])

    def new_ids(self, count: int) -> list[str]:
        """Of messages that are about to be sent."""
        ids = [f"{self.stage.names.scratch}-{self._number}-{self._sent + n}" for n in range(count)]
        self._sent += count
        for id in ids:
            self.stage.ledger.attempted(id)
        return ids

    def confirmed(self, ids: Sequence[str], how: str) -> None:
        """The call has returned: the broker has these messages."""
        for id in ids:
            self.stage.ledger.confirmed(id)
            self.stage.trails.note(id, f"confirmed, {how}")

    def received(self, id: str, how: str) -> None:
        """A message is here, and will be settled for good."""
        self.stage.ledger.received(id)
        self.stage.trails.note(id, f"received, {how}")

    def queue(self) -> str:
        return self.chance.choice(self.stage.names.queues)

    def sender(self) -> Publisher:
        return self.chance.choice(self.stage.publishers)

    def consumer(self) -> Consumer:
        return self.chance.choice(self.stage.consumers)

    def set(self) -> ConsumerSet:
        return self.chance.choice(self.stage.sets)

    def settle(self, message: Message) -> None:
        """Ack it, mostly; what is rejected for good counts as received, too."""
        if message.payload == SCRATCH:
            return
        if message.acknowledged:  # by auto_ack
            self.received(message.payload, "acked at once")
            return
        chance = self.chance.random()
        if chance < 0.02:
            self.stage.trails.note(message.payload, "left unsettled")
            return  # it comes back when the channel is closed
        if chance < 0.06:
            self.stage.trails.note(message.payload, "requeued")
            with self.call("Message.requeue"):
                message.requeue()
            return
        name, settle = ("ack", message.ack) if chance < 0.97 else ("reject", message.reject)
        self.received(message.payload, name)
        with self.call(f"Message.{name}"):
            settle()


_actors = threading.local()


def receive(data: Any, message: Message) -> None:
    """The callback of all consumers."""
    actor: Actor = _actors.mine
    if message.acknowledged:
        # Before anything can raise: it does not come back.
        actor.settle(message)
        return
    chance = actor.chance.random()
    if chance < 0.03:
        _send(actor)
    elif chance < 0.05:
        with actor.call("Consumer.stop, in a callback"):
            actor.consumer().stop()
    elif chance < 0.06:
        with actor.call("Consumer.cancel, in a callback"):
            actor.consumer().cancel()
    actor.settle(message)


# -- the actions


def _send(actor: Actor) -> None:
    publisher, queue = actor.sender(), actor.queue()
    [id] = actor.new_ids(1)
    actor.stage.ledger.failed(id)  # until it is known better
    mandatory = actor.stage.has_mandatory and actor.chance.random() < 0.2
    with actor.call("Publisher.send", SENDING):
        publisher.send(id, queue, mandatory=mandatory)
        actor.confirmed([id], f"sent to {publisher.exchange!r}, {queue}")


def _send_and_forget(actor: Actor) -> None:
    with actor.call("Publisher(confirm=False).send", SENDING):
        actor.stage.careless.send(SCRATCH, actor.stage.names.scratch)


def _batch(actor: Actor) -> None:
    publisher, queue = actor.sender(), actor.queue()
    ids = actor.new_ids(actor.chance.randint(1, BATCH))
    for id in ids:
        actor.stage.ledger.failed(id)
    with actor.call("Publisher.batch", 2 * SENDING):
        with publisher.batch() as batch:
            for id in ids:
                batch.send(id, routing_key=queue)
        actor.confirmed(ids, f"in a batch to {publisher.exchange!r}, {queue}")


def _close_publisher(actor: Actor) -> None:
    publisher = actor.sender()
    with actor.call("Publisher.close"):
        publisher.close()
    with actor.call("Publisher.declare"):
        publisher.declare()


def _declare_publisher(actor: Actor) -> None:
    with actor.call("Publisher.declare"):
        actor.sender().declare()


def _wait(actor: Actor) -> None:
    timeout = actor.timeout()
    with actor.call("Consumer.wait", timeout):
        actor.consumer().wait(limit=actor.limit(), timeout=timeout)


def _iterate(actor: Actor, kind: str, target: Consumer | ConsumerSet) -> None:
    timeout = actor.timeout()
    with actor.call(f"{kind}.iterconsume", timeout):
        for _ in target.iterconsume(limit=actor.limit(), timeout=timeout):
            if actor.chance.random() < 0.1:
                break


def _iterconsume(actor: Actor) -> None:
    _iterate(actor, "Consumer", actor.consumer())


def _fetch(actor: Actor) -> None:
    timeout = actor.chance.choice([0.2, 0.5, 1.0])
    message = None
    with actor.call("Consumer.fetch", timeout):
        message = actor.consumer().fetch(timeout=timeout)
    if message is not None:
        actor.settle(message)


def _fetch_acked(actor: Actor) -> None:
    timeout = actor.chance.choice([0.2, 0.5, 1.0])
    with actor.call("Consumer.fetch(auto_ack)", timeout):
        message = actor.consumer().fetch(auto_ack=True, timeout=timeout)
        if message is not None:
            actor.settle(message)


def _cancel(actor: Actor) -> None:
    with actor.call("Consumer.cancel"):
        actor.consumer().cancel()


def _stop(actor: Actor) -> None:
    with actor.call("Consumer.stop", 0.0):
        actor.consumer().stop()


def _declare(actor: Actor) -> None:
    with actor.call("Consumer.declare"):
        actor.consumer().declare()


def _close(actor: Actor) -> None:
    consumer = actor.consumer()
    with actor.call("Consumer.close"):
        consumer.close()
    if actor.chance.random() < 0.8:
        with actor.call("Consumer.declare"):
            consumer.declare()


def _set_wait(actor: Actor) -> None:
    timeout = actor.timeout()
    with actor.call("ConsumerSet.wait", timeout):
        actor.set().wait(limit=actor.limit(), timeout=timeout)


def _set_iterconsume(actor: Actor) -> None:
    _iterate(actor, "ConsumerSet", actor.set())


def _set_add(actor: Actor) -> None:
    target, queue = actor.set(), actor.queue()
    if len(target.consumers) >= FLEETING:
        _set_cancel_by_queue(actor)
        return
    if actor.chance.random() < 0.5:
        with actor.call("ConsumerSet.add_consumer_from_dict", 2 * ASKING):
            target.add_consumer_from_dict(queue, prefetch_count=PREFETCH)
        return
    with actor.call("ConsumerSet.add_consumer", 2 * ASKING):
        target.add_consumer(actor.stage.make_consumer(queue))


def _set_cancel_by_queue(actor: Actor) -> None:
    with actor.call("ConsumerSet.cancel_by_queue"):
        actor.set().cancel_by_queue(actor.queue())


def _set_consume(actor: Actor) -> None:
    with actor.call("ConsumerSet.consume"):
        actor.set().consume()


def _set_cancel(actor: Actor) -> None:
    with actor.call("ConsumerSet.cancel"):
        actor.set().cancel()


def _set_stop(actor: Actor) -> None:
    with actor.call("ConsumerSet.stop", 0.0):
        actor.set().stop()


def _set_close(actor: Actor) -> None:
    sets = actor.stage.sets
    place = actor.chance.randrange(len(sets))
    old, sets[place] = sets[place], actor.stage.make_set()
    with actor.call("ConsumerSet.close"):
        old.close()


class Action(NamedTuple):
    """What a thread may do, and how often compared to others."""

    weight: int
    do: Callable[[Actor], None]


ACTIONS: dict[str, Action] = {
    "send": Action(20, _send),
    "send and forget": Action(4, _send_and_forget),
    "batch": Action(8, _batch),
    "close a publisher": Action(2, _close_publisher),
    "declare a publisher": Action(2, _declare_publisher),
    "wait": Action(12, _wait),
    "iterconsume": Action(6, _iterconsume),
    "fetch": Action(8, _fetch),
    "fetch, acked": Action(4, _fetch_acked),
    "cancel": Action(4, _cancel),
    "stop": Action(2, _stop),
    "declare": Action(2, _declare),
    "close": Action(4, _close),
    "wait for a set": Action(8, _set_wait),
    "iterate over a set": Action(4, _set_iterconsume),
    "add to a set": Action(5, _set_add),
    "take from a set": Action(4, _set_cancel_by_queue),
    "subscribe a set": Action(2, _set_consume),
    "cancel a set": Action(2, _set_cancel),
    "stop a set": Action(1, _set_stop),
    "close a set": Action(2, _set_close),
}
