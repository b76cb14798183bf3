"""A complete backend: queues in an SQLite file, shared by the programs of one machine.

The virtual host is the file, which is created when it isn't there:

    BrokerConnection(virtual_host="/var/spool/feeds.db", backend_cls="spool_backend.Backend")

Messages outlive all programs, and what a program held when it died comes back. There is no
server, so whoever waits looks for messages every POLL seconds.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self
from uuid import uuid4

from carrot.backends.base import BaseBackend, BaseTransport, Capabilities, QueueDeclared
from carrot.checks import required_name, short_string, table
from carrot.exceptions import (
    ConnectionFailed,
    ConnectionLost,
    EncodeError,
    NotFound,
    NotSupported,
    OperationTimeout,
    PreconditionFailed,
)
from carrot.message import Message
from carrot.routing import check_exchange_type, matches
from carrot.settings import ConnectionSettings

POLL = 0.02

Arguments = Mapping[str, Any] | None

SCHEMA = """
    CREATE TABLE IF NOT EXISTS exchange (name TEXT PRIMARY KEY, type TEXT, durable INT);
    CREATE TABLE IF NOT EXISTS queue (name TEXT PRIMARY KEY, durable INT);
    CREATE TABLE IF NOT EXISTS binding (queue TEXT, exchange TEXT, key TEXT, arguments TEXT,
        UNIQUE (queue, exchange, key, arguments));
    CREATE TABLE IF NOT EXISTS consumer (tag TEXT, queue TEXT, owner TEXT);
    CREATE TABLE IF NOT EXISTS message (id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT,
        exchange TEXT, key TEXT, properties TEXT, body BLOB, redelivered INT DEFAULT 0, owner TEXT);
    CREATE INDEX IF NOT EXISTS ready ON message (queue, id) WHERE owner IS NULL;
    INSERT OR IGNORE INTO exchange VALUES ('', 'direct', 1);
"""
# One statement each, which SQLite does entirely or not at all. "takes" is carrot.routing's.
ROUTE = """
    INSERT INTO message (queue, exchange, key, properties, body)
    SELECT DISTINCT queue, :exchange, :key, :properties, :body
    FROM (SELECT * FROM binding UNION SELECT name, '', name, '{}' FROM queue)
    JOIN exchange ON name = exchange AND name = :exchange
    WHERE takes(type, key, arguments, :key, :properties) RETURNING queue
