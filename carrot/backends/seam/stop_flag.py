"""StopFlag: one ``stop()`` ends all loops that run, in whatever threads, or else the next."""

from __future__ import annotations


class StopFlag:
    """Counts, instead of being set and cleared: nobody can clear what another has not seen.

    Whole numbers are replaced in one step, so it needs no lock and works in a signal handler.

    :ivar asked: how many stops there have been.
    :ivar heeded: how many there had been when a loop last ended for one.
    """

    def __init__(self) -> None:
        self.asked = self.heeded = 0

    def ask(self) -> None:
        """End the loops that run, or else the next."""
        self.asked += 1

    def is_asked(self, since: int) -> bool:
        """Whether a loop that began at *since* heeded stops is to end."""
        return self.asked != since

    def heed(self) -> None:
        """The loop has ended, for a stop or otherwise: the next one begins anew."""
        self.heeded = self.asked
