"""What only the driver for ActiveMQ does."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from unittest.mock import Mock

import pytest
import stomp

from carrot.backends import get_backend_cls
from carrot.backends.pystomp import Backend
from carrot.backends.pystomp.polling import Polling
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    AccessRefused,
    BackendNotFound,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    EncodeError,
    MessageStateError,
    NotFound,
    NotSupported,
    PermissionDenied,
    ResourceLocked,
)
from carrot.message import Message
from carrot.messaging import Consumer, Publisher
from tests.brokers import ActiveMQ
from tests.brokers.activemq import PASSWORD, USER
from tests.brokers.tls import running_tls_activemq
from tests.conftest import Watching, unavailable
from tests.routing_table import ROUTING_TABLE
from tests.waiting import eventually

Unique = Callable[..., str]


@pytest.fixture
def connection(stomp_url: str) -> Iterator[BrokerConnection]:
    with BrokerConnection(stomp_url) as connection:
        yield connection


@pytest.fixture
def other(activemq: ActiveMQ) -> Iterator[stomp.Connection12]:
    """Another client of the same broker: stomp.py's own."""
    client = stomp.Connection12([("127.0.0.1", activemq.port)], auto_decode=False)
    client.connect(USER, PASSWORD, wait=True)
    yield client
    client.disconnect()


class Listener(stomp.ConnectionListener):
    """Keeps what stomp.py delivers."""

    def __init__(self) -> None:
        self.frames: list[stomp.utils.Frame] = []

    def on_message(self, frame: stomp.utils.Frame) -> None:
        self.frames.append(frame)


# -- the log


def test_requests_are_logged_by_name_and_messages_are_not(
    stomp_url: str, unique: Unique, watching: Watching
) -> None:
    with BrokerConnection(stomp_url) as connection:
        consumer = Consumer(connection, unique(), auto_ack=True)
        consumer.register_callback(lambda data, message: None)
        Publisher(connection, exchange="", routing_key=consumer.queue).send(b"the body")
        consumer.wait(limit=1, timeout=20)

    texts = [text for text in watching.texts if not text.startswith("connected")]
    assert texts[:2] == ["sent CONNECT on channel 0", "received CONNECTED on channel 0"]
    assert texts[-2:] == ["sent DISCONNECT on channel 0", "received RECEIPT on channel 0"]
    assert "sent SUBSCRIBE on channel 1" in texts
    assert "received RECEIPT on channel 1" in texts
    assert not any(word in "".join(texts) for word in (PASSWORD, "the body", "ACK", "MESSAGE"))
    assert not watching.held


# -- where it is, and who gets in


@pytest.mark.parametrize("name", ["stomp", "stomps", "activemq"])
def test_names_of_the_driver(name: str) -> None:
    assert get_backend_cls(name) is Backend
    assert BrokerConnection(f"{name}://host").host == (
        "host:61614" if name == "stomps" else "host:61613"
    )


def test_a_missing_library_names_its_pip_command() -> None:
    program = textwrap.dedent("""
        import sys
        sys.modules["stomp"] = None
        from carrot import BrokerConnection
        try:
            BrokerConnection("stomp://localhost").connect()
        except Exception as error:
            print(type(error).__name__, error)
    """)

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout == (
        "BackendNotFound backend 'stomp' needs the library 'stomp', which is not installed: "
        "pip install 'carrot[stomp]'\n"
    )
    assert issubclass(BackendNotFound, LookupError)


def test_importing_carrot_imports_no_stomp_library() -> None:
    program = "import carrot, carrot.backends, sys; print('stomp' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout == "False\n"


