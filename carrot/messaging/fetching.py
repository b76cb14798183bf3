"""One message at a time: what Consumer does when it asks the broker, instead of being sent to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from carrot.backends.seam.backend import Backend
from carrot.message import Message

#: Takes the next message; None: there is none.
Fetch = Callable[[], Message | None]


class Fetcher(Protocol):
    """What is needed of a Consumer.

    :ivar consumer_tag: another thread, which subscribes again, may give it another one.
    """

    backend: Backend
    consumer_tag: str


def next_message(
    fetcher: Fetcher, queue: str, no_ack: bool, timeout: float | None
) -> Message | None:
    """The oldest message: sent ahead to a running subscription, or still in the queue.

    :param timeout: seconds for each of the broker's answers.
    """
    backend = fetcher.backend
    life = backend.lives.restored()
    get = partial(backend.get, queue, no_ack=no_ack, timeout=timeout)
    if not backend.consumers.is_consuming(fetcher.consumer_tag):
        return life.take(fetcher.consumer_tag) or get()
    # What is being sent ahead comes before the broker's answer, or (RabbitMQ) right behind it,
    # and so before the answer to a second question.
    for _ in range(2):
        if (message := life.take(fetcher.consumer_tag)) is not None:
            return message
        message = get()
        if message is not None and not life.put(fetcher.consumer_tag, message):
            return message
    return life.take(fetcher.consumer_tag)


def each(fetch: Fetch, limit: int | None, infinite: bool) -> Iterator[Message | None]:
    """Fetch until there is none, or until *limit*.

    :param infinite: yield None when there is none, and go on.
    """
    count = 0
    while limit is None or count < limit:
        message = fetch()
        if message is None and not infinite:
            return
        count += message is not None
        yield message


def discard(fetch: Fetch, is_unwanted: Callable[[Message], object]) -> int:
    """Ack what is unwanted, put back everything else, and say how many were acked."""
    discarded = 0
    kept: list[Message] = []
    try:
        while (message := fetch()) is not None:
            kept.append(message)
            if is_unwanted(message):
                message.ack()
                kept.pop()
                discarded += 1
    finally:
        for message in kept:
            message.requeue()
    return discarded


def discard_sent_ahead(fetcher: Fetcher) -> int:
    """Ack what is here and not dispatched yet, and say how many that were."""
    count, life = 0, fetcher.backend.life
    while life is not None and (message := life.take(fetcher.consumer_tag)) is not None:
        if not message.acknowledged:
            message.ack()
        count += 1
    return count
