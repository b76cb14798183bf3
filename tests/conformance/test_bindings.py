"""Several bindings of a queue, and all that was declared by hand: it comes back after a loss."""

import threading
from contextlib import suppress

import pytest

from carrot.exceptions import CarrotError, ConfigurationError
from carrot.messaging import Consumer, ConsumerSet, Publisher
from tests.waiting import eventually

# TLS is left out: it is the amqp driver again.
pytestmark = pytest.mark.parametrize(
    "backend_name", ["memory", "amqp", "pyamqplib", "stomp", "zeromq"], indirect=True
)

TIMEOUT = 20  # seconds, for what should take milliseconds


class Recovered:
    """A connection whose consumer loses it in mid-wait, and goes on over a new one."""

    def __init__(self, connect):
        self._recovered = threading.Event()
        self.connection = connect(on_recovered=self._recovered.set)

    def lose(self):
        """End the live connection as if the network had failed."""
        with suppress(CarrotError):
            self.connection.connection.close()

    def received(self, loop, send, count):
        """What *loop* receives of what *send* sends after a loss; *count* messages, or fewer.

        :param loop: a Consumer or a ConsumerSet.
        """
        received, failures = [], []
        loop.register_callback(lambda data, message: (received.append(data), message.ack()))

        def wait():
            try:
                loop.wait(timeout=TIMEOUT)
            except CarrotError as exc:
                failures.append(exc)

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: loop.channel_open, TIMEOUT)
        self.lose()
        assert self._recovered.wait(TIMEOUT), "it did not recover"
        send()
        with suppress(AssertionError):
            eventually(lambda: len(received) >= count, 2)
        loop.stop()
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "the loop hangs"
        assert not failures
        return sorted(received)


@pytest.fixture
def lossy(connect):
    return Recovered(connect)


@pytest.fixture
def exchange(unique):
    return unique("exchange")


@pytest.fixture
def send(connect, exchange):
    """Sends a message for each of the keys, which is its data, over a connection of its own."""

    def send(*keys, exchange=exchange, **options):
        with Publisher(connect(), exchange, **options) as publisher:
            for key in keys:
                publisher.send(key, routing_key=key)

    return send


def payloads(consumer):
    fetched = iter(lambda: consumer.fetch(auto_ack=True), None)
    return sorted(message.payload for message in fetched)


def binding(exchange, routing_key, arguments=None):
    return {"exchange": exchange, "routing_key": routing_key, "arguments": arguments}


# -- what was done by hand comes back


@pytest.mark.parametrize(
    "option",
    ["exclusive", pytest.param("auto_delete", marks=pytest.mark.needs("auto_delete"))],
)
def test_extra_bindings_come_back_with_the_queue(lossy, exchange, send, unique, option):
    consumer = Consumer(lossy.connection, unique(), exchange, "own", **{option: True})
    consumer.backend.queue_bind(consumer.queue, exchange, "extra")
    consumer.backend.queue_bind(consumer.queue, exchange, "another")

    # An auto-delete queue makes its exchange one, too.
    alike = {"auto_delete": option == "auto_delete"}
    keys = ("own", "extra", "another", "none")
    received = lossy.received(consumer, lambda: send(*keys, **alike), 3)

    assert received == ["another", "extra", "own"]


def test_extra_bindings_come_back_when_the_consumer_has_none_of_its_own(
    lossy, exchange, send, unique
):
    send()
    consumer = Consumer(lossy.connection, unique(), exclusive=True)
    consumer.backend.queue_bind(consumer.queue, exchange, "extra")

    assert lossy.received(consumer, lambda: send("extra"), 1) == ["extra"]


def test_extra_bindings_of_a_durable_queue_are_there_once(lossy, exchange, send, unique):
    consumer = Consumer(lossy.connection, unique(), exchange, "own")
    consumer.backend.queue_bind(consumer.queue, exchange, "extra")

    assert lossy.received(consumer, lambda: send("own", "extra"), 2) == ["extra", "own"]


