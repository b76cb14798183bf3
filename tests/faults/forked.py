"""A program that forks while its threads use the memory broker, and counts the children that sent.

It runs in a process of its own, for what measures coverage has locks that a child would inherit.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

from carrot.connection import BrokerConnection
from carrot.messaging import Publisher

URL = "memory://forked/"
CHILDREN = 20


def main() -> None:
    publisher = Publisher(BrokerConnection(URL), routing_key="queue")
    over = threading.Event()

    def spin() -> None:
        with BrokerConnection(URL) as own:
            other = Publisher(own, routing_key="elsewhere")
            while not over.is_set():
                other.send("x")

    threads = [threading.Thread(target=spin, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    sent = 0
    for _ in range(CHILDREN):
        if (pid := os.fork()) == 0:
            signal.alarm(2)  # which ends it, when it hangs
            with suppress(BaseException):
                publisher.send("x")
                os._exit(0)
            os._exit(1)
        sent += os.waitpid(pid, 0)[1] == 0
    over.set()
    for thread in threads:
        thread.join(10)
    print(f"{sent} children sent")


if __name__ == "__main__":
    main()
