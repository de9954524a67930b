"""Tables of results: a line a case while they come in, then by group, and what was lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from statistics import median
from typing import NamedTuple

from contractc.bench.peers import OURS
from contractc.bench.run import Entry, Result
from contractc.bench.stats import Ratio, geometric_mean, rank_correlation
from contractc.plans import seconds_text

CALLS = (1, 10, 1000)
"""Numbers of calls for which the time of everything, the first call's planning included, is compared."""


CONTROL_MARK = " (control)"


class Column(NamedTuple):
    """What a score compares: the raw result or the one in C order, with all peers or `without` some."""

    title: str
    contiguous: bool
    without: tuple[str, ...]


COLUMNS = (
    Column("raw, without jax", False, ("jax",)),
    Column("raw, with jax", False, ()),
    Column("in order, without jax", True, ("jax",)),
    Column("in order, with jax", True, ()),
)


def score(result: Result, column: Column) -> Ratio | None:
    """Return the best peer's time over that of `contract`, or None where either was not timed."""
    best = result.best(contiguous=column.contiguous, without=column.without)
    ours = result.entry(OURS)
    if best is None or ours is None or ours.raw is None:
        return None
    return best.ratio_contiguous if column.contiguous else best.ratio


def is_lost(result: Result, column: Column) -> bool:
    """Return whether even the upper bound of the ratio is below the bar, or our result was wrong."""
    ours = result.entry(OURS)
    if ours is not None and ours.out:
        return True
    ratio = score(result, column)
    return ratio is not None and ratio.high < result.case.bar


def total(entry: Entry, calls: int) -> float | None:
    """Return the seconds of the first call with all its planning and of `calls` - 1 further ones."""
    if entry.first is None or entry.raw is None or entry.out:
        return None
    return entry.first + (calls - 1) * entry.raw[0]


def total_ratio(result: Result, calls: int) -> float | None:
    """Return the best peer's total seconds of `calls` calls over those of `contract`."""
    ours = result.entry(OURS)
    mine = total(ours, calls) if ours is not None else None
    others = [t for e in result.entries if not e.ours for t in [total(e, calls)] if t is not None]
    return min(others) / mine if others and mine else None


def case_line(result: Result) -> str:
    """Return one line about a case: our time, the part of the machine's limit it reaches, the best peer, the ratio."""
    name = f"{result.case!s:38.38}"
    if result.skipped:
        return f"{name} skipped: {result.skipped}"
    ours = result.entry(OURS)
    if ours is None or ours.out or ours.raw is None:
        return f"{name} LOST: {OURS} {ours.out if ours else 'did not run'}"
    parts = [f"{name} {seconds_text(ours.raw[0]):>8}", f"{100 * (result.fraction_of_limit() or 0):4.0f} %"]
    for column in (COLUMNS[1], COLUMNS[3]):
        best, ratio = result.best(contiguous=column.contiguous), score(result, column)
        parts.append(
            f"{ratio.median:6.2f} ({ratio.low:.2f} to {ratio.high:.2f}) {best.name:19.19}"
            if best and ratio
            else f"{'no peer':40}"
        )
    wrong = [e.name for e in result.entries if e.out.startswith("wrong")]
    mark = " lost" if any(is_lost(result, column) for column in COLUMNS) else ""
    return "  ".join(parts) + (f"  WRONG: {', '.join(wrong)}" if wrong else "") + mark


def summary(results: Sequence[Result]) -> str:
    """Return the tables by group and dtype, the cases that were lost, and how good the predictions were."""
    done = [r for r in results if not r.skipped]
    groups = by_group(done)
    lines = [
        "",
        "best peer's time over that of contract: geometric mean, worst case, cases lost",
        f"{'group':14} {'dtype':10} {'cases':>5}" + "".join(f"  {c.title:>24}" for c in COLUMNS) + "  aim",
    ]
    for (group, dtype), members in groups.items():
        cells = [cell(members, column) for column in COLUMNS]
        aims = aims_text(members)
        lines.append(
            f"{group:14} {dtype:10} {len(members):5}" + "".join(f"  {c:>24}" for c in cells) + f"  {aims}"
        )
    lines += ["", "geometric means of other ratios, and of the part of the machine's limit that is reached"]
    heads = [f"{n} call{'s' * (n > 1)}" for n in CALLS] + ["compiled", "on torch", "limit"]
    lines.append(f"{'group':14} {'dtype':10}" + "".join(f"  {h:>10}" for h in heads))
    for (group, dtype), members in groups.items():
        values = [[total_ratio(r, n) for r in members] for n in CALLS]
        values += [[_ours(r, name) for r in members] for name in ("compiled", "contract on torch")]
        values.append([r.fraction_of_limit() for r in members])
        means = [geometric_mean([v for v in row if v]) for row in values]
        lines.append(f"{group:14} {dtype:10}" + "".join(f"  {m:10.2f}" for m in means))
    lines += ["", *_lost(done), *_disqualified(done), *_skipped(results), prediction(done)]
    return "\n".join(lines)


