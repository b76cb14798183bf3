"""StreamSession: what a driver writes to speak its protocol over a byte stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from carrot.backends.sockets.writer import Writer
from carrot.deadline import Deadline
from carrot.exceptions import CarrotError
from carrot.settings import ConnectionSettings

__all__ = ["HEARTBEAT", "StreamSession", "StreamView", "TransportView", "Writer"]

#: Seconds between signs of life, unless the settings say otherwise.
HEARTBEAT = 10


class TransportView(Protocol):
    """What a channel needs of its connection, whatever the protocol; Stream documents each."""

    operation_timeout: float | None
    is_silent: bool

    @property
    def blocked(self) -> str | None: ...
    def answer(self, data: bytes) -> None: ...
    def write(self, data: bytes, channel: Writer | None = None) -> None: ...
    def write_soon(self, data: bytes, channel: Writer) -> None: ...
    def write_with_others(self, data: bytes, channel: Writer) -> None: ...
    def flush(self) -> None: ...
    def flush_soon(self) -> None: ...
    def look(self) -> None: ...
    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None: ...
    def wait_for_answer(
        self,
        ready: Callable[[], object],
        patience: float | None = None,
        request: int | None = None,
    ) -> None: ...
    def interrupt(self) -> None: ...
    def tell_soon(self, tell: Callable[[], object]) -> None: ...


class StreamView(TransportView, Protocol):
    """What a session needs of its connection, beyond what its channels need."""

    where: str

    def raise_lost(self) -> None: ...
    def write_if_room(self, data: bytes) -> None: ...
    def block(self, reason: str | None) -> None: ...
    def start_heart(self, interval: float) -> None: ...


class StreamSession(ABC):
    """One login at a broker, with its channels: all that depends on the protocol.

    It reads and writes over a :class:`~carrot.backends.sockets.stream.Stream`, which calls it: one
    thread at a time feeds it, and any thread asks for channels.

    :cvar breaks_with: what ends the connection when reading raises it: the system's errors, and
        the driver's own for a peer that can't be understood, or has said that it hangs up.
    :cvar heartbeat_bytes: a sign of life.
    :ivar counts_returns: as of :class:`~carrot.backends.base.BaseTransport`, after the login.
    """

    breaks_with: ClassVar[tuple[type[Exception], ...]] = (OSError, ValueError)
    heartbeat_bytes: ClassVar[bytes]

    def __init__(self) -> None:
        self.counts_returns = False

    @abstractmethod
    def shake_hands(self, settings: ConnectionSettings, deadline: Deadline) -> None:
        """Log in, and start the heart.

        :param deadline: it is the thread's deadline, too.
        """

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Take in what has come, in pieces of any size, and hand it to whom it is for."""

    @abstractmethod
    def channel(self) -> Any:
        """A new channel of the driver's own kind, open.

        :raises ConnectionLost: the connection is gone.
        """

    @abstractmethod
    def close_channels(self) -> None:
        """The connection is gone: no channel is open any more."""

    @abstractmethod
    def say_goodbye(self, deadline: Deadline) -> None:
        """End the connection as the protocol has it, and wait for the broker's answer.

        :param deadline: it is the thread's deadline, too.
        """

    @abstractmethod
    def renew_locks(self) -> None:
        """Make the locks, also in a forked child, whose parent's threads may hold the old ones."""

    def refusal(self, cause: BaseException | None, request: int | None) -> CarrotError | None:
        """A new error for a thread over whose *request* the broker closed the connection.

        :param cause: why the connection is lost.
        :param request: the driver's number of it; None: a message was published.
        :returns: None: the connection is not lost over this request.
        """
        return None

    def large(self) -> tuple[int, int] | None:
        """The largest content that is arriving: bytes so far, and in all; None: there is none.

        One that fits in a frame doesn't count: where small messages come, there may always be one.
        """
        return None
