"""Transport: a connection to RabbitMQ that any number of threads share, without a reader thread.

Whoever waits for something reads for everyone: see :meth:`Transport.wait_for`.
"""

from __future__ import annotations

import math
import platform
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, ClassVar, Self

from pamqp import base, commands

from carrot import threads
from carrot.backends.amqp import link as link_module
from carrot.backends.amqp.channel import Channel
from carrot.backends.amqp.errors import ClosedByBroker, FramingError, connection_failed
from carrot.backends.amqp.framing import DELIVER, HEARTBEAT_FRAME, Decoder, Event
from carrot.backends.amqp.link import AnyLink
from carrot.backends.amqp.methods import decode_method, encode_method
from carrot.backends.amqp.tables import encode_table
from carrot.backends.amqp.timer import timer
from carrot.backends.base import BaseTransport
from carrot.backends.turns import Turns
from carrot.deadline import spelled, within
from carrot.exceptions import (
    CarrotError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    OperationTimeout,
)
from carrot.retry import pause
from carrot.settings import ConnectionSettings

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
#: What the handshake proposes; the broker may want less. RabbitMQ's own default.
FRAME_MAX = 131072
CHANNEL_MAX = 2047
#: Seconds between signs of life, unless the settings say otherwise.
HEARTBEAT = 10
#: How long may nobody have read, in seconds, when a message is sent that nobody confirms.
UNREAD = 0.5
#: How late an ack may be, in seconds, so that it can share a write with others.
ACK_DELAY = 0.001
#: How much is kept back, in bytes, while many messages are sent together.
LARGE_WRITE = 64 * 1024


