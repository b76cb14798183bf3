"""A message inside the broker, and what becomes of it when it dies in a queue."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from carrot.broker.arguments import check_copies, expiration_seconds
from carrot.broker.replies import precondition_failed
from carrot.checks import table
from carrot.message import Properties

if TYPE_CHECKING:
    from carrot.broker.channel import Consumer
    from carrot.broker.queue import Queue

# Most messages have none of these, and need no second look.
_CHECKED_PROPERTIES = frozenset(("headers", "expiration", "user_id"))


class QueuedMessage:
    """A message on its way to a queue, in it, or delivered from it. Each queue has its own.

    The broker's lock guards it. Nobody writes into its properties once it is published.

    :ivar shared: the properties, but for its ``message_id``; many messages may have the same dict.
    :ivar message_id: its own, when it is not among those.
    :ivar copies: more routing keys, from the headers CC and BCC.
    :ivar ttl: seconds, from the property ``expiration``; None is for ever.
    :ivar expires_at: when it is due to die in its queue, by the broker's clock.
    :ivar position: its place in its queue, which it keeps when it is requeued.
    :ivar consumer: who holds it unacked; None when basic.get took it.
    """

    queue: Queue
    expires_at: float | None = None
    position = 0
    redelivered = False
    consumer: Consumer | None = None

    def __init__(
        self,
        body: bytes,
        shared: Mapping[str, Any],
        exchange: str,
        routing_key: str,
        message_id: str | None = None,
    ) -> None:
        self.body = body
        # Not copied here: most are Properties, which many messages share and nobody changes.
        self.shared = shared
        self.exchange = exchange
        self.routing_key = routing_key
        self.message_id = message_id
        self.copies: tuple[str, ...] = ()
        self.ttl: float | None = None

    @property
    def properties(self) -> Mapping[str, Any]:
        """All properties."""
        if self.message_id is None:
            return self.shared
        return {**self.shared, "message_id": self.message_id}

    def check(self, user: str) -> bool:
        """Check what the broker understands of the properties, and copy the headers.

        :returns: there is nothing that it understands, in these nor in others that are shared.
        :raises PreconditionFailed: an expiration, a user_id or a CC that can't be.
        :raises EncodeError: a header that AMQP can't carry.
        """
        if _CHECKED_PROPERTIES.isdisjoint(self.shared):
            if type(self.shared) is Properties:
                return True
            self.shared = dict(self.shared)
            return False
        properties = self.shared = dict(self.shared)
        if properties.get("user_id") not in (None, user):
            raise precondition_failed(
                f"user_id property set to '{properties['user_id']}' but authenticated user was "
                f"'{user}'"
            )
        if properties.get("expiration") is not None:
            self.ttl = expiration_seconds(properties["expiration"])
        if properties.get("headers") is not None:
            headers = properties["headers"] = table("headers", properties["headers"])
            if "CC" in headers or "BCC" in headers:
                self.copies = check_copies(headers)
                headers.pop("BCC", None)
        return False

    @property
    def headers(self) -> Mapping[str, Any]:
        headers: Mapping[str, Any] = self.shared.get("headers") or {}
        return headers

    @property
    def priority(self) -> int:
        priority: int = self.shared.get("priority") or 0
        return priority

    def another(self) -> QueuedMessage:
        """The same message, for another queue."""
        message = QueuedMessage(
            self.body, self.shared, self.exchange, self.routing_key, self.message_id
        )
        message.copies = self.copies
        message.ttl = self.ttl
        return message

    def delivered_properties(self) -> Mapping[str, Any]:
        """The properties for one receiver, whose headers are nobody else's."""
        if self.shared.get("headers") is None:
            return self.properties
        return {**self.properties, "headers": table("headers", self.shared["headers"])}


# -- dead letters -----------------------------------------------------------------------


def dead_letter(message: QueuedMessage, reason: str) -> QueuedMessage:
    """What the broker publishes when *message* died: its history in the header ``x-death``.

    https://www.rabbitmq.com/docs/dlx#effects

    :param reason: rejected, expired or maxlen.
    """
    rules = message.queue.rules
    routing_key = rules.dead_letter_routing_key
    headers = table("headers", message.headers)
    _add_death(headers, message, reason)
    # Otherwise it would die again, of the same cause, where it goes.
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
        "time": datetime.now(UTC).replace(microsecond=0),
        "exchange": message.exchange,
        "routing-keys": [message.routing_key, *message.headers.get("CC", ())],
    }
    if message.properties.get("expiration") is not None:
        death["original-expiration"] = message.properties["expiration"]
    return death


def is_cycle(queue: Queue, dead: QueuedMessage) -> bool:
    """Whether *dead* died in *queue* before, and since then no consumer has rejected it.

    Such a message would go round for ever, so the broker drops it.
    (https://www.rabbitmq.com/docs/dlx#routing)
    """
    for death in dead.headers["x-death"]:
        if death.get("reason") == "rejected":
            return False
        if death.get("queue") == queue.name:
            return True
    return False
