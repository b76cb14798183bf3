"""Message: its body and properties, decoded once and settled once."""

from __future__ import annotations

import signal
import threading
from contextlib import nullcontext
from typing import Any

import pytest

from carrot.backends.base import BaseMessage
from carrot.exceptions import ConnectionLost, ContentDisallowed, DecodeError, MessageStateError
from carrot.message import ACK, RECEIVED, REJECTED, REQUEUED, Message

SETTLE = {
    "ack": (ACK, "acked"),
    "reject": (REJECTED, "rejected"),
    "requeue": (REQUEUED, "requeued"),
}


class Books:
    """A backend that notes what it is asked to settle.

    :param error: raised instead.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.settled: list[tuple[str, Any]] = []

    def _note(self, how: str, tag: Any) -> None:
        if self.error is not None:
            raise self.error
        self.settled.append((how, tag))

    def ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        self._note("ack", delivery_tag)

    def reject(self, delivery_tag: Any) -> None:
        self._note("reject", delivery_tag)

    def requeue(self, delivery_tag: Any) -> None:
        self._note("requeue", delivery_tag)


class StubChannel:
    """A driver's channel that notes what it is asked to settle."""

    def __init__(self) -> None:
        self.is_open = True
        self.settled: list[tuple[str, Any]] = []

    def ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        self.settled.append(("ack", delivery_tag))

    def reject(self, delivery_tag: Any, requeue: bool) -> None:
        self.settled.append(("requeue" if requeue else "reject", delivery_tag))


class StubLife:
    """The life of a channel, as a message knows it."""

    def __init__(self) -> None:
        self.channel = StubChannel()
        self.over: Exception | None = None
        self.settle_lock = nullcontext()

    @property
    def is_open(self) -> bool:
        return self.over is None and self.channel.is_open

    def note(self, message: Message) -> None: ...


def received(backend: Books | None = None, **options: Any) -> Message:
    """A message as a broker delivers it."""
    return Message(backend or Books(), b'{"a": 1}', 7, "application/json", "utf-8", **options)


# -- what it holds


def test_a_message_made_by_hand_has_what_it_was_given() -> None:
    message = Message(
        body=b"1",
        content_type="application/json",
        content_encoding="utf-8",
        delivery_tag=7,
        delivery_info={"exchange": "feed", "routing_key": "key", "redelivered": True},
        properties={"headers": {"a": 1}, "priority": 5},
    )

    assert message.body == b"1"
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.properties == {
        "headers": {"a": 1},
        "priority": 5,
        "content_type": "application/json",
        "content_encoding": "utf-8",
    }
    assert message.headers == {"a": 1}
    assert message.delivery_info["exchange"] == "feed"
    assert message.redelivered is True


def test_an_empty_message_has_defaults() -> None:
    message = Message()

    assert (message.body, message.content_type, message.content_encoding) == (b"", None, None)
    assert (message.properties, message.headers, message.delivery_info) == ({}, {}, {})
    assert message.redelivered is False
    assert not message.acknowledged


def test_what_is_passed_in_is_copied() -> None:
    info: dict[str, Any] = {"exchange": "feed"}
    properties: dict[str, Any] = {}

    Message(delivery_info=info, properties=properties, content_type="text/plain")

    assert (info, properties) == ({"exchange": "feed"}, {})


def test_its_repr_says_what_it_is_without_its_body() -> None:
    message = received(delivery_info={"exchange": "feed", "routing_key": "key"})

    assert repr(message) == (
        "<Message 8 bytes, content_type='application/json', exchange='feed', routing_key='key', "
        "delivery_tag=7, RECEIVED>"
    )


def test_the_old_name_is_the_same_class() -> None:
    assert BaseMessage is Message
    assert Message.MessageStateError is MessageStateError


# -- decoding


def test_decode_and_payload_are_the_same_object_each_time() -> None:
    message = received()

    assert message.decode() == {"a": 1}
    assert message.decode() is message.payload is message.payload


@pytest.mark.parametrize("value", [None, 0, "", [], False])
def test_a_falsy_payload_is_decoded_once_too(value: Any) -> None:
    calls: list[Any] = []

    def decoder(body: Any) -> Any:
        calls.append(body)
        return value

    message = Message(body=b"x", decoder=decoder)

    assert message.payload == value
    assert message.payload == message.decode() == value
    assert calls == [b"x"]


def test_a_body_that_cannot_be_decoded_leaves_the_message_reachable_and_unsettled() -> None:
    message = Message(Books(), b"{", 7, "application/json", "utf-8")

    with pytest.raises(DecodeError) as caught:
        message.decode()

    assert caught.value.message is message
    assert not message.acknowledged
    message.reject()


