"""Channel: one channel of a connection; asks and waits for answers, publishes and settles."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Collection
from typing import Any, Protocol

from pamqp import base, commands

from carrot.backends.amqp import framing
from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import Event
from carrot.backends.amqp.methods import decode_method, encode_method
from carrot.backends.confirms import Confirms
from carrot.backends.sockets import stream
from carrot.deadline import spelled, within
from carrot.exceptions import CarrotError, ChannelError, ConnectionLost, OperationTimeout


class TransportView(stream.TransportView, Protocol):
    """What a channel needs of its connection."""

    frame_max: int

    @property
    def is_open(self) -> bool: ...
    def forget(self, channel: Channel) -> None: ...


class Listener(Protocol):
    """Who is told what comes in on a channel; called by whichever thread is reading."""

    def on_delivery(self, event: Event) -> None: ...
    def on_return(self, event: Event, confirms: Confirms | None) -> None: ...
    def on_cancel(self, channel: Channel, consumer_tag: str) -> None: ...
    def on_close(self, channel: Channel, error: ChannelError) -> None: ...
    def on_give_up(self, channel: Channel) -> None: ...


class _Goodbye:
    """Who writes a channel's last frame; the broker may have ended it before."""

    is_open = True

    def check_open(self) -> None:
        if not self.is_open:
            raise ConnectionLost("the broker has closed the channel")


