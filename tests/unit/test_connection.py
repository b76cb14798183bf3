"""BrokerConnection: its settings, its life, and trying again; over a driver without a broker."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from carrot.backends.seam.life import Life
from carrot.connection import (
    AMQPConnection,
    AMQPConnectionException,
    BrokerConnection,
    DjangoBrokerConnection,
    DummyConnection,
    get_django_conninfo,
)
from carrot.exceptions import (
    AccessRefused,
    BackendNotFound,
    BrokerRefused,
    ChannelError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
)
from tests.unit import fake_driver
from tests.unit.fake_driver import make_driver

QUICK = {"interval_start": 0.001, "interval_step": 0.001, "interval_max": 0.005}  # seconds


# -- settings


def test_without_arguments_it_is_guest_at_localhost() -> None:
    connection = BrokerConnection()

    assert connection.info() == {
        "hostname": "localhost",
        "port": 5672,
        "userid": "guest",
        "password": "********",
        "virtual_host": "/",
        "ssl": False,
        "connect_timeout": 5.0,
        "heartbeat": None,
        "operation_timeout": 30.0,
        "login_method": "PLAIN",
        "shuffle_hosts": False,
        "reconnect": True,
        "insist": False,
        "curve_server_key": None,
        "curve_secret_key": None,
        "backend_cls": "amqp",
        "transport_cls": "amqp",
    }
    assert connection.host == "localhost:5672"


def test_the_order_of_positional_arguments_is_the_one_of_0_10() -> None:
    connection = BrokerConnection("host", "user", "pass", "app", "5673")

    assert (connection.hostname, connection.userid, connection.password) == ("host", "user", "pass")
    assert (connection.virtual_host, connection.port) == ("app", 5673)


def test_keywords_of_the_first_releases_work() -> None:
    connection = AMQPConnection(
        hostname="localhost", port=5672, userid="test", password="test", vhost="test", insist=True
    )

    assert (connection.virtual_host, connection.port, connection.insist) == ("test", 5672, True)


def test_class_attributes_are_the_settings_of_a_subclass() -> None:
    class Ours(BrokerConnection):
        hostname = "broker.example.org"
        userid = "us"
        port = "5673"
        virtual_host = "app"
        connect_timeout = None
        operation_timeout = None
        backend_cls = "memory"

    connection, other = Ours(), Ours("other", port=1)

    assert (connection.hostname, connection.userid, connection.port) == (
        "broker.example.org",
        "us",
        5673,
    )
    assert connection.settings.connect_timeout is None
    assert connection.settings.operation_timeout is None
    assert connection.backend_cls == "memory"
    assert (other.hostname, other.userid, other.port) == ("other", "us", 1)


def test_a_url_takes_the_place_of_the_hostname() -> None:
    connection = BrokerConnection(
        "amqp://u:p@host:5673/app?heartbeat=30&connect_timeout=2"
        "&operation_timeout=3&login_method=AMQPLAIN"
    )

    assert connection.settings.info() == {
        "hostname": "host",
        "port": 5673,
        "userid": "u",
        "password": "********",
        "virtual_host": "app",
        "ssl": False,
        "connect_timeout": 2.0,
        "heartbeat": 30.0,
        "operation_timeout": 3.0,
        "login_method": "AMQPLAIN",
        "shuffle_hosts": False,
        "reconnect": True,
        "insist": False,
        "curve_server_key": None,
        "curve_secret_key": None,
    }
    assert connection.password == "p"


def test_a_url_may_be_a_class_attribute() -> None:
    class Ours(BrokerConnection):
        hostname = "memory://world/app"

    connection = Ours()

    assert (connection.hostname, connection.virtual_host) == ("world", "app")
    assert connection.backend_cls == "memory"


def test_keywords_override_the_url() -> None:
    connection = BrokerConnection("amqp://u:p@host/app", userid="me", virtual_host="mine", port=1)

    assert (connection.hostname, connection.userid, connection.password) == ("host", "me", "p")
    assert (connection.virtual_host, connection.port) == ("mine", 1)


def test_a_backend_keyword_overrides_the_scheme_of_the_url() -> None:
    assert BrokerConnection("amqp://host", backend_cls="memory").backend_cls == "memory"


def test_a_backend_of_the_class_overrides_the_scheme_too() -> None:
    class Ours(BrokerConnection):
        backend_cls = "memory"

    assert Ours("amqp://host").backend_cls == "memory"
    assert Ours("amqp://host", backend_cls="pyamqplib").backend_cls == "pyamqplib"


def test_tls_has_its_own_default_port() -> None:
    driver = make_driver()

    assert BrokerConnection("host", backend_cls=driver).host == "host:1234"
    assert BrokerConnection("host", backend_cls=driver, ssl=True).host == "host:1235"
    assert BrokerConnection("amqps://host").host == "host:5671"


def test_a_driver_without_ports_shows_none() -> None:
    connection = BrokerConnection("memory://world")

    assert (connection.host, connection.info()["port"]) == ("world", None)


def test_a_connect_timeout_of_zero_waits_for_ever() -> None:
    assert BrokerConnection(connect_timeout=0).settings.connect_timeout is None
    assert BrokerConnection("amqp://host?connect_timeout=0").settings.connect_timeout is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vhost": "a", "virtual_host": "b"}, "two names of one setting"),
        ({"transport": "memory", "backend_cls": "amqp"}, "two names of one setting"),
        ({"port": "amqp"}, "port must be a number"),
        ({"heartbeat": "often"}, "heartbeat must be a number of seconds"),
        ({"hostname": "amqp://host:port"}, "can't be parsed"),
        ({"userid": 5}, "userid must be text"),
    ],
)
def test_a_setting_that_cannot_be_right_is_refused_at_once(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        BrokerConnection(**options)


def test_a_name_that_means_tls_cant_turn_it_off() -> None:
    assert BrokerConnection(backend_cls="amqps").host == "localhost:5671"
    for options in ({"backend_cls": "amqps"}, {"hostname": "amqps://host"}):
        with pytest.raises(ConfigurationError, match="amqps means TLS"):
            BrokerConnection(ssl=False, **options)


def test_the_other_names_may_be_class_attributes_too() -> None:
    class Feeds(BrokerConnection):
        vhost = "feeds"
        transport = make_driver()

    assert Feeds().settings.virtual_host == "feeds"
    assert Feeds().get_backend_cls() is Feeds.transport
    assert Feeds(virtual_host="other").settings.virtual_host == "other"


def test_a_function_in_a_class_body_watches() -> None:
    seen = []

    class Watched(BrokerConnection):
        backend_cls = make_driver()

        def on_recovered() -> None:
            seen.append("recovered")

        def on_connection_lost(self, error: Exception, interval: float) -> None:
            seen.append(self)

    connection = Watched()
    connection._tell_recovered()
    connection._tell_lost(ConnectionLost("x"), 1)

    assert seen == ["recovered", connection]


def test_several_hosts_are_named_in_its_errors() -> None:
    connection = BrokerConnection(["one", "two:5673"], backend_cls=make_driver())
    connection.connect()
    connection.close()

    with pytest.raises(ConnectionLost, match="the connection to one,two:5673 was closed here"):
        connection.connection  # noqa: B018


def test_a_life_that_is_attached_again_is_listed_once() -> None:
    connection = BrokerConnection()
    transport = make_driver().connector.open(connection.settings)
    one, other = (Life(n, transport, transport.channel(), connection.where) for n in (1, 2))
    for life in (one, other, one):
        transport.attach(life)

    assert transport.backends == [other, one]


def test_two_names_of_one_setting_may_agree() -> None:
    assert BrokerConnection(vhost="a", virtual_host="a").virtual_host == "a"


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="hartbeat"):
        BrokerConnection(hartbeat=1)  # type: ignore[call-arg]


def test_nothing_that_is_printed_shows_the_password() -> None:
    connection = BrokerConnection("amqp://user:s3cret@host/")

    assert "s3cret" not in f"{connection!r} {connection} {connection.info()} {connection.settings}"


def test_watchers_are_functions() -> None:
    with pytest.raises(ConfigurationError, match="on_connection_lost must be a function, not 3"):
        BrokerConnection(on_connection_lost=3)


@pytest.mark.parametrize("take_along", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_stays_in_its_process(take_along) -> None:
    connection = BrokerConnection("amqp://user:s3cret@host/")

    with pytest.raises(TypeError, match="make a connection of its own there") as caught:
        take_along(connection)

    assert "s3cret" not in str(caught.value)


def test_it_says_where_and_whether_it_is_open() -> None:
    connection = BrokerConnection("host", virtual_host="app", backend_cls=make_driver())

    states = [repr(connection)]
    connection.connect()
    states.append(repr(connection))
    connection.close()
    states.append(repr(connection))

    where = "<BrokerConnection guest@host vhost='app' "
    assert states == [where + "not connected>", where + "open>", where + "closed>"]


# -- backends


@pytest.mark.parametrize(
    "backend",
    [fake_driver.Backend, "tests.unit.fake_driver.Backend"],
    ids=["a class", "a dotted path"],
)
@pytest.mark.parametrize("keyword", ["backend_cls", "transport"])
def test_a_driver_may_be(backend: Any, keyword: str) -> None:
    connection = BrokerConnection(**{keyword: backend})

    assert connection.get_backend_cls() is fake_driver.Backend
    assert type(connection.create_backend()) is fake_driver.Backend
    assert type(connection.channel()) is fake_driver.Backend
    assert connection.create_backend().connection is connection


def test_a_driver_may_be_a_class_attribute_of_a_subclass() -> None:
    class Ours(BrokerConnection):
        backend_cls = fake_driver.Backend

    assert Ours().get_backend_cls() is fake_driver.Backend


def test_an_unknown_driver_is_told_when_it_is_needed() -> None:
    with pytest.raises(BackendNotFound, match="no backend is named 'carrier-pigeon'"):
        BrokerConnection(backend_cls="carrier-pigeon").connect()


def test_an_unknown_scheme_is_an_unknown_driver() -> None:
    with pytest.raises(BackendNotFound, match="no backend is named 'http'"):
        BrokerConnection("http://host").connect()


def test_the_errors_of_a_driver_are_those_of_its_class() -> None:
    connection = BrokerConnection(backend_cls=make_driver())

    assert connection.connection_errors == (ConnectionFailed, ConnectionLost)
    assert connection.channel_errors == (ChannelError, BrokerRefused)


# -- life


def test_it_is_lazy() -> None:
    driver = make_driver()
    connection = BrokerConnection("host", backend_cls=driver)

    assert not connection.is_open
    assert not connection.connected
    assert driver.connector.opened == []

    live = connection.connection

    assert connection.is_open
    assert connection.connected
    assert connection.connection is live is connection.connect()
    assert [settings.hostname for settings in driver.connector.opened] == ["host"]


def test_a_connection_that_was_lost_is_opened_again() -> None:
    connection = BrokerConnection(backend_cls=make_driver())
    lost = connection.connect()
    lost.close()

    assert not connection.is_open
    assert connection.connection is not lost
    assert connection.is_open


def test_changed_attributes_count_for_the_next_connection() -> None:
    driver = make_driver()
    connection = BrokerConnection("host", backend_cls=driver)
    connection.hostname = "other"

    connection.connect()

    assert [settings.hostname for settings in driver.connector.opened] == ["other"]


def test_close_is_final_until_connect() -> None:
    connection = BrokerConnection("host", backend_cls=make_driver())
    first = connection.connect()

    connection.close()
    connection.close()

    assert not first.is_open
    assert not connection.is_open
    with pytest.raises(ConnectionLost, match=r"was closed here with close\(\): connect\(\) opens"):
        _ = connection.connection
    assert connection.connect() is not first
    assert connection.is_open


def test_closing_what_was_never_opened_is_harmless() -> None:
    driver = make_driver()

    BrokerConnection(backend_cls=driver).close()

    assert driver.connector.opened == []


def test_the_end_of_a_with_block_closes_and_lets_the_error_through() -> None:
    connection = BrokerConnection(backend_cls=make_driver())
    live = connection.connect()

    with pytest.raises(ZeroDivisionError), connection as entered:
        _ = 1 / 0

    assert entered is connection
    assert not live.is_open


def test_an_attempt_that_failed_leaves_it_ready_for_the_next() -> None:
    connection = BrokerConnection(backend_cls=make_driver([ConnectionFailed("refused")]))

    with pytest.raises(ConnectionFailed, match="refused"):
        connection.connect()

    assert not connection.is_open
    assert connection.connect().is_open


def test_get_channel_is_a_channel_of_the_drivers_own_kind() -> None:
    connection = BrokerConnection(backend_cls=make_driver())

    assert type(connection.get_channel()) is fake_driver.Channel


def test_the_old_name_of_the_exception_catches_failed_and_lost_connections() -> None:
    assert BrokerConnection.ConnectionException is AMQPConnectionException
    assert issubclass(ConnectionFailed, AMQPConnectionException)
    assert issubclass(ConnectionLost, AMQPConnectionException)


def test_a_dummy_connection_is_one_to_a_memory_world_whatever_the_arguments() -> None:
    connection = DummyConnection("host", "user", port=5672)

    assert connection.host == ""
    assert connection.get_backend_cls().__module__.startswith("carrot.backends.memory")


# -- trying again


def test_ensure_connection_tries_until_it_works() -> None:
    failures = [ConnectionFailed("first"), ConnectionFailed("second"), ConnectionLost("third")]
    connection = BrokerConnection(backend_cls=make_driver(failures))
    told: list[tuple[str, float]] = []

    returned = connection.ensure_connection(
        lambda error, interval: told.append((str(error), interval)),
        interval_start=0.001,
        interval_step=0.002,
        interval_max=0.004,
    )

    assert returned is connection
    assert connection.is_open
    assert told == [("first", 0.001), ("second", 0.003), ("third", 0.004)]


def test_ensure_connection_does_not_try_a_wrong_password_again() -> None:
    connection = BrokerConnection(backend_cls=make_driver([AccessRefused("wrong")]))

    with pytest.raises(AccessRefused, match="wrong"):
        connection.ensure_connection(interval_start=0.001)

    assert connection.ensure_connection(interval_start=0.001).is_open


def test_ensure_connection_gives_up_with_the_last_error() -> None:
    failures = [ConnectionFailed(word) for word in ("first", "second", "third", "fourth")]
    driver = make_driver(failures)
    connection = BrokerConnection(backend_cls=driver)

    with pytest.raises(ConnectionFailed, match="third"):
        connection.ensure_connection(max_retries=2, **QUICK)

    assert len(driver.connector.opened) == 3


def test_the_last_attempt_of_ensure_connection_counts_too() -> None:
    connection = BrokerConnection(backend_cls=make_driver([ConnectionFailed("refused")]))

    connection.ensure_connection(max_retries=1, **QUICK)

    assert connection.is_open


def test_ensure_connection_without_retries_tries_once() -> None:
    driver = make_driver([ConnectionFailed("refused")])

    with pytest.raises(ConnectionFailed, match="refused"):
        BrokerConnection(backend_cls=driver).ensure_connection(max_retries=0)

    assert len(driver.connector.opened) == 1


def test_ensure_connection_of_an_open_one_does_nothing() -> None:
    driver = make_driver()
    connection = BrokerConnection(backend_cls=driver)
    live = connection.connect()

    connection.ensure_connection()

    assert connection.connection is live
    assert len(driver.connector.opened) == 1


def test_ensure_connection_opens_a_closed_one() -> None:
    connection = BrokerConnection(backend_cls=make_driver())
    connection.close()

    connection.ensure_connection()

    assert connection.is_open


def test_ensure_connection_lets_other_errors_through() -> None:
    connection = BrokerConnection(backend_cls=make_driver([ConfigurationError("a bad option")]))

    with pytest.raises(ConfigurationError, match="a bad option"):
        connection.ensure_connection(**QUICK)


def test_an_errback_may_end_the_attempts() -> None:
    connection = BrokerConnection(backend_cls=make_driver([ConnectionFailed("refused")]))

    def give_up(error: Exception, interval: float) -> None:
        raise SystemExit(str(error))

    with pytest.raises(SystemExit, match="refused"):
        connection.ensure_connection(give_up, **QUICK)


# -- settings of Django, from a plain object (test_django.py has the real one)


class Settings:
    """An object with attributes."""

    def __init__(self, **settings: object) -> None:
        vars(self).update(settings)


@pytest.mark.parametrize(
    ("settings", "conninfo"),
    [
        ({}, {}),
        ({"AMQP_SERVER": "host"}, {"hostname": "host"}),
        ({"AMQP_HOST": "host"}, {"hostname": "host"}),
        ({"BROKER_HOST": "host"}, {"hostname": "host"}),
        ({"BROKER_HOST": "broker", "AMQP_SERVER": "amqp"}, {"hostname": "broker"}),
        (
            {
                "AMQP_SERVER": "host",
                "AMQP_PORT": 5672,
                "AMQP_USER": "user",
                "AMQP_PASSWORD": "pass",
                "AMQP_VHOST": "/",
                "CARROT_BACKEND": "memory",
            },
            {
                "hostname": "host",
                "port": 5672,
                "userid": "user",
                "password": "pass",
                "virtual_host": "/",
                "backend_cls": "memory",
            },
        ),
    ],
)
def test_absent_django_settings_give_no_key(
    settings: dict[str, object], conninfo: dict[str, object]
) -> None:
    assert get_django_conninfo(Settings(**settings)) == conninfo


def test_a_django_connection_reads_the_object_it_is_given() -> None:
    settings = Settings(BROKER_HOST="host", BROKER_USER="u", BROKER_PASSWORD="p", BROKER_PORT="1")

    connection = DjangoBrokerConnection(settings=settings)

    assert (connection.hostname, connection.port, connection.userid) == ("host", 1, "u")