@pytest.mark.needs("deletion")
def test_bindings_that_were_undone_do_not_come_back(lossy, exchange, send, unique):
    consumer = Consumer(lossy.connection, unique(), exchange, "own", exclusive=True)
    for key in ("extra", "undone"):
        consumer.backend.queue_bind(consumer.queue, exchange, key)
    consumer.backend.queue_unbind(consumer.queue, exchange, "undone")

    received = lossy.received(consumer, lambda: send("undone", "own", "extra"), 2)

    assert received == ["extra", "own"]


@pytest.mark.needs("headers_exchange")
def test_extra_bindings_come_back_with_their_arguments(lossy, unique, connect):
    exchange = unique("headers")
    consumer = Consumer(
        lossy.connection, unique(), exchange, {"kind": "own"}, exchange_type="headers",
        exclusive=True,
    )  # fmt: skip
    consumer.backend.queue_bind(consumer.queue, exchange, "", {"kind": "extra", "x-match": "all"})

    def send():
        with Publisher(connect(), exchange, exchange_type="headers") as publisher:
            for kind in ("own", "extra", "none"):
                publisher.send(kind, headers={"kind": kind})

    assert lossy.received(consumer, send, 2) == ["extra", "own"]


@pytest.mark.needs("auto_delete")
def test_extra_exchanges_come_back_with_their_bindings(lossy, exchange, send, unique):
    consumer = Consumer(lossy.connection, unique(), exchange, "own", exclusive=True)
    extra = unique("extra")
    consumer.backend.exchange_declare(extra, "fanout", durable=False, auto_delete=True)
    consumer.backend.queue_bind(consumer.queue, extra)

    def send_to_both():
        send("own")
        with Publisher(lossy.connection, extra, auto_declare=False) as publisher:
            publisher.send("by extra")

    assert lossy.received(consumer, send_to_both, 2) == ["by extra", "own"]


@pytest.mark.needs("exchange_bindings", "auto_delete")
def test_bindings_of_exchanges_come_back(lossy, exchange, send, unique):
    consumer = Consumer(lossy.connection, unique(), exchange, "own", exclusive=True)
    inner = unique("inner")
    consumer.backend.exchange_declare(inner, "fanout", durable=False, auto_delete=True)
    consumer.backend.queue_bind(consumer.queue, inner)
    consumer.backend.exchange_bind(inner, exchange, "outer")

    assert lossy.received(consumer, lambda: send("own", "outer"), 2) == ["outer", "own"]


@pytest.mark.needs("inspection")
def test_extra_queues_come_back(lossy, exchange, send, unique):
    consumer = Consumer(lossy.connection, unique(), exchange, "own", exclusive=True)
    extra = consumer.backend.queue_declare(unique("extra"), False, True, True).queue
    consumer.backend.queue_bind(extra, exchange, "extra")

    assert lossy.received(consumer, lambda: send("own", "extra"), 1) == ["own"]
    other = Consumer(lossy.connection, extra, auto_declare=False)
    assert eventually(other.fetch).payload == "extra"


@pytest.mark.needs("deletion", "inspection")
def test_queues_and_exchanges_that_were_deleted_do_not_come_back(lossy, exchange, send, unique):
    consumer = Consumer(lossy.connection, unique(), exchange, "own", exclusive=True)
    backend, queue, extra = consumer.backend, unique("gone"), unique("gone")
    backend.queue_declare(queue, False, True, True)
    backend.exchange_declare(extra, "fanout", False, False)
    backend.queue_bind(queue, extra)
    backend.exchange_bind(extra, exchange, "gone")
    backend.queue_delete(queue)
    backend.exchange_delete(extra)

    assert lossy.received(consumer, lambda: send("own"), 1) == ["own"]
    assert not lossy.connection.channel().queue_exists(queue)
    # Declared anew with another type, it would be refused if it were there.
    lossy.connection.channel().exchange_declare(extra, "direct", False, False)
    lossy.connection.channel().exchange_delete(extra)


def test_extra_bindings_come_back_for_fetch(lossy, exchange, send, unique):
    consumer = Consumer(lossy.connection, unique(), exchange, "own", exclusive=True)
    consumer.backend.queue_bind(consumer.queue, exchange, "extra")

    lossy.lose()
    with suppress(CarrotError):
        consumer.fetch()  # it may hear of the loss only now
    assert consumer.fetch() is None
    send("extra")

    assert eventually(consumer.fetch).payload == "extra"


