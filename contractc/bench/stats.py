"""Statistics of paired measurements: medians with exact intervals, geometric means, rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, exp, log, sqrt
from statistics import fmean, median
from typing import NamedTuple


class Ratio(NamedTuple):
    """A median of paired ratios and the bounds of its 95 % interval; more than 1 means that ours is faster."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Return the median of `values` and the bounds of its confidence interval.

    The bounds are order statistics: the number of values below the true median is binomial(n, 1/2) whatever the
    distribution is, so from rank k+1 to rank n-k the interval covers it with probability
    1 - 2 P(binomial <= k) (Thompson 1936; David and Nagaraja, "Order Statistics", section 7.1). With fewer than six
    values no interval reaches 95 %; then it is that of the smallest and the largest.
    """
    ordered = sorted(values)
    below, left = 0, (1 - confidence) / 2 * 2 ** len(ordered)
    total = 1
    while total <= left:
        below += 1
        total += comb(len(ordered), below)
    at = max(below - 1, 0)
    return Ratio(median(ordered), ordered[at], ordered[-1 - at])


def paired(ours: Sequence[float], other: Sequence[float]) -> Ratio:
    """Return how many times as long the other takes: the median of other / ours over the rounds they shared."""
    return median_interval([b / a for a, b in zip(ours, other, strict=True)])


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values, or nan if there are none."""
    return exp(fmean(map(log, values))) if values else float("nan")


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return Spearman's rank correlation (ties get their mean rank), or nan if a side is constant."""
    a, b = _ranks(xs), _ranks(ys)
    middle = (len(a) - 1) / 2
    up = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    down = sqrt(sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b))
    return up / down if down else float("nan")


def _ranks(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = {}
    for rank, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(rank)
    return [fmean(places[value]) for value in values]
