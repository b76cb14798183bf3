"""Stress: threads that make random public calls on one connection, which is killed at random.

What a run checks, whatever the calls and their moments:

- no call is late: each has a deadline, and a watch dumps all stacks when one is past it;
- no exception comes out that is not carrot's, nor one of carrot's that nothing here explains;
- no message is lost that was confirmed: it is received, or still in its queue at the end;
- nothing is left when everything is closed: no channel, no subscription, no connection, no thread.

The calls of each thread follow from the seed, and their moments don't: a seed that finds something
finds it in most runs, not in all. `python -m tests.faults.stress amqp --seed 1 --seconds 20` runs
one from the command line.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

from carrot.connection import BrokerConnection
from carrot.exceptions import OperationTimeout
from carrot.message import Message
from carrot.messaging import Consumer, ConsumerSet
from tests.brokers import ActiveMQ, RabbitMQ, ZeroMQ
from tests.conftest import LOCK_ORDER
from tests.faults.actors import (
    ASKING,
    CONNECT,
    OPERATION,
    SCRATCH,
    SENDING,
    Actor,
    Names,
    Stage,
)
from tests.faults.kills import Kills, KillsByProxy, KillsInMemory
from tests.faults.ledger import EXAMPLES
from tests.faults.proxy import Proxy
from tests.faults.watch import HANGING, SLACK, dump
from tests.waiting import eventually

SEED_VARIABLE, SECONDS_VARIABLE = "CARROT_STRESS_SEED", "CARROT_STRESS_SECONDS"

THREADS = 8
#: How long everything may take that has to happen when nothing is killed any more, in seconds.
PATIENCE = 20.0
#: The part of a run, its last, in which nothing is killed.
CALM = 0.2
#: How often Python changes threads, in seconds: often, for that is what finds races.
SWITCH_INTERVAL = 0.00001
#: Calls that a run makes many times over, even a short one.
MUST_WORK = ("Publisher.send", "Publisher.batch", "Consumer.fetch", "Message.ack")


class Left(NamedTuple):
    """What a broker says that it has of a client's: channels, and connections."""

    channels: int
    connections: int


