"""A small SVG with bars, from the summaries: no library is worth having for this."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from benchmarks.case import grouped
from benchmarks.peers import PEERS
from benchmarks.summary import Summaries, Summary

WIDTH, ROW, HEAD, GAP = 720, 22, 34, 18  # pixels
LABELS, BARS = 150, 440  # pixels: the room for names, and for the longest bar
OURS, THEIRS, LIMIT = "#e8710a", "#9aa5b1", "#5f6b7a"


@dataclass(frozen=True)
class Chart:
    """One group of bars: what one case has for each peer.

    :ivar rate: messages a second, instead of CPU time.
    :ivar others: more bars: a label, the case and the peer whose number it is.
    """

    title: str
    case: str
    rate: bool = False
    others: tuple[tuple[str, str, str], ...] = ()


CHARTS = (
    Chart(
        "Publishing, CPU time per message (µs, less is better)",
        "publish",
        others=(("carrot send_many", "limit", "carrot"), ("the limit", "limit", "limit")),
    ),
    Chart("Consuming with acks, CPU time per message (µs, less is better)", "consume-500"),
    Chart(
        "Publishing with confirms, messages per second (more is better)",
        "confirmed",
        rate=True,
        others=(
            ("carrot send_many", "pipelined", "carrot"),
            ("node pipelined", "pipelined", "node"),
        ),
    ),
)


def svg(summaries: Summaries) -> str:
    """The charts of whatever was measured, one below the other."""
    parts: list[str] = []
    top = GAP
    for chart in CHARTS:
        bars = list(_bars(chart, summaries))
        if bars:
            parts += _draw(chart, bars, top)
            top += HEAD + ROW * len(bars) + GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" '
            f'width="{WIDTH}" height="{top}" font-family="sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{top}" rx="6" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _bars(chart: Chart, summaries: Summaries) -> Iterator[tuple[str, float]]:
    wanted = [(peer, chart.case, peer) for peer in PEERS]
    for label, case, peer in (wanted[0], *chart.others[:1], *wanted[1:], *chart.others[1:]):
        summary = summaries.get(case, {}).get(peer, Summary())
        value = summary.rate if chart.rate else summary.cpu
        if value:
            yield label, value


def _draw(chart: Chart, bars: list[tuple[str, float]], top: int) -> Iterator[str]:
    longest = max(value for _, value in bars)
    yield f'<text x="12" y="{top + 14}" font-weight="bold">{escape(chart.title)}</text>'
    for index, (label, value) in enumerate(bars):
        y = top + HEAD + ROW * index
        length = max(BARS * value / longest, 1)
        number = grouped(value) if chart.rate else f"{value:.1f}"
        colour = OURS if label.startswith("carrot") else LIMIT if "limit" in label else THEIRS
        yield f'<text x="{LABELS}" y="{y + 5}" text-anchor="end">{escape(label)}</text>'
        yield (
            f'<rect x="{LABELS + 8}" y="{y - 7}" width="{length:.1f}" height="15" rx="2" '
            f'fill="{colour}"/>'
        )
        yield f'<text x="{LABELS + 14 + length:.1f}" y="{y + 5}">{number}</text>'