"""
FIRST = "(SELECT id FROM message WHERE queue = ? AND owner IS NULL ORDER BY id LIMIT 1)"
FIELDS = "RETURNING id, exchange, key, properties, body, redelivered"
PUT_BACK = "UPDATE message SET owner = NULL, redelivered = 1"
DELETE_READY = "DELETE FROM message WHERE queue = ? AND owner IS NULL RETURNING id"

# Arguments of queues and exchanges, with the capability that they ask for.
ASKS_FOR = {
    "x-max-priority": "priorities",
    "x-message-ttl": "expiration",
    "x-expires": "expiration",
    "x-dead-letter-exchange": "dead_letters",
    "x-max-length": "max_length",
    "x-max-length-bytes": "max_length",
    "alternate-exchange": "alternate_exchange",
}


class Channel:
    """What one backend holds; its name marks that in the file."""

    def __init__(self, transport: Transport, name: str) -> None:
        self.transport = transport
        self.name = name
        self.prefetch_count = 0
        self.consumers: dict[str, tuple[str, bool]] = {}  # tag: (queue, no_ack)
        self.unsettled: dict[int, str | None] = {}  # delivery tag: the consumer's

    def has_room(self, consumer_tag: str) -> bool:
        held = list(self.unsettled.values()).count(consumer_tag)
        return not self.prefetch_count or held < self.prefetch_count


class Transport(BaseTransport):
    """A connection to the file. Its name begins with our process id: others see if we live."""

    def __init__(self, file: str, timeout: float | None) -> None:
        super().__init__()
        self.file = file
        self.name = f"{os.getpid()}-{uuid4()}"
        self._numbers = itertools.count(1)
        self._db: sqlite3.Connection | None = sqlite3.connect(
            file, timeout=timeout or 3600, isolation_level=None, check_same_thread=False
        )
        self._db.create_function("takes", 5, _takes)

    @classmethod
    def open(cls, settings: ConnectionSettings) -> Self:
        try:
            transport = cls(settings.virtual_host, settings.connect_timeout)
            transport._db.executescript(SCHEMA)
        except sqlite3.Error as exc:
            raise ConnectionFailed(f"can't use {settings.virtual_host!r} as spool: {exc}") from exc
        for (owner,) in transport.run("SELECT owner FROM message UNION SELECT owner FROM consumer"):
            if owner and not _is_alive(int(owner.partition("-")[0])):
                transport.release(owner)
        return transport

    def run(self, statement: str, *values: Any, **named: Any) -> list[Any]:
        """The rows that *statement* returns."""
        if self._db is None:
            raise ConnectionLost(f"the spool {self.file!r} was closed here")
        try:
            return self._db.execute(statement, named or values).fetchall()
        except sqlite3.Error as exc:
            raise ConnectionLost(f"the spool {self.file!r} fails: {exc}") from exc

    def release(self, owner: str) -> None:
        """Put back what channels of that name hold; it may end in ``*``."""
        self.run(f"{PUT_BACK} WHERE owner GLOB ?", owner)
        self.run("DELETE FROM consumer WHERE owner GLOB ?", owner)

    @property
    def is_open(self) -> bool:
        return self._db is not None

    def channel(self) -> Channel:
        return Channel(self, f"{self.name}-{next(self._numbers)}")

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.run("SELECT 1")  # raises when the connection is closed
            for backend in list(self.backends):
                backend.deliver_ready()
            if ready():
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise OperationTimeout(f"nothing came from {self.file!r} within {timeout} seconds")
            time.sleep(POLL)

    def interrupt(self) -> None:
        """Nothing to do: :meth:`wait_for` asks every POLL seconds."""

    def disown(self) -> None:
        self._db = None  # SQLite's connections don't survive a fork

    def close(self, timeout: float | None = None) -> None:
        with suppress(ConnectionLost):
            self.release(f"{self.name}-*")
        db, self._db = self._db, None
        if db is not None:
            db.close()


class Backend(BaseBackend):
    """All exchange types, and queues that stay until they are deleted."""

    transport_cls = Transport
    capabilities = Capabilities(
        priorities=False,
        expiration=False,
        dead_letters=False,
        max_length=False,
        exchange_bindings=False,
        alternate_exchange=False,
    )

    def _run(self, statement: str, *values: Any, **named: Any) -> list[Any]:
        return self.channel.transport.run(statement, *values, **named)

    def _open_channel(self, transport: Transport) -> Channel:
        return transport.channel()

    def _close_channel(self, channel: Channel) -> None:
        with suppress(ConnectionLost):
            channel.transport.release(channel.name)

    # -- topology

    def exchange_declare(
        self, exchange: str, type: str, durable: bool, auto_delete: bool,
        arguments: Arguments = None,
    ) -> None:  # fmt: skip
        if type not in ("direct", "fanout", "topic", "headers"):
            raise NotSupported(f"the spool has no exchanges of type {check_exchange_type(type)!r}")
        _refuse(arguments, auto_delete=auto_delete)
        name = required_name("exchange", exchange)
        self._run("INSERT OR IGNORE INTO exchange VALUES (?, ?, ?)", name, type, durable)
        [found] = self._run("SELECT type, durable FROM exchange WHERE name = ?", name)
        if found != (type, durable):
            raise PreconditionFailed(
                f"exchange {name!r} exists as {found[0]!r} with durable={bool(found[1])}, and is "
                f"declared here as {type!r} with durable={durable}"
            )

    def exchange_delete(self, exchange: str, if_unused: bool = False) -> None:
        name = required_name("exchange", exchange)
        if if_unused and self._run("SELECT 1 FROM binding WHERE exchange = ?", name):
            raise PreconditionFailed(f"exchange {name!r} has bindings")
        self._run("DELETE FROM binding WHERE exchange = ?", name)
        self._run("DELETE FROM exchange WHERE name = ?", name)

    def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        self.require("exchange_bindings", f"bind a queue to {source!r} instead of {destination!r}")

    exchange_unbind = exchange_bind

    def queue_declare(
        self, queue: str, durable: bool, exclusive: bool, auto_delete: bool,
        warn_if_exists: bool = False, arguments: Arguments = None,
    ) -> QueueDeclared:  # fmt: skip
        _refuse(arguments, exclusive=exclusive, auto_delete=auto_delete)
        name = short_string("queue", queue) or f"spool-{uuid4()}"
        if warn_if_exists and queue:
            self._warn_existing(name)
        self._run("INSERT OR IGNORE INTO queue VALUES (?, ?)", name, durable)
        [found] = self._run("SELECT durable FROM queue WHERE name = ?", name)
        if found != (durable,):
            raise PreconditionFailed(f"queue {name!r} exists with durable={not durable}")
        return QueueDeclared(name, self._count_ready(name), self._count_consumers(name))

    def _count_ready(self, queue: str) -> int:
        ready = "SELECT count(*) FROM message WHERE queue = ? AND owner IS NULL"
        return int(self._run(ready, queue)[0][0])

    def _count_consumers(self, queue: str) -> int:
        return int(self._run("SELECT count(*) FROM consumer WHERE queue = ?", queue)[0][0])

    def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        self._check_exists("queue", queue)
        self._check_exists("exchange", required_name("exchange", exchange))
        binding = queue, exchange, short_string("routing key", routing_key), _json(arguments)
        self._run("INSERT OR IGNORE INTO binding VALUES (?, ?, ?, ?)", *binding)

    def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = None
    ) -> None:
        bound = "queue = ? AND exchange = ? AND key = ? AND arguments = ?"
        binding = queue, exchange, routing_key, _json(arguments)
        self._run(f"DELETE FROM binding WHERE {bound}", *binding)

    def queue_exists(self, queue: str) -> bool:
        return bool(self._run("SELECT 1 FROM queue WHERE name = ?", queue))

    def queue_purge(self, queue: str) -> int:
        self._check_exists("queue", queue)
        return len(self._run(DELETE_READY, queue))

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        if if_unused and self._count_consumers(queue):
            raise PreconditionFailed(f"queue {queue!r} has consumers")
        if if_empty and self._count_ready(queue):
            raise PreconditionFailed(f"queue {queue!r} is not empty")
        self._run("DELETE FROM queue WHERE name = ?", queue)
        self._run("DELETE FROM binding WHERE queue = ?", queue)
        return len(self._run(DELETE_READY, queue))

    def _check_exists(self, kind: str, name: str) -> None:
        if not self._run(f"SELECT 1 FROM {kind} WHERE name = ?", short_string(kind, name)):
            raise NotFound(f"no {kind} {name!r} in the spool: declare it first")

    # -- publishing

    def publish(
        self, message: Message, exchange: str, routing_key: str, mandatory: bool = False
    ) -> int | None:
        message_and_way = {"exchange": exchange, "key": routing_key, "body": message.body}
        queues = self._run(ROUTE, **message_and_way, properties=_json(message.properties))
        if not queues:
            self._check_exists("exchange", exchange)
        if mandatory and not queues and self.confirms is not None:
            return self.confirms.refused(message, exchange, routing_key, "NO_ROUTE")
        return None  # the file has it by now, so there is no confirm to wait for

    def _confirm_select(self, channel: Channel) -> None:
        """Nothing to do: SQLite's commit is the confirm."""

    # -- receiving

    def get(self, queue: str, no_ack: bool = False, timeout: float | None = None) -> Message | None:
        message = self._take(self.channel, queue, no_ack, consumer_tag=None)
        if message is None:
            self._check_exists("queue", queue)
        return message

    def _take(
        self, channel: Channel, queue: str, no_ack: bool, consumer_tag: str | None
    ) -> Message | None:
        if no_ack:
            rows = self._run(f"DELETE FROM message WHERE id = {FIRST} {FIELDS}", queue)
        else:
            take = f"UPDATE message SET owner = ? WHERE id = {FIRST} {FIELDS}"
            rows = self._run(take, channel.name, queue)
        for number, exchange, key, properties, body, redelivered in rows:
            if not no_ack:
                channel.unsettled[number] = consumer_tag
            info = {"exchange": exchange, "routing_key": key, "redelivered": bool(redelivered)}
            return self.Message(
                self, body, number, properties=json.loads(properties), no_ack=no_ack,
                delivery_info={**info, "consumer_tag": consumer_tag},
            )  # fmt: skip
        return None

    def _subscribe(self, channel: Channel, queue: str, consumer_tag: str, no_ack: bool) -> None:
        self._check_exists("queue", queue)
        self._run("INSERT INTO consumer VALUES (?, ?, ?)", consumer_tag, queue, channel.name)
        channel.consumers[consumer_tag] = (queue, no_ack)

    def _unsubscribe(self, channel: Channel, consumer_tag: str) -> None:
        del channel.consumers[consumer_tag]
        self._run("DELETE FROM consumer WHERE tag = ?", consumer_tag)

    def deliver_ready(self) -> None:
        """Put what is ready for our consumers into the inbox, as far as their limit allows."""
        for tag, (queue, no_ack) in list(self._channel.consumers.items()):
            while self._channel.has_room(tag):
                message = self._take(self._channel, queue, no_ack, tag)
                if message is None:
                    break
                self.deliver(tag, message)
            if not self.queue_exists(queue):
                self._unsubscribe(self._channel, tag)
                self.cancelled_by_broker(tag)

    def _qos(self, channel: Channel, prefetch_count: int, apply_global: bool) -> None:
        if apply_global:
            raise NotSupported("the spool counts prefetched messages by consumer, not globally")
        channel.prefetch_count = prefetch_count

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self._settle("DELETE FROM message", delivery_tag, multiple)

    def reject(self, delivery_tag: int) -> None:
        self._settle("DELETE FROM message", delivery_tag)

    def requeue(self, delivery_tag: int) -> None:
        self._settle(PUT_BACK, delivery_tag)

    def _settle(self, how: str, delivery_tag: int, multiple: bool = False) -> None:
        channel = self.delivering_channel
        tags = list(channel.unsettled)  # in the order of their delivery
        if delivery_tag not in tags:
            raise PreconditionFailed(f"unknown delivery tag {delivery_tag}")
        for tag in tags[: tags.index(delivery_tag) + 1] if multiple else [delivery_tag]:
            self._run(f"{how} WHERE id = ? AND owner = ?", tag, channel.name)
            del channel.unsettled[tag]


def _takes(type: str, binding_key: str, arguments: str, key: str, properties: str) -> bool:
    headers = json.loads(properties).get("headers")
    return matches(type, binding_key, json.loads(arguments), key, headers)


def _json(values: Arguments) -> str:
    try:
        return json.dumps(table("arguments", values or {}), sort_keys=True)
    except TypeError as exc:
        raise EncodeError(f"the spool keeps arguments and headers as JSON: {exc}") from exc


def _refuse(arguments: Arguments, **flags: bool) -> None:
    """Say no to what this backend doesn't do, instead of doing without it."""
    for name in arguments or ():
        if name in ASKS_FOR:
            Backend.require(ASKS_FOR[name], f"declare without {name}")
        raise NotSupported(f"the spool does not know the argument {name!r}")
    for name, is_set in flags.items():
        if is_set:
            raise NotSupported(f"what the spool has stays until it is deleted: no {name}")


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
