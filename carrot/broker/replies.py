"""The broker's refusals: AMQP's reply codes with RabbitMQ's words.

AMQP 0-9-1, section 1.2 (Constants). The words are those of RabbitMQ 3.10, so a program reads the
same ones in memory and in production.
"""

from __future__ import annotations

from carrot import remedies
from carrot.exceptions import ChannelError


def access_refused(text: str) -> ChannelError:
    return remedies.channel_error(403, f"ACCESS_REFUSED - {text}")


def not_found(what: str) -> ChannelError:
    return remedies.channel_error(404, f"NOT_FOUND - no {what}")


def resource_locked(queue: str, virtual_host: str) -> ChannelError:
    return remedies.channel_error(
        405,
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost "
        f"'{virtual_host}'. It could be originally declared on another connection or the "
        "exclusive property value does not match that of the original declaration.",
    )


def precondition_failed(text: str) -> ChannelError:
    return remedies.channel_error(406, f"PRECONDITION_FAILED - {text}")


def channel_closed() -> ChannelError:
    return remedies.channel_error(504, "CHANNEL_ERROR - the channel is closed: open another")


def not_allowed(text: str) -> ChannelError:
    return remedies.channel_error(530, f"NOT_ALLOWED - {text}")
