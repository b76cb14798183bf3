"""carrot.routing: the functions and the indexes agree with the truth table, and with each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrot.exceptions import ConfigurationError
from carrot.routing import (
    EXCHANGE_TYPES,
    HeadersIndex,
    TopicIndex,
    check_exchange_type,
    comparable,
    headers_match,
    matches,
    topic_matches,
)
from tests.routing_table import ROUTING_TABLE


@pytest.mark.parametrize("line", ROUTING_TABLE, ids=str)
def test_function_says_what_the_table_says(line: Any) -> None:
    exchange_type, binding_key, arguments, routing_key, headers, expected = line

    assert matches(exchange_type, binding_key, arguments, routing_key, headers) is expected


@pytest.mark.parametrize("line", ROUTING_TABLE, ids=str)
def test_index_finds_what_the_table_says(line: Any) -> None:
    exchange_type, binding_key, arguments, routing_key, headers, expected = line
    index = EXCHANGE_TYPES[exchange_type]()
    index.add(binding_key, arguments, "queue")

    found = index.lookup(routing_key, headers)

    assert list(found) == (["queue"] if expected else [])


@pytest.mark.parametrize("exchange_type", EXCHANGE_TYPES)
def test_index_with_the_whole_table_finds_each_line_s_matches(exchange_type: str) -> None:
    lines = [line for line in ROUTING_TABLE if line[0] == exchange_type]
    index = EXCHANGE_TYPES[exchange_type]()
    for number, line in enumerate(lines):
        index.add(line[1], line[2], number)

    for line in lines:
        found = set(index.lookup(line[3], line[4]))

        assert found == {
            number
            for number, other in enumerate(lines)
            if matches(exchange_type, other[1], other[2], line[3], line[4])
        }


@pytest.mark.parametrize("exchange_type", EXCHANGE_TYPES)
def test_index_is_empty_when_every_binding_is_removed(exchange_type: str) -> None:
    lines = [line for line in ROUTING_TABLE if line[0] == exchange_type]
    index = EXCHANGE_TYPES[exchange_type]()
    for number, line in enumerate(lines):
        index.add(line[1], line[2], number)

    for number, line in enumerate(lines):
        index.remove(line[1], line[2], number)

    assert [list(index.lookup(line[3], line[4])) for line in lines] == [[] for _ in lines]


@pytest.mark.parametrize("exchange_type", EXCHANGE_TYPES)
def test_destination_with_two_bindings_is_found_once_until_both_are_gone(
    exchange_type: str,
) -> None:
    index = EXCHANGE_TYPES[exchange_type]()
    index.add("k", {}, "queue")
    index.add("k", {"x-other": 1}, "queue")

    with_both = list(index.lookup("k", {}))
    index.remove("k", {}, "queue")
    with_one = list(index.lookup("k", {}))
    index.remove("k", {"x-other": 1}, "queue")

    assert (with_both, with_one) == (["queue"], ["queue"])
    assert not index.lookup("k", {})


# -- topics -----------------------------------------------------------------------------


def naive_topic_matches(pattern: list[str], words: list[str]) -> bool:
    """The rule as the specification words it, by trying everything."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(naive_topic_matches(pattern[1:], words[n:]) for n in range(len(words) + 1))
    return (
        bool(words)
        and pattern[0] in ("*", words[0])
        and naive_topic_matches(pattern[1:], words[1:])
    )


def split(key: str) -> list[str]:
    return key.split(".") if key else []


patterns = st.lists(st.sampled_from(["a", "b", "", "*", "#"]), max_size=6).map(".".join)
keys = st.lists(st.sampled_from(["a", "b", "", "*", "#"]), max_size=6).map(".".join)


@given(patterns, keys)
def test_topic_function_agrees_with_the_naive_one(pattern: str, key: str) -> None:
    assert topic_matches(pattern, key) is naive_topic_matches(split(pattern), split(key))


@given(st.lists(patterns, unique=True, max_size=12), keys)
def test_topic_index_agrees_with_the_naive_function(bindings: list[str], key: str) -> None:
    index: TopicIndex[str] = TopicIndex()
    for pattern in bindings:
        index.add(pattern, None, pattern)

    found = index.lookup(key)

    assert set(found) == {p for p in bindings if naive_topic_matches(split(p), split(key))}


