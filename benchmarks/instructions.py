"""Instructions a message, counted by cachegrind: `python -m benchmarks.instructions`.

Time differs from run to run by more than a change costs; instructions hardly do. Each figure is the
difference of two runs, one with twice as many messages as the other, so that imports, connecting
and closing cancel out. Over AMQP the peer is benchmarks.amqp_peer, which always says the same.

`--checkout PATH` counts those of another checkout, and `--against PATH` compares with it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

HERE = Path(__file__).parent
PROGRAM = HERE / "counted.py"
MESSAGES = 2000
#: How much slower a program is under cachegrind, about; its clock is slowed down as much.
SLOWDOWN = 40
TIMEOUT = 600.0  # seconds for one run
#: The bound on the instructions of a message, compared with another checkout.
LIMIT = 1.02


class Figure(NamedTuple):
    """One line of the table."""

    title: str
    driver: str
    step: str


FIGURES = (
    Figure("memory, sent", "memory", "send"),
    Figure("memory, sent by send_many()", "memory", "send_many"),
    Figure("memory, received and acked", "memory", "receive"),
    Figure("amqp, sent and confirmed", "amqp", "send"),
    Figure("amqp, sent by send_many()", "amqp", "send_many"),
    Figure("amqp, received and acked", "amqp", "receive"),
)


class CountError(Exception):
    """A run failed, or was not one of the checkout that was asked for."""


@contextmanager
def amqp_peer() -> Iterator[str]:
    """The URL of a broker that always says the same, in a process of its own."""
    peer = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.amqp_peer"],
        cwd=HERE.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert peer.stdout is not None
    try:
        yield f"amqp://guest:guest@127.0.0.1:{int(peer.stdout.readline())}//"
    finally:
        peer.kill()
        peer.communicate()


def command(
    step: str, url: str, messages: int, total: int, slowdown: float = SLOWDOWN
) -> list[str]:
    """The program that is counted; -P keeps this folder out of its path."""
    given = (step, url, str(messages), str(total), str(slowdown))
    return [sys.executable, "-P", str(PROGRAM), *given]


def environment(checkout: Path) -> dict[str, str]:
    """Nothing of the shell's but where programs are."""
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(checkout),
        "PYTHONHASHSEED": "0",
    }


def count(checkout: Path, step: str, url: str, messages: int, total: int) -> int:
    """The instructions of one run.

    :raises CountError: it failed; with what it said.
    """
    with tempfile.NamedTemporaryFile("r", prefix="carrot-cachegrind-") as log:
        done = subprocess.run(
            [
                "valgrind", "--tool=cachegrind", "--cache-sim=no",
                "--cachegrind-out-file=/dev/null", f"--log-file={log.name}",
                *command(step, url, messages, total),
            ],
            env=environment(checkout),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )  # fmt: skip
        said = log.read()
    found = re.search(r"I\s+refs:\s+([\d,]+)", said)
    if done.returncode or found is None:
        raise CountError(f"{step} over {url} failed: {done.stderr or said}")
    if (used := done.stdout.strip()) != str(checkout):
        raise CountError(f"that is the carrot of {used}, and not of {checkout}")
    return int(found[1].replace(",", ""))


class Counted(NamedTuple):
    """Instructions a message: the median of the rounds, and how far they lie apart."""

    median: float
    spread: float

    def __str__(self) -> str:
        return f"{self.median:>10,.0f} ±{100 * self.spread / self.median / 2:>4.1f} %"


def measure(checkout: Path, figure: Figure, url: str, messages: int, rounds: int) -> Counted:
    """How many instructions one message takes."""

    def once() -> float:
        few, many = (
            count(checkout, figure.step, url, number, 2 * messages)
            for number in (messages, 2 * messages)
        )
        return (many - few) / messages

    found = [once() for _ in range(rounds)]
    return Counted(median(found), max(found) - min(found))


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions", description="instructions a message"
    )
    parser.add_argument("--checkout", type=Path, default=HERE.parent, help="default this one")
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--messages", type=int, default=MESSAGES, help="in the shorter run")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is counted")
    parser.add_argument("--figures", nargs="+", default=[], metavar="WORD",
                        help="only those whose titles have all these words")  # fmt: skip
    return parser.parse_args(given)


def compile_first(checkout: Path) -> None:
    """Compile a checkout, so that no run has that to do."""
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", str(checkout / "carrot")],
        timeout=TIMEOUT,
        check=True,
    )


def main(given: Sequence[str] | None = None) -> int:
    """Count and print; 1 when a figure is beyond its limit, 2 without valgrind."""
    options = arguments(given)
    if shutil.which("valgrind") is None:
        print("there is no valgrind: apt-get install valgrind", file=sys.stderr)
        return 2
    checkouts = [path.resolve() for path in (options.checkout, options.against) if path is not None]
    for checkout in checkouts:
        compile_first(checkout)
    print(f"instructions a message, {options.messages} messages, {options.rounds} rounds")
    beyond = False
    with amqp_peer() as amqp_url:
        for figure in FIGURES:
            if not all(word in figure.title for word in options.figures):
                continue
            url = amqp_url if figure.driver == "amqp" else "memory://"
            counted = [
                measure(checkout, figure, url, options.messages, options.rounds)
                for checkout in checkouts
            ]
            line = f"  {figure.title:<30}" + "".join(f"{each!s:>22}" for each in counted)
            if len(counted) == 2:
                ratio = counted[0].median / counted[1].median
                beyond = beyond or ratio > LIMIT
                line += f"  × {ratio:.3f}" + ("" if ratio <= LIMIT else f", more than {LIMIT}")
            print(line, flush=True)
    return int(beyond)


if __name__ == "__main__":
    sys.exit(main())
