"""Backend: py-amqp behind the seam."""

from __future__ import annotations

from carrot.backends.base import Capabilities
from carrot.backends.pyamqplib import message
from carrot.backends.pyamqplib.transport import Transport
from carrot.backends.seam.backend import Backend as SeamBackend


class Backend(SeamBackend):
    """A channel of py-amqp's."""

    connector = Transport
    capabilities = Capabilities(thread_safe=False)
    Message = message.Message
