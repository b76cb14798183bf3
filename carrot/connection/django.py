"""DjangoBrokerConnection: a BrokerConnection with the settings of the Django project."""

from __future__ import annotations

from typing import Any

from carrot.backends import get_backend_cls
from carrot.connection.broker_connection import BrokerConnection
from carrot.connection.options import one_of
from carrot.settings import check_django_conninfo, get_django_conninfo, is_url


class DjangoBrokerConnection(BrokerConnection):
    """A BrokerConnection with the settings of the Django project; keywords override them.

    Reads ``BROKER_HOST BROKER_PORT BROKER_USER BROKER_PASSWORD BROKER_VHOST``, or the same with
    ``AMQP_`` (and ``AMQP_SERVER`` for the host), or ``BROKER_URL``; and ``CARROT_BACKEND``.

    :param settings: an object to read instead of ``django.conf.settings``.
    :raises ConfigurationError: names the settings that are missing.
    """

    def __init__(
        self,
        hostname: str | None = None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | str | None = None,
        *,
        settings: object = None,
        **options: Any,
    ) -> None:
        given = {
            "hostname": hostname,
            "userid": userid,
            "password": password,
            "virtual_host": virtual_host,
            "port": port,
            **options,
        }
        given = {name: value for name, value in given.items() if value is not None}
        for alias, name in (("vhost", "virtual_host"), ("transport", "backend_cls")):
            if alias in given:
                given[name] = one_of(name, given.get(name), alias, given.pop(alias))
        keywords = get_django_conninfo(settings)
        if is_url(given.get("hostname")):
            keywords = {}
        keywords.update(given)
        backend = get_backend_cls(keywords["backend_cls"]) if keywords.get("backend_cls") else None
        # A driver without ports has no login either: the memory one needs no settings at all.
        needs_login = backend is None or backend.connector.default_port is not None
        if needs_login and "://" not in str(keywords.get("hostname")):
            check_django_conninfo(keywords)
        super().__init__(**keywords)


#: The name of carrot 0.1 to 0.6, which stays.
DjangoAMQPConnection = DjangoBrokerConnection
