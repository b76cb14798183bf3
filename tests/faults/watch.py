"""A watch on calls with deadlines: what is late, and what comes out of them that should not."""

from __future__ import annotations

import faulthandler
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from carrot.exceptions import (
    AccessRefused,
    CarrotError,
    ChannelError,
    ConnectionFailed,
    ConnectionLost,
    ConsumerNotFound,
    OperationTimeout,
)
from tests.conftest import LOCK_ORDER

#: How late a call may be, in seconds: two cores run eight threads, a proxy and a broker.
SLACK = 1.0
#: How late a call may be before the run is given up.
HANGING = 15.0
#: How long the watch's own thread may take to end.
PATIENCE = 5.0


@dataclass
class Finding:
    """One thing that went wrong, and how often."""

    kind: str
    at: float  # seconds after the beginning, the first time
    text: str
    times: int = 1

    def __str__(self) -> str:
        often = f", {self.times} times, first" if self.times > 1 else ""
        return f"{self.kind}{often} at {self.at:.2f} s\n{self.text.rstrip()}"


class Findings:
    """All that went wrong; the same thing at the same place is one finding. Any thread may add."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], Finding] = {}

    def add(self, kind: str, text: str, place: str = "") -> None:
        """Something of this *kind* went wrong at that *place*; the first text is kept."""
        with self._lock:
            found = self._found.get((kind, place))
            if found is not None:
                found.times += 1
            else:
                at = time.monotonic() - self._begun
                self._found[kind, place] = Finding(kind, at, text)

    def error(self, kind: str, call: str, exc: BaseException) -> None:
        """This exception came out of that call."""
        last = traceback.extract_tb(exc.__traceback__)[-1]
        text = "".join(traceback.format_exception(exc))
        self.add(
            f"{kind}: {type(exc).__name__} from {call}", text, f"{last.filename}:{last.lineno}"
        )

    def __iter__(self) -> Iterator[Finding]:
        with self._lock:
            found = sorted(self._found.values(), key=lambda finding: finding.at)
        return iter(found)


def is_expected(exc: CarrotError) -> bool:
    """Whether killed connections, and objects that another thread has closed, explain it."""
    if isinstance(exc, AccessRefused):
        return False
    if isinstance(exc, ChannelError):
        # Code 504 is carrot's for "closed here"; the broker's own has a text of its own.
        return exc.code == 504 and "expected '" not in str(exc)
    return isinstance(exc, (ConnectionLost, ConnectionFailed, OperationTimeout, ConsumerNotFound))


# -- who is in which call


@dataclass
class CallInProgress:
    """A call, and when it must be over."""

    name: str
    thread: threading.Thread
    begun: float
    seconds: float
    # What callbacks did in it, which has deadlines of its own.
    inner: float = 0.0
    is_dumped: bool = False

    def late(self, now: float) -> float:
        """How many seconds it is past its deadline; negative: those that it has left."""
        return now - self.begun - self.inner - self.seconds


class Watch:
    """Knows all calls in progress, and notes those that are past their deadlines.

    Its thread looks; :attr:`has_hung` says that the run can't be ended in an orderly way.
    """

    def __init__(self, findings: Findings) -> None:
        self.has_hung = threading.Event()
        # Seconds that each call has besides its own, with a driver whose answers may take so long.
        self.answer_time = 0.0
        self.outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.longest: defaultdict[str, float] = defaultdict(float)
        self._findings = findings
        self._calls: dict[int, list[CallInProgress]] = {}
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._look, name="stress-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ending.set()
        self._thread.join(PATIENCE)

    @contextmanager
    def call(self, name: str, seconds: float) -> Iterator[None]:
        """A call, made in the block, that must be over in so many seconds; errors end here."""
        stack = self._calls.setdefault(threading.get_ident(), [])
        call = CallInProgress(
            name, threading.current_thread(), time.monotonic(), seconds + self.answer_time
        )
        stack.append(call)
        outcome = "ok"
        try:
            yield
        except CarrotError as exc:
            outcome = type(exc).__name__
            if not is_expected(exc) and not hasattr(exc, "was_found"):
                exc.was_found = True  # type: ignore[attr-defined]  # it may leave an outer call, too
                self._findings.error("an error that nothing explains", name, exc)
            if len(stack) > 1:
                raise  # out of a callback, into carrot
        except BaseException as exc:
            outcome = type(exc).__name__
            self._findings.error("an exception that is not carrot's", name, exc)
        finally:
            stack.pop()
            self._note_end(call, outcome, stack)

    def _note_end(self, call: CallInProgress, outcome: str, outer: list[CallInProgress]) -> None:
        now = time.monotonic()
        if call.late(now) > SLACK:
            self._note_late(call, now)
        taken = now - call.begun
        for other in outer[-1:]:
            other.inner += taken
        with self._lock:
            self.outcomes[call.name][outcome] += 1
            self.longest[call.name] = max(self.longest[call.name], taken - call.inner)

    def _note_late(self, call: CallInProgress, now: float) -> None:
        text = f"{now - call.begun:.2f} s, and {call.seconds + call.inner:.2f} s were allowed"
        self._findings.add(f"a call past its deadline: {call.name}", text)

    def _look(self) -> None:
        while not self._ending.wait(0.05):
            now = time.monotonic()
            for stack in list(self._calls.values()):
                for call in stack[-1:]:
                    if call.late(now) > SLACK and not call.is_dumped:
                        call.is_dumped = True
                        text = f"{call.thread.name} is {call.late(now):.1f} s late\n{dump()}"
                        self._findings.add(f"stacks while a call is late: {call.name}", text)
                    if call.late(now) > HANGING and not self.has_hung.is_set():
                        text = f"{call.thread.name} is {call.late(now):.1f} s late\n{dump()}"
                        self._findings.add(f"a call that hangs: {call.name}", text)
                        self.has_hung.set()


def dump() -> str:
    """The stacks of all threads, with their names, and the locks of carrot that they hold."""
    held = LOCK_ORDER.held
    lines = []
    for thread in threading.enumerate():
        locks = held.get(thread.ident or 0, [])
        lines.append(f"thread 0x{thread.ident:016x} is {thread.name}")
        lines += [f"    and holds {lock}" for lock in locks]
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return "\n".join([*lines, file.read()])