def by_group(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    """Return the results by group and dtype, in order of first appearance."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.case.group, result.case.dtype), []).append(result)
    return groups


def aims_text(results: Sequence[Result]) -> str:
    """Return the geometric means that a group is to reach, by column."""
    return ", ".join(f"{name} {aim:g}" for name, aim in results[0].case.aims.items())


def cell(results: Iterable[Result], column: Column) -> str:
    """Return the geometric mean of the ratios of a column, the worst of them, and how many cases are lost."""
    rows = [(r, score(r, column)) for r in results]
    ratios = [ratio.median for _, ratio in rows if ratio is not None]
    if not ratios:
        return "no peer"
    lost = sum(is_lost(r, column) for r, _ in rows)
    return f"{geometric_mean(ratios):.2f}  worst {min(ratios):.2f}  lost {lost}"


def _ours(result: Result, name: str) -> float | None:
    """Return the best peer's seconds over those of another of our ways."""
    entry, best = result.entry(name), result.best(contiguous=False)
    if entry is None or entry.raw is None or entry.out or best is None or best.raw is None:
        return None
    return best.raw[0] / entry.raw[0]


def _lost(results: Iterable[Result]) -> list[str]:
    lines = []
    for result in results:
        reasons: dict[str, list[str]] = {}
        for column in COLUMNS:
            if is_lost(result, column):
                best = result.best(contiguous=column.contiguous, without=column.without)
                ratio = score(result, column)
                against = f"{ratio} of {best.name}" if best and ratio else "our result"
                reasons.setdefault(against, []).append("in order" if column.contiguous else "raw")
        texts = [f"{against} ({', '.join(dict.fromkeys(kinds))})" for against, kinds in reasons.items()]
        if texts:
            lines.append(f"  {result.case}: {'; '.join(texts)}; runs {'; '.join(result.ways):.110}")
    head = "lost: the upper 95 % bound is below the bar" if lines else "no case is lost"
    return [head, *lines, ""]


def _disqualified(results: Iterable[Result]) -> list[str]:
    lines = [f"  {r.case}: {e.name} {e.out}" for r in results for e in r.entries if e.out.startswith("wrong")]
    return ["wrong results", *lines, ""] if lines else []


def _skipped(results: Iterable[Result]) -> list[str]:
    lines = [f"  {r.case}: {r.skipped}" for r in results if r.skipped]
    return ["not measured", *lines, ""] if lines else []


def predictions(results: Iterable[Result]) -> list[tuple[Result, float, float]]:
    """Return each case with its predicted and its measured seconds (of the compiled expression)."""
    found = []
    for result in results:
        entry = result.entry("compiled") or result.entry(OURS)
        if entry is not None and entry.raw is not None and not entry.out and result.predicted > 0:
            found.append((result, result.predicted, entry.raw[0]))
    return found


def prediction(results: Iterable[Result]) -> str:
    """Return how well the machine model predicts: rank correlation and median error over all cases."""
    pairs = predictions(results)
    if len(pairs) < 2:
        return "predicted against measured seconds: too few cases"
    correlation = rank_correlation([p for _, p, _ in pairs], [m for _, _, m in pairs])
    errors = sorted((abs(p / m - 1), str(r.case), p, m) for r, p, m in pairs)
    _, name, p, m = max(errors, key=lambda row: max(row[2] / row[3], row[3] / row[2]))
    ranked = "" if isnan(correlation) else f"rank correlation {correlation:.3f}, "
    return (
        f"predicted against measured seconds of {len(pairs)} cases: {ranked}"
        f"median error {100 * median(e for e, *_ in errors):.0f} %; farthest off is {name}: "
        f"{seconds_text(p)} predicted, {seconds_text(m)} measured"
    )
