"""Threads of carrot's own: signals are the program's, and must reach its main thread."""

from __future__ import annotations

import signal
import threading


def start(thread: threading.Thread) -> None:
    """Start *thread* with all signals blocked.

    A signal that closely follows another may be delivered to any thread that takes signals. Then
    the main thread would not wake from what it waits for, and the handler would not run.
    """
    if not hasattr(signal, "pthread_sigmask"):
        thread.start()
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def try_to_start(thread: threading.Thread) -> bool:
    """The same; False: the system, or an interpreter that shuts down, starts no more threads."""
    try:
        start(thread)
    except RuntimeError:
        return False
    return True
