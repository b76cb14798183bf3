"""Exchanges and bindings: the four types, between exchanges, alternate exchanges."""

import pytest

from carrot.exceptions import ConfigurationError, NotFound, PermissionDenied, PreconditionFailed
from carrot.messaging import Consumer, Publisher
from tests.routing_table import ROUTING_TABLE


def payloads(connection, queue):
    with Consumer(connection, queue, auto_ack=True, auto_declare=False) as consumer:
        return [message.payload for message in consumer.iterqueue()]


@pytest.fixture
def backend(connection):
    backend = connection.create_backend()
    yield backend
    backend.close()


@pytest.fixture
def declare(backend, unique):
    """Declares an exchange or a queue under a unique name, which it returns."""

    class Declare:
        def exchange(self, type="direct", auto_delete=False, arguments=None):
            name = unique("exchange")
            backend.exchange_declare(name, type, True, auto_delete, arguments)
            return name

        def queue(self, exchange="", key="", arguments=None):
            name = unique("queue")
            backend.queue_declare(name, True, False, False)
            if exchange:
                backend.queue_bind(name, exchange, key, arguments)
            return name

    return Declare()


@pytest.mark.needs("headers_exchange")
def test_routing_table(connection, backend, declare, unique):
    """Each line of the table, with a queue and a binding of its own."""
    wrong = []
    publisher = Publisher(connection)
    queue = declare.queue()
    exchanges = {t: declare.exchange(t) for t in ("direct", "fanout", "topic", "headers")}
    for line in ROUTING_TABLE:
        exchange_type, binding_key, arguments, routing_key, headers, matches = line
        exchange = exchanges[exchange_type]
        backend.queue_bind(queue, exchange, binding_key, arguments)
        publisher.send("x", exchange=exchange, routing_key=routing_key, headers=headers or None)
        backend.queue_unbind(queue, exchange, binding_key, arguments)
        if bool(backend.queue_purge(queue)) is not matches:
            wrong.append(line)

    assert wrong == []


def test_direct_exchange_goes_by_the_exact_key(connection, declare):
    exchange = declare.exchange("direct")
    a, b = declare.queue(exchange, "a"), declare.queue(exchange, "b")

    Publisher(connection, exchange).send("to a", routing_key="a")

    assert payloads(connection, a) == ["to a"]
    assert payloads(connection, b) == []


def test_fanout_exchange_reaches_every_queue(connection, unique):
    exchange = unique()
    consumers = [Consumer(connection, unique(), exchange, exchange_type="fanout") for _ in range(3)]

    Publisher(connection, exchange, exchange_type="fanout").send("all", routing_key="ignored")

    assert [consumer.fetch(no_ack=True).payload for consumer in consumers] == ["all"] * 3


def test_topic_exchange_of_the_documentation(make_feed):
    feed = make_feed(exchange_type="topic", routing_key="*.stock.#")

    for key in ("usd.stock", "eur.stock.db", "stock.nasdaq"):
        feed.publisher.send(key, routing_key=key)

    assert feed.payloads() == ["usd.stock", "eur.stock.db"]


@pytest.mark.needs("overlapping_bindings")
def test_message_reaches_a_queue_once_however_many_bindings_match(backend, connection, make_feed):
    feed = make_feed(exchange_type="topic", routing_key="#")
    for key in ("a.*", "*.b", "a.b"):
        backend.queue_bind(feed.queue, feed.exchange, key)

    feed.publisher.send("once", routing_key="a.b")

    assert feed.payloads() == ["once"]


@pytest.mark.needs("headers_exchange")
@pytest.mark.parametrize("how", ["binding_arguments", "routing_key"])
def test_headers_exchange_by_arguments_or_by_a_dict_for_the_key(connection, unique, how):
    exchange = unique()
    pattern = {"x-match": "all", "kind": "pdf", "pages": 3}
    consumer = Consumer(connection, unique(), exchange, exchange_type="headers", **{how: pattern})
    publisher = Publisher(connection, exchange, exchange_type="headers")

    publisher.send("match", headers={"kind": "pdf", "pages": 3, "more": True})
    publisher.send("match too", routing_key={"kind": "pdf", "pages": 3})
    publisher.send("other", headers={"kind": "pdf", "pages": 4})

    assert [m.payload for m in consumer.iterqueue()] == ["match", "match too"]


@pytest.mark.needs("headers_exchange")
def test_headers_exchange_with_any(connection, unique):
    exchange = unique()
    consumer = Consumer(
        connection, unique(), exchange, {"x-match": "any", "a": 1, "b": 2}, exchange_type="headers"
    )
    publisher = Publisher(connection, exchange, exchange_type="headers")

    for headers in ({"a": 1}, {"b": 2, "a": 5}, {"a": 2}, {}):
        publisher.send(headers, headers=headers)

    assert [m.payload for m in consumer.iterqueue()] == [{"a": 1}, {"b": 2, "a": 5}]


@pytest.mark.needs("deletion")
def test_bindings_add_up_and_can_be_taken_away(connection, backend, declare):
    exchange = declare.exchange()
    queue = declare.queue(exchange, "a")
    backend.queue_bind(queue, exchange, "b")
    backend.queue_unbind(queue, exchange, "a")
    backend.queue_unbind(queue, exchange, "never bound")

    publisher = Publisher(connection, exchange)
    publisher.send("a", routing_key="a")
    publisher.send("b", routing_key="b")

    assert payloads(connection, queue) == ["b"]


