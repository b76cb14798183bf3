"""The backend of the guide "Writing a backend" does what the guide says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from carrot import BrokerConnection, Consumer, Publisher
from carrot.backends import get_backend_cls
from carrot.exceptions import (
    ConnectionFailed,
    ConnectionLost,
    ConsumerCancelled,
    EncodeError,
    NotFound,
    NotSupported,
    OperationTimeout,
    PreconditionFailed,
    Unroutable,
)
from carrot.message import Message

ROOT = Path(__file__).parents[2]
SPOOL = "examples.spool_backend.Backend"
NO_SECONDS = 0.05  # as long as one waits for what doesn't come

Connect = Callable[[], BrokerConnection]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Makes connections to the same file."""
    with ExitStack() as connections:

        def make() -> BrokerConnection:
            connection = BrokerConnection(
                virtual_host=str(tmp_path / "spool.db"), backend_cls=SPOOL
            )
            return connections.enter_context(connection)

        yield make


@pytest.fixture
def connection(connect: Connect) -> BrokerConnection:
    return connect()


@pytest.fixture
def consumer(connection: BrokerConnection) -> Consumer:
    return Consumer(connection, queue="feed", exchange="feed", routing_key="importer")


@pytest.fixture
def publisher(connection: BrokerConnection, consumer: Consumer) -> Publisher:
    return Publisher(connection, exchange="feed", routing_key="importer")


def test_a_sent_message_is_fetched_and_acked(publisher: Publisher, consumer: Consumer) -> None:
    publisher.send({"feed": 1}, headers={"language": "en"}, message_id="one")

    message = consumer.fetch()

    assert message is not None
    assert message.payload == {"feed": 1}
    assert (message.headers, message.properties["message_id"]) == ({"language": "en"}, "one")
    assert message.delivery_info["routing_key"] == "importer"
    message.ack()
    assert consumer.fetch() is None


def test_a_requeued_message_keeps_its_place_and_is_redelivered(
    publisher: Publisher, consumer: Consumer
) -> None:
    publisher.send_many(["first", "second"])

    consumer.fetch().requeue()

    message = consumer.fetch()
    assert (message.payload, message.redelivered) == ("first", True)
    assert (consumer.fetch().payload, consumer.fetch()) == ("second", None)


def test_a_rejected_message_is_not_redelivered(publisher: Publisher, consumer: Consumer) -> None:
    publisher.send("nonsense")

    consumer.fetch().reject()

    consumer.close()
    assert consumer.declare().fetch() is None


def test_wait_processes_as_many_messages_as_its_limit_says(
    publisher: Publisher, consumer: Consumer
) -> None:
    received = []
    consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
    publisher.send_many(range(5))

    consumer.wait(limit=3)

    assert received == [0, 1, 2]
    assert consumer.discard_all() == 2


def test_a_message_wakes_a_waiting_consumer(
    publisher: Publisher, consumer: Consumer, connection: BrokerConnection
) -> None:
    received = []
    consumer.register_callback(lambda data, message: (received.append(data), consumer.stop()))
    consumer.consume()
    with pytest.raises(OperationTimeout):
        connection.drain_events(timeout=NO_SECONDS)
    publisher.send("good morning")

    consumer.wait()

    assert received == ["good morning"]


def test_no_more_than_prefetch_count_messages_are_taken(
    publisher: Publisher, consumer: Consumer, connect: Connect
) -> None:
    other = Consumer(connect(), queue="feed")
    publisher.send_many(range(5))
    consumer.qos(prefetch_count=2)
    consumer.register_callback(lambda data, message: None)

    next(consumer.iterconsume())

    assert [message.payload for message in other.iterqueue()] == [2, 3, 4]


def test_ack_multiple_settles_what_came_before(publisher: Publisher, consumer: Consumer) -> None:
    publisher.send_many(range(3))
    messages = [consumer.fetch() for _ in range(3)]

    consumer.backend.ack(messages[1].delivery_tag, multiple=True)

    consumer.close()
    assert [message.payload for message in consumer.declare().iterqueue()] == [2]
    with pytest.raises(PreconditionFailed, match="delivery tag 99"):
        consumer.backend.ack(99)


def test_a_message_delivered_with_no_ack_needs_no_settling(
    publisher: Publisher, consumer: Consumer
) -> None:
    publisher.send("quick")

    message = consumer.fetch(no_ack=True)

    assert (message.payload, message.acknowledged) == ("quick", True)
    consumer.close()
    assert consumer.declare().fetch() is None


