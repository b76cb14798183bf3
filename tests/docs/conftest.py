"""Where the documentation's ``localhost:5672`` is: in memory, or the RabbitMQ of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import django.conf
import pytest

from carrot import BrokerConnection, backends
from carrot.backends import amqp, memory, pyamqplib, pystomp
from carrot.exceptions import CarrotError
from carrot.settings import ConnectionSettings, parse_url
from tests.docs.blocks import Example

AMQP_DRIVERS = (amqp, pyamqplib)
STOMP_ALIASES = ("stomp", "stomps", "activemq")


@pytest.fixture
def clean_worlds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every virtual host in memory that an example uses is empty afterwards."""
    really_open = memory.Transport.open
    used: set[str] = set()

    def open_and_remember(settings: ConnectionSettings) -> Any:
        port = f":{settings.port}" if settings.port else ""
        used.add(f"memory://{settings.hostname}{port}/{quote(settings.virtual_host, safe='')}")
        return really_open(settings)

    monkeypatch.setattr(memory.Transport, "open", open_and_remember)
    yield
    for url in used:
        memory.reset(url)


@pytest.fixture
def in_memory(clean_worlds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the AMQP drivers mean the memory one."""
    for alias in ("amqp", "amqps", "amqplib", "pyamqplib", *STOMP_ALIASES):
        monkeypatch.setitem(backends.BACKEND_ALIASES, alias, "carrot.backends.memory.Backend")


@pytest.fixture
def on_rabbitmq(
    amqp_url: str,
    clean_worlds: None,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[None]:
    """Every connection goes to the tests' broker; what is declared in RabbitMQ goes at the end."""
    place = _without_backend(request, "amqp_url")
    opened: list[Any] = []
    declared: set[tuple[str, str]] = set()
    _redirect(monkeypatch, pystomp, lambda: _without_backend(request, "stomp_url"), opened)
    for driver in AMQP_DRIVERS:
        _redirect(monkeypatch, driver, lambda: place, opened)
        for kind in ("queue", "exchange"):
            _remember(monkeypatch, driver, kind, declared)
    yield
    # An example needn't close what it opens.
    for transport in opened:
        transport.close()
    with BrokerConnection(amqp_url) as janitor:
        for kind, name in declared:
            with suppress(CarrotError):
                getattr(janitor.channel(), f"{kind}_delete")(name)


def _without_backend(request: pytest.FixtureRequest, url: str) -> dict[str, Any]:
    """The place that the URL of a fixture names."""
    place = parse_url(request.getfixturevalue(url))
    del place["backend"]
    return place


def _redirect(
    monkeypatch: pytest.MonkeyPatch,
    driver: Any,
    place: Callable[[], Mapping[str, Any]],
    opened: list[Any],
) -> None:
    """Let a driver connect to that place, whatever it is told; what it opened is in *opened*."""
    connector = driver.Backend.connector
    really_open = connector.open

    def open_there(settings: ConnectionSettings) -> Any:
        settings = replace(settings, backend=None, ssl=False, login_method="PLAIN")
        opened.append(really_open(replace(settings, **{"virtual_host": "/", **place()})))
        return opened[-1]

    monkeypatch.setattr(connector, "open", open_there)


def _remember(
    monkeypatch: pytest.MonkeyPatch, driver: Any, kind: str, declared: set[tuple[str, str]]
) -> None:
    """Note the names that a driver declares."""
    method = f"{kind}_declare"
    declare = getattr(driver.Backend, method)

    def remembered(backend: Any, *args: Any, **kwargs: Any) -> Any:
        declared.add((kind, kwargs[kind] if kind in kwargs else args[0]))
        return declare(backend, *args, **kwargs)

    monkeypatch.setattr(driver.Backend, method, remembered)


@pytest.fixture(params=["in_memory", "on_rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    """Each kind of broker in turn."""
    request.getfixturevalue(request.param)
    return str(request.param)


@pytest.fixture
def settings_py(monkeypatch: pytest.MonkeyPatch) -> Callable[[Example, Mapping[str, Any]], None]:
    """Makes Django's settings of a block that begins with ``# settings.py``."""

    def after(example: Example, namespace: Mapping[str, Any]) -> None:
        if example.code.text.startswith("# settings.py"):
            own: dict[str, Any] = {}
            exec(example.code.text, own)
            fresh = django.conf.LazySettings()
            fresh.configure(**{name: value for name, value in own.items() if name.isupper()})
            monkeypatch.setattr(django.conf, "settings", fresh)

    return after


@pytest.fixture(autouse=True)
def _away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files that an example writes don't land in the checkout."""
    monkeypatch.chdir(tmp_path)
