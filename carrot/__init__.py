"""Carrot: the simplest way to send and receive messages in Python."""

__version__ = "1.0.0"

# As typing has it, whose import would take longer than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from carrot.connection import (
        AMQPConnection,
        BrokerConnection,
        DjangoAMQPConnection,
        DjangoBrokerConnection,
    )
    from carrot.exceptions import CarrotError
    from carrot.messaging import (
        Consumer,
        ConsumerSet,
        Message,
        Messaging,
        Publisher,
        stop_on_signals,
    )
    from carrot.retry import Backoff, Retry

# The public names, and where they are; each is imported when it is first asked for (PEP 562).
_HOMES = {
    "AMQPConnection": "carrot.connection",
    "Backoff": "carrot.retry",
    "BrokerConnection": "carrot.connection",
    "CarrotError": "carrot.exceptions",
    "Consumer": "carrot.messaging",
    "ConsumerSet": "carrot.messaging",
    "DjangoAMQPConnection": "carrot.connection",
    "DjangoBrokerConnection": "carrot.connection",
    "Message": "carrot.messaging",
    "Messaging": "carrot.messaging",
    "Publisher": "carrot.messaging",
    "Retry": "carrot.retry",
    "stop_on_signals": "carrot.messaging",
}

__all__ = [
    "AMQPConnection",
    "Backoff",
    "BrokerConnection",
    "CarrotError",
    "Consumer",
    "ConsumerSet",
    "DjangoAMQPConnection",
    "DjangoBrokerConnection",
    "Message",
    "Messaging",
    "Publisher",
    "Retry",
    "__version__",
    "stop_on_signals",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Only here: half the programs import the modules themselves.
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
