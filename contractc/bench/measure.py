"""Seconds of calls, in interleaved rounds: noise of the machine then falls on all contestants alike.

The clock is an argument, so that the tests of this module need no time.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from math import ceil
from time import perf_counter
from typing import Any

Call = Callable[[], Any]
Clock = Callable[[], float]

FEWEST_ROUNDS = 5
WARM = 0.1
"""Seconds of calls before the rounds: plain calls of contractc change to compiled loops after some 0.05 s of them."""

WARM_OPERAND = 0.03
"""More such seconds for each operand: the loops of long expressions take longer to compile, and come later."""

ROUND_SECONDS = 1e-3
"""A round repeats a call until it takes about this long: far above the clock's resolution of a microsecond."""

SETTLING, SETTLED = 2.0, 5.0
"""For so many times the seconds of a round a contestant's calls are not measured, as caches and branch prediction find
back to them: after another's, a layer of 0.13 ms took 0.39 ms once, one of 8 MB 2.1 and 1.6 before 1.0. Calls that take
so many times the seconds of a round begin at once."""


def timed(call: Call, clock: Clock = perf_counter) -> tuple[Any, float]:
    """Return the result of one call and its seconds."""
    start = clock()
    result = call()
    return result, clock() - start


def repeated(call: Call, times: int, clock: Clock = perf_counter) -> float:
    """Return the seconds of one call, from `times` in a row, 0 for none; each result is freed before the next call."""
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / max(1, times)


def _warmed(call: Call, clock: Clock, warm: float) -> float:
    """Return the least seconds of a few calls in a row, which together take `warm` seconds."""
    best, spent, count = float("inf"), 0.0, 0
    while count < 2 or spent < warm:
        seconds = repeated(call, 1, clock)
        best, spent, count = min(best, seconds), spent + seconds, count + 1
    return best


def interleaved(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    round_seconds: float = ROUND_SECONDS,
    budget: float = float("inf"),
    seed: int = 0,
    warm_seconds: float = WARM,
    clock: Clock = perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of one call of each contestant in each round; every round has an order of its own.

    Each is called ahead for `warm_seconds`, at least twice, which warms it and tells how often a round must repeat it:
    rounds measure what calls cost once a library has settled, and the caches have; the first calls are measured apart.
    The garbage collector is off meanwhile.

    Args:
        rounds: how many; fewer, but at least `FEWEST_ROUNDS`, if `budget` seconds do not suffice.
        round_seconds: the least time of one contestant in one round.
    """
    shuffle = random.Random(seed).shuffle
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        warm = {name: _warmed(call, clock, warm_seconds) for name, call in calls.items()}
        # single calls find the caches cold, so a short call is timed again in a row
        warm = {
            name: s
            if s >= round_seconds
            else repeated(calls[name], ceil(round_seconds / max(s, 1e-8)), clock)
            for name, s in warm.items()
        }
        times = {name: max(1, ceil(round_seconds / max(s, 1e-8))) for name, s in warm.items()}
        ahead = {
            name: ceil(SETTLING * round_seconds / max(s, 1e-8)) if s < SETTLED * round_seconds else 0
            for name, s in warm.items()
        }
        one_round = sum((times[name] + ahead[name]) * s for name, s in warm.items())
        affordable = budget / one_round if one_round else rounds
        count = max(min(rounds, FEWEST_ROUNDS), int(min(rounds, affordable)))
        found: dict[str, list[float]] = {name: [] for name in calls}
        order = list(calls)
        for _ in range(count):
            shuffle(order)
            for name in order:
                repeated(calls[name], ahead[name], clock)
                found[name].append(repeated(calls[name], times[name], clock))
    finally:
        if collecting:
            gc.enable()
    return found