def test_unsettled_messages_come_back_when_their_connection_closes(
    publisher: Publisher, connect: Connect
) -> None:
    careless = connect()
    publisher.send("come back")
    message = Consumer(careless, queue="feed").fetch()

    careless.close()

    with pytest.raises(ConnectionLost):
        message.ack()
    again = Consumer(connect(), queue="feed").fetch()
    assert (again.payload, again.redelivered) == ("come back", True)


def test_messages_of_a_process_that_died_come_back(
    publisher: Publisher, connect: Connect, tmp_path: Path
) -> None:
    publisher.send("orphan")
    program = f"""if True:
        import os
        from carrot import BrokerConnection, Consumer
        connection = BrokerConnection(virtual_host={str(tmp_path / "spool.db")!r},
                                      backend_cls={SPOOL!r})
        assert Consumer(connection, queue="feed").fetch().payload == "orphan"
        os._exit(7)
    """

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)

    assert done.returncode == 7
    message = Consumer(connect(), queue="feed").fetch()
    assert (message.payload, message.redelivered) == ("orphan", True)


def test_every_exchange_type_routes(connection: BrokerConnection) -> None:
    topic = Consumer(connection, "t", "topics", "*.stock.#", exchange_type="topic")
    headers = Consumer(connection, "h", "headers", {"type": "pdf"}, exchange_type="headers")
    fanout = Consumer(connection, "f", "fanout", exchange_type="fanout")

    for key in ("usd.stock", "stock.nasdaq"):
        Publisher(connection, "topics", exchange_type="topic").send(key, routing_key=key)
    for kind in ("pdf", "png"):
        Publisher(connection, "headers", {"type": kind}, exchange_type="headers").send(kind)
    Publisher(connection, "fanout", exchange_type="fanout").send("all", routing_key="any")
    Publisher(connection, "").send("by name", routing_key="f")

    received = [[m.payload for m in c.iterqueue()] for c in (topic, headers, fanout)]
    assert received == [["usd.stock"], ["pdf"], ["all", "by name"]]


def test_a_mandatory_message_without_a_queue_is_unroutable(publisher: Publisher) -> None:
    with pytest.raises(Unroutable):
        publisher.send("lost", routing_key="nobody", mandatory=True)

    publisher.send("found", mandatory=True)


def test_what_is_not_there_is_not_found(connection: BrokerConnection) -> None:
    with pytest.raises(NotFound):
        Publisher(connection, exchange="nowhere", auto_declare=False).send("hello")
    with pytest.raises(NotFound):
        Consumer(connection, queue="nothing", auto_declare=False).fetch()
    with pytest.raises(NotFound):
        Consumer(connection, queue="nothing", auto_declare=False).consume()


def test_declaring_it_differently_is_refused(
    connection: BrokerConnection, consumer: Consumer
) -> None:
    with pytest.raises(PreconditionFailed, match="durable"):
        Consumer(connection, queue="feed", durable=False)
    with pytest.raises(PreconditionFailed, match="direct"):
        Publisher(connection, exchange="feed", exchange_type="fanout")


def test_a_consumer_whose_queue_is_deleted_is_cancelled(
    consumer: Consumer, connect: Connect
) -> None:
    consumer.raise_on_cancel = True
    consumer.register_callback(lambda data, message: None)
    consumer.consume()

    connect().channel().queue_delete("feed")

    with pytest.raises(ConsumerCancelled):
        consumer.wait()


def test_queues_in_use_or_not_empty_are_kept_when_asked(
    consumer: Consumer, publisher: Publisher
) -> None:
    publisher.send("keep me")
    with pytest.raises(PreconditionFailed):
        consumer.backend.queue_delete("feed", if_empty=True)
    consumer.consume()
    with pytest.raises(PreconditionFailed):
        consumer.backend.queue_delete("feed", if_unused=True)
    with pytest.raises(PreconditionFailed):
        consumer.backend.exchange_delete("feed", if_unused=True)
    consumer.cancel()

    assert consumer.backend.queue_delete("feed", if_unused=True) == 1
    consumer.backend.exchange_delete("feed", if_unused=True)


