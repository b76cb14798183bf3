"""ConnectionSettings: where a broker is and how to get in; from keywords, a URL or Django."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from carrot.checks import seconds, short_string
from carrot.exceptions import ConfigurationError

if TYPE_CHECKING:
    import ssl

SslOption: TypeAlias = "bool | Mapping[str, Any] | ssl.SSLContext"

LOGIN_METHODS = ("PLAIN", "AMQPLAIN", "EXTERNAL")

_HIDDEN = "********"


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """Checked, and never changed.

    :param hostname: name or address of the broker's machine; or several, for a cluster, each with
        a port of its own if need be: ``["a", "b:5673"]``.
    :param port: of the hosts that name none; None is the driver's default.
    :param virtual_host: which of the broker's; each has queues and exchanges of its own.
    :param ssl: True, a dict of the driver's TLS options, or an ``ssl.SSLContext``.
    :param connect_timeout: seconds for the connection and its handshake; 0 or None waits forever.
    :param heartbeat: seconds between signs of life; 0 sends none, None is the driver's default.
    :param operation_timeout: seconds for the broker's answer to any request; 0 or None waits
        forever.
    :param login_method: PLAIN, AMQPLAIN or EXTERNAL (the client certificate says who it is).
    :param shuffle_hosts: try the hosts in random order instead of theirs.
    :param reconnect: what is interrupted by the loss of a connection goes on over a new one.
    :param insist: accepted for AMQP 0-8 programs; brokers of today ignore it.
    :param curve_server_key: the broker's public key, for ZeroMQ's encryption; None: no encryption.
    :param curve_secret_key: the client's own secret key, for a broker that knows its clients.
    :param backend: a driver's name or class; None is the default one.
    """

    hostname: str | Sequence[str] = "localhost"
    port: int | None = None
    userid: str = "guest"
    password: str = field(default="guest", repr=False)
    virtual_host: str = "/"
    ssl: SslOption = False
    connect_timeout: float | None = 5.0
    heartbeat: float | None = None
    operation_timeout: float | None = 30.0
    login_method: str = "PLAIN"
    shuffle_hosts: bool = False
    reconnect: bool = True
    insist: bool = False
    curve_server_key: str | None = None
    curve_secret_key: str | None = field(default=None, repr=False)
    backend: Any = None

    def __post_init__(self) -> None:
        for name in ("userid", "virtual_host"):
            short_string(name, getattr(self, name))
        if not isinstance(self.password, str):
            raise ConfigurationError(f"password must be text, not {type(self.password).__name__}")
        try:
            self.password.encode()
        except UnicodeEncodeError:
            # Without the cause, which quotes it.
            raise ConfigurationError("the password has a character that is no text") from None
        object.__setattr__(self, "port", _port(self.port))
        object.__setattr__(self, "hostname", _hostname(self.hostname))
        for name in ("connect_timeout", "operation_timeout"):
            if (timeout := getattr(self, name)) is not None:
                object.__setattr__(self, name, seconds(name, timeout) or None)
        if self.login_method not in LOGIN_METHODS:
            raise ConfigurationError(
                f"login_method {self.login_method!r} is unknown: use {', '.join(LOGIN_METHODS)}"
            )
        if self.heartbeat is not None:
            object.__setattr__(self, "heartbeat", seconds("heartbeat", self.heartbeat))
        for name in ("curve_server_key", "curve_secret_key"):
            _check_curve_key(name, getattr(self, name))
        if self.curve_secret_key is not None and self.curve_server_key is None:
            raise ConfigurationError("curve_secret_key needs curve_server_key, the broker's key")
        if not (isinstance(self.ssl, (bool, Mapping)) or _is_ssl_context(self.ssl)):
            raise ConfigurationError(
                f"ssl must be True, False, a dict or an SSLContext: {self.ssl!r}"
            )
        if self.ssl == {} or (self.ssl is False and is_tls(self.backend)):
            object.__setattr__(self, "ssl", True)

    @property
    def host(self) -> str:
        """The first host's name or address."""
        return self.hostname if isinstance(self.hostname, str) else self.hosts[0].host

    @property
    def hosts(self) -> list[Self]:
        """These settings for each of the hosts, in the order given."""
        if isinstance(self.hostname, str):
            return [self]
        addresses = [_host_and_port(host) for host in self.hostname]
        return [replace(self, hostname=host, port=port or self.port) for host, port in addresses]

    @property
    def to_try(self) -> list[Self]:
        """The same in the order in which to try them."""
        return random.sample(self.hosts, len(self.hosts)) if self.shuffle_hosts else self.hosts

    def info(self) -> dict[str, Any]:
        """The settings by name, with the secrets hidden."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "backend"}
        if self.curve_secret_key is not None:
            known["curve_secret_key"] = _HIDDEN
        return {**known, "password": _HIDDEN}


def is_tls(backend: object) -> bool:
    """Whether a driver's name, or a URL's scheme, means TLS."""
    return isinstance(backend, str) and backend.lower() in _TLS_SCHEMES


def check_tls(backend: object, ssl: object) -> None:
    """Refuse to go without TLS what is named as if with it.

    :raises ConfigurationError: it is.
    """
    if is_tls(backend) and ssl is False:
        raise ConfigurationError(
            f"{backend} means TLS, and ssl=False none: use {str(backend)[:-1]} to go without"
        )


def _is_ssl_context(value: object) -> bool:
    # Who has an SSLContext has imported ssl; others needn't wait for that.
    module = sys.modules.get("ssl")
    return module is not None and isinstance(value, module.SSLContext)


def _check_curve_key(name: str, value: object) -> None:
    """Z85, 40 characters (https://rfc.zeromq.org/spec/32/). The error never shows the value."""
    if value is not None and not (isinstance(value, str) and re.fullmatch(_CURVE_KEY, value)):
        raise ConfigurationError(
            f"{name} is no CURVE key: a key is 40 characters, as zmq.curve_keypair() makes them "
            "(in a URL with % escapes)"
        )


_CURVE_KEY = r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}"


