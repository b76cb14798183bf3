"""A message inside the broker: on its way to a queue, in it, or delivered from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from carrot.broker.arguments import QueueRules, check_copies, expiration_seconds
from carrot.broker.replies import precondition_failed
from carrot.checks import table
from carrot.message import Properties

# Most messages have none of these, and need no second look.
_CHECKED_PROPERTIES = frozenset(("headers", "expiration", "user_id"))


class Home(Protocol):
    """The queue of a message, as the message's other holders use it."""

    name: str
    rules: QueueRules

    def restore(self, message: QueuedMessage) -> None: ...
    def run_restored(self) -> None: ...
    def discard(self, message: QueuedMessage) -> None: ...


class Holder(Protocol):
    """The consumer that holds a message unacked.

    :ivar unacked: how many messages it holds.
    """

    unacked: int


class QueuedMessage:
    """A message of one queue; each queue has its own.

    The broker's lock guards it. Nobody writes into its properties once it is published.

    :ivar shared: the properties without the ``message_id``; many messages may have the same dict.
    :ivar message_id: its own, when the shared properties have none.
    :ivar copies: more routing keys, from the headers CC and BCC.
    :ivar ttl: seconds, from the property ``expiration``; None is for ever.
    :ivar expires_at: when it is due to die in its queue, by the broker's clock.
    :ivar position: its place in its queue, which it keeps when it is requeued.
    :ivar consumer: the one that holds it unacked; None when basic.get took it.
    """

    queue: Home
    expires_at: float | None = None
    position = 0
    redelivered = False
    consumer: Holder | None = None

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
        """Check the properties that the broker acts on, and copy the headers.

        :returns: it acts on none of them, and nobody changes them: the next message that shares
            them needs no check.
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
        """The properties for one receiver, with a copy of the headers."""
        if self.shared.get("headers") is None:
            return self.properties
        return {**self.properties, "headers": table("headers", self.shared["headers"])}
