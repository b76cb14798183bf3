"""Backend: the zeromq driver behind the seam."""

from __future__ import annotations

from carrot.backends.base import Capabilities
from carrot.backends.seam.backend import Backend as SeamBackend
from carrot.backends.zeromq.transport import Transport


class Backend(SeamBackend):
    """A channel on a ZeroMQ broker, for any number of threads."""

    transport_cls = Transport
    capabilities = Capabilities(thread_safe=True)
