"""Apache ActiveMQ over STOMP 1.2, with the frames of stomp.py.

stomp.py's own connection has a reader thread and listeners, and its threads pass each message on
with locks: that costs several times of what the frames do. So its codec encodes and decodes here,
and the connection is carrot's own, as in the driver for AMQP.

===================  ==========================================================================
Connector            opens connections
Session              the login, the receipts, and what comes in for the channels
Channel              one life of a channel; has the parts below
Requests             asks the broker, and waits for its receipts
Subscriptions        what the channel is subscribed to at the broker, by name
PrefetchWindow       what was delivered and not settled, and how much a consumer may have
Consumers            starts, extends and ends consumers
Polling              one message, all of them, or none: what is done without a consumer
ExclusiveQueues      temporary queues, which live and die with the channel
DeclaredTopology     what this process has declared at a broker, for all its connections
===================  ==========================================================================

**Locks.** A thread that holds one of these may take those below it, and never one above. None is
held while waiting for the broker:

=================================  ===========================================================
lock                               guards
=================================  ===========================================================
``_publish_lock`` (Channel)        a message's number and its write, in this order
``settle_lock`` (PrefetchWindow)   a settlement and its write, and the end of a consumer, in
                                   this order: what the broker has taken back can't be acked.
                                   Never taken by the thread that reads
``lock`` (PrefetchWindow)          what is unsettled, consumers and their limits. Under it
                                   messages go to the listener, and frames are queued, but
                                   nothing is written
``_lock`` (DeclaredTopology)       exchanges, queues and bindings; nothing else is done under it
the stream's and the session's     see :mod:`carrot.backends.sockets`
=================================  ===========================================================
"""

from carrot.backends.pystomp.backend import Backend
from carrot.backends.pystomp.delivery import Delivery

__all__ = ["Backend", "Delivery"]
