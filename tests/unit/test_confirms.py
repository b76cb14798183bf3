"""Confirms: the books of what was published and what the broker said of it."""

from __future__ import annotations

import pytest

from carrot.backends.seam.confirms import Confirms, merged
from carrot.exceptions import (
    ContentTooLarge,
    Nacked,
    NotFound,
    PreconditionFailed,
    PublishError,
    Unroutable,
)
from carrot.message import Message
from carrot.remedies import channel_error

A, B, C = (Message(body=body) for body in (b"a", b"b", b"c"))


def publish(confirms: Confirms, *messages: Message) -> list[int]:
    return [confirms.publish(message, "feed", "key", mandatory=True) for message in messages]


def test_numbers_count_from_one() -> None:
    assert publish(Confirms(), A, B, C) == [1, 2, 3]


def test_an_ack_settles_its_message_alone() -> None:
    confirms = Confirms()
    publish(confirms, A, B)

    confirms.settle(2, multiple=False, taken=True)

    assert confirms.all_settled([2])
    assert not confirms.all_settled([1])
    assert not confirms.all_settled([1, 2])
    confirms.raise_failures([2])


def test_a_multiple_ack_settles_all_up_to_it() -> None:
    confirms = Confirms()
    publish(confirms, A, B, C)

    confirms.settle(2, multiple=True, taken=True)

    assert confirms.all_settled([1, 2])
    assert not confirms.all_settled([3])


def test_a_multiple_nack_refuses_all_up_to_it() -> None:
    confirms = Confirms()
    numbers = publish(confirms, A, B, C)

    confirms.settle(1, multiple=False, taken=True)
    confirms.settle(3, multiple=True, taken=False)

    with pytest.raises(Nacked, match="and 1 more") as caught:
        confirms.raise_failures(numbers)
    assert caught.value.messages == (B, C)


def test_nothing_to_wait_for_is_settled() -> None:
    assert Confirms().all_settled([])


def test_a_nack_is_raised_once_with_its_message() -> None:
    confirms = Confirms()
    publish(confirms, A)

    confirms.settle(1, multiple=False, taken=False)

    with pytest.raises(Nacked, match="the broker refused the message") as caught:
        confirms.raise_failures([1])
    assert caught.value.messages == (A,)
    assert "exchange 'feed', routing key 'key'" in str(caught.value)
    confirms.raise_failures([1])


def test_a_failure_is_raised_to_the_one_who_waits_for_it() -> None:
    confirms = Confirms()
    publish(confirms, A, B)
    confirms.settle(2, multiple=True, taken=False)

    with pytest.raises(Nacked) as first:
        confirms.raise_failures([1])
    with pytest.raises(Nacked) as second:
        confirms.raise_failures([2])

    assert first.value.messages == (A,)
    assert second.value.messages == (B,)


def test_a_returned_message_is_unroutable_when_it_is_acked() -> None:
    confirms = Confirms()
    publish(confirms, A)

    confirms.returned(Message(body=b"a"), "feed", "key", "NO_ROUTE")
    pending = confirms.all_settled([1])
    confirms.settle(1, multiple=False, taken=True)

    assert not pending
    with pytest.raises(Unroutable, match=r"reached no queue .*: NO_ROUTE; bind a queue") as caught:
        confirms.raise_failures([1])
    assert caught.value.messages == (A,)


def test_a_return_marks_the_first_message_that_looks_like_it() -> None:
    confirms = Confirms()
    numbers = publish(confirms, A, B, B)

    confirms.returned(Message(body=b"b"), "feed", "key", "NO_ROUTE")
    confirms.settle(3, multiple=True, taken=True)

    with pytest.raises(Unroutable) as caught:
        confirms.raise_failures(numbers)
    assert caught.value.messages == (B,)
    assert caught.value.messages[0] is B


@pytest.mark.parametrize("came_back", [{}, {"BCC": ["x"], "a": 1, "added": "by the broker"}])
def test_a_return_whose_headers_the_broker_changed_finds_its_message(
    came_back: dict[str, object],
) -> None:
    sent = Message(body=b"x", properties={"message_id": "1", "headers": {"BCC": ["x"], "a": 1}})
    confirms = Confirms()
    numbers = publish(confirms, A, sent)

    back = Message(body=b"x", properties={"message_id": "1", "headers": came_back})
    confirms.returned(back, "feed", "key", "NO_ROUTE")
    confirms.settle(2, multiple=True, taken=True)

    with pytest.raises(Unroutable) as caught:
        confirms.raise_failures(numbers)
    assert caught.value.messages == (sent,)


def test_a_message_that_was_withdrawn_leaves_its_number_to_the_next() -> None:
    confirms = Confirms()
    first, second = publish(confirms, A, B)

    confirms.withdraw(second)

    assert publish(confirms, B) == [second]
    confirms.settle(2, multiple=True, taken=True)
    assert confirms.all_settled([first, second])


def test_two_returns_of_the_same_look_are_two_messages() -> None:
    confirms = Confirms()
    numbers = publish(confirms, A, A)

    confirms.returned(Message(body=b"a"), "feed", "key", "NO_ROUTE")
    confirms.returned(Message(body=b"a"), "feed", "key", "NO_ROUTE")
    confirms.settle(2, multiple=True, taken=True)

    with pytest.raises(Unroutable) as caught:
        confirms.raise_failures(numbers)
    assert len(caught.value.messages) == 2


