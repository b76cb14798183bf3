"""Standstill: how long nothing has moved on a connection, while an answer is waited for."""

from __future__ import annotations

from typing import Protocol

from carrot.deadline import now

#: More than heartbeats and acks leave unsent for a moment, in bytes: then a request is on its way.
REQUEST = 4096
#: How often to look whether anything has moved, in parts of the patience.
LOOKS = 4


class Moving(Protocol):
    """What is needed of a connection."""

    @property
    def last_read(self) -> float: ...
    def unsent(self) -> int: ...
    def arrived(self) -> int: ...


class Standstill:
    """Notes when something moved last: a request that is going out, or a large answer coming in.

    :param begun: when the wait began.
    :param patience: how long nothing may move, in seconds; None: for ever.
    :param is_draining: a large write was made, and may still be on its way.
    """

    def __init__(
        self, connection: Moving, begun: float, patience: float | None, is_draining: bool
    ) -> None:
        self._connection = connection
        self._patience = patience
        self._unsent, self._arrived = connection.unsent(), connection.arrived()
        #: Until all is sent; what is sent after that, such as heartbeats, doesn't count.
        self._is_draining = is_draining or self._unsent > REQUEST
        self._moved = begun
        if patience is not None and not is_draining and self._may_move(begun):
            # Nobody has looked so far: one look tells.
            self._moved = max(begun, now() - patience * (1 - 1 / LOOKS))

    def _may_move(self, begun: float) -> bool:
        """Whether something is under way, or came lately (large answers may come in a row)."""
        return bool(self._is_draining or self._arrived or self._connection.last_read > begun)

    @property
    def interval(self) -> float | None:
        """Seconds between two looks; None: there is no need to look."""
        return None if self._patience is None else self._patience / LOOKS

    @property
    def is_too_long(self) -> bool:
        """Whether nothing has moved for the whole patience."""
        return self._patience is not None and now() - self._moved >= self._patience

    def look(self) -> bool:
        """Look whether something has moved; returns whether something is still going out."""
        unsent, arrived = self._unsent, self._arrived
        self._unsent, self._arrived = self._connection.unsent(), self._connection.arrived()
        if (self._is_draining and self._unsent < unsent) or self._arrived != arrived:
            self._moved = now()
        self._is_draining = self._is_draining and self._unsent > 0
        return self._is_draining