class Transport(BaseTransport):
    """A connection, its channels, and the turn of reading.

    :ivar is_silent: an answer was due and has not come, nor anything since.

    Reading takes turns; ``_writing`` guards what goes out, ``_numbers`` the channels and the end.
    """

    default_port: ClassVar[int | None] = 5672
    default_tls_port: ClassVar[int | None] = 5671

    def __init__(self, link: AnyLink, settings: ConnectionSettings, where: str) -> None:
        super().__init__()
        self.frame_max = FRAME_MAX
        self.operation_timeout = settings.operation_timeout
        self.is_silent = False
        self._link = link
        self._where = where
        self._heartbeat = 0.0
        self._channel_max = CHANNEL_MAX
        self._channels: dict[int, Channel] = {}
        self._numbers = threading.Lock()
        self._decoder = Decoder(FRAME_MAX)
        self._lost: ConnectionLost | None = None
        self._turns = Turns(self._read_once, self._tell_blocked)
        self._blocked_news: deque[str | None] = deque()
        self._telling = threading.Lock()
        self._writing = threading.Lock()
        self._soon: list[bytes] = []
        self._soon_size = 0
        self._flush_is_due = False
        self._last_write = self._last_read = self._last_look = time.monotonic()
        self._answer: base.Frame | None = None

    # -- opening

    @classmethod
    def open(cls, settings: ConnectionSettings) -> Self:
        where = cls._place(settings)
        timeout = settings.connect_timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        transport = None
        try:
            transport = cls(cls._dial(settings, deadline), settings, where)
            transport._shake_hands(settings, deadline)
        except BaseException as exc:
            if transport is not None:
                transport._lose(ConnectionAbortedError("it could not be opened"))
            if isinstance(exc, ConfigurationError) or not isinstance(exc, (OSError, CarrotError)):
                raise
            # The reason behind a ConnectionLost: this connection never was.
            cause = exc.__cause__ if isinstance(exc, ConnectionLost) else exc
            failure = cause if isinstance(cause, Exception) else exc
            if isinstance(exc, OperationTimeout):
                failure = TimeoutError()
            raise cls._failed(settings, where, failure) from exc
        return transport

    @classmethod
    def _port(cls, settings: ConnectionSettings) -> int:
        port = settings.port or (cls.default_tls_port if settings.ssl else cls.default_port)
        assert port is not None
        return port

    @classmethod
    def _place(cls, settings: ConnectionSettings) -> str:
        """Host, port and virtual host, for errors."""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{host}:{cls._port(settings)}, virtual host {settings.virtual_host!r}"

    @classmethod
    def _dial(cls, settings: ConnectionSettings, deadline: float | None) -> AnyLink:
        """The link to the broker, over which the handshake goes.

        :raises OSError: it can't be made.
        """
        return link_module.connect(settings, cls._port(settings), deadline)

    @classmethod
    def _failed(
        cls, settings: ConnectionSettings, where: str, cause: Exception
    ) -> ConnectionFailed:
        """Why the connection could not be made, with a remedy."""
        return connection_failed(settings, where, cause)

    def _shake_hands(self, settings: ConnectionSettings, deadline: float | None) -> None:
        """AMQP 0-9-1, section 2.2.4: start, tune, open."""
        self.write(PROTOCOL_HEADER)
        start = self._expect(commands.Connection.Start, deadline)
        mechanism, response = _credentials(settings, start.mechanisms)
        self._send(
            commands.Connection.StartOk,
            client_properties=_client_properties(),
            mechanism=mechanism,
            response=response,
            locale="en_US",
        )
        tune = self._expect(commands.Connection.Tune, deadline)
        self.frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
        self._channel_max = min(tune.channel_max or CHANNEL_MAX, CHANNEL_MAX)
        self._decoder.frame_max = self.frame_max
        self._heartbeat = float(
            HEARTBEAT if settings.heartbeat is None else math.ceil(settings.heartbeat)
        )
        if self._heartbeat and tune.heartbeat:
            self._heartbeat = min(self._heartbeat, float(tune.heartbeat))
        self._send(
            commands.Connection.TuneOk,
            channel_max=self._channel_max,
            frame_max=self.frame_max,
            heartbeat=int(self._heartbeat),
        )
        self._send(commands.Connection.Open, virtual_host=settings.virtual_host)
        self._expect(commands.Connection.OpenOk, deadline)
        if self._heartbeat:
            timer.call_in(self._heartbeat / 2, _weakly(self._beat))

    def _send(self, method: type[base.Frame], **arguments: Any) -> None:
        self.write(encode_method(method, 0, **arguments))

    def _expect(self, method: type[base.Frame], deadline: float | None) -> Any:
        """Wait for a method of the connection itself."""
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        self.wait_for(lambda: self._answer is not None, timeout)
        answer, self._answer = self._answer, None
        if not isinstance(answer, method):
            raise FramingError(f"expected {method.name}, and {answer!r} came")
        return answer

    # -- alive or not

    @property
    def is_open(self) -> bool:
        return self._lost is None

    def _lose(self, cause: Exception) -> None:
        """The connection is gone, for everybody; the first reason counts."""
        with self._numbers:
            if self._lost is not None:
                return
            self._lost = ConnectionLost(
                f"the connection to {self._where} is gone: {cause}; what was not confirmed or "
                "acked may not have arrived"
            )
            self._lost.__cause__ = cause
            for channel in list(self._channels.values()):
                channel.is_open = False
        # Wakes whoever is reading, who then wakes the others.
        self._link.close()

    def _raise_lost(self) -> None:
        if self._lost is not None:
            # A new object for each: a traceback belongs to one thread.
            raise ConnectionLost(str(self._lost)) from self._lost.__cause__

    # -- reading

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        # Whoever has the turn may have flushed before this was kept back.
        if self._soon and not ready():
            self.flush()
        if not self._turns.wait_for(ready, timeout):
            raise OperationTimeout(f"nothing came from {self._where} within {timeout} seconds")

    def look(self) -> None:
        """Take in what has arrived, if nobody has lately: the end of the connection, perhaps."""
        if time.monotonic() - self._last_look > UNREAD:
            self._last_look = time.monotonic()
            self._turns.wait_for(_never, 0)

    def _read_once(self, timeout: float | None) -> None:
        """Read what there is, waiting for it at most *timeout* seconds."""
        self._raise_lost()
        self.flush()
        if self._heartbeat:
            timeout = self._heartbeat if timeout is None else min(timeout, self._heartbeat)
        try:
            if not self._link.wait(timeout):
                self._check_silence()
                return
        except (OSError, ValueError) as exc:
            self._lose(exc)
            self._raise_lost()
        self._take_in()

    def _take_in(self) -> None:
        """Read what has arrived, and hand it to whom it is for."""
        try:
            data = self._link.read()
            if data is None:
                return
            if not data:
                raise ConnectionResetError("the broker hung up")
            self._last_read = self._last_look = time.monotonic()
            self.is_silent = False
            self._handle(self._decoder.feed(data))
        except (OSError, ValueError, FramingError, ClosedByBroker) as exc:
            self._lose(exc)
            self._raise_lost()
        except BaseException as exc:
            # An interrupt, in the middle of what can't be read again.
            self._lose(ConnectionAbortedError(f"{type(exc).__name__} interrupted a read"))
            raise

    def _check_silence(self) -> None:
        """A broker that sends nothing for two intervals is gone (AMQP 0-9-1, section 4.2.7)."""
        silent = time.monotonic() - self._last_read
        if self._heartbeat and silent > 2 * self._heartbeat:
            raise ConnectionResetError(f"the broker has been silent for {silent:.1f} seconds")

    def _handle(self, events: Iterable[Event]) -> None:
        number, deliver = 0, None
        for event in events:
            # Deliveries come in rows, all for one listener: 0.25 µs saved for each.
            if event.method == DELIVER and event.channel == number and deliver is not None:
                deliver(event)
                continue
            number = event.channel
            channel = self._channels.get(number)
            deliver = None
            if channel is None:
                if number == 0:
                    self._handle_own(decode_method(event.method, event.arguments))
                # Else: of a channel that was given up.
            elif event.method == DELIVER:
                if (listener := channel.listener) is not None:
                    deliver = listener.on_delivery
                    deliver(event)
            else:
                channel.handle(event)

    def _handle_own(self, command: base.Frame) -> None:
        if isinstance(command, commands.Connection.Close):
            # The broker may hang up first, and that shall not be the reason.
            self._write_if_room(encode_method(commands.Connection.CloseOk, 0))
            raise ClosedByBroker(command.reply_code or 0, command.reply_text)
        if isinstance(command, commands.Connection.Blocked):
            self.blocked = command.reason or "no reason given"
            self._blocked_news.append(self.blocked)
        elif isinstance(command, commands.Connection.Unblocked):
            self.blocked = None
            self._blocked_news.append(None)
        else:
            self._answer = command

    def _tell_blocked(self) -> None:
        # In a thread of its own: the one that reads may be in the middle of a request.
        if self._blocked_news:
            threads.start(threading.Thread(target=self._tell_news, daemon=True))

    def _tell_news(self) -> None:
        with self._telling:
            while self._blocked_news:
                self.tell_blocked(self._blocked_news.popleft())

    def interrupt(self) -> None:
        self._link.wake()

    # -- writing

    def write(self, data: bytes, channel: Channel | None = None) -> None:
        """Send *data*, and before it what was to be sent soon.

        :param channel: the one it is for, which must be open.
        :raises ConnectionLost: the connection is gone.
        """
        if self._writing.locked():
            self._wait_to_write()
        # An acquire() of our own could be interrupted before its release() is certain.
        with self._writing:
            if self._lost is not None or (channel is not None and not channel.is_open):
                self._refuse(channel)
            if self._soon:
                self._soon.append(data)
                data = b"".join(self._soon)
                self._soon.clear()
                self._soon_size = 0
            try:
                self._link.write(data)
            except (OSError, ValueError) as exc:
                failure: BaseException = exc
            except BaseException as exc:
                failure = exc  # an interrupt: how much was written, nobody knows
            else:
                self._last_write = time.monotonic()
                return
        if isinstance(failure, Exception):
            self._lose(failure)
            self._raise_lost()
        self._lose(ConnectionAbortedError(f"{type(failure).__name__} interrupted a write"))
        raise failure

    def _wait_to_write(self) -> None:
        """Another thread writes: wait until it has, if this one has a deadline."""
        patience = within(None)
        if patience is not None and not pause(patience, lambda: not self._writing.locked()):
            raise OperationTimeout(
                f"the broker didn't take what another thread sends to {self._where} within "
                f"{spelled(patience)}"
            )

    def write_with_others(self, data: bytes, channel: Channel) -> None:
        """Send *data* when there is enough for a large write, or with the next one."""
        with self._writing:
            if self._lost is not None or not channel.is_open:
                self._refuse(channel)
            self._soon.append(data)
            self._soon_size += len(data)
        if self._soon_size >= LARGE_WRITE:
            self.flush()

    def write_soon(self, data: bytes, channel: Channel) -> None:
        """Send *data* with the next write, before the next read, or in about a millisecond.

        At once when nothing was written for that long: then nobody is in a hurry to follow.
        """
        if time.monotonic() - self._last_write > ACK_DELAY:
            self.write(data, channel)
            return
        with self._writing:
            if self._lost is not None or not channel.is_open:
                self._refuse(channel)
            self._soon.append(data)
        self.flush_soon()

    def flush_soon(self) -> None:
        """Let the timer send what was to be sent soon."""
        if not self._flush_is_due:
            self._flush_is_due = True
            timer.call_in(ACK_DELAY, _weakly(self._flush_late))

    def _refuse(self, channel: Channel | None) -> None:
        """Say why nothing can be written."""
        self._raise_lost()
        if channel is not None:
            channel.check_open()

    def flush(self) -> None:
        """Send what was to be sent soon.

        :raises ConnectionLost: the connection is gone.
        """
        if self._soon:
            self.write(b"")

    def _flush_late(self) -> None:
        self._flush_is_due = False  # first: what is kept back from now on asks for its own
        self._write_if_room(b"")
        if self._soon and self._lost is None:
            self.flush_soon()  # somebody else was writing, or there was no room

    def _beat(self) -> None:
        """Called by the timer: send a heartbeat, if nothing else was sent lately."""
        if self._lost is not None:
            return
        interval = self._heartbeat / 2
        if time.monotonic() - self._last_write >= interval * 0.9:
            self._write_if_room(HEARTBEAT_FRAME)
        timer.call_in(interval, _weakly(self._beat))

    def _write_if_room(self, data: bytes) -> None:
        """Send what is kept back and *data* without waiting: the timer serves others too."""
        if self._lost is None and self._writing.acquire(blocking=False):
            try:
                kept = b"".join([*self._soon, data])
                rest = self._link.write_if_room(kept) if kept else b""
                self._soon = [rest] if rest else []
                self._soon_size = len(rest)
                self._last_write = time.monotonic()
            except (OSError, ValueError):
                pass  # the next one who reads or writes finds out
            finally:
                self._writing.release()

    # -- channels

    def channel(self) -> Channel:
        """A new channel of the driver's own, open.

        :raises ConnectionFailed: all channel numbers are taken.
        """
        with self._numbers:
            self._raise_lost()
            number = next(
                (n for n in range(1, self._channel_max + 1) if n not in self._channels), None
            )
            if number is None:
                raise ConfigurationError(
                    f"all {self._channel_max} channels of the connection to {self._where} are in "
                    "use: close publishers and consumers, or share them"
                )
            channel = self._channels[number] = Channel(self, number)
        channel.call(commands.Channel.Open)
        return channel

    def forget(self, number: int) -> None:
        """The channel of that number is closed."""
        self._channels.pop(number, None)

    # -- closing

    def close(self, timeout: float | None = None) -> None:
        if self._lost is not None:
            return
        patience = self.operation_timeout if timeout is None else timeout
        deadline = None if patience is None else time.monotonic() + patience
        if self.is_silent or self.blocked is not None:
            # RabbitMQ doesn't read what a blocked connection sends, so it won't answer.
            patience, deadline = 0.0, time.monotonic()
        # A write that hangs is not waited for: hanging up ends it.
        if self._writing.acquire(timeout=-1 if patience is None else patience):
            try:
                with suppress(OSError):  # lost this very moment
                    self._link.hurry(patience)
            finally:
                self._writing.release()
            with suppress(CarrotError):
                self._send(commands.Connection.Close, reply_code=200)
                self._expect(commands.Connection.CloseOk, deadline)
        self._lose(ConnectionAbortedError("it was closed here"))

    def disown(self) -> None:
        self._lost = ConnectionLost("the connection is the parent process's")
        for channel in list(self._channels.values()):
            channel.is_open = False
        self._link.abandon()


