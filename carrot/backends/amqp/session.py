"""Session: AMQP 0-9-1 over a stream: the login, the channels, and what comes in for them."""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pamqp import base, commands

from carrot import logs
from carrot.backends.amqp.channel import Channel
from carrot.backends.amqp.errors import ClosedByBroker, FramingError, LoginMethodNotOffered
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
from carrot.backends.sockets.session import HEARTBEAT, StreamSession, StreamView
from carrot.backends.transport import counts_returns
from carrot.deadline import Deadline
from carrot.exceptions import BrokerRefused, ConfigurationError
from carrot.remedies import CLOSED_OVER_A_REQUEST, broker_refused
from carrot.settings import ConnectionSettings

#: The methods that settle, which have no answer.
SETTLING = (ACK, NACK, REJECT)
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
#: What the handshake proposes; the broker may want less. RabbitMQ's own default.
FRAME_MAX = 131072
CHANNEL_MAX = 2047
#: The number of the connection itself among its channels.
CONNECTION = 0


class Session(StreamSession):
    """A login at a broker, and its channels. ``_numbers`` guards which channel has which number.

    :param message_max: bytes that the body of a message may have; None: the broker says.
    :ivar frame_max: bytes of a frame, at most.
    """

    breaks_with = (*StreamSession.breaks_with, FramingError, ClosedByBroker)
    heartbeat_bytes = HEARTBEAT_FRAME

    def __init__(self, stream: StreamView, message_max: int | None = None) -> None:
        super().__init__()
        self.frame_max = FRAME_MAX
        self._stream = stream
        self._message_max = message_max
        self._channel_max = CHANNEL_MAX
        self._channels: dict[int, Channel] = {}
        self._decoder = Decoder(FRAME_MAX)
        self._answer: base.Frame | None = None
        self.renew_locks()

    def renew_locks(self) -> None:
        self._numbers = threading.Lock()

    # -- the login

    def shake_hands(self, settings: ConnectionSettings, deadline: Deadline) -> None:
        """AMQP 0-9-1, section 2.2.4: start, tune, open."""
        self._stream.write(PROTOCOL_HEADER)
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
        heartbeat = float(
            HEARTBEAT if settings.heartbeat is None else math.ceil(settings.heartbeat)
        )
        if heartbeat and tune.heartbeat:
            heartbeat = min(heartbeat, float(tune.heartbeat))
        self._send(
            commands.Connection.TuneOk,
            channel_max=self._channel_max,
            frame_max=self.frame_max,
            heartbeat=int(heartbeat),
        )
        self._send(commands.Connection.Open, virtual_host=settings.virtual_host)
        self._expect(commands.Connection.OpenOk, deadline)
        self._stream.start_heart(heartbeat)

    def say_goodbye(self, deadline: Deadline) -> None:
        self._send(commands.Connection.Close, reply_code=200)
        self._expect(commands.Connection.CloseOk, deadline)

    def _send(self, method: type[base.Frame], **arguments: Any) -> None:
        """Send a method of the connection itself."""
        self._stream.write(encode_method(method, CONNECTION, **arguments))
        logs.method_sent(method.name, CONNECTION)

    def _expect(self, method: type[base.Frame], deadline: Deadline) -> Any:
        """Wait for a method of the connection itself."""
        self._stream.wait_for(lambda: self._answer is not None, deadline.left)
        answer, self._answer = self._answer, None
        if not isinstance(answer, method):
            raise FramingError(f"expected {method.name}, and {answer!r} came")
        logs.method_received(method.name, CONNECTION)
        return answer

    # -- what comes in

    def feed(self, data: bytes) -> None:
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
                if number == CONNECTION:
                    self._handle_own(decode_method(event.method, event.arguments))
                # Else: of a channel that was given up.
            elif event.method == DELIVER:
                deliver = channel.on_delivery
                deliver(event)
            else:
                channel.handle(event)

    def _handle_own(self, command: base.Frame) -> None:
        """Take a method of the connection itself."""
        if isinstance(command, commands.Connection.Close):
            # The broker may hang up first, and that must not become the reason.
            self._stream.write_if_room(encode_method(commands.Connection.CloseOk, CONNECTION))
            self._note_received(command)
            method = command.class_id or 0, command.method_id or 0
            raise ClosedByBroker(command.reply_code or 0, command.reply_text, method)
        if isinstance(command, commands.Connection.Blocked):
            self._note_received(command)
            self._stream.block(command.reason or "no reason given")
        elif isinstance(command, commands.Connection.Unblocked):
            self._note_received(command)
            self._stream.block(None)
        else:
            self._answer = command

    def _note_received(self, command: base.Frame) -> None:
        if logs.is_debugging():  # later: this thread is reading
            self._stream.tell_soon(partial(logs.method_received, command.name, CONNECTION))

    def refusal(self, cause: BaseException | None, request: int | None) -> BrokerRefused | None:
        if not isinstance(cause, ClosedByBroker) or cause.code not in CLOSED_OVER_A_REQUEST:
            return None
        # The method over which the broker has closed the connection; 0: it doesn't say.
        closed_over = cause.method[0] << 16 | cause.method[1]
        # Nobody waits for an answer to a settlement: whoever asks next is told.
        if closed_over not in (0, *SETTLING, PUBLISH if request is None else request):
            return None  # it was another thread's
        return broker_refused(cause.code, cause.text, self._stream.where, cause.method)

    def large(self) -> tuple[int, int] | None:
        contents = [
            (done, done + content.missing)
            for content in list(self._decoder._contents.values())
            if (done := sum(map(len, content.parts))) + content.missing > self.frame_max
        ]
        return max(contents, key=lambda content: content[1], default=None)

    # -- channels

    def channel(self) -> Channel:
        """A new channel of the driver's own, open.

        :raises ConfigurationError: all channel numbers are taken.
        :raises ConnectionLost: the connection is gone.
        """
        with self._numbers:
            self._stream.raise_lost()
            number = next(
                (n for n in range(1, self._channel_max + 1) if n not in self._channels), None
            )
            if number is None:
                raise ConfigurationError(
                    f"all {self._channel_max} channels of the connection to {self._stream.where} "
                    "are in use: close publishers and consumers, or share them"
                )
            channel = Channel(self._stream, self, number, self._message_max)
            self._channels[number] = channel
        channel.call(commands.Channel.Open)
        return channel

    def forget(self, number: int) -> None:
        """The channel of that number is closed at both ends, and the number free."""
        self._channels.pop(number, None)

    def close_channels(self) -> None:
        with self._numbers:
            for channel in list(self._channels.values()):
                channel.is_open = False


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
