"""Backend: the driver for ActiveMQ behind the seam."""

from __future__ import annotations

from carrot.backends.pystomp.connector import Connector
from carrot.backends.pystomp.limits import CAPABILITIES
from carrot.backends.seam.backend import Backend as SeamBackend


class Backend(SeamBackend):
    """A channel on ActiveMQ; docs/guides/activemq.rst says how and what not."""

    connector = Connector()
    capabilities = CAPABILITIES
