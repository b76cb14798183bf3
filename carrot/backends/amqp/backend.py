"""Backend: the native driver behind the seam."""

from __future__ import annotations

from carrot.backends.amqp.connector import Connector
from carrot.backends.base import Capabilities
from carrot.backends.seam.backend import Backend as SeamBackend


class Backend(SeamBackend):
    """A channel on RabbitMQ, for any number of threads."""

    connector = Connector()
    capabilities = Capabilities(thread_safe=True)
