"""Session: one client of the broker: its handshake, its channels, and its output.

AMQP 0-9-1, sections 2.2.4 and 4.2. No I/O: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pamqp import base, commands

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import FROM_CLIENT, HEARTBEAT_FRAME, Decoder, Event
from carrot.backends.amqp.methods import encode_method
from carrot.checks import short_string
from carrot.server.channel import ServerChannel
from carrot.server.frames import command_of
from carrot.server.protocol import (
    CHANNEL_MAX,
    FRAME_MAX,
    HEARTBEAT,
    MESSAGE_MAX,
    PIECE,
)
from carrot.server.virtual_host import RemoteChannel, RemoteConnection, ServedVirtualHost

#: Bytes that wait to be sent to a client: above FULL it gets no deliveries until they are below
#: DRAINED; above TOO_MUCH it is dropped: it sends requests and never reads.
FULL, DRAINED, TOO_MUCH = 1024 * 1024, 256 * 1024, 2 * MESSAGE_MAX
#: Seconds for a client's handshake.
PATIENCE = 10.0


class Session:
    """A client, from its protocol header on.

    :param enter: gives the virtual host of a name.
    :param on_output: called when the first bytes wait to be sent.
    :ivar last_received: when the client's last bytes came.
    :ivar last_sent: when the last bytes were sent to it.
    """

    virtual_host: ServedVirtualHost

    def __init__(
        self,
        enter: Callable[[str], ServedVirtualHost],
        on_output: Callable[[Session], object],
        now: float,
    ) -> None:
        self.last_received = self.last_sent = self._begun = now
        self._enter = enter
        self._on_output = on_output
        self._decoder = Decoder(FRAME_MAX, FROM_CLIENT, MESSAGE_MAX)
        self._expected: type[base.Frame] | None = commands.Connection.StartOk
        self.user = ""
        self._heartbeat = 0.0
        self._connection: RemoteConnection | None = None
        self._channels: dict[int, ServerChannel] = {}
        self._unsettled: dict[ServerChannel, None] = {}
        self._output: list[bytes] = []
        self._waiting = 0  # bytes of it
        self.is_done = False
        self._reply(
            commands.Connection.Start,
            version_major=0,
            version_minor=9,
            server_properties={"product": "carrot.server"},
            mechanisms="PLAIN",
            locales="en_US",
        )

    @property
    def virtual_host_name(self) -> str:
        """For the log; empty before the client has opened one."""
        return "" if self._connection is None else self.virtual_host.name

    # -- what comes in

    def feed(self, data: bytes, now: float) -> None:
        """Carry out the methods in the client's bytes.

        :raises FramingError: no client of this broker sends such bytes: it has to be dropped.
        """
        self.last_received = now
        channels = self._channels
        for event in self._decoder.feed(data):
            if self.is_done:
                return
            channel = channels.get(event.channel)
            if channel is not None:
                channel.handle(event)
            else:
                self._handle_own(event)

    def _handle_own(self, event: Event) -> None:
        """A method of the connection, or of a channel that isn't open."""
        command = command_of(event)
        if event.channel == 0 and isinstance(command, commands.Connection.Close):
            self.close()
            self._reply(commands.Connection.CloseOk)
        elif event.channel == 0 and self._expected is not None:
            if not isinstance(command, self._expected):
                raise FramingError(f"expected {self._expected.name}, and {command.name} came")
            _HANDSHAKE[self._expected](self, command)
        elif event.channel and self._connection and isinstance(command, commands.Channel.Open):
            if event.channel > CHANNEL_MAX:
                raise FramingError(f"channel {event.channel}; {CHANNEL_MAX} are allowed")
            channel = self._connection.channel()
            assert isinstance(channel, RemoteChannel)
            self._channels[event.channel] = ServerChannel(self, event.channel, channel)
            self.send(encode_method(commands.Channel.OpenOk, event.channel))
        else:
            raise FramingError(f"{command.name} came on channel {event.channel}, out of order")

    def _start_ok(self, command: commands.Connection.StartOk) -> None:
        # PLAIN (RFC 4616). CURVE decides who may connect; the password is ignored.
        parts = str(command.response).split("\0")
        if command.mechanism != "PLAIN" or len(parts) != 3:
            raise FramingError("the login is not PLAIN")
        self.user = short_string("user", parts[1])
        self._expected = commands.Connection.TuneOk
        self._reply(
            commands.Connection.Tune,
            channel_max=CHANNEL_MAX,
            frame_max=FRAME_MAX,
            heartbeat=HEARTBEAT,
        )

    def _tune_ok(self, command: commands.Connection.TuneOk) -> None:
        if command.frame_max != FRAME_MAX:
            raise FramingError(f"frame_max is {command.frame_max}, not {FRAME_MAX} as proposed")
        self._heartbeat = float(command.heartbeat)
        self._expected = commands.Connection.Open

    def _open(self, command: commands.Connection.Open) -> None:
        self.virtual_host = self._enter(command.virtual_host)
        self._connection = RemoteConnection(self.virtual_host, self.user)
        self._expected = None
        self._reply(commands.Connection.OpenOk)

    # -- what goes out

    def _reply(self, method: type[base.Frame], **arguments: Any) -> None:
        self.send(encode_method(method, 0, **arguments))

    def send(self, frames: bytes) -> None:
        """Add frames to the output."""
        if not self._output:
            self._on_output(self)
        self._output.append(frames)
        self._waiting += len(frames)
        if self._waiting > FULL and self._connection is not None:
            self._connection.is_full = True

    def unsettled(self, channel: ServerChannel) -> None:
        """Note that a channel has messages to confirm, once they are committed."""
        self._unsettled[channel] = None
        if not self._output:
            self._on_output(self)

    def settle(self) -> None:
        """Confirm the messages of all channels."""
        for channel in self._unsettled:
            channel.settle()
        self._unsettled.clear()

    def take_output(self) -> list[bytes]:
        """Take the output, in pieces to send; :meth:`put_back` takes back those without room."""
        data = self._output[0] if len(self._output) == 1 else b"".join(self._output)
        self._output.clear()
        self._waiting = 0
        if len(data) <= PIECE:
            return [data] if data else []
        return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]

    def put_back(self, pieces: list[bytes]) -> None:
        """Take back pieces that there was no room for."""
        self._output = [*pieces, *self._output]
        self._waiting = sum(map(len, self._output))

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    @property
    def is_too_much(self) -> bool:
        """Whether the output is so large that the client can't be reading."""
        return self._waiting > TOO_MUCH

    def resume(self) -> None:
        """Deliver again, if enough of the output has been sent."""
        connection = self._connection
        if connection is not None and connection.is_full and self._waiting < DRAINED:
            connection.is_full = False
            for channel in tuple(self._channels.values()):
                channel.channel.resume()

    # -- alive or not

    def restart_silence(self, now: float) -> None:
        """Count the client's silence from now: the broker was not listening before."""
        self.last_received = self._begun = now

    def beat(self, now: float) -> None:
        """Send a heartbeat, if nothing else was sent lately."""
        if self._heartbeat and now - self.last_sent > self._heartbeat / 2:
            self.send(HEARTBEAT_FRAME)

    def is_silent(self, now: float) -> bool:
        """Whether the client was silent for two heartbeats, or for too long in its handshake.

        AMQP 0-9-1, section 4.2.7.
        """
        if self._expected is not None:
            return now - self._begun > PATIENCE
        return bool(self._heartbeat) and now - self.last_received > 2 * self._heartbeat

    # -- the end

    def forget(self, channel: ServerChannel) -> None:
        """Forget a closed channel."""
        self._channels.pop(channel.number, None)
        self._unsettled.pop(channel, None)

    def refuse(self, code: int, text: str) -> None:
        """Close the connection, and tell the client why."""
        self.settle()
        self.close()
        short = text.encode()[:255].decode(errors="ignore")
        self._reply(commands.Connection.Close, reply_code=code, reply_text=short)

    def close(self) -> None:
        """Close all channels: unacked messages go back. Again is harmless."""
        self.is_done = True
        if self._connection is not None:
            self.settle()
            self._connection.close()


_HANDSHAKE: dict[type[base.Frame], Callable[[Session, Any], None]] = {
    commands.Connection.StartOk: Session._start_ok,
    commands.Connection.TuneOk: Session._tune_ok,
    commands.Connection.Open: Session._open,
}
