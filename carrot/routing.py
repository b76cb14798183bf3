"""Where a message goes: the four exchange types, as pure functions and as an index of bindings.

The functions say whether one binding takes a message. An index holds all the bindings of one
exchange and finds those that take a message without asking each. Both follow RabbitMQ 3.10
(AMQP 0-9-1, section 3.1.3; https://www.rabbitmq.com/tutorials/amqp-concepts#exchanges).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

from carrot.checks import short_string
from carrot.exceptions import ConfigurationError

Arguments = Mapping[str, Any] | None

X_MATCH = ("all", "any", "all-with-x", "any-with-x")


def check_exchange_type(name: object) -> str:
    """*name* itself, when it is an exchange type; ``x-…`` is one that a broker's plug-in adds.

    :raises ConfigurationError: it isn't; the text lists what is allowed.
    """
    if isinstance(name, str) and (name in EXCHANGE_TYPES or name.startswith("x-")):
        return short_string("exchange type", name)
    raise ConfigurationError(
        f"unknown exchange type {name!r}: use {', '.join(EXCHANGE_TYPES)}, or a type that a "
        "plug-in adds to your broker, whose name starts with x-"
    )


# -- one binding ------------------------------------------------------------------------


def matches(
    exchange_type: str,
    binding_key: str,
    arguments: Arguments,
    routing_key: str,
    headers: Arguments,
) -> bool:
    """Whether a binding of an exchange of that type takes a message."""
    if exchange_type == "direct":
        return direct_matches(binding_key, routing_key)
    if exchange_type == "topic":
        return topic_matches(binding_key, routing_key)
    if exchange_type == "headers":
        return headers_match(arguments, headers)
    return fanout_matches(binding_key, routing_key)


def direct_matches(binding_key: str, routing_key: str) -> bool:
    """The keys are the same."""
    return binding_key == routing_key


def fanout_matches(binding_key: str, routing_key: str) -> bool:
    """Every binding takes every message."""
    return True


def words(key: str) -> list[str]:
    """The words of a topic key, between its dots; an empty key has none."""
    return key.split(".") if key else []


def topic_matches(binding_key: str, routing_key: str) -> bool:
    """The words are the same, where ``*`` is any one word and ``#`` any number, also none."""
    pattern = words(binding_key)
    reached = _past_hashes(pattern, {0})
    for word in words(routing_key):
        stepped = {
            position if pattern[position] == "#" else position + 1
            for position in reached
            if position < len(pattern) and pattern[position] in ("#", "*", word)
        }
        reached = _past_hashes(pattern, stepped)
    return len(pattern) in reached


def _past_hashes(pattern: list[str], positions: set[int]) -> set[int]:
    """These positions in the pattern, and those behind a ``#``, which may be no word at all."""
    reached = set(positions)
    for position in positions:
        while position < len(pattern) and pattern[position] == "#":
            position += 1
            reached.add(position)
    return reached


def headers_match(arguments: Arguments, headers: Arguments) -> bool:
    """All, or any, of the binding's *arguments* are among the message's *headers*.

    ``x-match`` says which: all (the default) and any leave out the arguments whose names start
    with ``x-``; all-with-x and any-with-x don't. None in the binding asks that the header is
    there, whatever its value. (https://www.rabbitmq.com/tutorials/amqp-concepts#exchange-headers)
    """
    rule = _HeadersRule(arguments)
    return rule.takes(_conditions_met(headers))


# -- comparing header values ------------------------------------------------------------