def _never() -> bool:
    return False


def _weakly(method: Callable[[], object]) -> Callable[[], None]:
    """*method*, without keeping a forgotten connection alive."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (alive := reference()) is not None:
            alive()

    return call


def _credentials(settings: ConnectionSettings, mechanisms: str) -> tuple[str, str]:
    """The mechanism to log in with, and its response (SASL)."""
    # pamqp gives bytes, when it isn't text.
    offered = str(mechanisms).split()
    if settings.login_method not in offered:
        raise FramingError(
            f"the broker offers the login methods {', '.join(offered)}, and not "
            f"{settings.login_method}"
        )
    return settings.login_method, _RESPONSES[settings.login_method](settings)


def _amqplain(settings: ConnectionSettings) -> Any:
    # A table without its length, in a long string.
    return encode_table({"LOGIN": settings.userid, "PASSWORD": settings.password})[4:]


_RESPONSES: dict[str, Callable[[ConnectionSettings], Any]] = {
    "PLAIN": lambda settings: f"\0{settings.userid}\0{settings.password}",
    "AMQPLAIN": _amqplain,
    "EXTERNAL": lambda settings: "",
}


def _client_properties() -> dict[str, Any]:
    """What the broker's operator sees of this client, and what it understands."""
    return {
        "product": "carrot",
        "platform": f"Python {platform.python_version()}",
        "information": "https://pypi.org/project/carrot/",
        "capabilities": {
            "publisher_confirms": True,
            "exchange_exchange_bindings": True,
            "basic.nack": True,
            "consumer_cancel_notify": True,
            "connection.blocked": True,
            "authentication_failure_close": True,
        },
    }
