"""DjangoBrokerConnection with the real Django."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.conf import settings as django_settings
from django.test import override_settings

from carrot.connection import DjangoAMQPConnection, DjangoBrokerConnection, get_django_conninfo
from carrot.exceptions import BackendNotFound, ConfigurationError

ROOT = Path(__file__).parents[2]

AMQP = {
    "AMQP_SERVER": "host",
    "AMQP_PORT": 5673,
    "AMQP_USER": "user",
    "AMQP_PASSWORD": "s3cret",
    "AMQP_VHOST": "app",
}
BROKER = {
    "BROKER_HOST": "host",
    "BROKER_PORT": "5673",
    "BROKER_USER": "user",
    "BROKER_PASSWORD": "s3cret",
    "BROKER_VHOST": "app",
}


@pytest.fixture(scope="module", autouse=True)
def _configured() -> None:
    """Django, with no settings but its own."""
    if not django_settings.configured:
        django_settings.configure()


@pytest.mark.parametrize(
    "settings",
    [AMQP, BROKER, {"BROKER_URL": "amqp://user:s3cret@host:5673/app"}],
    ids=["AMQP_*", "BROKER_*", "BROKER_URL"],
)
@pytest.mark.parametrize("cls", [DjangoAMQPConnection, DjangoBrokerConnection])
def test_it_reads_the_settings_of_django(
    settings: dict[str, object], cls: type[DjangoBrokerConnection]
) -> None:
    with override_settings(**settings):
        connection = cls()

    assert (connection.hostname, connection.port) == ("host", 5673)
    assert (connection.userid, connection.password) == ("user", "s3cret")
    assert connection.virtual_host == "app"
    assert connection.host == "host:5673"


def test_the_two_families_of_names_mix() -> None:
    with override_settings(BROKER_HOST="host", AMQP_USER="user", AMQP_PASSWORD="pass"):
        conninfo = get_django_conninfo()

    assert conninfo == {"hostname": "host", "userid": "user", "password": "pass"}


@override_settings(**AMQP)
def test_keywords_override_the_settings() -> None:
    connection = DjangoBrokerConnection("other", password="mine", vhost="v", port=1, heartbeat=5)

    assert (connection.hostname, connection.port, connection.userid) == ("other", 1, "user")
    assert (connection.password, connection.virtual_host) == ("mine", "v")
    assert connection.heartbeat == 5


@override_settings(**AMQP, CARROT_BACKEND="memory")
def test_a_url_in_place_of_the_hostname_overrides_all_settings() -> None:
    connection = DjangoBrokerConnection("amqp://elsewhere/")

    assert (connection.hostname, connection.userid) == ("elsewhere", "guest")
    assert (connection.virtual_host, connection.port) == ("/", None)


@override_settings(BROKER_URL="amqp://user:s3cret@host/app?heartbeat=30", BROKER_VHOST="other")
def test_single_settings_override_the_url() -> None:
    connection = DjangoBrokerConnection()

    assert (connection.hostname, connection.virtual_host) == ("host", "other")
    assert connection.heartbeat == 30


@override_settings(BROKER_URL="amqp://host/")
def test_a_url_without_a_user_means_guest() -> None:
    connection = DjangoBrokerConnection()

    assert (connection.userid, connection.password) == ("guest", "guest")


@override_settings(**AMQP, CARROT_BACKEND="memory")
def test_the_backend_is_a_setting_too() -> None:
    connection, other = DjangoBrokerConnection(), DjangoBrokerConnection(transport="amqp")

    assert connection.get_backend_cls().__module__.startswith("carrot.backends.memory")
    assert other.get_backend_cls().__module__.startswith("carrot.backends.amqp")


@pytest.mark.parametrize("settings", [{"CARROT_BACKEND": "memory"}, {"BROKER_URL": "memory://w/"}])
def test_the_memory_backend_needs_no_other_setting(settings: dict[str, object]) -> None:
    with override_settings(**settings), DjangoBrokerConnection() as connection:
        assert connection.connect().is_open


@override_settings(CARROT_BACKEND="carrier-pigeon")
def test_an_unknown_backend_is_told() -> None:
    with pytest.raises(BackendNotFound, match="carrier-pigeon"):
        DjangoBrokerConnection()


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("AMQP_SERVER", "BROKER_HOST or AMQP_SERVER"),
        ("AMQP_USER", "BROKER_USER or AMQP_USER"),
        ("AMQP_PASSWORD", "BROKER_PASSWORD or AMQP_PASSWORD"),
    ],
)
def test_a_missing_setting_is_named(missing: str, named: str) -> None:
    settings = {name: value for name, value in AMQP.items() if name != missing}

    with override_settings(**settings), pytest.raises(ConfigurationError) as caught:
        DjangoBrokerConnection()

    assert f"missing in Django's settings: {named}. " in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_all_missing_settings_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        DjangoBrokerConnection()

    for name in ("AMQP_SERVER", "AMQP_USER", "AMQP_PASSWORD", "BROKER_URL"):
        assert name in str(caught.value)


def test_a_keyword_stands_in_for_a_missing_setting() -> None:
    connection = DjangoBrokerConnection("host", "user", "pass")

    assert (connection.hostname, connection.userid) == ("host", "user")


@override_settings(BROKER_URL="amqp://user:s3cret@host:port/")
def test_a_bad_url_in_the_settings_is_told_without_the_password() -> None:
    with pytest.raises(ConfigurationError, match="can't be parsed") as caught:
        DjangoBrokerConnection()

    assert "s3cret" not in str(caught.value)


@override_settings(AMQP_SERVER="host", AMQP_USER="user", AMQP_PASSWORD=None)
def test_a_setting_that_is_none_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="AMQP_PASSWORD"):
        DjangoBrokerConnection()


@override_settings(**AMQP, BROKER_HOST=None)
def test_a_setting_that_is_none_leaves_the_other_name_to_count() -> None:
    assert DjangoBrokerConnection().hostname == "host"


def test_it_reads_the_settings_module_of_a_project(tmp_path: Path) -> None:
    (tmp_path / "project_settings.py").write_text(
        "AMQP_SERVER, AMQP_PORT, AMQP_USER, AMQP_PASSWORD = 'host', 5673, 'user', 's3cret'"
    )
    code = "from carrot.connection import DjangoAMQPConnection; print(DjangoAMQPConnection())"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
        "DJANGO_SETTINGS_MODULE": "project_settings",
    }

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    expected = "<DjangoBrokerConnection user@host:5673 vhost='/' not connected>"
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_django_without_settings_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    monkeypatch.setattr("django.conf.settings", LazySettings())

    with pytest.raises(ConfigurationError, match="are not configured: set DJANGO_SETTINGS_MODULE"):
        DjangoBrokerConnection()


def test_a_missing_django_is_told_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("django", "django.conf", "django.core.exceptions"):
        monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigurationError, match=r"pip install 'carrot\[django\]'"):
        DjangoBrokerConnection()
