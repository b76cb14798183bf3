"""A private RabbitMQ node.

The `rabbitmq-server` in PATH switches to the service's user and drops the environment, so the
scripts behind it are called.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.brokers.process import BrokerError, BrokerProcess, free_port

STOP_TIMEOUT = 30.0  # seconds
CTL_TIMEOUT = 60.0

SCRIPTS = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"


def amqp_version(host: str, port: int, timeout: float = 5.0) -> str | None:
    """The version that the broker there says it is; None when no AMQP broker answers.

    Reads connection.start, the first thing that a broker says (AMQP 0-9-1, section 2.2.4).
    """
    said = b""
    try:
        with socket.create_connection((host, port), timeout) as link:
            link.settimeout(timeout)
            link.sendall(b"AMQP\x00\x00\x09\x01")
            while not said.endswith(b"\xce"):
                piece = link.recv(65536)
                if not piece:
                    break
                said += piece
    except OSError:
        return None
    if not said.startswith(b"\x01"):
        return None
    found = re.search(rb"\x07versionS\x00\x00\x00.([0-9A-Za-z.+~-]+)", said, re.DOTALL)
    return found[1].decode() if found else "of unknown version"


def version_at(url: str) -> str | None:
    """The version of the broker that an amqp URL names."""
    parts = urlsplit(url)
    return amqp_version(unquote(parts.hostname or "localhost"), parts.port or 5672)


class ErlangHome:
    """What the nodes of one cluster share: the folder of the cookie, and a port mapper (epmd).

    The port mapper is a private one and a child of this process; otherwise the first node would
    leave one running for ever.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="carrot-erlang-"))
        self.port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What every Erlang program of this home needs."""
        return {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def start(self) -> None:
        """Start the port mapper, once."""
        if self._epmd is None:
            self._epmd = subprocess.Popen(
                ["epmd", "-port", str(self.port)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def remove(self) -> None:
        """Stop the port mapper and remove the folder."""
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.kill()
            epmd.wait(STOP_TIMEOUT)
        shutil.rmtree(self.folder, ignore_errors=True)


class RabbitMQ(BrokerProcess):
    """One node.

    :param config: lines for rabbitmq.conf, after the ports: TLS listeners, limits.
    :param name: the node's, without a host; unique in its home.
    :param home: share one to make a cluster; by default the node has its own.
    """

    name = "RabbitMQ"

    def __init__(
        self,
        config: Sequence[str] = (),
        name: str = "carrot",
        home: ErlangHome | None = None,
    ) -> None:
        super().__init__()
        self.config = list(config)
        self.node = f"{name}@localhost"
        self.version: str | None = None
        self._home = home or ErlangHome()
        self._owns_home = home is None
        self._environment = self._prepare()

    @staticmethod
    def missing() -> str | None:
        """Why no node can be started here; None when one can."""
        if not _scripts():
            return f"RabbitMQ is not installed (no {SCRIPTS}): apt-get install rabbitmq-server"
        if shutil.which("epmd") is None:
            return "RabbitMQ is installed, but not Erlang's epmd"
        return None

    @property
    def url(self) -> str:
        """An amqp URL for the user guest and the virtual host ``/``."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def command(self) -> Sequence[str | Path]:
        # Told to end, the shell script passes it on to the virtual machine, and waits for it.
        return [_scripts() / "rabbitmq-server"]  # type: ignore[operator]

    @property
    def environment(self) -> Mapping[str, str]:
        return self._environment

    def _prepare(self) -> dict[str, str]:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "loopback_users = none",
            # By default 50 MB, and below it publishers are blocked.
            "disk_free_limit.absolute = 1MB",
            *self.config,
        ]
        config = self.folder / "rabbitmq.conf"
        config.write_text("\n".join(lines) + "\n")
        plugins = self.folder / "plugins"
        plugins.write_text("[].\n")
        return {
            **self._home.environment,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            # The machine's own settings, if it has any, are not for this node.
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(self.folder / "schema"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_DIST_PORT": str(free_port()),
        }

    def start(self) -> None:
        self._home.start()
        super().start()

    def _answers(self) -> bool:
        # It opens its port last, when all else is ready.
        self.version = amqp_version("127.0.0.1", self.port)
        return self.version is not None

    def remove(self) -> None:
        super().remove()
        if self._owns_home:
            self._home.remove()

    # -- looking inside

    def ctl(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` with these arguments prints; a call takes about a second.

        :raises BrokerError: it failed; with what it said.
        """
        script = _scripts() / "rabbitmqctl"  # type: ignore[operator]
        done = subprocess.run(
            [script, "-q", "-n", self.node, *arguments],
            env=self._environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CTL_TIMEOUT,
            check=False,
        )
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise BrokerError(f"rabbitmqctl {' '.join(arguments)} failed: {said}")
        return done.stdout


def _scripts() -> Path | None:
    folders = sorted(Path("/").glob(SCRIPTS.lstrip("/")))
    return folders[-1] if folders else None
