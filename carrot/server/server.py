"""Server: the loop that owns a ROUTER socket, and serves a session to each of its clients.

One thread runs it, and everything in it is that thread's. In each turn it takes in what clients
sent, lets happen what is due, commits, and only then sends.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import cast

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from carrot.backends.amqp.errors import FramingError
from carrot.deadline import milliseconds
from carrot.exceptions import CarrotError, ConnectionFailed
from carrot.server.journal import Journal
from carrot.server.protocol import (
    EVENTS,
    HANG_UP,
    HIGH_WATER_MARK,
    NOBLOCK,
    PIECE,
    POLLIN,
    PROTOCOL_HEADER,
    RCVMORE,
    SNDMORE,
    notice_dead_peers,
)
from carrot.server.session import Session
from carrot.server.virtual_host import ServedVirtualHost

#: Messages that are taken in, at most, before anything is sent.
BATCH = 256
#: Seconds between two looks for silent clients.
TICK = 0.25
#: Seconds for reading what was sent by a client that is gone, while others are busy.
FAREWELL = 1.0
#: Seconds until a full socket is tried again.
ROOM_INTERVAL = 0.01
#: Milliseconds that the goodbye may take.
LINGER = 1000

#: AMQP's reply codes (AMQP 0-9-1, section 1.2).
CONNECTION_FORCED, FRAME_ERROR, RESOURCE_ERROR, INTERNAL_ERROR = 320, 501, 506, 541

_log = logging.getLogger(__name__)


@contextmanager
def _surviving(what: str) -> Iterator[None]:
    """Log a fault of the broker's own: one client's work is not the end of all others'."""
    try:
        yield
    except Exception:
        _log.exception("%s met a fault of the broker", what)


class _KnownClients:
    """Lets in the clients with these public keys, for ZeroMQ's authenticator."""

    def __init__(self, keys: Collection[bytes]) -> None:
        self._keys = frozenset(keys)

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self._keys


