"""The in-process broker: RabbitMQ's semantics in this process. No driver, no network.

Its modules, the lowest first; each imports only from those above it:

- ``replies``, ``timers``, ``limited_log``: the broker's refusals, its clock, its log
- ``arguments``: the arguments of queues, exchanges and bindings
- ``message``: a message inside the broker
- ``exchange``: one exchange and its bindings
- ``queue``: one queue
- ``dead_letters``: sends on the messages that died in a queue
- ``virtual_host``: exchanges and queues, and the routing between them
- ``consumer``: a channel's consumers and unacked messages
- ``channel``: the operations of AMQP
- ``connection``: a client's channels

A lower module that calls back into a higher one declares a Protocol of the methods it needs.
"""
