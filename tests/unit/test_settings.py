"""ConnectionSettings and the URLs that name them."""

from __future__ import annotations

import ssl
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrot.exceptions import ConfigurationError
from carrot.settings import ConnectionSettings, is_url, parse_url, redact

HOST = {"backend": "amqp", "hostname": "host"}


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("amqp://", {"backend": "amqp"}),
        ("amqp://host", HOST),
        ("AMQP://host", HOST),
        ("amqp://host:5673", {**HOST, "port": 5673}),
        ("amqp://user@host", {**HOST, "userid": "user"}),
        ("amqp://user:@host", {**HOST, "userid": "user", "password": ""}),
        ("amqp://host/", HOST),
        ("amqp://host//", {**HOST, "virtual_host": "/"}),
        ("amqp://host/%2F", {**HOST, "virtual_host": "/"}),
        ("amqp://host/%2f", {**HOST, "virtual_host": "/"}),
        ("amqp://host/app", {**HOST, "virtual_host": "app"}),
        ("amqp://host/a/b", {**HOST, "virtual_host": "a/b"}),
        ("amqp://host//app", {**HOST, "virtual_host": "/app"}),
        ("amqp://host/%C3%BC", {**HOST, "virtual_host": "ü"}),
        ("amqp://host?heartbeat=30", {**HOST, "heartbeat": 30}),
        ("amqp://host?operation_timeout=2.5", {**HOST, "operation_timeout": 2.5}),
        ("amqp://host?login_method=EXTERNAL", {**HOST, "login_method": "EXTERNAL"}),
        ("pyamqplib://host", {**HOST, "backend": "pyamqplib"}),
        ("amqp://host/?connect_timeout=2.5", {**HOST, "connect_timeout": 2.5}),
        ("amqp://host/?ssl=true&insist=0", {**HOST, "ssl": True, "insist": False}),
        ("amqps://host", {**HOST, "backend": "amqps", "ssl": True}),
        ("amqp://[::1]:5673/", {"backend": "amqp", "hostname": "::1", "port": 5673}),
        ("memory://", {"backend": "memory"}),
        (
            "zeromq+tcp://host:5555/app",
            {
                **HOST,
                "backend": "zeromq+tcp",
                "port": 5555,
                "virtual_host": "app",
            },
        ),
        (
            "zeromq+ipc:///run/carrot.sock",
            {"backend": "zeromq+ipc", "hostname": "/run/carrot.sock"},
        ),
        (
            "zeromq+ipc:///run/a%20b?virtual_host=app",
            {
                "backend": "zeromq+ipc",
                "hostname": "/run/a b",
                "virtual_host": "app",
            },
        ),
        (
            f"zeromq://host?curve_server_key={'s' * 40}&curve_secret_key={'c' * 39}%26",
            {
                **HOST,
                "backend": "zeromq",
                "curve_server_key": "s" * 40,
                "curve_secret_key": "c" * 39 + "&",
            },
        ),
        ("memory://world/app", {"backend": "memory", "hostname": "world", "virtual_host": "app"}),
        (
            "amqp://us%40er:p%3A%2F%3F%23%5B%5D%40%25@host:5672/v%2Fh?heartbeat=30&connect_timeout=5",
            {
                **HOST,
                "port": 5672,
                "userid": "us@er",
                "password": "p:/?#[]@%",
                "virtual_host": "v/h",
                "heartbeat": 30,
                "connect_timeout": 5,
            },
        ),
        # Not escaped, but unambiguous: the last @ ends the password.
        ("amqp://user:p@ss@host", {**HOST, "userid": "user", "password": "p@ss"}),
    ],
)
def test_a_url_names_these_settings(url: str, settings: dict[str, Any]) -> None:
    assert parse_url(url) == settings


