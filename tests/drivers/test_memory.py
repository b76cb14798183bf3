"""What only the memory driver does: virtual hosts, its clock, waking threads, the broker's details.

What it shares with RabbitMQ is in tests/conformance.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from carrot.backends import memory, queue
from carrot.backends.base import BaseBackend
from carrot.broker.channel import Channel
from carrot.broker.connection import Connection
from carrot.broker.exchange import Exchange
from carrot.broker.message import QueuedMessage
from carrot.broker.virtual_host import Outcome, VirtualHost
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ChannelError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    ConsumerCancelled,
    EncodeError,
    NotFound,
    NotSupported,
    OperationTimeout,
    PreconditionFailed,
    ResourceLocked,
)
from carrot.messaging import Consumer, Publisher
from tests.waiting import eventually

DEADLINE = 5.0  # seconds


# -- the broker itself, with a clock that the test sets ---------------------------------


class Clock:
    milliseconds = 0

    def __call__(self) -> float:
        return self.milliseconds / 1000

    def advance(self, milliseconds: int) -> None:
        self.milliseconds += milliseconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> VirtualHost:
    return VirtualHost(clock=clock)


@pytest.fixture
def channel(broker: VirtualHost) -> Channel:
    return Connection(broker).channel()


class Inbox(list[tuple[int, QueuedMessage]]):
    """Takes a consumer's deliveries."""

    def __call__(self, delivery_tag: int, message: QueuedMessage) -> None:
        self.append((delivery_tag, message))

    @property
    def bodies(self) -> list[bytes]:
        return [message.body for _, message in self]

    @property
    def tags(self) -> list[int]:
        return [tag for tag, _ in self]


def declare(channel: Channel, name: str, **arguments: Any) -> str:
    """Declare a queue; ``max_length=1`` is the argument ``x-max-length``."""
    given = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
    return channel.queue_declare(name, arguments=given)[0]


def send(channel: Channel, queue: str, *bodies: bytes, **properties: Any) -> list[Outcome]:
    return [channel.publish("", queue, body, properties) for body in bodies]


def drain(channel: Channel, queue: str) -> list[bytes]:
    bodies = []
    while (delivery := channel.get(queue, no_ack=True)) is not None:
        bodies.append(delivery[1].body)
    return bodies


def take(channel: Channel, queue: str) -> QueuedMessage:
    delivery = channel.get(queue, no_ack=True)
    assert delivery is not None
    return delivery[1]


class TestExpiry:
    def test_message_expires_with_its_queue_s_ttl(self, channel: Channel, clock: Clock) -> None:
        declare(channel, "q", message_ttl=100)
        send(channel, "q", b"1")

        clock.advance(99)
        before = channel.queue_declare("q", arguments={"x-message-ttl": 100})
        clock.advance(1)

        assert before == ("q", 1, 0)
        assert channel.get("q") is None

    def test_lower_of_the_message_s_and_the_queue_s_ttl_counts(
        self, channel: Channel, clock: Clock
    ) -> None:
        declare(channel, "q", message_ttl=100)
        send(channel, "q", b"short", expiration="50")
        send(channel, "q", b"long", expiration="500")

        clock.advance(50)
        after_50 = channel.queue_declare("q", arguments={"x-message-ttl": 100})
        clock.advance(50)

        assert after_50 == ("q", 1, 0)
        assert channel.get("q") is None

    def test_messages_expire_only_at_the_head(self, channel: Channel, clock: Clock) -> None:
        declare(channel, "q")
        send(channel, "q", b"stays")
        send(channel, "q", b"expires", expiration="10")

        clock.advance(1000)
        behind = channel.queue_declare("q")
        head = take(channel, "q").body

        assert (behind, head) == (("q", 2, 0), b"stays")
        assert channel.get("q") is None

    def test_requeued_message_keeps_its_time(self, channel: Channel, clock: Clock) -> None:
        declare(channel, "q")
        send(channel, "q", b"1", expiration="100")
        delivery = channel.get("q")
        assert delivery is not None

        clock.advance(150)
        channel.reject(delivery[0], requeue=True)

        assert channel.get("q") is None

    def test_ttl_0_delivers_at_once_or_never(self, channel: Channel) -> None:
        declare(channel, "q", message_ttl=0)
        inbox = Inbox()

        send(channel, "q", b"nobody is there")
        channel.consume("q", "c", True, inbox)
        send(channel, "q", b"somebody is")

        assert inbox.bodies == [b"somebody is"]

    def test_expired_messages_behind_a_consumed_head_expire_then(
        self, channel: Channel, clock: Clock
    ) -> None:
        declare(channel, "q")
        send(channel, "q", b"stays")
        send(channel, "q", b"expires", expiration="10")
        send(channel, "q", b"stays too")
        send(channel, "q", b"expires too", expiration="20")
        clock.advance(20)
        inbox = Inbox()

        channel.consume("q", "c", False, inbox)

        assert inbox.bodies == [b"stays", b"stays too"]

    def test_head_of_a_priority_queue_expires(self, channel: Channel, clock: Clock) -> None:
        declare(channel, "q", max_priority=5)
        send(channel, "q", b"low", priority=1, expiration="10")
        send(channel, "q", b"high", priority=5, expiration="20")

        clock.advance(20)

        assert drain(channel, "q") == []

    def test_what_is_due_first_happens_first(self, channel: Channel, clock: Clock) -> None:
        dead = declare(channel, "dead")
        for ttl in (30, 10, 20):
            declare(
                channel, f"q{ttl}", message_ttl=ttl, dead_letter_exchange="",
                dead_letter_routing_key=dead,
            )  # fmt: skip
            send(channel, f"q{ttl}", b"%d" % ttl)

        clock.advance(30)

        assert drain(channel, dead) == [b"10", b"20", b"30"]

    def test_unused_queue_expires(self, channel: Channel, clock: Clock) -> None:
        declare(channel, "q", expires=100)

        clock.advance(99)
        before = "q" in channel.connection.broker.queues
        clock.advance(1)

        assert before
        assert not channel.queue_exists("q")

    def test_use_renews_a_queue_that_expires(self, channel: Channel, clock: Clock) -> None:
        declare(channel, "q", expires=100)

        clock.advance(80)
        channel.get("q")
        clock.advance(80)
        declare(channel, "q", expires=100)
        clock.advance(80)
        exists = channel.queue_exists("q")
        clock.advance(80)
        send(channel, "q", b"publishing is no use")
        clock.advance(20)

        assert exists
        assert not channel.queue_exists("q")

    def test_consumed_queue_does_not_expire_until_its_consumer_ends(
        self, channel: Channel, clock: Clock
    ) -> None:
        declare(channel, "q", expires=100)
        channel.consume("q", "c", True, Inbox())

        clock.advance(1000)
        consumed = channel.queue_exists("q")
        channel.cancel("c")
        clock.advance(100)

        assert consumed
        assert not channel.queue_exists("q")

    def test_timer_of_a_deleted_queue_does_nothing(self, channel: Channel, clock: Clock) -> None:
        declare(channel, "q", expires=100, message_ttl=50)
        send(channel, "q", b"1")
        channel.queue_delete("q")
        declare(channel, "q")
        send(channel, "q", b"2")

        clock.advance(1000)

        assert drain(channel, "q") == [b"2"]


