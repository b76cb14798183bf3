"""Threads of carrot's own: signals are the program's, and must reach its main thread."""

from __future__ import annotations

import signal
import threading


def start(thread: threading.Thread) -> None:
    """Start *thread*, to which the system gives no signals.

    Else one that comes close behind another can go to it, and not wake what the main thread is
    waiting for, so that its handler doesn't run.
    """
    if not hasattr(signal, "pthread_sigmask"):
        thread.start()
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
