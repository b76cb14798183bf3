"""DeadLetters: sends on the messages that died in a queue.

https://www.rabbitmq.com/docs/dlx
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from carrot.broker.limited_log import LimitedLog
from carrot.broker.message import QueuedMessage
from carrot.checks import table
from carrot.deadline import wall_clock
from carrot.exceptions import EncodeError


class DeadLetters:
    """The messages of a virtual host that died and are not sent on yet. Its lock guards them.

    A dead letter may push another message out of its queue, and so on without end. So they are
    sent one after the other, and never one inside the other.

    :param publish: takes the dead letter to its exchange.
    """

    def __init__(self, publish: Callable[[QueuedMessage], object]) -> None:
        self._publish = publish
        self._dead: deque[tuple[QueuedMessage, str]] = deque()
        self._is_sending = False
        self._log = LimitedLog(logging.getLogger(__name__))

    def add(self, message: QueuedMessage, reason: str) -> None:
        """Send *message* to its queue's dead letter exchange, if the queue has one.

        :param reason: rejected, expired or maxlen.
        """
        if message.queue.rules.dead_letter_exchange is None:
            return
        self._dead.append((message, reason))
        if not self._is_sending:
            with self.sent_afterwards():
                pass

    @contextmanager
    def sent_afterwards(self) -> Iterator[None]:
        """Send what dies in this block after the block, and all that dies of that."""
        if self._is_sending:
            yield
            return
        self._is_sending = True
        try:
            yield
            while self._dead:
                self._send(*self._dead.popleft())
        finally:
            self._is_sending = False

    def _send(self, message: QueuedMessage, reason: str) -> None:
        try:
            dead = dead_letter(message, reason)
        except EncodeError as exc:
            self._log.write(
                logging.ERROR,
                "a message that died in queue %s is lost: its headers leave no room for x-death: "
                "%s",
                message.queue.name,
                exc,
            )
            return
        self._publish(dead)


def dead_letter(message: QueuedMessage, reason: str) -> QueuedMessage:
    """The message that the broker publishes for a dead one, with its history in ``x-death``.

    https://www.rabbitmq.com/docs/dlx#effects

    :param reason: rejected, expired or maxlen.
    """
    rules = message.queue.rules
    routing_key = rules.dead_letter_routing_key
    headers = table("headers", message.headers)
    _add_death(headers, message, reason)
    # With its expiration it would expire again in the next queue.
    properties = {k: v for k, v in message.properties.items() if k != "expiration"}
    properties["headers"] = headers
    dead = QueuedMessage(
        message.body,
        properties,
        rules.dead_letter_exchange or "",
        message.routing_key if routing_key is None else routing_key,
    )
    if routing_key is None:
        dead.copies = message.copies
    else:
        headers.pop("CC", None)
    return dead


def _add_death(headers: dict[str, Any], message: QueuedMessage, reason: str) -> None:
    queue = message.queue.name
    deaths = headers.get("x-death")
    if deaths is None:
        headers["x-first-death-reason"] = reason
        headers["x-first-death-queue"] = queue
        headers["x-first-death-exchange"] = message.exchange
    # The application may have put anything there.
    deaths = [d for d in deaths if isinstance(d, dict)] if isinstance(deaths, list) else []
    same = [d for d in deaths if d.get("queue") == queue and d.get("reason") == reason]
    others = [d for d in deaths if d not in same]
    if same:
        count = same[0].get("count")
        death = {**same[0], "count": count + 1 if isinstance(count, int) else 1}
    else:
        death = _first_death(message, reason)
    headers["x-death"] = [death, *others]


def _first_death(message: QueuedMessage, reason: str) -> dict[str, Any]:
    death = {
        "count": 1,
        "reason": reason,
        "queue": message.queue.name,
        "time": datetime.fromtimestamp(int(wall_clock()), UTC),
        "exchange": message.exchange,
        "routing-keys": [message.routing_key, *message.headers.get("CC", ())],
    }
    if message.properties.get("expiration") is not None:
        death["original-expiration"] = message.properties["expiration"]
    return death


class Named(Protocol):
    name: str


def is_cycle(queue: Named, dead: QueuedMessage) -> bool:
    """Whether *dead* died in *queue* before, and since then no consumer has rejected it.

    Such a message would go round for ever, so the broker drops it
    (https://www.rabbitmq.com/docs/dlx#routing).
    """
    for death in dead.headers["x-death"]:
        if death.get("reason") == "rejected":
            return False
        if death.get("queue") == queue.name:
            return True
    return False