@pytest.mark.needs("inspection")
def test_what_a_publisher_declared_comes_back(lossy, exchange, unique):
    publisher = Publisher(lossy.connection, exchange)
    queue = publisher.backend.queue_declare(unique(), False, True, True).queue
    publisher.backend.queue_bind(queue, exchange, "extra")

    lossy.lose()
    publisher.send("again", routing_key="extra")

    consumer = Consumer(lossy.connection, queue, auto_declare=False)
    assert eventually(consumer.fetch).payload == "again"


def test_extra_bindings_come_back_for_a_set(lossy, exchange, send, unique):
    one = ConsumerSet(
        lossy.connection,
        from_dict={
            unique(key): {"exchange": exchange, "routing_key": key, "exclusive": True}
            for key in ("a", "b")
        },
    )
    one.consumers[1].backend.queue_bind(one.consumers[1].queue, exchange, "extra")

    assert lossy.received(one, lambda: send("a", "b", "extra"), 3) == ["a", "b", "extra"]


@pytest.mark.needs("auto_delete", "inspection")
def test_extra_bindings_come_back_after_the_broker_closed_the_channel(
    connection, exchange, send, unique
):
    consumer = Consumer(connection, unique(), exchange, "own", auto_delete=True)
    consumer.backend.queue_bind(consumer.queue, exchange, "extra")
    consumer.register_callback(print)
    consumer.consume()
    with pytest.raises(CarrotError):
        consumer.backend.queue_purge(unique("missing"))
    eventually(lambda: not connection.channel().queue_exists(consumer.queue))

    consumer.consume()
    send("own", "extra", auto_delete=True)

    assert sorted(eventually(consumer.fetch).payload for _ in range(2)) == ["extra", "own"]


# -- several bindings from the start


def test_routing_key_may_be_a_list(connection, exchange, send, unique):
    consumer = Consumer(connection, unique(), exchange, ["a", "b"])

    send("a", "b", "c")

    assert payloads(consumer) == ["a", "b"]


def test_routing_key_may_be_a_list_of_patterns(connection, exchange, send, unique):
    consumer = Consumer(
        connection, unique(), exchange, ["order.*", "invoice.*"], exchange_type="topic"
    )

    send("order.new", "invoice.paid", "offer.new", exchange_type="topic")

    assert payloads(consumer) == ["invoice.paid", "order.new"]


@pytest.mark.needs("headers_exchange")
def test_routing_key_may_be_a_list_of_headers(connection, unique):
    exchange = unique("headers")
    consumer = Consumer(
        connection, unique(), exchange, [{"kind": "a"}, {"kind": "b"}], exchange_type="headers"
    )

    with Publisher(connection, exchange, exchange_type="headers") as publisher:
        for kind in ("a", "b", "c"):
            publisher.send(kind, headers={"kind": kind})

    assert payloads(consumer) == ["a", "b"]


def test_keys_of_a_list_come_back_after_a_loss(lossy, exchange, send, unique):
    consumer = Consumer(lossy.connection, unique(), exchange, ["a", "b"], exclusive=True)

    assert lossy.received(consumer, lambda: send("a", "b", "c"), 2) == ["a", "b"]


def test_bindings_lead_from_several_exchanges(connection, send, unique):
    first, second = unique("first"), unique("second")
    send(exchange=first)
    send(exchange=second)

    consumer = Consumer(connection, unique(), bindings=[binding(first, "a"), binding(second, "b")])
    send("a", "b", exchange=first)
    send("a", "b", exchange=second)

    assert payloads(consumer) == ["a", "b"]


def test_bindings_are_added_to_the_consumers_own(connection, exchange, send, unique):
    consumer = Consumer(
        connection, unique(), exchange, "own", bindings=[binding(exchange, "extra")]
    )

    send("own", "extra", "none")

    assert payloads(consumer) == ["extra", "own"]


