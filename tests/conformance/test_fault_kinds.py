"""Kinds of fault that were found from outside, each over every driver that it can concern."""

import functools
import gc
import itertools
import signal
import threading
from contextlib import suppress
from functools import partial

import pytest

from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConnectionLost,
    DecodeError,
    EncodeError,
)
from carrot.messaging import Consumer, ConsumerSet, Publisher
from carrot.serialization import registry
from tests.interleaving import interleave
from tests.stopping import stop_after
from tests.threads import run
from tests.waiting import eventually

# TLS is left out: it is the amqp driver again.
pytestmark = pytest.mark.parametrize(
    "backend_name", ["memory", "amqp", "pyamqplib", "stomp", "zeromq"], indirect=True
)

TIMEOUT = 20  # seconds, for what should take milliseconds


# -- an exception of a signal handler, in the middle of encoding or decoding


class SoftTimeLimit(Exception):
    """What a job queue's handler raises, to let the job clean up."""


@pytest.fixture
def interrupt():
    """Sends this process a signal whose handler raises; once, and returns its argument then."""
    left = [1]

    def handler(*_):
        raise SoftTimeLimit("of the program")

    before = signal.signal(signal.SIGUSR1, handler)

    def once(value):
        if left:
            left.pop()
            signal.raise_signal(signal.SIGUSR1)
        return value

    yield once
    signal.signal(signal.SIGUSR1, before)


SERIALIZERS = ["json", "pickle", "yaml", "msgpack", "orjson"]


@pytest.fixture
def interrupted_in(interrupt):
    """Registers a serializer as another one, but for a signal that comes as it works."""
    names = []

    def make(serializer, encoding=False, decoding=False):
        real, name = registry._find(serializer), f"interrupted-{serializer}"
        encode, decode = real.encoder, real.decoder
        registry.register(
            name,
            (lambda data: encode(interrupt(data))) if encoding else encode,
            (lambda body: decode(interrupt(body))) if decoding else decode,
            f"application/x-{name}",
            real.content_encoding,
        )
        names.append(name)
        return name

    yield make
    for name in names:
        registry.unregister(name)


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_exception_of_a_signal_handler_comes_out_of_send_and_nothing_is_sent(
    feed, interrupted_in, serializer
):
    name = interrupted_in(serializer, encoding=True)

    with pytest.raises(SoftTimeLimit, match="of the program"):
        feed.publisher.send({"a": 1}, serializer=name)

    assert feed.consumer.fetch() is None
    feed.publisher.send({"a": 2}, serializer=name)
    assert feed.payloads() == [{"a": 2}]


def test_exception_of_a_signal_handler_comes_out_of_an_encoder(feed, interrupt):
    feed.publisher.encoder = lambda data: repr(interrupt(data))

    with pytest.raises(SoftTimeLimit):
        feed.publisher.send(1)

    assert feed.consumer.fetch() is None


class Interrupting(list):
    """A list that is interrupted while json goes through it."""

    def __init__(self, interrupt):
        super().__init__([1, 2])
        self._interrupt = interrupt

    def __iter__(self):
        return iter(self._interrupt([1, 2]))

    def _asdict(self):
        return self._interrupt({"a": 1})

    def __reduce__(self):
        return self._interrupt((list, ([1, 2],)))


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_exception_of_a_signal_handler_comes_out_of_the_datas_own_methods(
    feed, interrupt, serializer
):
    with pytest.raises(SoftTimeLimit):
        feed.publisher.send(Interrupting(interrupt), serializer=serializer)

    assert feed.consumer.fetch() is None


def test_exception_of_a_signal_handler_comes_out_of_send_many(feed, interrupted_in):
    name = interrupted_in("json", encoding=True)

    with pytest.raises(SoftTimeLimit):
        feed.publisher.send_many([1, 2, 3], serializer=name)

    assert feed.consumer.fetch() is None


