"""Session: one client of the broker: its handshake, its channels, and what waits to be sent to it.

AMQP 0-9-1, sections 2.2.4 and 4.2. No I/O: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pamqp import base, commands

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import FROM_CLIENT, HEARTBEAT_FRAME, Decoder, Event
from carrot.backends.amqp.methods import decode_method, encode_method
from carrot.checks import short_string
from carrot.server.channel import ServerChannel
from carrot.server.protocol import (
    CHANNEL_MAX,
    FRAME_MAX,
    HEARTBEAT,
    MESSAGE_MAX,
    PIECE,
)
from carrot.server.virtual_host import RemoteChannel, RemoteConnection, ServedVirtualHost

#: Bytes that wait to be sent to a client: above the first it gets no deliveries, down to the
#: second; above the last it is dropped, for it asks and never listens.
FULL, DRAINED, TOO_MUCH = 1024 * 1024, 256 * 1024, 2 * MESSAGE_MAX
#: Seconds for a client's handshake.
PATIENCE = 10.0


class Session:
    """A client, from its protocol header on.

    :param enter: gives the world of a virtual host.
    :param on_output: called when something waits to be sent, and nothing did before.
    :ivar heard: when the client was heard last; :ivar told: when it was sent something.
    """

    world: ServedVirtualHost

    def __init__(
        self,
        enter: Callable[[str], ServedVirtualHost],
        on_output: Callable[[Session], object],
        now: float,
    ) -> None:
        self.heard = self.told = self._begun = now
        self._enter = enter
        self._on_output = on_output
        self._decoder = Decoder(FRAME_MAX, FROM_CLIENT, MESSAGE_MAX)
        self._expected: type[base.Frame] | None = commands.Connection.StartOk
        self._user = ""
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
            server_properties={"product": "carrot.backends.zeromq"},
            mechanisms="PLAIN",
            locales="en_US",
        )

    # -- what comes in

    def feed(self, data: bytes, now: float) -> None:
        """Do what the client's bytes ask for.

        :raises FramingError: they are no client's of this broker: it has to be dropped.
        """
        self.heard = now
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
        command = decode_method(event.method, event.arguments)
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
        # PLAIN (RFC 4616); CURVE says who may connect, and the password is not looked at.
        parts = str(command.response).split("\0")
        if command.mechanism != "PLAIN" or len(parts) != 3:
            raise FramingError("a login that is not PLAIN")
        self._user = short_string("user", parts[1])
        self._expected = commands.Connection.TuneOk
        self._reply(
            commands.Connection.Tune,
            channel_max=CHANNEL_MAX,
            frame_max=FRAME_MAX,
            heartbeat=HEARTBEAT,
        )

    def _tune_ok(self, command: commands.Connection.TuneOk) -> None:
        if command.frame_max != FRAME_MAX:
            raise FramingError(f"frames of {command.frame_max} bytes, and not of {FRAME_MAX}")
        self._heartbeat = float(command.heartbeat)
        self._expected = commands.Connection.Open

    def _open(self, command: commands.Connection.Open) -> None:
        self.world = self._enter(command.virtual_host)
        self._connection = RemoteConnection(self.world, self._user)
        self._expected = None
        self._reply(commands.Connection.OpenOk)

    # -- what goes out

    def _reply(self, method: type[base.Frame], **arguments: Any) -> None:
        self.send(encode_method(method, 0, **arguments))

    def send(self, frames: bytes) -> None:
        """These frames wait to be sent."""
        if not self._output:
            self._on_output(self)
        self._output.append(frames)
        self._waiting += len(frames)
        if self._waiting > FULL and self._connection is not None:
            self._connection.is_full = True

    def unsettled(self, channel: ServerChannel) -> None:
        """That channel has something to confirm, once it is committed."""
        self._unsettled[channel] = None
        if not self._output:
            self._on_output(self)

    def settle(self) -> None:
        """Confirm what is to be confirmed."""
        for channel in self._unsettled:
            channel.settle()
        self._unsettled.clear()

    def take_output(self) -> list[bytes]:
        """What waits, in pieces to send; what can't be sent is for :meth:`put_back`."""
        data = self._output[0] if len(self._output) == 1 else b"".join(self._output)
        self._output.clear()
        self._waiting = 0
        if len(data) <= PIECE:
            return [data] if data else []
        return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]

    def put_back(self, pieces: list[bytes]) -> None:
        """There was no room for these."""
        self._output = [*pieces, *self._output]
        self._waiting = sum(map(len, self._output))

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    @property
    def is_too_much(self) -> bool:
        """Whether so much waits that the client can't be listening."""
        return self._waiting > TOO_MUCH

    def resume(self) -> None:
        """Deliver again, when enough of what waited has been sent."""
        connection = self._connection
        if connection is not None and connection.is_full and self._waiting < DRAINED:
            connection.is_full = False
            for channel in tuple(self._channels.values()):
                channel.channel.resume()

    # -- alive or not

    def forgive(self, now: float) -> None:
        """The client can't be blamed for its silence: nobody listened."""
        self.heard = self._begun = now

    def beat(self, now: float) -> None:
        """Send a sign of life, if nothing else was sent lately."""
        if self._heartbeat and now - self.told > self._heartbeat / 2:
            self.send(HEARTBEAT_FRAME)

    def is_silent(self, now: float) -> bool:
        """Whether the client is gone: two intervals of silence (AMQP 0-9-1, section 4.2.7)."""
        if self._expected is not None:
            return now - self._begun > PATIENCE
        return bool(self._heartbeat) and now - self.heard > 2 * self._heartbeat

    # -- the end

    def forget(self, channel: ServerChannel) -> None:
        """That channel is closed."""
        self._channels.pop(channel.number, None)
        self._unsettled.pop(channel, None)

    def refuse(self, code: int, text: str) -> None:
        """Say goodbye, and why."""
        self.settle()
        self.close()
        short = text.encode()[:255].decode(errors="ignore")
        self._reply(commands.Connection.Close, reply_code=code, reply_text=short)

    def close(self) -> None:
        """The client is gone: what it held unacked goes back. Again is harmless."""
        self.is_done = True
        if self._connection is not None:
            self.settle()
            self._connection.close()


_HANDSHAKE: dict[type[base.Frame], Callable[[Session, Any], None]] = {
    commands.Connection.StartOk: Session._start_ok,
    commands.Connection.TuneOk: Session._tune_ok,
    commands.Connection.Open: Session._open,
}
