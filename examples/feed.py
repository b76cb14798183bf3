"""Sends feeds to be imported, and receives them again.

In memory, or over the broker that CARROT_URL names:

    python examples/feed.py
    CARROT_URL=amqp://guest:guest@localhost:5672// python examples/feed.py
"""

from __future__ import annotations

import os
import sys

from carrot import BrokerConnection, Consumer, Message, Publisher

FEEDS = (
    "https://example.org/news.rss",
    "https://example.com/weather.atom",
    "https://example.net/comics.rss",
)
DEADLINE = 10  # seconds for all feeds to come back


class FeedPublisher(Publisher):
    """Asks for feeds to be imported."""

    exchange = "feed"
    routing_key = "importer"

    def import_feed(self, feed_url: str) -> None:
        """Ask for one; on return the broker has taken the message."""
        self.send({"action": "import_feed", "feed_url": feed_url})
        print(f"sent      {feed_url}", flush=True)


class FeedConsumer(Consumer):
    """Imports them, or would if this were not an example."""

    queue = "feed"
    exchange = "feed"
    routing_key = "importer"

    def receive(self, message_data: dict[str, str], message: Message) -> None:
        """Called with each message."""
        if message_data.get("action") != "import_feed":
            print(f"rejected  {message_data}", flush=True)
            message.reject()
            return
        print(f"received  {message_data['feed_url']}", flush=True)
        message.ack()


def connect() -> BrokerConnection:
    """The broker that CARROT_URL names; without one, a broker inside this process."""
    return BrokerConnection(os.environ.get("CARROT_URL") or "memory://")


def main() -> None:
    """Send some feeds and receive them."""
    # The consumer comes first: it declares the queue, and without a queue messages are dropped.
    with connect() as connection, FeedConsumer(connection) as consumer:
        with FeedPublisher(connection) as publisher:
            for feed_url in FEEDS:
                publisher.import_feed(feed_url)
        try:
            consumer.wait(limit=len(FEEDS), timeout=DEADLINE)
        except TimeoutError:
            sys.exit(f"not all feeds came back within {DEADLINE} seconds: is a worker running too?")


if __name__ == "__main__":
    main()
