"""The log records of carrot: a table of all kinds, and a function that writes each.

They go to the logger ``carrot`` of the standard library's :mod:`logging`. No record has a password
or the body of a message, and each is one line. The functions check the level first, so they cost
little while nobody listens. A handler may block: call them where no lock is held.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from carrot.exceptions import SerializationError

if TYPE_CHECKING:
    from logging import Logger

NAME = "carrot"

# As in logging, which is not imported here: it takes an eighth of the time of importing carrot.
DEBUG, INFO, WARNING = 10, 20, 30

LONGEST = 1000  # characters of an error's text, which may come from the broker


class Record(NamedTuple):
    """What one kind of record looks like.

    :ivar name: the function here that writes it.
    :ivar level: as logging counts.
    :ivar text: a ``%``-style template with names.
    :ivar fields: the attributes of the log record, for handlers and formatters (``extra=``).
    """

    name: str
    level: int
    text: str
    fields: tuple[str, ...] = ()


class Where(NamedTuple):
    """A broker, as records name it.

    :ivar host: with the port, and without user and password; several are separated by commas.
    :ivar vhost: the virtual host.
    """

    host: str
    vhost: str


_BROKER = ("host", "vhost")
_CONSUMER = ("queue", "consumer_tag")

RECORDS = (
    Record("connected", INFO, "connected to %(host)s, virtual host %(vhost)r", _BROKER),
    Record(
        "connection_lost",
        WARNING,
        "lost the connection to %(host)s, virtual host %(vhost)r: %(why)s",
        _BROKER,
    ),
    Record(
        "reconnecting",
        INFO,
        "trying to go on at %(host)s, virtual host %(vhost)r, in %(wait).2f seconds, attempt "
        "%(attempt)d, because of: %(why)s",
        (*_BROKER, "attempt"),
    ),
    Record(
        "recovered",
        INFO,
        "recovered %(seconds).2f seconds after the loss: %(host)s, virtual host %(vhost)r",
        _BROKER,
    ),
    Record(
        "blocked",
        WARNING,
        "%(host)s, virtual host %(vhost)r, accepts no messages for now: %(why)s",
        _BROKER,
    ),
    Record("unblocked", INFO, "%(host)s, virtual host %(vhost)r, accepts messages again", _BROKER),
    Record(
        "consumer_cancelled",
        WARNING,
        "the broker cancelled consumer %(consumer_tag)r of queue %(queue)r: %(why)s",
        _CONSUMER,
    ),
    Record(
        "channel_closed",
        WARNING,
        "%(host)s, virtual host %(vhost)r, closed a channel: %(code)d %(why)s",
        _BROKER,
    ),
    Record(
        "message_refused",
        WARNING,
        "a message to exchange %(exchange)r was refused: %(why)s",
        ("exchange",),
    ),
    Record(
        "undecodable",
        WARNING,
        "message %(delivery_tag)s of queue %(queue)r can't be decoded: %(why)s",
        (*_CONSUMER, "delivery_tag"),
    ),
    Record(
        "no_ack_lost",
        WARNING,
        "lost %(count)d messages of queue %(queue)r: received with no_ack, and not processed "
        "before the channel ended",
        _CONSUMER,
    ),
    Record(
        "given_back_as_failed",
        WARNING,
        "gave %(count)d unprocessed messages back to queue %(queue)r, which counts each as a "
        "failed delivery if it is a quorum queue",
        _CONSUMER,
    ),
    Record(
        "slow_callback",
        WARNING,
        "a callback for queue %(queue)r took %(seconds).1f seconds, longer than a heartbeat of "
        "%(heartbeat)g seconds",
        _CONSUMER,
    ),
    Record("method_sent", DEBUG, "sent %(method)s on channel %(channel)s"),
    Record("method_received", DEBUG, "received %(method)s on channel %(channel)s"),
)
_BY_NAME = {record.name: record for record in RECORDS}

_logger: Logger | None = None


def _listener(level: int) -> Logger | None:
    """The logger, if it is to write records of that level."""
    global _logger
    if _logger is None:
        # A program that has not imported logging has no handler either.
        if "logging" not in sys.modules:
            return None
        import logging  # only now: see above

        logger = logging.getLogger(NAME)
        logger.addHandler(logging.NullHandler())
        _logger = logger
    return _logger if _logger.isEnabledFor(level) else None


# A program that imports logging first finds the handler at once.
_listener(WARNING)


def _log(name: str, *, why: object = "", **values: object) -> None:
    """Write the record of that name.

    :param why: an error, or words of the broker.
    """
    record = _BY_NAME[name]
    if (logger := _listener(record.level)) is not None:
        extra = {field: values[field] for field in record.fields}
        values["why"] = _line(why)
        # The record names the place in the library that reports it, two calls up.
        logger.log(record.level, record.text, values, extra=extra, stacklevel=3)


def _line(why: object) -> str:
    """An error, or words of the broker, as one line that holds no password and no body."""
    if isinstance(why, SerializationError):
        # Its text may quote the data.
        cause = why.__cause__
        return type(why).__name__ + (f" ({type(cause).__name__})" if cause else "")
    text = str(why)
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition(" ")[0] + " …"  # whole words: one may be a URL
    text = "".join(char if char.isprintable() else " " for char in text)
    return re.sub(r"(//[^\s/:@]*):\S*@", r"\1:***@", " ".join(text.split()))


def is_heard() -> bool:
    """Whether warnings are written. A loop asks once, not for each message."""
    return _listener(WARNING) is not None


def is_debugging() -> bool:
    """Whether protocol methods are logged. A driver asks once for many messages, not for each."""
    return _listener(DEBUG) is not None


# -- the connection


def connected(where: Where) -> None:
    """A connection was opened, the first one or another."""
    _log("connected", host=where.host, vhost=where.vhost)


def connection_lost(where: Where, why: object) -> None:
    """An open connection is gone; once for each connection, whoever uses it.

    :param why: the error, or its text.
    """
    _log("connection_lost", host=where.host, vhost=where.vhost, why=why)


def reconnecting(where: Where, attempt: int, wait: float, why: object) -> None:
    """An attempt to go on is due.

    :param attempt: its number, from 1.
    :param wait: seconds until it is made.
    :param why: the loss, or what the attempt before ended with.
    """
    _log(
        "reconnecting",
        host=where.host,
        vhost=where.vhost,
        attempt=attempt,
        wait=wait,
        why=why,
    )


def recovered(where: Where, seconds: float) -> None:
    """A publisher or consumer goes on.

    :param seconds: since the loss was noticed.
    """
    _log("recovered", host=where.host, vhost=where.vhost, seconds=seconds)


def blocked(where: Where, reason: str) -> None:
    """The broker takes no messages, because of an alarm."""
    _log("blocked", host=where.host, vhost=where.vhost, why=reason)


def unblocked(where: Where) -> None:
    """The alarm is over."""
    _log("unblocked", host=where.host, vhost=where.vhost)


# -- the channel


def channel_closed(where: Where, code: int, text: str) -> None:
    """The broker closed a channel, with its reply code and text."""
    _log("channel_closed", host=where.host, vhost=where.vhost, code=code, why=text)


def consumer_cancelled(queue: str, consumer_tag: str, why: object) -> None:
    """The broker ended a subscription."""
    _log("consumer_cancelled", queue=queue, consumer_tag=consumer_tag, why=why)


# -- messages


def message_refused(exchange: str, error: object) -> None:
    """The broker returned or refused a published message."""
    _log("message_refused", exchange=exchange, why=error)


def undecodable(
    queue: str, consumer_tag: str, delivery_tag: object, error: SerializationError
) -> None:
    """A received message can't be decoded; the record names the class of *error* and its cause."""
    _log(
        "undecodable",
        queue=queue,
        consumer_tag=consumer_tag,
        delivery_tag=delivery_tag,
        why=error,
    )


