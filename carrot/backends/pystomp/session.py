"""Session: STOMP 1.2 over a stream: the login, the receipts, and what comes in for the channels."""

from __future__ import annotations

import itertools
import threading

from stomp.utils import calculate_heartbeats

from carrot import logs
from carrot.backends.pystomp.channel import Channel
from carrot.backends.pystomp.declared_topology import DeclaredTopology
from carrot.backends.pystomp.errors import ErrorFrame, refusal, text_of
from carrot.backends.pystomp.frames import HEARTBEAT as HEARTBEAT_BYTES
from carrot.backends.pystomp.frames import Decoder, Frame, FramingError, encode
from carrot.backends.sockets.session import HEARTBEAT, StreamSession, StreamView
from carrot.deadline import Deadline, describe
from carrot.exceptions import ChannelError, ConfigurationError, OperationTimeout
from carrot.settings import ConnectionSettings

#: What the log names as the channel of what concerns the connection itself.
CONNECTION = "0"


class Session(StreamSession):
    """A login at a broker, and its channels: STOMP has none, so each has names of its own.

    Receipts are asked for by ``r`` and a number (requests), or ``p``, the channel's number and the
    message's (confirms); subscriptions are the channel's number and one of theirs. ``_numbers``
    guards which channels there are.

    :param declared: what this process has declared at the broker.
    """

    breaks_with = (*StreamSession.breaks_with, FramingError, ErrorFrame)
    heartbeat_bytes = HEARTBEAT_BYTES

    def __init__(self, stream: StreamView, declared: DeclaredTopology) -> None:
        super().__init__()
        self.declared = declared
        self._stream = stream
        self._decoder = Decoder()
        self._connected: Frame | None = None
        self._channels: dict[str, Channel] = {}
        self._channel_numbers = itertools.count(1)
        self._receipt_numbers = itertools.count(1)
        # None until the answer is there; then whether it is an objection.
        self._answers: dict[str, ChannelError | bool | None] = {}
        self.renew_locks()

    def renew_locks(self) -> None:
        self._numbers = threading.Lock()

    # -- the login

    def shake_hands(self, settings: ConnectionSettings, deadline: Deadline) -> None:
        """STOMP 1.2, "Connecting" and "Heart-beating"."""
        host = settings.host if settings.virtual_host == "/" else settings.virtual_host
        beat = int((HEARTBEAT if settings.heartbeat is None else settings.heartbeat) * 1000)
        login = {"host": host, "login": settings.userid, "passcode": settings.password}
        for name, value in login.items():
            if not {"\n", "\r", "\0"}.isdisjoint(value):
                raise ConfigurationError(
                    f"{name} has a line break, or NUL, which STOMP can't carry"
                )
        self._stream.write(
            encode(
                "CONNECT",
                {"accept-version": "1.2", "heart-beat": f"{beat},{beat}", **login},
                escape=False,
            )
        )
        logs.method_sent("CONNECT", CONNECTION)
        self._stream.wait_for(lambda: self._connected is not None, deadline.left)
        assert self._connected is not None
        logs.method_received("CONNECTED", CONNECTION)
        headers = self._connected.headers()
        if headers.get("version") != "1.2":
            raise FramingError(f"the broker speaks STOMP {headers.get('version', '1.0')}, not 1.2")
        ours = theirs = 0
        if "heart-beat" in headers:
            ours, theirs = calculate_heartbeats(headers["heart-beat"].split(","), (beat, beat))
        self._stream.start_heart(max(ours, theirs) / 1000 if ours and theirs else 0.0)

    def say_goodbye(self, deadline: Deadline) -> None:
        receipt = self.new_receipt()
        self._stream.write(encode("DISCONNECT", {"receipt": receipt}))
        logs.method_sent("DISCONNECT", CONNECTION)
        self.await_receipt(receipt, "DISCONNECT", deadline.left)
        logs.method_received("RECEIPT", CONNECTION)

    # -- asking

    def new_receipt(self) -> str:
        """A name for the answer to a request."""
        receipt = f"r{next(self._receipt_numbers)}"
        self._answers[receipt] = None
        return receipt

    def await_receipt(self, receipt: str, command: str, patience: float | None) -> None:
        """Wait for the answer to what *command* asked, by a receipt of that name.

        :param patience: how long nothing may move, in seconds; None: for ever.
        :raises ChannelError: the broker refused.
        :raises OperationTimeout: no answer in time.
        """
        try:
            self._stream.wait_for_answer(lambda: self._answers[receipt] is not None, patience)
        except OperationTimeout as exc:
            self._stream.is_silent = True
            raise OperationTimeout(
                f"the broker didn't answer {command} within {describe(patience)}"
            ) from exc
        answer = self._answers[receipt]
        if isinstance(answer, ChannelError):
            raise answer

    def forget_receipt(self, receipt: str) -> None:
        """Nobody waits for that answer any more."""
        self._answers.pop(receipt, None)

    # -- what comes in

    def feed(self, data: bytes) -> None:
        channels = self._channels
        for frame in self._decoder.feed(data):
            if frame.command == b"MESSAGE":
                subscription = frame.header(b"\nsubscription:") or ""
                channel = channels.get(subscription.partition("-")[0])
                if channel is not None:
                    channel.on_message(subscription, frame)
                # Else of a channel that is closed: the broker takes it back.
            elif frame.command == b"RECEIPT":
                self._on_receipt(frame.header(b"\nreceipt-id:") or "", True)
            elif frame.command == b"ERROR":
                self._on_error(frame)
            elif frame.command == b"CONNECTED":
                self._connected = frame
            else:
                raise FramingError(f"no broker sends {frame.command!r}")

    def _on_receipt(self, receipt: str, answer: ChannelError | bool) -> None:
        if receipt.startswith("p"):
            number, _, tag = receipt[1:].partition("-")
            channel = self._channels.get(number)
            if channel is not None:
                channel.on_confirm(int(tag), answer)
        elif receipt in self._answers:
            self._answers[receipt] = answer

    def _on_error(self, frame: Frame) -> None:
        text = text_of(frame)
        receipt = frame.header(b"\nreceipt-id:")
        if receipt is None:
            # STOMP 1.2, "ERROR": then the connection is at its end.
            raise ErrorFrame(text)
        self._on_receipt(receipt, refusal(text))

    # -- channels

    def channel(self) -> Channel:
        with self._numbers:
            self._stream.raise_lost()
            number = str(next(self._channel_numbers))
            channel = self._channels[number] = Channel(self._stream, self, number)
        self.declared.attach(channel)
        return channel

    def has(self, channel: object) -> bool:
        """Whether it is a channel of this connection."""
        return isinstance(channel, Channel) and self._channels.get(channel.number) is channel

    def forget(self, number: str) -> None:
        """The channel of that number is closed."""
        self._channels.pop(number, None)

    def close_channels(self) -> None:
        with self._numbers:
            for channel in list(self._channels.values()):
                channel.is_open = False
