"""Names and keys as ActiveMQ's destinations, and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from carrot.backends.pystomp import names
from carrot.exceptions import NotSupported
from carrot.routing import topic_matches, words

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
keys = st.lists(texts, max_size=4).map(".".join)
plain_words = st.sampled_from(["a", "b", "", "é", "*x", ">", "a%2Eb"])
patterns = st.tuples(
    st.lists(st.one_of(plain_words, st.just("*")), max_size=4), st.sampled_from([[], ["#"]])
).map(lambda parts: ".".join([*parts[0], *parts[1]]))

# What ActiveMQ itself gives a meaning, or doesn't promise to keep.
SPECIAL = re.compile(r"[^A-Za-z0-9_.~%-]")


@given(texts)
def test_a_word_comes_back_as_it_was_and_means_nothing_to_the_broker(word: str) -> None:
    escaped = names.escape(word)

    assert names.unescape(escaped) == word
    assert escaped
    assert "." not in escaped
    assert not SPECIAL.search(escaped)


@given(st.tuples(texts, texts))
def test_two_words_are_never_taken_for_one_another(pair: tuple[str, str]) -> None:
    first, second = pair

    assert (names.escape(first) == names.escape(second)) is (first == second)


@given(texts.filter(bool), keys)
def test_exchange_and_key_come_back_from_the_topic(exchange: str, key: str) -> None:
    assert names.origin(names.destination(exchange, key)) == (exchange, key)


@given(texts.filter(bool), texts.filter(bool), keys)
def test_exchange_and_key_come_back_from_the_queue_of_a_direct_binding(
    queue: str, exchange: str, key: str
) -> None:
    pattern = names.pattern("direct", key)

    destination = names.binding_destination(queue, exchange, pattern)

    assert names.origin(destination) == (exchange, key)


@given(keys.filter(bool))
def test_a_queue_comes_back_from_its_destination(queue: str) -> None:
    assert names.queue_name(names.destination("", queue)) == queue


def test_names_without_special_characters_are_the_brokers_own() -> None:
    assert names.destination("", "orders.new") == "/queue/orders.new"
    assert names.destination("", "ActiveMQ.DLQ") == "/queue/ActiveMQ.DLQ"
    assert names.destination("feed", "usd.stock") == "/topic/VirtualTopic.feed.usd.stock"
    assert (
        names.binding_destination("q", "feed", names.pattern("topic", "*.stock.#"))
        == "/queue/Consumer.q.VirtualTopic.feed.*.stock.>"
    )


@pytest.mark.parametrize(
    ("exchange_type", "key", "pattern"),
    [
        ("direct", "a.*", ("a", "%2A")),
        ("direct", "#", ("%23",)),
        ("direct", "", ()),
        ("direct", ".", ("%", "%")),
        ("fanout", "whatever", (">",)),
        ("topic", "#", (">",)),
        ("topic", "a.#.#", ("a", ">")),
        ("topic", "*.>", ("*", "%3E")),
        ("topic", "a,b?c", ("a%2Cb%3Fc",)),
        ("topic", "", ()),
    ],
)
def test_bindings_in_the_brokers_way(
    exchange_type: str, key: str, pattern: tuple[str, ...]
) -> None:
    assert names.pattern(exchange_type, key) == pattern


@pytest.mark.parametrize("key", ["#.a", "a.#.b", "#.*", "*.#.*.#"])
def test_a_pattern_that_the_broker_cannot_express_is_not_supported(key: str) -> None:
    with pytest.raises(NotSupported, match=f"{re.escape(repr(key))} has a '#' before its end"):
        names.pattern("topic", key)


@given(patterns, patterns, st.lists(plain_words, max_size=5))
def test_patterns_that_take_the_same_key_overlap(one: str, other: str, key: list[str]) -> None:
    both = [names.pattern("topic", pattern) for pattern in (one, other)]
    routing_key = ".".join(key)

    if topic_matches(one, routing_key) and topic_matches(other, routing_key):
        assert names.overlap(*both)
        assert names.overlap(*reversed(both))


@given(patterns, patterns)
def test_patterns_that_overlap_take_a_key_in_common(one: str, other: str) -> None:
    left, right = words(one), words(other)
    assume("" not in left + right)  # a key can't be a single word without a character
    # The key that fits both, if any does: each word from whichever names it.
    longest = max(left, right, key=lambda pattern: len([word for word in pattern if word != "#"]))
    shorter = right if longest is left else left
    key = [word for word in longest if word != "#"]
    for position, word in enumerate(shorter[: len(key)]):
        if word not in ("*", "#") and key[position] == "*":
            key[position] = word
    routing_key = ".".join("w" if word == "*" else word for word in key)

    overlap = names.overlap(names.pattern("topic", one), names.pattern("topic", other))

    assert overlap is (topic_matches(one, routing_key) and topic_matches(other, routing_key))


@pytest.mark.parametrize(
    ("destination", "origin"),
    [
        ("/queue/plain", ("", "plain")),
        ("/queue/Consumer.q.VirtualTopic.e.*.x", ("e", "")),
        ("/topic/prices", ("", "/topic/prices")),
        ("/queue/Consumer.odd", ("", "Consumer.odd")),
        ("/temp-queue/x", ("", "/temp-queue/x")),
        ("", ("", "")),
    ],
)
def test_what_other_programs_send_has_an_origin_as_far_as_it_tells(
    destination: str, origin: tuple[str, str]
) -> None:
    assert names.origin(destination) == origin
