"""Backend: the driver for ActiveMQ behind the seam."""

from __future__ import annotations

from carrot.backends.pystomp.limits import CAPABILITIES
from carrot.backends.pystomp.transport import Transport
from carrot.backends.seam.backend import Backend as SeamBackend


class Backend(SeamBackend):
    """A channel on ActiveMQ; docs/guides/activemq.rst says how and what not."""

    transport_cls = Transport
    capabilities = CAPABILITIES
