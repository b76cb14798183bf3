"""``python -m tests.brokers`` starts a private RabbitMQ for trying things by hand."""

from __future__ import annotations

import signal
import sys

from tests.brokers import RabbitMQ


def main() -> int:
    """Start a node, print its URL, and stop it at Enter, Ctrl-C or SIGTERM."""
    if reason := RabbitMQ.missing():
        print(reason, file=sys.stderr)
        return 1
    # As Ctrl-C does it, so that the node is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with RabbitMQ() as broker:
            print(f"RabbitMQ {broker.version} answers, until you press Enter, at\n{broker.url}")
            print(f"its log: {broker.log}", flush=True)
            # At the end of the input (there is no terminal) wait for a signal.
            if not sys.stdin.readline():
                signal.pause()
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