@pytest.fixture
def told(feed):
    """What ``on_decode_error`` of the feed's consumer is told."""
    errors = []
    feed.consumer.on_decode_error = lambda message, error: errors.append(error)
    return errors


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_exception_of_a_signal_handler_comes_out_of_wait_and_the_message_stays(
    feed, interrupted_in, told, serializer
):
    name, received = interrupted_in(serializer, decoding=True), []
    feed.consumer.accept = [name]
    feed.consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
    feed.publisher.send({"a": 1}, serializer=name)

    with pytest.raises(SoftTimeLimit, match="of the program"):
        feed.consumer.wait(limit=1, timeout=TIMEOUT)
    assert (received, told) == ([], [])
    feed.consumer.close()
    feed.consumer.declare()
    feed.consumer.wait(limit=1, timeout=TIMEOUT)

    assert received == [{"a": 1}]


@pytest.mark.parametrize("option", [{"auto_ack": True}, {"enable_callbacks": True}])
def test_exception_of_a_signal_handler_comes_out_of_fetch_and_the_message_stays(
    feed, interrupt, told, option
):
    feed.consumer.decoder = interrupt
    feed.consumer.register_callback(lambda data, message: message.ack())
    feed.publisher.send("x")

    with pytest.raises(SoftTimeLimit):
        feed.consumer.fetch(**option)
    assert told == []
    feed.consumer.close()
    feed.consumer.declare()

    assert eventually(feed.consumer.fetch).payload == "x"


def test_exception_of_a_signal_handler_comes_out_of_decode(feed, interrupt):
    feed.consumer.decoder = interrupt
    feed.publisher.send("x")
    message = feed.consumer.fetch()

    with pytest.raises(SoftTimeLimit):
        message.decode()

    assert not message.acknowledged
    assert message.decode() == "x"


def test_exception_of_a_signal_handler_comes_out_of_a_set(feed, connection, interrupt):
    errors, received = [], []
    feed.consumer.decoder = interrupt
    feed.publisher.send("x")
    with ConsumerSet(
        connection,
        consumers=[feed.consumer],
        callbacks=[lambda data, message: (received.append(data), message.ack())],
        on_decode_error=lambda message, error: errors.append(error),
    ) as one:
        with pytest.raises(SoftTimeLimit):
            one.wait(limit=1, timeout=TIMEOUT)

        assert (errors, received) == ([], [])


@pytest.mark.parametrize(
    ("data", "serializer"),
    [
        ({1, 2}, "json"),
        (lambda: None, "pickle"),
        (threading.Lock(), "pickle"),
        (object(), "msgpack"),
        (2**70, "msgpack"),
        (object(), "orjson"),
        (2**70, "orjson"),
    ],
)
def test_data_that_cant_be_encoded_is_an_encode_error(feed, data, serializer):
    with pytest.raises(EncodeError):
        feed.publisher.send([data], serializer=serializer)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "orjson", "pickle"])
def test_data_that_contains_itself_is_an_encode_error_or_comes_back(feed, serializer):
    data = []
    data.append(data)

    with suppress(EncodeError):
        feed.publisher.send(data, serializer=serializer)
        assert serializer == "pickle"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"\xff", "application/json"),
        (b"\xc1", "application/x-msgpack"),
        (b"\x93\x01", "application/x-msgpack"),
        (b"a: [", "application/x-yaml"),
        (b"not a pickle", "application/x-python-serialize"),
        (b"", "application/x-python-serialize"),
        (b"cos\nnothing_there\n.", "application/x-python-serialize"),
    ],
)
def test_body_that_cant_be_decoded_is_a_decode_error(feed, body, content_type):
    feed.consumer.accept = ["json", "msgpack", "yaml", "pickle"]
    feed.publisher.send(body, content_type=content_type)

    with pytest.raises(DecodeError):
        feed.consumer.fetch(auto_ack=True)

    feed.consumer.discard_all()


# -- close() in the midst of others' use