def no_ack_lost(queue: str, consumer_tag: str, count: int) -> None:
    """So many received messages are gone: their channel ended, and the broker forgot them."""
    _log("no_ack_lost", queue=queue, consumer_tag=consumer_tag, count=count)


def given_back_as_failed(queue: str, consumer_tag: str, count: int) -> None:
    """So many messages went back unprocessed in a way that a quorum queue counts as failures."""
    _log("given_back_as_failed", queue=queue, consumer_tag=consumer_tag, count=count)


def slow_callback(queue: str, consumer_tag: str, seconds: float, heartbeat: float) -> None:
    """A callback held its thread for longer than the interval of the heartbeat, in seconds."""
    _log(
        "slow_callback",
        queue=queue,
        consumer_tag=consumer_tag,
        seconds=seconds,
        heartbeat=heartbeat,
    )


# -- the protocol


def method_sent(method: str, channel: object) -> None:
    """A method such as ``Queue.Declare`` goes to the broker; its arguments are not logged.

    Those that go with each message (publish, get, ack …) are not logged at all.
    """
    if is_debugging():
        _log("method_sent", method=method, channel=channel)


def method_received(method: str, channel: object) -> None:
    """A method came from the broker, and no message; its arguments are not logged."""
    if is_debugging():
        _log("method_received", method=method, channel=channel)
