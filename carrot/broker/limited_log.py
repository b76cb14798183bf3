"""LimitedLog: a log that a client's input can't fill: few lines a minute, each of them short."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice

from carrot.deadline import now

#: Lines in each interval, at most.
LINES = 20
#: Seconds.
INTERVAL = 60.0
#: Characters of each value in a line.
VALUE = 200


class LimitedLog:
    """Writes to *logger* at most *lines* lines in *interval*, and counts the others.

    Its owner calls it from one thread at a time.

    :param interval: seconds.
    :param clock: seconds, always forward; tests set it.
    """

    def __init__(
        self,
        logger: logging.Logger,
        lines: int = LINES,
        interval: float = INTERVAL,
        clock: Callable[[], float] = now,
    ) -> None:
        self._logger = logger
        self._lines = lines
        self._interval = interval
        self._clock = clock
        self._begun = clock()
        self._written = self._suppressed = 0

    def write(
        self, level: int, message: str, *values: object, exc: BaseException | None = None
    ) -> None:
        """Log one line, unless there were too many.

        :param values: for the message's ``%s``; each is cut, and its control characters escaped.
        :param exc: its traceback follows at DEBUG.
        """
        if not self._logger.isEnabledFor(level):
            return
        self.report()
        if self._written >= self._lines:
            self._suppressed += 1
            return
        self._written += 1
        self._logger.log(level, message, *map(shortened, values))
        if exc is not None:
            self._logger.debug("the traceback of the line above", exc_info=exc)

    def report(self, at_once: bool = False) -> None:
        """Say how many lines were left out, when the interval is over, or *at_once*."""
        if not at_once and self._clock() - self._begun < self._interval:
            return
        self._begun = self._clock()
        self._written = 0
        if self._suppressed:
            suppressed, self._suppressed = self._suppressed, 0
            self._logger.warning("%d more lines were left out: too many in a minute", suppressed)


def shortened(value: object) -> str:
    """*value* as printable text of one line, cut at VALUE characters."""
    text = str(value)
    printable = (c if c.isprintable() else repr(c)[1:-1] for c in islice(text, VALUE))
    return "".join(printable) + ("…" if len(text) > VALUE else "")
