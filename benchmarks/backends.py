"""carrot's own drivers, by name: what serves each of them, and at which URL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from tempfile import TemporaryDirectory

from tests.brokers import ActiveMQ

#: Where the workers find the ActiveMQ of the run: it takes ten seconds to start.
ACTIVEMQ = "CARROT_BENCHMARK_ACTIVEMQ"

#: Takes the amqp URL of the run's RabbitMQ; the block has the URL of the driver's broker.
Serve = Callable[[str], AbstractContextManager[str]]


@contextmanager
def _memory(amqp_url: str) -> Iterator[str]:
    yield "memory://"


@contextmanager
def _amqp(amqp_url: str) -> Iterator[str]:
    yield amqp_url


@contextmanager
def _pyamqplib(amqp_url: str) -> Iterator[str]:
    yield amqp_url.replace("amqp://", "pyamqplib://", 1)


@contextmanager
def activemq() -> Iterator[None]:
    """An ActiveMQ for the workers that are started in this block, if there can be one."""
    if ActiveMQ.missing():
        yield
        return
    with ActiveMQ() as broker:
        os.environ[ACTIVEMQ] = broker.url
        yield


def activemq_url() -> str:
    """Where it is.

    :raises ModuleNotFoundError: there is none.
    """
    url = os.environ.get(ACTIVEMQ)
    if url is None:
        raise ModuleNotFoundError("no ActiveMQ", name="activemq")
    return url


@contextmanager
def _stomp(amqp_url: str) -> Iterator[str]:
    yield activemq_url()


@contextmanager
def _zeromq(amqp_url: str, *options: str) -> Iterator[str]:
    """A broker of its own, in another process, as people run it."""
    command = [sys.executable, "-m", "carrot.server", "--bind", "tcp://127.0.0.1:*"]
    command += options
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as broker:
        try:
            assert broker.stdout is not None
            yield broker.stdout.readline().split()[1]
        finally:
            broker.terminate()


@contextmanager
def _zeromq_store(amqp_url: str) -> Iterator[str]:
    """One that keeps what is persistent, and confirms when that is on the disk."""
    with TemporaryDirectory() as folder, _zeromq(amqp_url, "--store", f"{folder}/store") as url:
        yield url


#: In the order of the tables. A driver joins by a line; its broker is started for each job, or is
#: the one that serves the run.
BACKENDS: dict[str, Serve] = {
    "memory": _memory,
    "amqp": _amqp,
    "pyamqplib": _pyamqplib,
    "stomp": _stomp,
    "zeromq": _zeromq,
    "zeromq-store": _zeromq_store,
}
