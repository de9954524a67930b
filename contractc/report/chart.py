"""Scatter charts on logarithmic axes, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 420, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
MOST_TICKS = 7


@dataclass(frozen=True, slots=True)
class Point:
    """A mark at (x, y): the class of its colour, what it tells when pointed at, the id of the row it leads to."""

    x: float
    y: float
    mark: str
    title: str
    row: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points of the chart, with a name at its end."""

    points: tuple[tuple[float, float], ...]
    name: str


def scatter(
    points: Sequence[Point],
    lines: Sequence[Line],
    titles: tuple[str, str],
    texts: tuple[Callable[[float], str], Callable[[float], str]],
) -> str:
    """Return the chart as SVG that fills its container; all coordinates are positive, both axes logarithmic.

    Args:
        titles: what the axes are; `texts` write the values at their ticks, powers of ten.
    """
    shown = [(p.x, p.y) for p in points] + [q for line in lines for q in line.points]
    if not points:
        return '<p class="soft">nothing to draw</p>'
    (x0, x1), (y0, y1) = (_range([q[axis] for q in shown]) for axis in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (log10(x) - x0) / (x1 - x0)
        up = (log10(y) - y0) / (y1 - y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for power in _ticks(x0, x1):
        x, _ = at(10.0**power, 10.0**y0)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(texts[0](10.0**power))}</text>'
        )
    for power in _ticks(y0, y1):
        _, y = at(10.0**x0, 10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{escape(texts[1](10.0**power))}</text>'
        )
    for line in lines:
        path = " ".join("{:.1f},{:.1f}".format(*at(*q)) for q in line.points)
        x, y = at(*line.points[-1])
        parts.append(
            f'<polyline points="{path}" style="fill: none; stroke: var(--wire); stroke-width: 1.2"/>'
        )
        parts.append(f'<text x="{x - 3:.1f}" y="{y - 4:.1f}" text-anchor="end">{escape(line.name)}</text>')
    for p in points:
        x, y = at(p.x, p.y)
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" class="{p.mark}"><title>{escape(p.title)}</title></circle>'
        parts.append(f'<a href="#{escape(p.row)}">{dot}</a>' if p.row else dot)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="ink" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(titles[0])}</text>'
    )
    parts.append(f'<text class="ink" x="{LEFT + 5}" y="{TOP + 12}">{escape(titles[1])}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width: 100%; height: auto" role="img" '
        f'aria-label="{escape(titles[1])} against {escape(titles[0])}">{"".join(parts)}</svg>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the powers of ten between which `values` lie, with a margin."""
    low, high = log10(min(values)), log10(max(values))
    margin = max(0.05 * (high - low), 0.1)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[int]:
    """Return whole powers of ten from `low` to `high`, not more than fit."""
    powers = list(range(ceil(low), floor(high) + 1))
    return powers[:: max(1, ceil(len(powers) / MOST_TICKS))]
