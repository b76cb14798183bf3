"""Store: a journal in an SQLite file, with many changes in one transaction.

The server commits the changes of each turn of its loop before it sends anything, so a confirmed
message is on the disk whenever the process is killed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.tables import decode_table, encode_table
from carrot.broker.connection import Connection
from carrot.broker.exchange import Binding, Destination, Exchange
from carrot.broker.message import Home, QueuedMessage
from carrot.broker.queue import Queue
from carrot.deadline import now, wall_clock
from carrot.exceptions import CarrotError
from carrot.server.frames import encoded_properties, properties_of
from carrot.server.journal import Journal
from carrot.server.virtual_host import ServedVirtualHost

#: The version of the tables' layout, as it is written in the file.
LAYOUT = 1
#: Seconds until a removed message is deleted from the file; if the broker is killed meanwhile, the
#: message is delivered twice.
LATE = 0.2
#: Removed messages that are deleted at once.
MANY = 5000
#: Seconds to wait for another broker's lock on the file: that broker may be about to end.
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
    """The file of one broker; one thread at a time uses it.

    :param path: the file, made if it is missing.
    :raises StoreError: it can't be used: another broker uses it, or it is another program's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The changes to write. Messages are encoded when they are written, if they are still there.
        self._changes: list[tuple[str, tuple[Any, ...]]] = []
        self._new: dict[int, QueuedMessage] = {}
        self._gone: list[int] = []
        self._due: float | None = None
        # The ids in the file of everything in it.
        self._queues: dict[Home, int] = {}
        self._bindings: dict[Binding, int] = {}
        self._messages: dict[Home, dict[QueuedMessage, int]] = {}
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
        # Each commit is synced to the disk, so that it survives a crash of the machine.
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

    # -- changes

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

    def queue_declared(self, virtual_host: str, queue: Queue) -> None:
        if self._is_reading:
            return
        number = self._queues[queue] = self._id("queues")
        self._messages[queue] = {}
        self._change(
            "INSERT INTO queues VALUES (?, ?, ?, ?, ?)",
            number, virtual_host, queue.name, queue.auto_delete,
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
        # A message that came since the last commit is not in the file.
        if number is None or self._new.pop(number, None) is not None:
            return
        self._gone.append(number)
        if self._due is None:
            self._due = now() + LATE
        elif len(self._gone) >= MANY:
            self._due = 0.0

    # -- writing

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
            # The broker's clock starts anew with each process, so the wall clock's time is written.
            expires += wall_clock() - now()
        return (
            number, self._queues[message.queue], message.exchange, message.routing_key,
            encoded_properties(message), message.body, expires,
        )  # fmt: skip

    def close(self) -> None:
        try:
            self.commit()
        finally:
            self._db.close()

    # -- reading

    def virtual_hosts(self) -> list[ServedVirtualHost]:
        """The virtual hosts in the file, as they were at the last commit."""
        with self._translating():
            self._is_reading = True
            reader = _Reader(self._db, self)
            reader.read_topology()
            self._queues = {queue: number for number, queue in reader.queues.items()}
            self._bindings = reader.bindings
            self._messages = {queue: {} for queue in self._queues}
            self._is_reading = False
            for number, message in reader.messages():
                self._messages[message.queue][message] = number
                # A message that has expired meanwhile is dead-lettered here.
                reader.queues[self._queues[message.queue]].take(message)
        return list(reader.virtual_hosts.values())


class _Reader:
    """Makes the virtual hosts in the file."""

    def __init__(self, db: sqlite3.Connection, journal: Journal) -> None:
        self.virtual_hosts: dict[str, ServedVirtualHost] = {}
        self.queues: dict[int, Queue] = {}
        self.bindings: dict[Binding, int] = {}
        self._db = db
        self._journal = journal

    def read_topology(self) -> None:
        self._read_exchanges()
        self._read_queues()
        self._read_bindings()

    def _virtual_host(self, name: str) -> ServedVirtualHost:
        if name not in self.virtual_hosts:
            self.virtual_hosts[name] = ServedVirtualHost(name, self._journal)
        return self.virtual_hosts[name]

    def _read_exchanges(self) -> None:
        for vhost, name, type_, auto_delete, arguments in self._db.execute(
            "SELECT * FROM exchanges"
        ):
            self._virtual_host(vhost).declare_exchange(
                name, type_, True, bool(auto_delete), _table(arguments)
            )

    def _read_queues(self) -> None:
        for number, vhost, name, auto_delete, arguments in self._db.execute("SELECT * FROM queues"):
            virtual_host = self._virtual_host(vhost)
            self.queues[number] = virtual_host.add_queue(
                name, True, None, bool(auto_delete), _table(arguments)
            )

    def _read_bindings(self) -> None:
        for number, vhost, source, name, to_queue, key, arguments in self._db.execute(
            "SELECT * FROM bindings"
        ):
            virtual_host, table = self._virtual_host(vhost), _table(arguments)
            destination: Destination
            if to_queue:
                virtual_host.bind_queue(_closed_connection(virtual_host), name, source, key, table)
                destination = virtual_host.queues[name]
            else:
                virtual_host.bind_exchange(name, source, key, table)
                destination = virtual_host.exchanges[name]
            binding = virtual_host.exchanges[source].binding(destination, key, table)
            self.bindings[binding] = number

    def messages(self) -> Iterator[tuple[int, QueuedMessage]]:
        """The messages with their ids, in the order in which they came."""
        today = wall_clock()
        for number, queue_number, exchange, key, properties, body, expires in self._db.execute(
            "SELECT * FROM messages ORDER BY id"
        ):
            message = QueuedMessage(body, properties_of(properties), exchange, key)
            # It may have been delivered before, and not acked.
            message.redelivered = True
            if expires is not None:
                message.ttl = max(0.0, expires - today)
            message.queue = self.queues[queue_number]
            yield number, message


def _table(data: bytes) -> dict[str, Any]:
    return decode_table(data, 0)[0]


def _closed_connection(virtual_host: ServedVirtualHost) -> Connection:
    """A connection to declare with; no queue in the file is exclusive."""
    connection = Connection(virtual_host)
    connection.close()
    return connection