@pytest.mark.parametrize(
    ("body", "exchange", "routing_key"),
    [(b"x", "feed", "key"), (b"a", "other", "key"), (b"a", "feed", "other")],
)
def test_a_return_that_looks_like_no_message_is_nobodys(
    body: bytes, exchange: str, routing_key: str
) -> None:
    confirms = Confirms()
    publish(confirms, A)

    confirms.returned(Message(body=body), exchange, routing_key, "NO_ROUTE")
    confirms.settle(1, multiple=False, taken=True)

    confirms.raise_failures([1])


def test_a_late_answer_for_a_forgotten_message_is_nobodys() -> None:
    confirms = Confirms()
    publish(confirms, A)
    confirms.returned(Message(body=b"a"), "feed", "key", "NO_ROUTE")

    confirms.forget([1])
    confirms.settle(1, multiple=False, taken=False)

    assert confirms.all_settled([1])
    confirms.raise_failures([1])


def test_an_answer_for_an_unknown_number_is_ignored() -> None:
    confirms = Confirms()

    confirms.settle(7, multiple=False, taken=False)
    confirms.settle(7, multiple=True, taken=False)

    confirms.raise_failures([7])


def test_many_failures_become_one_error_of_the_gravest_class() -> None:
    failures = [PublishError("lost", [A]), Unroutable("no queue", [B]), Nacked("full", [C])]

    error = merged(failures)

    assert type(error) is Nacked
    assert str(error) == "full (and 2 more, see .messages)"
    assert error.messages == (A, B, C)


def test_errors_that_hold_many_failures_say_once_how_many() -> None:
    first = merged([Nacked("full", [A]), Nacked("full", [B])])

    assert str(merged([first, Nacked("full", [C])])) == "full (and 2 more, see .messages)"


def test_one_failure_stays_as_it_is() -> None:
    error = merged([Unroutable("no queue", [A])])

    assert (type(error), str(error), error.messages) == (Unroutable, "no queue", (A,))


def test_a_return_is_never_of_a_message_that_was_not_mandatory() -> None:
    confirms = Confirms()
    confirms.publish(A, "feed", "key", mandatory=False)
    (mandatory,) = publish(confirms, A)

    confirms.returned(A, "feed", "key", "NO_ROUTE")
    confirms.settle(2, multiple=True, taken=True)

    confirms.raise_failures([1])
    with pytest.raises(Unroutable):
        confirms.raise_failures([mandatory])


def test_a_return_is_of_the_message_with_the_same_headers() -> None:
    confirms = Confirms()
    one, other = (Message(body=b"a", properties={"headers": {"n": n}}) for n in (1, 2))
    numbers = publish(confirms, one, other)

    confirms.returned(other, "feed", "key", "NO_ROUTE")
    confirms.settle(2, multiple=True, taken=True)

    confirms.raise_failures(numbers[:1])
    with pytest.raises(Unroutable):
        confirms.raise_failures(numbers[1:])


def test_a_message_that_nobody_waited_for_is_not_taken_for_confirmed():
    confirms = Confirms()
    one, other = publish(confirms, A, B)
    confirms.forget([one])

    assert not confirms.is_settled(one)
    assert not confirms.all_settled([one])
    confirms.settle(other, multiple=True, taken=True)
    assert confirms.all_settled([one, other])
    assert confirms.is_settled(one)


def test_a_closed_channel_is_blamed_on_the_messages_that_it_was_closed_for() -> None:
    confirms = Confirms()
    publish(confirms, A)
    wrong = confirms.publish(B, "missing", "key")

    assert confirms.blame(NotFound("NOT_FOUND - no exchange 'missing' in vhost '/'", 404))

    assert confirms.is_settled(wrong)
    with pytest.raises(NotFound, match="missing"):
        confirms.raise_failures([wrong])
    assert not confirms.is_settled(1)


def test_a_message_that_is_too_large_is_blamed_and_no_other() -> None:
    confirms = Confirms()
    publish(confirms, A, Message(body=b"x" * 5000), B)
    error = channel_error(
        406, "PRECONDITION_FAILED - message size 5000 is larger than configured max size 4096"
    )

    assert confirms.blame(error)

    assert [confirms.is_settled(number) for number in (1, 2, 3)] == [False, True, False]
    with pytest.raises(ContentTooLarge):
        confirms.raise_failures([2])


def test_a_closed_channel_that_names_no_message_is_blamed_on_nobody() -> None:
    confirms = Confirms()
    publish(confirms, A)

    assert not confirms.blame(NotFound("NOT_FOUND - no queue 'feed' in vhost '/'", 404))
    assert not confirms.blame(PreconditionFailed("timed out", 406))
    assert not confirms.is_settled(1)


def test_what_went_wrong_stands_in_the_books_before_the_message_is_settled() -> None:
    """Who waits in another thread looks at the one and then at the other."""
    seen = []

    class Failed(dict[int, PublishError]):
        def __setitem__(self, number: int, failure: PublishError) -> None:
            seen.append(confirms.all_settled([number]))
            super().__setitem__(number, failure)

    confirms = Confirms()
    confirms._failed = Failed()
    publish(confirms, A)

    confirms.settle(1, multiple=False, taken=False)

    assert seen == [False]
    assert confirms.all_settled([1])
