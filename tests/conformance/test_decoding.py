"""What other producers send, decoded from every broker."""

from __future__ import annotations

import gzip
import json
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from carrot.checks import MAX_DEPTH
from carrot.exceptions import ContentDisallowed, DecodeError, EncodeError
from carrot.message import Message
from carrot.messaging import Publisher
from carrot.serialization import registry
from tests.conformance.conftest import Feed
from tests.waiting import eventually

PICKLE = "application/x-python-serialize"


@pytest.fixture
def fetch_foreign(feed: Feed) -> Callable[..., Message]:
    """Sends a body with no other properties than these, and fetches it."""

    def fetch(body: bytes, **properties: str) -> Message:
        backend = feed.publisher.backend
        backend.publish(backend.prepare_message(body, 1, **properties), feed.exchange, "key")
        message: Message = eventually(feed.consumer.fetch)
        message.ack()
        return message

    return fetch


@pytest.mark.parametrize("encoding", [{}, {"content_encoding": "utf-8"}])
def test_a_body_without_content_type_is_bytes(
    fetch_foreign: Callable[..., Message], encoding: dict[str, str]
) -> None:
    message = fetch_foreign(b"\xffbare", **encoding)

    assert message.payload == b"\xffbare"
    assert not message.content_type


def test_a_body_without_content_type_is_what_the_default_says(
    fetch_foreign: Callable[..., Message],
) -> None:
    message = fetch_foreign(b'{"a": 1}')
    message.default_content_type = "application/json"

    assert message.payload == {"a": 1}


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"],
)
@pytest.mark.parametrize("encoding", [{}, {"content_encoding": "utf-8"}])
def test_every_spelling_of_json_is_decoded(
    fetch_foreign: Callable[..., Message], content_type: str, encoding: dict[str, str]
) -> None:
    message = fetch_foreign('{"a": "ü"}'.encode(), content_type=content_type, **encoding)

    assert message.payload == {"a": "ü"}


@pytest.mark.parametrize(
    ("content_type", "text", "charset"),
    [
        ("text/plain; charset=iso-2022-jp", "東京", "iso-2022-jp"),
        ("text/plain; charset=utf-16le", "hello", "utf-16-le"),
        ("text/csv;charset=cp037", "AMOUNT", "cp037"),
        ('text/plain; charset="iso-8859-1"', "café", "latin-1"),
    ],
)
def test_text_is_in_the_character_set_that_its_content_type_names(
    fetch_foreign: Callable[..., Message], content_type: str, text: str, charset: str
) -> None:
    assert fetch_foreign(text.encode(charset), content_type=content_type).payload == text


@pytest.mark.parametrize("name", ["punycode", "idna", "utf-7", "zlib", "klingon"])
@pytest.mark.parametrize("place", ["content_encoding", "charset"])
def test_what_is_no_character_set_is_refused_at_once(
    fetch_foreign: Callable[..., Message], name: str, place: str
) -> None:
    properties = {"content_type": "text/plain", "content_encoding": name}
    if place == "charset":
        properties = {"content_type": f"text/plain; charset={name}"}
    # Which takes Python's punycode minutes.
    message = fetch_foreign(b"a-" * 200_000, **properties)

    start = time.thread_time()
    with pytest.raises(DecodeError, match=f"'{name}'.*message.body.*decoder="):
        message.decode()
    assert time.thread_time() - start < 1


@pytest.mark.parametrize("encoding", ["gzip", "gzip:UTF-8", "utf-8"])
def test_a_decoder_gets_the_bytes_of_a_compressed_body(
    make_feed: Callable[..., Feed], encoding: str
) -> None:
    feed = make_feed(decoder=lambda body: json.loads(gzip.decompress(body)))
    body = gzip.compress(b'{"cpu": 7}')

    feed.publisher.send(body, content_type="application/json", content_encoding=encoding)

    assert feed.payloads() == [{"cpu": 7}]


def test_identity_is_no_encoding_at_all(feed: Feed) -> None:
    feed.publisher.send(b'{"cpu": 7}', content_type="application/json", content_encoding="identity")

    assert feed.payloads() == [{"cpu": 7}]