class Run:
    """One run, from the first thread to the last check.

    :param url: how the threads reach the broker: it may lead through what kills connections.
    :param direct_url: how the checks reach it.
    :param name: begins the names of the queues; unique.
    :param kills: what is done to the connection; made from it, because some need it.
    :param left: asks the broker what there is of the connections of *url*; default nothing.
    :param graves: more queues in which a message of ours may be at the end.
    :param answer_time: seconds that a driver waits for an answer whatever the deadline.
    """

    def __init__(
        self,
        url: str,
        direct_url: str,
        name: str,
        kills: Callable[[BrokerConnection], Kills],
        *,
        seed: int,
        seconds: float,
        left: Callable[[], Left] | None = None,
        graves: tuple[str, ...] = (),
        answer_time: float = 0.0,
    ) -> None:
        self.seed, self.seconds = seed, seconds
        names = Names(f"{name}-x", tuple(f"{name}-{n}" for n in range(3)), f"{name}-scratch")
        connection = BrokerConnection(url, operation_timeout=OPERATION, connect_timeout=CONNECT)
        self._stage = Stage(connection, names, seed)
        self._stage.watch.answer_time = answer_time
        self.findings = self._stage.findings
        self._kills: Counter[str] = Counter()
        self._killer = kills(connection)
        self._direct_url, self._graves, self._left = direct_url, graves, left
        self._chance = random.Random(f"{seed}-kills")
        self._threads_before = set(threading.enumerate())

    # -- running

    def __call__(self) -> Run:
        """Do it all; what went wrong is in :attr:`findings`."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL)
        try:
            self._declare()
            self._stage.set_up()
            with self._stage.watch:
                self._stress()
                if not self._stage.watch.has_hung.is_set():
                    self._close_all()
            if not self._stage.watch.has_hung.is_set():
                self._drain()
                self._check()
        finally:
            sys.setswitchinterval(interval)
            self._killer.close()
        return self

    def _declare(self) -> None:
        with BrokerConnection(self._direct_url) as connection:
            for queue in self._stage.names.queues:
                Consumer(connection, queue, self._stage.names.exchange, queue).close()
            Consumer(connection, self._stage.names.scratch).close()

    def _stress(self) -> None:
        actors = [Actor(self._stage, number) for number in range(THREADS)]
        for actor in actors:
            actor.thread.start()
        # Calm at the end: what is left on a connection that is killed goes with it unseen.
        calm = CALM * self.seconds
        end = time.monotonic() + self.seconds - calm
        while (left := end - time.monotonic()) > 0 and not self._stage.watch.has_hung.is_set():
            pause = self._chance.choice([0.02, 0.1, 0.3, 0.3, 1.0])
            self._stage.watch.has_hung.wait(min(left, self._chance.uniform(0.5, 1.0) * pause))
            self._kills[self._killer.kill(self._chance)] += 1
        self._killer.end()
        self._stage.watch.has_hung.wait(calm)
        self._stage.is_ending = True
        # The watch says which call is late; the longest is a batch.
        end = time.monotonic() + 2 * SENDING + SLACK + HANGING
        for actor in actors:
            while actor.thread.is_alive() and time.monotonic() < end:
                if self._stage.watch.has_hung.is_set():
                    return
                actor.thread.join(0.1)

    # -- the end

    def _close_all(self) -> None:
        for made in list(self._stage.made):
            with self._stage.watch.call(f"{type(made).__name__}.close, at the end", ASKING):
                made.close()
        self._collect()
        self._expect_left("when all were closed", channels=0)
        with self._stage.watch.call("BrokerConnection.close", OPERATION):
            self._stage.connection.close()
        self._expect_left("when the connection was closed", channels=0, connections=0)
        self._expect_no_subscription()

    def _collect(self) -> None:
        """Let go of objects whose constructors failed, which nobody could close.

        Their channels are closed by the next who opens one.
        """
        gc.collect()
        with self._stage.watch.call("Publisher, the last one", ASKING):
            self._stage.make_publisher("").send(SCRATCH, self._stage.names.scratch)
        with self._stage.watch.call("Publisher.close, at the end", ASKING):
            self._stage.made[-1].close()

    def _expect_left(self, when: str, **most: int) -> None:
        """The broker has no more of ours than that, soon."""
        if self._left is None:
            return
        asked = self._left
        seen = asked()

        def is_right() -> bool:
            nonlocal seen
            seen = asked()
            return all(getattr(seen, name) <= number for name, number in most.items())

        try:
            eventually(is_right, PATIENCE)
        except AssertionError:
            self.findings.add(f"the broker still has something of ours {when}", str(seen))

    def _expect_no_subscription(self) -> None:
        with BrokerConnection(self._direct_url) as connection:
            backend = connection.create_backend()
            if not backend.capabilities.inspection:
                return

            def counts() -> dict[str, int]:
                return {
                    queue: backend.queue_declare(queue, True, False, False).consumer_count
                    for queue in self._stage.names.queues
                }

            try:
                eventually(lambda: not any(counts().values()), PATIENCE)
            except AssertionError:
                self.findings.add("a subscription is left at the broker", str(counts()))

    def _drain(self) -> None:
        """Receive what is still in the queues, over a connection that nobody kills."""
        last = time.monotonic()

        def take(data: Any, message: Message) -> None:
            nonlocal last
            last = time.monotonic()
            if str(data).startswith(self._stage.names.scratch):
                self._stage.ledger.received(data)
            message.ack()

        with BrokerConnection(self._direct_url) as connection:
            queues = (*self._stage.names.queues, *self._graves)
            consumers = [Consumer(connection, queue) for queue in queues]
            drain = ConsumerSet(connection, consumers=consumers, callbacks=[take])
            # Both: what is in the queues at all, and then a while for what is on its way back.
            while time.monotonic() < last + (PATIENCE if self._stage.ledger.lost else 1.0):
                with suppress(OperationTimeout):
                    drain.wait(timeout=0.5)
            backend = connection.create_backend()
            if backend.capabilities.deletion:
                for queue in (*self._stage.names.queues, self._stage.names.scratch):
                    backend.queue_delete(queue)
                backend.exchange_delete(self._stage.names.exchange)

    def _check(self) -> None:
        try:
            self._stage.ledger.check()
        except AssertionError as exc:
            trails = [
                f"{id}: {self._stage.trails.of(str(id))}"
                for id in sorted(self._stage.ledger.lost, key=str)
            ]
            text = "\n".join([str(exc), *trails[:EXAMPLES]])
            self.findings.add("a confirmed message is lost, or one came from nowhere", text)
        self._killer.close()

        def others() -> set[threading.Thread]:
            return {
                thread
                for thread in set(threading.enumerate()) - self._threads_before
                if thread.name != "carrot-timer"
            }

        try:
            eventually(lambda: not others(), PATIENCE)
        except AssertionError:
            names = sorted(thread.name for thread in others())
            self.findings.add("a thread is left", f"{names}\n{dump()}")
        for name in MUST_WORK:
            if not self._stage.watch.outcomes[name]["ok"]:
                self.findings.add("a call never succeeded", name, name)

    # -- the report

    def report(self) -> str:
        """What was done, and what was found."""
        killed = ", ".join(f"{number} {name}" for name, number in self._kills.most_common())
        lines = [
            f"{self.seconds:g} s, {THREADS} threads, seed {self.seed}: "
            f"{self._kills.total()} kills ({killed})",
            self._stage.ledger.summary(),
            *self._calls(),
        ]
        findings = list(self.findings)
        lines.append(f"{len(findings)} findings" if findings else "nothing found")
        for number, finding in enumerate(findings, 1):
            lines += [f"-- {number}. {finding}", ""]
        lines.append(
            f"again: {SEED_VARIABLE}={self.seed} {SECONDS_VARIABLE}={self.seconds:g} …, or "
            f"python -m tests.faults.stress DRIVER --seed {self.seed} --seconds {self.seconds:g}"
        )
        return "\n".join(lines)

    def _calls(self) -> Iterator[str]:
        for name, outcomes in sorted(self._stage.watch.outcomes.items()):
            told = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
            yield f"  {name}: {told}; longest {self._stage.watch.longest[name]:.2f} s"


# -- the drivers


def over_amqp(broker: RabbitMQ, name: str, seed: int, seconds: float, scheme: str = "amqp") -> Run:
    """A run on RabbitMQ, in a virtual host of its own, whose channels can be counted.

    :param scheme: amqp, or pyamqplib.
    """
    broker.ctl("add_vhost", name)
    broker.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
    proxy = Proxy(broker.port)
    proxy.listen()

    def count(what: str) -> int:
        return broker.ctl(f"list_{what}", "vhost").split().count(name)

    def left() -> Left:
        return Left(count("channels"), count("connections"))

    through, direct = (
        f"{scheme}://guest:guest@127.0.0.1:{port}/{name}" for port in (proxy.port, broker.port)
    )
    kills = partial(_kills_by, proxy, True)
    # py-amqp knows no deadline but that of the connection, as the documentation says.
    answer_time = OPERATION if scheme == "pyamqplib" else 0.0
    return Run(
        through,
        direct,
        name,
        kills,
        seed=seed,
        seconds=seconds,
        left=left,
        answer_time=answer_time,
    )


def over_stomp(broker: ActiveMQ, name: str, seed: int, seconds: float) -> Run:
    """A run on ActiveMQ, which puts aside what it has delivered too often."""
    proxy = Proxy(broker.port, frames=False)
    proxy.listen()
    url = broker.url.replace(f":{broker.port}", f":{proxy.port}")
    kills = partial(_kills_by, proxy, False)
    return Run(
        url, broker.url, name, kills, seed=seed, seconds=seconds, graves=("ActiveMQ.DLQ",)
    )  # fmt: skip


def over_zeromq(broker: ZeroMQ, name: str, seed: int, seconds: float) -> Run:
    """A run on carrot's own broker, in a virtual host of its own."""
    proxy = Proxy(broker.port, frames=False)
    proxy.listen()
    url = f"zeromq+tcp://127.0.0.1:{proxy.port}/{name}"
    kills = partial(_kills_by, proxy, False)
    return Run(url, broker.virtual_host(name), name, kills, seed=seed, seconds=seconds)


