"""Apache ActiveMQ over STOMP 1.2, with the frames of stomp.py.

stomp.py's own connection has a reader thread and listeners, and its threads pass each message on
with locks: that costs several times of what the frames do. So its codec encodes and decodes here,
and the connection is carrot's own, as in the driver for AMQP.
"""

from carrot.backends.pystomp.backend import Backend
from carrot.backends.pystomp.delivery import Delivery
from carrot.backends.pystomp.transport import Transport

__all__ = ["Backend", "Delivery", "Transport"]
