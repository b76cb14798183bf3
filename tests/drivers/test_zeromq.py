"""What only the zeromq driver and its broker do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import zmq
import zmq.auth

from carrot.backends import get_backend_cls, zeromq
from carrot.backends.zeromq import Broker
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    CarrotError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    ContentTooLarge,
    NotSupported,
)
from carrot.messaging import Consumer, Publisher
from tests.brokers.process import free_port

ANYWHERE = "tcp://127.0.0.1:*"
LATE = 1.0  # seconds that a deadline may be overrun


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(ANYWHERE) as broker:
        yield broker


@pytest.fixture
def connection(broker: Broker) -> Iterator[BrokerConnection]:
    with BrokerConnection(broker.url) as connection:
        yield connection


@pytest.fixture
def unused_listener() -> Iterator[socket.socket]:
    """Takes connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


# -- names and URLs


@pytest.mark.parametrize("alias", ["zeromq", "zeromq+tcp", "zeromq+ipc"])
def test_aliases_name_this_driver(alias):
    assert get_backend_cls(alias) is zeromq.Backend


def test_the_default_port_is_that_of_the_command_line():
    assert BrokerConnection("zeromq://localhost").host == "localhost:5555"


def test_program_goes_over_a_unix_socket(tmp_path):
    with (
        Broker(f"ipc://{tmp_path}/broker.sock") as broker,
        BrokerConnection(f"{broker.url}?virtual_host=app") as connection,
    ):
        assert connection.virtual_host == "app"
        assert connection.host == f"{tmp_path}/broker.sock"
        consumer = Consumer(connection, "feed")
        Publisher(connection, routing_key="feed").send("x")

        assert consumer.fetch(auto_ack=True).payload == "x"


def test_broker_listens_at_several_addresses(tmp_path):
    with Broker([ANYWHERE, f"ipc://{tmp_path}/broker.sock"]) as broker:
        tcp, ipc = broker.urls
        with BrokerConnection(tcp) as one, BrokerConnection(ipc) as two:
            consumer = Consumer(one, "feed")
            Publisher(two, routing_key="feed").send("x")

            assert consumer.fetch(auto_ack=True).payload == "x"


def test_host_may_be_a_name(broker):
    url = broker.url.replace("127.0.0.1", "localhost")

    with BrokerConnection(url) as connection:
        assert connection.connect().is_open


# -- why there is no connection


def test_nobody_listens():
    with pytest.raises(ConnectionFailed, match=r"nobody listens there.*carrot\.server"):
        BrokerConnection(f"zeromq+tcp://127.0.0.1:{free_port()}").connect()


def test_no_such_socket(tmp_path):
    with pytest.raises(ConnectionFailed, match=f"ipc://{tmp_path}/none.*nobody listens there"):
        BrokerConnection(f"zeromq+ipc://{tmp_path}/none").connect()


def test_unknown_host():
    with pytest.raises(ConnectionFailed, match="can't be resolved"):
        BrokerConnection("zeromq+tcp://host.invalid:5555").connect()


def test_peer_that_says_nothing_is_given_up_in_time(unused_listener):
    port = unused_listener.getsockname()[1]
    begun = time.monotonic()

    with pytest.raises(ConnectionFailed, match=r"no answer within 0\.5 seconds"):
        BrokerConnection(f"zeromq+tcp://127.0.0.1:{port}", connect_timeout=0.5).connect()

    assert time.monotonic() - begun < 0.5 + LATE


def test_zeromq_peer_that_is_no_broker_is_given_up_in_time():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        with pytest.raises(ConnectionFailed, match=r"no answer within 0\.5 seconds"):
            BrokerConnection(f"zeromq+tcp://127.0.0.1:{port}", connect_timeout=0.5).connect()


def test_address_in_use_is_told(broker):
    address = broker.url.removeprefix("zeromq+")

    with pytest.raises(ConnectionFailed, match=f"can't listen at {address}.*in use"):
        Broker(address).open()


def test_tls_is_refused_with_the_way_to_encrypt(broker):
    with pytest.raises(ConfigurationError, match="CURVE"):
        BrokerConnection(broker.url, ssl=True).connect()


# -- the semantics are the memory driver's


