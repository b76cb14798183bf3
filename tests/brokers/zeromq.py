"""A private ZeroMQ broker in a process of its own: started, killed, frozen by the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.brokers.freezing import wait_until_stopped
from tests.brokers.rabbitmq import BrokerError, free_port

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 30.0  # seconds; it takes about half of one
STOP_TIMEOUT = 10.0


class ZeroMQ:
    """`with ZeroMQ() as broker:` serves; it can be killed and started again at the same port.

    :param options: more of the command line's.
    :param bind: default a free port of 127.0.0.1.
    """

    def __init__(self, *options: str, bind: str | None = None) -> None:
        self.port = free_port()
        self._bind = bind or f"tcp://127.0.0.1:{self.port}"
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    @staticmethod
    def missing() -> str | None:
        """Why there can't be one, if so."""
        try:
            import zmq  # noqa: F401  # the driver's library, which a laptop may lack
        except ModuleNotFoundError:
            return "no ZeroMQ broker: pip install 'carrot[zeromq]'"
        return None

    @property
    def version(self) -> str:
        """What stands between the two ends."""
        import zmq  # as above

        return f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}"

    @property
    def url(self) -> str:
        """For the virtual host ``/``."""
        return f"zeromq+{self._bind}"

    def world(self, virtual_host: str) -> str:
        """The URL of that virtual host."""
        return f"{self.url}/{virtual_host}"

    @property
    def command(self) -> Sequence[str]:
        return [
            sys.executable, "-m", "carrot.backends.zeromq", "--bind", self._bind, *self._options,
        ]  # fmt: skip

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; returns when it is ready.

        :raises BrokerError: it is not ready in time, or says why it can't be.
        """
        process = self._process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        impatience = threading.Timer(START_TIMEOUT, process.kill)
        impatience.start()
        try:
            said = process.stdout.readline()
        finally:
            impatience.cancel()
        if not said.startswith("ready:"):
            said += process.stdout.read()
            self.kill()
            raise BrokerError(f"the broker doesn't start: {said}")

    def kill(self) -> None:
        """End it without a warning."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end; returns its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT)
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()

    def freeze(self) -> None:
        """Stop it in its tracks, with all its connections open, until :meth:`thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        wait_until_stopped(self._process.pid)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
