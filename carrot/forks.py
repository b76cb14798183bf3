"""Every fork hook of the library, in one order that is stated here.

A forked child has one thread, and a copy of everything else: locks that the parent's other threads
held at that moment, and sockets that belong to the parent. The hooks make the copies usable.

Before a fork the stages run from the last to the first, so that what is built on top comes to rest
first. After it, in the parent and in the child, they run from the first to the last. Within a stage
the order is that of registration. A hook that raises doesn't keep the others from running.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

Hook = Callable[[], object]


class Stage(IntEnum):
    """When a hook runs: what is lower is needed by what is higher."""

    BROKERS = 1  # brokers inside this process
    TIMERS = 2  # the timer, ids
    TRANSPORTS = 3  # connections, and what libraries hold for them
    BACKENDS = 4  # channels, and their locks


class _Hooks(NamedTuple):
    stage: Stage
    before: Hook | None
    after_in_parent: Hook | None
    after_in_child: Hook | None


# In the order of their stages.
_registered: list[_Hooks] = []


def register(
    stage: Stage,
    *,
    before: Hook | None = None,
    after_in_parent: Hook | None = None,
    after_in_child: Hook | None = None,
) -> None:
    """Call these functions at each fork of the process, at that *stage*."""
    _registered.append(_Hooks(stage, before, after_in_parent, after_in_child))
    _registered.sort(key=lambda hooks: hooks.stage)


def _run(hooks: list[Hook | None]) -> None:
    """Call all *hooks*, then raise the first error; the interpreter prints it."""
    failure: Exception | None = None
    for hook in hooks:
        if hook is None:
            continue
        try:
            hook()
        except Exception as exc:
            failure = failure or exc
    if failure is not None:
        raise failure


def _before() -> None:
    _run([hooks.before for hooks in reversed(_registered)])


def _after_in_parent() -> None:
    _run([hooks.after_in_parent for hooks in _registered])


def _after_in_child() -> None:
    _run([hooks.after_in_child for hooks in _registered])


# Where processes can't fork there is nothing to register with.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
