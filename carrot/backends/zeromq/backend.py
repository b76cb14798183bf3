"""Backend: the zeromq driver behind the seam."""

from __future__ import annotations

from carrot.backends.base import Capabilities
from carrot.backends.seam.backend import Backend as SeamBackend
from carrot.backends.zeromq.connector import Connector


class Backend(SeamBackend):
    """A channel on a ZeroMQ broker, for any number of threads."""

    connector = Connector()
    capabilities = Capabilities(thread_safe=True)