def test_what_is_not_accepted_is_not_decoded() -> None:
    message = received(accept=["yaml"])

    with pytest.raises(ContentDisallowed) as caught:
        _ = message.payload

    assert caught.value.message is message


def test_a_body_without_content_type_is_the_bytes_that_it_is() -> None:
    assert Message(body=b"{}").payload == b"{}"
    assert Message(body=b"{}", content_type="", content_encoding="utf-8").payload == b"{}"


def test_a_body_without_content_type_is_what_the_default_says() -> None:
    bare, typed = Message(body=b"{}"), Message(body=b"{}", content_type="text/plain")
    for message in (bare, typed):
        message.default_content_type = "application/json"

    assert (bare.payload, typed.payload) == ({}, "{}")
    assert bare.content_type is None


def test_what_a_signal_raises_while_it_is_decoded_comes_out_and_it_can_be_decoded_later() -> None:
    class TimeLimit(Exception):
        """Of a soft time limit."""

    def over(*_signal: object) -> None:
        raise TimeLimit

    def decoder(body: Any) -> Any:
        if signal.getsignal(signal.SIGUSR1) is over:
            signal.raise_signal(signal.SIGUSR1)
        return body

    message = received(decoder=decoder)
    before = signal.signal(signal.SIGUSR1, over)
    try:
        with pytest.raises(TimeLimit):
            message.decode()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert not message.acknowledged
    assert message.decode() == '{"a": 1}'


# -- settling


@pytest.mark.parametrize("how", SETTLE)
def test_settling_tells_the_broker_once(how: str) -> None:
    backend = Books()
    message = received(backend)
    before = (message.acknowledged, message._state)

    getattr(message, how)()

    assert before == (False, RECEIVED)
    assert backend.settled == [(how, 7)]
    assert message.acknowledged
    assert message._state == SETTLE[how][0]


@pytest.mark.parametrize("first", SETTLE)
@pytest.mark.parametrize("second", SETTLE)
def test_settling_twice_says_how_it_was_settled_before(first: str, second: str) -> None:
    backend = Books()
    message = received(backend)
    getattr(message, first)()

    with pytest.raises(MessageStateError) as caught:
        getattr(message, second)()

    says = f"can't be {SETTLE[second][1]}: it was {SETTLE[first][1]} before"
    assert says in str(caught.value)
    assert backend.settled == [(first, 7)]
    assert message._state == SETTLE[first][0]


@pytest.mark.parametrize("how", SETTLE)
def test_a_message_delivered_with_no_ack_needs_no_settling(how: str) -> None:
    backend = Books()
    message = received(backend, no_ack=True)

    with pytest.raises(MessageStateError, match="delivered with no_ack, it needs no settling"):
        getattr(message, how)()

    assert message.acknowledged
    assert backend.settled == []


@pytest.mark.parametrize("how", SETTLE)
def test_a_message_made_by_hand_cannot_be_settled(how: str) -> None:
    with pytest.raises(MessageStateError, match="no broker delivered it"):
        getattr(Message(), how)()


@pytest.mark.parametrize("how", SETTLE)
def test_a_message_of_an_earlier_connection_is_never_settled_on_the_new_one(how: str) -> None:
    life = StubLife()
    message = Message(None, b"{}", 7)
    message.life = life
    life.channel.is_open = False

    with pytest.raises(ConnectionLost, match="the broker will redeliver it"):
        getattr(message, how)()

    assert life.channel.settled == []
    assert not message.acknowledged


@pytest.mark.parametrize("how", SETTLE)
def test_a_delivery_is_settled_on_the_life_that_delivered_it(how: str) -> None:
    life = StubLife()
    message = Message(None, b"{}", 7)
    message.life = life

    getattr(message, how)()

    assert life.channel.settled == [(how, 7)]


@pytest.mark.parametrize("how", SETTLE)
def test_a_message_that_could_not_be_settled_is_not_settled(how: str) -> None:
    backend = Books(ConnectionLost("gone"))
    message = received(backend)

    with pytest.raises(ConnectionLost, match="gone"):
        getattr(message, how)()

    assert not message.acknowledged
    backend.error = None
    getattr(message, how)()
    assert backend.settled == [(how, 7)]


def test_of_many_threads_that_settle_at_once_one_succeeds() -> None:
    backend = Books()
    message = received(backend)
    start = threading.Barrier(8, timeout=10)
    refused: list[MessageStateError] = []

    def settle() -> None:
        start.wait()
        try:
            message.ack()
        except MessageStateError as exc:
            refused.append(exc)

    threads = [threading.Thread(target=settle) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert backend.settled == [("ack", 7)]
    assert len(refused) == 7