def race(*targets):
    """Run the functions at once; CarrotErrors are fair there."""
    together = threading.Barrier(len(targets))

    def racing(target):
        together.wait(TIMEOUT)
        with suppress(CarrotError):
            target()

    run(*(partial(racing, target) for target in targets), within=TIMEOUT)


def fairly(function):
    """The function; a CarrotError is fair."""

    def fair():
        with suppress(CarrotError):
            function()

    return fair


@pytest.mark.needs("inspection")
def test_no_consumer_is_left_by_a_close_in_the_midst_of_consume(connection, connect, unique):
    queue, watch = unique(), connect().create_backend()
    consumer = Consumer(connection, queue, callbacks=[print])

    for _ in range(30):
        consumer.declare()
        race(consumer.consume, consumer.close)
        consumer.close()  # what was begun afterwards

    declared = functools.partial(watch.queue_declare, queue, True, False, False)
    eventually(lambda: declared().consumer_count == 0)


@pytest.mark.needs("inspection")
def test_no_message_is_held_by_a_channel_that_was_closed_in_the_midst_of_fetch(
    connection, connect, unique
):
    queue, watch = unique(), connect().create_backend()
    consumer = Consumer(connection, queue)
    Publisher(connection, routing_key=queue).send_many(range(30))

    for _ in range(30):
        consumer.declare()
        race(consumer.fetch, consumer.close)
        consumer.close()

    declared = functools.partial(watch.queue_declare, queue, True, False, False)
    eventually(lambda: declared().message_count == 30)


@pytest.mark.needs("inspection")
@pytest.mark.parametrize("held", ["close", "consume"])
def test_no_consumer_is_left_wherever_close_and_consume_meet(connection, connect, unique, held):
    queue, watch = unique(), connect().create_backend()
    consumer = Consumer(connection, queue, callbacks=[print])
    both = [fairly(consumer.close), fairly(consumer.consume)]
    first, second = both if held == "close" else reversed(both)

    # Consuming has some 300 lines: each fifth will do.
    for line in itertools.count(1, 1 if held == "close" else 5):
        consumer.declare()
        is_over = not interleave(line, first, second)
        consumer.close()
        if is_over:
            break

    declared = functools.partial(watch.queue_declare, queue, True, False, False)
    eventually(lambda: declared().consumer_count == 0)


def test_no_channel_is_left_by_a_close_while_it_is_opened(connection, monkeypatch, unique):
    backend, transport = connection.create_backend(), connection.connection
    opened, open_channel = [], transport.channel

    def close_meanwhile():
        opened.append(open_channel())
        backend.close()
        return opened[-1]

    monkeypatch.setattr(transport, "channel", close_meanwhile)

    with pytest.raises(ConnectionLost):
        backend.queue_declare(unique(), durable=False, exclusive=False, auto_delete=False)

    assert [channel.is_open for channel in opened] == [False]


@pytest.mark.parametrize("act", ["close", "forget"])
def test_no_channel_is_left_of_many_backends(connection, monkeypatch, unique, act):
    transport, opened = connection.connection, []
    open_channel, queue = transport.channel, unique()
    Consumer(connection, queue)
    monkeypatch.setattr(
        transport, "channel", lambda: opened.append(channel := open_channel()) or channel
    )

    for _ in range(5):
        backend = connection.create_backend()
        backend.get(queue)
        if act == "close":
            backend.close()
        del backend
        gc.collect()
    with Publisher(connection, routing_key=queue) as publisher:
        publisher.send("x")  # opening the next one closes what was forgotten

    assert len(opened) == 6
    assert not any(channel.is_open for channel in opened)


def test_publisher_that_is_closed_in_the_midst_of_send_works_again(connection, unique):
    queue = unique()
    consumer = Consumer(connection, queue)
    publisher = Publisher(connection, routing_key=queue)

    for number in range(30):
        race(lambda number=number: publisher.send(number), publisher.close)
        publisher.close()
        publisher.declare()
    publisher.send("last")

    received = [message.payload for message in consumer.iterqueue()]
    assert received[-1] == "last"
    numbers = received[:-1]
    assert numbers == sorted(set(numbers))


