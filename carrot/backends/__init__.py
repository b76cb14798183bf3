"""Names and URL schemes to drivers, each loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from carrot.backends.seam.backend import Backend
from carrot.exceptions import BackendNotFound

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

#: The entry-point group by which an installed package adds a driver under a name.
ENTRY_POINT_GROUP = "carrot.backends"

DEFAULT_BACKEND = "amqp"

_AMQP = "carrot.backends.amqp.Backend"
_PYAMQPLIB = "carrot.backends.pyamqplib.Backend"
_MEMORY = "carrot.backends.memory.Backend"
_STOMP = "carrot.backends.pystomp.Backend"
_ZEROMQ = "carrot.backends.zeromq.Backend"

#: Names, which are URL schemes too, to the classes they stand for.
BACKEND_ALIASES = {
    "amqp": _AMQP,
    "amqps": _AMQP,
    "amqplib": _PYAMQPLIB,
    "pyamqplib": _PYAMQPLIB,
    "memory": _MEMORY,
    "mem": _MEMORY,
    "pyqueue": _MEMORY,
    "queue": _MEMORY,
    "stomp": _STOMP,
    "stomps": _STOMP,
    "activemq": _STOMP,
    "pystomp": _STOMP,
    "zeromq": _ZEROMQ,
    "zeromq+tcp": _ZEROMQ,
    "zeromq+ipc": _ZEROMQ,
}

# Libraries that drivers need, to the pip command that brings them.
_PIP = {
    "amqp": "pip install amqp",
    "stomp": "pip install 'carrot[stomp]'",
    "zmq": "pip install 'carrot[zeromq]'",
}


def get_backend_cls(backend: str | type[Backend] | None = None) -> type[Backend]:
    """The class of a driver.

    :param backend: an alias or URL scheme (``"amqp"``, ``"memory"``), the dotted path of a
        class (``"package.module.Backend"``), the name of an entry point in the group
        ``carrot.backends``, or a class. None is the default driver.
    :raises BackendNotFound: lists what was tried and the known names.
    """
    if isinstance(backend, type):
        return _checked(backend, backend.__name__)
    name = backend or DEFAULT_BACKEND
    if not isinstance(name, str):
        raise BackendNotFound(
            f"backend_cls must be a name or a class, not {type(name).__name__}: {name!r}"
        )
    path = BACKEND_ALIASES.get(name.lower(), name)
    if "." in path:
        return _load(path, name)
    for entry_point in _entry_points().select(name=name):
        return _load(f"{entry_point.module}.{entry_point.attr}", name)
    raise BackendNotFound(
        f"no backend is named {name!r} (tried the aliases and the entry points of "
        f"{ENTRY_POINT_GROUP}): use one of {', '.join(known_names())}, or the dotted path of "
        "a class"
    )


def known_names() -> list[str]:
    """Every name that :func:`get_backend_cls` knows without a dotted path."""
    return sorted({*BACKEND_ALIASES, *(point.name for point in _entry_points())})


def _entry_points() -> EntryPoints:
    # Only here: its import takes 17 ms, and few programs have a driver from elsewhere.
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINT_GROUP)


def _load(path: str, name: str) -> type[Backend]:
    module_name, _, class_name = path.rpartition(".")
    try:
        module = import_module(module_name)
    except (ModuleNotFoundError, TypeError, ValueError) as exc:
        # The last two: the path has empty parts.
        library = (getattr(exc, "name", None) or "").partition(".")[0]
        if library in _PIP:
            raise BackendNotFound(
                f"backend {name!r} needs the library {library!r}, which is not installed: "
                f"{_PIP[library]}"
            ) from exc
        raise BackendNotFound(f"backend {name!r}: can't import {path!r}: {exc}") from exc
    try:
        return _checked(getattr(module, class_name), name)
    except AttributeError as exc:
        raise BackendNotFound(
            f"backend {name!r}: module {module_name!r} has no {class_name!r}"
        ) from exc


def _checked(backend: object, name: str) -> type[Backend]:
    if not (isinstance(backend, type) and issubclass(backend, Backend)):
        raise BackendNotFound(
            f"backend {name!r} is not a subclass of carrot.backends.seam.backend.Backend: "
            f"{backend!r}"
        )
    return backend
