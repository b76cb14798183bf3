"""Sends feeds to be imported by worker.py, which is another process:

CARROT_URL=amqp://guest:guest@localhost:5672// python examples/send_feeds.py [feed_url …]
"""

from __future__ import annotations

import sys

from feed import FEEDS, FeedConsumer, FeedPublisher, connect


def main(feed_urls: list[str]) -> None:
    """Send these feeds, or some."""
    connection = connect()
    # Not every broker can tell that nobody asked for a message.
    mandatory = connection.get_backend_cls().capabilities.mandatory
    with connection, FeedPublisher(connection, mandatory=mandatory) as publisher:
        # Whoever starts first declares the queue, so that feeds wait in it for their worker.
        FeedConsumer(connection).close()
        for feed_url in feed_urls or FEEDS:
            publisher.import_feed(feed_url)


if __name__ == "__main__":
    main(sys.argv[1:])
