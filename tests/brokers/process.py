"""A broker in a process of its own, which the tests start, stop, kill and freeze."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from tests.waiting import eventually

START_TIMEOUT = 90.0  # seconds; the slowest takes about 5 on an idle machine
STOP_TIMEOUT = 30.0
LOG_TAIL = 40  # lines

PROC = Path("/proc")


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


class Started(ABC):
    """`with Broker() as broker:` starts it, and kills and removes it at the end."""

    @abstractmethod
    def start(self) -> None:
        """Start it, and wait until it lets clients in.

        :raises BrokerError: it doesn't.
        """

    @abstractmethod
    def remove(self) -> None:
        """Kill it and remove all that it had."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()


class BrokerProcess(Started):
    """One broker, with everything it needs in a folder of its own.

    :cvar name: the broker's, in errors and in the name of its folder.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"carrot-{self.name.lower()}-"))
        self.log = self.folder / "log"
        self._log_began = 0
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """Why none can be started here; None when one can."""
        raise NotImplementedError

    @property
    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """What runs it, until it is told to end."""

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """The environment that it runs in."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it lets clients in."""

    @property
    def is_running(self) -> bool:
        """Whether its process is there; it may be starting, or frozen."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the broker and wait until it lets clients in.

        :raises BrokerError: it didn't in time; with the end of its log.
        """
        if reason := self.missing():
            raise BrokerError(reason)
        with self.log.open("ab") as log:
            self._log_began = log.tell()
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own, so that a signal reaches what it starts, too.
                start_new_session=True,
            )
        try:
            eventually(lambda: not self.is_running or self._answers(), START_TIMEOUT)
            if not self.is_running:
                raise BrokerError(f"it ended with code {self._process.returncode}")
        except (AssertionError, BrokerError) as exc:
            self.kill()
            raise BrokerError(f"{self.name} did not start: {exc}\n{self.log_tail()}") from exc

    def stop(self) -> int:
        """Shut the broker down as its service manager would, keeping its data; its exit status."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            status = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BrokerError(f"{self.name} did not stop\n{self.log_tail()}") from None
        self._process = None
        return status

    def kill(self) -> None:
        """End the broker at once, as a power cut would, keeping its data."""
        process, self._process = self._process, None
        if process is not None and _signal(process, signal.SIGKILL):
            process.wait(STOP_TIMEOUT)
            # A script's end says nothing of what it started, the closed port does.
            eventually(self._port_is_closed, STOP_TIMEOUT)

    def _port_is_closed(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def restart(self) -> None:
        """Stop and start; the ports stay the same."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let the broker do nothing, with its sockets open, until :meth:`thaw`."""
        process = self._running()
        _signal(process, signal.SIGSTOP)
        # It reaches the threads a moment later, time enough for an answer.
        if PROC.joinpath("self", "task").exists():  # elsewhere it is quick, as far as is known
            eventually(lambda: set(_states(process.pid)) <= set("TtZX"))

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        _signal(self._running(), signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BrokerError(f"{self.name} does not run")
        return self._process

    def remove(self) -> None:
        """Kill the broker and remove all that it had."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def said(self) -> str:
        """Its log since it was started last."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._log_began :].decode(errors="replace")

    def log_tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(["the end of its log:", *self.said().splitlines()[-LOG_TAIL:]])


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the process and what it started; False: it had ended by itself."""
    # The group has the number of its first process, which start_new_session made lead it. It
    # stays ours until that one is waited for.
    if process.poll() is not None:
        return False
    os.killpg(process.pid, number)
    return True


def _states(pid: int) -> Iterator[str]:
    """The state of each thread of the process and its group."""
    for stat in PROC.glob("[0-9]*/stat"):
        fields = _fields(stat)
        if fields and (int(stat.parent.name) == pid or fields[2] == str(pid)):
            for thread in stat.parent.glob("task/*/stat"):
                yield from _fields(thread)[:1]


def _fields(stat: Path) -> list[str]:
    """State, parent, process group and so on (proc(5)); empty: it has ended."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
