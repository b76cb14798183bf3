"""What can't work is told where it is given, and not at the first message."""

import functools
from collections.abc import Iterator

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import ConfigurationError
from carrot.messaging import Consumer, ConsumerSet, Messaging, Publisher


@pytest.fixture
def connection(unique) -> Iterator[BrokerConnection]:
    with BrokerConnection(f"memory://{unique('world')}/") as connection:
        yield connection


@pytest.fixture
def consumer(connection, unique) -> Consumer:
    return Consumer(connection, unique())


# -- callbacks that can't be called with (message_data, message)


def no_parameter():
    """Takes too little."""


def one_parameter(data):
    """Takes too little."""


def three_parameters(data, message, more):
    """Takes too much."""


def needs_a_keyword(data, message, *, must):
    """Nobody gives it."""


def only_keywords(*, data, message):
    """Callbacks are called by position."""


class Taking:
    """Its methods are callbacks, or not."""

    def one(self, data):
        """Takes too little."""

    def two(self, data, message):
        """Is a callback."""

    @classmethod
    def of_the_class(cls, data, message):
        """Is a callback."""

    @staticmethod
    def static(data, message):
        """Is a callback."""


class CalledWithOne:
    def __call__(self, data):
        """Takes too little."""


WRONG_SIGNATURES = [
    no_parameter,
    one_parameter,
    three_parameters,
    needs_a_keyword,
    only_keywords,
    lambda data: None,
    Taking().one,
    Taking.two,
    CalledWithOne(),
    functools.partial(three_parameters),
    functools.partial(one_parameter, 1),
    functools.partial(three_parameters, 1, 2),
]


# -- callbacks whose call does nothing


async def coroutine(data, message):
    """Needs an event loop."""


def generator(data, message):
    """Does nothing until somebody iterates."""
    yield data


async def async_generator(data, message):
    yield data


class AsyncCall:
    async def __call__(self, data, message):
        """Needs an event loop."""


class GeneratorCall:
    def __call__(self, data, message):
        yield data


class AsyncMethod:
    async def receive(self, data, message):
        """Needs an event loop."""


@functools.wraps(coroutine)
def wrapper(data, message):
    """Runs it, so that this is a callback for all its wrapping."""


DOING_NOTHING = [
    coroutine,
    generator,
    async_generator,
    AsyncCall(),
    GeneratorCall(),
    AsyncMethod().receive,
    functools.partial(coroutine),
    functools.partial(generator),
    functools.partial(AsyncCall()),
    functools.partial(functools.partial(coroutine)),
]

NO_FUNCTIONS = [None, "name", 1, ["list"]]

WRONG = [*WRONG_SIGNATURES, *DOING_NOTHING, *NO_FUNCTIONS]


def named(callback: object) -> str:
    return getattr(callback, "__name__", type(callback).__name__)


@pytest.mark.parametrize("callback", WRONG, ids=named)
def test_register_callback_refuses_what_is_no_callback(consumer, callback):
    with pytest.raises(ConfigurationError, match=r"message_data, message"):
        consumer.register_callback(callback)

    assert consumer.callbacks == []


@pytest.mark.parametrize("callback", [*WRONG_SIGNATURES, *DOING_NOTHING], ids=named)
def test_constructors_refuse_what_is_no_callback(connection, unique, callback):
    for make in (Consumer, functools.partial(Messaging, exchange=unique())):
        with pytest.raises(ConfigurationError, match=r"message_data, message"):
            make(connection, queue=unique(), callbacks=[callback])
    with pytest.raises(ConfigurationError, match=r"message_data, message"):
        ConsumerSet(connection, callbacks=[callback])


@pytest.mark.parametrize("callback", [one_parameter, generator, coroutine], ids=named)
def test_refused_callback_is_named(consumer, callback):
    with pytest.raises(ConfigurationError, match=callback.__name__):
        consumer.register_callback(callback)


@pytest.mark.parametrize("callback", [one_parameter, generator, coroutine], ids=named)
def test_callbacks_of_a_class_are_checked_when_it_is_used(connection, unique, callback):
    class Mine(Consumer):
        callbacks = [callback]  # noqa: RUF012

    with pytest.raises(ConfigurationError, match=r"message_data, message"):
        Mine(connection, unique())


def optional(data, message, more=None, *others, keyword=None, **options):
    """Takes more, if it must."""


def anything(*args, **kwargs):
    """Takes everything."""


def closure():
    def inner(data, message):
        """Is a callback."""

    return inner


