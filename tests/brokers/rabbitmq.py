"""A private RabbitMQ node: started, stopped, killed and frozen by the tests that own it.

The `rabbitmq-server` in PATH switches to the service's user and drops the environment, so the
scripts behind it are called.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from tests.brokers.freezing import wait_until_stopped
from tests.waiting import eventually

START_TIMEOUT = 90.0  # seconds; a node takes about 5 on an idle machine
STOP_TIMEOUT = 30.0
CTL_TIMEOUT = 60.0
LOG_TAIL = 40  # lines

SCRIPTS = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"


class BrokerError(Exception):
    """A broker, or its control program, did not do what it was told."""


# The ports of this process's brokers, which may not listen on them yet.
_given: set[int] = set()


def free_port() -> int:
    """A port on 127.0.0.1 where nothing listens, and that was not given before.

    Below the range from which the system takes ports for outgoing connections: one of those
    could come first, and a client that retries a port of that range can connect to itself.
    """
    ports = random.SystemRandom().sample(range(20000, 32000), 100)
    for port in ports:
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise BrokerError("no free port between 20000 and 32000")


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


class RabbitMQ:
    """One node, with everything it needs in a folder of its own.

    `with RabbitMQ() as broker:` starts it, and kills and removes it at the end.

    :param config: lines for rabbitmq.conf, after the ports: TLS listeners, limits.
    :param name: the node's, without a host; unique in its home.
    :param home: share one to make a cluster; by default the node has its own.
    """

    def __init__(
        self,
        config: Sequence[str] = (),
        name: str = "carrot",
        home: ErlangHome | None = None,
    ) -> None:
        self.config = list(config)
        self.node = f"{name}@localhost"
        self.port = free_port()
        self.version: str | None = None
        self._home = home or ErlangHome()
        self._owns_home = home is None
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="carrot-rabbitmq-"))
        self.log = self.folder / "log"
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
    def is_running(self) -> bool:
        """Whether its process is there; it may be starting, or frozen."""
        return self._process is not None and self._process.poll() is None

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

    # -- life

    def start(self) -> None:
        """Start the node and wait until it lets clients in.

        :raises BrokerError: it didn't in time; with the end of its log.
        """
        if reason := self.missing():
            raise BrokerError(reason)
        self._home.start()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [_scripts() / "rabbitmq-server"],  # type: ignore[operator]
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own, so that a signal reaches the virtual machine too.
                start_new_session=True,
            )
        try:
            eventually(self._answered_or_ended, START_TIMEOUT)
            if not self.is_running:
                raise BrokerError(f"it ended with code {self._process.returncode}")
        except (AssertionError, BrokerError) as exc:
            self.kill()
            raise BrokerError(f"{self.node} did not start: {exc}\n{self.log_tail()}") from exc

    def _answered_or_ended(self) -> bool:
        # It opens its port last, when all else is ready.
        self.version = amqp_version("127.0.0.1", self.port) or self.version
        return not self.is_running or self.version is not None

    def stop(self) -> None:
        """Shut the node down as its service manager would, keeping its data."""
        if self._process is None:
            return
        # The shell script passes it on to the virtual machine, and waits for it.
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BrokerError(f"{self.node} did not stop\n{self.log_tail()}") from None
        self._forget_process()

    def kill(self) -> None:
        """End the node at once, as a power cut would, keeping its data."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT)
        # The script's exit says nothing about the virtual machine, the closed port does.
        eventually(self._port_is_closed, STOP_TIMEOUT)
        self._forget_process()

    def restart(self) -> None:
        """Stop and start; the port stays the same."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let the node do nothing, with its sockets open, until :meth:`thaw`."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        wait_until_stopped(self._process.pid)

    def thaw(self) -> None:
        """Let a frozen node go on."""
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill the node and remove all that it had."""
        self.kill()
        if self._owns_home:
            self._home.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise BrokerError(f"{self.node} does not run")
        # The group has the number of its first process, which start_new_session made lead it. It
        # stays ours until that one is waited for.
        if self._process.returncode is None:
            os.killpg(self._process.pid, number)

    def _port_is_closed(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def _forget_process(self) -> None:
        self._process = None
        self.version = None

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

    def log_tail(self) -> str:
        """The last lines of its log."""
        if not self.log.exists():
            return "(it wrote no log)"
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
        return "\n".join(["the end of its log:", *lines])


def _scripts() -> Path | None:
    folders = sorted(Path("/").glob(SCRIPTS.lstrip("/")))
    return folders[-1] if folders else None
