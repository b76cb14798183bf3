"""A channel of the STOMP driver and its parts, without a broker: each test writes the answers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from carrot.backends.base import Binding, Exchange, Queue
from carrot.backends.pystomp.channel import Channel
from carrot.backends.pystomp.declared_topology import DeclaredTopology
from carrot.backends.pystomp.encoder import Encoder
from carrot.backends.pystomp.frames import Decoder, Frame
from carrot.backends.pystomp.headers import MARK
from carrot.backends.pystomp.settlements import ACK, settle_frame
from carrot.backends.seam.confirms import Confirms
from carrot.exceptions import (
    CarrotError,
    ChannelError,
    ConnectionLost,
    OperationTimeout,
    PermissionDenied,
    PreconditionFailed,
)
from carrot.message import Message, Outgoing, Properties

Event = Callable[[], object]


class FakeView:
    """A connection that sends nothing, and answers when somebody waits.

    :ivar frames: what was sent, as command and headers.
    :ivar events: what happens, one after the other, while somebody waits.
    :ivar answers_receipts: whether waiting for a receipt succeeds at once.
    :ivar end_browsers: ends what browses queues, and says how many that are.
    """

    def __init__(self, declared: DeclaredTopology) -> None:
        self.declared = declared
        self.operation_timeout: float | None = 5.0
        self.is_silent = False
        self.blocked: str | None = None
        self.frames: list[tuple[str, dict[str, str]]] = []
        self.events: list[Event] = []
        self.answers_receipts = True
        self.write_errors: list[CarrotError] = []
        self.interrupts = 0
        self.locks: list[Any] = []
        self.end_browsers: Callable[[], int] = lambda: 0
        self._numbers = itertools.count(1)

    def answer(self, data: bytes) -> None:
        self.frames += [(one.command.decode(), one.headers()) for one in Decoder().feed(data)]

    def write(self, data: bytes, channel: Channel | None = None) -> None:
        if self.write_errors:
            raise self.write_errors.pop(0)
        if channel is not None:
            channel.check_open()
        self.answer(data)

    write_soon = write_with_others = write

    def flush(self) -> None: ...
    def flush_soon(self) -> None: ...
    def look(self) -> None: ...
    def forget(self, number: str) -> None: ...
    def forget_receipt(self, receipt: str) -> None: ...

    def interrupt(self) -> None:
        self.interrupts += 1

    def has(self, channel: object) -> bool:
        return True

    def new_receipt(self) -> str:
        return f"r{next(self._numbers)}"

    def await_receipt(self, receipt: str, command: str, patience: float | None) -> None:
        self.check_no_lock_is_held()
        while self.events:
            self.events.pop(0)()
        if not self.answers_receipts:
            raise OperationTimeout(f"the broker didn't answer {command}")

    def wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        self.check_no_lock_is_held()
        while not ready():
            if self.events:
                self.events.pop(0)()
            elif self.end_browsers() == 0:
                raise OperationTimeout("nothing came")

    def check_no_lock_is_held(self) -> None:
        """Whoever waits for the broker lets all other threads go on."""
        held: list[object] = []

        def look() -> None:
            for lock in self.locks:
                if lock.acquire(blocking=False):
                    lock.release()
                else:
                    held.append(lock)

        thread = threading.Thread(target=look)
        thread.start()
        thread.join(10)
        assert not held

    def sent(self, *commands: str) -> list[dict[str, str]]:
        """The headers of what was sent with one of these commands."""
        return [headers for command, headers in self.frames if command in commands]


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.no_ack: dict[str, bool] = {}
        self.messages: list[Message] = []
        self.errors: list[CarrotError] = []

    def deliver(self, consumer_tag: str, message: Message) -> bool:
        if consumer_tag not in self.no_ack:
            return False
        if self.no_ack[consumer_tag]:
            message.settled_by_broker()
        self.messages.append(message)
        return True

    def consumer_cancelled(self, consumer_tag: str) -> None: ...

    def channel_closed(self, error: CarrotError) -> None:
        self.errors.append(error)

    @property
    def tags(self) -> list[int]:
        return [message.delivery_tag for message in self.messages]


class Session:
    """A channel, its connection and its listener."""

    def __init__(self, declared: DeclaredTopology | None = None) -> None:
        self.declared = declared or DeclaredTopology("/")
        self.view = FakeView(self.declared)
        self.channel = Channel(self.view, self.view, "1")
        self.declared.attach(self.channel)
        window = self.channel._window
        self.view.locks = [
            window.lock, window.settle_lock, self.channel._publish_lock, self.declared._lock,
        ]  # fmt: skip
        self.view.end_browsers = self._end_browsers
        self.listener = Listener()
        self.channel.listen(self.listener)
        self._browsed: set[str] = set()
        self._acks = itertools.count(1)

    def declare(self, queue: str = "q", exclusive: bool = False) -> None:
        self.channel.declare(Queue(queue, True, exclusive, False))

    def consume(self, tag: str = "c", no_ack: bool = False, prefetch: int = 0) -> str:
        """Start a consumer of the queue q; the name of its last subscription."""
        self.listener.no_ack[tag] = no_ack
        self.channel.qos(prefetch, False)
        self.channel.subscribe("q", tag, no_ack)
        return self.view.sent("SUBSCRIBE")[-1]["id"]

    def deliver(self, subscription: str, message_id: str, **headers: str) -> str:
        """The broker delivers; the name that it gives the delivery."""
        ack = f"a{next(self._acks)}"
        lines = {
            "subscription": subscription, "message-id": message_id, "ack": ack,
            "destination": "/queue/q", **headers,
        }  # fmt: skip
        head = "\n".join(["MESSAGE", *(f"{name}:{value}" for name, value in lines.items())])
        self.channel.on_message(subscription, Frame(b"MESSAGE", head.encode(), b"body"))
        return ack

    def _end_browsers(self) -> int:
        browsers = {
            one["id"] for one in self.view.sent("SUBSCRIBE") if one.get("browser") == "true"
        } - self._browsed
        for browser in browsers:
            self.deliver(browser, "0", browser="end")
        self._browsed |= browsers
        return len(browsers)

    def holding(self) -> dict[str, str]:
        """The last subscription to messages that the program has in hand."""
        return [one for one in self.view.sent("SUBSCRIBE") if "selector" in one][-1]

    def deliver_again(self, *message_ids: str) -> list[str]:
        """The broker delivers again what the program has in hand; the names of the deliveries."""
        return [self.deliver(self.holding()["id"], one) for one in message_ids]


@pytest.fixture
def session() -> Session:
    session = Session()
    session.declare()
    return session


def nothing_unseen() -> Sequence[int]:
    return []


# -- a consumer ends


@pytest.mark.parametrize(
    ("how", "command"),
    [
        (lambda channel: channel.ack(1), "ACK"),
        (lambda channel: channel.reject(1, False), "NACK"),
        (lambda channel: channel.reject(1, True), "COMMIT"),
        (lambda channel: channel.nack(1), "COMMIT"),
    ],
)
def test_a_message_settled_while_its_consumer_ends_is_settled_when_it_comes_again(
    session: Session, how: Callable[[Channel], None], command: str
) -> None:
    view, names = session.view, []
    subscription = session.consume()
    session.deliver(subscription, "m1")
    session.deliver(subscription, "m2")
    settled_early: list[str] = []

    def settle() -> None:
        how(session.channel)
        settled_early.extend(name for name, _ in view.frames if name == command)

    view.events = [settle, lambda: names.extend(session.deliver_again("m1", "m2"))]
    session.channel.unsubscribe("c", nothing_unseen)

    assert settled_early == []
    assert len(view.sent(command)) == 1
    assert view.sent("ACK", "NACK")[0]["id"] == names[0]
    with pytest.raises(PreconditionFailed):
        session.channel.ack(1)


def test_the_last_message_in_hand_ends_the_subscription_that_holds_it(session: Session) -> None:
    subscription = session.consume()
    session.deliver(subscription, "m1")
    session.deliver(subscription, "m2")
    session.view.events = [
        lambda: session.channel.ack(2),
        lambda: session.deliver_again("m1", "m2"),
    ]
    session.channel.unsubscribe("c", nothing_unseen)
    held = session.holding()["id"]
    assert held not in [one["id"] for one in session.view.sent("UNSUBSCRIBE")]

    session.channel.ack(1)

    assert session.view.frames[-1] == ("UNSUBSCRIBE", {"id": held})


def test_what_nobody_has_seen_goes_back_and_cannot_be_settled(session: Session) -> None:
    subscription = session.consume(prefetch=1)
    session.deliver(subscription, "m1")
    session.deliver(subscription, "m2")

    session.channel.unsubscribe("c", lambda: [1])

    assert session.view.sent("ACK", "NACK") == []
    assert not any("selector" in one for one in session.view.sent("SUBSCRIBE"))
    assert session.channel._window.unsettled == {}


def test_nothing_is_delivered_when_a_consumer_is_asked_for_what_nobody_has_seen(
    session: Session,
) -> None:
    subscription = session.consume(no_ack=True)

    def take_unseen() -> Sequence[int]:
        session.deliver(subscription, "late")
        return []

    session.channel.unsubscribe("c", take_unseen)

    assert session.listener.messages == []
    assert session.view.sent("ACK") == []


def test_a_consumer_whose_end_is_not_answered_takes_its_channel_with_it(session: Session) -> None:
    session.deliver(session.consume(), "m1")
    session.view.answers_receipts = False

    with pytest.raises(OperationTimeout):
        session.channel.unsubscribe("c", nothing_unseen)

    [error] = session.listener.errors
    assert isinstance(error, ConnectionLost)
    assert not session.channel.is_open
    assert session.view.interrupts  # loops of other threads find out
    begun = {one["id"] for one in session.view.sent("SUBSCRIBE")}
    assert begun == {one["id"] for one in session.view.sent("UNSUBSCRIBE")}


# -- settling


def test_a_settlement_that_could_not_be_written_can_be_repeated(session: Session) -> None:
    name = session.deliver(session.consume(), "m1")
    session.view.write_errors = [OperationTimeout("another thread writes")]
    with pytest.raises(OperationTimeout):
        session.channel.ack(1)

    session.channel.ack(1)

    assert session.view.sent("ACK") == [{"id": name}]


def test_a_waiting_thread_is_woken_for_what_an_ack_makes_room_for(session: Session) -> None:
    subscription = session.consume(prefetch=1)
    for number in range(3):
        session.deliver(subscription, f"m{number}")
    assert session.listener.tags == [1]
    assert not session.view.interrupts

    session.channel.ack(1)

    assert session.listener.tags == [1, 2]
    assert session.view.interrupts == 1


def test_messages_without_acks_are_settled_by_the_thread_that_reads(session: Session) -> None:
    subscription = session.consume(no_ack=True)
    # It waits for no other thread's write.
    session.view.write_errors = [OperationTimeout("another thread writes")]

    name = session.deliver(subscription, "m1")

    assert session.listener.tags == [1]
    assert session.view.sent("ACK") == [{"id": name}]


def test_what_is_acked_while_the_broker_writes_fits_into_its_system_s_buffer(
    session: Session,
) -> None:
    """Else a system that drops what doesn't fit stops the connection for good, both ways."""
    # The longest name of a delivery: a host's, its port and start, the connection's and a number.
    name = b"ID\\c" + b"h" * 64 + b"-65535-1795947570123-65535\\c999999999"

    session.consume(no_ack=True)
    session.channel.declare(Exchange("e", "topic", True, False))
    session.channel.bind(Binding("q", "e", "key"))

    begun = session.view.sent("SUBSCRIBE")
    ahead = [
        int(one["activemq.prefetchSize"])
        for one in begun
        if {"browser", "selector"}.isdisjoint(one)
    ]
    assert len(ahead) == 2  # for the queue, and for its binding
    assert all(one * len(settle_frame(ACK, name)) < 64 * 1024 for one in ahead)


