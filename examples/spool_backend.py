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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self
from uuid import uuid4
from weakref import WeakSet

from carrot.backends.base import (
    BaseChannel,
    BaseTransport,
    Binding,
    Capabilities,
    Exchange,
    Queue,
    QueueDeclared,
)
from carrot.backends.seam.backend import Backend as SeamBackend
from carrot.backends.seam.confirms import Confirms
from carrot.checks import required_name, short_string, table
from carrot.exceptions import (
    ChannelError,
    ConnectionFailed,
    ConnectionLost,
    EncodeError,
    NotFound,
    NotSupported,
    OperationTimeout,
    PreconditionFailed,
)
from carrot.message import Message
from carrot.routing import matches
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


class Transport(BaseTransport):
    """A connection to the file. Its name begins with our process id: others see if we live."""

    def __init__(self, file: str, timeout: float | None) -> None:
        super().__init__()
        self.file = file
        self.name = f"{os.getpid()}-{uuid4()}"
        self.channels: WeakSet[Channel] = WeakSet()
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
        channel = Channel(self, f"{self.name}-{next(self._numbers)}")
        self.channels.add(channel)
        return channel

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.run("SELECT 1")  # raises when the connection is closed
            for channel in list(self.channels):
                channel.deliver_ready()
            if ready():
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise OperationTimeout(f"nothing came from {self.file!r} within {timeout} seconds")
            time.sleep(POLL)

    def interrupt(self) -> None:
        """Nothing to do: :meth:`wait_for` asks every POLL seconds."""

    def after_fork_in_child(self) -> None:
        self._db = None  # SQLite's connections don't survive a fork

    def close(self, timeout: float | None = None) -> None:
        with suppress(ConnectionLost):
            self.release(f"{self.name}-*")
        db, self._db = self._db, None
        for channel in list(self.channels):
            channel.is_open = False
        if db is not None:
            db.close()


class Backend(SeamBackend):
    """All exchange types, and queues that stay until they are deleted."""

    connector = Transport
    capabilities = Capabilities(
        priorities=False, expiration=False, dead_letters=False, max_length=False,
        exchange_bindings=False, alternate_exchange=False, exclusive=False, auto_delete=False,
        arguments=False, global_prefetch=False,
    )  # fmt: skip


