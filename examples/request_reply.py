"""Asks a question by message, and waits for the answer to it.

In memory, or over the broker that CARROT_URL names.
"""

from __future__ import annotations

import os
import threading
from uuid import uuid4

from carrot import BrokerConnection, Consumer, Message, Publisher


class Squares(Consumer):
    """The server: answers to the queue that each question names."""

    queue = "squares"

    def __init__(self, connection: BrokerConnection) -> None:
        super().__init__(connection)
        # The default exchange: the routing key is the name of the queue.
        self.answers = Publisher(connection, exchange="")

    def receive(self, number: int, message: Message) -> None:
        """Called with each question."""
        self.answers.send(
            number * number,
            routing_key=message.properties["reply_to"],
            correlation_id=message.properties["correlation_id"],
        )
        message.ack()


class Client:
    """Asks, and knows its answers by their correlation id."""

    def __init__(self, connection: BrokerConnection) -> None:
        # Not every broker can tell that nobody listens to questions.
        mandatory = connection.get_backend_cls().capabilities.mandatory
        self.questions = Publisher(
            connection, exchange="", routing_key="squares", mandatory=mandatory
        )
        self.replies = Consumer(
            connection, queue=f"answers-{uuid4()}", exclusive=True, callbacks=[self._on_reply]
        )
        # Subscribed once and for all: an exclusive queue goes with its last subscription.
        self.replies.consume()
        self._answers: dict[str, int] = {}

    def _on_reply(self, answer: int, message: Message) -> None:
        self._answers[message.properties["correlation_id"]] = answer
        message.ack()

    def square(self, number: int) -> int:
        """Ask, and wait for the answer."""
        question = str(uuid4())
        self.questions.send(
            number, reply_to=self.replies.queue, correlation_id=question, expiration=10
        )
        while question not in self._answers:
            self.replies.wait(limit=1)
        return self._answers.pop(question)


def main() -> None:
    """Run the server in a thread, with a connection of its own, and ask it."""
    url = os.environ.get("CARROT_URL") or "memory://"
    with BrokerConnection(url) as here, BrokerConnection(url) as there:
        server = Squares(there)
        thread = threading.Thread(target=server.wait)
        thread.start()
        try:
            client = Client(here)
            for number in (3, 4, 12):
                print(f"{number} squared is {client.square(number)}")
        finally:
            server.stop()
            thread.join()


if __name__ == "__main__":
    main()