def test_what_the_broker_lacks_is_not_supported(connection):
    with pytest.raises(NotSupported, match="no quorum queues"):
        Consumer(connection, "q", queue_arguments={"x-queue-type": "quorum"})

    assert Consumer(connection, "q").fetch() is None


def test_virtual_hosts_are_worlds_apart(broker):
    with (
        BrokerConnection(broker.url, virtual_host="one") as one,
        BrokerConnection(broker.url, virtual_host="two") as two,
    ):
        consumers = [Consumer(connection, "feed") for connection in (one, two)]
        Publisher(one, routing_key="feed").send("for one")

        fetched = [consumer.fetch(auto_ack=True) for consumer in consumers]

    assert fetched[0].payload == "for one"
    assert fetched[1] is None


def test_message_that_is_too_large_is_not_sent(connection, monkeypatch):
    monkeypatch.setattr(zeromq.Backend.connector, "message_max", 1000)
    publisher = Publisher(connection, routing_key=Consumer(connection, "feed").queue)

    with pytest.raises(ContentTooLarge, match="takes at most 1000"):
        publisher.send(b"x" * 1001)

    publisher.send(b"x" * 1000)


def test_large_messages_come_through_whole(connection):
    consumer = Consumer(connection, "feed")
    body = os.urandom(1024) * 20 * 1024  # 20 MiB, more than may wait in one direction

    Publisher(connection, routing_key="feed").send(body)

    assert consumer.fetch(auto_ack=True).payload == body


# -- threads, signals and forks


def test_write_of_one_thread_wakes_another_that_waits(broker, unique):
    """Sending takes in ZeroMQ's news, and the one who waits for them must hear of it."""
    with BrokerConnection(broker.url) as connection:
        received: list[int] = []
        consumer = Consumer(connection, "feed")
        consumer.register_callback(lambda n, message: (received.append(n), message.ack()))
        waiting = threading.Thread(target=consumer.wait, kwargs={"limit": 3000, "timeout": 60})
        waiting.start()
        publisher = Publisher(connection, routing_key="feed")
        begun = time.monotonic()

        for number in range(3000):
            publisher.send(number)

        waiting.join(60)
        assert received == list(range(3000))
        assert time.monotonic() - begun < 30


def test_signal_handler_may_send(broker):
    with BrokerConnection(broker.url) as connection:
        consumer = Consumer(connection, "feed")
        publisher = Publisher(connection, routing_key="feed", confirm=False)
        # From here on sending needs no answer, for which it would have to read.
        publisher.send("before")
        received: list[str] = []
        consumer.register_callback(lambda n, message: (received.append(n), message.ack()))
        before = signal.signal(signal.SIGALRM, lambda number, frame: publisher.send("alarm"))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            consumer.wait(limit=2, timeout=10)
        finally:
            signal.signal(signal.SIGALRM, before)

    assert received == ["before", "alarm"]


def test_closing_wakes_who_waits(broker):
    connection = BrokerConnection(broker.url)
    transport = connection.connect()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            transport.wait_for(lambda: False, 20)
        except CarrotError as exc:
            errors.append(exc)

    waiting = threading.Thread(target=wait)
    waiting.start()
    connection.close()
    waiting.join(5)

    assert not waiting.is_alive()
    assert [type(error) for error in errors] == [ConnectionLost]


# -- what is there without pyzmq


def test_carrot_imports_no_zeromq_and_a_client_no_broker():
    program = (
        "import sys, carrot, carrot.backends\n"
        "assert 'zmq' not in sys.modules\n"
        "from carrot.backends import zeromq\n"
        "assert 'sqlite3' not in sys.modules\n"
        "zeromq.Broker\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)


def test_missing_library_names_its_pip_command():
    program = (
        "import sys\n"
        "sys.modules['zmq'] = None\n"
        "from carrot import BrokerConnection\n"
        "from carrot.exceptions import BackendNotFound\n"
        "try:\n"
        "    BrokerConnection('zeromq://localhost').connect()\n"
        "except BackendNotFound as error:\n"
        "    print(error)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=20, capture_output=True, text=True
    )

    assert "pip install 'carrot[zeromq]'" in done.stdout