@given(
    userid=st.text(min_size=1, max_size=20),
    password=st.text(max_size=20),
    virtual_host=st.text(min_size=1, max_size=20),
)
def test_whatever_is_escaped_in_a_url_comes_back(
    userid: str, password: str, virtual_host: str
) -> None:
    user, secret, vhost = (quote(part, safe="") for part in (userid, password, virtual_host))

    parsed = parse_url(f"amqp://{user}:{secret}@host/{vhost}")

    assert parsed == {
        **HOST,
        "userid": userid,
        "password": password,
        "virtual_host": virtual_host,
    }


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://host:port/", "can't be parsed"),
        ("amqp://host:99999/", "can't be parsed"),
        ("amqp://host:0/", "port must be a number from 1 to 65535"),
        ("amqp://[::1/", "can't be parsed"),
        ("amqp://host/vhost#1", "%23"),
        ("://host", "can't be parsed"),
        ("am qp://host", "can't be parsed"),
        ("amqp://host?heartbeat=fast", "heartbeat must be a number of seconds, 0 or more: 'fast'"),
        ("amqp://host?heartbeat=-1", "heartbeat must be a number of seconds"),
        ("amqp://host?heartbeat=inf", "heartbeat must be a number of seconds"),
        ("amqp://host?heartbeat=nan", "heartbeat must be a number of seconds"),
        ("amqp://host?connect_timeout=", "connect_timeout must be a number of seconds"),
        ("amqp://host?operation_timeout=soon", "operation_timeout must be a number of seconds"),
        ("amqp://host?login_method=plain", "use PLAIN, AMQPLAIN, EXTERNAL"),
        ("amqp://host?ssl=maybe", "ssl must be true or false: 'maybe'"),
        ("amqp://host?hartbeat=1", "unknown option 'hartbeat'"),
        ("amqp://host?heartbeat", "heartbeat must be a number of seconds"),
    ],
)
def test_a_bad_url_says_what_is_wrong(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ConnectionSettings(**parse_url(url))

    assert says in str(caught.value)


def test_an_unknown_option_is_told_the_known_ones() -> None:
    known = "connect_timeout, heartbeat, insist, login_method, operation_timeout, reconnect, "
    known += "shuffle_hosts, ssl"

    with pytest.raises(ConfigurationError, match=f"use {known}"):
        parse_url("amqp://host?hartbeat=1")


@pytest.mark.parametrize(
    "url",
    [
        "amqp://user:s3cret@host:port/",
        "amqp://user:s3cret@host?unknown=1",
        "amqp://user:s3cret@host?heartbeat=fast",
        "amqp://user:s3cret@host/vhost#1",
        "amqp://user:s3cret@[::1/",
        "amqp://user:#s3cret@host/",
        "amqp://user:/s3cret@host/",
        "amqp://user:?s3cret@host/",
        "amqp://user:12#s3cret@host/",
        "amqp://user:12/s3cret@host/",
        "amqp://user:12?s3cret@host/",
        "amqp://user:12?s3cret=1@host/",
        "amqp://user:p@/s3cret@host/",
        "amqp://user:a[s3cret@host/",
        "amqp://:s3cret@host:port/",
    ],
)
def test_no_error_about_a_url_shows_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)

    # With its causes, as a log would show it.
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:s3cret@host/v", "amqp://user:********@host/v"),
        ("amqp://user:s3@cret@host/v", "amqp://user:********@host/v"),
        ("amqp://host/v", "amqp://host/v"),
        ("memory://", "memory://"),
    ],
)
def test_a_redacted_url_hides_the_password(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [("amqp://host", True), ("host", False), ("::1", False), (None, False), (5, False)],
)
def test_a_url_is_known_by_its_colon_and_slashes(hostname: object, expected: bool) -> None:
    assert is_url(hostname) is expected


def test_without_arguments_the_settings_are_guests_at_localhost() -> None:
    settings = ConnectionSettings()

    assert settings.info() == {
        "hostname": "localhost",
        "port": None,
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
    }


@pytest.mark.parametrize("shown", [repr, str, lambda settings: str(settings.info())])
def test_settings_hide_the_password(shown: Any) -> None:
    assert "s3cret" not in shown(ConnectionSettings(password="s3cret"))


@pytest.mark.parametrize(("port", "number"), [("5672", 5672), (1, 1), ("", None), (None, None)])
def test_a_port_may_be_text_or_missing(port: Any, number: int | None) -> None:
    assert ConnectionSettings(port=port).port == number


@pytest.mark.parametrize("name", ["connect_timeout", "operation_timeout"])
@pytest.mark.parametrize("timeout", [0, "0", None])
def test_a_timeout_of_zero_or_none_waits_for_ever(name: str, timeout: Any) -> None:
    assert getattr(ConnectionSettings(**{name: timeout}), name) is None


