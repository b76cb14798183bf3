"""What all tests share: brokers that start when a test first needs one, and unique names."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from uuid import uuid4

import pytest

from tests.brokers import ActiveMQ, RabbitMQ, ZeroMQ
from tests.brokers.rabbitmq import version_at
from tests.brokers.tls import TlsBroker, running_tls_broker
from tests.locks import LockOrder

# Nothing above imports carrot, some of whose locks are made when it is imported.
LOCK_ORDER = LockOrder()
if os.environ.get("CARROT_TEST_LOCKS") != "off":
    LOCK_ORDER.install()

GIVEN_URL = os.environ.get("CARROT_TEST_AMQP_URL")
IN_CI = os.environ.get("CI", "").lower() in ("true", "1", "yes")

# What the summary at the end tells: the brokers that were used, and how many tests passed on each
# backend of the conformance suite.
_brokers: list[str] = []
_passed: Counter[str] = Counter()
# What a driver can't do, by the words of its skipped tests, and how many they were.
_lacking: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if " has no " in reason and ":" not in reason:
            _lacking[reason] += 1
    if report.when == "call" and report.passed:
        for name, value in report.user_properties:
            if name == "backend":
                _passed[str(value)] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if LOCK_ORDER.report() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(LOCK_ORDER.summary())
    if report := LOCK_ORDER.report():
        terminalreporter.section("locks taken both ways round", red=True)
        terminalreporter.write_line(report)
    for line in _brokers:
        terminalreporter.write_line(line)
    if _passed:
        counts = ", ".join(f"{number} on {name}" for name, number in sorted(_passed.items()))
        terminalreporter.write_line(f"the tests that every backend must pass: {counts}")
    for reason, number in sorted(_lacking.items()):
        terminalreporter.write_line(f"{reason}: {number} tests skipped")


class Watching(logging.Handler):
    """Keeps the texts of the records, and the locks that the thread held which wrote one."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.held: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        held = LOCK_ORDER.held.get(threading.get_ident(), [])
        # A turn may be held while waiting for the broker, and so for a handler; one is a mark only.
        self.held |= {site for site in held if not re.search("turn|opening|telling|leaving", site)}


@pytest.fixture
def watching() -> Iterator[Watching]:
    """What is logged, of every level, and under which locks."""
    logger, handler = logging.getLogger("carrot"), Watching()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


def unavailable(reason: str) -> None:
    """Skip the test on a laptop; fail it in CI, where every broker must be there."""
    if IN_CI:
        pytest.fail(f"{reason} (and CI is set, so this is a failure)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def _private_rabbitmq() -> Iterator[RabbitMQ]:
    """The node of this run, from the first test that needs it to the end."""
    with RabbitMQ() as broker:
        _brokers.append(f"RabbitMQ {broker.version}, a private node on port {broker.port}")
        yield broker


@pytest.fixture
def rabbitmq(request: pytest.FixtureRequest) -> RabbitMQ:
    """A private node, which the test may control. It must leave it running."""
    if reason := RabbitMQ.missing():
        _brokers[:] = [f"no RabbitMQ: {reason}"]
        unavailable(reason)
    broker = request.getfixturevalue("_private_rabbitmq")
    if not broker.is_running:
        broker.start()
    return broker


@pytest.fixture(scope="session")
def _given_broker() -> str | None:
    """The version of the broker in CARROT_TEST_AMQP_URL; None when it doesn't answer."""
    assert GIVEN_URL
    version = version_at(GIVEN_URL)
    _brokers.append(f"RabbitMQ {version or 'does not answer'}, as CARROT_TEST_AMQP_URL names it")
    return version


@pytest.fixture
def amqp_url(request: pytest.FixtureRequest) -> str:
    """The URL of a RabbitMQ: the one that CARROT_TEST_AMQP_URL names, or a private node."""
    if not GIVEN_URL:
        return request.getfixturevalue("rabbitmq").url
    if request.getfixturevalue("_given_broker") is None:
        unavailable("the broker that CARROT_TEST_AMQP_URL names does not answer")
    return GIVEN_URL


@pytest.fixture(scope="session")
def _private_activemq() -> Iterator[ActiveMQ]:
    """The broker of this run, from the first test that needs it to the end."""
    with ActiveMQ() as broker:
        _brokers.append(f"ActiveMQ {broker.version}, a private broker on port {broker.port}")
        yield broker


@pytest.fixture
def activemq(request: pytest.FixtureRequest) -> ActiveMQ:
    """A private ActiveMQ, which the test may control. It must leave it running."""
    if reason := ActiveMQ.missing():
        if (line := f"no ActiveMQ: {reason}") not in _brokers:
            _brokers.append(line)
        unavailable(reason)
    broker: ActiveMQ = request.getfixturevalue("_private_activemq")
    if not broker.is_running:
        broker.start()
    return broker


@pytest.fixture
def stomp_url(activemq: ActiveMQ) -> str:
    """The URL of a private ActiveMQ."""
    return activemq.url


@pytest.fixture(scope="session")
def tls_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    """A private node with a TLS listener for ``localhost``."""
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with running_tls_broker(tmp_path_factory.mktemp("tls")) as broker:
        yield broker


@pytest.fixture(scope="session")
def zeromq() -> Iterator[ZeroMQ]:
    """A ZeroMQ broker in a process of its own. Each test has a virtual host of it."""
    if reason := ZeroMQ.missing():
        unavailable(reason)
    with ZeroMQ() as broker:
        _brokers.append(f"{broker.version}, a private broker on port {broker.port}")
        yield broker


_numbers = count(1)
_run = uuid4().hex[:6]


@pytest.fixture
def unique() -> Callable[..., str]:
    """Makes names that no other test and no other run has: ``unique("feed")``."""

    def make(stem: str = "test") -> str:
        return f"{stem}-{_run}-{next(_numbers)}"

    return make
