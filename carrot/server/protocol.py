"""What client and broker agree on: AMQP 0-9-1's stream of bytes, in ZeroMQ messages of one frame.

A message carries a piece of the stream, of any length up to PIECE. A client's first bytes are
AMQP's protocol header. An empty message hangs up.
"""

from __future__ import annotations

import zmq

from carrot.backends.sockets.socket import IDLE, PROBE_INTERVAL, PROBES

# Plain numbers: pyzmq's own are enums, which cost a microsecond each time.
EVENTS, NOBLOCK, SNDMORE = int(zmq.EVENTS), int(zmq.NOBLOCK), int(zmq.SNDMORE)
POLLIN, RCVMORE = int(zmq.POLLIN), int(zmq.RCVMORE)

DEFAULT_PORT = 5555
#: Where a broker listens when nobody says where: only this machine's programs reach it.
DEFAULT_ADDRESS = "tcp://127.0.0.1:5555"
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HANG_UP = b""

#: Bytes of an AMQP frame, at most.
FRAME_MAX = 131072
#: Bytes of a ZeroMQ message, at most; ZeroMQ itself drops a client that sends a larger one.
PIECE = 128 * 1024
#: ZeroMQ messages that wait in each direction of a connection: 16 MiB at most.
HIGH_WATER_MARK = 128
#: Bytes of a message's body, at most: as many as RabbitMQ takes.
MESSAGE_MAX = 128 * 1024 * 1024
#: Channels of a connection.
CHANNEL_MAX = 2047
#: Seconds between signs of life that the broker asks for; a client may ask for less.
HEARTBEAT = 10


def notice_dead_peers(sock: zmq.Socket[bytes]) -> None:
    """Let the system probe idle connections, as the amqp driver's, for those without heartbeats."""
    sock.tcp_keepalive = 1
    sock.tcp_keepalive_idle = IDLE
    sock.tcp_keepalive_intvl = PROBE_INTERVAL
    sock.tcp_keepalive_cnt = PROBES
