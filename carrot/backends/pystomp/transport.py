"""Transport: a connection to ActiveMQ, for any number of threads; see StreamTransport."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import ClassVar, Self

from stomp.utils import calculate_heartbeats

from carrot.backends.pystomp.channel import Channel
from carrot.backends.pystomp.declared_topology import declared_at
from carrot.backends.pystomp.errors import ErrorFrame, connection_failed, refusal, text_of
from carrot.backends.pystomp.frames import HEARTBEAT as HEARTBEAT_BYTES
from carrot.backends.pystomp.frames import Decoder, Frame, FramingError, encode
from carrot.backends.sockets.socket import SocketStream
from carrot.backends.sockets.stream import HEARTBEAT, StreamTransport
from carrot.deadline import spelled
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    OperationTimeout,
)
from carrot.settings import ConnectionSettings


class Transport(StreamTransport):
    """A connection and its channels: STOMP has none, so each has names of its own for what it does.

    Receipts are asked for by ``r`` and a number (requests), or ``p``, the channel's number and the
    message's (confirms); subscriptions are the channel's number and one of theirs.
    """

    default_port: ClassVar[int | None] = 61613
    default_tls_port: ClassVar[int | None] = 61614
    breaks_with = (*StreamTransport.breaks_with, FramingError, ErrorFrame)
    heartbeat_bytes = HEARTBEAT_BYTES

    def __init__(self, link: SocketStream, settings: ConnectionSettings, where: str) -> None:
        super().__init__(link, settings, where)
        self.declared = declared_at(settings.host, settings.port, settings.virtual_host)
        self.virtual_host = settings.virtual_host
        self._decoder = Decoder()
        self._connected: Frame | None = None
        self._channels: dict[str, Channel] = {}
        self._channel_numbers = itertools.count(1)
        self._receipt_numbers = itertools.count(1)
        # None until the answer is there; then whether it is an objection.
        self._answers: dict[str, ChannelError | bool | None] = {}

    # -- opening and closing

    @classmethod
    def open(cls, settings: ConnectionSettings) -> Self:
        begun = time.monotonic()
        try:
            return super().open(settings)
        except ConnectionFailed as exc:
            # ActiveMQ hangs up now and then (once in 600 refused logins) before its ERROR is out:
            # then nobody knows why, so ask again.
            if not _was_hung_up_on(exc):
                raise
        if settings.connect_timeout is not None:
            left = settings.connect_timeout - (time.monotonic() - begun)
            settings = replace(settings, connect_timeout=max(0.1, round(left, 1)))
        return super().open(settings)

    def _shake_hands(self, settings: ConnectionSettings, deadline: float | None) -> None:
        """STOMP 1.2, "Connecting" and "Heart-beating"."""
        host = settings.host if settings.virtual_host == "/" else settings.virtual_host
        beat = int((HEARTBEAT if settings.heartbeat is None else settings.heartbeat) * 1000)
        login = {"host": host, "login": settings.userid, "passcode": settings.password}
        for name, value in login.items():
            if not {"\n", "\r", "\0"}.isdisjoint(value):
                raise ConfigurationError(
                    f"{name} has a line break, or NUL, which STOMP can't carry"
                )
        self.write(
            encode(
                "CONNECT",
                {"accept-version": "1.2", "heart-beat": f"{beat},{beat}", **login},
                escape=False,
            )
        )
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        self.wait_for(lambda: self._connected is not None, timeout)
        assert self._connected is not None
        headers = self._connected.headers()
        if headers.get("version") != "1.2":
            raise FramingError(f"the broker speaks STOMP {headers.get('version', '1.0')}, not 1.2")
        ours = theirs = 0
        if "heart-beat" in headers:
            ours, theirs = calculate_heartbeats(headers["heart-beat"].split(","), (beat, beat))
        self._heartbeat = max(ours, theirs) / 1000 if ours and theirs else 0.0
        self._start_heart()

    def _say_goodbye(self, deadline: float | None) -> None:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        receipt = self.new_receipt()
        self.write(encode("DISCONNECT", {"receipt": receipt}))
        self.await_receipt(receipt, "DISCONNECT", timeout)

    def _close_channels(self) -> None:
        for channel in list(self._channels.values()):
            channel.is_open = False

    @classmethod
    def _connection_failed(
        cls, settings: ConnectionSettings, where: str, cause: Exception
    ) -> CarrotError:
        return connection_failed(settings, where, cause)

    # -- asking

    def new_receipt(self) -> str:
        """A name for the answer to a request."""
        receipt = f"r{next(self._receipt_numbers)}"
        self._answers[receipt] = None
        return receipt

    def await_receipt(self, receipt: str, command: str, timeout: float | None) -> None:
        """Wait for the answer to what *command* asked, by a receipt of that name.

        :raises ChannelError: the broker refused.
        :raises OperationTimeout: no answer in time.
        """
        try:
            self.wait_for(lambda: self._answers[receipt] is not None, timeout)
        except OperationTimeout as exc:
            self.is_silent = True
            raise OperationTimeout(
                f"the broker didn't answer {command} within {spelled(timeout)}"
            ) from exc
        answer = self._answers[receipt]
        if isinstance(answer, ChannelError):
            raise answer

    def forget_receipt(self, receipt: str) -> None:
        """Nobody waits for that answer any more."""
        self._answers.pop(receipt, None)

    # -- what comes in

    def _feed(self, data: bytes) -> None:
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
        """A new channel of the driver's own."""
        with self._numbers:
            self._raise_lost()
            number = str(next(self._channel_numbers))
            channel = self._channels[number] = Channel(self, number)
        self.declared.attach(channel)
        return channel

    def has(self, channel: object) -> bool:
        """Whether it is a channel of this connection."""
        return isinstance(channel, Channel) and self._channels.get(channel.number) is channel

    def forget(self, number: str) -> None:
        """The channel of that number is closed."""
        self._channels.pop(number, None)


def _was_hung_up_on(error: ConnectionFailed) -> bool:
    lost = error.__cause__
    return isinstance(lost, ConnectionLost) and isinstance(lost.__cause__, ConnectionResetError)
