"""Who may connect to a ZeroMQ broker: CURVE keys, and its command line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import zmq
import zmq.auth

from carrot.backends.zeromq import Broker
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    AccessRefused,
    ConfigurationError,
    ConnectionFailed,
)
from carrot.messaging import Consumer, Publisher
from carrot.server.__main__ import main, public_keys, secret_key
from tests.brokers import ZeroMQ
from tests.brokers.process import free_port

ANYWHERE = "tcp://127.0.0.1:*"


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(ANYWHERE) as broker:
        yield broker


# -- CURVE

BROKER_PUBLIC, BROKER_SECRET = (key.decode() for key in zmq.curve_keypair())
CLIENT_PUBLIC, CLIENT_SECRET = (key.decode() for key in zmq.curve_keypair())
OTHER_PUBLIC, OTHER_SECRET = (key.decode() for key in zmq.curve_keypair())


@pytest.fixture(scope="module")
def curve_broker() -> Iterator[Broker]:
    """It lets in who knows its key."""
    with Broker(ANYWHERE, curve_secret_key=BROKER_SECRET) as broker:
        yield broker


@pytest.fixture(scope="module")
def strict_broker() -> Iterator[Broker]:
    """It lets in one client."""
    with Broker(ANYWHERE, curve_secret_key=BROKER_SECRET, curve_clients=[CLIENT_PUBLIC]) as broker:
        yield broker


def round_trip(url: str, **options: object) -> None:
    with BrokerConnection(url, **options) as connection:
        consumer = Consumer(connection, "feed")
        Publisher(connection, routing_key="feed").send("x")
        assert consumer.fetch(auto_ack=True).payload == "x"


def test_client_that_knows_the_brokers_key_is_let_in(curve_broker):
    round_trip(curve_broker.url, curve_server_key=BROKER_PUBLIC)
    round_trip(curve_broker.url, curve_server_key=BROKER_PUBLIC, curve_secret_key=CLIENT_SECRET)


def test_keys_may_stand_in_the_url(strict_broker):
    query = f"curve_server_key={quote(BROKER_PUBLIC)}&curve_secret_key={quote(CLIENT_SECRET)}"

    round_trip(f"{strict_broker.url}?{query}")


REFUSED = {
    "no-key": ({}, ConnectionFailed, "curve_server_key="),
    "wrong-key": ({"curve_server_key": OTHER_PUBLIC}, ConnectionFailed, "the public key of this"),
}


@pytest.mark.parametrize(("options", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_client_without_the_brokers_key_is_refused_at_once(curve_broker, options, error, words):
    begun = time.monotonic()

    with pytest.raises(error, match=words):
        BrokerConnection(curve_broker.url, connect_timeout=5, **options).connect()

    assert time.monotonic() - begun < 5


UNKNOWN = {
    "unknown-key": {"curve_server_key": BROKER_PUBLIC, "curve_secret_key": OTHER_SECRET},
    "made-up-key": {"curve_server_key": BROKER_PUBLIC},
}


@pytest.mark.parametrize("options", UNKNOWN.values(), ids=UNKNOWN)
def test_client_that_the_broker_doesnt_know_is_refused(strict_broker, options):
    with pytest.raises(AccessRefused, match="doesn't know this client's key") as caught:
        BrokerConnection(strict_broker.url, **options).connect()

    assert OTHER_SECRET not in str(caught.value)


def test_client_that_wants_curve_is_told_that_the_broker_has_none(broker):
    # Which of the two ends it first, differs.
    with pytest.raises(ConnectionFailed, match=r"leave out the keys|does it want keys"):
        round_trip(broker.url, curve_server_key=BROKER_PUBLIC, curve_secret_key=CLIENT_SECRET)


def test_secrets_are_never_shown(strict_broker):
    connection = BrokerConnection(
        strict_broker.url, curve_server_key=BROKER_PUBLIC, curve_secret_key=CLIENT_SECRET
    )

    for shown in (repr(connection), repr(connection.settings), str(connection.info())):
        assert CLIENT_SECRET not in shown
    assert BROKER_SECRET not in repr(strict_broker)


def test_broker_refuses_what_is_no_key_and_doesnt_show_it():
    with pytest.raises(ConfigurationError, match="is no CURVE key") as caught:
        Broker(ANYWHERE, curve_secret_key="not a key, but secret")

    assert "secret" not in str(caught.value).replace("curve_secret_key", "")


@pytest.mark.parametrize("url", ["amqp://localhost", "memory://"])
def test_driver_without_curve_says_so_and_sends_nothing_in_clear(url):
    with pytest.raises(ConfigurationError, match="this driver would not encrypt"):
        BrokerConnection(url, curve_server_key=BROKER_PUBLIC).connect()


def test_clients_keys_need_the_brokers():
    with pytest.raises(ConfigurationError, match="needs curve_secret_key"):
        Broker(ANYWHERE, curve_clients=[CLIENT_PUBLIC])


# -- the command line


def test_command_line_takes_certificates(tmp_path):
    public_file, secret_file = zmq.auth.create_certificates(tmp_path, "broker")
    clients = tmp_path / "clients"
    clients.mkdir()
    _, client_file = zmq.auth.create_certificates(clients, "client")
    public, _ = zmq.auth.load_certificate(public_file)
    _, secret = zmq.auth.load_certificate(client_file)
    Path(client_file).unlink()

    with ZeroMQ(
        "--curve-secret-key-file", str(secret_file), "--curve-clients", str(clients)
    ) as broker:
        round_trip(broker.url, curve_server_key=public.decode(), curve_secret_key=secret.decode())
        with pytest.raises(ConnectionFailed, match="curve_server_key="):
            round_trip(broker.url)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_ends_well_at_a_signal(number):
    bind = f"tcp://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "carrot.backends.zeromq", "--bind", bind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"ready: zeromq+{bind}\n".encode()

    process.send_signal(number)

    assert process.communicate(timeout=10) == (b"", b"")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--bind", "nonsense"], 1, "can't listen at nonsense"),
        (["--store", "/no/such/folder/store"], 1, "can't be used"),
        (["--curve-secret-key-file", "/no/such/file"], 1, "can't be read"),
        (["--curve-clients", "/tmp"], 2, "needs --curve-secret-key-file"),
        (["--bound"], 2, "unrecognized arguments"),
    ],
)
def test_command_says_what_it_cant_do(options, status, words, capsys):
    try:
        ended: object = main(options)
    except SystemExit as exc:
        ended = exc.code

    assert ended == status
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("tcp://0.0.0.0:*", True),
        ("tcp://[::]:*", True),
        (ANYWHERE, False),
        ("tcp://[::1]:*", False),
        ("ipc://broker.sock", False),
    ],
)
def test_command_warns_when_everybody_may_come_in(address, warns, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    # It ends as soon as it has begun.
    serve = Broker.serve
    monkeypatch.setattr(Broker, "serve", lambda broker: (broker.stop(), serve(broker)))

    assert main(["--bind", address, "--store", "store"]) == 0

    said = capsys.readouterr()
    assert said.out.startswith("ready: zeromq+")
    assert ("anybody who reaches" in said.err) is warns


def test_certificate_without_a_secret_key_is_refused(tmp_path):
    public_file, _ = zmq.auth.create_certificates(tmp_path, "broker")

    with pytest.raises(ConfigurationError, match="has no secret key"):
        secret_key(Path(public_file))
    with pytest.raises(ConfigurationError, match="can't be read"):
        public_keys(tmp_path / "none")