def test_a_consumer_that_acks_has_the_limit_that_it_asked_for(session: Session) -> None:
    for prefetch, asked_for in ((7, "7"), (0, "1000000")):
        session.consume(tag=asked_for, prefetch=prefetch)

        assert session.view.sent("SUBSCRIBE")[-1]["activemq.prefetchSize"] == asked_for


def test_a_message_without_acks_that_nobody_can_have_is_not_settled(session: Session) -> None:
    subscription = session.consume(no_ack=True)
    session.listener.no_ack.clear()

    session.deliver(subscription, "m1")

    assert session.listener.messages == []
    assert session.view.sent("ACK") == []


def test_the_mark_of_a_binding_reaches_nobody(session: Session) -> None:
    name = session.deliver(session.consume(), "m1", **{MARK: "1-1-1"})

    assert session.listener.messages == []
    assert session.view.sent("ACK") == [{"id": name}]


# -- exclusive queues


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 1, 2]])
def test_messages_of_an_exclusive_queue_go_back_to_their_old_places(
    session: Session, order: list[int]
) -> None:
    session.declare("private", exclusive=True)
    subscription = session.view.sent("SUBSCRIBE")[-1]["id"]
    for number in range(1, 5):
        session.deliver(subscription, f"m{number}")
    taken = [session.channel.get("private", False, None) for _ in range(3)]
    assert [message.delivery_tag for message in taken if message] == [1, 2, 3]

    for tag in order:
        session.channel.nack(tag)

    again = [session.channel.get("private", True, None) for _ in range(4)]
    found = [m._frame.headers()["message-id"] for m in again if m is not None]
    assert found == ["m1", "m2", "m3", "m4"]
    assert [m.redelivered for m in again if m is not None] == [True, True, True, False]


