"""The directive ``capability-table``: what each driver can do, from its ``capabilities``."""

from __future__ import annotations

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from carrot.backends import BACKEND_ALIASES, get_backend_cls
from carrot.backends.base import BaseBackend, Capabilities

# What each field of Capabilities means to a program; the order is that of the table.
MEANINGS = {
    "confirms": "Confirms: ``send()`` returns when the broker has the message",
    "mandatory": "``mandatory``: a message that reaches no queue is ``Unroutable``",
    "immediate": "``immediate``",
    "priorities": "Messages with a ``priority``",
    "expiration": "Messages with an ``expiration``",
    "requeue": "``requeue()``",
    "requeue_in_place": "… at the message's old place",
    "holds_deliveries": "``wait(limit=)`` takes exactly so many messages out of the queue",
    "prefetch_count": "``prefetch_count`` of a consumer",
    "global_prefetch": "… and of a channel (``apply_global``)",
    "prefetch_size": "``prefetch_size``",
    "headers_exchange": "Headers exchanges",
    "topic_patterns": "Topic exchanges with every pattern of AMQP",
    "overlapping_bindings": "Bindings of a queue that take the same messages",
    "exchange_bindings": "Bindings between exchanges",
    "alternate_exchange": "Alternate exchanges",
    "exclusive": "``exclusive`` queues",
    "auto_delete": "``auto_delete``",
    "dead_letters": "Dead letter exchanges",
    "max_length": "Queues with a largest length (``x-max-length``)",
    "arguments": "Other arguments of queues (``x-message-ttl``, ``x-max-priority`` …)",
    "deletion": "Deleting queues, exchanges and bindings",
    "inspection": "Telling what is there: ``queue_exists()``, numbers of messages, ``NotFound``",
    "thread_safe": "Threads that share a connection",
}


def drivers() -> dict[str, type[BaseBackend]]:
    """Each driver that carrot brings, by the first of its names."""
    found: dict[str, type[BaseBackend]] = {}
    for name in BACKEND_ALIASES:
        cls = get_backend_cls(name)
        if cls not in found.values():
            found[cls.__module__.split(".")[2]] = cls
    return found


def table() -> list[str]:
    """The table as RST.

    :raises LookupError: a field of Capabilities that has no meaning here, or the other way round.
    """
    known = set(Capabilities._fields)
    if odd := known ^ MEANINGS.keys():
        raise LookupError(f"docs/capabilities.py and Capabilities differ in {sorted(odd)}")
    columns = drivers()
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        f"   :widths: 46 {' '.join(['12'] * len(columns))}",
        "",
        "   * -",
        *(f"     - {name}" for name in columns),
    ]
    for field, meaning in MEANINGS.items():
        lines.append(f"   * - {meaning} (``{field}``)")
        lines += [
            f"     - {'yes' if getattr(cls.capabilities, field) else '–'}"
            for cls in columns.values()
        ]
    return lines


class CapabilityTable(SphinxDirective):
    """``.. capability-table::``"""

    def run(self) -> list[nodes.Node]:
        container = nodes.container()
        source, _ = self.get_source_info()
        self.state.nested_parse(StringList(table(), source), self.content_offset, container)
        return container.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("capability-table", CapabilityTable)
    return {"parallel_read_safe": True}
