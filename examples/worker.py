"""Imports the feeds that send_feeds.py sends, until Ctrl-C or SIGTERM:

CARROT_URL=amqp://guest:guest@localhost:5672// python examples/worker.py
"""

from __future__ import annotations

from feed import FeedConsumer, connect

from carrot import stop_on_signals


def main() -> None:
    """Work until a signal says stop; the message in hand is finished first."""
    with (
        connect() as connection,
        FeedConsumer(connection) as consumer,
        stop_on_signals(consumer, seconds=30),
    ):
        print("waiting for feeds", flush=True)
        consumer.wait()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