# -- messages without a content type


@pytest.fixture
def send_bare(feed):
    """Sends a body as other clients do, without a content type."""

    def send(body, **properties):
        backend = feed.publisher.backend
        message = backend.prepare_message(body, 2, **properties)
        backend.publish(message, feed.exchange, "key")

    return send


def fetched(consumer):
    """What the consumer fetches, acked; nobody has waited for its confirm."""
    return eventually(lambda: consumer.fetch(auto_ack=True)).payload


@pytest.mark.parametrize("body", [b"", b"bare", b'{"a": 1}', b"\xff\x00"])
def test_body_without_a_content_type_arrives_as_bytes(feed, send_bare, body):
    received = []
    feed.consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
    send_bare(body)

    feed.consumer.wait(limit=1, timeout=TIMEOUT)

    assert received == [body]
    assert type(received[0]) is bytes


@pytest.mark.parametrize("encoding", ["utf-8", "binary", "latin-1"])
def test_content_encoding_without_a_content_type_changes_nothing(feed, send_bare, encoding):
    send_bare(b"\xe9", content_encoding=encoding)

    assert fetched(feed.consumer) == b"\xe9"


@pytest.mark.needs("requeue_in_place")
def test_message_without_a_content_type_ends_nobodys_wait(feed, send_bare):
    received = []
    feed.consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
    feed.publisher.send({"a": 1})
    send_bare(b"bare")
    feed.publisher.send({"a": 2})

    feed.consumer.wait(limit=3, timeout=TIMEOUT)

    assert received == [{"a": 1}, b"bare", {"a": 2}]


def test_default_content_type_says_how_to_decode(feed, send_bare, connection):
    consumer = Consumer(connection, feed.queue, default_content_type="application/json")
    send_bare('{"a": "ü"}'.encode())
    send_bare(b"[1]")

    assert fetched(consumer) == {"a": "ü"}
    received = []
    consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
    consumer.wait(limit=1, timeout=TIMEOUT)
    assert received == [[1]]


def test_default_content_type_leaves_other_messages_alone(feed, connection):
    consumer = Consumer(connection, feed.queue, default_content_type="application/json")
    feed.publisher.send("text")
    feed.publisher.send(b"\xff")
    feed.publisher.send({"a": 1}, serializer="yaml")

    assert [m.payload for m in consumer.iterqueue()] == ["text", b"\xff", {"a": 1}]


def test_default_content_type_may_be_a_class_attribute_and_an_option_of_a_set(
    feed, send_bare, connection
):
    mine = type("Mine", (Consumer,), {"default_content_type": "application/json"})
    send_bare(b"1")
    assert fetched(mine(connection, feed.queue)) == 1

    received = []
    with ConsumerSet(
        connection,
        from_dict={feed.queue: {"default_content_type": "application/json"}},
        callbacks=[lambda data, message: (received.append(data), message.ack())],
    ) as one:
        send_bare(b"2")
        one.wait(limit=1, timeout=TIMEOUT)
    assert received == [2]


def test_body_that_is_not_of_the_default_content_type_is_a_decode_error(
    feed, send_bare, connection
):
    consumer = Consumer(connection, feed.queue, default_content_type="application/json")
    send_bare(b"{")

    with pytest.raises(DecodeError):
        fetched(consumer)

    assert consumer.fetch() is None  # the first one is unsettled, and not lost
    consumer.close()
    assert eventually(Consumer(connection, feed.queue).fetch).body == b"{"