class Called:
    def __call__(self, data, message):
        """Is a callback."""


@pytest.mark.parametrize(
    "callback",
    [
        optional,
        anything,
        closure(),
        Called(),
        wrapper,
        Taking().two,
        Taking.of_the_class,
        Taking.static,
        Taking().static,
        functools.partial(three_parameters, 1),
        functools.partial(optional, more=1),
        functools.partial(needs_a_keyword, must=1),
        lambda data, message: None,
        lambda *both: None,
        print,
        dict,  # its signature is not known
        max,
    ],
    ids=named,
)
def test_whatever_can_be_called_with_two_is_a_callback(consumer, callback):
    consumer.register_callback(callback)

    assert consumer.callbacks == [callback]


def test_mock_is_a_callback(consumer):
    from unittest.mock import MagicMock, Mock

    for mock in (Mock(), MagicMock(), Mock(spec=closure())):
        consumer.register_callback(mock)

    assert len(consumer.callbacks) == 3


# -- receive() of a subclass


def subclass(receive, base=Consumer):
    return type("Mine", (base,), {"receive": receive})


async def coroutine_method(self, message_data, message):
    """Needs an event loop."""


def generator_method(self, message_data, message):
    yield message_data


def method_of_one(self, message):
    """Takes too little."""


def method_without_self(message_data, message):
    """Takes too little, for self comes first."""


def method_of_three(self, message_data, message, more):
    """Takes too much."""


@pytest.mark.parametrize("base", [Consumer, ConsumerSet, Messaging])
@pytest.mark.parametrize(
    "receive",
    [
        coroutine_method,
        generator_method,
        method_of_one,
        method_without_self,
        method_of_three,
        "text",
    ],
    ids=named,
)
def test_class_whose_receive_cant_work_is_refused_as_it_is_defined(base, receive):
    with pytest.raises(ConfigurationError, match="receive"):
        subclass(receive, base)


def test_receive_may_take_more_than_it_must(connection, unique):
    def receive(self, message_data, message, more=None, **options):
        self.got = message_data

    mine = subclass(receive)(connection, unique(), auto_ack=True)
    Publisher(connection, routing_key=mine.queue).send("x")

    mine.wait(limit=1, timeout=5)

    assert mine.got == "x"


def test_receive_may_be_static(connection, unique):
    received = []
    mine = subclass(staticmethod(lambda data, message: received.append(data)))
    consumer = mine(connection, unique(), auto_ack=True)
    Publisher(connection, routing_key=consumer.queue).send("x")

    consumer.wait(limit=1, timeout=5)

    assert received == ["x"]


# -- what shows at the first message only


def awaitable_of(function):
    """A function that nobody can know for one that returns what must be awaited."""
    return lambda data, message: function(data, message)


@pytest.mark.parametrize("function", [coroutine, generator, async_generator], ids=named)
def test_callback_that_returns_what_nobody_runs_is_told_and_the_message_stays(
    connection, consumer, function
):
    consumer.register_callback(awaitable_of(function))
    Publisher(connection, routing_key=consumer.queue).send("x")

    with pytest.raises(ConfigurationError, match=r"coroutine|generator"):
        consumer.wait(limit=1, timeout=5)
    consumer.close()

    assert consumer.declare().fetch().payload == "x"


def test_callback_that_returns_what_nobody_runs_is_told_in_a_set(connection, consumer):
    Publisher(connection, routing_key=consumer.queue).send("x")

    with (
        ConsumerSet(connection, consumers=[consumer], callbacks=[awaitable_of(coroutine)]) as one,
        pytest.raises(ConfigurationError, match="coroutine"),
    ):
        one.wait(limit=1, timeout=5)

    assert Consumer(connection, consumer.queue).fetch().payload == "x"


@pytest.mark.parametrize("returned", [None, 0, "text", [1], iter([1]), object()])
def test_whatever_else_a_callback_returns_is_nobodys_business(connection, consumer, returned):
    consumer.register_callback(lambda data, message: (message.ack(), returned)[1])
    Publisher(connection, routing_key=consumer.queue).send("x")

    consumer.wait(limit=1, timeout=5)

    assert consumer.fetch() is None


# -- class attributes


