"""The store of a ZeroMQ broker: what it keeps over a restart, and what it forgets."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from carrot.backends.zeromq import Broker
from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from carrot.server.store import Store, StoreError

PERSISTENT, TRANSIENT = 2, 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


Use = Callable[[BrokerConnection], object]


def serve(path: Path, use: Use, virtual_host: str = "/") -> None:
    """Run *use* over a connection to a broker with that store."""
    with (
        Broker("tcp://127.0.0.1:*", store=path) as broker,
        BrokerConnection(broker.url, virtual_host=virtual_host) as connection,
    ):
        use(connection)


def send(*messages: object, queue: str = "feed", **options: object) -> Use:
    """Declares the queue, and sends the messages there."""

    def use(connection: BrokerConnection) -> None:
        with Consumer(connection, queue), Publisher(connection, routing_key=queue) as publisher:
            for message in messages:
                publisher.send(message, **options)

    return use


def payloads(path: Path, queue: str = "feed", virtual_host: str = "/") -> list[object]:
    """What is in the queue after a restart; it is taken and acked."""
    found: list[object] = []

    def use(connection: BrokerConnection) -> None:
        with Consumer(connection, queue) as consumer:
            messages = iter(partial(consumer.fetch, auto_ack=True), None)
            found.extend(message.payload for message in messages)

    serve(path, use, virtual_host)
    return found


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


# -- what is kept


def test_persistent_messages_of_durable_queues_are_there_after_a_restart(path):
    serve(path, send(1, 2, 3))

    assert payloads(path) == [1, 2, 3]
    assert payloads(path) == []
    assert rows(path, "messages") == 0


def test_message_comes_back_as_it_was(path):
    headers = {"n": 1, "nested": {"list": [1, "a", None]}, "bytes": b"\xff\xfe"}

    def check(connection: BrokerConnection) -> None:
        message = Consumer(connection, "feed").fetch()
        assert message.payload == {"a": ["ü", 1.5]}
        assert message.headers == headers
        assert message.properties["priority"] == 3
        assert message.properties["correlation_id"] == "id"
        assert message.delivery_info["routing_key"] == "feed"
        # It may have been delivered before: nobody knows.
        assert message.redelivered
        message.ack()

    serve(path, send({"a": ["ü", 1.5]}, headers=headers, priority=3, correlation_id="id"))

    serve(path, check)


def test_exchanges_queues_and_bindings_are_there_after_a_restart(path):
    def declare(connection: BrokerConnection) -> None:
        backend = connection.create_backend()
        backend.exchange_declare("topic", "topic", True, False)
        backend.exchange_declare("headers", "headers", True, False,
                                 {"alternate-exchange": "topic"})  # fmt: skip
        backend.queue_declare("a", True, False, False, arguments={"x-max-length": 5})
        backend.queue_declare("b", True, False, False)
        backend.queue_bind("a", "topic", "*.info")
        backend.queue_bind("b", "headers", "", {"x-match": "all", "n": 1})
        backend.queue_bind("b", "amq.direct", "b")
        backend.exchange_bind("amq.fanout", "topic", "#")

    def check(connection: BrokerConnection) -> None:
        backend = connection.create_backend()
        # The same again is no error, and something else is.
        declare(connection)
        for exchange, key, headers in (
            ("topic", "web.info", None),
            ("headers", "x.info", {"n": 2}),
            ("headers", "", {"n": 1}),
            ("amq.direct", "b", None),
        ):
            Publisher(connection, exchange, key, auto_declare=False).send(key, headers=headers)
        backend.queue_bind("a", "amq.fanout")
        Publisher(connection, "topic", "other", auto_declare=False).send("over two exchanges")
        found = {
            queue: [m.payload for m in Consumer(connection, queue, auto_declare=False).iterqueue()]
            for queue in "ab"
        }
        assert found == {"a": ["web.info", "x.info", "over two exchanges"], "b": ["", "b"]}

    serve(path, declare)

    serve(path, check)


def test_virtual_hosts_are_kept_apart(path):
    serve(path, send("one"), "one")
    serve(path, send("two"), "two")

    assert payloads(path, virtual_host="one") == ["one"]
    assert payloads(path, virtual_host="two") == ["two"]


def test_what_was_delivered_and_not_acked_is_there_in_its_old_order(path):
    serve(path, send(*range(5)))

    def take_some(connection: BrokerConnection) -> None:
        consumer = Consumer(connection, "feed")
        messages = [consumer.fetch() for _ in range(4)]
        messages[1].ack()
        messages[2].requeue()
        messages[3].reject()

    serve(path, take_some)

    assert payloads(path) == [0, 2, 4]


def test_queue_with_a_made_up_name_is_kept_too(path):
    names = []

    def declare(connection: BrokerConnection) -> None:
        names.append(connection.create_backend().queue_declare("", True, False, False).queue)

    serve(path, declare)

    serve(path, lambda connection: names.append(
        connection.create_backend().queue_exists(names[0])))  # fmt: skip
    assert names[1] is True


def test_dead_letters_are_kept_where_they_went(path):
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}

    def use(connection: BrokerConnection) -> None:
        Consumer(connection, "dead")
        consumer = Consumer(connection, "feed", queue_arguments=arguments)
        Publisher(connection, routing_key="feed").send("x")
        consumer.fetch().reject()

    serve(path, use)

    assert rows(path, "messages") == 1
    assert payloads(path, "dead") == ["x"]


def test_message_that_expires_while_nobody_serves_dies_then(path):
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}

    def use(connection: BrokerConnection) -> None:
        Consumer(connection, "dead")
        Consumer(connection, "feed", queue_arguments=arguments)
        publisher = Publisher(connection, routing_key="feed")
        publisher.send("short", expiration=0.3)
        publisher.send("long", expiration=600)

    def check(connection: BrokerConnection) -> None:
        left = Consumer(connection, "feed", auto_declare=False).fetch(auto_ack=True)
        assert left.payload == "long"
        assert left.properties["expiration"] == "600000"

    serve(path, use)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE messages SET expires = expires - 300")

    serve(path, check)
    assert payloads(path, "dead") == ["short"]


# -- what is not


def test_what_is_transient_or_not_durable_is_forgotten(path):
    def use(connection: BrokerConnection) -> None:
        send("transient", queue="durable", delivery_mode=TRANSIENT)(connection)
        backend = connection.create_backend()
        backend.queue_declare("passing", False, False, False)
        backend.queue_declare("mine", True, True, False)
        backend.exchange_declare("passing", "fanout", False, False)
        backend.queue_bind("durable", "passing")
        for queue in ("passing", "mine"):
            Publisher(connection, routing_key=queue).send("persistent", delivery_mode=PERSISTENT)

    def check(connection: BrokerConnection) -> None:
        backend = connection.create_backend()
        assert [backend.queue_exists(q) for q in ("durable", "passing", "mine")] == [
            True, False, False,
        ]  # fmt: skip

    serve(path, use)

    assert [rows(path, t) for t in ("messages", "queues", "exchanges", "bindings")] == [0, 1, 0, 0]
    serve(path, check)
    assert payloads(path, "durable") == []


def test_what_is_deleted_purged_or_unbound_is_forgotten(path):
    def use(connection: BrokerConnection) -> None:
        backend = connection.create_backend()
        backend.exchange_declare("gone", "fanout", True, False)
        for queue in ("gone", "purged"):
            send(*range(3), queue=queue)(connection)
            backend.queue_bind(queue, "gone")
            backend.queue_bind(queue, "amq.fanout")
        backend.queue_delete("gone")
        backend.queue_purge("purged")
        backend.queue_unbind("purged", "amq.fanout")
        backend.exchange_delete("gone")

    serve(path, use)

    assert [rows(path, t) for t in ("messages", "queues", "exchanges", "bindings")] == [0, 1, 0, 0]


def test_what_was_taken_without_acks_or_dropped_is_forgotten(path):
    def use(connection: BrokerConnection) -> None:
        consumer = Consumer(connection, "feed", no_ack=True, callbacks=[lambda data, message: 0])
        publisher = Publisher(connection, routing_key="feed")
        publisher.send("to be fetched")
        assert consumer.fetch(no_ack=True) is not None
        consumer.consume()
        publisher.send("at once, to the one who waits")
        connection.drain_events(timeout=10)
        consumer.close()
        Consumer(connection, "short", queue_arguments={"x-max-length": 1})
        Publisher(connection, routing_key="short").send_many(range(10))
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        Consumer(connection, "full", queue_arguments=full)
        Publisher(connection, routing_key="full", confirm=False).send_many(range(10))

    serve(path, use)

    assert rows(path, "messages") == 2


def test_full_queue_takes_back_what_was_in_hand_when_the_broker_ended(path):
    """It refuses what is new, and these were confirmed."""
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}

    def fill(connection: BrokerConnection) -> None:
        consumer = Consumer(connection, "full", queue_arguments=arguments)
        publisher = Publisher(connection, routing_key="full")
        for number in range(4):
            publisher.send(number)
            if number < 2:
                consumer.fetch()

    serve(path, fill)
    found: list[object] = []

    def empty(connection: BrokerConnection) -> None:
        consumer = Consumer(connection, "full", queue_arguments=arguments)
        found.extend(m.payload for m in iter(partial(consumer.fetch, auto_ack=True), None))

    serve(path, empty)

    assert found == [0, 1, 2, 3]


def test_broker_without_a_store_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Broker("tcp://127.0.0.1:*") as broker, BrokerConnection(broker.url) as connection:
        send(1, 2, 3)(connection)

    assert list(tmp_path.iterdir()) == []


# -- files that can't be used


def test_store_of_a_running_broker_is_refused(path):
    with (
        Broker("tcp://127.0.0.1:*", store=path),
        pytest.raises(StoreError, match="does another broker use it"),
    ):
        Broker("tcp://127.0.0.1:*", store=path).open()


def test_other_programs_file_is_refused(path):
    path.write_text("Dear diary, this is no database. " * 100)

    with pytest.raises(StoreError, match="another program's file"):
        Store(path)


def test_store_of_a_later_version_is_refused(path):
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=99")

    with pytest.raises(StoreError, match="layout 99"):
        Store(path)


def test_broker_that_cant_write_ends_and_confirms_nothing(path):
    program = (
        "import sys\n"
        "from carrot.server import __main__, store\n"
        "store.Store._row = lambda self, number, message: (number,)\n"
        "sys.exit(__main__.main(sys.argv[1:]))\n"
    )
    arguments = ["--bind", "tcp://127.0.0.1:*", "--store", str(path)]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as broker:  # fmt: skip
        assert broker.stdout is not None
        url = broker.stdout.readline().split()[1]
        with BrokerConnection(url, reconnect=False) as connection:
            Consumer(connection, "feed")
            publisher = Publisher(connection, routing_key="feed")
            with pytest.raises(ConnectionError):
                publisher.send("x")
        _, said = broker.communicate(timeout=10)

    assert broker.returncode == 1
    assert f"the store {path} can't be used" in said
    assert "Traceback" not in said


# -- many changes


def test_what_came_and_went_between_two_commits_was_never_written(path):
    store = Store(path)
    statements: list[str] = []
    store._db.set_trace_callback(statements.append)
    (virtual_host,) = store.virtual_hosts() or [_virtual_host(store)]
    channel = _channel(virtual_host)
    channel.queue_declare("feed", durable=True)
    store.commit()
    statements.clear()

    channel.publish("", "feed", b"x", {"delivery_mode": PERSISTENT})
    assert channel.get("feed", no_ack=True)
    store.commit()
    store.close()

    assert not [statement for statement in statements if "messages" in statement]


def _virtual_host(store: Store):
    from carrot.server.virtual_host import ServedVirtualHost  # beside its only user

    return ServedVirtualHost("/", store)


def _channel(virtual_host):
    from carrot.server.virtual_host import RemoteConnection  # the same

    return RemoteConnection(virtual_host, "guest").channel()