class TestDeadLetters:
    def death(self, channel: Channel, queue: str) -> dict[str, Any]:
        death: dict[str, Any] = dict(take(channel, queue).headers["x-death"][0])
        return death

    @pytest.fixture
    def dead(self, channel: Channel) -> str:
        return declare(channel, "dead")

    def test_x_death_says_what_rabbitmq_says(
        self, channel: Channel, clock: Clock, dead: str
    ) -> None:
        declare(channel, "q", dead_letter_exchange="", dead_letter_routing_key=dead)
        channel.queue_bind("q", "amq.topic", "a.#")
        channel.publish("amq.topic", "a.b", b"1", {"expiration": "20", "headers": {"mine": 1}})

        clock.advance(20)
        message = take(channel, dead)

        death = message.headers["x-death"][0]
        assert abs(death.pop("time") - datetime.now(UTC)) < timedelta(seconds=DEADLINE)
        assert message.properties == {
            "headers": {
                "mine": 1,
                "x-first-death-reason": "expired",
                "x-first-death-queue": "q",
                "x-first-death-exchange": "amq.topic",
                "x-death": [
                    {
                        "count": 1,
                        "reason": "expired",
                        "queue": "q",
                        "exchange": "amq.topic",
                        "routing-keys": ["a.b"],
                        "original-expiration": "20",
                    }
                ],
            }
        }
        assert (message.exchange, message.routing_key) == ("", dead)

    def test_time_of_a_death_is_in_utc_and_whole_seconds(self, channel: Channel, dead: str) -> None:
        declare(channel, "q", max_length=0, dead_letter_exchange="", dead_letter_routing_key=dead)

        send(channel, "q", b"1")

        at = self.death(channel, dead)["time"]
        assert (at.tzinfo, at.microsecond) == (UTC, 0)

    def test_second_death_of_the_same_cause_is_counted(self, channel: Channel) -> None:
        declare(channel, "q", dead_letter_exchange="", dead_letter_routing_key="q")
        send(channel, "q", b"1")

        for _ in range(3):
            delivery = channel.get("q")
            assert delivery is not None
            channel.reject(delivery[0], requeue=False)

        deaths = take(channel, "q").headers["x-death"]
        assert [(death["count"], death["reason"]) for death in deaths] == [(3, "rejected")]

    def test_latest_death_comes_first(self, channel: Channel, clock: Clock) -> None:
        declare(channel, "a", message_ttl=10, dead_letter_exchange="", dead_letter_routing_key="b")
        declare(channel, "b", dead_letter_exchange="", dead_letter_routing_key="a")
        send(channel, "a", b"1")

        clock.advance(10)
        delivery = channel.get("b")
        assert delivery is not None
        channel.reject(delivery[0], requeue=False)
        clock.advance(10)

        deaths = take(channel, "b").headers["x-death"]
        assert [(d["queue"], d["reason"], d["count"]) for d in deaths] == [
            ("a", "expired", 2),
            ("b", "rejected", 1),
        ]

    def test_cycle_without_a_reject_is_dropped(self, channel: Channel, clock: Clock) -> None:
        for name, other in ("ab", "ba"):
            declare(
                channel, name, message_ttl=10, dead_letter_exchange="",
                dead_letter_routing_key=other,
            )  # fmt: skip
        send(channel, "a", b"1")

        clock.advance(10)
        on_its_way = len(channel.connection.broker.queues["a"].bindings)
        channel.queue_exists("a")
        clock.advance(10)

        assert on_its_way
        assert (drain(channel, "a"), drain(channel, "b")) == ([], [])

    def test_chain_of_many_queues_is_followed_to_its_end(self, channel: Channel) -> None:
        for number in range(500):
            declare(
                channel, f"q{number}", max_length=0, dead_letter_exchange="",
                dead_letter_routing_key=f"q{number + 1}",
            )  # fmt: skip
        declare(channel, "q500")

        send(channel, "q0", b"1")

        assert len(take(channel, "q500").headers["x-death"]) == 500

    def test_missing_dead_letter_exchange_loses_the_message(self, channel: Channel) -> None:
        declare(channel, "q", max_length=0, dead_letter_exchange="nowhere")

        assert send(channel, "q", b"1") == [Outcome.TAKEN]

    @pytest.mark.parametrize("forged", ["text", [], ["text"], [{"queue": "q"}]])
    def test_forged_x_death_does_no_harm(self, channel: Channel, dead: str, forged: Any) -> None:
        declare(channel, "q", max_length=0, dead_letter_exchange="", dead_letter_routing_key=dead)

        send(channel, "q", b"1", headers={"x-death": forged})

        assert self.death(channel, dead)["count"] == 1

    def test_deleted_queue_dead_letters_nothing(self, channel: Channel, dead: str) -> None:
        declare(channel, "q", dead_letter_exchange="", dead_letter_routing_key=dead)
        send(channel, "q", b"held", b"ready")
        delivery = channel.get("q")
        assert delivery is not None

        deleted = channel.queue_delete("q")
        channel.reject(delivery[0], requeue=False)

        assert deleted == 1
        assert drain(channel, dead) == []

    def test_full_queue_can_dead_letter_what_it_rejects(self, channel: Channel, dead: str) -> None:
        declare(
            channel, "q", max_length=1, overflow="reject-publish-dlx", dead_letter_exchange="",
            dead_letter_routing_key=dead,
        )  # fmt: skip

        outcomes = send(channel, "q", b"1", b"2")

        assert outcomes == [Outcome.TAKEN, Outcome.REJECTED]
        assert (drain(channel, "q"), drain(channel, dead)) == ([b"1"], [b"2"])

    def test_copies_travel_on_unless_the_routing_key_is_replaced(self, channel: Channel) -> None:
        declare(channel, "keeps", max_length=0, dead_letter_exchange="amq.direct")
        declare(
            channel, "replaces", max_length=0, dead_letter_exchange="",
            dead_letter_routing_key="dead",
        )  # fmt: skip
        declare(channel, "dead")
        channel.queue_bind("dead", "amq.direct", "cc")

        send(channel, "keeps", b"1", headers={"CC": ["cc"]})
        send(channel, "replaces", b"2", headers={"CC": ["cc"]})

        kept, replaced = take(channel, "dead"), take(channel, "dead")
        assert kept.headers["CC"] == ["cc"]
        assert "CC" not in replaced.headers
        assert replaced.headers["x-death"][0]["routing-keys"] == ["replaces", "cc"]


class TestLimits:
    def test_longest_queue_in_bytes_drops_its_head(self, channel: Channel) -> None:
        declare(channel, "q", max_length_bytes=5)

        send(channel, "q", b"123", b"45", b"6")

        assert drain(channel, "q") == [b"45", b"6"]

    def test_message_that_is_too_large_for_its_queue_is_dropped(self, channel: Channel) -> None:
        declare(channel, "q", max_length_bytes=5)

        send(channel, "q", b"123456")

        assert drain(channel, "q") == []

    def test_unacked_messages_do_not_count(self, channel: Channel) -> None:
        declare(channel, "q", max_length=1)
        send(channel, "q", b"1")
        delivery = channel.get("q")
        assert delivery is not None
        send(channel, "q", b"2")

        channel.reject(delivery[0], requeue=True)

        assert drain(channel, "q") == [b"2"]

    def test_rejecting_queue_takes_back_what_it_had_delivered(self, channel: Channel) -> None:
        declare(channel, "q", max_length=1, overflow="reject-publish")
        send(channel, "q", b"1")
        delivery = channel.get("q")
        assert delivery is not None
        send(channel, "q", b"2")

        channel.reject(delivery[0], requeue=True)

        assert drain(channel, "q") == [b"1", b"2"]

    def test_one_rejecting_queue_of_two_refuses_for_both(self, channel: Channel) -> None:
        declare(channel, "full", max_length=0, overflow="reject-publish")
        declare(channel, "free")
        for name in ("full", "free"):
            channel.queue_bind(name, "amq.fanout")

        outcome = channel.publish("amq.fanout", "", b"1", {})

        assert outcome is Outcome.REJECTED
        assert drain(channel, "free") == [b"1"]

    def test_priority_queue_drops_its_head_which_is_the_highest(self, channel: Channel) -> None:
        declare(channel, "q", max_priority=5, max_length=2)

        for body, priority in ((b"low", 1), (b"high", 5), (b"middle", 3), (b"low too", 1)):
            send(channel, "q", body, priority=priority)

        assert drain(channel, "q") == [b"low", b"low too"]

    def test_priority_above_the_highest_counts_as_the_highest(self, channel: Channel) -> None:
        declare(channel, "q", max_priority=2)

        send(channel, "q", b"none")
        for body, priority in ((b"2", 2), (b"9", 9), (b"0", 0)):
            send(channel, "q", body, priority=priority)

        assert drain(channel, "q") == [b"2", b"9", b"none", b"0"]

    def test_requeued_message_returns_to_its_place_within_its_priority(
        self, channel: Channel
    ) -> None:
        declare(channel, "q", max_priority=5)
        for body, priority in ((b"a", 1), (b"b", 3), (b"c", 3)):
            send(channel, "q", body, priority=priority)
        taken = [channel.get("q") for _ in range(3)]

        for delivery in taken:
            assert delivery is not None
            channel.reject(delivery[0], requeue=True)

        assert drain(channel, "q") == [b"b", b"c", b"a"]


