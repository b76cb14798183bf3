"""Where the documentation's ``localhost:5672`` is: a memory world, or the RabbitMQ of the tests."""

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
from carrot.backends import memory, pyamqplib
from carrot.exceptions import CarrotError
from carrot.settings import ConnectionSettings, parse_url
from tests.docs.blocks import Example


@pytest.fixture
def clean_worlds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every memory world that an example uses is empty afterwards."""
    really_open = memory.Transport.open.__func__  # type: ignore[attr-defined]
    used: set[str] = set()

    def open_and_remember(cls: type, settings: ConnectionSettings) -> Any:
        port = f":{settings.port}" if settings.port else ""
        used.add(f"memory://{settings.hostname}{port}/{quote(settings.virtual_host, safe='')}")
        return really_open(cls, settings)

    monkeypatch.setattr(memory.Transport, "open", classmethod(open_and_remember))
    yield
    for url in used:
        memory.reset(url)


@pytest.fixture
def in_memory(clean_worlds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the AMQP driver mean the memory one."""
    for alias in ("amqp", "amqps", "amqplib", "pyamqplib"):
        monkeypatch.setitem(backends.BACKEND_ALIASES, alias, "carrot.backends.memory.Backend")


@pytest.fixture
def on_rabbitmq(
    amqp_url: str, clean_worlds: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Every AMQP connection goes to the tests' broker; what is declared there goes at the end."""
    place = parse_url(amqp_url)
    del place["backend"]
    really_open = pyamqplib.Transport.open.__func__  # type: ignore[attr-defined]

    opened = []

    def open_there(cls: type, settings: ConnectionSettings) -> Any:
        there = replace(settings, ssl=False, **{"virtual_host": "/", **place})
        opened.append(really_open(cls, there))
        return opened[-1]

    monkeypatch.setattr(pyamqplib.Transport, "open", classmethod(open_there))
    declared: set[tuple[str, str]] = set()
    _remember(monkeypatch, declared, "queue")
    _remember(monkeypatch, declared, "exchange")
    yield
    # An example needn't close what it opens.
    for transport in opened:
        transport.close()
    with BrokerConnection(amqp_url) as janitor:
        for kind, name in declared:
            with suppress(CarrotError):
                getattr(janitor.channel(), f"{kind}_delete")(name)


def _remember(monkeypatch: pytest.MonkeyPatch, declared: set[tuple[str, str]], kind: str) -> None:
    method = f"{kind}_declare"
    declare = getattr(pyamqplib.Backend, method)

    def remembered(backend: Any, *args: Any, **kwargs: Any) -> Any:
        declared.add((kind, kwargs[kind] if kind in kwargs else args[0]))
        return declare(backend, *args, **kwargs)

    monkeypatch.setattr(pyamqplib.Backend, method, remembered)


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