class Channel(stream.StreamChannel):
    """An open channel.

    :ivar number: its number on the connection.
    :ivar properties_max: bytes that a message's flags and properties may take here.
    :ivar confirms: the books of what was published here, in confirm mode.
    """

    def __init__(self, line: TransportView, number: int) -> None:
        self.number = number
        self.properties_max = line.frame_max - framing.CONTENT_HEADER
        self.confirms: Confirms | None = None
        self._listener: weakref.ref[Listener] | None = None
        self.is_open = True
        self._line: TransportView = line
        #: The frames of a message: see :meth:`framing.PublishEncoder.encode`.
        self.encode = framing.PublishEncoder(number, line.frame_max).encode
        self._asking = threading.Lock()
        #: The names of the methods that would answer what was asked.
        self._expected: Collection[str] = ()
        self._answer: base.Frame | Event | None = None
        # Both ends may close it at once. Ours holds the lock from its goodbye on.
        self._leaving = threading.Lock()
        self._goodbye = _Goodbye()
        self._is_ended = False
        self._refusal: ChannelError | None = None

    def listen(self, listener: Listener) -> None:
        """Tell *listener* what comes in; it is not kept alive for it."""
        self._listener = weakref.ref(listener)

    @property
    def listener(self) -> Listener | None:
        """Who is told what comes in, if anybody."""
        return None if self._listener is None else self._listener()

    # -- asking

    def call(self, method: type[base.Frame], timeout: float | None = None, **arguments: Any) -> Any:
        """Send a method and wait for its answer: pamqp's frame, or the event of a get-ok.

        :param timeout: seconds; None: the connection's operation_timeout.
        :raises ChannelError: the broker refused, and closed the channel.
        :raises ConnectionLost: the connection is gone.
        :raises OperationTimeout: no answer in time; the channel is given up.
        """
        patience = within(self._line.operation_timeout if timeout is None else timeout)
        deadline = None if patience is None else time.monotonic() + patience
        # Another thread may be asking.
        if not self._asking.acquire(timeout=-1 if patience is None else patience):
            raise OperationTimeout(
                f"another thread's request took the channel for {spelled(patience)}: "
                f"{method.name} was not sent"
            )
        try:
            # Ready for the answer before anybody can read it.
            self._answer, self._expected = None, method.valid_responses
            self._line.write(encode_method(method, self.number, **arguments), self)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                self._line.wait_for(self._is_answered, left)
            except OperationTimeout as exc:
                self._line.is_silent = True
                # The answer may still come, and must not be taken for that to another question.
                self.give_up()
                raise self._unanswered(method, patience) from exc
            except CarrotError:
                raise
            except BaseException:
                # An interrupt: the same holds.
                self.give_up()
                raise
            return self._take_answer()
        finally:
            self._expected = ()
            self._asking.release()

    @staticmethod
    def _unanswered(method: type[base.Frame], patience: float | None) -> OperationTimeout:
        return OperationTimeout(
            f"the broker didn't answer {method.name} within {spelled(patience)}"
        )

    def check_open(self) -> None:
        """Asked under the lock that guards what is written.

        :raises ChannelError: the broker closed the channel.
        :raises ConnectionLost: it was closed here, or given up.
        """
        if not self.is_open:
            if self._refusal is not None:
                raise ChannelError.from_reply(self._refusal.code, self._refusal.text)
            raise ConnectionLost("the channel was closed here meanwhile")

    def _take_answer(self) -> base.Frame | Event:
        if self._answer is None:
            raise self._refusal or ConnectionLost("the channel was closed here")
        return self._answer

    def _is_answered(self) -> bool:
        return self._answer is not None or not self.is_open

    # -- what comes in

    def handle(self, event: Event) -> None:
        """Take one event that is not a delivery."""
        method = event.method
        if not self.is_open:
            # Closed here: only the broker's own goodbye counts.
            if method == commands.Channel.CloseOk.index:
                self._end()
            elif method == commands.Channel.Close.index:
                self._take_goodbye()
            return
        confirms = self.confirms
        if method == framing.ACK or method == framing.NACK:
            number, multiple = framing.settled_of(event.arguments)
            if confirms is not None:
                confirms.settle(number, multiple, method == framing.ACK)
        elif method == framing.GET_OK:
            self._take_in("Basic.GetOk", event)
        elif method == framing.RETURN:
            if (listener := self.listener) is not None:
                listener.on_return(event, confirms)
        else:
            self._handle_other(decode_method(method, event.arguments))

    def _handle_other(self, command: base.Frame) -> None:
        if isinstance(command, commands.Channel.Close):
            self._refusal = error = ChannelError.from_reply(
                command.reply_code or 0, command.reply_text
            )
            self._take_goodbye()
            # Whoever is waiting for an answer raises it; else the channel's next user does.
            if (listener := self.listener) is not None:
                listener.on_close(self, error)
        elif isinstance(command, commands.Basic.Cancel):
            if (listener := self.listener) is not None:
                listener.on_cancel(self, command.consumer_tag or "")
        elif isinstance(command, commands.Channel.Flow):
            self._line.answer(
                encode_method(commands.Channel.FlowOk, self.number, active=command.active)
            )
        else:
            self._take_in(command.name, command)

    def _take_in(self, name: str, answer: base.Frame | Event) -> None:
        if name not in self._expected:
            raise FramingError(f"{name} came on channel {self.number}, where nobody asked for it")
        self._answer = answer

    def _take_goodbye(self) -> None:
        """The broker closes the channel."""
        # First: after the CloseOk nobody may write to this number any more.
        self.is_open = self._goodbye.is_open = False
        self._line.answer(encode_method(commands.Channel.CloseOk, self.number))
        if self._leaving.locked():
            self._is_ended = True  # it still answers our own goodbye, by this number
        else:
            self._end()

    def _end(self) -> None:
        """Nothing comes on this channel any more."""
        self._is_ended = True
        self._line.forget(self)

    # -- publishing and settling

    def ack(self, delivery_tag: int, multiple: bool) -> None:
        self._line.write_soon(framing.ack_frame(self.number, delivery_tag, multiple), self)

    def reject(self, delivery_tag: int, requeue: bool) -> None:
        self._line.write_soon(framing.reject_frame(self.number, delivery_tag, requeue), self)

    # -- the end

    def close(self) -> None:
        """Close the channel; what was delivered and not settled goes back.

        :raises ConnectionLost: the connection is gone.
        :raises OperationTimeout: no answer in time.
        """
        if not self.is_open:
            return
        self._deafen()
        self._say_goodbye()
        # Where nobody answers, not every close() shall wait for that again; and a broker doesn't
        # read what a blocked connection sends.
        if self._line.is_silent or self._line.blocked is not None:
            return
        patience = within(self._line.operation_timeout)
        try:
            self._line.wait_for(lambda: self._is_ended, patience)
        except OperationTimeout as exc:
            self._line.is_silent = True
            raise self._unanswered(commands.Channel.Close, patience) from exc

    def give_up(self) -> None:
        """Nobody waits for this channel's answers any more."""
        self.is_open = False
        listener = self.listener
        self._deafen()
        if listener is not None:
            listener.on_give_up(self)
        self._say_goodbye()

    def _deafen(self) -> None:
        """Tell nobody what comes in from now on."""
        # Confirms first: one whose return was not heard would be a wrong answer.
        self.confirms = None
        self._listener = None

    def _say_goodbye(self) -> None:
        """Close this end.

        The number stays taken until the broker has closed its own: what still comes must not reach
        another channel, nor may that be opened before (it would cost the connection).
        """
        self.is_open = False
        if self._leaving.acquire(blocking=False):
            try:
                self._line.write(
                    encode_method(commands.Channel.Close, self.number, reply_code=200),
                    self._goodbye,
                )
            except ConnectionLost:
                self._end()  # the broker was first, or there is no connection
            except OperationTimeout:
                pass  # not sent: the number stays taken
