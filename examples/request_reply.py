"""Asks a question by message, and waits for the answer, but not for ever.

In memory, or over the broker that CARROT_URL names.
"""

from __future__ import annotations

import os
import sys
import threading
from uuid import uuid4

from carrot import BrokerConnection, Consumer, Message, Publisher

DEADLINE = 10  # seconds for an answer


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
        self._question = ""
        self._answer = 0

    def _on_reply(self, answer: int, message: Message) -> None:
        message.ack()
        # The answer to an earlier question may come too late.
        if message.properties.get("correlation_id") == self._question:
            self._answer = answer
            self.replies.stop()

    def square(self, number: int) -> int:
        """Ask, and wait for the answer.

        :raises TimeoutError: no answer came within ``DEADLINE``.
        """
        self._question = str(uuid4())
        # The question expires when nobody waits for its answer any more.
        self.questions.send(
            number,
            reply_to=self.replies.queue,
            correlation_id=self._question,
            expiration=DEADLINE,
        )
        try:
            self.replies.wait(timeout=DEADLINE)
        except TimeoutError:
            raise TimeoutError(f"no answer to {number} within {DEADLINE} seconds") from None
        return self._answer


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
        except TimeoutError as exc:
            sys.exit(f"{exc}: is the server running?")
        finally:
            server.stop()
            thread.join()


if __name__ == "__main__":
    main()
