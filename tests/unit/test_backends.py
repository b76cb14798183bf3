"""From the name of a driver to its class."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from carrot.backends import BACKEND_ALIASES, base, get_backend_cls, known_names
from carrot.backends.base import BaseChannel, BaseTransport, Capabilities
from carrot.backends.seam.backend import Backend
from carrot.exceptions import BackendNotFound, NotSupported
from tests.unit import fake_driver

MEMORY, AMQP = "carrot.backends.memory", "carrot.backends.amqp"
PYAMQPLIB = "carrot.backends.pyamqplib"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("amqp", AMQP),
        ("amqps", AMQP),
        ("amqplib", PYAMQPLIB),
        ("pyamqplib", PYAMQPLIB),
        ("AMQP", AMQP),
        ("memory", MEMORY),
        ("mem", MEMORY),
        ("pyqueue", MEMORY),
        ("queue", MEMORY),
        (None, AMQP),
        ("", AMQP),
        ("carrot.backends.amqp.Backend", AMQP),
        ("carrot.backends.pyamqplib.Backend", PYAMQPLIB),
        ("carrot.backends.memory.Backend", MEMORY),
        ("carrot.backends.queue.Backend", MEMORY),
    ],
)
def test_a_name_stands_for_a_driver(name: str | None, module: str) -> None:
    assert get_backend_cls(name).__module__.startswith(module)


def test_a_class_stands_for_itself() -> None:
    assert get_backend_cls(fake_driver.Backend) is fake_driver.Backend


def test_a_dotted_path_names_a_class() -> None:
    assert get_backend_cls("tests.unit.fake_driver.Backend") is fake_driver.Backend


def test_an_unknown_name_is_told_every_known_one() -> None:
    with pytest.raises(BackendNotFound) as caught:
        get_backend_cls("carrier-pigeon")

    assert "no backend is named 'carrier-pigeon'" in str(caught.value)
    assert "carrot.backends" in str(caught.value)
    for name in BACKEND_ALIASES:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        (5, "must be a name or a class, not int: 5"),
        (dict, "'dict' is not a subclass of carrot.backends.seam.backend.Backend"),
        (fake_driver.FakeTransport, "'FakeTransport' is not a subclass"),
        ("collections.OrderedDict", "'collections.OrderedDict' is not a subclass"),
        ("tests.unit.fake_driver.make_driver", "is not a subclass"),
        ("tests.unit.fake_driver.Nothing", "module 'tests.unit.fake_driver' has no 'Nothing'"),
        ("no_such_package.Backend", "can't import 'no_such_package.Backend'"),
        ("carrot.no_such_module.Backend", "can't import 'carrot.no_such_module.Backend'"),
        (".Backend", "'.Backend'"),
        ("..", "'..'"),
    ],
)
def test_what_is_no_driver_is_refused(backend: object, says: str) -> None:
    with pytest.raises(BackendNotFound) as caught:
        get_backend_cls(backend)  # type: ignore[arg-type]

    assert says in str(caught.value)


def test_a_missing_library_is_told_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(PYAMQPLIB)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "amqp", None)

    with pytest.raises(BackendNotFound) as caught:
        get_backend_cls("pyamqplib")

    assert "backend 'pyamqplib' needs the library 'amqp'" in str(caught.value)
    assert "pip install amqp" in str(caught.value)
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that adds drivers by entry points, as pip would install it."""
    info = tmp_path / "pigeons-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeons\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[carrot.backends]\n"
        "pigeon = tests.unit.fake_driver:Backend\n"
        "dove = tests.unit.fake_driver:make_driver\n"
        "dodo = no_such_package:Backend\n"
        "moa = tests.unit.fake_driver:NoSuchClass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_installed")
def test_an_entry_point_adds_a_driver() -> None:
    assert get_backend_cls("pigeon") is fake_driver.Backend
    assert "pigeon" in known_names()


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("name", "says"),
    [("dove", "not a subclass"), ("dodo", "no_such_package"), ("moa", "NoSuchClass")],
)
def test_an_entry_point_that_is_no_driver_is_told(name: str, says: str) -> None:
    with pytest.raises(BackendNotFound) as caught:
        get_backend_cls(name)

    assert f"backend {name!r}" in str(caught.value)
    assert says in str(caught.value)


def test_a_half_written_channel_fails_when_it_is_made() -> None:
    class Half(BaseChannel):
        def ack(self, delivery_tag: Any, multiple: bool = False) -> None:
            """All that it can do."""

    with pytest.raises(TypeError, match="abstract") as caught:
        Half()  # type: ignore[abstract]

    for operation in ("publish", "nack", "declare"):
        assert operation in str(caught.value)


def test_a_half_written_transport_fails_when_it_is_made() -> None:
    class Half(BaseTransport):
        def interrupt(self) -> None:
            """All that it can do."""

    with pytest.raises(TypeError, match="abstract") as caught:
        Half()  # type: ignore[abstract]

    for operation in ("open", "channel", "wait_for"):
        assert operation in str(caught.value)


def test_the_old_name_of_the_backend_class_is_still_there() -> None:
    assert base.BaseBackend is Backend
    assert issubclass(fake_driver.Backend, base.BaseBackend)


def test_a_driver_refuses_what_it_cannot_do_by_its_name() -> None:
    class Simple(fake_driver.Backend):
        capabilities = Capabilities(priorities=False)

    Simple.require("confirms", "confirm=True")
    with pytest.raises(
        NotSupported, match="the test_backends driver has no priorities: priority=5"
    ):
        Simple.require("priorities", "priority=5")