@pytest.mark.parametrize("serializer", ["json", "orjson", "msgpack", "yaml"])
def test_a_tuple_as_a_key_comes_back_or_is_not_sent(feed: Feed, serializer: str) -> None:
    data = {(52, 13): "Berlin", "zoom": 3}
    try:
        feed.publisher.send(data, serializer=serializer)
    except EncodeError:
        assert feed.payloads() == []
    else:
        assert feed.payloads() == [data]


def nested(levels: int) -> dict[str, Any]:
    """Headers of so many levels of tables and lists."""
    inner: Any = []
    for _ in range(levels - 2):
        inner = [inner]
    return {"deep": inner}


def test_headers_come_back_down_to_the_greatest_depth_and_deeper_ones_are_not_sent(
    feed: Feed,
) -> None:
    with pytest.raises(EncodeError, match=rf"headers\['deep'\] is nested deeper than {MAX_DEPTH}"):
        feed.publisher.send("too deep", headers=nested(MAX_DEPTH + 1))
    feed.publisher.send("deep", headers=nested(MAX_DEPTH))

    message = eventually(feed.consumer.fetch)
    message.ack()
    assert message.payload == "deep"
    assert message.headers["deep"] == nested(MAX_DEPTH)["deep"]


# -- trust


@pytest.fixture
def trusted() -> Iterator[None]:
    """This process decodes pickles, until the test is over."""
    registry.trust("pickle")
    yield
    registry._trusted.discard("pickle")
    registry._plans.clear()


def test_a_process_that_trusts_all_senders_decodes_pickles(feed: Feed, trusted: None) -> None:
    feed.publisher.send({1, 2}, serializer="pickle")

    assert feed.payloads() == [{1, 2}]


def test_accept_is_stricter_than_trust(make_feed: Callable[..., Feed], trusted: None) -> None:
    feed = make_feed(accept=["json"])
    feed.publisher.send({1, 2}, serializer="pickle")

    message = feed.consumer.fetch()
    with pytest.raises(ContentDisallowed):
        message.decode()
    message.ack()


# -- time limits


class TimeLimit(Exception):
    """Raised by the signal handler of a soft time limit."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """SIGUSR1 raises a TimeLimit."""

    def over(*_signal: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, over)
    yield
    signal.signal(signal.SIGUSR1, before)


class Slow:
    """Its encoder and its decoder are interrupted by the alarm."""

    def _asdict(self) -> dict[str, Any]:
        signal.raise_signal(signal.SIGUSR1)
        return {}

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return Slow, ()


class SlowToDecode:
    """Its pickle raises the alarm when it is loaded."""

    def __reduce__(self) -> Any:
        return signal.raise_signal, (signal.SIGUSR1,)


def interrupted(_data: Any) -> Any:
    """An encoder or decoder that the alarm interrupts."""
    signal.raise_signal(signal.SIGUSR1)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_time_limit_that_interrupts_an_encoder_comes_out_and_nothing_is_sent(
    feed: Feed, serializer: str, alarm: None
) -> None:
    with pytest.raises(TimeLimit):
        feed.publisher.send({"a": [Slow()]}, serializer=serializer)
    publisher = Publisher(feed.connection, feed.exchange, "key", encoder=interrupted)
    with publisher, pytest.raises(TimeLimit):
        publisher.send("text")

    feed.publisher.send("next")
    assert feed.payloads() == ["next"]


@pytest.mark.parametrize(
    "options", [{"accept": ["pickle"]}, {"decoder": interrupted}, {"decoder": pickle.loads}]
)
def test_a_time_limit_that_interrupts_a_decoder_comes_out_and_nothing_is_lost(
    make_feed: Callable[..., Feed], options: dict[str, Any], alarm: None
) -> None:
    put_aside: list[Message] = []
    feed = make_feed(
        auto_ack=True, on_decode_error=lambda message, _exc: put_aside.append(message), **options
    )
    feed.consumer.register_callback(lambda _data, _message: None)
    feed.publisher.send(SlowToDecode(), serializer="pickle")

    with pytest.raises(TimeLimit):
        feed.consumer.wait(limit=1, timeout=30)
    # The consumer is closed, and the message is where it was.
    feed.consumer.close()

    with feed.connection.create_backend() as backend:
        message = eventually(lambda: backend.get(feed.queue))
        assert message.body == pickle.dumps(SlowToDecode())
        message.ack()
    assert put_aside == []
