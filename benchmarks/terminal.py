"""What a person sees: the progress on stderr, and the tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from benchmarks.bounds import check
from benchmarks.case import Case, grouped
from benchmarks.peers import PEERS
from benchmarks.summary import Summaries, Summary

BAR = 30  # characters
MISSING = "-"


class Progress:
    """A bar that shows how far it is; only where somebody can see it move.

    :param total: jobs.
    """

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self._total = max(total, 1)
        self._stream = stream
        self._shown = stream.isatty()

    def __call__(self, done: int, label: str) -> None:
        if self._shown:
            full = BAR * done // self._total
            bar = "█" * full + "░" * (BAR - full)
            self._stream.write(f"\r{bar} {done}/{self._total} {label[:40]:40}")
            self._stream.flush()

    def clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


HEADINGS = ("", "CPU µs/msg", "× {}", "msg/s", "× {}", "messages", "")
WIDTHS = (18, 12, 9, 10, 9, 9, 0)


def tables(cases: Sequence[Case], summaries: Summaries, peers: Sequence[str]) -> Iterator[str]:
    """The lines of a table for each case: who did it, who can't, and who is not here."""
    for case in cases:
        measured = summaries[case.name]
        reference = measured.get(case.reference, Summary())
        yield ""
        yield case.title
        yield _line(heading.format(case.reference) for heading in HEADINGS)
        # Where clients are compared, who can't do it is listed, too.
        clients = [*PEERS, "limit"]
        listed = clients if len(case.peers) > 2 and set(case.peers) <= set(clients) else case.peers
        for peer in listed:
            if peer in measured:
                yield _line(_row(peer, measured[peer], reference))
            elif peer in peers:
                yield _line((peer, *(MISSING,) * 5, ""))


def _row(peer: str, summary: Summary, reference: Summary) -> tuple[str, ...]:
    if summary.cpu is None or summary.rate is None:
        return (peer, *(MISSING,) * 5, summary.note)
    notes = [f"{name} {_extra(name, value)}" for name, value in summary.extra.items()]
    return (
        peer,
        f"{summary.cpu:,.1f}".replace(",", " "),
        _ratio(summary.cpu, reference.cpu),
        grouped(summary.rate),
        _ratio(summary.rate, reference.rate),
        grouped(summary.messages),
        "  ".join([*notes, summary.note]),
    )


def _ratio(value: float, reference: float | None) -> str:
    return f"{value / reference:.3g}" if reference else MISSING


def _extra(name: str, value: float) -> str:
    if name == "peak":
        return f"{value / 2**20:.1f} MiB"
    return f"{1e6 * value:.0f} µs"


def _line(cells: Iterable[str]) -> str:
    first, *others, last = cells
    middle = "".join(f"{cell:>{w}}" for cell, w in zip(others, WIDTHS[1:], strict=False))
    return f"  {first:<{WIDTHS[0]}}{middle}  {last}".rstrip()


def bounds_table(summaries: Summaries) -> Iterator[str]:
    """Each bound, the ratio measured, and whether it holds."""
    yield ""
    yield "bounds"
    for bound, ratio in check(summaries):
        wanted = f"{bound.sign} {bound.limit:g}"
        if ratio is None:
            yield f"  {bound.title:<56}{wanted:>8}{MISSING:>10}  not measured"
            continue
        verdict = "holds" if bound.holds(ratio) else "DOES NOT HOLD"
        yield f"  {bound.title:<56}{wanted:>8}{ratio:>10.3f}  {verdict}"


def header(about: dict[str, Any]) -> str:
    """One line that says what was measured with what."""
    versions = ", ".join(f"{peer} {version}" for peer, version in about["versions"].items())
    broker = about["broker"] or "no broker"
    return f"Python {about['python']}, {about['system']}, {broker}\n{versions}"
