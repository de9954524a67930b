"""How long a search may take, and who is told how it goes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, log10
from time import monotonic
from typing import Any

from contractc.options import Search

MOVES_PER_SECOND = 500_000
"""How fast annealing is at least in pure Python, for deciding how much of it a network is worth."""

EVERY = 0.1
"""Seconds between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a search tells its `progress` callback: seconds gone, the share of its time, log10 flops of its best."""

    seconds: float
    share: float
    log10_flops: float


@dataclass(slots=True)
class Clock:
    """The deadline of one search, in seconds of `monotonic`, and its reports; `inf` for no deadline."""

    deadline: float = inf
    report: Callable[[Progress], Any] | None = None
    started: float = field(default_factory=monotonic)
    reported: float = 0.0

    def left(self) -> float:
        """Return the seconds left."""
        return self.deadline - monotonic()

    def stop(self) -> None:
        """Let the time be over: the user has interrupted."""
        self.deadline = -inf

    def late(self, best: float = inf) -> bool:
        """Return whether the time is over; `best` is log2 of the flops of the best order so far, for the reports."""
        now = monotonic()
        if self.report is not None and now - self.reported >= EVERY:
            self.reported = now
            span = self.deadline - self.started
            share = (now - self.started) / span if span < inf else 0.0
            self.report(Progress(now - self.started, min(1.0, share), best * log10(2.0)))
        return now >= self.deadline


def clock_of(options: Search, started: float | None = None) -> Clock:
    """Return the clock of a search that starts now, or has `started` before."""
    now = monotonic() if started is None else started
    deadline = inf if options.time_limit is None else now + options.time_limit
    return Clock(deadline, reporter(options.progress), now)


def reporter(progress: Any) -> Callable[[Progress], Any] | None:
    """Return the callback that `progress` asks for: itself, or with True a bar of tqdm on a terminal.

    Without tqdm, or where stderr is no terminal, True reports nothing.
    """
    if callable(progress):
        found: Callable[[Progress], Any] = progress
        return found
    if not progress or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    bar = tqdm(total=100, desc="contractc plans", unit="%", leave=False)

    def show(state: Progress) -> None:
        bar.set_postfix_str(f"10^{state.log10_flops:.2f} flops", refresh=False)
        bar.update(100 * state.share - bar.n)

    return show