def test_what_nobody_has_seen_of_an_exclusive_queue_waits_for_its_next_consumer(
    session: Session,
) -> None:
    session.declare("private", exclusive=True)
    subscription = session.view.sent("SUBSCRIBE")[-1]["id"]
    session.listener.no_ack["c"] = False
    session.channel.subscribe("private", "c", False)
    for number in range(3):
        session.deliver(subscription, f"m{number}")

    session.channel.unsubscribe("c", lambda: [2, 3])
    session.listener.messages.clear()
    session.channel.subscribe("private", "c", False)

    assert session.listener.tags == [2, 3]
    session.channel.ack(1)  # still in hand


# -- bindings


def test_a_binding_that_is_made_while_a_consumer_begins_reaches_it_once(session: Session) -> None:
    session.view.events = [lambda: session.channel.follow("q", "/queue/Consumer.q.VirtualTopic.e")]
    session.consume()
    session.channel.follow("q", "/queue/Consumer.q.VirtualTopic.e")
    session.channel.follow("another", "/queue/Consumer.another.VirtualTopic.e")

    assert [one["destination"] for one in session.view.sent("SUBSCRIBE")] == [
        "/queue/q",
        "/queue/Consumer.q.VirtualTopic.e",
    ]


def test_a_binding_reaches_the_consumers_of_other_connections_of_this_process() -> None:
    consuming = Session()
    consuming.declare()
    consuming.consume()
    other = Session(consuming.declared)
    other.channel.declare(Exchange("e", "direct", True, False))

    other.channel.bind(Binding("q", "e", "key"))

    assert consuming.view.sent("SUBSCRIBE")[-1]["destination"] == (
        "/queue/Consumer.q.VirtualTopic.e.key"
    )


