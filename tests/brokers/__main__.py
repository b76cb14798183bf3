"""``python -m tests.brokers [activemq]`` starts a private broker for trying things by hand."""

from __future__ import annotations

import signal
import sys

from tests.brokers import ActiveMQ, RabbitMQ


def main() -> int:
    """Start a broker, print its URL, and stop it at Enter, Ctrl-C or SIGTERM."""
    kind = ActiveMQ if "activemq" in sys.argv[1:] else RabbitMQ
    if reason := kind.missing():
        print(reason, file=sys.stderr)
        return 1
    # As Ctrl-C does it, so that the node is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with kind() as broker:
            print(
                f"{kind.__name__} {broker.version} answers, until you press Enter, at\n{broker.url}"
            )
            print(f"its log: {broker.log}", flush=True)
            # At the end of the input (there is no terminal) wait for a signal.
            if not sys.stdin.readline():
                signal.pause()
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