def in_memory(name: str, seed: int, seconds: float) -> Run:
    """A run in this process alone."""
    url = f"memory://{name}/"
    return Run(url, url, name, KillsInMemory, seed=seed, seconds=seconds)


def _kills_by(proxy: Proxy, speaks_amqp: bool, connection: BrokerConnection) -> Kills:
    return KillsByProxy(proxy, speaks_amqp)


def given_seed() -> int:
    """What the environment says, or a new one."""
    given = os.environ.get(SEED_VARIABLE)
    return int(given) if given else random.SystemRandom().randrange(2**32)


def given_seconds(default: float) -> float:
    """What the environment says, or the default."""
    return float(os.environ.get(SECONDS_VARIABLE) or default)


def main() -> int:
    """One run from the command line; its report, and 1 when it found something."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.stress", description="one run")
    parser.add_argument("driver", choices=["amqp", "pyamqplib", "stomp", "zeromq", "memory"])
    parser.add_argument("--seed", type=int, default=given_seed())
    parser.add_argument("--seconds", type=float, default=given_seconds(20.0))
    options = parser.parse_args()
    how = {"seed": options.seed, "seconds": options.seconds}
    with ExitStack() as stack:
        if options.driver in ("amqp", "pyamqplib"):
            broker = stack.enter_context(RabbitMQ())
            run = over_amqp(broker, "stress", **how, scheme=options.driver)
        elif options.driver == "stomp":
            run = over_stomp(stack.enter_context(ActiveMQ()), "stress", **how)
        elif options.driver == "zeromq":
            run = over_zeromq(stack.enter_context(ZeroMQ()), "stress", **how)
        else:
            run = in_memory("stress", **how)
        run()
    print(run.report())
    print(LOCK_ORDER.summary())
    print(LOCK_ORDER.report())
    sys.stdout.flush()
    # Threads that hang would keep the interpreter from ending.
    os._exit(1 if list(run.findings) else 0)


if __name__ == "__main__":
    main()
