"""Transport: a connection to an AMQP broker, for any number of threads; see StreamTransport."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from pamqp import base, commands

from carrot.backends.amqp.channel import Channel
from carrot.backends.amqp.errors import (
    ClosedByBroker,
    FramingError,
    LoginMethodNotOffered,
    connection_failed,
)
from carrot.backends.amqp.framing import (
    ACK,
    DELIVER,
    HEARTBEAT_FRAME,
    NACK,
    PUBLISH,
    REJECT,
    Decoder,
    Event,
)
from carrot.backends.amqp.methods import decode_method, encode_method
from carrot.backends.amqp.tables import encode_table
from carrot.backends.sockets.socket import ByteStream
from carrot.backends.sockets.stream import HEARTBEAT, StreamTransport
from carrot.backends.transport import counts_returns
from carrot.deadline import Deadline
from carrot.exceptions import BrokerRefused, CarrotError, ConfigurationError
from carrot.remedies import CLOSED_OVER_A_REQUEST, broker_refused
from carrot.settings import ConnectionSettings

#: The methods that settle, which have no answer.
SETTLING = (ACK, NACK, REJECT)
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
#: What the handshake proposes; the broker may want less. RabbitMQ's own default.
FRAME_MAX = 131072
CHANNEL_MAX = 2047


class Transport(StreamTransport):
    """A connection and its channels."""

    breaks_with = (*StreamTransport.breaks_with, FramingError, ClosedByBroker)
    heartbeat_bytes = HEARTBEAT_FRAME
    default_port: ClassVar[int | None] = 5672
    default_tls_port: ClassVar[int | None] = 5671
    #: Bytes that the body of a message may have; None: the broker says.
    message_max: ClassVar[int | None] = None

    def __init__(self, link: ByteStream, settings: ConnectionSettings, where: str) -> None:
        super().__init__(link, settings, where)
        self.frame_max = FRAME_MAX
        self._channel_max = CHANNEL_MAX
        self._channels: dict[int, Channel] = {}
        self._decoder = Decoder(FRAME_MAX)
        self._answer: base.Frame | None = None
        #: The method over which the broker has closed the connection; 0: none, or it doesn't say.
        self._closed_over = 0

    # -- opening

    def _shake_hands(self, settings: ConnectionSettings, deadline: float | None) -> None:
        """AMQP 0-9-1, section 2.2.4: start, tune, open."""
        self.write(PROTOCOL_HEADER)
        start = self._expect(commands.Connection.Start, deadline)
        self.counts_returns = counts_returns((start.server_properties or {}).get("version"))
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
        self._start_heart()

    def _send(self, method: type[base.Frame], **arguments: Any) -> None:
        self.write(encode_method(method, 0, **arguments))

    def _expect(self, method: type[base.Frame], deadline: float | None) -> Any:
        """Wait for a method of the connection itself."""
        self.wait_for(lambda: self._answer is not None, Deadline(deadline).left)
        answer, self._answer = self._answer, None
        if not isinstance(answer, method):
            raise FramingError(f"expected {method.name}, and {answer!r} came")
        return answer

    # -- what comes in

    def _feed(self, data: bytes) -> None:
        self._handle(self._decoder.feed(data))

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
                deliver = channel.on_delivery
                deliver(event)
            else:
                channel.handle(event)

    def _handle_own(self, command: base.Frame) -> None:
        if isinstance(command, commands.Connection.Close):
            # The broker may hang up first, and that must not become the reason.
            self._writer.write_if_room(encode_method(commands.Connection.CloseOk, 0))
            method = command.class_id or 0, command.method_id or 0
            self._closed_over = method[0] << 16 | method[1]
            raise ClosedByBroker(command.reply_code or 0, command.reply_text, method)
        if isinstance(command, commands.Connection.Blocked):
            self.blocked = command.reason or "no reason given"
            self._blocked_news.append(self.blocked)
        elif isinstance(command, commands.Connection.Unblocked):
            self.blocked = None
            self._blocked_news.append(None)
        else:
            self._answer = command

    def _refusal(self, request: int | None) -> BrokerRefused | None:
        cause = None if self._lost is None else self._lost.__cause__
        if not isinstance(cause, ClosedByBroker) or cause.code not in CLOSED_OVER_A_REQUEST:
            return None
        # Nobody waits for an answer to a settlement: whoever asks next is told.
        if self._closed_over not in (0, *SETTLING, PUBLISH if request is None else request):
            return None  # it was another thread's
        return broker_refused(cause.code, cause.text, self._where, cause.method)

    def _large(self) -> tuple[int, int] | None:
        contents = [
            (done, done + content.missing)
            for content in list(self._decoder._contents.values())
            if (done := sum(map(len, content.parts))) + content.missing > self.frame_max
        ]
        return max(contents, key=lambda content: content[1], default=None)

    # -- channels

    def channel(self) -> Channel:
        """A new channel of the driver's own, open.

        :raises ConnectionFailed: all channel numbers are taken.
        """
        with self._numbers:
            self.raise_lost()
            number = next(
                (n for n in range(1, self._channel_max + 1) if n not in self._channels), None
            )
            if number is None:
                raise ConfigurationError(
                    f"all {self._channel_max} channels of the connection to {self._where} are in "
                    "use: close publishers and consumers, or share them"
                )
            channel = self._channels[number] = Channel(self, number, self.message_max)
        channel.call(commands.Channel.Open)
        return channel

    def forget(self, number: int) -> None:
        """The channel of that number is closed at both ends, and the number free."""
        self._channels.pop(number, None)

    def _close_channels(self) -> None:
        for channel in list(self._channels.values()):
            channel.is_open = False

    # -- closing

    def _say_goodbye(self, deadline: float | None) -> None:
        self._send(commands.Connection.Close, reply_code=200)
        self._expect(commands.Connection.CloseOk, deadline)

    @classmethod
    def _connection_failed(
        cls, settings: ConnectionSettings, where: str, cause: Exception
    ) -> CarrotError:
        return connection_failed(settings, where, cause)


def _credentials(settings: ConnectionSettings, mechanisms: str) -> tuple[str, str]:
    """The mechanism to log in with, and its response (SASL)."""
    # pamqp gives bytes, when it isn't text.
    offered = str(mechanisms).split()
    if settings.login_method not in offered:
        raise LoginMethodNotOffered(settings.login_method, offered)
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