@pytest.mark.needs("headers_exchange")
def test_bindings_have_arguments(connection, unique):
    exchange = unique("headers")
    publisher = Publisher(connection, exchange, exchange_type="headers")
    any_of_both = {"x-match": "any", "kind": "a", "size": 1}

    consumer = Consumer(connection, unique(), bindings=[binding(exchange, "", any_of_both)])
    for headers in ({"kind": "a"}, {"size": 1}, {"kind": "b"}):
        publisher.send(headers, headers=headers)

    fetched = [message.payload for message in consumer.iterqueue()]
    assert fetched == [{"kind": "a"}, {"size": 1}]


def test_bindings_may_be_a_class_attribute(connection, exchange, send, unique):
    name = exchange
    send()

    class Orders(Consumer):
        bindings = [binding(name, "a"), {"exchange": name, "routing_key": "b"}]  # noqa: RUF012

    send_to = Orders(connection, unique())
    send("a", "b", "c")

    assert payloads(send_to) == ["a", "b"]


def test_list_of_keys_may_be_a_class_attribute(connection, exchange, send, unique):
    class Orders(Consumer):
        routing_key = ("a", "b")

    orders = Orders(connection, unique(), exchange)
    send("a", "b", "c")

    assert payloads(orders) == ["a", "b"]


def test_bindings_come_back_after_a_loss(lossy, exchange, send, unique):
    send()
    consumer = Consumer(
        lossy.connection, unique(), exclusive=True,
        bindings=[binding(exchange, "a"), binding(exchange, "b")],
    )  # fmt: skip

    assert lossy.received(consumer, lambda: send("a", "b", "c"), 2) == ["a", "b"]


@pytest.mark.parametrize("option", ["routing_key", "binding_key"])
def test_set_takes_a_list_of_keys(connection, exchange, send, unique, option):
    received = []
    one = ConsumerSet(
        connection,
        from_dict={unique(): {"exchange": exchange, option: ["a", "b"]}},
        callbacks=[lambda data, message: (received.append(data), message.ack())],
    )

    with one:
        send("a", "b", "c")
        one.wait(limit=2, timeout=TIMEOUT)

    assert sorted(received) == ["a", "b"]


def test_set_takes_bindings(connection, exchange, send, unique):
    received = []
    send()
    bindings = [binding(exchange, "a"), binding(exchange, "b")]
    one = ConsumerSet(
        connection,
        from_dict={unique(): {"bindings": bindings}},
        callbacks=[lambda data, message: (received.append(data), message.ack())],
    )

    with one:
        send("a", "b", "c")
        one.wait(limit=2, timeout=TIMEOUT)

    assert sorted(received) == ["a", "b"]


def test_what_is_passed_in_is_not_changed(connection, exchange, send, unique):
    send()
    keys, bindings = ["a"], [{"exchange": exchange, "routing_key": "b"}]

    consumer = Consumer(connection, unique(), exchange, keys, bindings=bindings)
    keys.append("late")
    bindings.append(binding(exchange, "late"))
    consumer.declare()
    send("a", "b", "late")

    assert bindings[0] == {"exchange": exchange, "routing_key": "b"}
    assert payloads(consumer) == ["a", "b"]


@pytest.mark.parametrize(
    "bindings",
    [
        "text",
        {"exchange": "one", "routing_key": "dict"},
        [{"routing_key": "no exchange"}],
        [{"exchange": "x", "routing_kye": "misspelt"}],
        [{"exchange": "x", "routing_key": 1}],
        [1],
    ],
)
def test_bindings_that_cant_be_are_told_where_they_are_given(connection, unique, bindings):
    with pytest.raises(ConfigurationError, match=r"binding|routing.key"):
        Consumer(connection, unique(), bindings=bindings)


@pytest.mark.parametrize(
    "wrong", [{"exchange": ""}, {"exchange": "amq.fanout", "arguments": "text"}]
)
def test_bindings_that_no_broker_takes_are_refused_where_they_are_given(connection, unique, wrong):
    with pytest.raises(CarrotError):
        Consumer(connection, unique(), bindings=[wrong])


@pytest.mark.parametrize("keys", [[1], [["nested"]], [None]])
def test_lists_of_keys_that_cant_be_are_told_where_they_are_given(connection, unique, keys):
    with pytest.raises(ConfigurationError, match=r"routing.key"):
        Consumer(connection, unique(), unique("exchange"), keys)
