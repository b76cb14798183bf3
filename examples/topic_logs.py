"""One topic exchange, and three readers that each get the log lines they asked for.

In memory, or over the broker that CARROT_URL names.
"""

from __future__ import annotations

import os

from carrot import BrokerConnection, Consumer, Message, Publisher

LINES = {
    "web.info": "GET /feed 200",
    "web.error": "GET /comics 500",
    "db.error": "deadlock",
    "db.replica.info": "caught up",
}

# `*` stands for one word, `#` for any number of them, none included.
READERS = {"everything": "#", "errors": "*.error", "database": "db.#"}


class LogReader(Consumer):
    """Prints what it gets."""

    exchange = "logs"
    exchange_type = "topic"
    exclusive = True  # the queue is this program's own, and goes with it
    auto_ack = True

    def receive(self, message_data: str, message: Message) -> None:
        """Called with each message."""
        print(f"{self.queue:<12}{message.delivery_info['routing_key']:<17}{message_data}")


def main() -> None:
    """Send each line once, and let every reader read."""
    url = os.environ.get("CARROT_URL") or "memory://"
    with BrokerConnection(url) as connection:
        readers = [LogReader(connection, name, routing_key=READERS[name]) for name in READERS]
        with Publisher(connection, exchange="logs", exchange_type="topic") as publisher:
            for routing_key, line in LINES.items():
                publisher.send(line, routing_key=routing_key)
        for reader in readers:
            while reader.process_next() is not None:
                pass


if __name__ == "__main__":
    main()