class Server:
    """A bound socket, and the virtual hosts behind it.

    :param bind: ZeroMQ's addresses, ``tcp://127.0.0.1:5555``; with the port ``*`` a free one.
    :param journal: who remembers what is durable.
    :param worlds: the virtual hosts that it remembered.
    :param secret_key: CURVE: refuse clients without it.
    :param known_clients: refuse clients with other public keys than these, too.
    :raises ConnectionFailed: an address can't be bound.
    :ivar addresses: as they are bound.
    """

    def __init__(
        self,
        bind: Sequence[str],
        journal: Journal,
        worlds: Iterable[ServedVirtualHost] = (),
        secret_key: bytes | None = None,
        known_clients: Collection[bytes] | None = None,
    ) -> None:
        self._keeper = journal
        self._worlds = {world.virtual_host: world for world in worlds}
        self._sessions: dict[bytes, Session] = {}
        self._identities: dict[Session, bytes] = {}
        # The system's number of each client's connection, and whose it is.
        self._numbers: dict[int, bytes] = {}
        # Those whose connection is gone, and since when: what they sent before is still read.
        self._leaving: dict[Session, float] = {}
        self._with_output: dict[Session, None] = {}
        self._is_stopping = self._lacks_room = False
        self._last_tick = time.monotonic()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._context = zmq.Context()
        self._authenticator: ThreadAuthenticator | None = None
        self._router = self._context.socket(zmq.ROUTER)
        self._monitor = self._context.socket(zmq.PAIR)
        try:
            self._configure(secret_key, known_clients)
            self.addresses = [self._bind(address) for address in bind]
        except BaseException:
            self._free()
            raise
        # As cheap as can be, for it is a part of each round trip: a Poller of pyzmq's is slower.
        self._events = cast(Callable[[int], int], self._router.get)
        self._router_fd, self._monitor_fd = int(self._router.fd), int(self._monitor.fd)
        self._poll = select.poll()
        for fd in (self._router_fd, self._monitor_fd, self._woken.fileno()):
            self._poll.register(fd, select.POLLIN)
        # A file descriptor tells nothing until its socket was found to be empty.
        self._note_disconnected()

    def _configure(self, secret_key: bytes | None, known_clients: Collection[bytes] | None) -> None:
        router = self._router
        router.linger = LINGER
        router.router_mandatory = True  # a client that is gone is an error, and not ignored
        router.sndhwm = router.rcvhwm = HIGH_WATER_MARK
        router.maxmsgsize = PIECE
        notice_dead_peers(router)
        if secret_key is not None:
            router.curve_server = True
            router.curve_secretkey = secret_key
            if known_clients is not None:
                self._authenticator = ThreadAuthenticator(self._context)
                self._authenticator.start()
                self._authenticator.configure_curve_callback(
                    domain="*", credentials_provider=_KnownClients(known_clients)
                )
        router.monitor("inproc://monitor", zmq.EVENT_DISCONNECTED)
        self._monitor.connect("inproc://monitor")

    def _bind(self, address: str) -> str:
        try:
            self._router.ipv6 = "[" in address
            self._router.bind(address)
        except zmq.ZMQError as exc:
            raise ConnectionFailed(
                f"can't listen at {address}: {exc}: is it in use, and is it ZeroMQ's, such as "
                "tcp://127.0.0.1:5555 or ipc:///run/carrot.sock?"
            ) from exc
        return self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    # -- the loop

    def run(self) -> None:
        """Serve until :meth:`stop`.

        :raises StoreError: what is durable can't be written any more.
        """
        try:
            while not self._is_stopping:
                self._turn(self._patience())
        finally:
            self._end()

    def stop(self) -> None:
        """End :meth:`run`, from any thread or a signal handler."""
        self._is_stopping = True
        with suppress(OSError):
            self._waker.send(b"\0")

    def _patience(self) -> int:
        """Milliseconds to wait for clients, at most; -1: as long as it takes."""
        now = time.monotonic()
        due = [world.timers.next_due for world in self._worlds.values()]
        due.append(self._keeper.commit_due)
        if self._sessions:
            due.append(self._last_tick + TICK)
        if self._with_output:
            due.append(now + ROOM_INTERVAL if self._lacks_room else now)
        soonest = min((moment for moment in due if moment is not None), default=None)
        patience = milliseconds(None if soonest is None else soonest - now)
        # A millisecond more: rather late than twice.
        return -1 if patience is None else max(0, int(patience) + 1)

    def _turn(self, patience: int) -> None:
        # The file descriptors tell of changes only: what is there already, the socket knows.
        batch = BATCH if self._has_arrived() else self._wait(patience)
        now = time.monotonic()
        self._take_in(batch, now)
        if self._leaving:
            self._drop_leaving(now)
        for world in tuple(self._worlds.values()):
            if world.timers.pending:
                with world.lock, _surviving("what was due"):
                    world.timers.run()
        if now - self._last_tick >= TICK:
            self._tick(now)
        # Everything that is about to be sent stands on what is committed now.
        for session in self._with_output:
            session.settle()
        due = self._keeper.commit_due
        if due is not None and due <= now:
            self._keeper.commit()
        self._send(now)

    def _has_arrived(self) -> bool:
        return bool(self._events(EVENTS) & POLLIN)

    def _wait(self, patience: int) -> int:
        """Wait for news; returns how many messages to take in before anything is sent.

        One, for who comes when nobody else does shall have its answer at once: even to look for
        a second takes 3 µs.
        """
        batch = 0
        for fd, _ in self._poll.poll(patience):
            if fd == self._router_fd:
                batch = 1
            elif fd == self._monitor_fd:
                self._note_disconnected()
            else:
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
        return batch

    def _take_in(self, batch: int, now: float) -> None:
        router = self._router
        for number in range(batch):
            if number and not self._has_arrived():
                return
            try:
                identity = router.recv(NOBLOCK)
            except zmq.Again:
                return  # the news was another one
            session = self._sessions.get(identity)
            if session is None:
                self._welcome(identity, now)
                continue
            data = router.recv(NOBLOCK)
            is_one = self._was_last()
            if not session.is_done:
                self._feed(session, data if is_one else b"", now)

    def _was_last(self) -> bool:
        """Whether a message had no frame but that; otherwise its rest is read."""
        if not self._router.get(RCVMORE):
            return True
        while self._router.get(RCVMORE):
            self._router.recv(NOBLOCK)
        return False

    def _feed(self, session: Session, data: bytes, now: float) -> None:
        """Hand a client's bytes to its session, which it may be the end of."""
        reason: tuple[int, str] | None = INTERNAL_ERROR, "INTERNAL_ERROR - see the broker's log"
        with _surviving("what a client asked for"):
            try:
                if not data:
                    raise FramingError("a message of ZeroMQ's that is not one frame, or empty")
                session.feed(data, now)
                reason = None
            except FramingError as exc:
                reason = FRAME_ERROR, f"FRAME_ERROR - {exc}"
            except CarrotError as exc:
                reason = RESOURCE_ERROR, str(exc)
        if reason is not None:
            with _surviving("a client's end"):
                session.refuse(*reason)
        if session.is_too_much:
            self._drop(session)

    # -- clients come and go

    def _welcome(self, identity: bytes, now: float) -> None:
        """The first message of a client; one that doesn't begin as it should is hung up on."""
        frame = self._router.recv(NOBLOCK, copy=False)
        if not self._was_last() or frame.bytes != PROTOCOL_HEADER:
            with suppress(zmq.ZMQError):
                self._send_one(identity, HANG_UP)
            return
        # A number may have been another client's, of whose end the monitor knows by now.
        self._note_disconnected()
        number = frame.get(zmq.SRCFD)
        assert isinstance(number, int)
        self._numbers[number] = identity
        session = Session(self._enter, self._on_output, now)
        self._sessions[identity] = session
        self._identities[session] = identity

    def _on_output(self, session: Session) -> None:
        self._with_output[session] = None

    def _enter(self, virtual_host: str) -> ServedVirtualHost:
        """The world of that name, new if nobody has asked for it before."""
        world = self._worlds.get(virtual_host)
        if world is None:
            world = self._worlds[virtual_host] = ServedVirtualHost(virtual_host, self._keeper)
        return world

    def _note_disconnected(self) -> None:
        """Take note of the connections that are gone."""
        while self._monitor.poll(0):
            identity = self._numbers.pop(recv_monitor_message(self._monitor)["value"], None)
            if identity is not None and (session := self._sessions.get(identity)) is not None:
                self._leaving[session] = time.monotonic()

    def _drop_leaving(self, now: float) -> None:
        """Drop those whose connection is gone, when all that came is read, or after a while."""
        nothing_is_left = not self._has_arrived()
        for session, since in tuple(self._leaving.items()):
            if nothing_is_left or now - since > FAREWELL:
                self._drop(session)

    def _drop(self, session: Session) -> None:
        """The client is gone: what it held goes back to the queues, and to others."""
        with _surviving("a client's end"):
            session.close()
        identity = self._identities.pop(session, None)
        if identity is not None:
            del self._sessions[identity]
        self._with_output.pop(session, None)
        self._leaving.pop(session, None)
        self._numbers = {n: i for n, i in self._numbers.items() if i != identity}
        for name, world in tuple(self._worlds.items()):
            if world.is_empty:
                del self._worlds[name]

    def _tick(self, now: float) -> None:
        """Look for silent clients, and those that left while others kept the loop busy."""
        self._note_disconnected()
        # When this process stood still, its clients are not to blame for their silence.
        stood_still = now - self._last_tick > 4 * TICK
        self._last_tick = now
        for session in tuple(self._identities):
            if stood_still:
                session.forgive(now)
            if session.is_silent(now):
                self._drop(session)
            else:
                session.beat(now)

    # -- sending

    def _send(self, now: float) -> None:
        """Send what waits, as far as there is room."""
        self._lacks_room = False
        for session in tuple(self._with_output):
            if session not in self._with_output:
                continue  # dropped meanwhile
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
        """Send what waits for one client; False: it is gone."""
        identity = self._identities[session]
        pieces = session.take_output()
        session.told = now
        for number, piece in enumerate(pieces):
            try:
                self._send_one(identity, piece)
            except zmq.Again:
                session.put_back(pieces[number:])
                self._lacks_room = True
                return True
            except zmq.ZMQError:
                self._drop(session)
                return False
        return True

    def _send_one(self, identity: bytes, data: bytes) -> None:
        """:raises zmq.ZMQError: there is no room (``zmq.Again``), or no such client any more."""
        self._router.send(identity, NOBLOCK | SNDMORE)
        self._router.send(data, NOBLOCK)

    def _hang_up(self, session: Session) -> None:
        with suppress(zmq.ZMQError):
            self._send_one(self._identities[session], HANG_UP)
        self._drop(session)

    # -- the end

    def _end(self) -> None:
        """Say goodbye to everybody, and keep what is to be kept."""
        try:
            for session in tuple(self._identities):
                session.refuse(CONNECTION_FORCED, "CONNECTION_FORCED - the broker shuts down")
            self._keeper.commit()
            self._send(time.monotonic())
        finally:
            self._free()

    def _free(self) -> None:
        self._router.disable_monitor()
        self._router.close()
        self._monitor.close(linger=0)
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
        self._waker.close()
        self._woken.close()