MISSPELT = [
    (Consumer, "prefetch", "prefetch_count"),
    (Consumer, "prefetch_cout", "prefetch_count"),
    (Consumer, "routing_keys", "routing_key"),
    (Consumer, "exchnage", "exchange"),
    (Consumer, "autoack", "auto_ack"),
    (Consumer, "noack", "no_ack"),
    (Consumer, "queue_argument", "queue_arguments"),
    (Consumer, "on_decode_err", "on_decode_error"),
    (Consumer, "callback", "callbacks"),
    (ConsumerSet, "autoack", "auto_ack"),
    (Publisher, "routing_keys", "routing_key"),
    (Publisher, "confirms", "confirm"),
    (Publisher, "serialiser", "serializer"),
    (Publisher, "delivery_modes", "delivery_mode"),
    (Messaging, "exchange_typ", "exchange_type"),
]


@pytest.mark.parametrize(
    ("base", "name", "meant"), MISSPELT, ids=[f"{b.__name__}.{n}" for b, n, _ in MISSPELT]
)
def test_misspelt_option_of_a_class_is_refused_and_the_right_one_named(base, name, meant):
    with pytest.raises((ConfigurationError, TypeError), match=rf"{name}\b.*\b{meant}\b") as caught:
        type("Mine", (base,), {name: 1})

    assert "Mine" in str(caught.value)


def test_misspelt_option_is_refused_in_a_class_of_a_class():
    class Mine(Consumer):
        prefetch_count = 5

    with pytest.raises((ConfigurationError, TypeError), match="prefetch_count"):
        type("Other", (Mine,), {"prefetch_cnt": 1})


def test_attributes_and_methods_of_ones_own_are_allowed(connection, unique):
    class Mine(Consumer):
        """Has what a program's own classes have."""

        prefetch_count = 5
        auto_ack = True
        color = "orange"
        timeout = 3
        name = "mine"
        database: object = None
        TABLE = "messages"
        _cache: dict[str, int] = {}  # noqa: RUF012

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.received: list[object] = []

        def receive(self, message_data, message):
            self.received.append(self.handle(message_data))

        def handle(self, data):
            return data

        @property
        def size(self):
            return len(self.received)

        @classmethod
        def made_for(cls, connection, queue):
            return cls(connection, queue)

        @staticmethod
        def helper():
            """Does nothing."""

        class Meta:
            """Of a framework's, perhaps."""

    mine = Mine.made_for(connection, unique())
    Publisher(connection, routing_key=mine.queue).send("x")

    mine.wait(limit=1, timeout=5)

    assert mine.received == ["x"]
    assert mine.size == 1


def test_every_option_may_be_a_class_attribute():
    class Mine(Consumer):
        queue = "q"
        exchange = "e"
        routing_key = "k"
        exchange_type = "topic"
        durable = False
        exclusive = True
        auto_delete = True
        auto_ack = True
        no_ack = False
        auto_declare = False
        queue_type = "classic"
        queue_arguments = exchange_arguments = binding_arguments = None
        warn_if_exists = False
        prefetch_count = 1
        accept = ("json",)
        retry = Consumer.retry
        raise_on_cancel = True

        @staticmethod
        def decoder(body):
            return body

        def on_decode_error(self, message, error):
            """Is called as a method."""

    class Other(Mine):
        """Overrides what it likes."""

        queue = "other"
        prefetch_count = 2

    assert (Other.queue, Other.exchange, Other.prefetch_count) == ("other", "e", 2)


def test_methods_of_the_library_may_be_overridden():
    class Mine(Consumer):
        def fetch(self, *args, **options):
            return super().fetch(*args, **options)

        def close(self):
            super().close()

        def declare(self):
            return super().declare()

    assert issubclass(Mine, Consumer)


# -- a consumer of no queue


@pytest.mark.parametrize("options", [{}, {"auto_declare": False}, {"exchange": "feed"}])
def test_consumer_without_a_queue_is_refused_with_what_to_write(connection, options):
    with pytest.raises(ConfigurationError, match=r"queue=") as caught:
        Consumer(connection, **options)

    assert "Consumer" in str(caught.value)
    assert not connection.is_open


def test_class_without_a_queue_takes_one_by_keyword_and_is_refused_without(connection, unique):
    class Mine(Consumer):
        exchange = "feed"

    assert Mine(connection, queue=unique()).queue
    with pytest.raises(ConfigurationError, match=r"Mine.*queue="):
        Mine(connection)


def test_set_refuses_a_consumer_without_a_queue(connection):
    with pytest.raises(ConfigurationError, match="queue"):
        ConsumerSet(connection, from_dict={"": {"exchange": "feed"}})


def test_class_with_a_queue_needs_none_in_the_constructor(connection, unique):
    mine = type("Mine", (Consumer,), {"queue": unique()})

    assert mine(connection).fetch() is None