def test_decoder_decodes_bodies_without_a_content_type_too(feed, send_bare, connection):
    consumer = Consumer(connection, feed.queue, decoder=lambda body: body[::-1])
    send_bare(b"bare")

    assert fetched(consumer) in (b"erab", "erab")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        'application/json;charset="utf-8"',
        "Application/JSON",
        "application/vnd.x+json",
        "application/vnd.x+json; charset=utf-8",
        "application/problem+json",
    ],
)
def test_json_by_its_other_names_decodes_as_json(feed, send_bare, content_type):
    send_bare('{"a": "ü"}'.encode(), content_type=content_type)

    assert fetched(feed.consumer) == {"a": "ü"}


# -- what a stopped worker gives back


@pytest.mark.needs("requeue_in_place")
@pytest.mark.parametrize("prefetch", [1, 10, 0])
def test_next_worker_goes_on_in_order_where_one_stopped(make_feed, connect, prefetch):
    feed, first, second = make_feed(prefetch_count=prefetch), [], []
    feed.publisher.send_many(range(40))
    stop_after(feed.consumer, 5, first)
    feed.consumer.wait(timeout=TIMEOUT)

    with Consumer(connect(), feed.queue, prefetch_count=prefetch) as other:
        stop_after(other, 35, second)
        other.wait(timeout=TIMEOUT)

    assert (first, second) == (list(range(5)), list(range(5, 40)))


@pytest.mark.needs("requeue_in_place")
def test_workers_that_stop_one_after_the_other_keep_the_order(make_feed, connect):
    feed, received = make_feed(), []
    feed.publisher.send_many(range(40))

    for _ in range(8):
        with Consumer(connect(), feed.queue, prefetch_count=10) as worker:
            took = []
            stop_after(worker, 5, took)
            worker.wait(timeout=TIMEOUT)
        received.append(took)

    assert list(itertools.chain(*received)) == list(range(40))


@pytest.mark.needs("inspection")
def test_messages_that_are_given_back_unseen_again_and_again_are_not_lost(feed, connect):
    watch = connect().create_backend()
    feed.publisher.send_many(range(5))
    waiting = functools.partial(watch.queue_declare, feed.queue, True, False, False)

    for _ in range(30):
        with Consumer(connect(), feed.queue, callbacks=[print]) as worker:
            worker.consume()
            eventually(lambda: waiting().message_count == 0)
            worker.cancel()
            eventually(lambda: waiting().message_count == 5)

    assert feed.payloads() == list(range(5))


# -- a connection that breaks before anything is sent


def test_a_batch_begins_over_a_new_connection_when_the_first_one_breaks(feed, connect, monkeypatch):
    """Found by the storm of network faults: the channel was being opened."""
    connection = connect()
    transport = connection.connection

    def broken():
        transport.close()
        raise ConnectionLost("it broke while the channel was opened")

    monkeypatch.setattr(transport, "channel", broken)
    publisher = Publisher(connection, feed.exchange, "key", auto_declare=False)
    with publisher, publisher.batch() as batch:
        batch.send("x")

    assert connection.connection is not transport
    assert feed.payloads() == ["x"]


# -- what the log says, whoever is told


def texts(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "carrot"]


@pytest.mark.needs("inspection")
def test_a_channel_that_the_broker_closes_is_logged_once(connection, unique, caplog):
    consumer = Consumer(connection, unique("queue"), auto_declare=False)
    with pytest.raises(ChannelError):
        consumer.fetch()
    with suppress(ChannelError):
        consumer.fetch()

    told = [text for text in texts(caplog) if "closed a channel: 404" in text]
    assert len(told) == 2  # each fetch had a channel of its own closed


@pytest.mark.parametrize("reconnect", [True, False])
def test_a_lost_connection_is_logged_once_whoever_uses_it(feed, connect, caplog, reconnect):
    connection = connect(reconnect=reconnect)
    consumers = [Consumer(connection, feed.queue, auto_declare=False) for _ in range(2)]
    for consumer in consumers:
        consumer.fetch()
    connection.connection.close()

    for consumer in consumers:
        with suppress(ConnectionLost):
            consumer.fetch()

    assert sum("lost the connection" in text for text in texts(caplog)) == 1
