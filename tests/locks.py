"""Locks that note the order in which they are taken; two taken both ways round can deadlock.

:func:`LockOrder.install` makes every lock that a module of carrot creates from then on a noting
one. A lock is named by the line that creates it, because all locks of one line play the same part.

What counts is the attempt: a thread that waits for B and holds A has the order A, B, also when it
gives up. Three things are no attempt of that kind: a try without waiting can't deadlock, and is
noted apart; a lock that the thread has already is not waited for; and Condition.wait() lets its
lock go.
"""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from types import FrameType, TracebackType
from typing import Any, NamedTuple

_REAL_LOCK = threading.Lock
_REAL_RLOCK = threading.RLock
_REAL_CONDITION = threading.Condition

STACK_DEPTH = 25  # calls that a report shows


class Call(NamedTuple):
    """One line of a stack."""

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        source = linecache.getline(self.path, self.line).strip()
        return f'  File "{self.path}", line {self.line}, in {self.function}\n    {source}'


Stack = tuple[Call, ...]


def _stack(frame: FrameType | None) -> Stack:
    """The calls that led to *frame*, the outermost first, without those of this file."""
    calls: list[Call] = []
    while frame is not None and len(calls) < STACK_DEPTH:
        code = frame.f_code
        if code.co_filename != __file__:
            calls.append(Call(code.co_filename, frame.f_lineno, code.co_qualname))
        frame = frame.f_back
    return tuple(reversed(calls))


@dataclass(frozen=True, eq=False)
class Site:
    """The line that creates a lock."""

    path: str
    line: int

    def __str__(self) -> str:
        source = linecache.getline(self.path, self.line).strip()
        name = self.path[self.path.rfind("/carrot/") + 1 :]
        return f"{name}:{self.line} ({source})"


class Inversion(NamedTuple):
    """Two locks, or more, that were taken in a ring: each is held while the next is waited for."""

    sites: tuple[Site, ...]
    stacks: tuple[Stack, ...]

    def __str__(self) -> str:
        lines = []
        following = (*self.sites[1:], self.sites[0])
        for held, wanted, stack in zip(self.sites, following, self.stacks, strict=True):
            lines += [f"held {held}", f"and waited for {wanted}:", *map(str, stack), ""]
        return "\n".join(lines)


class _Held(threading.local):
    """The locks that this thread has, in the order in which it took them.

    :param all: gets the list of every thread, by its identity.
    """

    def __init__(self, all: dict[int, list[Entry]]) -> None:
        self.locks: list[Entry] = []
        all[threading.get_ident()] = self.locks


@dataclass(frozen=True, eq=False)
class Entry:
    """Stands for a lock in the lists of those that are held, and keeps none alive.

    A lock that is taken once and for all, as a mark, is forgotten with the object that it marks.
    """

    site: Site
    number: int


