"""Libraries of serializers, imported when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from carrot.exceptions import SerializerNotInstalled


def import_library(name: str, extra: str) -> Any:
    """A library, imported when it is first needed.

    :param extra: carrot's extra that installs it.
    """
    try:
        return import_module(name)
    except ImportError as exc:
        raise SerializerNotInstalled(
            f"this serializer needs the library {name!r}, which is not installed: "
            f"pip install 'carrot[{extra}]'"
        ) from exc


def optional(library: str, function: str) -> Callable[[Any], Any]:
    """A function of a library that carrot has an extra of the same name for."""

    def call(data: Any) -> Any:
        return getattr(import_library(library, library), function)(data)

    return call
