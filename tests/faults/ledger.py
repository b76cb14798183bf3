"""What became of each message: nothing that was confirmed may be lost, whatever fails."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager

#: The seed of a run that is to be repeated.
SEED_VARIABLE = "CARROT_TEST_SEED"
EXAMPLES = 10  # ids that an error names


class Ledger:
    """What became of each message, as Jepsen keeps it: by the id that its sender gave it.

    Any thread may write into it.

    :param seed: what an error names, so that the run can be repeated.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._lock = threading.Lock()
        self._attempted: set[Hashable] = set()
        self._confirmed: set[Hashable] = set()
        self._failed: set[Hashable] = set()
        self._received: Counter[Hashable] = Counter()

    # -- writing

    def attempted(self, id: Hashable) -> None:
        """The message is about to be sent."""
        with self._lock:
            self._attempted.add(id)

    def confirmed(self, id: Hashable) -> None:
        """The broker has it: it may not get lost any more."""
        with self._lock:
            self._confirmed.add(id)

    def failed(self, id: Hashable) -> None:
        """Sending it raised an error: the broker may or may not have it."""
        with self._lock:
            self._failed.add(id)

    def received(self, id: Hashable) -> None:
        """A consumer got it."""
        with self._lock:
            self._received[id] += 1

    # -- reading

    @property
    def lost(self) -> set[Hashable]:
        """What was confirmed and never received."""
        with self._lock:
            return self._confirmed - self._received.keys()

    @property
    def duplicated(self) -> set[Hashable]:
        """What was received more than once."""
        with self._lock:
            return {id for id, times in self._received.items() if times > 1}

    @property
    def unexpected(self) -> set[Hashable]:
        """What was received and never attempted."""
        with self._lock:
            return self._received.keys() - self._attempted

    @property
    def unsettled(self) -> set[Hashable]:
        """What was attempted, and neither confirmed nor failed."""
        with self._lock:
            return self._attempted - self._confirmed - self._failed

    @property
    def number_confirmed(self) -> int:
        """How many were confirmed so far."""
        return len(self._confirmed)

    def summary(self) -> str:
        """The numbers of messages, in one line."""
        return (
            f"attempted {len(self._attempted)}, confirmed {len(self._confirmed)}, "
            f"received {len(self._received)}, lost {len(self.lost)}, "
            f"duplicated {len(self.duplicated)}, unexpected {len(self.unexpected)}"
        )

    def check(self) -> None:
        """Nothing is lost, and nothing came that was not sent.

        :raises AssertionError: with the summary, the first ids and the seed.
        """
        wrong = {"lost": self.lost, "unexpected": self.unexpected}
        lines = [f"{name}: {_some(ids)}" for name, ids in wrong.items() if ids]
        if lines:
            raise AssertionError("\n".join([f"{self.summary()} (seed {self.seed})", *lines]))


def _some(ids: Collection[Hashable]) -> str:
    texts = sorted(map(repr, ids), key=lambda text: (len(text), text))  # 9 before 10
    more = f" and {len(texts) - EXAMPLES} more" if len(texts) > EXAMPLES else ""
    return ", ".join(texts[:EXAMPLES]) + more


class Schedule(random.Random):
    """Random numbers from a seed, and what was done with them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.origin = seed
        self.steps: list[str] = []
        self._started = time.monotonic()

    def note(self, step: str) -> None:
        """Write down what is about to be done."""
        self.steps.append(f"{time.monotonic() - self._started:7.3f} s  {step}")

    def __str__(self) -> str:
        return "\n".join([f"seed {self.origin} ({SEED_VARIABLE} repeats it)", *self.steps])


@contextmanager
def seeded(seed: int | None = None) -> Iterator[Schedule]:
    """Random numbers; when the block fails, its error says the seed and the schedule.

    :param seed: default what the environment says, or a new one.
    """
    if seed is None:
        given = os.environ.get(SEED_VARIABLE)
        seed = int(given) if given else random.SystemRandom().randrange(2**32)
    schedule = Schedule(seed)
    try:
        yield schedule
    except BaseException as exc:
        exc.add_note(str(schedule))
        raise