UNABLE = {
    "expiration": lambda c: Publisher(c, "").send("stale", routing_key="q", expiration=1),
    "priority": lambda c: Publisher(c, "").send("urgent", routing_key="q", priority=1),
    "priorities": lambda c: Consumer(c, "vip", queue_arguments={"x-max-priority": 9}),
    "ttl": lambda c: Consumer(c, "brief", queue_arguments={"x-message-ttl": 1}),
    "dead letters": lambda c: Consumer(c, "a", queue_arguments={"x-dead-letter-exchange": "b"}),
    "length": lambda c: Consumer(c, "short", queue_arguments={"x-max-length": 1}),
    "other arguments": lambda c: Consumer(c, "odd", queue_arguments={"x-odd": 1}),
    "alternate": lambda c: Publisher(c, "e", exchange_arguments={"alternate-exchange": "f"}),
    "exclusive": lambda c: Consumer(c, "mine", exclusive=True),
    "auto-delete": lambda c: Consumer(c, "brief", auto_delete=True),
    "exchange to exchange": lambda c: c.channel().exchange_bind("a", "b"),
    "immediate": lambda c: Publisher(c, "").send("now", routing_key="q", immediate=True),
    "prefetch size": lambda c: c.channel().qos(1, 0),
    "global prefetch": lambda c: c.channel().qos(0, 1, True),
    "plug-in types": lambda c: Publisher(c, "e", exchange_type="x-delayed-message"),
}


@pytest.mark.parametrize("ask", UNABLE.values(), ids=UNABLE)
def test_what_it_can_not_do_it_refuses(
    ask: Callable[[BrokerConnection], object], connection: BrokerConnection
) -> None:
    with pytest.raises(NotSupported):
        ask(connection)


def test_headers_that_are_no_json_are_refused(publisher: Publisher, consumer: Consumer) -> None:
    with pytest.raises(EncodeError):
        publisher.send("picture", headers={"thumbnail": b"\xff"})

    assert consumer.fetch() is None


def test_a_file_that_can_not_be_opened_is_a_failed_connection(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no folder" / "spool.db")

    with pytest.raises(ConnectionFailed, match="no folder"):
        BrokerConnection(virtual_host=nowhere, backend_cls=SPOOL).connect()


def test_a_closed_connection_says_so(connection: BrokerConnection, consumer: Consumer) -> None:
    consumer.consume()
    connection.close()

    with pytest.raises(ConnectionLost):
        consumer.wait()


def test_a_broker_makes_up_a_name_for_a_queue_without_one(connection: BrokerConnection) -> None:
    channel = connection.channel()

    first = channel.queue_declare("", True, False, False)

    assert channel.queue_exists(first.queue)
    assert first.queue != channel.queue_declare("", True, False, False).queue


def test_its_capabilities_leave_out_what_it_refuses() -> None:
    capabilities = get_backend_cls(SPOOL).capabilities

    assert capabilities.confirms
    assert capabilities.mandatory
    for refused in ("priorities", "dead_letters", "exclusive", "auto_delete", "global_prefetch"):
        assert not getattr(capabilities, refused)


def test_a_refusal_ends_the_channel_and_puts_back_what_it_held(
    publisher: Publisher, consumer: Consumer, connect: Connect
) -> None:
    publisher.send("held")
    message = consumer.fetch()

    with pytest.raises(PreconditionFailed):
        consumer.backend.ack(99)

    with pytest.raises(ConnectionLost):
        message.ack()
    again = Consumer(connect(), queue="feed").fetch()
    assert (again.payload, again.redelivered) == ("held", True)


def test_what_a_cancelled_consumer_has_not_seen_goes_back(
    publisher: Publisher, consumer: Consumer, connect: Connect
) -> None:
    publisher.send_many(["seen", "unseen"])
    consumer.register_callback(lambda data, message: message.ack())
    consumer.wait(limit=1)

    consumer.cancel()

    again = Consumer(connect(), queue="feed").fetch()
    assert again.payload == "unseen"


def test_a_loop_goes_on_when_the_connection_is_lost_in_a_callback(
    connection: BrokerConnection, consumer: Consumer, publisher: Publisher
) -> None:
    got = []

    def lose_once(number: int, message: Message) -> None:
        got.append(number)
        if len(got) == 1:
            connection.connection.close()
        message.ack()

    publisher.send_many([1, 2])
    consumer.register_callback(lose_once)
    consumer.wait(limit=2, timeout=20)

    assert got == [1, 1, 2]
