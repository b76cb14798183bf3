"""The options of a connection: keywords over the URL over the attributes of its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from carrot.exceptions import ConfigurationError
from carrot.settings import ConnectionSettings, check_tls, is_url, parse_url

#: The settings that are attributes of a connection, by the same names.
SETTINGS = tuple(f.name for f in fields(ConnectionSettings) if f.name != "backend")


def merged(connection: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a new *connection*, checked, by the names of its attributes.

    :param connection: its attributes are still those of its class.
    :param given: the keywords, None for those that are not given.
    """
    keywords = {**given}
    inherited: dict[str, Any] = {name: getattr(connection, name) for name in SETTINGS}
    inherited["virtual_host"] = one_of(
        "virtual_host", connection.virtual_host, "vhost", connection.vhost
    )
    inherited["backend"] = one_of(
        "backend_cls", connection.backend_cls, "transport", connection.transport
    )
    hostname = keywords["hostname"] or inherited["hostname"]
    from_url: dict[str, Any] = {}
    if is_url(hostname):
        from_url = parse_url(hostname)
        inherited["hostname"] = keywords["hostname"] = None
        if inherited["backend"] is not None:
            keywords["backend"] = keywords["backend"] or inherited["backend"]
    chosen = {
        name: value
        for layer in (inherited, from_url, keywords)
        for name, value in layer.items()
        if value is not None
    }
    check_tls(chosen.get("backend"), chosen.get("ssl"))
    settings = ConnectionSettings(**chosen)
    attributes = {name: getattr(settings, name) for name in SETTINGS}
    for name in ("connect_timeout", "operation_timeout"):
        if inherited[name] is None and name not in chosen:
            attributes[name] = None  # a subclass that waits for ever
    return {**attributes, "backend_cls": settings.backend}


def one_of(name: str, value: Any, other_name: str, other: Any) -> Any:
    """The value of a setting that has two names.

    :raises ConfigurationError: both are given, and differ.
    """
    if value is not None and other is not None and value != other:
        raise ConfigurationError(
            f"{name}={value!r} and {other_name}={other!r} are two names of one setting: give one"
        )
    return value if value is not None else other
