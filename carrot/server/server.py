"""Server: the broker's loop, with a session for each of its clients.

One thread runs it and owns everything in it. In each turn it takes in the clients' messages, runs
the timers that are due, commits, and only then sends.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import zmq

from carrot import deadline
from carrot.backends.amqp.errors import FramingError
from carrot.broker.limited_log import LimitedLog
from carrot.deadline import milliseconds
from carrot.exceptions import CarrotError
from carrot.server.journal import Journal
from carrot.server.listener import Listener
from carrot.server.protocol import PROTOCOL_HEADER
from carrot.server.session import Session
from carrot.server.virtual_host import ServedVirtualHost

#: Messages that are taken in, at most, before anything is sent.
BATCH = 256
#: Seconds between two checks for silent clients.
TICK = 0.25
#: Seconds for reading what a client sent before its connection broke, while others are busy.
FAREWELL = 1.0
#: Seconds until a full socket is tried again.
ROOM_INTERVAL = 0.01

#: AMQP's reply codes (AMQP 0-9-1, section 1.2).
CONNECTION_FORCED, FRAME_ERROR, RESOURCE_ERROR, INTERNAL_ERROR = 320, 501, 506, 541


class Server:
    """The virtual hosts behind a listener, and the sessions of its clients.

    :param journal: is told of everything durable.
    :param virtual_hosts: those that the journal has kept.
    """

    def __init__(
        self,
        listener: Listener,
        journal: Journal,
        virtual_hosts: Iterable[ServedVirtualHost] = (),
    ) -> None:
        self._listener = listener
        self._journal = journal
        self._virtual_hosts = {host.name: host for host in virtual_hosts}
        self._sessions: dict[bytes, Session] = {}
        self._identities: dict[Session, bytes] = {}
        # The client of each connection, by the system's number of the connection.
        self._numbers: dict[int, bytes] = {}
        # Sessions whose connection is gone, and since when: their last messages are still read.
        self._leaving: dict[Session, float] = {}
        self._with_output: dict[Session, None] = {}
        self._is_stopping = self._lacks_room = False
        self._last_tick = deadline.now()
        self._log = LimitedLog(logging.getLogger("carrot.server"))
        # ZeroMQ's file descriptors report nothing until their socket was found to be empty.
        self._note_disconnected()

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        """Log a fault of the broker's own: the fault in one client's work must not end the others'.

        In one line: clients could fill the log with tracebacks, which follow at DEBUG.
        """
        try:
            yield
        except Exception as exc:
            self._log.write(
                logging.ERROR, "%s met a fault of the broker: %s: %s (%s)",
                what, type(exc).__name__, exc, _place(exc), exc=exc,
            )  # fmt: skip

    # -- the loop

    def run(self) -> None:
        """Serve until :meth:`stop`; then the listener is closed.

        :raises StoreError: the journal can't be written any more.
        """
        try:
            while not self._is_stopping:
                self._turn(self._timeout())
        finally:
            self._end()

    def stop(self) -> None:
        """End :meth:`run`, from any thread or a signal handler."""
        self._is_stopping = True
        self._listener.wake()

    def _timeout(self) -> int:
        """How many milliseconds to wait for clients, at most; -1 is no limit."""
        now = deadline.now()
        due = [host.timers.next_due for host in self._virtual_hosts.values()]
        due.append(self._journal.commit_due)
        if self._sessions:
            due.append(self._last_tick + TICK)
        if self._with_output:
            due.append(now + ROOM_INTERVAL if self._lacks_room else now)
        soonest = min((moment for moment in due if moment is not None), default=None)
        timeout = milliseconds(None if soonest is None else soonest - now)
        # A millisecond more: better late than twice.
        return -1 if timeout is None else max(0, int(timeout) + 1)

    def _turn(self, timeout: int) -> None:
        # The file descriptors report changes only: the socket knows what is there already.
        batch = BATCH if self._listener.has_message() else self._wait(timeout)
        now = deadline.now()
        self._take_in(batch, now)
        if self._leaving:
            self._drop_leaving(now)
        for host in tuple(self._virtual_hosts.values()):
            if host.timers.pending:
                with host.lock, self._surviving("a timer"):
                    host.timers.run()
        if now - self._last_tick >= TICK:
            self._tick(now)
        # Commit before sending: clients may rely on what they are told.
        for session in self._with_output:
            session.settle()
        due = self._journal.commit_due
        if due is not None and due <= now:
            self._journal.commit()
        self._send(now)

    def _wait(self, timeout: int) -> int:
        """Wait until something happens; returns how many messages to take in before sending.

        One: a client that comes alone gets its answer at once. Even checking for a second message
        takes 3 µs.
        """
        has_message, has_disconnected = self._listener.wait(timeout)
        if has_disconnected:
            self._note_disconnected()
        return int(has_message)

    def _take_in(self, batch: int, now: float) -> None:
        listener = self._listener
        for number in range(batch):
            if number and not listener.has_message():
                return
            try:
                identity = listener.receive_identity()
            except zmq.Again:
                return  # the socket reported something else
            session = self._sessions.get(identity)
            if session is None:
                self._welcome(identity, now)
                continue
            data = listener.receive()
            if not session.is_done:
                self._feed(session, data, now)

    def _feed(self, session: Session, data: bytes, now: float) -> None:
        """Hand a client's bytes to its session; if that fails, refuse the client."""
        reply: tuple[int, str] | None = INTERNAL_ERROR, "INTERNAL_ERROR - see the broker's log"
        with self._surviving("a client's request"):
            try:
                if not data:
                    raise FramingError("a ZeroMQ message is empty, or has more than one frame")
                session.feed(data, now)
                reply = None
            except FramingError as exc:
                reply = FRAME_ERROR, f"FRAME_ERROR - {exc}"
                self._log_drop(session, reply[1])
            except CarrotError as exc:
                reply = RESOURCE_ERROR, str(exc)
                self._log_drop(session, reply[1])
        if reply is not None:
            with self._surviving("dropping a client"):
                session.refuse(*reply)
        if session.is_too_much:
            self._log_drop(session, "it sends requests and never reads")
            self._drop(session)

    def _log_drop(self, session: Session, reason: str) -> None:
        self._log.write(
            logging.WARNING, "dropped a client (user %s, virtual host %s): %s",
            session.user or "unknown", session.virtual_host_name or "none", reason,
        )  # fmt: skip

    # -- clients come and go

    def _welcome(self, identity: bytes, now: float) -> None:
        """Take a client's first message; hang up if it isn't the protocol header."""
        data, number = self._listener.receive_first()
        if data != PROTOCOL_HEADER:
            self._listener.hang_up(identity)
            return
        # The number may have been another client's: note that client's end first.
        self._note_disconnected()
        self._numbers[number] = identity
        session = Session(self._enter, self._on_output, now)
        self._sessions[identity] = session
        self._identities[session] = identity

    def _on_output(self, session: Session) -> None:
        self._with_output[session] = None

    def _enter(self, name: str) -> ServedVirtualHost:
        """The virtual host of that name, new if no client has asked for it before."""
        host = self._virtual_hosts.get(name)
        if host is None:
            host = self._virtual_hosts[name] = ServedVirtualHost(name, self._journal)
        return host

    def _note_disconnected(self) -> None:
        """Note which connections are gone."""
        for number in self._listener.disconnected():
            identity = self._numbers.pop(number, None)
            if identity is not None and (session := self._sessions.get(identity)) is not None:
                self._leaving[session] = deadline.now()

    def _drop_leaving(self, now: float) -> None:
        """Drop sessions whose connection is gone, once all messages are read or after FAREWELL."""
        nothing_is_left = not self._listener.has_message()
        for session, since in tuple(self._leaving.items()):
            if nothing_is_left or now - since > FAREWELL:
                self._drop(session)

    def _drop(self, session: Session) -> None:
        """Forget a client: its unacked messages go back to their queues."""
        with self._surviving("dropping a client"):
            session.close()
        identity = self._identities.pop(session, None)
        if identity is not None:
            del self._sessions[identity]
        self._with_output.pop(session, None)
        self._leaving.pop(session, None)
        self._numbers = {n: i for n, i in self._numbers.items() if i != identity}
        for name, host in tuple(self._virtual_hosts.items()):
            if host.is_empty:
                del self._virtual_hosts[name]

    def _tick(self, now: float) -> None:
        """Check for silent clients, and for those that left while others kept the loop busy."""
        self._log.report()
        self._note_disconnected()
        # While this process stood still, it heard no client.
        stood_still = now - self._last_tick > 4 * TICK
        self._last_tick = now
        for session in tuple(self._identities):
            if stood_still:
                session.restart_silence(now)
            if session.is_silent(now):
                self._log_drop(session, "it was silent for two heartbeats, or never logged in")
                self._drop(session)
            else:
                session.beat(now)

    # -- sending

    def _send(self, now: float) -> None:
        """Send the output of all sessions, as far as there is room."""
        self._lacks_room = False
        for session in tuple(self._with_output):
            if session not in self._with_output:
                continue  # it was dropped meanwhile
            self._with_output.pop(session)
            if not self._send_to(session, now):
                continue
            if session.is_done and not session.has_output:
                self._hang_up(session)
                continue
            session.resume()
            if session.has_output:
                self._with_output[session] = None

    def _send_to(self, session: Session, now: float) -> bool:
        """Send the output of one session; False: its client is gone."""
        identity = self._identities[session]
        pieces = session.take_output()
        session.last_sent = now
        for number, piece in enumerate(pieces):
            try:
                self._listener.send(identity, piece)
            except zmq.Again:
                session.put_back(pieces[number:])
                self._lacks_room = True
                return True
            except zmq.ZMQError:
                self._drop(session)
                return False
        return True

    def _hang_up(self, session: Session) -> None:
        self._listener.hang_up(self._identities[session])
        self._drop(session)

    # -- the end

    def _end(self) -> None:
        """Say goodbye to all clients, and commit."""
        try:
            for session in tuple(self._identities):
                session.refuse(CONNECTION_FORCED, "CONNECTION_FORCED - the broker shuts down")
            self._journal.commit()
            self._send(deadline.now())
        finally:
            self._log.report(at_once=True)
            self._listener.close()


def _place(exc: Exception) -> str:
    """The file and line that raised *exc*."""
    frames = traceback.extract_tb(exc.__traceback__, limit=-1)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
