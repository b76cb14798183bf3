"""Backend: the amqp driver's channel, at a broker that is the memory driver's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pamqp import base

from carrot.backends.amqp.backend import Backend as AmqpBackend
from carrot.backends.amqp.channel import Channel
from carrot.backends.base import BaseMessage, Capabilities
from carrot.backends.zeromq.transport import Transport
from carrot.exceptions import ChannelError, ContentTooLarge, NotSupported
from carrot.server.protocol import MESSAGE_MAX

#: AMQP's reply code for what a broker can't do (AMQP 0-9-1, section 1.2).
NOT_IMPLEMENTED = 540


class Backend(AmqpBackend):
    """A channel on a ZeroMQ broker, for any number of threads."""

    transport_cls = Transport
    capabilities = Capabilities(thread_safe=True)

    def _call_on(
        self,
        channel: Callable[[], Channel],
        method: type[base.Frame],
        timeout: float | None = None,
        **arguments: Any,
    ) -> Any:
        try:
            return super()._call_on(channel, method, timeout, **arguments)
        except ChannelError as exc:
            if exc.code == NOT_IMPLEMENTED:
                raise NotSupported(f"{exc.text} (its broker serves the zeromq driver)") from exc
            raise

    def publish(
        self, message: BaseMessage, exchange: str, routing_key: str, mandatory: bool = False
    ) -> int | None:
        if len(message.body) > MESSAGE_MAX:
            # The broker would drop the connection, lest a client fill its memory.
            raise ContentTooLarge(
                f"message size {len(message.body)} is larger than max size {MESSAGE_MAX}"
            )
        return super().publish(message, exchange, routing_key, mandatory)