@pytest.mark.needs("exchange_bindings")
def test_exchange_bound_to_an_exchange_passes_messages_on(connection, backend, declare):
    source, target = declare.exchange("topic"), declare.exchange("fanout")
    queue = declare.queue(target)
    backend.exchange_bind(target, source, "log.#")

    publisher = Publisher(connection, source, exchange_type="topic")
    publisher.send("yes", routing_key="log.error")
    publisher.send("no", routing_key="metric")
    backend.exchange_unbind(target, source, "log.#")
    publisher.send("no more", routing_key="log.error")

    assert payloads(connection, queue) == ["yes"]


@pytest.mark.needs("exchange_bindings")
def test_exchanges_bound_in_a_circle_deliver_once(connection, backend, declare):
    first, second = declare.exchange("fanout"), declare.exchange("fanout")
    queue = declare.queue(first)
    backend.queue_bind(queue, second)
    backend.exchange_bind(second, first)
    backend.exchange_bind(first, second)

    Publisher(connection, first, exchange_type="fanout").send("once")

    assert payloads(connection, queue) == ["once"]


@pytest.mark.needs("alternate_exchange")
def test_alternate_exchange_gets_what_reaches_no_queue(connection, unique):
    unrouted = Consumer(connection, unique(), unique("lost"), exchange_type="fanout")
    publisher = Publisher(
        connection, unique(), exchange_arguments={"alternate-exchange": unrouted.exchange}
    )

    publisher.send("nobody's", routing_key="nowhere", mandatory=True)

    assert unrouted.fetch(auto_ack=True).payload == "nobody's"


@pytest.mark.needs("auto_delete")
def test_auto_delete_exchange_goes_with_its_last_binding(connection, backend, declare):
    exchange = declare.exchange("direct", auto_delete=True)
    queue = declare.queue(exchange, "a")

    backend.queue_unbind(queue, exchange, "a")

    with pytest.raises(NotFound):
        backend.queue_bind(queue, exchange, "a")


@pytest.mark.needs("deletion")
def test_deleting_an_exchange(connection, backend, declare):
    exchange = declare.exchange()
    declare.queue(exchange, "a")

    with pytest.raises(PreconditionFailed, match="in use"):
        backend.exchange_delete(exchange, if_unused=True)
    backend.exchange_delete(exchange)
    backend.exchange_delete(exchange)

    with pytest.raises(NotFound, match=f"no exchange '{exchange}'"):
        Publisher(connection, exchange, auto_declare=False).send("x")


def test_redeclaring_an_exchange_differently_says_what_differs(connection, declare):
    exchange = declare.exchange("direct")

    with pytest.raises(PreconditionFailed, match=r"exists with type='direct'.*type='topic'"):
        Publisher(connection, exchange, exchange_type="topic")
    with pytest.raises(PreconditionFailed, match="durable=True, declared here with durable=False"):
        Publisher(connection, exchange, durable=False)


def test_unknown_exchange_type_is_refused_and_the_connection_lives(connection, feed):
    for make in (Publisher, lambda *args, **kw: Consumer(connection, "q", "x", **kw)):
        with pytest.raises(ConfigurationError, match=r"'dirct'.*direct, fanout, (headers, )?topic"):
            make(connection, "x", exchange_type="dirct")
    with pytest.raises(ConfigurationError, match="'dirct'"):
        feed.consumer.backend.exchange_declare("x", "dirct", True, False)

    feed.publisher.send("alive")
    assert feed.payloads() == ["alive"]


def test_default_exchange_takes_no_declaration_and_no_binding(connection, backend, declare):
    queue = declare.queue()

    with pytest.raises(PermissionDenied, match="default exchange"):
        backend.queue_bind(queue, "", "key")
    with pytest.raises(PermissionDenied, match="default exchange"):
        backend.exchange_delete("")


def test_names_with_amq_in_front_are_the_brokers(backend):
    with pytest.raises(PermissionDenied, match="amq"):
        backend.exchange_declare("amq.mine", "direct", True, False)
    with pytest.raises(PermissionDenied, match="amq"):
        backend.queue_declare("amq.mine", True, False, False)


@pytest.mark.parametrize(
    ("exchange", "key", "headers"),
    [("amq.direct", "k", None), ("amq.fanout", "", None), ("amq.topic", "k", None),
     pytest.param("amq.headers", "", {"k": 1}, marks=pytest.mark.needs("headers_exchange")),
     pytest.param("amq.match", "", {"k": 1}, marks=pytest.mark.needs("headers_exchange"))],
)  # fmt: skip
def test_exchanges_of_the_standard_are_there(connection, backend, declare, exchange, key, headers):
    queue = declare.queue(exchange, key, headers)

    Publisher(connection).send("x", exchange=exchange, routing_key=key, headers=headers)

    assert payloads(connection, queue) == ["x"]


@pytest.mark.needs("exchange_bindings")
def test_binding_what_is_not_there_is_not_found(backend, declare, unique):
    with pytest.raises(NotFound, match="no exchange"):
        backend.queue_bind(declare.queue(), unique("missing"), "k")
    with pytest.raises(NotFound, match="no queue"):
        backend.queue_bind(unique("missing"), declare.exchange(), "k")
    with pytest.raises(NotFound, match="no exchange"):
        backend.exchange_bind(unique("missing"), declare.exchange(), "k")


@pytest.mark.needs("headers_exchange")
def test_bad_x_match_is_told(backend, declare):
    with pytest.raises(PreconditionFailed, match="x-match"):
        backend.queue_bind(declare.queue(), declare.exchange("headers"), "", {"x-match": "some"})