def _hostname(given: object) -> str | tuple[str, ...]:
    """One host as it is, or several of them."""
    if isinstance(given, (list, tuple)):
        for host in given:
            _host_and_port(host)
        if len(given) != 1:
            return tuple(given) or _hostname("")
        given, port = _host_and_port(given[0])
        if port is not None:
            return (f"[{given}]:{port}" if ":" in given else f"{given}:{port}",)
    hostname = short_string("hostname", given)
    _check_hostname(hostname)
    return hostname


def _host_and_port(host: object) -> tuple[str, int | None]:
    """``host``, ``host:port`` or ``[address]:port``."""
    text = short_string("hostname", host)
    match = re.fullmatch(r"(?:\[(.+)\]|([^:]*))(?::(\d+))?", text)
    name, port = (match[1] or match[2], match[3]) if match else (text, None)
    _check_hostname(name)
    return name, _port(port)


def _check_hostname(hostname: str) -> None:
    if not hostname:
        raise ConfigurationError("hostname is empty: name the broker's machine")
    if hostname.startswith("/"):
        return  # a Unix socket's path
    # Perhaps a URL that is none, with a password in it: so it is not shown.
    if any(character in "@/?#" or character.isspace() for character in hostname):
        raise ConfigurationError(
            "hostname is neither a host name nor a URL: a URL is "
            "scheme://user:password@host:port/vhost, with :// in it"
        )
    if hostname.count(":") == 1:
        raise ConfigurationError(
            f"hostname has a colon: write the port as port=, or a URL such as "
            f"amqp://{hostname.partition(':')[0]}:5672/"
        )


def _port(value: object) -> int | None:
    if value is None or value == "":
        return None
    try:
        port = int(str(value))
    except ValueError:
        port = -1
    if not 0 < port < 65536:
        raise ConfigurationError(f"port must be a number from 1 to 65535: {value!r}")
    return port


