"""The hosts of a cluster, tried in turn until one lets us in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from carrot.backends.base import BaseTransport, Connector
from carrot.deadline import Deadline
from carrot.exceptions import AccessRefused, ConfigurationError, ConnectionFailed
from carrot.settings import ConnectionSettings


def open_first(
    connector: Connector, settings: ConnectionSettings, deadline: Deadline
) -> BaseTransport:
    """A transport to the first host that lets us in.

    :raises AccessRefused: by the first one that answers; a wrong password is wrong on every host.
    :raises ConnectionFailed: no host can be reached; says of each why.
    :raises ConfigurationError: the driver would not encrypt, as the settings want it.
    """
    if settings.curve_server_key is not None and not connector.has_curve:
        raise ConfigurationError(
            "curve_server_key is for ZeroMQ, and this driver would not encrypt: use ssl=, or a "
            "zeromq URL"
        )
    failures: list[ConnectionFailed] = []
    for host in _until(deadline, settings):
        try:
            return connector.open(host)
        except AccessRefused:
            raise
        except ConnectionFailed as exc:
            failures.append(exc)
    if len(failures) == 1:
        raise failures[0]
    raise ConnectionFailed(
        f"none of the {len(failures)} hosts can be reached: "
        + "; ".join(str(failure) for failure in failures)
    ) from failures[-1]


def _until(deadline: Deadline, settings: ConnectionSettings) -> Iterator[ConnectionSettings]:
    """The settings for each host, with no more time to connect than is left."""
    for host in settings.to_try:
        if deadline.left is not None:
            left = max(0.1, round(deadline.left, 1))
            host = replace(host, connect_timeout=min(left, host.connect_timeout or left))
        yield host
