"""Requests: asks the broker on behalf of a channel, and waits for its receipts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from carrot import logs
from carrot.backends.pystomp.declared_topology import DeclaredTopology
from carrot.backends.pystomp.frames import encode
from carrot.backends.sockets.session import TransportView, Writer
from carrot.deadline import Deadline, remaining
from carrot.exceptions import ChannelError, ConnectionLost, OperationTimeout


class SessionView(Protocol):
    """What a channel needs of its session."""

    declared: DeclaredTopology

    def has(self, channel: object) -> bool: ...
    def new_receipt(self) -> str: ...
    def await_receipt(self, receipt: str, command: str, patience: float | None) -> None: ...
    def forget_receipt(self, receipt: str) -> None: ...
    def forget(self, number: str) -> None: ...


class Requests:
    """What a channel asks for. Several threads may ask at once: each waits for its own receipt.

    :param number: the channel's.
    :param writer: the channel, which must be open to ask.
    :param give_up: called when an answer didn't come: a subscription that is made late would take
        messages that nobody gets.
    """

    def __init__(
        self,
        view: TransportView,
        session: SessionView,
        number: str,
        writer: Writer,
        give_up: Callable[[], object],
    ) -> None:
        self._view = view
        self._session = session
        self._number = number
        self._writer = writer
        self._give_up = give_up

    def deadline(self, timeout: float | None = None) -> Deadline:
        """Until when to wait for an answer.

        :param timeout: seconds; None: the connection's operation_timeout.
        """
        return Deadline.after(
            remaining(self._view.operation_timeout if timeout is None else timeout)
        )

    def write(self, *frames: bytes) -> None:
        """Send frames now."""
        self._view.write(b"".join(frames), self._writer)

    def write_soon(self, *frames: bytes) -> None:
        """Send frames with others, or in about a millisecond."""
        self._view.write_soon(b"".join(frames), self._writer)

    def call(self, command: str, headers: Mapping[str, str]) -> None:
        """Send a frame, and wait for the broker's receipt."""
        with self.receipt_for(command) as receipt:
            self.write(encode(command, {**headers, "receipt": receipt}))

    @contextmanager
    def receipt_for(self, command: str, deadline: Deadline | None = None) -> Iterator[str]:
        """A name for a receipt, which is awaited when the block has asked for it.

        :raises ChannelError: the broker refused.
        :raises OperationTimeout: no answer in time; the channel is given up.
        """
        deadline = deadline or self.deadline()
        receipt = self._session.new_receipt()
        try:
            with self.answered():
                yield receipt
                # Here the locks of the block are free again.
                logs.method_sent(command, self._number)
                self._session.await_receipt(receipt, command, deadline.left)
                logs.method_received("RECEIPT", self._number)
        finally:
            self._session.forget_receipt(receipt)

    def wait_for(self, ready: Callable[[], object], deadline: Deadline, command: str) -> None:
        """Wait until ``ready()`` is true, as what *command* asked for has come.

        :raises OperationTimeout: it has not, in time; the channel is given up.
        """
        with self.answered():
            try:
                self._view.wait_for(lambda: ready() or not self._writer.is_open, deadline.left)
            except OperationTimeout as exc:
                self._view.is_silent = True
                raise OperationTimeout(f"the broker didn't answer {command} in time") from exc
        self._writer.check_open()

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Give the channel up, unless what is asked for in this block is answered."""
        try:
            yield
        except (ChannelError, ConnectionLost):
            raise
        except BaseException:  # no answer in time, or an interrupt
            self._give_up()
            raise