@dataclass
class LockOrder:
    """The orders in which locks were taken.

    Any thread may add to it, and it has no lock of its own: each step is one operation on a dict,
    and a fork in the midst of it leaves nothing locked in the child.

    :ivar edges: the first stack that held a lock of the one site and waited for one of the other.
    :ivar twins: the same for two locks of one site, by their numbers.
    :ivar tries: what was tried without waiting.
    """

    edges: dict[tuple[Site, Site], Stack] = field(default_factory=dict)
    twins: dict[tuple[Site, int, int], Stack] = field(default_factory=dict)
    tries: dict[tuple[Site, Site], Stack] = field(default_factory=dict)
    _sites: dict[tuple[str, int], Site] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)
    _all_held: dict[int, list[Entry]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._own = _Held(self._all_held)

    @property
    def held(self) -> dict[int, list[str]]:
        """The sites of the locks that each thread holds, by the thread's identity."""
        return {
            ident: [str(entry.site) for entry in list(entries)]
            for ident, entries in list(self._all_held.items())
            if entries
        }

    # -- making locks

    def lock(self, frame: FrameType | None = None) -> NotingLock:
        """A Lock, named by the line of *frame*; default the caller's."""
        return NotingLock(self, self._entry(frame or sys._getframe(1)))

    def rlock(self, frame: FrameType | None = None) -> NotingRLock:
        """An RLock, named by the line of *frame*; default the caller's."""
        return NotingRLock(self, self._entry(frame or sys._getframe(1)))

    def _entry(self, frame: FrameType) -> Entry:
        key = frame.f_code.co_filename, frame.f_lineno
        return Entry(self._sites.setdefault(key, Site(*key)), next(self._numbers))

    def install(self, package: str = "carrot") -> None:
        """Let the modules of *package* make noting locks; all others make what they made.

        Before that package is imported: some of its locks are made then.
        """
        prefix = package + "."
        order = self

        def is_ours(frame: FrameType) -> bool:
            name = frame.f_globals.get("__name__", "")
            return name == package or name.startswith(prefix)

        def make_lock() -> Any:
            frame = sys._getframe(1)
            return order.lock(frame) if is_ours(frame) else _REAL_LOCK()

        def make_rlock() -> Any:
            frame = sys._getframe(1)
            return order.rlock(frame) if is_ours(frame) else _REAL_RLOCK()

        class Condition(_REAL_CONDITION):
            def __init__(self, lock: Any = None) -> None:
                frame = sys._getframe(1)
                if lock is None and is_ours(frame):
                    lock = order.rlock(frame)
                super().__init__(lock)

        Condition.__qualname__ = "Condition"
        Condition.__module__ = "threading"
        threading.Lock = make_lock  # type: ignore[assignment,misc]
        threading.RLock = make_rlock  # type: ignore[assignment,misc]
        threading.Condition = Condition  # type: ignore[misc]

    @staticmethod
    def uninstall() -> None:
        """Let everybody make what they made before; the noting locks stay what they are."""
        threading.Lock = _REAL_LOCK  # type: ignore[misc]
        threading.RLock = _REAL_RLOCK  # type: ignore[misc]
        threading.Condition = _REAL_CONDITION  # type: ignore[misc]

    # -- noting

    def note(self, held: list[Entry], wanted: Entry) -> None:
        """This thread has these locks, and is about to wait for *wanted*."""
        for lock in held:
            if lock.site is wanted.site:
                pair = lock.site, lock.number, wanted.number
                if pair not in self.twins:
                    self.twins[pair] = _stack(sys._getframe(1))
            elif (lock.site, wanted.site) not in self.edges:
                self.edges[lock.site, wanted.site] = _stack(sys._getframe(1))

    def note_try(self, held: list[Entry], wanted: Entry) -> None:
        """This thread has these locks, and took *wanted* without waiting."""
        for lock in held:
            if (lock.site, wanted.site) not in self.tries:
                self.tries[lock.site, wanted.site] = _stack(sys._getframe(1))

    # -- judging

    @property
    def inversions(self) -> list[Inversion]:
        """Pairs that were taken both ways round, and rings of three and more."""
        edges = dict(self.edges)
        after: dict[Site, list[Site]] = {}
        for held, wanted in edges:
            after.setdefault(held, []).append(wanted)
        rings = {frozenset(ring): ring for edge in edges if (ring := _shortest_ring(after, *edge))}
        return [
            Inversion(
                ring,
                tuple(edges[edge] for edge in zip(ring, (*ring[1:], ring[0]), strict=True)),
            )
            for ring in rings.values()
        ]

    @property
    def twin_inversions(self) -> list[Inversion]:
        """Two locks made by the same line, that were taken both ways round."""
        twins = dict(self.twins)
        return [
            Inversion((site, site), (stack, twins[site, second, first]))
            for (site, first, second), stack in twins.items()
            if first < second and (site, second, first) in twins
        ]

    def report(self) -> str:
        """Each inversion with its stacks; empty when there is none."""
        titled = [("locks taken both ways round", each) for each in self.inversions]
        titled += [("two locks of one line taken both ways round", i) for i in self.twin_inversions]
        return "\n".join(f"{title}:\n{inversion}" for title, inversion in titled)

    def summary(self) -> str:
        """What was noted, in one line."""
        sites = {site for edge in self.edges for site in edge}
        return (
            f"lock order: {len(self.edges)} orders between {len(sites)} of {len(self._sites)} "
            f"places that make locks, {len(self.tries)} tries; "
            f"{len(self.inversions)} inversions, {len(self.twin_inversions)} of twins"
        )


def _shortest_ring(after: dict[Site, list[Site]], first: Site, second: Site) -> tuple[Site, ...]:
    """The shortest ring that begins so: (first, second, …); empty: there is none."""
    ways: list[tuple[Site, ...]] = [(first, second)]
    seen = {second}
    while ways:
        longer: list[tuple[Site, ...]] = []
        for way in ways:
            for site in after.get(way[-1], ()):
                if site is first:
                    return way
                if site not in seen:
                    seen.add(site)
                    longer.append((*way, site))
        ways = longer
    return ()


class _Noting:
    """A lock that tells its order who takes it.

    A signal handler may raise after every call in here, so that there is none between taking the
    real lock and returning, and letting it go comes before the books.
    """

    __slots__ = ("_entry", "_holder", "_note", "_note_try", "_own", "_real")

    _real: Any

    def __init__(self, order: LockOrder, entry: Entry) -> None:
        self._own = order._own
        self._note = order.note
        self._note_try = order.note_try
        self._entry = entry
        # The list that has it: of the thread that took it, which need not be the one that lets go.
        self._holder: list[Entry] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.site}: {self._real!r}>"

    def __del__(self) -> None:
        if self._holder is not None:
            _forget(self._holder, self._entry)

    @property
    def site(self) -> Site:
        """Where it was made."""
        return self._entry.site

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        held = self._own.locks
        waits = blocking and timeout != 0
        if waits and held:
            self._note(held, self._entry)
        if not self._real.acquire(blocking, timeout):
            return False
        self._holder = held
        if not waits and held:
            self._note_try(held, self._entry)
        held += (self._entry,)
        return True

    def release(self) -> None:
        holder = self._holder
        self._real.release()
        _forget(holder, self._entry)

    def __enter__(self) -> bool:
        held = self._own.locks
        if held:
            self._note(held, self._entry)
        self._real.acquire()
        self._holder = held
        held += (self._entry,)
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        holder = self._holder
        self._real.release()
        _forget(holder, self._entry)