@pytest.mark.parametrize("value", [True, {"ca_certs": "ca.pem"}, ssl.create_default_context()])
def test_ssl_takes_a_flag_a_dict_or_a_context(value: Any) -> None:
    assert ConnectionSettings(ssl=value).ssl == value


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("port", 0, "port must be a number from 1 to 65535: 0"),
        ("port", 65536, "port must be"),
        ("port", -5672, "port must be"),
        ("port", "amqp", "port must be a number from 1 to 65535: 'amqp'"),
        ("port", 5672.5, "port must be"),
        ("port", True, "port must be"),
        ("hostname", "", "hostname is empty"),
        ("hostname", 5, "hostname must be text"),
        ("hostname", b"host", "hostname must be text"),
        ("userid", 5, "userid must be text"),
        ("userid", "u" * 256, "userid is 256 bytes long"),
        ("virtual_host", None, "virtual_host must be text"),
        ("virtual_host", "v" * 256, "virtual_host is 256 bytes long"),
        ("password", None, "password must be text, not NoneType"),
        ("password", b"s3cret", "password must be text, not bytes"),
        ("heartbeat", "fast", "heartbeat must be a number of seconds"),
        ("heartbeat", -1, "heartbeat must be a number of seconds"),
        ("connect_timeout", -1, "connect_timeout must be a number of seconds"),
        ("connect_timeout", "soon", "connect_timeout must be a number of seconds, 0 or more"),
        ("ssl", "yes", "ssl must be True, False, a dict or an SSLContext"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused(option: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        ConnectionSettings(**{option: value})

    assert "s3cret" not in str(caught.value)


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="hartbeat"):
        ConnectionSettings(hartbeat=1)  # type: ignore[call-arg]


def test_settings_never_change() -> None:
    with pytest.raises(AttributeError):
        ConnectionSettings().port = 1  # type: ignore[misc]


# -- several hosts


@pytest.mark.parametrize(
    ("hostname", "addresses"),
    [
        (["a", "b:5673"], [("a", 5672), ("b", 5673)]),
        (("[::1]:7", "[::2]"), [("::1", 7), ("::2", 5672)]),
        (["a:1"], [("a", 1)]),
        (["a"], [("a", 5672)]),
        ("a", [("a", 5672)]),
    ],
)
def test_each_host_has_settings_of_its_own(hostname: Any, addresses: Any) -> None:
    settings = ConnectionSettings(hostname=hostname, port=5672)

    assert [(host.hostname, host.port) for host in settings.hosts] == addresses
    assert settings.host == addresses[0][0]


def test_a_url_may_name_several_hosts() -> None:
    keywords = parse_url("amqp://user:p%2Cw@one,two:5673,[::1]:7/app?shuffle_hosts=1")

    assert keywords["hostname"] == ["one", "two:5673", "[::1]:7"]
    assert (keywords["password"], keywords["virtual_host"]) == ("p,w", "app")
    settings = ConnectionSettings(**keywords)
    assert {host.hostname for host in settings.to_try} == {"one", "two", "::1"}


@pytest.mark.parametrize(
    "hostname", [[], ["a:b"], ["u:s3cret@h"], [5], ["a", ""], ["amqp://u:s3cret@h"]]
)
def test_hosts_that_cannot_be_right_are_refused(hostname: Any) -> None:
    with pytest.raises(ConfigurationError, match="hostname") as caught:
        ConnectionSettings(hostname=hostname)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("hosts", ["a,b:x", "a,,b", "a,b:", "[::1,b"])
def test_hosts_of_a_url_that_cannot_be_right_are_refused(hosts: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(f"amqp://u:s3cret@{hosts}/v")
    assert "s3cret" not in str(caught.value)


def test_a_password_that_is_no_text_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match="no text") as caught:
        ConnectionSettings(password="s3cret\udc80")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


# -- CURVE keys


def test_curve_secret_key_is_never_shown() -> None:
    settings = ConnectionSettings(curve_server_key="p" * 40, curve_secret_key="s" * 40)

    assert "ssss" not in repr(settings)
    assert settings.info()["curve_secret_key"] == "********"


@pytest.mark.parametrize("key", ["short", "x" * 41, "x" * 39 + "'", "x" * 39 + " ", b"x" * 40])
@pytest.mark.parametrize("name", ["curve_server_key", "curve_secret_key"])
def test_what_is_no_curve_key_is_refused_and_not_shown(name: str, key: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is no CURVE key") as caught:
        ConnectionSettings(**{"curve_server_key": "p" * 40, name: key})

    assert str(key) not in str(caught.value)


def test_secret_key_without_the_brokers_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs curve_server_key"):
        ConnectionSettings(curve_secret_key="s" * 40)


def test_curve_keys_are_for_urls_of_zeromq_only() -> None:
    with pytest.raises(ConfigurationError, match="unknown option 'curve_server_key'"):
        parse_url(f"amqp://host?curve_server_key={'p' * 40}")


@pytest.mark.parametrize("cut", ["@", "&", "#", "?", "%"])
def test_a_secret_key_whose_characters_were_not_escaped_is_not_shown(cut: str) -> None:
    first, second = "abcdefghij", "klmnopqrst"
    url = f"zeromq+tcp://host:5555/?curve_server_key={'s' * 40}&curve_secret_key={first}{cut}"
    for where in (url, url.replace("+tcp", ""), url.replace(":5555", "")):
        with pytest.raises(ConfigurationError) as caught:
            ConnectionSettings(**parse_url(where + second))

        assert first not in str(caught.value)
        assert second not in str(caught.value)


@pytest.mark.parametrize("backend", ["amqps", "AMQPS", "stomps"])
def test_a_drivers_name_may_mean_tls(backend: str) -> None:
    assert ConnectionSettings(backend=backend).ssl is True
    assert ConnectionSettings(backend=backend, ssl={"ca_certs": "x"}).ssl == {"ca_certs": "x"}


def test_an_empty_dict_of_tls_options_is_tls() -> None:
    assert ConnectionSettings(ssl={}).ssl is True


def test_a_url_that_means_tls_cant_turn_it_off() -> None:
    with pytest.raises(ConfigurationError, match="use amqp to go without"):
        parse_url("amqps://host/?ssl=false")
