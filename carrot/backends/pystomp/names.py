"""Exchanges, queues and keys as ActiveMQ's destinations, and back. No I/O.

An exchange is a family of virtual topics, and a binding the queue that they feed
(https://activemq.apache.org/components/classic/documentation/virtual-destinations):

====================================== ========================================================
published to exchange e with key a.b   ``/topic/VirtualTopic.e.a.b``
queue q, bound to e with ``*.b``       ``/queue/Consumer.q.VirtualTopic.e.*.b``
queue q itself, for the default        ``/queue/q``
exchange
====================================== ========================================================

The way of a message is the same for each type of exchange, so whoever publishes needs to know
nothing but names; the type is in the bindings. A binding of a direct exchange is the key, word for
word; one of a fanout exchange is ``>``, which is any number of words, as ``#`` is in AMQP.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from carrot.exceptions import NotSupported
from carrot.routing import words

TOPIC, QUEUE = "/topic/", "/queue/"
#: A temporary queue, by the name that its connection gives it, and by the one that others know.
TEMPORARY, REMOTE = "/temp-queue/", "/remote-temp-queue/"
VIRTUAL = "VirtualTopic"

#: A word without a character: ``quote()`` never makes a percent sign without digits.
_NO_CHARACTER = "%"
#: AMQP's wildcards in ActiveMQ's words.
_WILDCARDS = {"*": "*", "#": ">"}


def escape(word: str) -> str:
    """*word* as one word of a destination: letters, digits, ``_``, ``-`` and ``~`` stay."""
    return quote(word, safe="").replace(".", "%2E") or _NO_CHARACTER


def unescape(word: str) -> str:
    """The word that :func:`escape` was given."""
    return "" if word == _NO_CHARACTER else unquote(word)


def queue_destination(queue: str) -> str:
    """Where the default exchange brings what is for *queue*; its dots are ActiveMQ's own."""
    return QUEUE + ".".join(map(escape, queue.split(".")))


def topic_destination(exchange: str, routing_key: str) -> str:
    """Where a message to *exchange* goes."""
    return topics_destination(exchange, tuple(map(escape, words(routing_key))))


def topics_destination(exchange: str, pattern: tuple[str, ...]) -> str:
    """Where all messages go that a binding takes; *pattern* as :func:`pattern` returns it."""
    return TOPIC + ".".join([VIRTUAL, escape(exchange), *pattern])


def temporary_destination(queue: str) -> str:
    """An exclusive queue, for the connection that has it."""
    return TEMPORARY + escape(queue)


def destination(exchange: str, routing_key: str) -> str:
    """Where a message goes.

    A key that is a temporary queue's destination, as a ``reply_to`` may be, is one already.
    """
    if exchange:
        return topic_destination(exchange, routing_key)
    if routing_key.startswith((TEMPORARY, REMOTE)):
        return routing_key
    return queue_destination(routing_key)


def binding_destination(queue: str, exchange: str, pattern: tuple[str, ...]) -> str:
    """The queue that keeps what a binding is for; *pattern* as :func:`pattern` returns it."""
    return QUEUE + ".".join(["Consumer", escape(queue), VIRTUAL, escape(exchange), *pattern])


def pattern(exchange_type: str, binding_key: str) -> tuple[str, ...]:
    """The words of a binding, in ActiveMQ's way.

    :raises NotSupported: ActiveMQ can't express it.
    """
    if exchange_type == "fanout":
        return (">",)
    keys = words(binding_key)
    if exchange_type == "direct":
        return tuple(map(escape, keys))
    while keys[-2:] == ["#", "#"]:
        keys.pop()
    if "#" in keys[:-1]:
        raise NotSupported(
            f"the pystomp driver has no topic_patterns: the binding key {binding_key!r} has a '#' "
            "before its end, and ActiveMQ knows its '>' only there; bind with '*' for each word"
        )
    return tuple(_WILDCARDS.get(key) or escape(key) for key in keys)


def overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether there are keys that both patterns take."""
    for left, right in zip(one, other, strict=False):
        if ">" in (left, right):
            return True
        if left != right and "*" not in (left, right):
            return False
    longer = max(one, other, key=len)
    rest = longer[min(len(one), len(other)) :]
    return rest in ((), (">",))


def origin(destination: str) -> tuple[str, str]:
    """The exchange and the routing key that lead to a destination, as far as it tells.

    For messages of programs that don't say it themselves. Of a binding with wildcards the key is
    not known, and is empty.
    """
    kind, name = destination[: destination.find("/", 1) + 1], destination.rpartition("/")[2]
    path = name.split(".")
    if kind == QUEUE and path[0] == "Consumer" and path[2:3] == [VIRTUAL]:
        path = path[2:]
    if path[0] == VIRTUAL and len(path) > 1:
        is_known = not {"*", ">"} & set(path)
        key = ".".join(map(unescape, path[2:])) if is_known else ""
        return unescape(path[1]), key
    return "", queue_name(destination)


def queue_name(destination: str) -> str:
    """The queue of a destination of the default exchange; another destination as it is."""
    if not destination.startswith(QUEUE):
        return destination
    return ".".join(map(unescape, destination[len(QUEUE) :].split(".")))
