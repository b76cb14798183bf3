"""StreamTransport: the transport of every driver over a byte stream; it only passes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from carrot.backends.sockets.session import StreamSession, StreamView
from carrot.backends.sockets.socket import ByteStream
from carrot.backends.sockets.stream import Stream
from carrot.backends.transport import BaseTransport
from carrot.deadline import Deadline
from carrot.settings import ConnectionSettings

#: Makes a driver's session, which uses the stream that it is given.
StartSession = Callable[[StreamView], StreamSession]


@final
class StreamTransport(BaseTransport):
    """A connection over a byte stream: a stream, and the session that a driver has over it.

    :ivar stream: reads and writes, and knows when it is over.
    :ivar session: speaks the driver's protocol.
    """

    # No property, which would cost 0.1 µs for each message that is sent, and that is received.
    is_open: bool = True

    def __init__(
        self,
        link: ByteStream,
        settings: ConnectionSettings,
        where: str,
        start_session: StartSession,
    ) -> None:
        self.is_open = True
        self.stream = stream = Stream(link, settings.operation_timeout, where, self, start_session)
        self.session = stream.session
        # Bound here, which saves a call for each message.
        self.wait_for = stream.wait_for  # type: ignore[method-assign]
        self.wait_for_answer = stream.wait_for_answer  # type: ignore[method-assign]
        # Last: from then on a fork in another thread comes by, and the end of the interpreter.
        super().__init__()

    def log_in(self, settings: ConnectionSettings, deadline: Deadline) -> None:
        """Open the session."""
        self.session.shake_hands(settings, deadline)
        self.counts_returns = self.session.counts_returns
        self.heartbeat = self.stream.heartbeat

    def channel(self) -> Any:
        return self.session.channel()

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        self.stream.wait_for(ready, timeout)

    def interrupt(self) -> None:
        self.stream.interrupt()

    def close(self, timeout: float | None = None) -> None:
        self.stream.close(timeout)

    def finish(self, timeout: float) -> None:
        self.stream.finish(timeout)

    def after_fork_in_child(self) -> None:
        self.stream.after_fork_in_child()
