"""A consumer that stops by itself, as a worker does that is told to."""

from typing import Any

from carrot.message import Message
from carrot.messaging import Consumer


def stop_after(consumer: Consumer, count: int, received: list[Any]) -> None:
    """Let the consumer ack and note what comes, and stop when it has so many."""

    def callback(data: Any, message: Message) -> None:
        received.append(data)
        message.ack()
        if len(received) == count:
            consumer.stop()

    consumer.register_callback(callback)
