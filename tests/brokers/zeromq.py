"""A private ZeroMQ broker, in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.brokers.process import BrokerProcess

ROOT = Path(__file__).parents[2]


class ZeroMQ(BrokerProcess):
    """One broker, which has its messages in memory unless it is told where to store them.

    :param options: more of the command line's.
    :param bind: default a free port of 127.0.0.1.
    """

    name = "ZeroMQ"

    def __init__(self, *options: str, bind: str | None = None) -> None:
        super().__init__()
        self._bind = bind or f"tcp://127.0.0.1:{self.port}"
        self._options = options

    @staticmethod
    def missing() -> str | None:
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

    def virtual_host(self, name: str) -> str:
        """The URL of that virtual host."""
        return f"{self.url}/{name}"

    @property
    def command(self) -> Sequence[str | Path]:
        return [
            sys.executable, "-m", "carrot.server", "--bind", self._bind, *self._options,
        ]  # fmt: skip

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def _answers(self) -> bool:
        return f"ready: {self.url}\n" in self.said()
