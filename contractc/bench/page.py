"""The page of a benchmark: roofline, prediction against measurement, every case beside its best peer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import log

from contractc.bench.limits import gemm_rate
from contractc.bench.peers import OURS
from contractc.bench.run import Result
from contractc.bench.stats import Ratio
from contractc.bench.table import COLUMNS, aims_text, by_group, cell, is_lost, prediction, predictions, score
from contractc.plans import seconds_text
from contractc.report.chart import Line, Point, scatter
from contractc.report.page import document, key, table, tiles

STYLE = """<style>
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 12px; }
.charts figure { margin: 0; }
.ahead { fill: var(--good); } .even { fill: var(--heat1); } .lost { fill: var(--bad); }
.row { display: grid; grid-template-columns: minmax(170px, 2fr) 4fr minmax(210px, 2fr); gap: 0 12px;
  align-items: center; padding: 3px 10px; border-top: 1px solid var(--line); font-size: .9rem; }
.row svg { width: 100%; height: 18px; }
.rows { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.row small { color: var(--soft); }
@media (max-width: 640px) { .row { grid-template-columns: 1fr auto; } .row svg { grid-column: 1 / -1; grid-row: 2; } }
</style>"""

LEAST, MOST = 0.1, 10.0
"""The ratios at the ends of a row's scale, which is logarithmic; what is outside is drawn at its end."""

TICKS = (0.2, 0.5, 1.0, 2.0, 5.0)


def bench_page(results: Sequence[Result]) -> str:
    """Return the HTML page of `results`; runs with the same BLAS for everyone (`--control`) get a part of their own."""
    done = [r for r in results if not r.skipped]
    body = [STYLE, "<h1>contractc beside its peers</h1>"]
    for control in (False, True):
        members = [r for r in done if bool(r.conditions.get("control")) is control]
        if members:
            body += _part(members, control)
    skipped = [f"<li>{escape(str(r.case))}: {escape(r.skipped)}</li>" for r in results if r.skipped]
    if skipped:
        body.append(
            f"<details><summary>{len(skipped)} cases not measured</summary><ul>{''.join(skipped)}</ul></details>"
        )
    return document("contractc beside its peers", body)


def _part(results: Sequence[Result], control: bool) -> list[str]:
    rows = {id(r): f"{'c' if control else 'r'}{k}" for k, r in enumerate(results)}
    title = "The same BLAS for everyone (control run)" if control else "With contractc's own choice of BLAS"
    outcome = [_mark(r) for r in results]
    counts = [(str(outcome.count(m)), name) for m, name in zip(("ahead", "even", "lost"), MARKS, strict=True)]
    return [
        f"<h2>{title}</h2>",
        f'<p class="soft">{escape(_conditions(results[0]))}</p>',
        tiles([(str(len(results)), "cases"), *counts]),
        key(zip(("ahead", "even", "lost"), MARKS, strict=True)),
        '<div class="charts"><figure><figcaption>Roofline: operations a second against operations for a byte '
        f"of operands and result</figcaption>{_roofline(results, rows)}</figure>"
        f"<figure><figcaption>Prediction against measurement: {escape(prediction(results))}</figcaption>"
        f"{_predicted(results, rows)}</figure></div>",
        _groups(results),
        *_cases(results, rows),
    ]


MARKS = ("faster than the best peer", "even", "lost: upper 95 % bound below the bar")


def _mark(result: Result) -> str:
    """Return the class of colour of a case: `ahead` if the lower bound is above 1, `lost` if it is lost, or `even`."""
    if is_lost(result, COLUMNS[1]):
        return "lost"
    ratio = score(result, COLUMNS[1])
    return "ahead" if ratio is not None and ratio.low > 1 else "even"


def _conditions(result: Result) -> str:
    about = result.conditions
    versions = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    limits = ", ".join(f"{name} {rate / 1e9:.3g} G/s" for name, rate in result.limits.items())
    return f"{about.get('device', 'unknown device')}, one core; {versions}. Measured limits: {limits}."


def _title(result: Result) -> str:
    ours, best, ratio = result.entry(OURS), result.best(contiguous=False), score(result, COLUMNS[1])
    text = f"{result.case}: {seconds_text(ours.raw[0])}" if ours and ours.raw else str(result.case)
    return f"{text}; {best.name} takes {ratio.median:.2f} times as long" if best and ratio else text


def _roofline(results: Iterable[Result], rows: dict[int, str]) -> str:
    points = []
    peaks: dict[str, float] = {}
    limits: dict[str, float] = {}
    for r in results:
        ours = r.entry(OURS)
        if ours is None or ours.contiguous is None or not r.flops or not (r.read + r.written):
            continue
        intensity = r.flops / (r.read + r.written)
        points.append(Point(intensity, r.flops / ours.contiguous[0], _mark(r), _title(r), rows[id(r)]))
        limits = r.limits
        for dtype in ("float32", "float64"):
            rate = gemm_rate(limits, dtype)
            if rate:
                peaks[dtype] = rate
    if not points or not limits:
        return scatter([], [], ("", ""), (str, str))
    lowest, highest = min(p.x for p in points), max(p.x for p in points)
    lines = []
    for dtype, peak in peaks.items():
        knee = peak / limits["copy"]
        start = min(lowest, knee / 10)
        lines.append(
            Line(
                ((start, start * limits["copy"]), (knee, peak), (max(highest, knee * 3), peak)),
                f"GEMM {dtype}",
            )
        )
    return scatter(points, lines, ("operations for a byte", "operations a second"), (_tick, _tick))


def _tick(value: float) -> str:
    """Return a power of ten as a tick: `1G` for 1e9, `0.01` for 1e-2."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.0f}{unit}"
    return f"{value:g}"


def _predicted(results: Sequence[Result], rows: dict[int, str]) -> str:
    points = [Point(m, p, _mark(r), _title(r), rows[id(r)]) for r, p, m in predictions(results)]
    ends = [q for p in points for q in (p.x, p.y)]
    lines = [Line(((min(ends), min(ends)), (max(ends), max(ends))), "equal")] if ends else []
    return scatter(points, lines, ("measured seconds", "predicted seconds"), (seconds_text, seconds_text))


def _groups(results: Iterable[Result]) -> str:
    lines = []
    for (group, dtype), members in by_group(results).items():
        cells = [
            escape(group),
            escape(dtype),
            str(len(members)),
            *(escape(cell(members, c)) for c in COLUMNS),
        ]
        lines.append(("", [*cells, escape(aims_text(members))]))
    heads = ("group", "dtype", "cases", *(c.title for c in COLUMNS), "aim")
    kinds = ("", "", "n", *("named" for _ in COLUMNS), "named")
    return (
        "<h2>Geometric means by group</h2><p class='soft'>The best peer's time over that of contract: more than 1 "
        "means that contract is faster. The best peer is an oracle, the fastest for each case; <i>in order</i> is "
        f"the result made contiguous.</p>{table(heads, lines, kinds, cards=True)}"
    )


def _cases(results: Iterable[Result], rows: dict[int, str]) -> list[str]:
    parts = ["<h2>Every case beside its best peer</h2>"]
    numbers = "".join(
        f'<text x="{_across(at):.2f}%" y="13" text-anchor="middle">{at:g}</text>' for at in TICKS
    )
    scale = f'<div class="row"><small>seconds of contract</small><svg>{numbers}</svg><small>best peer</small></div>'
    for (group, dtype), members in by_group(results).items():
        why = members[0].case.why if len({m.case.why for m in members}) == 1 else ""
        lines = "".join(_row(r, rows[id(r)]) for r in members)
        parts.append(
            f"<details open><summary>{escape(group)}, {escape(dtype)}</summary>"
            f'<p class="soft">{escape(why)}</p><div class="rows">{scale}{lines}</div></details>'
        )
    return parts


def _row(result: Result, name: str) -> str:
    best, ratio, ours = result.best(contiguous=False), score(result, COLUMNS[1]), result.entry(OURS)
    mark = _mark(result)
    seconds = seconds_text(ours.raw[0]) if ours and ours.raw else (ours.out if ours else "not run")
    against = f"{ratio} of {best.name}" if best and ratio else "no peer"
    ways = "; ".join(result.ways)
    return (
        f'<div class="row" id="{name}"><span title="{escape(result.case.text)}">{escape(result.case.name)} '
        f"<small>{escape(seconds)}</small></span>{_interval(ratio, mark, result.case.bar)}"
        f'<span title="{escape(ways)}">{escape(against)}</span></div>'
    )


def _across(ratio: float) -> float:
    """Return where a ratio is on the scale, in percent."""
    return 100 * (log(min(MOST, max(LEAST, ratio))) - log(LEAST)) / (log(MOST) - log(LEAST))


def _interval(ratio: Ratio | None, mark: str, bar: float) -> str:
    ticks = "".join(
        f'<line class="{"axis" if at == 1 else "grid"}" x1="{x}" x2="{x}" y1="0" y2="18"/>'
        for at in TICKS
        for x in [f"{_across(at):.2f}%"]
    )
    ticks += (
        f'<line x1="{_across(bar):.2f}%" x2="{_across(bar):.2f}%" y1="0" y2="18" '
        'style="stroke: var(--bad); stroke-dasharray: 2 2"/>'
    )
    if ratio is None:
        return f"<svg>{ticks}</svg>"
    low, middle, high = (_across(v) for v in (ratio.low, ratio.median, ratio.high))
    return (
        f'<svg role="img" aria-label="ratio {ratio}">{ticks}<line x1="{low:.2f}%" x2="{high:.2f}%" y1="9" y2="9" '
        f'style="stroke: var(--wire); stroke-width: 3"/><circle cx="{middle:.2f}%" cy="9" r="4" class="{mark}"/></svg>'
    )
