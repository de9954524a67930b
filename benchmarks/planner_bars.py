"""Which aims the results of planner.py keep: every line says the aim and what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

Cells = Mapping[tuple[str, str], Sequence[float]]
"""log10 of the multiplications of all runs, by network and contestant."""

NAMED = {"rreg3_n300": 13.9, "rreg3_n1000": 39.0, "lat2d_16x16": 7.62, "sat3_n60_a3": 11.5}
"""log10 of the multiplications allowed for one second of numba."""

SLICED = {
    "rreg3_n300 in 2^20": 14.80,
    "rreg3_n300 in 2^27": 14.23,
    "lat3d_6 in 2^20": 21.01,
    "lat3d_6 in 2^27": 16.65,
    "sat3_n60_a3 in 2^20": 11.51,
    "sat3_n60_a3 in 2^27": 11.49,
}
"""log10 of the multiplications over all slices allowed for ten seconds."""

TENS = ("cotengra hyper 10 s", "cotengra annealing 10 s")
NEAR = 0.05


def bars(cells: Cells) -> Iterator[str]:
    """Yield a line for each aim about which something was measured: our medians against the best runs of the peers."""
    peers = {who for _, who in cells if who.startswith(("cotengra", "opt_einsum"))}
    for who in ("numba 1 s", "cold 2 s"):
        ours = _medians(cells, who)
        for case in sorted(ours.keys() & NAMED.keys()):
            yield _line(
                f"{case}, {who}", ours[case] <= NAMED[case], f"{ours[case]:.2f} (aim {NAMED[case]:.2f})"
            )
        best = {case: _best(cells, case, peers) for case in ours}
        lost = [
            f"{c} {ours[c]:.2f} to {b:.2f}" for c, b in best.items() if b is not None and ours[c] > b + NEAR
        ]
        if any(b is not None for b in best.values()):
            yield _line(f"{who} within {NEAR} of the best peer", not lost, ", ".join(lost) or "everywhere")
    hyper = {case: _best(cells, case, TENS[:1]) for case, _ in cells}
    ratios = [m - h for c, m in _medians(cells, "numba 1 s").items() if (h := hyper[c]) is not None]
    if ratios:
        mean = 10 ** statistics.mean(ratios)
        yield _line(
            "numba 1 s over cotengra hyper 10 s, geometric mean", mean <= 0.5, f"{mean:.2f} (aim 0.5)"
        )
    yield from _share(cells, "Python 1 s", TENS, 0.8, "no worse than cotengra 10 s")
    yield from _share(cells, "numba 0.1 s", TENS[:1], 0.9, "no worse than cotengra hyper 10 s")
    sliced = _medians(cells, "contractc 10 s")
    for case, aim in SLICED.items():
        if case in sliced:
            yield _line(case, sliced[case] <= aim, f"{sliced[case]:.2f} (aim {aim:.2f})")
    behind = [m - t for c, m in sliced.items() if (t := _best(cells, c, ["cotengra 10 s"])) is not None]
    if behind:
        mean, worst = 10 ** statistics.mean(behind), 10 ** max(behind)
        kept = mean <= 0.1 and worst <= 0.15
        yield _line(
            "slices over cotengra's", kept, f"{mean:.3f} in geometric mean, {worst:.3f} at most (0.1, 0.15)"
        )


def _share(cells: Cells, who: str, peers: Sequence[str], aim: float, words: str) -> Iterator[str]:
    ours = _medians(cells, who)
    both = [(m, b) for c, m in ours.items() if (b := _best(cells, c, peers)) is not None]
    if both:
        share = sum(mine <= theirs + 1e-4 for mine, theirs in both) / len(both)
        yield _line(f"{who} {words}", share >= aim, f"{share:.0%} of {len(both)} (aim {aim:.0%})")


def _medians(cells: Cells, who: str) -> dict[str, float]:
    return {case: statistics.median(runs) for (case, name), runs in sorted(cells.items()) if name == who}


def _best(cells: Cells, case: str, peers: Sequence[str] | set[str]) -> float | None:
    return min([min(cells[case, who]) for who in peers if (case, who) in cells], default=None)


def _line(aim: str, kept: bool, measured: str) -> str:
    return f"{'kept' if kept else 'MISSED'}: {aim}: {measured}"