def test_importing_the_driver_leaves_the_environment_as_it_was() -> None:
    program = (
        "import os; a = dict(os.environ); import carrot.backends.pystomp; print(a == os.environ)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout == "True\n"


def test_a_wrong_password_is_access_refused_and_never_shown(activemq: ActiveMQ) -> None:
    connection = BrokerConnection(activemq.url.replace(PASSWORD, "wr0ng"))

    with pytest.raises(AccessRefused, match=r"user 'carrot'.*check user and password") as caught:
        connection.connect()

    assert "wr0ng" not in str(caught.value)
    assert not connection.is_open


def test_nobody_there_is_connection_failed_with_the_usual_port() -> None:
    with pytest.raises(ConnectionFailed, match=r"nobody listens there.*61613, and 61614 for TLS"):
        BrokerConnection("stomp://127.0.0.1:1", connect_timeout=2).connect()


@pytest.mark.parametrize(
    "answer",
    [
        b"CONNECTED\nversion:1.0\n\n\0",
        b"CONNECTED\n\n\0",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"WELCOME\n\n\0",
    ],
)
def test_a_peer_that_speaks_something_else_is_told(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(answer)
                client.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ConnectionFailed, match=r"doesn't speak STOMP"):
            BrokerConnection(f"stomp://127.0.0.1:{server.getsockname()[1]}").connect()
        thread.join(10)


def test_a_login_that_stomp_cannot_carry_is_told(activemq: ActiveMQ) -> None:
    connection = BrokerConnection(
        "127.0.0.1", port=activemq.port, userid="a\nb", backend_cls="stomp"
    )

    with pytest.raises(ConfigurationError, match="login has a line break"):
        connection.connect()


# -- TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ActiveMQ, str]]:
    if reason := ActiveMQ.missing():
        unavailable(reason)
    with running_tls_activemq(tmp_path_factory.mktemp("activemq")) as running:
        yield running


def test_messages_go_over_tls(tls: tuple[ActiveMQ, str], unique: Unique) -> None:
    broker, ca = tls
    url = f"stomps://{USER}:{PASSWORD}@localhost:{broker.tls_port}"
    with BrokerConnection(url, ssl={"ca_certs": ca}) as connection:
        consumer = Consumer(connection, unique(), unique("exchange"), "key")
        body = bytes(range(256)) * 4096
        Publisher(connection, consumer.exchange, "key").send(body)

        assert consumer.fetch(auto_ack=True).payload == body


def test_a_certificate_that_nobody_trusts_is_refused(tls: tuple[ActiveMQ, str]) -> None:
    with pytest.raises(ConnectionFailed, match="certificate is not trusted"):
        BrokerConnection("localhost", port=tls[0].tls_port, ssl=True, backend_cls="stomp").connect()


def test_tls_where_there_is_none_is_told(activemq: ActiveMQ) -> None:
    connection = BrokerConnection(
        "localhost", port=activemq.port, ssl=True, backend_cls="stomp", connect_timeout=2
    )

    with pytest.raises(ConnectionFailed):
        connection.connect()


# -- where messages go


def test_each_line_of_the_routing_table_that_it_can_express(
    connection: BrokerConnection, unique: Unique
) -> None:
    """Nothing can be unbound, so each line has an exchange and a queue of its own."""
    backend, publisher = connection.create_backend(), Publisher(connection)
    wrong, told, count = [], 0, 0
    for line in ROUTING_TABLE:
        exchange_type, binding_key, arguments, routing_key, _, matches = line
        if exchange_type == "headers":
            continue
        queue, exchange = unique("queue"), unique("exchange")
        backend.queue_declare(queue, True, False, False)
        backend.exchange_declare(exchange, exchange_type, True, False)
        if exchange_type == "topic" and "#" in binding_key.replace("#.#", "#").split(".")[:-1]:
            with pytest.raises(NotSupported, match="topic_patterns"):
                backend.queue_bind(queue, exchange, binding_key, arguments)
            told += 1
            continue
        backend.queue_bind(queue, exchange, binding_key, arguments)
        publisher.send("x", exchange=exchange, routing_key=routing_key)
        count += 1
        if bool(backend.queue_purge(queue)) is not matches:
            wrong.append(line)

    assert wrong == []
    assert count > told > 0


@pytest.mark.parametrize("name", ["a.b", "a*b>c", "ü ☂", "x/y:z", "a,b?c=d", "#", "..", "%41"])
def test_names_and_keys_with_special_characters_come_back_as_they_were(
    connection: BrokerConnection, unique: Unique, name: str
) -> None:
    queue, exchange = unique() + name, unique() + name
    consumer = Consumer(connection, queue, exchange, name)
    Publisher(connection, exchange, name).send("bound")
    Publisher(connection, exchange, name).send("not bound", routing_key=name + "x")
    Publisher(connection, routing_key=queue).send("straight")

    messages = list(consumer.iterqueue())

    origins = {m.payload: (m.delivery_info["exchange"], m.delivery_info["routing_key"])
               for m in messages}  # fmt: skip
    assert origins == {"bound": (exchange, name), "straight": ("", queue)}


def test_what_arrives_while_a_no_ack_consumer_ends_is_kept(
    connection: BrokerConnection, unique: Unique
) -> None:
    for _ in range(20):
        received: list[int] = []
        consumer = Consumer(
            connection,
            unique(),
            no_ack=True,
            callbacks=[lambda data, _, r=received: r.append(data)],
        )
        Publisher(connection, routing_key=consumer.queue).send_many(range(3))

        consumer.wait(limit=1, timeout=10)
        while (message := consumer.fetch()) is not None:
            received.append(message.payload)

        assert received == [0, 1, 2]


def test_the_queue_is_there_from_the_binding_on(stomp_url: str, unique: Unique) -> None:
    queue, exchange = unique("queue"), unique("exchange")
    with BrokerConnection(stomp_url) as first:
        Consumer(first, queue, exchange, "key").close()
    with BrokerConnection(stomp_url) as second:
        # In another process nobody knows the type of the exchange, or which queues it has.
        Publisher(second, exchange, "key", auto_declare=False).send("kept")

        assert Consumer(second, queue, exchange, "key").fetch(auto_ack=True).payload == "kept"


def test_bindings_of_a_queue_add_up(connection: BrokerConnection, unique: Unique) -> None:
    consumer = Consumer(connection, unique(), unique("exchange"), "a")
    consumer.backend.queue_bind(consumer.queue, consumer.exchange, "b")
    publisher = Publisher(connection, consumer.exchange)

    for key in "a", "b", "c":
        publisher.send(key, routing_key=key)

    assert sorted(m.payload for m in consumer.iterqueue()) == ["a", "b"]


def test_a_binding_reaches_those_who_consume_already(
    connection: BrokerConnection, unique: Unique
) -> None:
    received: list[str] = []
    consumer = Consumer(
        connection, unique(), unique("exchange"), "a",
        callbacks=[lambda data, message: (received.append(data), message.ack())],
    )  # fmt: skip
    consumer.consume()

    connection.create_backend().queue_bind(consumer.queue, consumer.exchange, "b")
    Publisher(connection, consumer.exchange).send("late", routing_key="b")
    connection.drain_events(timeout=10)

    assert received == ["late"]


def test_bindings_that_overlap_are_not_supported(
    connection: BrokerConnection, unique: Unique
) -> None:
    consumer = Consumer(connection, unique(), unique("exchange"), "a.*", exchange_type="topic")
    bind = consumer.backend.queue_bind

    with pytest.raises(NotSupported, match=r"overlapping_bindings.*'a\.\*' already.*'>' takes"):
        bind(consumer.queue, consumer.exchange, "#")
    bind(consumer.queue, consumer.exchange, "a.*")
    bind(consumer.queue, consumer.exchange, "b.*")

    Publisher(connection, consumer.exchange, exchange_type="topic").send("x", routing_key="a.b")
    assert len(list(consumer.iterqueue())) == 1


# -- with other clients of the broker


def test_another_client_gets_what_carrot_sends(
    connection: BrokerConnection, other: stomp.Connection12, unique: Unique
) -> None:
    queue, listener = unique(), Listener()
    other.set_listener("test", listener)
    other.subscribe(f"/queue/{queue}", id="1")

    Publisher(connection, routing_key=queue).send(
        {"a": 1}, headers={"language": "en"}, priority=7, correlation_id="c", expiration=60
    )
    eventually(lambda: listener.frames)

    [frame] = listener.frames
    assert frame.body == b'{"a": 1}'
    expected = {"content-type": "application/json", "language": "en", "priority": "7",
                "correlation-id": "c", "persistent": "true"}  # fmt: skip
    assert expected.items() <= frame.headers.items()
    assert int(frame.headers["expires"]) > int(frame.headers["timestamp"])


def test_carrot_gets_what_another_client_sends(
    connection: BrokerConnection, other: stomp.Connection12, unique: Unique
) -> None:
    exchange = unique("exchange")
    consumer = Consumer(connection, unique(), exchange, "*.b", exchange_type="topic")
    headers = {"language": "en", "reply-to": "/queue/answers", "priority": "7"}

    other.send(f"/topic/VirtualTopic.{exchange}.a.b", "text", content_type="text/plain",
               headers=headers)  # fmt: skip
    message = eventually(consumer.fetch)
    message.ack()

    assert message.body == b"text"
    assert message.headers == {"language": "en"}
    assert message.properties["reply_to"] == "answers"
    assert message.delivery_info["exchange"] == exchange
    assert message.delivery_info["routing_key"] == "a.b"


# -- settling


def test_a_rejected_message_is_in_the_queue_of_dead_letters(
    connection: BrokerConnection, unique: Unique
) -> None:
    consumer = Consumer(connection, unique(), unique("exchange"), "key")
    Publisher(connection, consumer.exchange, "key").send("bad", message_id=consumer.queue)

    consumer.fetch().reject()

    letters = Consumer(connection, "ActiveMQ.DLQ")
    found = eventually(
        lambda: next(
            (
                letter
                for letter in letters.iterqueue()
                if letter.properties.get("message_id") == consumer.queue
            ),
            None,
        )
    )
    assert found.payload == "bad"
    assert found.delivery_info["exchange"] == consumer.exchange
    letters.close()


def test_an_expired_message_never_comes(connection: BrokerConnection, unique: Unique) -> None:
    consumer = Consumer(connection, unique())
    publisher = Publisher(connection, routing_key=consumer.queue)
    publisher.send("short", expiration=0.001)
    publisher.send("long", expiration=60)

    assert [message.payload for message in consumer.iterqueue()] == ["long"]


def test_a_consumer_has_no_more_in_hand_than_its_limit_however_many_bindings_there_are(
    connection: BrokerConnection, unique: Unique
) -> None:
    held = []
    consumer = Consumer(
        connection, unique(), unique("exchange"), "a", prefetch_count=2,
        callbacks=[lambda data, message: held.append(message)],
    )  # fmt: skip
    consumer.backend.queue_bind(consumer.queue, consumer.exchange, "b")
    publisher = Publisher(connection, consumer.exchange)
    for number in range(6):
        publisher.send(number, routing_key="ab"[number % 2])
    consumer.consume()

    def arrived() -> list[int]:
        with pytest.raises(TimeoutError):
            while True:
                connection.drain_events(timeout=0.2)
        return [message.payload for message in held]

    assert len(arrived()) == 2
    held[0].ack()
    assert len(arrived()) == 3
    held[1].requeue()
    assert len(arrived()) == 4
    held[2].ack()
    held[3].ack()
    arrived()
    held[4].ack()
    held[5].ack()
    assert sorted(arrived()) == sorted([*range(6), held[1].payload])


@pytest.mark.parametrize("how", ["ack", "reject", "requeue"])
def test_messages_in_hand_can_be_settled_when_the_consumer_has_ended(
    connection: BrokerConnection, stomp_url: str, unique: Unique, how: str
) -> None:
    held = []
    consumer = Consumer(connection, unique(), unique("exchange"), "key",
                        callbacks=[lambda data, message: held.append(message)])  # fmt: skip
    Publisher(connection, consumer.exchange, "key").send_many(range(5))

    consumer.wait(limit=3)
    with BrokerConnection(stomp_url) as stranger, closing(stranger.channel()) as channel:
        # The others went back, and those in hand are nobody else's.
        rest = [channel.get(consumer.queue, no_ack=True).payload for _ in range(2)]
        assert channel.get(consumer.queue) is None
    held[0].ack()
    getattr(held[1], how)()
    with pytest.raises(MessageStateError):
        held[1].ack()
    consumer.close()
    with pytest.raises(ConnectionLost):
        held[2].ack()
    consumer.declare()

    assert sorted(rest) == [3, 4]
    again = sorted(message.payload for message in consumer.iterqueue())
    assert again == ([1, 2] if how == "requeue" else [2])


def test_a_requeued_message_comes_again_complete(
    connection: BrokerConnection, unique: Unique
) -> None:
    seen = []

    def callback(data: object, message: object) -> None:
        seen.append(message)
        message.requeue() if len(seen) == 1 else message.ack()

    consumer = Consumer(connection, unique(), unique("exchange"), "key", callbacks=[callback])
    headers = {"text": "a:b\nc", "number": 1}
    Publisher(connection, consumer.exchange, "key").send(
        b"\0\n\0", headers=headers, priority=200, expiration=60, correlation_id="c\\:"
    )

    consumer.wait(limit=2)

    first, second = seen
    assert (first.redelivered, second.redelivered) == (False, True)
    assert second.body == first.body == b"\0\n\0"
    assert second.properties == first.properties
    assert second.headers == headers
    for name in "exchange", "routing_key":
        assert second.delivery_info[name] == first.delivery_info[name]


def test_fetched_messages_that_are_requeued_are_there_again(
    connection: BrokerConnection, unique: Unique
) -> None:
    consumer = Consumer(connection, unique(), unique("exchange"), "key")
    Publisher(connection, consumer.exchange, "key").send_many(range(3))
    first, second = consumer.fetch(), consumer.fetch()

    second.requeue()
    first.requeue()

    again = {message.payload: message.redelivered for message in consumer.iterqueue()}
    assert again == {0: True, 1: True, 2: False}


def test_a_forgotten_consumer_gives_back_what_it_holds(
    connection: BrokerConnection, unique: Unique
) -> None:
    queue = unique()
    consumer = Consumer(connection, queue, callbacks=[print])
    consumer.consume()
    backend = consumer.backend
    Publisher(connection, routing_key=queue).send("x")
    connection.connection.wait_for(partial(bool, backend.life.inbox), 10)
    del consumer, backend
    gc.collect()

    assert eventually(Consumer(connection, queue).fetch).redelivered


# -- exclusive queues


def test_an_exclusive_queue_is_its_channels_own(
    connection: BrokerConnection, stomp_url: str, unique: Unique
) -> None:
    queue = unique()
    with Consumer(connection, queue, exclusive=True), BrokerConnection(stomp_url) as other:
        for use in (
            lambda: Consumer(other, queue, exclusive=True),
            lambda: Consumer(other, queue),
            lambda: Consumer(other, queue, auto_declare=False).fetch(),
            lambda: Consumer(other, queue, auto_declare=False).discard_all(),
            lambda: Consumer(other, queue, auto_declare=False).consume(),
            lambda: Publisher(other, routing_key=queue).send("x"),
            lambda: Consumer(connection, queue, exclusive=True),
        ):
            with pytest.raises(ResourceLocked, match=f"queue '{queue}' .*is exclusive"):
                use()

    with pytest.raises(NotFound):
        Consumer(connection, queue, auto_declare=False).fetch()
    with pytest.raises(ResourceLocked):
        Consumer(connection, Consumer(connection, unique()).queue, exclusive=True)


@pytest.mark.parametrize("how", ["fetched", "consumed"])
def test_an_exclusive_queue_gets_what_it_is_bound_for_in_order(
    connection: BrokerConnection, unique: Unique, how: str
) -> None:
    exchange, received = unique("exchange"), []
    consumer = Consumer(
        connection, unique(), exchange, "a.*", exchange_type="topic", exclusive=True,
        callbacks=[lambda data, message: (received.append(data), message.ack())],
    )  # fmt: skip
    consumer.backend.queue_bind(consumer.queue, exchange, "b.#")
    consumer.backend.queue_bind(consumer.queue, exchange, "b.#")
    publisher = Publisher(connection, exchange, exchange_type="topic")
    for key in ("a.1", "c.1", "b", "a.2", "b.2.3", "a"):
        publisher.send(key, routing_key=key)
    Publisher(connection, routing_key=consumer.queue).send("straight")

    if how == "consumed":
        consumer.wait(limit=5)
    else:
        received = [message.payload for message in consumer.iterqueue()]

    assert received == ["a.1", "b", "a.2", "b.2.3", "straight"]
    with pytest.raises(NotSupported, match="overlapping_bindings"):
        consumer.backend.queue_bind(consumer.queue, exchange, "#")


def test_messages_of_an_exclusive_queue_are_settled_as_others_are(
    connection: BrokerConnection, unique: Unique
) -> None:
    held = []
    consumer = Consumer(connection, unique(), exclusive=True, prefetch_count=2,
                        callbacks=[lambda data, message: held.append(message)])  # fmt: skip
    Publisher(connection, routing_key=consumer.queue).send_many(range(6))
    consumer.consume()

    def payloads() -> list[int]:
        with pytest.raises(TimeoutError):
            while True:
                connection.drain_events(timeout=0.1)
        return [message.payload for message in held]

    assert payloads() == [0, 1]
    held[0].ack()
    assert payloads() == [0, 1, 2]
    held[1].requeue()
    assert payloads() == [0, 1, 2, 1]
    assert held[3].redelivered
    held[2].reject()
    assert payloads() == [0, 1, 2, 1, 3]
    consumer.cancel()
    held[3].ack()
    assert [message.payload for message in consumer.iterqueue(limit=1)] == [4]
    assert consumer.discard_all() == 1
    assert consumer.fetch() is None


def test_an_exclusive_queue_without_acks(connection: BrokerConnection, unique: Unique) -> None:
    received: list[int] = []
    consumer = Consumer(connection, unique(), exclusive=True, no_ack=True,
                        callbacks=[lambda data, message: received.append(data)])  # fmt: skip
    Publisher(connection, routing_key=consumer.queue).send_many(range(2500))

    consumer.wait(limit=2400)

    assert received == list(range(2400))
    assert [message.payload for message in consumer.iterqueue()] == list(range(2400, 2500))


def test_exclusive_queues_that_are_over_are_forgotten(
    connection: BrokerConnection, unique: Unique
) -> None:
    for _ in range(10):
        Consumer(connection, unique("private"), exclusive=True).close()
    consumer = Consumer(connection, unique("private"), exclusive=True)

    known = consumer.backend.channel._declared._queues
    assert [name for name in known if name.startswith("private")] == [consumer.queue]


def test_a_second_consumer_of_an_exclusive_queue_is_refused(
    connection: BrokerConnection, unique: Unique
) -> None:
    first = Consumer(connection, unique(), exclusive=True, callbacks=[print])
    first.consume()
    second = Consumer(
        connection, first.queue, auto_declare=False, backend=first.backend, callbacks=[print]
    )

    with pytest.raises(PermissionDenied, match="has a consumer already"):
        second.consume()


@pytest.mark.parametrize("where", ["the same connection", "another connection"])
def test_an_answer_reaches_the_exclusive_queue_that_reply_to_names(
    connection: BrokerConnection, stomp_url: str, unique: Unique, where: str
) -> None:
    with BrokerConnection(stomp_url) as another:
        there = connection if where == "the same connection" else another
        server = Consumer(there, unique("questions"))
        replies = Consumer(connection, unique("answers.to:me"), exclusive=True)
        Publisher(connection, routing_key=server.queue).send("?", reply_to=replies.queue)
        question = server.fetch(auto_ack=True)

        Publisher(there).send("!", routing_key=question.properties["reply_to"])

        answer = eventually(replies.fetch)
        assert answer.payload == "!"
        reply_to = question.properties["reply_to"]
        replies.close()
        connection.close()
        if where == "another connection":
            with pytest.raises(NotFound, match="who had it, and waited for an answer, is gone"):
                Publisher(there).send("too late", routing_key=reply_to)
            Publisher(there, routing_key=server.queue).send("goes on")


def test_an_exclusive_queue_is_declared_again_over_a_new_connection(
    connection: BrokerConnection, unique: Unique
) -> None:
    received = []
    consumer = Consumer(
        connection, unique(), unique("exchange"), "key", exclusive=True,
        callbacks=[lambda data, message: (received.append(data), message.ack())],
    )  # fmt: skip
    publisher = Publisher(connection, consumer.exchange, "key")
    publisher.send("before")
    consumer.wait(limit=1)

    connection.connection.close()
    consumer.consume()
    publisher.send("after")
    consumer.wait(limit=1)

    assert received == ["before", "after"]


# -- what it can't do


@pytest.mark.parametrize(
    ("feature", "use"),
    [
        ("mandatory", lambda c, b, q: Publisher(c).send("x", routing_key=q, mandatory=True)),
        ("immediate", lambda c, b, q: Publisher(c).send("x", routing_key=q, immediate=True)),
        ("headers_exchange", lambda c, b, q: b.exchange_declare(q, "headers", True, False)),
        ("headers_exchange", lambda c, b, q: b.queue_bind(q, "amq.match", "")),
        ("exchange_bindings", lambda c, b, q: b.exchange_bind(q, "amq.topic", "")),
        ("exchange_bindings", lambda c, b, q: b.exchange_unbind(q, "amq.topic", "")),
        ("auto_delete", lambda c, b, q: b.exchange_declare(q, "direct", True, True)),
        ("auto_delete", lambda c, b, q: b.queue_declare(q, True, False, True)),
        ("inspection", lambda c, b, q: b.queue_declare(q, True, False, False, True)),
        ("inspection", lambda c, b, q: b.queue_exists(q)),
        ("deletion", lambda c, b, q: b.queue_delete(q)),
        ("deletion", lambda c, b, q: b.queue_unbind(q, "amq.topic", "#")),
        ("deletion", lambda c, b, q: b.exchange_delete("amq.topic")),
        ("global_prefetch", lambda c, b, q: b.qos(0, 5, True)),
        ("prefetch_size", lambda c, b, q: b.qos(5, 0)),
        ("topic_patterns", lambda c, b, q: b.queue_bind(q, "amq.topic", "#.a")),
        (
            "dead_letters",
            lambda c, b, q: Consumer(c, q, queue_arguments={"x-dead-letter-exchange": ""}),
        ),
        ("max_length", lambda c, b, q: Consumer(c, q, queue_arguments={"x-max-length": 3})),
        ("arguments", lambda c, b, q: Consumer(c, q, queue_arguments={"x-message-ttl": 3})),
        ("arguments", lambda c, b, q: Consumer(c, q, queue_type="quorum")),
        (
            "alternate_exchange",
            lambda c, b, q: Publisher(c, q, exchange_arguments={"alternate-exchange": "x"}),
        ),
    ],
)
def test_what_cannot_be_done_is_not_supported_and_the_channel_goes_on(
    connection: BrokerConnection,
    unique: Unique,
    feature: str,
    use: Callable[..., object],
) -> None:
    consumer = Consumer(connection, unique())
    assert not getattr(Backend.capabilities, feature)

    with pytest.raises(NotSupported, match=f"the pystomp driver has no {feature}: "):
        use(connection, consumer.backend, consumer.queue)

    Publisher(connection, routing_key=consumer.queue).send("next")
    assert consumer.fetch(auto_ack=True).payload == "next"


def test_exchange_types_of_plug_ins_are_not_supported(connection: BrokerConnection) -> None:
    with pytest.raises(NotSupported, match="no exchanges of type 'x-delayed-message'"):
        Publisher(connection, "delayed", exchange_type="x-delayed-message")


def test_a_header_that_is_too_large_for_the_broker_is_told_before_it_is_sent(
    connection: BrokerConnection, unique: Unique
) -> None:
    consumer = Consumer(connection, unique())
    publisher = Publisher(connection, routing_key=consumer.queue)

    with pytest.raises(EncodeError, match=r"header h is .* ActiveMQ takes 10240"):
        publisher.send("x", headers={"h": "x" * 10_240})
    publisher.send("x", headers={"h": "x" * 10_000})

    assert len(consumer.fetch(auto_ack=True).headers["h"]) == 10_000


# -- the broker objects


def test_what_the_user_may_not_do_is_permission_denied(
    connection: BrokerConnection, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = Consumer(connection, unique())
    publisher = Publisher(connection, routing_key=consumer.queue)
    publisher.send("before")
    transport = connection.connection
    receipt = f"p{publisher.backend.channel.number}-2"
    error = f"ERROR\nmessage:User carrot is not authorized\nreceipt-id:{receipt}\n\n\0".encode()
    link = transport.stream._link  # type: ignore[attr-defined]
    read = link.read
    monkeypatch.setattr(link, "read", lambda: error + (read() or b""))

    with pytest.raises(PermissionDenied, match="not authorized"):
        publisher.send("refused")
    monkeypatch.undo()

    publisher.send("after")
    assert [m.payload for m in consumer.iterqueue()] == ["before", "refused", "after"]


def test_an_error_that_belongs_to_no_request_ends_the_connection(
    connection: BrokerConnection, unique: Unique
) -> None:
    consumer = Consumer(connection, unique())
    consumer.backend.channel._view.write(b"NONSENSE\n\n\0")

    with pytest.raises(ConnectionLost, match="NONSENSE"):
        consumer.fetch()

    assert consumer.fetch() is None


def test_ack_of_many_settles_nothing_that_the_program_has_not_got(
    connection: BrokerConnection, unique: Callable[..., str]
) -> None:
    """One binding's message waits here until the consumer, whose limit is one, has room."""
    backend, exchange, queue, other = (
        connection.create_backend(), unique("exchange"), unique("queue"), unique("other"),
    )  # fmt: skip
    backend.exchange_declare(exchange, "direct", True, False)
    for name in (queue, other):
        backend.queue_declare(name, True, False, False)
    backend.queue_bind(queue, exchange, "key")
    with Publisher(connection, exchange, "key") as bound, Publisher(connection) as direct:
        bound.send("one of two")
        direct.send("the other", routing_key=queue)
        direct.send("elsewhere", routing_key=other)
    seen: list[Message] = []
    backend.qos(0, 1)
    backend.declare_consumer(queue, False, seen.append, "first")
    transport, life = connection.connection, backend.life
    transport.wait_for(lambda: len(life.channel._window.unsettled) == 2, 10)
    assert len(life.inbox) == 1
    backend.declare_consumer(other, False, seen.append, "second")
    transport.wait_for(lambda: len(life.inbox) == 2, 10)
    while life.inbox:
        life.dispatch()

    backend.ack(seen[-1].delivery_tag, multiple=True)
    transport.wait_for(lambda: life.inbox, 10)
    life.dispatch()

    assert sorted(message.payload for message in seen) == ["elsewhere", "one of two", "the other"]
    seen[-1].ack()
    backend.close()


def test_messages_that_others_ack_while_their_consumer_ends_do_not_come_again(
    connection: BrokerConnection, unique: Unique
) -> None:
    received: list[int] = []
    acks: list[Future[None]] = []
    with ThreadPoolExecutor(4) as pool:

        def work(data: int, message: Message) -> None:
            received.append(data)
            acks.append(pool.submit(message.ack))

        consumer = Consumer(connection, unique(), callbacks=[work])
        Publisher(connection, routing_key=consumer.queue).send_many(range(90))
        for _ in range(30):
            consumer.wait(limit=3, timeout=20)
        for ack in acks:
            ack.result(10)

    assert sorted(received) == list(range(90))
    assert consumer.fetch() is None


def test_a_binding_that_failed_at_first_reaches_those_who_consume_already(
    connection: BrokerConnection, stomp_url: str, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, received = unique("exchange"), []
    consumer = Consumer(connection, unique(), callbacks=[
        lambda data, message: (received.append(data), message.ack())
    ])  # fmt: skip
    consumer.consume()
    with BrokerConnection(stomp_url) as other, closing(other.create_backend()) as backend:
        backend.exchange_declare(exchange, "direct", True, False)
        with monkeypatch.context() as patch:
            patch.setattr(Polling, "establish", Mock(side_effect=ConnectionLost("cut")))
            with pytest.raises(ConnectionLost):
                backend.queue_bind(consumer.queue, exchange, "key")

        backend.queue_bind(consumer.queue, exchange, "key")

    Publisher(connection, exchange, "key").send("x")
    consumer.wait(limit=1, timeout=10)
    assert received == ["x"]
