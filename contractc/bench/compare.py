"""Two runs compared, case by case, in ratios to the peers that both measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from contractc.bench.lines import read_results
from contractc.bench.peers import OURS
from contractc.bench.run import Result
from contractc.bench.stats import Ratio, geometric_mean
from contractc.bench.table import CONTROL_MARK
from contractc.plans import seconds_text


class Change(NamedTuple):
    """A case in both runs: the same peer's time over ours before and after, and ours in seconds."""

    name: str
    peer: str
    before: Ratio
    after: Ratio
    seconds: tuple[float, float]

    @property
    def factor(self) -> float:
        """Return how many times as fast we are as before, measured by the peer."""
        return self.after.median / self.before.median

    @property
    def verdict(self) -> str:
        """Return `faster` or `SLOWER` if the two 95 % intervals have nothing in common, else nothing."""
        if self.after.high < self.before.low:
            return "SLOWER"
        return "faster" if self.after.low > self.before.high else ""


def differences(before: Sequence[Result], after: Sequence[Result]) -> list[str]:
    """Return why these runs cannot be compared: they are of different devices; nothing means that they can be."""
    devices = [
        sorted({str(r.conditions.get("device", "an unknown device")) for r in run}) for run in (before, after)
    ]
    return [] if devices[0] == devices[1] else [", ".join(found) or "nothing" for found in devices]


def changes(before: Sequence[Result], after: Sequence[Result]) -> list[Change]:
    """Return the cases that both runs measured, those that got slower first."""
    old = {(str(r.case), r.case.text, r.conditions.get("control")): r for r in before}
    found = []
    for new in after:
        was = old.get((str(new.case), new.case.text, new.conditions.get("control")))
        change = _change(was, new) if was is not None else None
        if change is not None:
            found.append(change)
    return sorted(found, key=lambda change: change.factor)


def _change(was: Result, new: Result) -> Change | None:
    ours = [r.entry(OURS) for r in (was, new)]
    common = [
        (e, other)
        for e in new.entries
        for other in [was.entry(e.name)]
        if other is not None and not e.ours and e.ratio is not None and other.ratio is not None
    ]
    if not common or ours[0] is None or ours[1] is None or ours[0].raw is None or ours[1].raw is None:
        return None
    best, other = min(common, key=lambda pair: pair[0].raw[0] if pair[0].raw else float("inf"))
    assert best.ratio is not None and other.ratio is not None
    mark = CONTROL_MARK if new.conditions.get("control") else ""
    return Change(f"{new.case}{mark}", best.name, other.ratio, best.ratio, (ours[0].raw[0], ours[1].raw[0]))


def compared(before: Sequence[Result], after: Sequence[Result]) -> str:
    """Return the table of `changes`."""
    rows = changes(before, after)
    lines = [
        f"{'case':40} {'ours before':>11} {'after':>9}  {'peer over ours, before':>24}  {'after':>24}  factor"
    ]
    for row in rows:
        old, new = map(seconds_text, row.seconds)
        lines.append(
            f"{row.name:40.40} {old:>11} {new:>9}  {row.before!s:>24}  {row.after!s:>24}  "
            f"{row.factor:6.2f} {row.verdict:6} by {row.peer}"
        )
    count = {verdict: sum(r.verdict == verdict for r in rows) for verdict in ("SLOWER", "faster")}
    lines.append(
        f"{len(rows)} cases in both: {count['SLOWER']} slower, {count['faster']} faster (intervals apart); "
        f"geometric mean {geometric_mean([r.factor for r in rows]):.2f}"
    )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Print the comparison of two files; return 0, 1 if a case got slower, 2 if they cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="contractc bench compare",
        description="Compare two runs on the same device. The exit status is 1 if a case got slower.",
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(argv)
    before, after = read_results(options.before), read_results(options.after)
    apart = differences(before, after)
    if apart:
        print(
            f"contractc bench compare: {options.before} was measured on {apart[0]}, {options.after} on {apart[1]}; "
            "times of different devices do not compare",
            file=sys.stderr,
        )
        return 2
    print(compared(before, after))
    return int(any(change.verdict == "SLOWER" for change in changes(before, after)))
