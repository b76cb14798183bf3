"""What one worker process is asked to do, and what it answers: both travel as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """One peer in one case.

    :ivar scenario: a module of benchmarks.scenarios.
    :ivar peer: a name in benchmarks.peers.PEERS, or one that the scenario knows.
    :ivar url: the broker.
    :ivar queue: exists already, and is this job's alone.
    :ivar messages: measure at most this many,
    :ivar seconds: and stop earlier when they have taken so long.
    :ivar warmup: messages before the measured ones.
    :ivar options: what the scenario needs besides.
    """

    scenario: str
    peer: str
    url: str
    queue: str
    messages: int
    seconds: float
    warmup: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, line: str) -> Job:
        return cls(**json.loads(line))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Result:
    """What a worker measured, or why it didn't.

    :ivar cpu: seconds of processor time that the whole worker process took, all its threads.
    :ivar wall: seconds on the clock.
    :ivar extra: numbers by name that only this scenario has.
    :ivar skipped: why there are no numbers, and that is all right: "not installed".
    :ivar failed: why there are none, and should be.
    """

    cpu: float = 0.0
    wall: float = 0.0
    messages: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)
    skipped: str | None = None
    failed: str | None = None

    @classmethod
    def from_json(cls, line: str) -> Result:
        return cls(**json.loads(line))

    def to_json(self) -> str:
        return json.dumps(asdict(self))