class TestDeliveries:
    def test_consumers_take_turns(self, channel: Channel) -> None:
        declare(channel, "q")
        inboxes = {tag: Inbox() for tag in "abc"}
        for tag, inbox in inboxes.items():
            channel.consume("q", tag, False, inbox)

        send(channel, "q", *(b"%d" % number for number in range(7)))

        assert [inbox.bodies for inbox in inboxes.values()] == [
            [b"0", b"3", b"6"],
            [b"1", b"4"],
            [b"2", b"5"],
        ]

    def test_prefetch_per_consumer_is_for_those_that_begin_later(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", *[b"x"] * 10)
        first, second = Inbox(), Inbox()

        channel.qos(2, apply_global=False)
        channel.consume("q", "first", False, first)
        channel.qos(3, apply_global=False)
        channel.consume("q", "second", False, second)

        assert (len(first), len(second)) == (2, 3)

    def test_ack_gives_a_consumer_credit(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", b"1", b"2", b"3")
        inbox = Inbox()
        channel.qos(1, apply_global=False)
        channel.consume("q", "c", False, inbox)

        channel.ack(inbox.tags[-1])
        channel.reject(inbox.tags[-1], requeue=False)

        assert inbox.bodies == [b"1", b"2", b"3"]

    def test_channel_s_prefetch_is_shared_and_spares_no_ack(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", *(b"%d" % number for number in range(8)))
        channel.qos(2, apply_global=True)
        first, second, no_ack = Inbox(), Inbox(), Inbox()
        taken = channel.get("q")

        channel.consume("q", "first", False, first)
        channel.consume("q", "second", False, second)
        channel.consume("q", "no_ack", True, no_ack)
        at_2 = (first.bodies, second.bodies, no_ack.bodies)
        channel.qos(3, apply_global=True)

        # basic.get doesn't count. At the limit even a no_ack consumer waits, as in RabbitMQ.
        assert taken is not None
        assert at_2 == ([b"1", b"2"], [], [])
        assert len(first) + len(second) == 3

    def test_lifted_limit_lets_everything_through(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", *[b"x"] * 5)
        inbox = Inbox()
        channel.qos(1, apply_global=True)
        channel.consume("q", "c", False, inbox)

        channel.qos(0, apply_global=True)

        assert len(inbox) == 5

    def test_requeued_messages_come_back_in_their_old_order(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", *(b"%d" % number for number in range(5)))
        tags = [delivery[0] for _ in range(3) if (delivery := channel.get("q"))]

        for tag in (tags[1], tags[2], tags[0]):
            channel.reject(tag, requeue=True)

        taken = [take(channel, "q") for _ in range(5)]
        assert [(message.body, message.redelivered) for message in taken] == [
            (b"0", True), (b"1", True), (b"2", True), (b"3", False), (b"4", False),
        ]  # fmt: skip

    def test_closed_channel_gives_back_in_order(self, channel: Channel) -> None:
        declare(channel, "q")
        other = channel.connection.channel()
        send(channel, "q", *(b"%d" % number for number in range(4)))
        other.get("q")
        other.consume("q", "c", False, Inbox())

        other.close()

        assert drain(channel, "q") == [b"0", b"1", b"2", b"3"]

    def test_connection_s_channels_do_not_get_what_the_others_give_back(
        self, broker: VirtualHost, channel: Channel
    ) -> None:
        declare(channel, "q")
        closing = Connection(broker)
        holder, waiter = closing.channel(), closing.channel()
        inbox = Inbox()
        send(channel, "q", b"1")
        holder.get("q")
        waiter.consume("q", "c", False, inbox)

        closing.close()

        assert inbox == []
        assert drain(channel, "q") == [b"1"]

    @pytest.mark.parametrize("close", ["channel", "connection"])
    def test_what_a_closing_client_gives_back_is_back_before_another_is_served(
        self, broker: VirtualHost, channel: Channel, close: str
    ) -> None:
        declare(channel, "q")
        send(channel, "q", *(b"%d" % number for number in range(6)))
        closing = Connection(broker)
        channels = [closing.channel() for _ in range(2)]
        for number in range(4):
            channels[number % 2].get("q")
        channels[0].qos(1, apply_global=False)
        channels[0].consume("q", "c", False, Inbox())
        inbox = Inbox()
        channel.consume("q", "other", False, inbox)
        send(channel, "q", b"6")

        if close == "connection":
            closing.close()
            back = [b"0", b"1", b"2", b"3", b"4"]
        else:
            channels[0].close()
            back = [b"0", b"2", b"4"]

        assert inbox.bodies == [b"5", b"6", *back]
        assert [message.redelivered for _, message in inbox] == [False, False] + [True] * len(back)

    def test_nack_puts_several_back_before_a_consumer_is_served(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", *(b"%d" % number for number in range(6)))
        for _ in range(4):
            channel.get("q")
        other, inbox = channel.connection.channel(), Inbox()
        other.consume("q", "other", False, inbox)

        channel.nack(3, multiple=True)

        assert inbox.bodies == [b"4", b"5", b"0", b"1", b"2"]
        assert list(channel.unacked.messages) == [4]

    def test_nack_of_several_queues_puts_all_back_first(self, channel: Channel) -> None:
        inbox = Inbox()
        declare(channel, "b")
        declare(channel, "a", max_length=1, dead_letter_exchange="", dead_letter_routing_key="b")
        for name in ("a", "b"):
            send(channel, name, name.encode())
            channel.get(name)
        channel.qos(1, apply_global=False)
        channel.consume("b", "c", True, inbox)
        send(channel, "a", b"pushes a out")

        channel.nack(0, multiple=True)

        # The older message of a is dropped from its full queue, and is the last to reach b.
        assert inbox.bodies == [b"b", b"a"]

    def test_nack_with_tag_0_and_multiple_puts_everything_back(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", *(b"%d" % number for number in range(4)))
        channel.qos(3, apply_global=False)
        inbox = Inbox()
        channel.consume("q", "c", False, inbox)
        channel.cancel("c")
        channel.get("q")

        channel.nack(0, multiple=True)
        channel.nack(0, multiple=True)

        assert drain(channel, "q") == [b"0", b"1", b"2", b"3"]
        assert channel.unacked.by_consumers == 0

    def test_nack_without_requeue_dead_letters_in_order(self, channel: Channel) -> None:
        dead = declare(channel, "dead")
        declare(channel, "q", dead_letter_exchange="", dead_letter_routing_key=dead)
        send(channel, "q", *(b"%d" % number for number in range(3)))
        for _ in range(3):
            channel.get("q")

        channel.nack(2, multiple=True, requeue=False)

        assert drain(channel, dead) == [b"0", b"1"]

    def test_nack_gives_a_consumer_credit(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", *(b"%d" % number for number in range(4)))
        channel.qos(2, apply_global=False)
        inbox = Inbox()
        channel.consume("q", "c", False, inbox)

        channel.nack(0, multiple=True, requeue=False)
        channel.nack(0, multiple=True, requeue=True)

        assert inbox.bodies == [b"0", b"1", b"2", b"3", b"2", b"3"]

    @pytest.mark.parametrize(("tag", "multiple"), [(0, False), (9, False), (9, True)])
    def test_nack_of_an_unknown_tag_closes_the_channel(
        self, channel: Channel, tag: int, multiple: bool
    ) -> None:
        with pytest.raises(PreconditionFailed) as caught:
            channel.nack(tag, multiple)

        assert caught.value.text == f"PRECONDITION_FAILED - unknown delivery tag {tag}"
        assert not channel.is_open

    def test_ack_of_several_takes_all_up_to_the_tag(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", *(b"%d" % number for number in range(4)))
        tags = [delivery[0] for _ in range(4) if (delivery := channel.get("q"))]

        channel.ack(tags[1], multiple=True)
        channel.close()

        assert drain(channel.connection.channel(), "q") == [b"2", b"3"]

    def test_ack_of_several_with_tag_0_takes_all_or_none(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", b"1", b"2")
        channel.get("q")
        channel.get("q")

        channel.ack(0, multiple=True)
        channel.ack(0, multiple=True)

        assert channel.unacked.messages == {}

    @pytest.mark.parametrize(("tag", "multiple"), [(0, False), (9, False), (9, True)])
    def test_unknown_tag_closes_the_channel(
        self, channel: Channel, tag: int, multiple: bool
    ) -> None:
        declare(channel, "q")

        with pytest.raises(PreconditionFailed) as caught:
            channel.ack(tag, multiple)

        assert caught.value.text == f"PRECONDITION_FAILED - unknown delivery tag {tag}"
        assert not channel.is_open

    def test_several_acked_up_to_a_settled_tag_is_an_unknown_tag(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", b"1", b"2")
        channel.get("q")
        channel.get("q")
        channel.ack(2)

        with pytest.raises(PreconditionFailed):
            channel.ack(2, multiple=True)

    def test_deleting_a_queue_ends_its_consumers(self, channel: Channel) -> None:
        declare(channel, "q")
        cancelled: list[str] = []
        channel.consume("q", "c", False, Inbox(), lambda: cancelled.append("c"))

        channel.queue_delete("q")

        assert cancelled == ["c"]
        assert channel.consumers == {}

    def test_message_of_a_deleted_queue_can_still_be_settled(self, channel: Channel) -> None:
        declare(channel, "q")
        send(channel, "q", b"1", b"2", b"3")
        for _ in range(3):
            channel.get("q")

        channel.queue_delete("q")
        channel.ack(1)
        channel.reject(2, requeue=True)
        channel.reject(3, requeue=False)

        assert channel.is_open

    def test_each_queue_and_each_delivery_has_its_own_headers(self, channel: Channel) -> None:
        headers: dict[str, Any] = {"list": [1]}
        for name in ("a", "b"):
            declare(channel, name)
            channel.queue_bind(name, "amq.fanout")

        channel.publish("amq.fanout", "", b"1", {"headers": headers})
        headers["list"].append(2)
        first = take(channel, "a").delivered_properties()
        first["headers"]["list"].append(3)

        assert take(channel, "b").delivered_properties() == {"headers": {"list": [1]}}

    def test_copies_go_to_more_keys_and_bcc_is_not_seen(self, channel: Channel) -> None:
        for name in ("to", "cc", "bcc"):
            declare(channel, name)

        send(channel, "to", b"1", headers={"CC": ["cc", "to"], "BCC": ["bcc"]})

        assert [take(channel, name).headers for name in ("to", "cc", "bcc")] == [
            {"CC": ["cc", "to"]}
        ] * 3
        assert drain(channel, "to") == []

    def test_consumer_tag_is_used_once_a_channel(self, channel: Channel) -> None:
        declare(channel, "q")
        channel.consume("q", "c", False, Inbox())
        channel.connection.channel().consume("q", "c", False, Inbox())

        with pytest.raises(ChannelError, match="attempt to reuse consumer tag 'c'") as caught:
            channel.consume("q", "c", False, Inbox())

        assert caught.value.code == 530

    def test_empty_queue_name_is_the_one_declared_last(self, channel: Channel) -> None:
        name = declare(channel, "")
        send(channel, name, b"1")

        assert name.startswith("amq.gen-")
        assert drain(channel, "") == [b"1"]

    def test_empty_queue_name_without_a_declaration_is_not_found(self, channel: Channel) -> None:
        with pytest.raises(NotFound, match="no previously declared queue"):
            channel.get("")

    def test_closed_channel_says_so(self, channel: Channel) -> None:
        channel.close()
        channel.close()

        with pytest.raises(ChannelError, match="the channel is closed"):
            channel.queue_declare("q")
        with pytest.raises(ChannelError, match="the channel is closed"):
            channel.publish("", "q", b"", {})
        with pytest.raises(ChannelError, match="the channel is closed"):
            channel.ack(1)


class TestSingleActiveConsumer:
    @pytest.fixture
    def queue(self, channel: Channel) -> str:
        return declare(channel, "q", single_active_consumer=True)

    @staticmethod
    def consume(channel: Channel, prefetch: int = 0) -> tuple[Channel, Inbox]:
        """A consumer on a channel of its own."""
        own, inbox = channel.connection.channel(), Inbox()
        own.qos(prefetch, apply_global=False)
        own.consume("q", "c", False, inbox)
        return own, inbox

    def test_oldest_consumer_gets_everything(self, channel: Channel, queue: str) -> None:
        _, first = self.consume(channel, prefetch=2)
        _, second = self.consume(channel)

        send(channel, queue, b"1", b"2", b"3")

        assert (first.bodies, second.bodies) == ([b"1", b"2"], [])
        assert channel.queue_declare(queue, arguments={"x-single-active-consumer": True})[2] == 2

    def test_active_consumer_gets_more_when_it_acks(self, channel: Channel, queue: str) -> None:
        own, first = self.consume(channel, prefetch=1)
        _, second = self.consume(channel)
        send(channel, queue, b"1", b"2", b"3")

        own.ack(1)
        own.ack(2)

        assert (first.bodies, second.bodies) == ([b"1", b"2", b"3"], [])

    def test_next_consumer_goes_on_when_the_active_one_is_cancelled(
        self, channel: Channel, queue: str
    ) -> None:
        own, _ = self.consume(channel, prefetch=2)
        _, second = self.consume(channel)
        send(channel, queue, b"1", b"2", b"3")

        own.cancel("c")

        assert second.bodies == [b"3"]

    @pytest.mark.parametrize("close", ["channel", "connection"])
    def test_next_consumer_gets_what_the_closed_one_held_in_order(
        self, broker: VirtualHost, channel: Channel, queue: str, close: str
    ) -> None:
        own, _ = self.consume(Connection(broker).channel(), prefetch=3)
        _, second = self.consume(channel, prefetch=4)
        send(channel, queue, *(b"%d" % number for number in range(6)))
        own.ack(1)

        if close == "channel":
            own.close()
        else:
            own.connection.close()

        assert second.bodies == [b"1", b"2", b"3", b"4"]

    def test_passive_consumer_that_ends_changes_nothing(self, channel: Channel, queue: str) -> None:
        _, first = self.consume(channel)
        own, _ = self.consume(channel)

        own.close()
        send(channel, queue, b"1")

        assert first.bodies == [b"1"]

    def test_nack_gives_back_to_the_active_consumer(self, channel: Channel, queue: str) -> None:
        own, first = self.consume(channel, prefetch=2)
        _, second = self.consume(channel)
        send(channel, queue, b"1", b"2", b"3")

        own.nack(0, multiple=True)

        assert (first.bodies, second.bodies) == ([b"1", b"2", b"1", b"2"], [])


class TestTopology:
    def test_chain_of_auto_delete_exchanges_goes_with_its_end(self, channel: Channel) -> None:
        names = [f"e{number}" for number in range(2000)]
        channel.exchange_declare("stays", "fanout")
        for name in names:
            channel.exchange_declare(name, "fanout", auto_delete=True)
        for source, destination in zip(["stays", *names], names, strict=False):
            channel.exchange_bind(destination, source)

        channel.exchange_delete(names[-1])

        exchanges = channel.connection.broker.exchanges
        assert [name for name in names if name in exchanges] == []
        assert not exchanges["stays"].outgoing

    def test_alternate_exchanges_may_form_a_cycle(self, channel: Channel) -> None:
        for name, other in ("ab", "ba"):
            channel.exchange_declare(name, "direct", arguments={"alternate-exchange": other})

        assert channel.publish("a", "k", b"1", {}) is Outcome.UNROUTABLE

    def test_alternate_exchange_takes_what_a_bound_exchange_can_not_route(
        self, channel: Channel
    ) -> None:
        channel.exchange_declare("outer", "fanout")
        channel.exchange_declare("inner", "direct", arguments={"alternate-exchange": "amq.fanout"})
        channel.exchange_bind("inner", "outer")
        declare(channel, "q")
        channel.queue_bind("q", "amq.fanout")

        channel.publish("outer", "k", b"1", {})

        assert drain(channel, "q") == [b"1"]

    @pytest.mark.parametrize("alternate", ["", "nowhere"])
    def test_default_and_missing_alternate_exchanges_take_nothing(
        self, channel: Channel, alternate: str
    ) -> None:
        declare(channel, "q")
        channel.exchange_declare("x", "fanout", arguments={"alternate-exchange": alternate})

        assert channel.publish("x", "q", b"1", {}) is Outcome.UNROUTABLE

    def test_bound_exchanges_may_form_a_cycle(self, channel: Channel) -> None:
        for name in "ab":
            channel.exchange_declare(name, "fanout")
        channel.exchange_bind("a", "b")
        channel.exchange_bind("b", "a")
        channel.exchange_bind("a", "a")
        declare(channel, "q")
        channel.queue_bind("q", "a")
        channel.queue_bind("q", "b")

        channel.publish("a", "", b"1", {})

        assert drain(channel, "q") == [b"1"]

    def test_auto_delete_exchanges_go_one_after_the_other(
        self, channel: Channel, broker: VirtualHost
    ) -> None:
        for name in ("first", "second"):
            channel.exchange_declare(name, "fanout", auto_delete=True)
        channel.exchange_bind("second", "first")
        declare(channel, "q")
        channel.queue_bind("q", "second")

        channel.queue_delete("q")

        assert not {"first", "second"} & broker.exchanges.keys()

    def test_same_binding_twice_is_one_and_with_other_arguments_another(
        self, channel: Channel
    ) -> None:
        declare(channel, "q")
        for arguments in (None, None, {"a": 1}):
            channel.queue_bind("q", "amq.direct", "k", arguments)

        channel.queue_unbind("q", "amq.direct", "k")
        with_one = channel.publish("amq.direct", "k", b"1", {})
        channel.queue_unbind("q", "amq.direct", "k", {"a": 1})
        with_none = channel.publish("amq.direct", "k", b"2", {})

        assert (with_one, with_none) == (Outcome.TAKEN, Outcome.UNROUTABLE)
        assert drain(channel, "q") == [b"1"]

    def test_predeclared_exchange_can_not_be_deleted(self, channel: Channel) -> None:
        with pytest.raises(ChannelError, match="deletion of system exchange") as caught:
            channel.exchange_delete("amq.topic")

        assert caught.value.code == 403

    def test_undoing_what_was_not_done_is_harmless(self, channel: Channel) -> None:
        declare(channel, "q")

        channel.queue_unbind("q", "missing", "k")
        channel.queue_unbind("missing", "amq.direct", "k")
        channel.queue_unbind("q", "amq.direct", "k")
        channel.exchange_unbind("amq.direct", "missing", "k")
        channel.exchange_delete("missing")
        channel.cancel("missing")

        assert channel.queue_delete("missing") == 0

    def test_route_is_looked_up_once_until_something_changes(
        self, channel: Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lookups: list[str] = []
        lookup = Exchange.lookup

        def counted(exchange: Exchange, key: str, headers: Any) -> Any:
            lookups.append(key)
            return lookup(exchange, key, headers)

        monkeypatch.setattr(Exchange, "lookup", counted)
        declare(channel, "q")
        for number in range(10_000):
            channel.queue_bind("q", "amq.topic", f"stock.{number}.*")

        for _ in range(100):
            channel.publish("amq.topic", "stock.7.nasdaq", b"", {})
        remembered = len(lookups)
        channel.queue_unbind("q", "amq.topic", "stock.7.*")
        outcome = channel.publish("amq.topic", "stock.7.nasdaq", b"", {})

        assert remembered == 1
        assert outcome is Outcome.UNROUTABLE

    def test_remembered_routes_are_bounded(
        self, channel: Channel, broker: VirtualHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("carrot.broker.virtual_host._REMEMBERED_ROUTES", 10)

        for number in range(100):
            channel.publish("amq.topic", str(number), b"", {})

        assert len(broker._routes) <= 10

    def test_headers_decide_for_each_message(self, channel: Channel) -> None:
        declare(channel, "q")
        channel.queue_bind("q", "amq.headers", "", {"format": "pdf"})

        outcomes = [
            channel.publish("amq.headers", "", b"", {"headers": {"format": format}})
            for format in ("pdf", "txt", "pdf")
        ]

        assert outcomes == [Outcome.TAKEN, Outcome.UNROUTABLE, Outcome.TAKEN]


# RabbitMQ 3.10.8's own words, as it gave them to these declarations.
_Q = "for queue 'q' in vhost '/'"
_EXPECTED = "expected integer, got"
BAD_ARGUMENTS = [
    ({"x-message-ttl": -1}, f"invalid arg 'x-message-ttl' {_Q}: {{value_negative,-1}}"),
    ({"x-message-ttl": "5"}, f"invalid arg 'x-message-ttl' {_Q}: \"{_EXPECTED} longstr\""),
    ({"x-message-ttl": 1.5}, f"invalid arg 'x-message-ttl' {_Q}: \"{_EXPECTED} double\""),
    ({"x-message-ttl": True}, f"invalid arg 'x-message-ttl' {_Q}: \"{_EXPECTED} bool\""),
    ({"x-message-ttl": None}, f"invalid arg 'x-message-ttl' {_Q}: \"{_EXPECTED} void\""),
    (
        {"x-message-ttl": 2**40},
        f"invalid arg 'x-message-ttl' {_Q}: {{value_too_large,1099511627776}}",
    ),
    ({"x-expires": 0}, f"invalid arg 'x-expires' {_Q}: {{value_zero,0}}"),
    ({"x-expires": -1}, f"invalid arg 'x-expires' {_Q}: {{value_negative,-1}}"),
    ({"x-max-length": -1}, f"invalid arg 'x-max-length' {_Q}: {{value_negative,-1}}"),
    ({"x-max-length-bytes": -1}, f"invalid arg 'x-max-length-bytes' {_Q}: {{value_negative,-1}}"),
    ({"x-max-priority": 300}, f"invalid arg 'x-max-priority' {_Q}: {{max_value_exceeded,300}}"),
    ({"x-max-priority": -1}, f"invalid arg 'x-max-priority' {_Q}: {{value_negative,-1}}"),
    ({"x-overflow": "foo"}, f"invalid arg 'x-overflow' {_Q}: invalid_overflow"),
    ({"x-overflow": 5}, f"invalid arg 'x-overflow' {_Q}: {{unacceptable_type,signedint}}"),
    (
        {"x-dead-letter-exchange": 5},
        "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'",
    ),
    (
        {"x-dead-letter-routing-key": "k"},
        f"invalid arg 'x-dead-letter-routing-key' {_Q}: routing_key_but_no_dlx_defined",
    ),
    (
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": 5},
        f"invalid arg 'x-dead-letter-routing-key' {_Q}: {{unacceptable_type,signedint}}",
    ),
    *(
        ({f"x-queue-{what}": value}, f"invalid arg 'x-queue-{what}' {_Q}: "
         f"\"unsupported queue {what} '{value}'\"")
        for what, value in (("mode", "foo"), ("version", 7), ("type", "foo"))
    ),
    (
        {"x-single-active-consumer": 5},
        f"invalid arg 'x-single-active-consumer' {_Q}: {{unacceptable_type,signedint}}",
    ),
    (
        {"x-delivery-limit": 5},
        f"invalid arg 'x-delivery-limit' {_Q} of queue type rabbit_classic_queue",
    ),
]  # fmt: skip

_IS_5 = {"x-message-ttl": 5, "x-dead-letter-exchange": "d"}
INEQUIVALENT_ARGUMENTS = [
    ({}, "x-message-ttl", "none", "the value '5' of type 'signedint'"),
    ({**_IS_5, "x-message-ttl": 6}, "x-message-ttl", "'6'", "'5'"),
    ({**_IS_5, "x-dead-letter-exchange": "e"}, "x-dead-letter-exchange", "'e'", "'d'"),
    ({**_IS_5, "x-max-length": 2**40}, "x-max-length",
     "the value '1099511627776' of type 'long'", "none"),
    ({**_IS_5, "x-queue-mode": "lazy"}, "x-queue-mode",
     "the value 'lazy' of type 'longstr'", "none"),
]  # fmt: skip


class TestRefusals:
    @pytest.mark.parametrize(("arguments", "words"), BAD_ARGUMENTS, ids=str)
    def test_bad_queue_argument_is_refused_in_rabbitmq_s_words(
        self, channel: Channel, arguments: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(PreconditionFailed) as caught:
            channel.queue_declare("q", arguments=arguments)

        assert caught.value.text == f"PRECONDITION_FAILED - {words}"

    @pytest.mark.parametrize(
        ("arguments", "name", "received", "current"), INEQUIVALENT_ARGUMENTS, ids=str
    )
    def test_other_arguments_are_refused_in_rabbitmq_s_words(
        self, channel: Channel, arguments: dict[str, Any], name: str, received: str, current: str
    ) -> None:
        channel.queue_declare("q", arguments=_IS_5)

        with pytest.raises(PreconditionFailed) as caught:
            channel.queue_declare("q", arguments=arguments)

        assert caught.value.text == (
            f"PRECONDITION_FAILED - inequivalent arg '{name}' {_Q}: "
            f"received {received} but current is {current}"
        )

    def test_arguments_that_mean_nothing_are_not_compared(self, channel: Channel) -> None:
        channel.queue_declare("q", arguments={"x-queue-type": "classic", "x-mine": 1})

        assert channel.queue_declare("q", arguments={"x-mine": 2}) == ("q", 0, 0)

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("x-queue-type", "quorum"),
            ("x-queue-type", "stream"),
        ],
    )
    def test_missing_feature_is_named(self, channel: Channel, argument: str, value: Any) -> None:
        with pytest.raises(NotSupported, match=f"memory driver.*{argument}"):
            channel.queue_declare("q", arguments={argument: value})

        assert channel.is_open
        assert not channel.queue_exists("q")

    @pytest.mark.parametrize(
        "arguments",
        [
            {"x-queue-type": "classic"},
            {"x-queue-mode": "lazy"},
            {"x-queue-version": 2},
            {"x-single-active-consumer": False},
            {"x-ha-policy": "all"},
        ],
        ids=str,
    )
    def test_harmless_argument_is_accepted(
        self, channel: Channel, arguments: dict[str, Any]
    ) -> None:
        assert channel.queue_declare("q", arguments=arguments) == ("q", 0, 0)

    def test_plug_in_exchange_type_is_not_supported(self, channel: Channel) -> None:
        with pytest.raises(NotSupported, match=r"memory driver.*'x-delayed-message'"):
            channel.exchange_declare("x", "x-delayed-message")

    def test_alternate_exchange_must_be_text(self, channel: Channel) -> None:
        with pytest.raises(PreconditionFailed, match="invalid type 'signedint' for arg"):
            channel.exchange_declare("x", "direct", arguments={"alternate-exchange": 5})

    @pytest.mark.parametrize(
        ("x_match", "words"),
        [
            ("foo", 'field value <<"foo">>; expected all, any, all-with-x, or any-with-x'),
            (5, "field type signedint (value 5); expected longstr"),
            (None, "field type void (value undefined); expected longstr"),
            (True, "field type bool (value true); expected longstr"),
        ],
    )
    def test_bad_x_match_is_refused_by_a_headers_exchange_alone(
        self, channel: Channel, x_match: Any, words: str
    ) -> None:
        declare(channel, "q")
        channel.queue_bind("q", "amq.direct", "k", {"x-match": x_match})

        with pytest.raises(PreconditionFailed) as caught:
            channel.queue_bind("q", "amq.headers", "", {"x-match": x_match})

        assert caught.value.text == f"PRECONDITION_FAILED - Invalid x-match {words}"

    @pytest.mark.parametrize(
        ("expiration", "words"),
        [
            ("abc", "no_integer"),
            ("", "no_integer"),
            (" 5", "no_integer"),
            ("-1", "{value_negative,-1}"),
            ("1.5", '{leftover_string,".5"}'),
            ("5x", '{leftover_string,"x"}'),
            ("999999999999", "{value_too_large,999999999999}"),
        ],
    )
    def test_bad_expiration_is_refused_in_rabbitmq_s_words(
        self, channel: Channel, expiration: str, words: str
    ) -> None:
        with pytest.raises(PreconditionFailed) as caught:
            send(channel, "q", b"", expiration=expiration)

        assert (
            caught.value.text == f"PRECONDITION_FAILED - invalid expiration '{expiration}': {words}"
        )

    @pytest.mark.parametrize("expiration", ["0", "+5", "007", "99999999999"])
    def test_odd_expiration_is_accepted(self, channel: Channel, expiration: str) -> None:
        assert send(channel, "q", b"", expiration=expiration) == [Outcome.UNROUTABLE]

    def test_user_id_must_be_the_connection_s_user(self, channel: Channel) -> None:
        accepted = send(channel, "q", b"", user_id="guest")

        with pytest.raises(PreconditionFailed, match="set to 'bob' but authenticated user was"):
            send(channel, "q", b"", user_id="bob")

        assert accepted == [Outcome.UNROUTABLE]

    def test_copies_must_be_a_list(self, channel: Channel) -> None:
        with pytest.raises(PreconditionFailed, match='unacceptable_type_in_header,"CC",longstr'):
            send(channel, "q", b"", headers={"CC": "k"})

    @pytest.mark.parametrize("routing_key", [5, None, b"k", ["k"], "k" * 256])
    def test_routing_key_that_amqp_can_not_carry_leaves_the_channel_open(
        self, channel: Channel, routing_key: Any
    ) -> None:
        with pytest.raises(ConfigurationError, match="routing key"):
            channel.publish("", routing_key, b"", {})

        assert channel.is_open

    def test_header_that_amqp_can_not_carry_leaves_the_channel_open(self, channel: Channel) -> None:
        with pytest.raises(EncodeError, match="object"):
            send(channel, "q", b"", headers={"mine": object()})

        assert channel.is_open

    def test_reserved_queue_name_is_refused_even_if_the_queue_exists(
        self, channel: Channel
    ) -> None:
        name = declare(channel, "")

        with pytest.raises(ChannelError, match="contains reserved prefix") as caught:
            declare(channel, name)

        assert caught.value.code == 403

    def test_exclusive_queue_counts_as_transient(self, channel: Channel) -> None:
        channel.queue_declare("q", durable=True, exclusive=True)

        assert channel.queue_declare("q", durable=False, exclusive=True) == ("q", 0, 0)
        with pytest.raises(ResourceLocked):
            channel.queue_declare("q")


# -- behind the seam --------------------------------------------------------------------


@pytest.fixture
def url(unique: Callable[..., str]) -> str:
    return f"memory://{unique('vhost')}/"


@pytest.fixture
def connection(url: str) -> Iterator[BrokerConnection]:
    with BrokerConnection(url) as connection:
        yield connection


@pytest.fixture
def backend(connection: BrokerConnection) -> BaseBackend:
    return connection.create_backend()


def publish(backend: BaseBackend, queue: str, body: bytes = b"x", **properties: Any) -> None:
    backend.publish(backend.prepare_message(body, 1, **properties), "", queue)


class TestBrokers:
    @pytest.mark.parametrize(
        "other", ["memory://{0}:1234/", "memory://{0}/other", "memory://not-{0}/"]
    )
    def test_host_port_and_virtual_host_each_make_another_broker(
        self, backend: BaseBackend, url: str, other: str
    ) -> None:
        backend.queue_declare("q", False, False, False)

        with BrokerConnection(other.format(url.split("/")[2])) as elsewhere:
            assert not elsewhere.create_backend().queue_exists("q")

    def test_broker_outlives_its_connections(self, url: str) -> None:
        with BrokerConnection(url) as first:
            first.create_backend().queue_declare("q", False, False, False)

        with BrokerConnection(url) as second:
            assert second.create_backend().queue_exists("q")

    def test_default_broker_has_no_port(self) -> None:
        with BrokerConnection("memory://") as connection:
            assert connection.host == "localhost"
            assert connection.create_backend().default_port is None

    def test_reset_empties_a_broker_and_its_connections_go_on(
        self, backend: BaseBackend, url: str
    ) -> None:
        backend.exchange_declare("x", "topic", False, False)
        backend.queue_declare("q", False, False, False, arguments={"x-message-ttl": 1000})
        publish(backend, "q")
        message = backend.get("q")
        assert message is not None

        memory.reset(url)
        message.ack()

        assert not backend.queue_exists("q")
        backend.queue_declare("q", False, False, False)
        publish(backend, "q", b"new")
        fetched = backend.get("q")
        assert fetched is not None
        assert fetched.body == b"new"
        with pytest.raises(NotFound):
            backend.exchange_bind("x", "amq.topic")

    def test_reset_cancels_consumers(self, backend: BaseBackend, url: str) -> None:
        backend.queue_declare("q", False, False, False)
        backend.declare_consumer("q", False, lambda message: None, "c")

        memory.reset(url)

        with pytest.raises(ConsumerCancelled):
            next(backend.consume())

    def test_reset_of_an_unknown_broker_is_harmless(self, url: str) -> None:
        memory.reset(url)

    def test_old_public_name_is_the_same_driver(self) -> None:
        assert (queue.Backend, queue.Message) == (memory.Backend, memory.Message)


class TestTheChannelsLife:
    def test_error_costs_the_channel_and_the_next_use_opens_another(
        self, backend: BaseBackend
    ) -> None:
        backend.queue_declare("q", False, False, False)
        publish(backend, "q")
        message = backend.get("q")
        assert message is not None
        life = backend.life

        with pytest.raises(NotFound):
            backend.get("missing")

        with pytest.raises(ConnectionLost, match="earlier connection or channel"):
            message.ack()
        again = backend.get("q")
        assert again is not None
        assert again.redelivered
        assert backend.life is not life

    @pytest.mark.parametrize(
        "refused",
        [
            lambda backend: backend.publish(backend.prepare_message(b"", 1), "missing", ""),
            lambda backend: backend.declare_consumer("missing", False, print, "c"),
            lambda backend: backend.ack(99),
            lambda backend: backend.reject(99),
            lambda backend: backend.requeue(99),
        ],
        ids=["publish", "consume", "ack", "reject", "requeue"],
    )
    def test_every_refusal_costs_the_channel(
        self, backend: BaseBackend, refused: Callable[[BaseBackend], object]
    ) -> None:
        assert backend.channel is not None

        with pytest.raises(ChannelError):
            refused(backend)

        assert not backend.is_open
        assert not backend.queue_exists("missing")

    def test_asking_for_a_queue_leaves_the_channel_as_it_is(self, backend: BaseBackend) -> None:
        channel = backend.channel

        assert not backend.queue_exists("missing")

        assert backend.channel is channel

    def test_another_connection_s_exclusive_queue_exists(
        self, backend: BaseBackend, url: str
    ) -> None:
        backend.queue_declare("q", False, True, False)

        with BrokerConnection(url) as other:
            assert other.create_backend().queue_exists("q")

    def test_closed_transport_refuses_every_use(self, connection: BrokerConnection) -> None:
        transport = connection.connect()
        raw = transport.channel().native

        transport.close()
        transport.close()

        assert not transport.is_open
        for use in (
            transport.channel,
            lambda: transport.wait_for(lambda: True, 0),
            lambda: transport.drain_events(0),
            lambda: raw.queue_declare("q"),
            lambda: raw.publish("", "q", b"", {}),
            lambda: raw.get("q"),
            lambda: raw.ack(1),
        ):
            with pytest.raises(ConnectionLost):
                use()

    def test_delivery_that_comes_after_the_channel_was_given_up_is_not_seen(
        self, backend: BaseBackend, url: str
    ) -> None:
        backend.queue_declare("q", False, False, False)
        backend.declare_consumer("q", False, lambda message: None, "c")
        life = backend.life
        backend.close()

        with BrokerConnection(url) as other:
            publish(other.create_backend(), "q")
            other.create_backend().queue_delete("q")

        assert not life.inbox
        assert not backend.queue_exists("q")

    def test_refusal_that_comes_late_leaves_the_next_channel_alone(
        self, backend: BaseBackend
    ) -> None:
        late = backend.lives.live()
        with pytest.raises(NotFound):
            backend.get("missing")
        current = backend.channel

        late.end(NotFound("it comes late"))

        assert backend.channel is current

    def test_properties_of_a_received_message_are_its_own(self, backend: BaseBackend) -> None:
        sent = backend.prepare_message(b"x", 1, headers={"list": [1]})
        for name in ("a", "b"):
            backend.queue_declare(name, False, False, False)
            backend.queue_bind(name, "amq.fanout")
        backend.publish(sent, "amq.fanout", "")

        sent.headers["list"].append(2)
        first, second = backend.get("a"), backend.get("b")
        assert first is not None
        assert second is not None
        first.headers["list"].append(3)
        first.properties["priority"] = 9

        assert second.properties == {"delivery_mode": 1, "headers": {"list": [1]}}


class TestWaiting:
    """Each in a thread that must end well before DEADLINE."""

    def waiting(self, target: Callable[[], object]) -> Callable[[], object]:
        """Run *target* in a thread; call the result for what it returned or raised."""
        outcome: list[object] = []

        def run() -> None:
            try:
                outcome.append(target())
            except Exception as exc:
                outcome.append(exc)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def result() -> object:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "still waiting"
            return outcome[0]

        return result

    def is_asleep(self, connection: BrokerConnection) -> bool:
        return bool(connection.connect()._connection.waiting)  # type: ignore[attr-defined]

    @pytest.fixture
    def consumer(self, backend: BaseBackend) -> BaseBackend:
        backend.queue_declare("q", False, False, False)
        return backend

    def test_publish_wakes_a_blocked_consumer(
        self, connection: BrokerConnection, consumer: BaseBackend, url: str
    ) -> None:
        received: list[bytes] = []
        consumer.declare_consumer("q", True, lambda m: received.append(m.body), "c")
        done = self.waiting(lambda: list(consumer.consume(limit=1)))
        eventually(lambda: self.is_asleep(connection))

        with BrokerConnection(url) as other:
            publish(other.create_backend(), "q", b"1")

        assert done() == [True]
        assert received == [b"1"]

    def test_consumer_wakes_for_what_becomes_due_meanwhile(
        self, connection: BrokerConnection, consumer: BaseBackend
    ) -> None:
        received: list[bytes] = []
        to_q = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
        consumer.queue_declare("delay", False, False, False, arguments=to_q)
        publish(consumer, "delay", b"later", expiration="100")
        consumer.declare_consumer("q", True, lambda m: received.append(m.body), "c")

        connection.drain_events(timeout=DEADLINE)

        assert received == [b"later"]

    def test_sleeper_wakes_for_what_becomes_due_earlier_than_it_knew(
        self, connection: BrokerConnection, consumer: BaseBackend, url: str
    ) -> None:
        to_q = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
        consumer.queue_declare("delay", False, False, False, arguments=to_q)
        consumer.queue_declare("far", False, False, False, arguments={"x-expires": 3_600_000})
        received: list[bytes] = []
        consumer.declare_consumer("q", True, lambda m: received.append(m.body), "c")
        done = self.waiting(lambda: connection.drain_events(timeout=60))
        eventually(lambda: self.is_asleep(connection))

        with BrokerConnection(url) as other:
            publish(other.create_backend(), "delay", b"soon", expiration="50")
            done()

        assert received == [b"soon"]

    def test_stop_from_another_thread_ends_the_loop(
        self, connection: BrokerConnection, consumer: BaseBackend
    ) -> None:
        consumer.declare_consumer("q", True, lambda message: None, "c")
        done = self.waiting(lambda: list(consumer.consume()))
        eventually(lambda: self.is_asleep(connection))

        consumer.stop()

        assert done() == []

    def test_close_wakes_those_who_wait_with_connection_lost(
        self, connection: BrokerConnection, consumer: BaseBackend
    ) -> None:
        transport = connection.connect()
        done = self.waiting(lambda: transport.wait_for(lambda: False))
        eventually(lambda: self.is_asleep(connection))

        transport.close()

        assert isinstance(done(), ConnectionLost)

    def test_deleted_queue_wakes_its_consumer(
        self, connection: BrokerConnection, consumer: BaseBackend, url: str
    ) -> None:
        consumer.declare_consumer("q", True, lambda message: None, "c")
        done = self.waiting(lambda: list(consumer.consume()))
        eventually(lambda: self.is_asleep(connection))

        with BrokerConnection(url) as other:
            other.create_backend().queue_delete("q")

        assert isinstance(done(), ConsumerCancelled)

    def test_nothing_to_wait_for_times_out(self, connection: BrokerConnection) -> None:
        begun = time.monotonic()

        with pytest.raises(OperationTimeout):
            connection.drain_events(timeout=0.05)

        assert time.monotonic() - begun >= 0.05

    def test_timeout_0_only_looks(self, connection: BrokerConnection) -> None:
        transport = connection.connect()

        transport.wait_for(lambda: True, timeout=0)
        with pytest.raises(OperationTimeout):
            transport.wait_for(lambda: False, timeout=0)

    def test_signal_handler_may_stop_the_thread_that_holds_the_lock(
        self, connection: BrokerConnection, consumer: BaseBackend
    ) -> None:
        consumer.declare_consumer("q", True, lambda message: None, "c")
        previous = signal.signal(signal.SIGUSR1, lambda *_: consumer.stop())
        try:
            with connection.connect()._connection.broker.lock:  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGUSR1)

            assert list(consumer.consume()) == []
        finally:
            signal.signal(signal.SIGUSR1, previous)

    def test_signal_handler_may_stop_the_thread_that_sleeps(
        self, connection: BrokerConnection, consumer: BaseBackend
    ) -> None:
        consumer.declare_consumer("q", True, lambda message: None, "c")
        previous = signal.signal(signal.SIGUSR1, lambda *_: consumer.stop())

        def interrupt() -> None:
            eventually(lambda: self.is_asleep(connection))
            os.kill(os.getpid(), signal.SIGUSR1)

        try:
            done = self.waiting(interrupt)

            assert list(consumer.consume()) == []
            done()
        finally:
            signal.signal(signal.SIGUSR1, previous)

    def test_callback_runs_without_the_lock(self, consumer: BaseBackend, url: str) -> None:
        others: list[Callable[[], object]] = []

        def callback(message: Any) -> None:
            with BrokerConnection(url) as other:
                done = self.waiting(lambda: other.create_backend().queue_exists("q"))
                others.append(done)
                assert done() is True

        consumer.declare_consumer("q", True, callback, "c")
        publish(consumer, "q")

        consumer.life.dispatch()

        assert len(others) == 1

    def test_threads_on_one_connection_lose_and_repeat_nothing(
        self, connection: BrokerConnection, consumer: BaseBackend
    ) -> None:
        threads, each = 4, 500
        received: list[bytes] = []

        def send(number: int) -> None:
            backend = connection.create_backend()
            for n in range(each):
                publish(backend, "q", b"%d-%d" % (number, n))

        def receive() -> None:
            backend = connection.create_backend()
            backends.append(backend)
            backend.qos(0, 10)

            def callback(message: Any) -> None:
                message.ack()
                received.append(message.body)
                if len(received) == threads * each:
                    for other in backends:
                        other.stop()

            backend.declare_consumer("q", False, callback, f"c{len(backends)}")
            list(backend.consume())

        backends: list[BaseBackend] = []
        consumers = [self.waiting(receive) for _ in range(threads)]
        eventually(lambda: len(backends) == threads)
        senders = [self.waiting(lambda n=n: send(n)) for n in range(threads)]  # type: ignore[misc]

        outcomes = [done() for done in (*senders, *consumers)]

        assert outcomes == [None] * threads * 2
        assert len(received) == len(set(received)) == threads * each


def test_dead_letter_whose_headers_leave_no_room_is_told_of_and_nothing_else_is_lost(caplog):
    with BrokerConnection("memory://") as connection:
        last = Consumer(connection, "last")
        options = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "second"}
        Consumer(connection, "second", queue_arguments={
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "last",
        })  # fmt: skip
        first = Consumer(connection, "first", queue_arguments=options)
        publisher = Publisher(connection, routing_key="first")
        for size in (119_900, 10):
            publisher.send("x", headers={"long": "y" * size})
            first.fetch().reject()
            Consumer(connection, "second", auto_declare=False).fetch().reject()

        assert [len(message.headers["long"]) for message in last.iterqueue()] == [10]
    assert "leave no room for x-death" in caplog.text


@pytest.mark.parametrize("name", ["x-dead-letter-exchange", "x-dead-letter-routing-key"])
def test_name_for_dead_letters_that_amqp_cant_carry_is_refused(name):
    arguments = {"x-dead-letter-exchange": "", name: "\u20ac" * 100}
    with (
        BrokerConnection("memory://") as connection,
        pytest.raises(PreconditionFailed, match="max_length_exceeded,300"),
    ):
        Consumer(connection, "feed", queue_arguments=arguments)


def test_stop_ends_all_loops_that_wait_for_the_broker(monkeypatch):
    recovering, errors = set(), []
    connection = BrokerConnection(
        "memory://stopped-while-away",
        on_connection_lost=lambda error, interval: recovering.add(threading.get_ident()),
    )
    consumer = Consumer(connection, "q", callbacks=[print])
    consumer.consume()

    def stay_away(deadline):
        raise ConnectionFailed("it is away")

    def loop():
        try:
            list(consumer.iterconsume())
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=loop, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    monkeypatch.setattr(connection, "_open", stay_away)
    connection._live.transport.close()
    eventually(lambda: len(recovering) == 2, 10)
    consumer.stop()
    for thread in threads:
        thread.join(10)

    assert not any(thread.is_alive() for thread in threads)
    assert errors == []


def test_a_cancelled_consumer_is_not_logged_as_a_lost_connection(caplog):
    with BrokerConnection("memory://cancelled-and-logged") as connection:
        consumer = Consumer(connection, "q", callbacks=[lambda data, message: message.ack()])
        consumer.consume()
        Consumer(connection, "q").backend.queue_delete("q")
        with caplog.at_level("INFO", logger="carrot"), pytest.raises(OperationTimeout):
            consumer.wait(timeout=0.2)

    texts = [record.getMessage() for record in caplog.records if record.name == "carrot"]
    assert any("cancelled consumer" in text for text in texts)
    assert not any("lost the connection" in text for text in texts)


def test_headers_of_a_message_made_by_hand_are_checked():
    with BrokerConnection("memory://by-hand") as connection:
        backend = connection.create_backend()
        with pytest.raises(EncodeError, match=r"headers\['deep'\]"):
            backend.prepare_message(b"x", 1, headers={"deep": object()})
