"""One loop over several queues: a ConsumerSet, which ends when its work is done.

In memory, or over the broker that CARROT_URL names.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from carrot import BrokerConnection, Consumer, ConsumerSet, Message, Publisher

DEADLINE = 10  # seconds for the messages of each loop


class Mailbox(Consumer):
    """A consumer with a receive() of its own, which comes before the set's."""

    queue = exchange = "notify-mail"

    def receive(self, message_data: dict[str, Any], message: Message) -> None:
        """Called with each message of this queue."""
        print(f"mail to {message_data['to']}: {message_data['text']}")
        message.ack()


class Notifier(ConsumerSet):
    """Gets the messages of all queues whose consumer has no receive()."""

    def receive(self, message_data: dict[str, Any], message: Message) -> None:
        """Called with each message of the other queues."""
        if message_data.get("last"):
            self.stop()
        else:
            print(f"text to {message_data['to']}: {message_data['text']}")
        message.ack()


def main() -> None:
    """Send to both queues, then work until the message that says it is the last."""
    url = os.environ.get("CARROT_URL") or "memory://"
    with BrokerConnection(url) as connection, Notifier(connection) as notifier:
        notifier.add_consumer(Mailbox(connection))
        notifier.add_consumer_from_dict("notify-text", exchange="notify-text")
        with Publisher(connection, exchange="notify-mail") as mail:
            mail.send({"to": "ann@example.org", "text": "three new feeds"})
        with Publisher(connection, exchange="notify-text") as text:
            text.send({"to": "+44 20 7946 0018", "text": "three new feeds"})
        # Queues keep the order of their own messages; between two queues there is none.
        try:
            notifier.wait(limit=2, timeout=DEADLINE)
            with Publisher(connection, exchange="notify-text") as text:
                text.send({"last": True})
            notifier.wait(timeout=DEADLINE)
        except TimeoutError:
            sys.exit(f"a message did not come within {DEADLINE} seconds")


if __name__ == "__main__":
    main()