def _flag(what: str, value: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if value.lower() not in words:
        raise ConfigurationError(f"{what} must be true or false: {value!r}")
    return words[value.lower()]


# -- URLs -------------------------------------------------------------------------------

_TLS_SCHEMES = frozenset({"amqps", "stomps"})
_URL_OPTIONS: dict[str, Callable[[str, str], Any]] = {
    "heartbeat": seconds,
    "connect_timeout": seconds,
    "operation_timeout": seconds,
    "login_method": lambda what, value: value,
    "shuffle_hosts": _flag,
    "reconnect": _flag,
    "insist": _flag,
    "ssl": _flag,
}
# Those of ZeroMQ's URLs, whose path may be that of a socket.
_ZEROMQ_OPTIONS: dict[str, Callable[[str, str], Any]] = {
    **_URL_OPTIONS,
    "curve_server_key": lambda what, value: value,
    "curve_secret_key": lambda what, value: value,
    "virtual_host": lambda what, value: value,
}


def is_url(hostname: object) -> bool:
    """Whether a hostname argument is a URL in a hostname's place."""
    return isinstance(hostname, str) and "://" in hostname


def parse_url(url: str) -> dict[str, Any]:
    """The settings that *url* names, as keywords of :class:`ConnectionSettings`.

    ``amqp://user:password@host:5672/vhost?heartbeat=30&connect_timeout=5``; the scheme is a
    driver's. Several hosts are ``amqp://user:password@one,two:5673,three/vhost``. No path, ``/``,
    ``//`` and ``/%2F`` are all the virtual host ``/``. The path of ``zeromq+ipc:///run/broker`` is
    the broker's socket, and a virtual host is an option there: ``?virtual_host=app``.

    :raises ConfigurationError: says what is wrong, never the password.
    """
    single, hosts = _first_of_hosts(url)
    scheme, parts, port = _split(single)
    keywords: dict[str, Any] = {"backend": scheme}
    if hosts:
        keywords["hostname"] = hosts
        port = None
    elif parts.hostname:
        keywords["hostname"] = unquote(parts.hostname)
    if port is not None:
        keywords["port"] = port
    if parts.username is not None:
        keywords["userid"] = unquote(parts.username)
    if parts.password is not None:
        keywords["password"] = unquote(parts.password)
    options = _ZEROMQ_OPTIONS if _is_zeromq(scheme) else _URL_OPTIONS
    if scheme == "zeromq+ipc":
        keywords["hostname"] = unquote(parts.path)
    elif vhost := unquote(parts.path[1:]):
        keywords["virtual_host"] = vhost
    if is_tls(scheme):
        keywords["ssl"] = True
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in options:
            # It may be the end of a key, in which an & was not escaped.
            shown = "" if "curve_secret_key" in parts.query else f" {name!r}"
            raise ConfigurationError(
                f"unknown option{shown} in the URL {redact(url)}: use {', '.join(sorted(options))}"
            )
        keywords[name] = options[name](name, value)
    check_tls(scheme, keywords.get("ssl"))
    return keywords


def _first_of_hosts(url: str) -> tuple[str, list[str]]:
    """*url* with the first of its hosts only, and all of them; none, when there is but one."""
    start = url.index("://") + 3 if "://" in url else 0
    length = re.search(r"[/?#]|$", url[start:])
    assert length is not None
    end = start + length.start()
    login, at, places = url[start:end].rpartition("@")
    first, comma, _ = places.partition(",")
    if not comma:
        return url, []
    hosts = places.split(",")
    if not all(re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:\d+)?", host) for host in hosts):
        raise ConfigurationError(
            f"the hosts of the URL {redact(url)} can't be understood: write them as host or "
            "host:port, with a comma between two"
        )
    return url[:start] + login + at + first + url[end:], [unquote(host) for host in hosts]


def _split(url: str) -> tuple[str, SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        # The cause may quote the password, where an unescaped character moved it.
        raise ConfigurationError(
            f"the URL {redact(url)} can't be parsed: write scheme://user:password@host:port/vhost, "
            "with % escapes for / : @ ? # in the user, password and vhost"
        ) from (exc if "@" not in url else None)
    if not parts.scheme:
        raise ConfigurationError(
            f"the URL {redact(url)} can't be parsed: it must begin with a driver's name, as in "
            "amqp://host or memory://"
        )
    # An unescaped / or ? in a password ends the host's part early.
    if "@" in parts.path or "@" in parts.query:
        raise ConfigurationError(
            f"the URL {redact(url)} has an '@' after the host: write / ? and @ as %2F, %3F and "
            "%40 in a user, password or vhost"
        )
    if parts.fragment or "#" in url:
        raise ConfigurationError(
            f"the URL {redact(url)} has a '#': write it as %23 in a user, password or vhost"
        )
    return parts.scheme.lower(), parts, port


def _is_zeromq(scheme: str) -> bool:
    return scheme.lower().partition("+")[0] == "zeromq"


def redact(url: str) -> str:
    """*url* with its password hidden, even when it is malformed, and without its options."""
    scheme, separator, rest = url.partition("://")
    if _is_zeromq(scheme):
        rest = rest.partition("?")[0]  # a key may have an @ in it
    user, at, host = rest.rpartition("@")
    host = re.split(r"[?#]", host)[0]
    if not at:
        name, colon, port = host.partition(":")
        # What stands where the port should may be a password without its @host.
        if colon and not re.match(r"\d+(/|$)", port):
            host = f"{name}:{_HIDDEN}"
        return f"{scheme}{separator}{host}"
    return f"{scheme}{separator}{user.partition(':')[0]}:{_HIDDEN}@{host}"


# -- Django -----------------------------------------------------------------------------

# Each setting by its two families of names, which are equals; the first one that is set counts.
_DJANGO_SETTINGS = {
    "hostname": ("BROKER_HOST", "AMQP_HOST", "AMQP_SERVER"),
    "port": ("BROKER_PORT", "AMQP_PORT"),
    "userid": ("BROKER_USER", "AMQP_USER"),
    "password": ("BROKER_PASSWORD", "AMQP_PASSWORD"),
    "virtual_host": ("BROKER_VHOST", "AMQP_VHOST"),
    "backend_cls": ("CARROT_BACKEND",),
}
_DJANGO_REQUIRED = ("hostname", "userid", "password")


def get_django_conninfo(settings: object = None) -> dict[str, Any]:
    """Keywords for a BrokerConnection from Django's settings; absent settings give no key.

    ``BROKER_URL`` comes first, and the single settings override what it says.

    :param settings: an object to read instead of ``django.conf.settings``.
    :raises ConfigurationError: Django is missing, or its settings are not configured.
    """
    settings = _django_settings() if settings is None else settings
    keywords: dict[str, Any] = {}
    if url := getattr(settings, "BROKER_URL", None):
        keywords = {"userid": "guest", "password": "guest", **parse_url(url)}
        keywords["backend_cls"] = keywords.pop("backend")
    for keyword, names in _DJANGO_SETTINGS.items():
        for name in names:
            if (value := getattr(settings, name, None)) is not None:
                keywords[keyword] = value
                break
    return keywords


def check_django_conninfo(keywords: Mapping[str, Any]) -> None:
    """Refuse settings with which nobody could connect, naming the missing ones.

    :raises ConfigurationError: as it says.
    """
    missing = [
        " or ".join(n for n in _DJANGO_SETTINGS[keyword] if n != "AMQP_HOST")
        for keyword in _DJANGO_REQUIRED
        if keywords.get(keyword) is None
    ]
    if missing:
        raise ConfigurationError(
            f"missing in Django's settings: {'; '.join(missing)}. Set them there (or BROKER_URL "
            "alone), or pass them as keywords"
        )


def _django_settings() -> object:
    try:
        # Django is optional, and importing it reads the program's settings.
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured
    except ImportError as exc:
        raise ConfigurationError(
            "DjangoAMQPConnection needs Django, which is not installed: "
            "pip install 'carrot[django]', or use AMQPConnection"
        ) from exc
    try:
        hasattr(settings, "DEBUG")
    except ImproperlyConfigured as exc:
        raise ConfigurationError(
            "Django's settings are not configured: set DJANGO_SETTINGS_MODULE, or call "
            "django.conf.settings.configure()"
        ) from exc
    configured: object = settings
    return configured
