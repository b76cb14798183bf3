"""Work that fails is tried again a little later, and put aside after three attempts.

All of it is done by the broker, with three queues:

    orders         rejected messages go to the exchange orders-later
    orders-later   has no consumer: after a while its messages go back to the exchange orders
    orders-failed  for people to look at

In memory, or over the broker that CARROT_URL names.
"""

from __future__ import annotations

import os
import sys

from carrot import BrokerConnection, Consumer, Message, Publisher

ATTEMPTS = 3
PAUSE = 200  # milliseconds
DEADLINE = 10  # seconds for all orders


class Orders(Consumer):
    """Delivers orders; for boats it needs more than one attempt, or can't do it at all."""

    queue = exchange = "orders"
    queue_arguments = {"x-dead-letter-exchange": "orders-later"}  # noqa: RUF012

    def __init__(self, connection: BrokerConnection) -> None:
        super().__init__(connection)
        self.later = Consumer(
            connection,
            queue="orders-later",
            exchange="orders-later",
            queue_arguments={"x-message-ttl": PAUSE, "x-dead-letter-exchange": "orders"},
        )
        self.failed = Publisher(connection, exchange="orders-failed", mandatory=True)
        self.unfinished: set[str] = set()

    def receive(self, order: str, message: Message) -> None:
        """Called with each message, also when it comes back."""
        attempt = rejections(message) + 1
        if order == "book" or (order == "rowing boat" and attempt == 2):
            print(f"attempt {attempt}: {order} delivered")
        elif attempt < ATTEMPTS:
            print(f"attempt {attempt}: no {order} here, later perhaps")
            message.reject()
            return
        else:
            print(f"attempt {attempt}: no {order} here, put aside")
            # Acked after it has been taken: at worst it is there twice, but never lost.
            self.failed.send(order)
        message.ack()
        self.unfinished.discard(order)
        if not self.unfinished:
            self.stop()


def rejections(message: Message) -> int:
    """How often *message* was rejected: brokers count it in the header x-death."""
    deaths = message.headers.get("x-death", [])
    return sum(death["count"] for death in deaths if death["reason"] == "rejected")


def main() -> None:
    """Order three things, and work until each is delivered or put aside."""
    url = os.environ.get("CARROT_URL") or "memory://"
    with BrokerConnection(url) as connection, Orders(connection) as orders:
        failed = Consumer(connection, queue="orders-failed", exchange="orders-failed")
        orders.unfinished = {"book", "rowing boat", "submarine"}
        with Publisher(connection, exchange="orders") as publisher:
            publisher.send_many(sorted(orders.unfinished))
        try:
            orders.wait(timeout=DEADLINE)
        except TimeoutError:
            lost = ", ".join(sorted(orders.unfinished))
            sys.exit(f"neither delivered nor put aside within {DEADLINE} seconds: {lost}")
        for message in failed.iterqueue():
            print(f"failed: {message.payload}")
            message.ack()


if __name__ == "__main__":
    main()
