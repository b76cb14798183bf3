"""Kinds of fault that need RabbitMQ: refusals, quorum queues, streams, one active consumer."""

import itertools
import logging
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from carrot.connection import BrokerConnection
from carrot.deadline import Deadline, bounded_by
from carrot.exceptions import BrokerRefused, CarrotError, ConnectionLost, OperationTimeout
from carrot.messaging import Consumer, ConsumerSet, Publisher
from tests.faults.proxy import Faults, Plan, Proxy
from tests.interleaving import interleave
from tests.stopping import stop_after
from tests.threads import run, start
from tests.waiting import eventually

TIMEOUT = 20  # seconds, for what should take milliseconds
AT_ONCE = 5  # seconds, on a busy machine
NOT_IMPLEMENTED = 540


@pytest.fixture(params=["amqp", "pyamqplib"])
def driver(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def connect(driver: str, amqp_url: str) -> Iterator[Callable[..., BrokerConnection]]:
    """Makes connections with the driver under test."""
    made = []

    def make(url: str = amqp_url, **options) -> BrokerConnection:
        made.append(BrokerConnection(url, backend_cls=driver, **options))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


@pytest.fixture
def connection(connect) -> BrokerConnection:
    return connect()


class Queue:
    """A queue of the broker, seen over a connection of the test's own."""

    def __init__(self, backend, name, arguments):
        self.name = name
        self.arguments = arguments
        self.connection = backend.connection
        self._backend = backend
        self._publisher = Publisher(self.connection, routing_key=name, backend=backend)
        self.declared()

    def declared(self):
        return self._backend.queue_declare(self.name, True, False, False, False, self.arguments)

    def send(self, messages):
        self._publisher.send_many(messages)

    def ready(self):
        """How many messages are there that no consumer has."""
        return self.declared().message_count

    def take_all(self):
        """The data of what is in the queue; it is gone then."""
        with Consumer(self.connection, self.name, auto_declare=False) as consumer:
            fetched = iter(lambda: consumer.fetch(auto_ack=True), None)
            return [message.payload for message in fetched]

    def delete(self):
        self._backend.queue_delete(self.name)


@pytest.fixture
def make_queue(amqp_url, unique):
    """Declares queues of that type, which are deleted at the end."""
    with BrokerConnection(amqp_url) as connection, connection.create_backend() as backend:
        queues = []

        def make(queue_type="quorum", **arguments):
            arguments = {f"x-{name.replace('_', '-')}": v for name, v in arguments.items()}
            queues.append(Queue(backend, unique(), {"x-queue-type": queue_type, **arguments}))
            return queues[-1]

        yield make
        for queue in queues:
            queue.delete()


def consumer_of(queue, connection, **options):
    return Consumer(connection, queue.name, auto_declare=False, **options)


def consumer_that_knows(queue, connection, **options):
    """One that declares the queue, and so knows its arguments."""
    return Consumer(connection, queue.name, queue_arguments=queue.arguments, **options)


def acking(received):
    return lambda data, message: (received.append(data), message.ack())


# -- limits, on queues that count deliveries


def test_workers_with_limits_lose_nothing_of_a_queue_with_a_delivery_limit(connect, make_queue):
    queue, done = make_queue(delivery_limit=2), []
    queue.send(range(200))

    def work():
        with consumer_of(queue, connect()) as consumer, suppress(OperationTimeout):
            consumer.register_callback(acking(done))
            while len(done) < 200:
                consumer.wait(limit=1, timeout=2)

    run(work, work, work, work)

    assert sorted(done) == list(range(200))
    assert queue.ready() == 0


def test_sets_with_limits_lose_nothing_of_a_queue_with_a_delivery_limit(connect, make_queue):
    queue, done = make_queue(delivery_limit=2), []
    queue.send(range(60))

    def work():
        consumer = consumer_of(queue, connect())
        with ConsumerSet(consumer.connection, consumers=[consumer]) as one:
            one.register_callback(acking(done))
            with suppress(OperationTimeout):
                while len(done) < 60:
                    one.wait(limit=3, timeout=2)

    run(work, work)

    assert sorted(done) == list(range(60))


@pytest.mark.parametrize("prefetch", [1, 10, 0])
def test_limit_leaves_other_messages_of_a_quorum_queue_unmarked(connection, make_queue, prefetch):
    queue, received, left = make_queue(), [], []
    queue.send(range(30))
    with consumer_of(queue, connection, prefetch_count=prefetch) as consumer:
        consumer.register_callback(acking(received))
        for limit in (1, 1, 5, 3):
            consumer.wait(limit=limit, timeout=TIMEOUT)

        while (message := consumer.fetch(no_ack=True)) is not None:
            left.append((message.payload, message.redelivered))

    assert received == list(range(10))
    assert left == [(number, False) for number in range(10, 30)]


# -- refusals that close the connection


class Refusals:
    """What a connection said of its losses while it was refused something."""

    def __init__(self, connect):
        self.losses = []
        self.connection = connect(on_connection_lost=lambda error, _: self.losses.append(error))

    def refused(self, use, queue):
        """See that *use* raises the broker's refusal at once, and that it names the queue."""
        started = time.monotonic()
        with pytest.raises(BrokerRefused) as caught:
            use()
        assert time.monotonic() - started < AT_ONCE
        error = caught.value
        assert error.code == NOT_IMPLEMENTED
        assert queue.name in str(error)
        assert "NOT_IMPLEMENTED" in error.text or "not" in error.text
        assert not isinstance(error, ConnectionLost)
        assert len(self.losses) <= 1
        return error


@pytest.fixture
def refusals(connect):
    return Refusals(connect)


def wait(loop):
    loop.register_callback(print)
    loop.wait(limit=1, timeout=AT_ONCE)


def wait_without_limit(loop):
    loop.register_callback(print)
    loop.wait(timeout=AT_ONCE)


def iterconsume(loop):
    loop.register_callback(print)
    next(loop.iterconsume(timeout=AT_ONCE))


def consume_and_drain(loop):
    loop.register_callback(print)
    loop.consume()
    loop.connection.drain_events(timeout=AT_ONCE)


LOOPS = [wait, wait_without_limit, iterconsume, consume_and_drain]


@pytest.mark.parametrize("loop", LOOPS)
def test_global_qos_on_a_quorum_queue_is_refused_at_once(refusals, make_queue, loop):
    queue = make_queue()
    consumer = consumer_of(queue, refusals.connection)
    consumer.qos(prefetch_count=5, apply_global=True)

    error = refusals.refused(lambda: loop(consumer), queue)

    assert "global qos" in error.text


# With a limit, no_ack may be had by acks, which a stream takes.
@pytest.mark.parametrize("loop", [loop for loop in LOOPS if loop is not wait])
def test_no_ack_on_a_stream_is_refused_at_once(refusals, make_queue, loop):
    queue = make_queue("stream")

    refusals.refused(lambda: loop(consumer_of(queue, refusals.connection, no_ack=True)), queue)


def test_fetch_of_a_stream_is_refused_at_once(refusals, make_queue):
    queue = make_queue("stream")
    consumer = consumer_of(queue, refusals.connection)

    refusals.refused(consumer.fetch, queue)


def test_purge_of_a_stream_is_refused_at_once(refusals, make_queue):
    queue = make_queue("stream")
    consumer = consumer_of(queue, refusals.connection)

    refusals.refused(consumer.discard_all, queue)


def test_conditional_delete_of_a_quorum_queue_is_refused_at_once(refusals, make_queue):
    queue = make_queue()
    backend = refusals.connection.create_backend()

    refusals.refused(lambda: backend.queue_delete(queue.name, if_empty=True), queue)


def test_set_is_refused_at_once(refusals, make_queue):
    queue = make_queue()
    consumer = consumer_of(queue, refusals.connection)
    with ConsumerSet(refusals.connection, consumers=[consumer]) as one:
        one.qos(prefetch_count=5, apply_global=True)

        refusals.refused(lambda: wait(one), queue)


def test_what_was_refused_is_told_again_and_not_repeated_in_between(refusals, make_queue):
    queue = make_queue("stream")
    consumer = consumer_of(queue, refusals.connection, no_ack=True)

    refusals.refused(lambda: wait_without_limit(consumer), queue)
    refusals.refused(lambda: iterconsume(consumer), queue)


def test_connection_works_after_a_refusal(refusals, make_queue):
    stream, other = make_queue("stream"), make_queue("classic")
    refusals.refused(consumer_of(stream, refusals.connection).fetch, stream)

    Publisher(refusals.connection, routing_key=other.name).send("x")

    assert consumer_of(other, refusals.connection).fetch(auto_ack=True).payload == "x"


@pytest.mark.parametrize("refused", ["wait", "fetch"])
def test_other_consumers_of_the_connection_go_on_after_a_refusal(refusals, make_queue, refused):
    stream, other, received = make_queue("stream"), make_queue("classic"), []
    consumer = consumer_of(other, refusals.connection, callbacks=[acking(received)])
    other.send([0])
    join = start(lambda: consumer.wait(limit=5, timeout=TIMEOUT))
    eventually(lambda: received == [0], TIMEOUT)

    bad = consumer_of(stream, refusals.connection, no_ack=True)
    refusals.refused(bad.fetch if refused == "fetch" else lambda: wait_without_limit(bad), stream)
    other.send([1, 2, 3, 4])
    join()

    assert received == [0, 1, 2, 3, 4]
    assert len(refusals.losses) <= 1


def test_other_threads_of_the_connection_are_not_told_of_a_refusal_that_isnt_theirs(
    refusals, make_queue
):
    stream, other = make_queue("stream"), make_queue("classic")
    publisher = Publisher(refusals.connection, routing_key=other.name)
    is_over = threading.Event()

    def send():
        number = 0
        while not is_over.is_set():
            publisher.send(number)
            number += 1

    join = start(send)
    for _ in range(3):
        with pytest.raises(BrokerRefused):
            consumer_of(stream, refusals.connection).fetch()
    is_over.set()
    join()

    numbers = other.take_all()
    assert sorted(set(numbers)) == list(range(max(numbers) + 1))


# -- no channel is left at the broker


def channels(rabbitmq):
    """How many channels each connection has at the broker."""
    lines = rabbitmq.ctl("list_connections", "name", "channels").splitlines()
    return [int(line.split("\t")[-1]) for line in lines if line.rpartition("\t")[2].isdigit()]


def race(*targets):
    """Run the functions at once; CarrotErrors are fair there."""
    barrier = threading.Barrier(len(targets))

    def together(target):
        barrier.wait(TIMEOUT)
        with suppress(CarrotError):
            target()

    run(*(lambda target=target: together(target) for target in targets))


USES = {
    "declare": lambda backend, queue: backend.queue_declare(queue, False, True, True),
    "channel": lambda backend, queue: backend.channel,
    "qos": lambda backend, queue: backend.qos(0, 1),
    "get": lambda backend, queue: backend.get(queue),
}


@pytest.mark.parametrize("use", USES)
def test_no_channel_is_left_by_a_close_in_the_midst_of_use(connect, rabbitmq, unique, use):
    connection, name = connect(rabbitmq.url), unique()
    with connection.create_backend() as backend:
        backend.queue_declare(name, False, True, True)
        for _ in range(50):
            race(lambda: USES[use](backend, name), backend.close)
            backend.close()  # what was opened behind the other one

    eventually(lambda: sum(channels(rabbitmq)) == 0, TIMEOUT)


def test_no_channel_is_left_by_many_that_close(connect, rabbitmq, unique):
    connection, name = connect(rabbitmq.url), unique()
    with connection.create_backend() as backend:
        for _ in range(30):
            use = lambda: backend.queue_declare(name, False, True, True)  # noqa: E731
            race(use, backend.close, use, backend.close)
            backend.close()

    eventually(lambda: sum(channels(rabbitmq)) == 0, TIMEOUT)


def everywhere(prepare, first, second, clean_up):
    """Hold *first* at each of its lines in turn while *second* runs."""
    for line in itertools.count(1):
        prepare()
        go_on = interleave(line, fairly(first), fairly(second))
        clean_up()
        if not go_on:
            break


def fairly(function):
    """The function; a CarrotError is fair."""

    def fair():
        with suppress(CarrotError):
            function()

    return fair


@pytest.mark.parametrize("state", ["open", "closed"])
@pytest.mark.parametrize("held", ["close", "use"])
def test_no_channel_is_left_wherever_close_and_use_meet(connect, rabbitmq, state, held):
    connection = connect(rabbitmq.url)
    connection.connect()
    with connection.create_backend() as backend:

        def use():
            backend.qos(0, 1)

        prepare = use if state == "open" else lambda: None

        both = (backend.close, use) if held == "close" else (use, backend.close)
        everywhere(prepare, *both, backend.close)

    eventually(lambda: sum(channels(rabbitmq)) == 0, TIMEOUT)


class Watch:
    """Holds back the broker's answer to a method, and notes when one goes up.

    :param held: the class and the method of an answer (AMQP 0-9-1, section 4.2.4).
    """

    def __init__(self, link, held=None, noted=None):
        self._held, self._noted = held, noted
        self.came, self.go_on = threading.Event(), threading.Event()
        link.up.faults = Faults(on_frame=self._note)
        link.down.faults = Faults(on_frame=self._hold)

    @staticmethod
    def _method(frame):
        return struct.unpack_from(">HH", frame, 7) if frame[:1] == b"\x01" else None

    def _note(self, frame):
        if self._method(frame) == self._noted:
            self.came.set()
        return frame

    def _hold(self, frame):
        if self._held is not None and self._method(frame) == self._held:
            self.came.set()
            self.go_on.wait(TIMEOUT)
        return frame


CHANNEL_OPEN_OK, CHANNEL_CLOSE, CONNECTION_CLOSE = (20, 11), (20, 40), (10, 50)


def test_no_channel_is_left_by_a_close_while_the_channel_opens(connect, rabbitmq):
    with Proxy(rabbitmq.port) as proxy:
        connection = connect(proxy.url)
        connection.connect()
        backend = connection.create_backend()
        watch = Watch(proxy.link, held=CHANNEL_OPEN_OK)

        def use():
            with suppress(CarrotError):
                backend.queue_exists("amq.missing")
                backend.qos(0, 1)

        join_use = start(use)
        assert watch.came.wait(TIMEOUT)
        join_close = start(backend.close)
        watch.go_on.set()
        join_use()
        join_close()
        backend.close()

        eventually(lambda: channels(rabbitmq) == [0], TIMEOUT)


# -- a publisher whose connection is replaced


SENT = {
    "headers": {"n": 1, "text": "ü"},
    "correlation_id": "c-1",
    "reply_to": "answers",
    "type": "order",
    "app_id": "shop",
    "priority": 3,
    "expiration": 60,
    "message_id": "m-1",
}


@pytest.fixture
def brokers(amqp_url, stomp_url, zeromq, unique):
    """A connection of each driver, by its name."""
    urls = {
        "amqp": amqp_url,
        "pyamqplib": amqp_url.replace("amqp://", "pyamqplib://", 1),
        "stomp": stomp_url,
        "zeromq": zeromq.virtual_host(unique("world")),
        "memory": f"memory://{unique('world')}/",
    }
    connections = {name: BrokerConnection(url) for name, url in urls.items()}
    yield connections
    for connection in connections.values():
        connection.close()


@pytest.mark.parametrize(
    "order",
    [
        ("amqp", "stomp", "memory", "amqp"),
        ("stomp", "amqp", "pyamqplib", "zeromq", "stomp"),
        ("memory", "zeromq", "amqp", "memory"),
        ("pyamqplib", "amqp", "stomp", "pyamqplib"),
    ],
    ids="-".join,
)
def test_publisher_whose_connection_is_replaced_sends_what_each_broker_understands(
    brokers, unique, order
):
    queue = unique()
    consumers = {name: Consumer(brokers[name], queue) for name in set(order)}
    publisher = Publisher(brokers[order[0]], routing_key=queue)

    for number, name in enumerate(order):
        publisher.connection = brokers[name]
        publisher.declare()
        publisher.send({"number": number}, **SENT)
        publisher.send({"number": number}, **SENT)
        publisher.send_many([{"number": number}] * 2, headers=SENT["headers"])

        for _ in range(2):
            message = eventually(lambda name=name: consumers[name].fetch(auto_ack=True))
            assert message.payload == {"number": number}
            assert message.content_type == "application/json"
            assert {key: message.properties[key] for key in SENT if key != "headers"} == {
                **{key: value for key, value in SENT.items() if key != "headers"},
                "expiration": message.properties["expiration"],
            }
            assert {key: message.headers[key] for key in SENT["headers"]} == SENT["headers"]
        for _ in range(2):
            message = eventually(lambda name=name: consumers[name].fetch(auto_ack=True))
            assert (message.payload, message.headers["n"]) == ({"number": number}, 1)
    publisher.close()


# -- deadlines behind the close() of another thread


@pytest.fixture
def frozen(connect, rabbitmq):
    """A proxy, and a connection through it that waits for answers for 4 seconds."""
    with Proxy(rabbitmq.port) as proxy:
        connection = connect(proxy.url, operation_timeout=4, heartbeat=0, reconnect=False)
        connection.connect()
        yield proxy, connection


DEADLINE = 0.3  # seconds
LATE = 1.2  # seconds that a busy machine may add


def take_no_longer(use):
    """See that *use* ends in time, with an error of carrot's or without."""
    started = time.monotonic()
    with suppress(CarrotError):
        use()
    assert time.monotonic() - started < DEADLINE + LATE


# The other driver knows no deadline but the connection's operation_timeout.
only_amqp = pytest.mark.parametrize("driver", ["amqp"], indirect=True)


@only_amqp
@pytest.mark.parametrize("closed", ["its own channel", "another channel", "the connection"])
@pytest.mark.parametrize("use", ["fetch", "wait", "publish", "confirm"])
def test_deadline_holds_behind_a_close_that_waits_for_the_broker(frozen, make_queue, closed, use):
    (proxy, connection), queue = frozen, make_queue("classic")
    consumer = consumer_of(queue, connection, callbacks=[print])
    publisher = Publisher(
        connection, routing_key=queue.name, confirm_timeout=DEADLINE, backend=consumer.backend
    )
    other = consumer_of(queue, connection)
    assert consumer.fetch() is other.fetch() is None
    publisher.send("before")
    closing = {
        "its own channel": consumer.backend,
        "another channel": other,
        "the connection": connection,
    }[closed]
    method = CONNECTION_CLOSE if closing is connection else CHANNEL_CLOSE
    watch = Watch(proxy.link, noted=method)
    proxy.link.down.faults = replace(proxy.link.down.faults, freeze_at=0)

    def publish():
        with bounded_by(Deadline.after(DEADLINE)):
            publisher.send("x")

    def confirm():
        if closed == "its own channel":
            publish()  # it has to open another one, which confirm_timeout doesn't bound
        else:
            publisher.send("x")

    uses = {
        "fetch": lambda: consumer.fetch(timeout=DEADLINE),
        "wait": lambda: consumer.wait(limit=1, timeout=DEADLINE),
        "publish": publish,
        "confirm": confirm,
    }
    join = start(closing.close)
    assert watch.came.wait(TIMEOUT)
    try:
        take_no_longer(uses[use])
    finally:
        proxy.link.thaw()
        join()


BASIC_CANCEL_OK = (60, 31)


def method_of(frame):
    """Class and method of an AMQP frame; None: it has none."""
    return struct.unpack_from(">HH", frame, 7) if frame[0] == 1 else None


def test_deadline_of_wait_holds_when_the_end_of_its_subscription_is_not_answered(
    connect, driver, make_queue, rabbitmq
):
    """Found by the stress test: a wait of 0.02 seconds took 2.8, of operation_timeout."""
    queue, received = make_queue("classic"), []
    queue.send(range(5))

    with Proxy(rabbitmq.port) as proxy:
        unanswered = Faults(on_frame=lambda f: None if method_of(f) == BASIC_CANCEL_OK else f)
        proxy.plan(Plan(down=unanswered))
        connection = connect(proxy.url, operation_timeout=6, heartbeat=0)
        consumer = consumer_of(queue, connection, callbacks=[acking(received)])
        begun = time.monotonic()
        with suppress(CarrotError):
            consumer.wait(limit=3, timeout=0.5)
        took = time.monotonic() - begun
        proxy.plan(Plan())
        proxy.cut_all()

    # py-amqp knows no time-out but operation_timeout.
    assert took < (4 if driver == "amqp" else 6 + 2)


# -- one active consumer: what a stopped worker gives back


def wait_and_close(consumer, limit=None):
    with consumer:
        consumer.wait(limit=limit, timeout=TIMEOUT)


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_standby_goes_on_in_order_where_the_active_consumer_stopped(
    connect, make_queue, queue_type, limit
):
    queue = make_queue(queue_type, single_active_consumer=True)
    workers = [consumer_that_knows(queue, connect(), prefetch_count=10) for _ in range(2)]
    first, second = [], []
    stop_after(workers[0], 5, first)
    stop_after(workers[1], 35, second)
    join_first = start(lambda: wait_and_close(workers[0], limit))
    eventually(lambda: workers[0].channel_open, TIMEOUT)
    join_second = start(lambda: wait_and_close(workers[1]))
    eventually(lambda: workers[1].channel_open, TIMEOUT)

    queue.send(range(40))
    join_first()
    with suppress(OperationTimeout):
        join_second()

    assert first == list(range(5))
    assert second == list(range(5, 40))


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_consumer_that_stopped_goes_on_in_order_itself(connection, make_queue, queue_type):
    queue = make_queue(queue_type, single_active_consumer=True)
    queue.send(range(40))
    consumer, received = consumer_that_knows(queue, connection, prefetch_count=10), []

    for rounds in range(1, 9):
        consumer.callbacks = []
        stop_after(consumer, 5 * rounds, received)
        consumer.wait(timeout=TIMEOUT)

    assert received == list(range(40))


# -- quorum queues: a return is no failure


def give_back(queue, connection):
    """Let a worker have all five messages, and stop it before it looks at one."""
    with consumer_of(queue, connection, callbacks=[print]) as worker:
        worker.consume()
        eventually(lambda: queue.ready() == 0, TIMEOUT)
        worker.cancel()
        eventually(lambda: queue.ready() == 5, AT_ONCE)


def test_messages_given_back_unseen_are_never_lost_without_a_limit(connection, make_queue):
    """On 4.3 such a queue has a limit of 20, which basic.nack doesn't count for."""
    queue = make_queue()
    queue.send(range(5))

    for _ in range(25):
        give_back(queue, connection)

    assert sorted(queue.take_all()) == list(range(5))


def counting(rabbitmq):
    """Whether this broker counts a message that is given back as delivered in vain."""
    return int(rabbitmq.version.partition(".")[0]) < 4


#: Class and method of the protocol (RabbitMQ's extensions included).
BASIC_NACK, BASIC_REJECT = (60, 120), (60, 90)


def test_messages_given_back_unseen_go_back_by_nack(connect, make_queue, rabbitmq):
    """RabbitMQ 4.3 counts each basic.reject as a failed delivery, and basic.nack as none."""
    queue, methods = make_queue(), []

    def note(frame):
        methods.append(method_of(frame))
        return frame

    with Proxy(rabbitmq.port) as proxy:
        proxy.plan(Plan(up=Faults(on_frame=note)))
        with connect(proxy.url) as connection:
            queue.send(range(5))
            give_back(queue, connection)

    assert BASIC_NACK in methods
    assert BASIC_REJECT not in methods


def test_messages_given_back_unseen_are_not_counted_or_a_log_line_tells_that_they_are(
    connection, make_queue, rabbitmq, caplog
):
    queue = make_queue(delivery_limit=3)
    queue.send(range(5))

    with caplog.at_level(logging.INFO, logger="carrot"):
        for _ in range(3):
            give_back(queue, connection)
    told = [
        record.getMessage()
        for record in caplog.records
        if record.name.partition(".")[0] == "carrot" and queue.name in record.getMessage()
    ]
    counts = sorted(queue_counts(queue))

    if counting(rabbitmq):
        assert counts == [3] * 5
        assert any("5" in text and "deliver" in text for text in told)
    else:
        assert counts == [0] * 5


def queue_counts(queue):
    """How often the broker counts each message as delivered in vain."""
    with Consumer(queue.connection, queue.name, auto_declare=False) as consumer:
        fetched = list(iter(lambda: consumer.fetch(no_ack=True), None))
        return [message.headers.get("x-delivery-count", 0) for message in fetched]