def comparable(value: Any) -> Hashable:
    """Something that is equal for two values exactly when RabbitMQ 3.10 takes them for the same.

    1 is 1.0, a timestamp is its seconds and bytes are the text they encode; True is not 1. Inside
    a list or a table the types must be the same as well.
    """
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, datetime):
        return int(value.timestamp())
    if isinstance(value, Decimal):
        return ("decimal", value.as_tuple())
    if isinstance(value, Mapping):
        return ("table", tuple((key, *_item(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return ("array", tuple(_item(item) for item in value))
    return value  # type: ignore[no-any-return]  # None, int, float, bytes: themselves


def _item(value: Any) -> tuple[str, Hashable]:
    return type(value).__name__, comparable(value)


_PRESENT = object()

# One thing that a binding asks of the headers: a name with a value, or a name with _PRESENT.
_Condition = tuple[str, Hashable]


def _conditions_met(headers: Arguments) -> set[_Condition]:
    """Every condition that a message with these headers meets."""
    met: set[_Condition] = set()
    for name, value in (headers or {}).items():
        met.add((name, _PRESENT))
        met.add((name, comparable(value)))
    return met


class _HeadersRule:
    """What one binding of a headers exchange asks for."""

    def __init__(self, arguments: Arguments) -> None:
        x_match = (arguments or {}).get("x-match", "all")
        self.all = x_match in ("all", "all-with-x")
        with_x = x_match in ("all-with-x", "any-with-x")
        self.conditions: dict[_Condition, None] = {
            (name, _PRESENT if value is None else comparable(value)): None
            for name, value in (arguments or {}).items()
            if name != "x-match" and (with_x or not name.startswith("x-"))
        }

    def takes(self, met: set[_Condition]) -> bool:
        if self.all:
            return self.conditions.keys() <= met
        return not self.conditions.keys().isdisjoint(met)


# -- all the bindings of an exchange ----------------------------------------------------

D = TypeVar("D", bound=Hashable)


class _Destinations(dict[D, int]):
    """Destinations, with how many bindings lead to each."""

    def add(self, destination: D) -> None:
        self[destination] = self.get(destination, 0) + 1

    def discard(self, destination: D) -> None:
        self[destination] -= 1
        if not self[destination]:
            del self[destination]


class Index(ABC, Generic[D]):
    """The bindings of one exchange. A destination is anything that can be a key of a dict.

    The caller adds each binding once and removes what it has added; the same destination may
    have several bindings.

    :cvar needs_headers: whether a message's headers, and not its routing key, decide.
    """

    needs_headers = False

    @abstractmethod
    def add(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        """Add a binding."""

    @abstractmethod
    def remove(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        """Remove a binding that was added."""

    @abstractmethod
    def lookup(self, routing_key: str, headers: Arguments = None) -> Collection[D]:
        """The destinations of a message, each once."""


class DirectIndex(Index[D]):
    """A dict from keys to destinations."""

    def __init__(self) -> None:
        self._by_key: dict[str, _Destinations[D]] = {}

    def add(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        self._by_key.setdefault(binding_key, _Destinations()).add(destination)

    def remove(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        destinations = self._by_key[binding_key]
        destinations.discard(destination)
        if not destinations:
            del self._by_key[binding_key]

    def lookup(self, routing_key: str, headers: Arguments = None) -> Collection[D]:
        return self._by_key.get(routing_key, ())


class FanoutIndex(Index[D]):
    """Every destination there is."""

    def __init__(self) -> None:
        self._all: _Destinations[D] = _Destinations()

    def add(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        self._all.add(destination)

    def remove(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        self._all.discard(destination)

    def lookup(self, routing_key: str, headers: Arguments = None) -> Collection[D]:
        return self._all


class _Node(Generic[D]):
    """A place in the trie: the patterns that begin with the words on the way to it."""

    __slots__ = ("children", "destinations", "is_hash")

    def __init__(self, is_hash: bool = False) -> None:
        self.children: dict[str, _Node[D]] = {}
        self.destinations: _Destinations[D] = _Destinations()
        self.is_hash = is_hash


class TopicIndex(Index[D]):
    """A trie of the patterns' words: finding a key costs its words, not the number of bindings.

    All the nodes that a key can have reached are followed at once, so patterns with many ``#``
    cost no more than their nodes.
    """

    def __init__(self) -> None:
        self._root: _Node[D] = _Node()

    def add(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        node = self._root
        for word in words(binding_key):
            if word not in node.children:
                node.children[word] = _Node(is_hash=word == "#")
            node = node.children[word]
        node.destinations.add(destination)

    def remove(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        path = [self._root]
        pattern = words(binding_key)
        for word in pattern:
            path.append(path[-1].children[word])
        path[-1].destinations.discard(destination)
        for parent, word, node in reversed(list(zip(path, pattern, path[1:], strict=False))):
            if node.children or node.destinations:
                break
            del parent.children[word]

    def lookup(self, routing_key: str, headers: Arguments = None) -> Collection[D]:
        reached = _with_hashes([self._root])
        for word in words(routing_key):
            reached = _with_hashes(_step(reached, word))
        found: dict[D, None] = {}
        for node in reached:
            found.update(dict.fromkeys(node.destinations))
        return found


def _step(nodes: Iterable[_Node[D]], word: str) -> Iterator[_Node[D]]:
    """The nodes that one more word of a routing key leads to; some may come twice."""
    for node in nodes:
        if node.is_hash:
            yield node
        # A child "#" is reached without a word already, and stays: also when the word is "#".
        for name in ("*", word):
            if (child := node.children.get(name)) is not None and not child.is_hash:
                yield child


def _with_hashes(nodes: Iterable[_Node[D]]) -> dict[_Node[D], None]:
    """These nodes, each once, and the ``#`` below them, which may be no word at all."""
    reached: dict[_Node[D], None] = {}
    for node in nodes:
        below: _Node[D] | None = node
        while below is not None:
            reached[below] = None
            below = below.children.get("#")
    return reached


class HeadersIndex(Index[D]):
    """Each binding under conditions that its messages must meet, and asked only then.

    A binding with x-match any stands under each of its conditions, for any one will do; one with
    all under a single one, the one that the fewest others stand under.
    """

    needs_headers = True

    def __init__(self) -> None:
        self._by_condition: dict[_Condition, dict[Hashable, tuple[_HeadersRule, D]]] = {}
        self._unconditional: _Destinations[D] = _Destinations()
        self._places: dict[Hashable, Collection[_Condition]] = {}

    def add(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        rule = _HeadersRule(arguments)
        if rule.all and not rule.conditions:
            self._unconditional.add(destination)
            return
        places: Collection[_Condition] = rule.conditions
        if rule.all:
            places = [min(places, key=lambda place: len(self._by_condition.get(place, ())))]
        binding = (binding_key, comparable(arguments), destination)
        self._places[binding] = places
        for place in places:
            self._by_condition.setdefault(place, {})[binding] = (rule, destination)

    def remove(self, binding_key: str, arguments: Arguments, destination: D) -> None:
        rule = _HeadersRule(arguments)
        if rule.all and not rule.conditions:
            self._unconditional.discard(destination)
            return
        binding = (binding_key, comparable(arguments), destination)
        for place in self._places.pop(binding):
            del self._by_condition[place][binding]
            if not self._by_condition[place]:
                del self._by_condition[place]

    def lookup(self, routing_key: str, headers: Arguments = None) -> Collection[D]:
        met = _conditions_met(headers)
        found = dict.fromkeys(self._unconditional)
        for condition in met:
            for rule, destination in self._by_condition.get(condition, {}).values():
                if destination not in found and rule.takes(met):
                    found[destination] = None
        return found


#: The exchange types that every broker has, to the index of their bindings.
EXCHANGE_TYPES: Mapping[str, type[Index[Any]]] = {
    "direct": DirectIndex,
    "fanout": FanoutIndex,
    "topic": TopicIndex,
    "headers": HeadersIndex,
}
