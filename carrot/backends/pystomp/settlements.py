"""Settlements: what becomes of a message, as frames. No I/O."""

from __future__ import annotations

from carrot.backends.pystomp import headers as mapping
from carrot.backends.pystomp.frames import Frame, encode, encode_headers
from carrot.backends.pystomp.names import origin, queue_destination
from carrot.backends.pystomp.subscriptions import Unsettled

ACK, NACK = b"ACK", b"NACK"
#: Put it back. STOMP has no word for it.
REQUEUE = b"REQUEUE"

_NOT_COPIED = {
    "ack", "content-length", "destination", "message-id", "receipt", "redelivered",
    "subscription", "timestamp",
}  # fmt: skip


def settle_frame(command: bytes, ack: bytes) -> bytes:
    """An ACK, or a NACK."""
    return b"%b\nid:%b\n\n\0" % (command, ack)


def settlement(one: Unsettled, how: bytes, transaction: str) -> bytes:
    """The frames that settle a message.

    :param how: ACK, NACK or REQUEUE: a transaction that sends the message again, and acks it.
    """
    assert one.ack is not None
    if how is not REQUEUE:
        return settle_frame(how, one.ack)
    return b"".join(
        [
            encode("BEGIN", {"transaction": transaction}),
            b"SEND\n", encode_headers(_copied_headers(one, transaction)), b"\n",
            one.frame.body, b"\0",
            b"ACK\ntransaction:", transaction.encode(), b"\nid:", one.ack, b"\n\n\0",
            encode("COMMIT", {"transaction": transaction}),
        ]
    )  # fmt: skip


def _copied_headers(one: Unsettled, transaction: str) -> dict[str, str]:
    came = one.frame.headers()
    headers = {
        name: value
        for name, value in came.items()
        if name not in _NOT_COPIED and not (name == "expires" and value == "0")
    }
    exchange, routing_key = origin(came.get("destination", ""))
    headers.setdefault(mapping.EXCHANGE, exchange)
    headers.setdefault(mapping.ROUTING_KEY, routing_key)
    return headers | {
        "destination": queue_destination(one.subscription.queue),
        "transaction": transaction,
        "content-length": str(len(one.frame.body)),
        mapping.REQUEUED: "true",
    }


def marked_as_requeued(frame: Frame) -> Frame:
    """The same message, which says that it was delivered before."""
    return frame._replace(head=frame.head + f"\n{mapping.REQUEUED}:true".encode())
