"""The protocol of client and broker: AMQP 0-9-1's stream of bytes, in one-frame ZeroMQ messages.

A message carries a piece of the stream, of any length up to PIECE. A client's first message is
AMQP's protocol header. An empty message hangs up.
"""

from __future__ import annotations

import zmq

from carrot.backends.sockets.socket import IDLE, PROBE_INTERVAL, PROBES

# Plain numbers: pyzmq's own are enums, which cost a microsecond each time.
EVENTS, NOBLOCK, SNDMORE = int(zmq.EVENTS), int(zmq.NOBLOCK), int(zmq.SNDMORE)
POLLIN, RCVMORE = int(zmq.POLLIN), int(zmq.RCVMORE)

DEFAULT_PORT = 5555
#: The default address of a broker; only programs on this machine reach it.
DEFAULT_ADDRESS = "tcp://127.0.0.1:5555"
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HANG_UP = b""

#: Bytes of an AMQP frame, at most.
FRAME_MAX = 131072
#: Bytes of a ZeroMQ message, at most; ZeroMQ itself drops a client that sends a larger one.
PIECE = 128 * 1024
#: ZeroMQ messages queued in each direction of a connection: 16 MiB at most.
HIGH_WATER_MARK = 128
#: Bytes of a message's body, at most: RabbitMQ 3.10's limit.
MESSAGE_MAX = 128 * 1024 * 1024
#: Channels of a connection.
CHANNEL_MAX = 2047
#: Seconds between heartbeats that the broker proposes; a client may choose fewer.
HEARTBEAT = 10


def notice_dead_peers(sock: zmq.Socket[bytes]) -> None:
    """Let the system probe idle connections: some clients have no heartbeats."""
    sock.tcp_keepalive = 1
    sock.tcp_keepalive_idle = IDLE
    sock.tcp_keepalive_intvl = PROBE_INTERVAL
    sock.tcp_keepalive_cnt = PROBES