def _forget(holder: list[Entry] | None, entry: Entry) -> None:
    """A lock is free; the last one that was taken is usually the first that is let go."""
    if not holder:
        return
    if holder[-1] is entry:
        del holder[-1]
        return
    # In one step: another thread may let go what this one took.
    with suppress(ValueError):
        holder.remove(entry)


class NotingLock(_Noting):
    """A Lock."""

    __slots__ = ()

    def __init__(self, order: LockOrder, entry: Entry) -> None:
        super().__init__(order, entry)
        self._real = _REAL_LOCK()

    def locked(self) -> bool:
        return self._real.locked()

    # Condition uses the methods above; this one it would else do by a try.

    def _is_owned(self) -> bool:
        return self._real.locked()


class NotingRLock(_Noting):
    """An RLock: the thread that has it takes it again without waiting."""

    __slots__ = ()

    def __init__(self, order: LockOrder, entry: Entry) -> None:
        super().__init__(order, entry)
        self._real = _REAL_RLOCK()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._real._is_owned():
            return self._real.acquire(blocking, timeout)
        return super().acquire(blocking, timeout)

    def __enter__(self) -> bool:
        if self._real._is_owned():
            return self._real.acquire()
        held = self._own.locks
        if held:
            self._note(held, self._entry)
        self._real.acquire()
        self._holder = held
        held += (self._entry,)
        return True

    def release(self) -> None:
        holder = self._holder
        self._real.release()
        if not self._real._is_owned():
            _forget(holder, self._entry)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    # What Condition asks of its lock: wait() lets it go, however often it was taken, and takes it
    # again.

    def _is_owned(self) -> bool:
        return self._real._is_owned()

    def _release_save(self) -> Any:
        holder = self._holder
        state = self._real._release_save()
        _forget(holder, self._entry)
        return state

    def _acquire_restore(self, state: Any) -> None:
        held = self._own.locks
        if held:
            self._note(held, self._entry)
        self._real._acquire_restore(state)
        self._holder = held
        held += (self._entry,)