@given(st.lists(patterns, unique=True, max_size=12), st.data())
def test_removed_topic_binding_leaves_the_others(bindings: list[str], data: st.DataObject) -> None:
    removed = data.draw(st.sets(st.sampled_from(bindings)) if bindings else st.just(set()))
    index: TopicIndex[str] = TopicIndex()
    for pattern in bindings:
        index.add(pattern, None, pattern)

    for pattern in removed:
        index.remove(pattern, None, pattern)

    key = data.draw(keys)
    left = set(bindings) - removed
    assert set(index.lookup(key)) == {p for p in left if naive_topic_matches(split(p), split(key))}


def test_many_hashes_in_a_pattern_cost_no_more_than_their_number() -> None:
    # Trying everything would take longer than the universe has.
    pattern, key = ".".join(["#", "a"] * 60), ".".join(["a"] * 59 + ["b"] * 60)
    index: TopicIndex[str] = TopicIndex()
    index.add(pattern, None, "queue")

    assert not topic_matches(pattern, key)
    assert not index.lookup(key)


class CountingWords(str):
    """A routing key whose words count how often they are hashed, which is once a look-up."""

    hashed = 0

    def __hash__(self) -> int:
        CountingWords.hashed += 1
        return super().__hash__()

    def split(self, *args: Any) -> list[str]:  # type: ignore[override]
        return [CountingWords(word) for word in super().split(*args)]


def test_topic_lookup_takes_as_many_steps_with_10_000_bindings_as_with_10() -> None:
    def steps(bindings: int) -> int:
        index: TopicIndex[int] = TopicIndex()
        for number in range(bindings):
            index.add(f"stock.{number}.*", None, number)
        CountingWords.hashed = 0
        assert list(index.lookup(CountingWords("stock.7.nasdaq"))) == [7]
        return CountingWords.hashed

    assert steps(10_000) == steps(10)


# -- headers ----------------------------------------------------------------------------

values = st.sampled_from([None, True, False, 0, 1, 1.0, "1", "", [1], [True], {"k": 1}])
names = st.sampled_from(["a", "b", "x-a"])
tables = st.dictionaries(names, values, max_size=3)
rules = st.builds(
    lambda table, x_match: {**table, **x_match},
    tables,
    st.sampled_from(
        [{}, *({"x-match": rule} for rule in ("all", "any", "all-with-x", "any-with-x"))]
    ),
)


@given(st.lists(rules, max_size=8), tables)
def test_headers_index_agrees_with_the_function(
    bindings: list[dict[str, Any]], headers: dict[str, Any]
) -> None:
    index: HeadersIndex[int] = HeadersIndex()
    for number, arguments in enumerate(bindings):
        index.add("", arguments, number)

    found = index.lookup("", headers)

    assert set(found) == {
        number for number, arguments in enumerate(bindings) if headers_match(arguments, headers)
    }


def test_headers_lookup_asks_only_the_bindings_that_share_a_condition() -> None:
    index: HeadersIndex[int] = HeadersIndex()
    for number in range(10_000):
        index.add("", {"format": "pdf", "number": number}, number)

    most = max(len(bindings) for bindings in index._by_condition.values())

    assert most <= 2
    assert list(index.lookup("", {"format": "pdf", "number": 7})) == [7]


def test_bytes_in_a_header_are_the_text_they_encode() -> None:
    assert comparable(b"pdf") == comparable("pdf")


# -- types ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EXCHANGE_TYPES, "x-delayed-message"])
def test_known_and_plug_in_exchange_types_pass(name: str) -> None:
    assert check_exchange_type(name) == name


@pytest.mark.parametrize("name", ["", "Direct", "tropic", None, 5, ["direct"], b"direct"])
def test_unknown_exchange_type_is_told_what_is_allowed(name: object) -> None:
    with pytest.raises(ConfigurationError, match="use direct, fanout, topic, headers"):
        check_exchange_type(name)
