"""The fault bench itself: the proxy does what it is told, and the ledger counts right."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from pamqp import commands, frame

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from tests.brokers import RabbitMQ, amqp_version
from tests.brokers.cluster import Cluster
from tests.brokers.process import free_port
from tests.conftest import unavailable
from tests.faults.ledger import SEED_VARIABLE, Ledger, seeded
from tests.faults.link import OnFrame
from tests.faults.proxy import Faults, Plan, Proxy
from tests.waiting import eventually

PROTOCOL_HEADER = b"AMQP\0\0\x09\x01"
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
SILENCE = 0.1  # seconds in which nothing may come
PATIENCE = 5.0  # seconds in which something must


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    """The port of a server that sends back what it receives, until its client ends."""

    def echo(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            while data := peer.recv(65536):
                peer.sendall(data)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


@pytest.fixture
def echo(echo_port: int) -> Iterator[Proxy]:
    """A proxy before the server that sends back what it receives."""
    with Proxy(echo_port, frames=False) as proxy:
        yield proxy


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    """A proxy before a RabbitMQ."""
    with Proxy(rabbitmq.port) as proxy:
        yield proxy


@pytest.fixture
def dial() -> Iterator[Callable[[Proxy], socket.socket]]:
    """Connects to a proxy: ``dial(proxy)``."""
    with ExitStack() as stack:

        def connect(proxy: Proxy) -> socket.socket:
            accepted = proxy.connections
            client = socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)
            eventually(lambda: proxy.connections > accepted)
            return stack.enter_context(client)

        yield connect


def read(client: socket.socket, size: int) -> bytes:
    """*size* bytes, or less when the peer hangs up."""
    data = b""
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return data


def talk(client: socket.socket) -> bytes:
    """What comes back for six bytes, until the peer hangs up."""
    client.sendall(b"carrot")
    return read(client, 6)


def expect_silence(client: socket.socket) -> None:
    """Nothing comes for a while, not even the end."""
    client.settimeout(SILENCE)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(PATIENCE)


# -- the proxy, byte by byte


def test_bytes_pass_in_both_directions_and_are_counted(echo, dial):
    client = dial(echo)

    client.sendall(b"carrot")

    assert read(client, 6) == b"carrot"
    assert echo.connections == 1
    assert echo.link.up.passed == 6
    eventually(lambda: echo.link.down.passed == 6)


def test_megabytes_pass_whole(echo, dial):
    client, sent = dial(echo), bytes(range(256)) * 8192
    sender = threading.Thread(target=client.sendall, args=(sent,))

    sender.start()
    received = read(client, len(sent))
    sender.join(PATIENCE)

    assert received == sent


def test_an_end_is_passed_on_and_frees_the_link(echo, dial):
    client = dial(echo)
    client.sendall(b"last")

    client.shutdown(socket.SHUT_WR)

    assert read(client, 100) == b"last"
    eventually(lambda: not echo.links)
    for stream in (echo.link.up, echo.link.down):
        stream.thread.join(PATIENCE)
        assert not stream.thread.is_alive()


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_a_link_is_cut_at_a_byte_down(echo, dial, offset):
    echo.plan_next(Plan(down=Faults(cut_at=offset)))

    assert talk(dial(echo)) == b"carrot"[:offset]
    assert echo.link.down.passed == offset
    assert not echo.link.is_open
    assert talk(dial(echo)) == b"carrot"  # the plan was for one connection


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_a_link_is_cut_at_a_byte_up(echo, dial, offset):
    echo.plan(Plan(up=Faults(cut_at=offset)))

    for _ in range(2):
        assert b"carrot"[:offset].startswith(talk(dial(echo)))
        assert echo.link.up.passed == offset
        assert not echo.link.is_open


def test_a_cut_by_rst_is_no_orderly_end(echo, dial):
    echo.plan_next(Plan(down=Faults(cut_at=3, rst=True)))
    client = dial(echo)

    client.sendall(b"carrot")

    with pytest.raises(ConnectionResetError):
        read(client, 6)


@pytest.mark.parametrize("rst", [False, True])
def test_all_links_are_cut_at_once(echo, dial, rst):
    clients = [dial(echo) for _ in range(3)]

    echo.cut_all(rst)

    assert echo.links == []
    for client in clients:
        if rst:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            assert client.recv(1) == b""


def test_a_cut_ends_a_link_that_is_frozen_and_full(echo, dial):
    client = dial(echo)
    echo.link.freeze()
    client.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            client.send(bytes(65536))

    echo.link.cut(rst=True)

    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert not echo.link.up.thread.is_alive()


def test_a_frozen_link_passes_nothing_and_loses_nothing(echo, dial):
    client = dial(echo)
    echo.link.freeze()

    client.sendall(b"carrot")
    client.shutdown(socket.SHUT_WR)
    expect_silence(client)
    echo.link.thaw()

    assert read(client, 7) == b"carrot"


def test_a_link_freezes_at_a_byte(echo, dial):
    echo.plan_next(Plan(down=Faults(freeze_at=2)))
    client = dial(echo)

    client.sendall(b"carrot")

    assert read(client, 2) == b"ca"
    expect_silence(client)
    echo.link.thaw()
    assert read(client, 4) == b"rrot"


def test_bytes_trickle(echo, dial):
    echo.plan_next(Plan(down=Faults(piece=2, interval=0.02)))
    client, started = dial(echo), time.monotonic()

    client.sendall(b"carrot")

    assert [client.recv(100) for _ in range(3)] == [b"ca", b"rr", b"ot"]
    assert time.monotonic() - started >= 0.04


def test_bytes_come_one_by_one(echo, dial):
    echo.plan_next(Plan(up=Faults(piece=1), down=Faults(piece=1)))

    assert talk(dial(echo)) == b"carrot"


def test_a_byte_is_corrupted(echo, dial):
    echo.plan_next(Plan(down=Faults(corrupt_at=8)))
    client = dial(echo)

    assert talk(client) == b"carrot"
    assert talk(client) == b"ca" + bytes([ord("r") ^ 0xFF]) + b"rot"


def test_garbage_is_injected(echo, dial):
    client = dial(echo)
    assert talk(client) == b"carrot"

    echo.link.send_down(b"\x00garbage")

    assert read(client, 8) == b"\x00garbage"
    assert echo.link.down.passed == 6


def test_a_refused_port_is_the_same_when_it_listens_again(echo, dial):
    running = dial(echo)

    echo.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial(echo)
    assert talk(running) == b"carrot"
    echo.listen()

    assert talk(dial(echo)) == b"carrot"


def test_a_silent_proxy_never_dials_the_broker(dial):
    with socket.create_server(("127.0.0.1", 0)) as broker:
        broker.settimeout(SILENCE)
        with Proxy(broker.getsockname()[1]) as proxy:
            proxy.plan_next(Plan(silent=True))
            client = dial(proxy)

            client.sendall(b"carrot")

            expect_silence(client)
            with pytest.raises(TimeoutError):
                broker.accept()


def test_clients_are_hung_up_on_when_the_broker_is_down(dial):
    with Proxy(free_port()) as proxy:
        assert dial(proxy).recv(1) == b""


def test_a_closed_proxy_leaves_no_thread(echo_port, dial):
    before = threading.active_count()
    with Proxy(echo_port, frames=False) as proxy:
        clients = [dial(proxy) for _ in range(3)]

    for client in clients:
        client.close()
    eventually(lambda: threading.active_count() <= before)


# -- the proxy, frame by frame


def test_a_whole_session_can_be_measured(proxy):
    assert amqp_version("127.0.0.1", proxy.port)

    eventually(lambda: not proxy.links)
    assert proxy.link.up.passed == len(PROTOCOL_HEADER)
    assert proxy.link.down.passed > 300


def test_frames_are_given_whole_to_a_function(proxy, dial):
    seen: list[bytes] = []
    proxy.plan_next(Plan(up=Faults(on_frame=keep_in(seen)), down=Faults(on_frame=keep_in(seen))))
    client = dial(proxy)

    client.sendall(PROTOCOL_HEADER[:5])
    client.sendall(PROTOCOL_HEADER[5:])

    eventually(lambda: len(seen) == 2)
    header, start = seen
    assert header == PROTOCOL_HEADER
    assert isinstance(frame.unmarshal(start)[2], commands.Connection.Start)
    expect_silence(client)


def test_frames_are_duplicated(proxy, dial):
    proxy.plan_next(Plan(down=Faults(on_frame=lambda data: data * 2)))
    client = dial(proxy)

    client.sendall(PROTOCOL_HEADER)

    first, second = read_frame(client), read_frame(client)
    assert first == second
    assert isinstance(frame.unmarshal(first)[2], commands.Connection.Start)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0), 0),
        (commands.Channel.Close(406, "PRECONDITION_FAILED", 60, 80), 1),
    ],
    ids=["connection", "channel"],
)
def test_a_close_is_injected(proxy, dial, command, number):
    client = dial(proxy)
    close = frame.marshal(command, number)

    proxy.link.send_down(close)
    client.sendall(PROTOCOL_HEADER)

    assert read_frame(client) == close
    assert isinstance(frame.unmarshal(read_frame(client))[2], commands.Connection.Start)


def test_a_frame_is_injected_between_two_others(proxy, dial):
    proxy.plan_next(Plan(down=Faults(piece=40, interval=0.01)))
    client = dial(proxy)
    client.sendall(PROTOCOL_HEADER)
    eventually(lambda: proxy.link.down.passed > 0)

    proxy.link.send_down(HEARTBEAT)

    assert isinstance(frame.unmarshal(read_frame(client))[2], commands.Connection.Start)
    assert read_frame(client) == HEARTBEAT


def test_a_confirm_is_delayed(proxy, unique):
    held: list[bytes] = []

    def hold_acks(data: bytes) -> bytes | None:
        return held.append(data) if is_ack(data) else data

    proxy.plan(Plan(down=Faults(on_frame=hold_acks)))
    with BrokerConnection(proxy.url) as connection:
        publisher = Publisher(connection)
        sending = threading.Thread(target=publisher.send, args=("", unique()))
        sending.start()
        eventually(lambda: held)
        sending.join(SILENCE)
        assert sending.is_alive()

        proxy.link.send_down(held[0])

        sending.join(PATIENCE)
        assert not sending.is_alive()


def keep_in(seen: list[bytes]) -> OnFrame:
    """Adds each frame to *seen*, and passes those of the client."""

    def keep(data: bytes) -> bytes | None:
        seen.append(data)
        return data if data == PROTOCOL_HEADER else None

    return keep


def read_frame(client: socket.socket) -> bytes:
    head = read(client, 7)
    return head + read(client, int.from_bytes(head[3:]) + 1)


def is_ack(data: bytes) -> bool:
    return data[0] == 1 and data[7:11] == struct.pack(">HH", 60, 80)


# -- the ledger


def test_the_ledger_counts_what_became_of_each_message():
    ledger = Ledger()
    for number in range(5):
        ledger.attempted(number)
    for number in (0, 1, 2):
        ledger.confirmed(number)
    ledger.failed(3)
    for number in (0, 1, 1, 3, 9):
        ledger.received(number)

    assert ledger.lost == {2}
    assert ledger.duplicated == {1}
    assert ledger.unexpected == {9}
    assert ledger.unsettled == {4}
    assert ledger.summary() == (
        "attempted 5, confirmed 3, received 4, lost 1, duplicated 1, unexpected 1"
    )


def test_the_ledger_holds_when_failed_messages_come_or_not_and_others_come_twice():
    ledger = Ledger()
    for number in (1, 2, 3):
        ledger.attempted(number)
    ledger.confirmed(1)
    ledger.failed(2)
    ledger.failed(3)
    for number in (1, 1, 2):
        ledger.received(number)

    ledger.check()


@pytest.mark.parametrize(("act", "word"), [("confirmed", "lost"), ("received", "unexpected")])
def test_the_ledger_says_what_is_wrong_and_the_seed(act, word):
    ledger = Ledger(seed=42)
    for number in range(12):
        getattr(ledger, act)(number)

    with pytest.raises(AssertionError, match=rf"{word} 12.*\(seed 42\)") as caught:
        ledger.check()

    assert f"{word}: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more" in str(caught.value)


def test_a_seed_gives_the_same_numbers_again(monkeypatch):
    with seeded(7) as first, seeded(7) as second, seeded() as other:
        assert [first.random() for _ in range(5)] == [second.random() for _ in range(5)]
    monkeypatch.setenv(SEED_VARIABLE, str(other.origin))
    with seeded() as again:
        assert again.getstate() == random.Random(other.origin).getstate()


def test_a_failure_says_seed_and_schedule():
    with pytest.raises(ValueError) as caught, seeded(7) as schedule:
        schedule.note("cut down at 17")
        raise ValueError

    (note,) = caught.value.__notes__
    assert "seed 7" in note
    assert "cut down at 17" in note


# -- the cluster


@pytest.mark.faults
def test_a_cluster_elects_another_leader_when_its_leader_is_killed(unique):
    if reason := RabbitMQ.missing():
        unavailable(reason)
    queue = unique()
    quorum = {"x-queue-type": "quorum"}
    with Cluster() as cluster:
        with BrokerConnection(cluster.nodes[0].url) as connection:
            Consumer(connection, queue=queue, queue_arguments=quorum)
            Publisher(connection).send_many(["first", "second"], routing_key=queue)
        leader = cluster.leader_of(queue)
        leader.kill()

        survivor = cluster.leader_of(queue)
        with BrokerConnection(survivor.url) as connection:
            consumer = Consumer(connection, queue=queue, queue_arguments=quorum)
            received = [message.decode() for message in consumer.iterqueue(limit=2)]
        leader.start()

        assert survivor is not leader
        assert received == ["first", "second"]
        assert cluster.leader_of(queue) in cluster.nodes
