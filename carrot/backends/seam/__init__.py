"""The backend: a channel that outlives its connection, written once for all drivers.

==================  ===========================================================================
backend             :class:`Backend`: what the layers above hold; opens a life, and replaces it
life                :class:`Life`: everything that ends together with one channel
inbox               the deliveries of a life that are not dispatched yet
confirms            which published messages the broker has settled
subscriptions       the consumers of a life, and those that somebody waits for
limits              what a driver can't do, refused before it is asked
topology            what was declared through a backend, so that it can be declared again
stop_flag           which loops are told to stop
==================  ===========================================================================

**Locks.** A thread that holds one of these may take those below it, and never one above:

=====================  =====================================  ====================================
lock                   guards                                 held while waiting for the broker
=====================  =====================================  ====================================
``_turn``              steps that belong together: opening a  yes: it is a turn, not a lock on
(Lives)                life, subscribing, cancelling          data. Publishing and settling on an
                                                              open life never take it; ``close()``
                                                              takes it for a second at most, to end
                                                              consumers without acks
``_opening``           one thread connects, for all others    yes: a turn, as above
(a connection's
LiveTransport)
``_publish_lock``      a message's number and its write, in   once, for confirm.select: the broker
(a driver's channel)   this order                             counts from its place among the
                                                              messages. Otherwise while bytes are
                                                              written
``_asking``            one request at a time on a channel     yes: a turn, as above
(amqp, a channel)
``settle_lock``        a message's state and its life         never; while an ack is written
(Life)
``_lock``              which life is the current one          never
(Lives)
a transport's own      see :mod:`carrot.backends.sockets`,    never
                       or the driver's class
=====================  =====================================  ====================================

The first four are taken with the thread's deadline (:func:`carrot.deadline.held`).
"""
