"""A storm: faults at random, one after the other, while messages are sent in every way there is."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest
from pamqp import commands, frame

from carrot.exceptions import ChannelError
from tests.brokers import RabbitMQ
from tests.conftest import unavailable
from tests.faults.ledger import Schedule, seeded
from tests.faults.proxy import Faults, Link, Plan, Proxy
from tests.faults.traffic import PATIENCE, Traffic, told
from tests.waiting import eventually

#: One that has frozen is noticed after two of them, in seconds.
HEARTBEAT = 1
#: Of what is sent at once, by send_many() and in a batch.
CHUNK = 40
#: Class and method of an ack and a nack, as they stand in a frame.
CONFIRMS = ((60).to_bytes(2) + (80).to_bytes(2), (60).to_bytes(2) + (120).to_bytes(2))
#: Seconds until messages flow again, when a broker has to start for it.
RESTART = 60.0


#: Messages that must be confirmed in the short storm, and in the long one.
TRAFFIC, LONG_TRAFFIC = 10_000, 200_000
#: Seconds for those of them that are left when the storm is over.
FAIR = 600.0


@dataclass
class Storm:
    """What a fault is made with.

    :ivar proxy: between the broker and both connections of the traffic.
    """

    broker: RabbitMQ
    proxy: Proxy
    chance: Schedule
    traffic: Traffic
    happened: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)

    def a_link(self) -> Link:
        """One of the two connections, when those that ended before are gone."""

        def both() -> list[Link] | None:
            links = self.proxy.links
            return links if len(links) == 2 else None

        return self.chance.choice(eventually(both, PATIENCE))

    def happen(self, name: str) -> None:
        """Let a fault happen, and wait until messages flow again."""
        self.chance.note(name)
        self.happened[name] += 1
        FAULTS[name](self)
        self.recoveries.append(self.traffic.wait_for_flow(RESTART))

    def say(self, data: bytes) -> None:
        """Let one of the connections hear this from its broker."""
        with suppress(OSError):  # one that ends this very moment, for another reason
            self.a_link().send_down(data)

    @contextmanager
    def lasting(self, seconds: float) -> Iterator[None]:
        """What is begun here lasts so long."""
        yield
        threading.Event().wait(seconds)


# -- connections that end


def _fin(storm: Storm) -> None:
    storm.a_link().cut()


def _rst(storm: Storm) -> None:
    storm.a_link().cut(rst=True)


def _cut_at_a_byte(storm: Storm) -> None:
    link = storm.a_link()
    stream = storm.chance.choice([link.up, link.down])
    stream.cut_after(storm.chance.randrange(1, 5000))


def _cut_in_the_handshake(storm: Storm) -> None:
    direction = storm.chance.choice(["up", "down"])
    storm.proxy.plan_next(Plan(**{direction: Faults(cut_at=storm.chance.randrange(1, 800))}))
    storm.a_link().cut()


def _refuse(storm: Storm) -> None:
    storm.proxy.refuse()
    with storm.lasting(0.3):
        storm.proxy.cut_all()
    storm.proxy.listen()


def _say_nothing(storm: Storm) -> None:
    storm.proxy.plan_next(Plan(silent=True))
    storm.a_link().cut()


# -- connections that go on, badly


def _freeze(storm: Storm) -> None:
    before = storm.proxy.connections
    link = storm.a_link()
    link.freeze()
    # Only the silence tells, and the broker still holds what was delivered on it.
    eventually(lambda: storm.proxy.connections > before, PATIENCE)
    link.cut()


def _trickle(storm: Storm) -> None:
    _for_a_while(storm, Faults(piece=200, interval=0.002))


def _single_bytes(storm: Storm) -> None:
    _for_a_while(storm, Faults(piece=1))


def _for_a_while(storm: Storm, faults: Faults) -> None:
    link = storm.a_link()
    with storm.lasting(0.5):
        link.up.faults = link.down.faults = faults
    link.up.faults = link.down.faults = Faults()


def _corrupt_a_frame(storm: Storm) -> None:
    # Its head: AMQP has no checksums, and what is inside would be another message.
    _to_one_frame(storm, lambda data: bytes([data[0] ^ 0xFF]) + data[1:])


def _to_one_frame(storm: Storm, change: Callable[[bytes], bytes]) -> None:
    link = storm.a_link()
    stream = storm.chance.choice([link.up, link.down])
    frames = itertools.count()
    stream.faults = Faults(on_frame=lambda data: data if next(frames) else change(data))


def _send_garbage(storm: Storm) -> None:
    storm.say(bytes([storm.chance.randrange(256)]) * 50)


def _double_the_confirms(storm: Storm) -> None:
    def twice(data: bytes) -> bytes:
        return data * 2 if data[7:11] in CONFIRMS else data

    with storm.lasting(0.3):
        for link in storm.proxy.links:
            link.down.faults = Faults(on_frame=twice)
    for link in storm.proxy.links:
        link.down.faults = Faults()


def _delay_the_confirms(storm: Storm) -> None:
    def late(data: bytes) -> bytes:
        if data[7:11] in CONFIRMS:
            threading.Event().wait(0.01)
        return data

    with storm.lasting(0.3):
        for link in storm.proxy.links:
            link.down.faults = Faults(on_frame=late)
    for link in storm.proxy.links:
        link.down.faults = Faults()


# -- what a broker says


def _close_the_connection(storm: Storm) -> None:
    command = commands.Connection.Close(320, "CONNECTION_FORCED - maintenance", 0, 0)
    storm.say(frame.marshal(command, 0))


def _close_the_channel(storm: Storm) -> None:
    # To a sender an error as any other; a consumer subscribes again.
    text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"
    storm.say(frame.marshal(commands.Channel.Close(406, text, 0, 0), 1))


# -- what happens to a broker


def _close_all_connections(storm: Storm) -> None:
    storm.broker.ctl("close_all_connections", "maintenance")


def _stop_the_process(storm: Storm) -> None:
    with storm.lasting(storm.chance.uniform(0.1, 3.0)):
        storm.broker.freeze()
    storm.broker.thaw()


def _raise_an_alarm(storm: Storm) -> None:
    storm.broker.ctl("set_vm_memory_high_watermark", "0.00001")
    storm.broker.ctl("set_vm_memory_high_watermark", "0.4")


def _restart_the_application(storm: Storm) -> None:
    storm.broker.ctl("stop_app")
    storm.broker.ctl("start_app")


def _kill_the_node(storm: Storm) -> None:
    storm.broker.kill()
    storm.broker.start()


NETWORK_FAULTS: dict[str, Callable[[Storm], None]] = {
    "closed with FIN": _fin,
    "closed with RST": _rst,
    "cut at a byte": _cut_at_a_byte,
    "cut in the handshake": _cut_in_the_handshake,
    "refused": _refuse,
    "accepted, and silent": _say_nothing,
    "frozen": _freeze,
    "slowed to a trickle": _trickle,
    "split into single bytes": _single_bytes,
    "a frame corrupted": _corrupt_a_frame,
    "garbage": _send_garbage,
    "confirms doubled": _double_the_confirms,
    "confirms delayed": _delay_the_confirms,
    "connection.close": _close_the_connection,
    "channel.close": _close_the_channel,
}
BROKER_FAULTS: dict[str, Callable[[Storm], None]] = {
    "all connections closed": _close_all_connections,
    "SIGSTOP and SIGCONT": _stop_the_process,
    "memory alarm": _raise_an_alarm,
    "stop_app and start_app": _restart_the_application,
    "SIGKILL and restart": _kill_the_node,
}
FAULTS = NETWORK_FAULTS | BROKER_FAULTS


def _weather(
    broker: RabbitMQ, queue: str, faults: Callable[[Schedule], list[str]], messages: int
) -> Storm:
    """A storm of these faults over at least so many confirmed messages, its ledger checked."""
    with seeded() as chance, Proxy(broker.port) as proxy:
        with Traffic(
            proxy.url,
            queue,
            chunk=CHUNK,
            # A closed channel is the sender's to know.
            expected=(ChannelError,),
            connection_options={"heartbeat": HEARTBEAT, "connect_timeout": 1},
        ) as traffic:
            storm = Storm(broker, proxy, chance, traffic)
            for name in faults(chance):
                storm.happen(name)
            # In fair weather, too: what a fault left behind shows then.
            eventually(lambda: traffic.check() or traffic.ledger.number_confirmed >= messages, FAIR)
        print(f"\n{len(storm.recoveries)} faults: {dict(storm.happened)}")
        print(f"{traffic.ledger.summary()}; flowing again: {told(storm.recoveries)}")
        traffic.ledger.check()
    return storm


@pytest.mark.timeout(300)
def test_nothing_confirmed_is_lost_in_a_storm(
    rabbitmq: RabbitMQ, unique: Callable[..., str]
) -> None:
    def each_twice(chance: Schedule) -> list[str]:
        return chance.sample([*NETWORK_FAULTS, *NETWORK_FAULTS], 2 * len(NETWORK_FAULTS))

    storm = _weather(rabbitmq, unique(), each_twice, TRAFFIC)

    assert set(storm.happened) == set(NETWORK_FAULTS)


LONG_STORM = 300  # faults
# How many of them are each of the broker's own, which take longer.
BROKER_SHARE = 6


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_nothing_confirmed_is_lost_in_a_long_storm(unique: Callable[..., str]) -> None:
    if reason := RabbitMQ.missing():
        unavailable(reason)

    def many(chance: Schedule) -> list[str]:
        chosen = [name for name in BROKER_FAULTS for _ in range(BROKER_SHARE)]
        chosen += chance.choices(list(NETWORK_FAULTS), k=LONG_STORM - len(chosen))
        chance.shuffle(chosen)
        return chosen

    with RabbitMQ() as broker:
        storm = _weather(broker, unique(), many, LONG_TRAFFIC)

    assert set(storm.happened) == set(FAULTS)
