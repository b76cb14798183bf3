"""Queues: declaring, sharing, deleting."""

import warnings

import pytest

from carrot.backends.base import QueueAlreadyExistsWarning
from carrot.exceptions import ConfigurationError, NotFound, PreconditionFailed, ResourceLocked
from carrot.messaging import Consumer, Publisher
from tests.waiting import eventually


@pytest.fixture
def backend(connection):
    backend = connection.create_backend()
    yield backend
    backend.close()


def test_declaring_again_in_the_same_way_is_fine(feed):
    feed.publisher.send("x")

    feed.consumer.declare()
    feed.consumer.declare()

    assert feed.payloads() == ["x"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"durable": False}, "exists with durable=True, declared here with durable=False"),
        pytest.param(
            {"auto_delete": True},
            "auto_delete=False, declared here with auto_delete=True",
            marks=pytest.mark.needs("auto_delete"),
        ),
        pytest.param(
            {"queue_arguments": {"x-max-length": 5}},
            "x-max-length=nothing.* x-max-length=5",
            marks=pytest.mark.needs("max_length"),
        ),
    ],
)
def test_redeclaring_differently_says_what_differs(feed, connection, option, words):
    with pytest.raises(PreconditionFailed, match=f"queue '{feed.queue}' .*{words}: delete it"):
        Consumer(connection, feed.queue, **option)

    feed.publisher.send("the connection lives")
    assert feed.payloads() == ["the connection lives"]


@pytest.mark.needs("inspection")
def test_declaration_says_how_many_messages_and_consumers_there_are(feed, backend):
    feed.publisher.send_many([1, 2, 3])

    declared = backend.queue_declare(feed.queue, True, False, False)

    assert declared == (feed.queue, 3, 0)


@pytest.mark.needs("inspection")
def test_broker_makes_up_a_name(backend):
    declared = backend.queue_declare("", False, True, True)

    assert declared.queue.startswith("amq.gen-")
    assert backend.queue_exists(declared.queue)


@pytest.mark.needs("inspection")
def test_queue_exists_leaves_the_channel_alone(feed, backend, unique):
    feed.publisher.send("x")
    message = feed.consumer.fetch()

    assert feed.consumer.backend.queue_exists(feed.queue)
    assert not feed.consumer.backend.queue_exists(unique("missing"))

    message.ack()


@pytest.mark.needs("inspection")
def test_warn_if_exists_warns_only_then(connection, unique):
    queue = unique()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Consumer(connection, queue, warn_if_exists=True)

    with pytest.warns(QueueAlreadyExistsWarning, match=queue) as caught:
        Consumer(connection, queue, warn_if_exists=True)

    assert len(caught) == 1


@pytest.mark.needs("exclusive")
def test_exclusive_implies_auto_delete_of_the_queue_but_not_of_the_exchange(connection, unique):
    exchange = unique()
    consumer = Consumer(connection, unique(), exchange, exclusive=True)

    assert consumer.auto_delete
    Publisher(connection, exchange).send("same exchange, no quarrel")
    assert not Consumer(connection, unique()).auto_delete


@pytest.mark.needs("inspection", "deletion")
def test_exclusive_queue_is_locked_for_other_connections(connection, connect, unique):
    queue = unique()
    Consumer(connection, queue, exclusive=True)
    other = connect()

    for use in (
        lambda: Consumer(other, queue, exclusive=True),
        lambda: Consumer(other, queue, auto_declare=False).fetch(),
        lambda: other.create_backend().queue_delete(queue),
    ):
        with pytest.raises(
            ResourceLocked, match=f"queue '{queue}' in virtual host .* is exclusive"
        ):
            use()
    assert other.create_backend().queue_exists(queue)
    assert Consumer(connection, queue, exclusive=True).fetch() is None


@pytest.mark.needs("inspection")
def test_exclusive_queue_goes_with_its_connection(connect, unique):
    queue = unique()
    owner, other = connect(), connect().create_backend()
    Consumer(owner, queue, exclusive=True)

    owner.close()

    eventually(lambda: not other.queue_exists(queue))


@pytest.mark.needs("auto_delete")
def test_auto_delete_queue_goes_with_its_last_consumer(connection, backend, unique):
    queue = unique()
    first = Consumer(connection, queue, auto_delete=True, callbacks=[print])
    second = Consumer(connection, queue, auto_delete=True, callbacks=[print])
    first.consume()
    second.consume()

    first.close()
    assert backend.queue_exists(queue)
    second.close()

    eventually(lambda: not backend.queue_exists(queue))


def test_purging_leaves_unsettled_messages_alone(feed, backend):
    feed.publisher.send_many([1, 2, 3])
    message = feed.consumer.fetch()

    assert backend.queue_purge(feed.queue) == 2

    message.requeue()
    assert feed.payloads() == [1]


@pytest.mark.needs("deletion")
def test_deleting_says_how_many_messages_went_with_it(feed, backend):
    feed.publisher.send_many([1, 2])

    assert backend.queue_delete(feed.queue) == 2

    assert not backend.queue_exists(feed.queue)
    assert backend.queue_delete(feed.queue) == 0


@pytest.mark.needs("deletion")
def test_deleting_only_when_empty_or_unused(feed, backend):
    feed.publisher.send("x")

    with pytest.raises(PreconditionFailed, match=r"not empty|is not empty|empty"):
        backend.queue_delete(feed.queue, if_empty=True)
    feed.consumer.register_callback(print)
    feed.consumer.consume()
    with pytest.raises(PreconditionFailed, match="in use"):
        backend.queue_delete(feed.queue, if_unused=True)

    assert backend.queue_exists(feed.queue)


def test_purging_what_is_not_there_is_not_found(backend, unique):
    with pytest.raises(NotFound, match="no queue"):
        backend.queue_purge(unique("missing"))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(arguments, marks=pytest.mark.needs(feature))
        for arguments, feature in (
            ({"x-message-ttl": -1}, "arguments"),
            ({"x-expires": 0}, "arguments"),
            ({"x-max-length": -1}, "max_length"),
            ({"x-max-priority": 300}, "arguments"),
            ({"x-overflow": "explode"}, "max_length"),
            ({"x-message-ttl": "soon"}, "arguments"),
            ({"x-dead-letter-routing-key": "without an exchange"}, "dead_letters"),
        )
    ],
)
def test_arguments_that_make_no_sense_are_refused(connection, unique, arguments):
    with pytest.raises(PreconditionFailed):
        Consumer(connection, unique(), queue_arguments=arguments)

    assert Consumer(connection, unique()).fetch() is None


@pytest.mark.parametrize("name", ["feed\n", "fe\red"])
def test_line_break_in_a_name_is_told(connection, name):
    for declare in (
        lambda: Consumer(connection, name),
        lambda: Publisher(connection, name),
    ):
        with pytest.raises(ConfigurationError, match="line break"):
            declare()