def test_a_channel_that_nobody_has_any_more_is_told_of_no_binding() -> None:
    declared = DeclaredTopology("/")
    told: list[str] = []

    class Follower:
        is_open = True

        def follow(self, queue: str, destination: str) -> None:
            told.append(destination)

    kept, closed = Follower(), Follower()
    closed.is_open = False
    for follower in (kept, closed, Follower()):
        declared.attach(follower)
    del follower
    queue = declared.declare_queue("q", True)
    session = Session(declared)
    session.channel.declare(Exchange("e", "fanout", True, False))

    session.channel.bind(Binding("q", "e"))

    assert told == [queue.destinations[0]]


# -- errors


@pytest.mark.parametrize(
    "use",
    [
        lambda channel: channel.get("missing", False, None),
        lambda channel: channel.purge("missing"),
        lambda channel: channel.subscribe("missing", "d", False),
        lambda channel: channel.bind(Binding("missing", "amq.direct")),
        lambda channel: channel.bind(Binding("q", "missing")),
        lambda channel: channel.declare(Queue("q", False, False, False)),
        lambda channel: channel.delete_exchange("", False),
        lambda channel: channel.ack(99),
    ],
)
def test_an_error_of_the_channel_ends_it_and_all_that_it_had(
    session: Session, use: Callable[[Channel], object]
) -> None:
    """As the broker's own does in AMQP: whoever has the channel opens another."""
    subscription = session.consume()

    with pytest.raises(ChannelError):
        use(session.channel)

    assert not session.channel.is_open
    assert [one["id"] for one in session.view.sent("UNSUBSCRIBE")] == [subscription]
    assert session.listener.errors == []  # the caller is told
    with pytest.raises(ConnectionLost):
        session.channel.publish(Message(), "", "q", False)


