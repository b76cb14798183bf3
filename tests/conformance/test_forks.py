"""A forked child uses connections of its own, and leaves its parent's alone."""

import os
import traceback

import pytest

from carrot.messaging import Consumer, Publisher

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def in_child(function):
    """Run *function* in a forked child; returns its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_sends_and_closes_what_it_inherited_and_the_parent_goes_on(
    feed, connection, backend_name
):
    feed.publisher.send("before")

    def child():
        # A child of the memory driver has a copy of the virtual host, with what it sends.
        feed.publisher.send("from the child")
        with Consumer(connection, feed.queue) as consumer:
            assert consumer.fetch(no_ack=True).payload == "before"
        feed.consumer.close()
        feed.publisher.close()
        connection.close()

    assert in_child(child) == 0

    assert connection.is_open
    feed.publisher.send("after")
    left = ["before", "after"] if backend_name == "memory" else ["from the child", "after"]
    assert feed.payloads() == left


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_that_only_ends_disturbs_nobody(feed):
    assert in_child(lambda: None) == 0

    feed.publisher.send("x")

    assert feed.payloads() == ["x"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_a_connection_that_was_never_used_works(connect, unique):
    connection = connect()
    queue = unique()
    with Consumer(connect(), queue) as consumer:
        assert in_child(lambda: Publisher(connection, routing_key=queue).send("x")) == 0
        if connection.backend_cls != "memory":
            assert consumer.fetch(no_ack=True).payload == "x"
