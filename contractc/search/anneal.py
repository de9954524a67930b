"""Simulated annealing of contraction trees: two proposals raced, with one engine in Python and one in numba."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from math import inf
from pathlib import Path as Folder
from time import monotonic
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from contractc.search import anneal_python
from contractc.search.clock import Clock
from contractc.search.graph import FLOPS, Graph, Objective, Pairs, children, path_of

COMPILED = "contractc.search.anneal_numba"

SWEEPS = 128
"""Temperatures of a run; fewer where that would be under `LEAST` moves a tensor and sweep."""

LEAST = 8


class Schedule(NamedTuple):
    """One way to anneal: its proposal, where it starts, its first and last inverse temperature."""

    name: str
    proposal: str
    start: int
    first: float
    last: float


SCHEDULES = (
    Schedule("local moves", "local", 0, 1.0, 12.0),
    Schedule("walks", "walk", 0, 0.0, 200.0),
    Schedule("local moves from a sweep", "local", -1, 3.0, 14.0),
)
"""The contestants. A start is a place in the list of starts: the cheapest is the first, a sweep the last."""

LAST = Schedule("the cold", "local", 0, 12.0, 24.0)
"""How a finished tree is looked over."""

PILOT = 0.05
"""The share of the moves that each schedule gets before the best one gets the rest."""

ROUNDS = 6
"""At most so many runs share the moves after the pilots, the schedules in turn, the best in its pilot first."""

ENOUGH = 20_000
"""Moves a tensor that a run has use for; from three times as many on, several runs find more than a long one."""

FIRST = 30_000
"""Fewer moves than this are given to the local proposal alone."""

SAFETY = 0.88
"""The share of the time left that moves are planned for: machines do not keep a steady pace."""


class Engine(Protocol):
    """A tree being annealed. Both engines make the same moves of the same draws."""

    count: int

    def set(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Take over a tree given by the children of its nodes."""

    def get(self) -> tuple[list[int], list[int]]:
        """Return the children of all nodes."""

    def path(self) -> Pairs:
        """Return the tree as an SSA path."""

    def cost(self) -> float:
        """Return log2 of what all steps are charged."""

    def begin(self) -> None:
        """Choose the scale of the sums for the moves that follow, and add up."""

    def local(self, draws: Any, beta: float) -> None:
        """Try a move for each row of `draws` at random nodes."""

    def walk(self, draws: Any, beta: float) -> None:
        """Try a move for each row of `draws` on walks from random leaves to the root."""


@dataclass(frozen=True, slots=True)
class Annealed:
    """What annealing found: the tree, log2 of its charge, who won, the engine, and the moves that make it again.

    `moves` are those of each pilot, those planned for the winner, and those the winner made before the deadline;
    nothing if the deadline cut a pilot short. `others` is the best tree of each run.
    """

    path: Pairs
    cost: float
    schedule: str
    engine: str
    moves: tuple[int, ...]
    others: tuple[Pairs, ...] = ()