def test_an_objection_to_a_message_ends_the_channel_and_is_told(session: Session) -> None:
    subscription = session.consume()

    session.channel.on_confirm(1, PermissionDenied("not authorized"))

    [error] = session.listener.errors
    assert isinstance(error, PermissionDenied)
    assert not session.channel.is_open
    assert [one["id"] for one in session.view.sent("UNSUBSCRIBE")] == [subscription]


def test_an_interrupted_request_gives_the_channel_up(session: Session) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    session.view.events = [interrupt]

    with pytest.raises(KeyboardInterrupt):
        session.channel.get("q", False, None)

    assert not session.channel.is_open
    begun = {one["id"] for one in session.view.sent("SUBSCRIBE")}
    assert begun == {one["id"] for one in session.view.sent("UNSUBSCRIBE")}


# -- locks


@pytest.mark.parametrize(
    "ask",
    [
        lambda channel: channel.get("q", False, None),
        lambda channel: channel.purge("q"),
        lambda channel: channel.subscribe("q", "another", False),
        lambda channel: channel.unsubscribe("c", nothing_unseen),
        lambda channel: channel.bind(Binding("q", "amq.direct", "key")),
        lambda channel: channel.declare(Queue("private", False, True, False)),
    ],
)
def test_others_publish_and_settle_while_one_waits_for_the_broker(
    session: Session, ask: Callable[[Channel], object]
) -> None:
    """Every wait of the fake looks whether a lock is held."""
    confirms, published = Confirms(), []
    session.channel.confirm_select(confirms)
    session.deliver(session.consume(), "m1")

    def work() -> None:
        published.append(session.channel.publish(Message(body=b"x"), "", "q", False))
        session.channel.ack(1)

    def deliver_again() -> None:
        if any("selector" in one for one in session.view.sent("SUBSCRIBE")):
            session.deliver_again("m1")

    session.view.events = [lambda: run_in_thread(work), deliver_again]
    ask(session.channel)

    assert published == [1]
    assert len(session.view.sent("ACK")) == 1


def run_in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_closing_waits_for_the_receipt_without_a_lock(session: Session) -> None:
    session.consume()

    session.channel.close()
    session.channel.close()

    [ended] = session.view.sent("UNSUBSCRIBE")
    assert ended["receipt"]


def test_a_message_that_another_thread_kept_from_being_written_leaves_its_number_free(
    session: Session,
) -> None:
    session.channel.confirm_select(confirms := Confirms())
    session.view.write_errors = [OperationTimeout("another thread writes")]

    with pytest.raises(OperationTimeout):
        session.channel.publish(Message(body=b"x"), "", "q", False)

    assert session.channel.publish(Message(body=b"x"), "", "q", False) == 1
    session.channel.on_confirm(1, True)
    assert confirms.all_settled([1])


# -- properties that an encoder remembers


def no_private(queue: str) -> str | None:
    return None


def encoded(message: Message, private: Callable[[str], str | None] = no_private) -> bytes:
    return Encoder().head(message, "", "q", private)


def test_what_another_driver_has_encoded_is_not_sent() -> None:
    """A publisher's connection was replaced, from AMQP to STOMP."""
    shared = Properties(content_type="text/plain", delivery_mode=2)
    shared.encoded = (object(), (b"\x80\x00bytes of AMQP", b""))

    head = encoded(Outgoing(b"x", shared, "id"))

    assert b"AMQP" not in head
    assert b"content-type:text/plain\n" in head
    assert encoded(Outgoing(b"x", shared, "id")) == head


def test_a_reply_to_is_encoded_for_the_connection_that_it_goes_over() -> None:
    message = Outgoing(b"x", Properties(reply_to="answers"))

    assert b"reply-to:/queue/answers\n" in encoded(message)
    assert b"reply-to:/temp-queue/answers\n" in encoded(message, "/temp-queue/{}".format)
    assert b"reply-to:/queue/answers\n" in encoded(message)