class Channel(BaseChannel):
    """What one channel holds; its name marks that in the file."""

    def __init__(self, transport: Transport, name: str) -> None:
        self.is_open = True
        self._name = name
        self._transport = transport
        self._run = transport.run
        self._confirms: Confirms | None = None
        self._prefetch_count = 0
        self._consumers: dict[str, tuple[str, bool]] = {}  # tag: (queue, no_ack)
        self._unsettled: dict[int, str | None] = {}  # delivery tag: the consumer's

    def _check(self, ok: object, why: str, error: type[ChannelError] = PreconditionFailed) -> None:
        """Refuse what is not allowed as AMQP's brokers do: the channel is over with it."""
        if not ok:
            self.close()
            raise error(why)

    # -- topology

    def declare(self, entity: Exchange | Queue) -> QueueDeclared | None:
        if isinstance(entity, Queue):
            return self._declare_queue(entity)
        name, durable = required_name("exchange", entity.name), entity.durable
        if entity.type not in ("direct", "fanout", "topic", "headers"):
            raise NotSupported(f"the spool has no exchanges of type {entity.type!r}")
        self._run("INSERT OR IGNORE INTO exchange VALUES (?, ?, ?)", name, entity.type, durable)
        [found] = self._run("SELECT type, durable FROM exchange WHERE name = ?", name)
        there = f"exchange {name!r} exists as {found[0]!r} with durable={bool(found[1])}"
        here = f"is declared here as {entity.type!r} with durable={durable}"
        self._check(found == (entity.type, durable), f"{there}, and {here}")
        return None

    def _declare_queue(self, entity: Queue) -> QueueDeclared:
        name, durable = short_string("queue", entity.name) or f"spool-{uuid4()}", entity.durable
        self._run("INSERT OR IGNORE INTO queue VALUES (?, ?)", name, durable)
        [found] = self._run("SELECT durable FROM queue WHERE name = ?", name)
        self._check(found == (durable,), f"queue {name!r} exists with durable={not durable}")
        return self.inspect(name)

    def inspect(self, queue: str) -> QueueDeclared:
        self._check_exists("queue", queue)
        ready = "SELECT count(*) FROM message WHERE queue = ? AND owner IS NULL"
        consumers = "SELECT count(*) FROM consumer WHERE queue = ?"
        [[message_count]], [[consumer_count]] = self._run(ready, queue), self._run(consumers, queue)
        return QueueDeclared(queue, message_count, consumer_count)

    def delete_exchange(self, exchange: str, if_unused: bool) -> None:
        name = required_name("exchange", exchange)
        is_used = if_unused and self._run("SELECT 1 FROM binding WHERE exchange = ?", name)
        self._check(not is_used, f"exchange {name!r} has bindings")
        self._run("DELETE FROM binding WHERE exchange = ?", name)
        self._run("DELETE FROM exchange WHERE name = ?", name)

    def delete_queue(self, queue: str, if_unused: bool, if_empty: bool) -> int:
        if not self._run("SELECT 1 FROM queue WHERE name = ?", queue):
            return 0
        _, message_count, consumer_count = self.inspect(queue)
        self._check(not (if_unused and consumer_count), f"queue {queue!r} has consumers")
        self._check(not (if_empty and message_count), f"queue {queue!r} is not empty")
        self._run("DELETE FROM queue WHERE name = ?", queue)
        self._run("DELETE FROM binding WHERE queue = ?", queue)
        return len(self._run(DELETE_READY, queue))

    def bind(self, binding: Binding) -> None:
        values = _values(binding)
        self._check_exists("queue", binding.destination)
        self._check_exists("exchange", binding.source)
        self._run("INSERT OR IGNORE INTO binding VALUES (?, ?, ?, ?)", *values)

    def unbind(self, binding: Binding) -> None:
        columns = "queue, exchange, key, arguments"
        self._run(f"DELETE FROM binding WHERE ({columns}) = (?, ?, ?, ?)", *_values(binding))

    def purge(self, queue: str) -> int:
        self._check_exists("queue", queue)
        return len(self._run(DELETE_READY, queue))

    def _check_exists(self, kind: str, name: str) -> None:
        rows = self._run(f"SELECT 1 FROM {kind} WHERE name = ?", short_string(kind, name))
        self._check(rows, f"no {kind} {name!r} in the spool: declare it first", NotFound)

    # -- publishing

    def publish(
        self, message: Message, exchange: str, routing_key: str, mandatory: bool
    ) -> int | None:
        way = {"exchange": exchange, "key": routing_key}
        queues = self._run(ROUTE, **way, properties=_json(message.properties), body=message.body)
        if not queues:
            self._check_exists("exchange", exchange)
        if mandatory and not queues and self._confirms is not None:
            return self._confirms.refused(message, exchange, routing_key, "NO_ROUTE")
        return None  # the file has it by now, so there is no confirm to wait for

    def confirm_select(self, confirms: Confirms) -> None:
        self._confirms = confirms  # SQLite's commit is the confirm

    # -- consuming

    def qos(self, prefetch_count: int, apply_global: bool) -> None:
        self._prefetch_count = prefetch_count

    def subscribe(self, queue: str, consumer_tag: str, no_ack: bool) -> None:
        self._check_exists("queue", queue)
        self._run("INSERT INTO consumer VALUES (?, ?, ?)", consumer_tag, queue, self._name)
        self._consumers[consumer_tag] = (queue, no_ack)

    def unsubscribe(self, consumer_tag: str, take_unseen: Callable[[], Sequence[int]]) -> None:
        self._consumers.pop(consumer_tag, None)
        self._run("DELETE FROM consumer WHERE tag = ? AND owner = ?", consumer_tag, self._name)
        for delivery_tag in take_unseen():
            self.nack(delivery_tag)

    def deliver_ready(self) -> None:
        """Deliver what is ready for the consumers, as far as their limit allows."""
        if (listener := self.listener) is None:
            return
        for tag, (queue, no_ack) in list(self._consumers.items()):
            while self._has_room(tag) and (message := self._take(queue, no_ack, tag)):
                listener.deliver(tag, message)
            if not self._run("SELECT 1 FROM queue WHERE name = ?", queue):
                self.unsubscribe(tag, list)
                listener.consumer_cancelled(tag)

    def _has_room(self, consumer_tag: str) -> bool:
        held = list(self._unsettled.values()).count(consumer_tag)
        return not self._prefetch_count or held < self._prefetch_count

    def get(self, queue: str, no_ack: bool, timeout: float | None) -> Message | None:
        message = self._take(queue, no_ack, consumer_tag=None)
        if message is None:
            self._check_exists("queue", queue)
        return message

    def _take(self, queue: str, no_ack: bool, consumer_tag: str | None) -> Message | None:
        if no_ack:
            rows = self._run(f"DELETE FROM message WHERE id = {FIRST} {FIELDS}", queue)
        else:
            take = f"UPDATE message SET owner = ? WHERE id = {FIRST} {FIELDS}"
            rows = self._run(take, self._name, queue)
        if not rows:
            return None
        [(number, exchange, key, properties, body, redelivered)] = rows
        if not no_ack:
            self._unsettled[number] = consumer_tag
        info = {"exchange": exchange, "routing_key": key, "redelivered": bool(redelivered),
                "consumer_tag": consumer_tag}  # fmt: skip
        properties = json.loads(properties)
        message = Message(None, body, number, None, None, info, properties, no_ack=no_ack)
        message.life = self.listener
        return message

    # -- settling

    def ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self._settle("DELETE FROM message", delivery_tag, multiple)

    def nack(self, delivery_tag: int, multiple: bool = False) -> None:
        self._settle(PUT_BACK, delivery_tag, multiple)

    def reject(self, delivery_tag: int, requeue: bool) -> None:
        self._settle(PUT_BACK if requeue else "DELETE FROM message", delivery_tag)

    def _settle(self, how: str, delivery_tag: int, multiple: bool = False) -> None:
        tags = list(self._unsettled)  # in the order of their delivery
        self._check(delivery_tag in tags, f"unknown delivery tag {delivery_tag}")
        for tag in tags[: tags.index(delivery_tag) + 1] if multiple else [delivery_tag]:
            self._run(f"{how} WHERE id = ? AND owner = ?", tag, self._name)
            del self._unsettled[tag]

    def close(self) -> None:
        self.is_open = False
        self._consumers.clear()
        with suppress(ConnectionLost):
            self._transport.release(self._name)


def _takes(type: str, binding_key: str, arguments: str, key: str, properties: str) -> bool:
    headers = json.loads(properties).get("headers")
    return matches(type, binding_key, json.loads(arguments), key, headers)


def _json(values: Arguments) -> str:
    try:
        return json.dumps(table("arguments", values or {}), sort_keys=True)
    except TypeError as exc:
        raise EncodeError(f"the spool keeps arguments and headers as JSON: {exc}") from exc


def _values(binding: Binding) -> tuple[str, str, str, str]:
    """A binding as its table has it."""
    source = required_name("exchange", binding.source)
    key = short_string("routing key", binding.routing_key)
    return binding.destination, source, key, _json(binding.arguments)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except OSError as exc:
        return isinstance(exc, PermissionError)
    return True
