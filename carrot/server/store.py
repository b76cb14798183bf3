"""Store: keeps what is durable in an SQLite file, in one transaction for many changes.

Everything that happens in a turn of the server's is committed before anything of it is sent, so a
confirmed message is on the disk, whenever the process is killed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.tables import decode_table, encode_table
from carrot.broker.connection import Connection
from carrot.broker.exchange import Binding, Exchange
from carrot.broker.message import QueuedMessage
from carrot.broker.queue import Queue
from carrot.exceptions import CarrotError
from carrot.server.channel import properties_of, wire
from carrot.server.journal import Journal
from carrot.server.virtual_host import ServedVirtualHost

#: The number in the file of this layout of its tables.
LAYOUT = 1
#: Seconds that the news of a message's end may wait: were it lost, the message would come twice.
LATE = 0.2
#: And how many of them.
MANY = 5000
#: Seconds to wait for another broker, which may be about to end.
PATIENCE = 1.0

_TABLES = """
CREATE TABLE exchanges (vhost, name, type, auto_delete, arguments, PRIMARY KEY (vhost, name));
CREATE TABLE queues (id INTEGER PRIMARY KEY, vhost, name, auto_delete, arguments);
CREATE TABLE bindings (
    id INTEGER PRIMARY KEY, vhost, source, destination, to_queue, routing_key, arguments
);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, queue INTEGER, exchange, routing_key, properties, body, expires
);
CREATE INDEX messages_by_queue ON messages (queue);
"""


class StoreError(CarrotError):
    """The file of a broker's store can't be read or written."""


class Store(Journal):
    """The broker's only, which is one thread's at a time.

    :param path: made when it isn't there.
    :raises StoreError: it can't be used: another broker has it, or it is something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # What is to be written. Messages are encoded then, if they are still there.
        self._changes: list[tuple[str, tuple[Any, ...]]] = []
        self._new: dict[int, QueuedMessage] = {}
        self._gone: list[int] = []
        self._due: float | None = None
        # What is there, by its id in the file.
        self._queues: dict[Queue, int] = {}
        self._bindings: dict[Binding, int] = {}
        self._messages: dict[Queue, dict[QueuedMessage, int]] = {}
        self._is_reading = False
        with self._translating():
            self._db = sqlite3.connect(
                path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        execute = self._db.execute
        execute("PRAGMA locking_mode=EXCLUSIVE")
        execute("PRAGMA journal_mode=WAL")
        # Each commit is on the disk, so that it outlives the machine, too.
        execute("PRAGMA synchronous=FULL")
        execute("BEGIN EXCLUSIVE")
        (layout,) = execute("PRAGMA user_version").fetchone()
        if layout == 0:
            for statement in _TABLES.split(";"):
                execute(statement)
            execute(f"PRAGMA user_version={LAYOUT}")
        execute("COMMIT")
        if layout not in (0, LAYOUT):
            raise StoreError(
                f"the store {self._path} has layout {layout}, and this version of carrot knows "
                f"{LAYOUT}: use the version that made it, or another file"
            )
        self._next = {
            table: execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").fetchone()[0]
            for table in ("queues", "bindings", "messages")
        }

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, FramingError, UnicodeError) as exc:
            raise StoreError(
                f"the store {self._path} can't be used: {exc}: does another broker use it, is the "
                "disk full, or is it another program's file?"
            ) from exc

    def _id(self, table: str) -> int:
        number: int = self._next[table]
        self._next[table] += 1
        return number

    # -- what is told

    def _change(self, statement: str, *values: Any) -> None:
        if not self._is_reading:
            self._changes.append((statement, values))
            self._due = 0.0

    def exchange_declared(self, virtual_host: str, exchange: Exchange) -> None:
        self._change(
            "INSERT OR REPLACE INTO exchanges VALUES (?, ?, ?, ?, ?)",
            virtual_host, exchange.name, exchange.type, exchange.auto_delete,
            encode_table(exchange.arguments),
        )  # fmt: skip

    def exchange_removed(self, virtual_host: str, exchange: Exchange) -> None:
        if exchange.durable:
            self._change(
                "DELETE FROM exchanges WHERE vhost = ? AND name = ?", virtual_host, exchange.name
            )

    def queue_declared(self, queue: Queue) -> None:
        if self._is_reading:
            return
        number = self._queues[queue] = self._id("queues")
        self._messages[queue] = {}
        self._change(
            "INSERT INTO queues VALUES (?, ?, ?, ?, ?)",
            number, queue.broker.virtual_host, queue.name, queue.auto_delete,
            encode_table(queue.arguments),
        )  # fmt: skip

    def queue_removed(self, queue: Queue) -> None:
        number = self._queues.pop(queue, None)
        if number is None:
            return
        for message in self._messages.pop(queue).values():
            self._new.pop(message, None)
        self._change("DELETE FROM queues WHERE id = ?", number)
        self._change("DELETE FROM messages WHERE queue = ?", number)

    def bound(self, virtual_host: str, binding: Binding, arguments: Mapping[str, Any]) -> None:
        if binding in self._bindings or self._is_reading:
            return
        number = self._bindings[binding] = self._id("bindings")
        self._change(
            "INSERT INTO bindings VALUES (?, ?, ?, ?, ?, ?, ?)",
            number, virtual_host, binding.source.name, binding.destination.name,
            isinstance(binding.destination, Queue), binding.routing_key, encode_table(arguments),
        )  # fmt: skip

    def unbound(self, binding: Binding) -> None:
        number = self._bindings.pop(binding, None)
        if number is not None:
            self._change("DELETE FROM bindings WHERE id = ?", number)

    def add(self, queue: Queue, message: QueuedMessage) -> None:
        number = self._messages[queue][message] = self._id("messages")
        self._new[number] = message
        self._due = 0.0

    def remove(self, message: QueuedMessage) -> None:
        number = self._messages.get(message.queue, {}).pop(message, None)
        # One that came and went since the last commit was never there.
        if number is None or self._new.pop(number, None) is not None:
            return
        self._gone.append(number)
        if self._due is None:
            self._due = time.monotonic() + LATE
        elif len(self._gone) >= MANY:
            self._due = 0.0

    # -- what is written

    @property
    def commit_due(self) -> float | None:
        return self._due

    def commit(self) -> None:
        if self._due is None:
            return
        with self._translating():
            execute = self._db.execute
            execute("BEGIN IMMEDIATE")
            for statement, values in self._changes:
                execute(statement, values)
            if self._new:
                self._db.executemany(
                    "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [self._row(number, message) for number, message in self._new.items()],
                )
            if self._gone:
                self._db.executemany(
                    "DELETE FROM messages WHERE id = ?", [(number,) for number in self._gone]
                )
            execute("COMMIT")
        self._changes.clear()
        self._new.clear()
        self._gone.clear()
        self._due = None

    def _row(self, number: int, message: QueuedMessage) -> tuple[Any, ...]:
        expires = message.expires_at
        if expires is not None:
            # The broker's clock begins anew with each process, so the wall's is written.
            expires += time.time() - message.queue.broker.timers.clock()
        return (
            number, self._queues[message.queue], message.exchange, message.routing_key,
            wire(message), message.body, expires,
        )  # fmt: skip

    def close(self) -> None:
        try:
            self.commit()
        finally:
            self._db.close()

    # -- what is read

    def worlds(self) -> list[ServedVirtualHost]:
        with self._translating():
            self._is_reading = True
            worlds = self._read_topology()
            self._is_reading = False
            self._read_messages()
        return worlds

    def _read_topology(self) -> list[ServedVirtualHost]:
        execute = self._db.execute
        worlds: dict[str, ServedVirtualHost] = {}

        def world(virtual_host: str) -> ServedVirtualHost:
            if virtual_host not in worlds:
                worlds[virtual_host] = ServedVirtualHost(virtual_host, self)
            return worlds[virtual_host]

        for virtual_host, name, type_, auto_delete, arguments in execute("SELECT * FROM exchanges"):
            world(virtual_host).declare_exchange(
                name, type_, True, bool(auto_delete), _table(arguments)
            )
        for number, virtual_host, name, auto_delete, arguments in execute("SELECT * FROM queues"):
            home = world(virtual_host)
            queue = home.add_queue(name, True, None, bool(auto_delete), _table(arguments))
            self._queues[queue] = number
            self._messages[queue] = {}
        for number, virtual_host, source, name, to_queue, key, arguments in execute(
            "SELECT * FROM bindings"
        ):
            home, table = world(virtual_host), _table(arguments)
            if to_queue:
                home.bind_queue(_nobody(home), name, source, key, table)
            else:
                home.bind_exchange(name, source, key, table)
            destination = home.queues[name] if to_queue else home.exchanges[name]
            self._bindings[home.exchanges[source].binding(destination, key, table)] = number
        return list(worlds.values())

    def _read_messages(self) -> None:
        queues = {number: queue for queue, number in self._queues.items()}
        now = time.time()
        for number, queue_number, exchange, key, properties, body, expires in self._db.execute(
            "SELECT * FROM messages ORDER BY id"
        ):
            queue = queues[queue_number]
            message = QueuedMessage(body, properties_of(properties), exchange, key)
            # It may have been delivered, and not acked: nobody knows.
            message.redelivered = True
            if expires is not None:
                message.ttl = max(0.0, expires - now)
            self._messages[queue][message] = number
            # One that has expired meanwhile goes where it should.
            message.queue = queue
            queue.take(message)


def _table(data: bytes) -> dict[str, Any]:
    return decode_table(data, 0)[0]


def _nobody(world: ServedVirtualHost) -> Connection:
    """Who declares what was remembered: no queue of theirs is exclusive."""
    connection = Connection(world)
    connection.close()
    return connection
