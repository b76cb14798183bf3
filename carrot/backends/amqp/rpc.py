"""Rpc: a channel's requests and their answers, and the end of it at both ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol

from pamqp import base, commands

from carrot import logs, remedies
from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import Event
from carrot.backends.amqp.methods import encode_method
from carrot.backends.sockets.session import TransportView, Writer
from carrot.deadline import Deadline, describe, remaining
from carrot.exceptions import CarrotError, ChannelError, ConnectionLost, OperationTimeout


class SessionView(Protocol):
    """What a channel needs of its session."""

    frame_max: int

    def forget(self, number: int) -> None: ...


class _Goodbye:
    """Writes a channel's last frame, unless the broker has ended the channel before."""

    is_open = True

    def check_open(self) -> None:
        if not self.is_open:
            raise ConnectionLost("the broker has closed the channel")


class Asker(Writer, Protocol):
    """A channel."""

    def give_up(self) -> None: ...


class Rpc:
    """One request at a time: ``_asking`` is a thread's turn to ask, and held until the answer.

    :param asker: the channel, which must be open to ask, and is given up without an answer.
    :ivar number: the channel's number on the connection.
    :ivar is_unanswered: a request was sent, and its answer may still come.
    :ivar refusal: why the broker closed the channel.
    """

    def __init__(
        self, view: TransportView, session: SessionView, number: int, asker: Asker
    ) -> None:
        self.number = number
        self.is_unanswered = False
        self.refusal: ChannelError | None = None
        self._view = view
        self._session = session
        self._asker = asker
        self._asking = threading.Lock()
        #: The names of the methods that would answer what was asked.
        self._expected: Collection[str] = ()
        self._answer: base.Frame | Event | None = None
        # Both ends may close it at once. Ours holds the lock from its goodbye on.
        self._leaving = threading.Lock()
        self._goodbye = _Goodbye()
        self._is_ended = False

    def call(self, method: type[base.Frame], timeout: float | None = None, **arguments: Any) -> Any:
        """Send a method and wait for its answer: pamqp's frame, or the event of a get-ok.

        :param timeout: seconds; None: the connection's operation_timeout.
        :raises ChannelError: the broker refused, and closed the channel.
        :raises ConnectionLost: the connection is gone.
        :raises OperationTimeout: no answer in time.
        """
        patience = remaining(self._view.operation_timeout if timeout is None else timeout)
        deadline = Deadline.after(patience)
        # Another thread may be asking.
        if not self._asking.acquire(timeout=-1 if patience is None else patience):
            raise OperationTimeout(
                f"another thread's request took the channel for {describe(patience)}: "
                f"{method.name} was not sent"
            )
        try:
            # Ready for the answer before anybody can read it.
            self._answer, self._expected = None, method.valid_responses
            self.is_unanswered = True
            self._view.write(encode_method(method, self.number, **arguments), self._asker)
            try:
                self._view.wait_for_answer(
                    self._is_answered,
                    # A time-out of the caller's own bounds all of it.
                    patience if timeout is None else deadline.left,
                    method.index,
                )
            except OperationTimeout as exc:
                self._view.is_silent = True
                raise _unanswered(method, patience, exc) from exc
            self.is_unanswered = False
            return self._take_answer()
        except BaseException as exc:
            if self.is_unanswered and (
                isinstance(exc, OperationTimeout) or not isinstance(exc, CarrotError)
            ):
                # The answer may still come, and must not be taken for that to another question.
                self._asker.give_up()
            raise
        finally:
            self.is_unanswered, self._expected = False, ()
            self._asking.release()

    def _take_answer(self) -> base.Frame | Event:
        if self._answer is None:
            if self.refusal is not None:
                raise remedies.channel_error(self.refusal.code, self.refusal.text)
            raise ConnectionLost("the channel was closed here")
        return self._answer

    def _is_answered(self) -> bool:
        return self._answer is not None or not self._asker.is_open

    def take_in(self, name: str, answer: base.Frame | Event) -> None:
        """The reading thread says: an answer has come."""
        if name not in self._expected:
            raise FramingError(f"{name} came on channel {self.number}, where nobody asked for it")
        self._answer = answer

    def note(self, log: Callable[[str, object], object], method: type[base.Frame]) -> None:
        """Have a method logged soon: this thread may be reading, or hold locks."""
        if logs.is_debugging():
            self._view.tell_soon(partial(log, method.name, self.number))

    # -- the end

    def check_open(self) -> None:
        """Asked under the lock that guards what is written.

        :raises ChannelError: the broker closed the channel.
        :raises ConnectionLost: it was closed here, or given up.
        """
        if self.refusal is not None:
            raise remedies.channel_error(self.refusal.code, self.refusal.text)
        raise ConnectionLost("the channel was closed here meanwhile")

    def take_late(self, method: int) -> None:
        """Take what comes on a closed channel: only the broker's own goodbye counts."""
        if method == commands.Channel.CloseOk.index:
            self.note(logs.method_received, commands.Channel.CloseOk)
            self._end()
        elif method == commands.Channel.Close.index:
            self.take_goodbye()

    def take_goodbye(self) -> None:
        """The broker closes the channel, whose writer is closed already."""
        # First: after the CloseOk nobody may write to this number any more.
        self._goodbye.is_open = False
        self._view.answer(encode_method(commands.Channel.CloseOk, self.number))
        self.note(logs.method_received, commands.Channel.Close)
        self.note(logs.method_sent, commands.Channel.CloseOk)
        if self._leaving.locked():
            self._is_ended = True  # it still answers our own goodbye, by this number
        else:
            self._end()

    def _end(self) -> None:
        """Nothing comes on this channel any more."""
        self._is_ended = True
        self._session.forget(self.number)

    def say_goodbye(self) -> None:
        """Close this end.

        The number stays taken until the broker has closed its own: what still comes must not reach
        another channel, nor may that be opened before (it would cost the connection).
        """
        if self._leaving.acquire(blocking=False):
            try:
                self._view.write(
                    encode_method(commands.Channel.Close, self.number, reply_code=200),
                    self._goodbye,
                )
                self.note(logs.method_sent, commands.Channel.Close)
            except ConnectionLost:
                self._end()  # the broker was first, or there is no connection
            except OperationTimeout:
                pass  # not sent: the number stays taken

    def await_goodbye(self) -> None:
        """Wait until the broker has closed its end.

        :raises ConnectionLost: the connection is gone.
        :raises OperationTimeout: no answer in time.
        """
        # Where nobody answers, not every close() shall wait for that again; and a broker doesn't
        # read what a blocked connection sends.
        if self._view.is_silent or self._view.blocked is not None:
            return
        patience = remaining(self._view.operation_timeout)
        try:
            self._view.wait_for(lambda: self._is_ended, patience)
        except OperationTimeout as exc:
            self._view.is_silent = True
            raise _unanswered(commands.Channel.Close, patience, exc) from exc


def _unanswered(
    method: type[base.Frame], patience: float | None, why: OperationTimeout
) -> OperationTimeout:
    return OperationTimeout(
        f"the broker didn't answer {method.name} within {describe(patience)}: {why}"
    )