def annealed(
    graph: Graph,
    starts: Sequence[Pairs],
    moves: int | tuple[int, ...] | None,
    clock: Clock,
    seed: int = 0,
    objective: Objective = FLOPS,
    engine: ModuleType = anneal_python,
) -> Annealed:
    """Return the best tree met while annealing from `starts`, the cheapest first, a sweep last.

    A move takes a node ((A, B), C) and makes it (A, (B, C)) where B and C share a mode. The local proposal takes
    a random node and looks at the two steps it changes; the walk goes from a random leaf to the root and looks at
    all steps together. Each of `SCHEDULES` gets a pilot of some of the moves, and the best one gets the rest; where
    there are moves enough for several runs, all take turns.

    Args:
        moves: in all, or (of each pilot, planned for the winner, made by the winner) as an earlier search has
            recorded them; None for as many as the clock has time for.

    Sources: the moves are those of cotengra's simulated annealing and of Google's tnco, the walk is tnco's; the
    local acceptance is neither's.
    """
    tree: Engine = engine.Tree(graph, starts[0], objective)
    best = _Best(tree)
    random = np.random.RandomState(seed)
    timed = moves is None
    if isinstance(moves, tuple):
        pilot, rest, stop = moves
    else:
        if moves is None:
            moves = int(_pace(tree, engine.BLOCK) * max(0.0, clock.left()) * SAFETY)
        pilot = int(moves * PILOT) if moves >= FIRST else 0
        rest = stop = moves - len(SCHEDULES) * pilot
    ranked: list[tuple[float, int]] = []
    began = monotonic()
    for k, schedule in enumerate(SCHEDULES if pilot else ()):
        tree.set(*children(starts[schedule.start], tree.count))
        done, cost = _run(tree, schedule, pilot, pilot, random, clock, best, engine.BLOCK)
        if done < pilot:
            return Annealed(path_of(*best.found, tree.count), best.cost, schedule.name, engine.NAME, ())
        ranked.append((cost, k))
    ranked = sorted(ranked) or [(0.0, len(SCHEDULES) - 1)]
    if pilot and timed:
        pace = len(SCHEDULES) * pilot / max(1e-6, monotonic() - began)
        rest = stop = int(pace * max(0.0, clock.left()) * SAFETY)
    rounds = min(ROUNDS, rest // (ENOUGH * tree.count))
    rounds = rounds if rounds >= len(SCHEDULES) else 1
    made, winner = 0, SCHEDULES[ranked[0][1]]
    for k in range(rounds):
        schedule, before = SCHEDULES[ranked[k % len(ranked)][1]], best.cost
        tree.set(*children(starts[schedule.start], tree.count))
        share = rest * (k + 1) // rounds - rest * k // rounds
        done, _ = _run(tree, schedule, share, min(share, stop - made), random, clock, best, engine.BLOCK)
        made += done
        winner = schedule if best.cost < before else winner
        if done < share:
            break
    return Annealed(
        path_of(*best.found, tree.count), best.cost, winner.name, engine.NAME, (pilot, rest, made)
    )


def colder(
    graph: Graph,
    path: Pairs,
    moves: int,
    clock: Clock,
    seed: int,
    engine: ModuleType,
    objective: Objective = FLOPS,
) -> tuple[Pairs, int]:
    """Return the best tree met in `moves` local moves at low temperature, and the moves; the deadline undoes them."""
    if not moves or len(path) < 2:
        return path, moves
    tree: Engine = engine.Tree(graph, path, objective)
    best = _Best(tree)
    done, _ = _run(tree, LAST, moves, moves, np.random.RandomState(seed), clock, best, engine.BLOCK)
    return (path_of(*best.found, tree.count), moves) if done == moves else (path, 0)


class _Best:
    """The cheapest tree met, and the cheapest of each run."""

    def __init__(self, tree: Engine) -> None:
        self.found = tree.get()
        self.cost = tree.cost()
        self.runs: list[tuple[float, tuple[list[int], list[int]]]] = []

    def begin(self) -> None:
        """A new run begins."""
        self.runs.append((inf, self.found))

    def look(self, tree: Engine) -> float:
        """Keep the tree if it is cheaper, and return log2 of its charge."""
        cost = tree.cost()
        if cost < self.runs[-1][0]:
            found = tree.get()
            self.runs[-1] = cost, found
            if cost < self.cost:
                self.cost, self.found = cost, found
        return cost

    def trees(self, count: int) -> tuple[Pairs, ...]:
        """Return the best tree of each run, the cheapest first."""
        return tuple([path_of(*found, count) for _, found in sorted(self.runs, key=lambda run: run[0])])


def _run(
    tree: Engine,
    schedule: Schedule,
    moves: int,
    stop: int,
    random: np.random.RandomState,
    clock: Clock,
    best: _Best,
    block: int,
) -> tuple[int, float]:
    """Return how many of `moves` were made before the deadline or `stop`, and the least log2 charge on the way."""
    sweeps = max(1, min(SWEEPS, moves // (LEAST * tree.count)))
    attempt = tree.walk if schedule.proposal == "walk" else tree.local
    done, least = 0, inf
    best.begin()
    for sweep in range(sweeps):
        beta = schedule.first + (schedule.last - schedule.first) * sweep / max(1, sweeps - 1)
        tree.begin()
        end = min(stop, moves * (sweep + 1) // sweeps)
        try:
            while done < end and not clock.late(best.cost):
                number = min(block, end - done)
                attempt(random.random_sample((number, 2)), beta)
                done += number
        except (
            KeyboardInterrupt
        ):  # between two moves of Python's engine, perhaps within one: the tree is dropped
            clock.stop()
            break
        least = min(least, best.look(tree))
        if done < end or done >= stop:
            break
    return done, least


def _pace(tree: Engine, block: int) -> float:
    """Return how many moves a second the engine makes on this tree; the tree is left as it was."""
    before = tree.get()
    draws = np.random.RandomState(0).random_sample((2 * block, 2))
    tree.begin()
    tree.local(draws[:2], 1.0)
    began = monotonic()
    tree.local(draws, 1.0)
    tree.walk(draws, 1.0)
    pace = 4 * block / max(1e-9, monotonic() - began)
    tree.set(*before)
    return pace


def engine(seconds: float) -> ModuleType:
    """Return the engine for a search of about `seconds`: numba's where loading it leaves most of the time.

    Compiling takes longer than loading what an earlier process has compiled; both are counted.
    """
    if COMPILED in sys.modules:
        return sys.modules[COMPILED]
    if find_spec("numba") is None or seconds < (LOADING if _is_compiled() else COMPILING):
        return anneal_python
    return import_module(COMPILED)


LOADING = 1.5
"""Seconds of search from which loading numba and its cached code (half a second) pays."""

COMPILING = 20.0
"""Seconds of search from which compiling pays."""


def _is_compiled() -> bool:
    """Return whether an earlier process has left compiled code beside the engine."""
    return any((Folder(__file__).parent / "__pycache__").glob("anneal_numba.*.nbi"))
