"""Simulated annealing of contraction trees: two proposals raced, with one engine in Python and one in numba."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count as counted
from math import inf, log2
from time import monotonic
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from contractc.search import anneal_python
from contractc.search.bisection import WORK
from contractc.search.clock import EVERY, Clock
from contractc.search.graph import FLOPS, Graph, Objective, Pairs, charge, children, path_of

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


LOCAL = Schedule("local moves", "local", 0, 1.0, 12.0)
SWEPT = Schedule("local moves from a sweep", "local", -1, 3.0, 14.0)
WALKS = Schedule("walks", "walk", 0, 20.0, 200.0)
SCHEDULES = (LOCAL, WALKS, SWEPT)
"""The contestants. A start is a place in the list of starts: the cheapest is the first, a sweep the last.

Walks start from the trees that scouts have found.
"""

SCOUTS = Schedule("scouts", "walk", 0, 0.0, 200.0)
"""Short walks from hot: whether a tree cuts the network well is decided early, and most trees do not."""

HALVES = Schedule("scouts from halves", "walk", 0, 10.0, 200.0)
"""Scouts that each start from a tree of halves of its own, where these are quickly made and modes are mostly bonds."""

QUICK = 2.0
"""How many pilots a bisection may take the time of."""

BONDS = 2.5
"""Tensors that modes are in on average, up to which scouts start from halves: a cut counts a hyperedge only once."""

LAST = Schedule("the cold", "local", 0, 12.0, 24.0)
"""How a finished tree is looked over."""

PIECE = 16
"""Moves a tensor of one such run."""

PILOT = 0.05
"""The share of the moves that each schedule gets before the promising ones share the rest."""

SCOUT = 400
"""Moves a tensor of a scout."""

SCOUTING = 0.4
"""The share of the moves that goes to scouts where they are promising."""

LEADERS = 3
"""Trees of scouts that walks start from."""

ENOUGH = 5_000
"""Moves a tensor of a run: where there is time for more, several runs find more than a long one."""

FEW = 2
"""With moves for fewer runs than this, scouts have to be better by `PROMISING` than others are to get more moves."""

MOST = 32
"""Most runs one after the other."""

PROMISING, CLOSE = 1.5, 0.5
"""Bits behind the best at which a schedule is left out: after its pilot, and after half of the runs."""

TREES = 8
"""Most trees that are kept beside the best."""

TOGETHER = 4
"""Times as many moves between two looks at the clock where threads wait for each other to take them."""

FIRST = 30_000
"""Fewer moves than this are given to the local proposal alone."""

HOPEFUL = 1.1
"""The share of the time left that runs are planned for: the last of them may be cut short, nearly cold as it is."""


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

    `moves` are `Shares`, those made before the deadline at last; nothing if the user interrupted. `others`
    are the best trees of other runs.
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
    threads: int = 1,
) -> Annealed:
    """Return the best tree met while annealing from `starts`, the cheapest first, a sweep last.

    A move takes a node ((A, B), C) and makes it (A, (B, C)) where B and C share a mode. The local proposal takes
    a random node and looks at the two steps it changes; the walk goes from a random leaf to the root and looks at
    all steps together. Each of `SCHEDULES` gets a pilot of some of the moves; the pilots of the walks are scouts,
    and there are more of them if they are promising. Then come runs of `ENOUGH` moves a tensor: the first half by the
    schedules that were promising in their pilots, in turn, the second half by those that are close to the best by
    then. Every run has random numbers of its own, so what is found does not depend on the number of threads.

    Args:
        moves: in all, or those that an earlier search has recorded; None for as many as the clock has time for.
        threads: runs at the same time, with an engine that lets others run.

    Sources: the moves are those of cotengra's simulated annealing and of Google's tnco, the walk is tnco's; the
    local acceptance and the scouts are neither's.
    """
    crew = _Crew(graph, objective, engine, seed, threads if engine.NAME == "numba" else 1, clock)
    count = len(graph.leaves)
    if isinstance(moves, tuple):
        shares = Shares(*moves)
    else:
        total = moves
        if total is None:
            pace = crew.pace = _pace(crew.tree(starts[0]), engine.BLOCK)
            total = int(pace * max(0.0, clock.left()) * HOPEFUL)
        pilot = int(total * PILOT) if total >= FIRST else 0
        shares = Shares(pilot, int(total * SCOUTING))
    places = sum([leaf.bit_count() for leaf in graph.leaves])
    crew.work = WORK * places * log2(count)
    if places <= BONDS * len(graph.extents) and crew.work <= QUICK * shares.pilot:
        crew.halve = engine.bisections(graph)
    ran = [_Ran(LOCAL, -1, 0, charge(graph, starts[0], objective), starts[0], 0.0)]
    chosen = _pilots(crew, starts, shares, ran, moves is None)
    if chosen is None and clock.deadline == -inf:  # interrupted, perhaps within a move
        return crew.answer(ran, ())
    if chosen is None:
        made = sum(run.made for run in ran)
        return crew.answer(ran, Shares(shares.pilot, shares.scouting, made=made))
    if not isinstance(moves, tuple):
        spent = sum(run.made for run in ran)
        if moves is not None:
            rest = moves - spent
            half, other = _rounds(rest, count)
        else:
            long = [run for run in ran if run.made and not run.scouted]
            if long:  # scouts are slower: they are hot, and many
                pace = sum(run.made for run in long) / max(1e-6, sum(run.seconds for run in long))
            each = int(pace * max(0.0, clock.left()) * HOPEFUL)
            half, other = (crew.threads * runs for runs in _rounds(each, count))
            rest = crew.threads * each
        scouting = sum(run.made for run in ran if run.scouted)
        shares = Shares(shares.pilot, scouting, half, other, rest, rest)
    return crew.answer(ran, shares._replace(made=_runs(crew, starts, chosen, shares, ran)))


class Shares(NamedTuple):
    """Moves of each pilot and of all scouts; the runs of both halves, the moves planned for these and made by them.

    Without runs, `made` is where the deadline has stopped the pilots.
    """

    pilot: int
    scouting: int
    half: int = 0
    other: int = 0
    rest: int = 0
    made: int = 0


def _pilots(
    crew: _Crew, starts: Sequence[Pairs], shares: Shares, ran: list[_Ran], timed: bool
) -> list[Schedule] | None:
    """Return the promising schedules after their pilots and the scouts, best first; None if the time was over."""
    pilot = shares.pilot
    local = [LOCAL] if len(starts) == 1 else [LOCAL, SWEPT]
    if not pilot:
        return local[-1:]
    length = min(pilot, SCOUT * len(crew.graph.leaves))
    first = pilot // length
    more = max(first, shares.scouting // length)
    scouts = [Job(HALVES if crew.halve else SCOUTS, starts[0], length, length)] * more
    jobs = [Job(schedule, starts[schedule.start], pilot, pilot) for schedule in local] + scouts[:first]
    stopped = not shares.half and shares.made > 0  # an earlier search has come no further than this
    pilots = crew.run(_first(jobs, shares.made) if stopped else jobs, ran)
    if sum(run.made for run in pilots) < sum(job.moves for job in jobs):
        return None
    ranked = sorted(pilots, key=lambda run: (run.cost, run.number))
    chosen = [run.schedule for run in ranked if run.cost <= ranked[0].cost + PROMISING]
    if pilot < PILOT * FEW * ENOUGH * len(crew.graph.leaves):
        turned = [run for run in ranked if not run.scouted]
        if turned[0].cost <= ranked[0].cost + PROMISING:
            chosen = [run.schedule for run in turned]
    if SCOUTS in chosen or HALVES in chosen:
        more -= first
        if timed:
            pace = sum(run.seconds for run in pilots[len(local) :]) / first
            more = min(more, int(SCOUTING * crew.threads * max(0.0, crew.clock.left()) / max(1e-6, pace)))
        made = crew.run(scouts[first : first + more], ran)
        if made and made[-1].made < length:
            ran.pop()  # it could not be made again
        best = min([run.cost for run in ran if run.scouted])
        if best < ranked[0].cost:
            chosen = [SCOUTS, *(run.schedule for run in ranked if run.cost <= best + CLOSE)]
    return list(dict.fromkeys(WALKS if schedule in (SCOUTS, HALVES) else schedule for schedule in chosen))


def _first(jobs: Sequence[Job], moves: int) -> list[Job]:
    """Return `jobs` as far as they get in so many moves."""
    found = []
    for job in jobs:
        if moves > 0:
            found.append(job._replace(stop=min(job.moves, moves)))
        moves -= job.moves
    return found


def _runs(
    crew: _Crew, starts: Sequence[Pairs], chosen: list[Schedule], shares: Shares, ran: list[_Ran]
) -> int:
    """Return how many moves were made in the runs of both halves."""
    scouts = [run for run in ran if run.scouted]
    leaders = [run.tree for run in sorted(scouts, key=lambda run: (run.cost, run.number))[:LEADERS]]
    number, made, walks = shares.half + shares.other, 0, 0
    for places in (range(shares.half), range(shares.half, number)):
        jobs = []
        for k in places:
            schedule, before = chosen[k % len(chosen)], shares.rest * k // number
            start = starts[schedule.start]
            if schedule is WALKS:
                start = leaders[walks % len(leaders)]
                walks += 1
            planned = shares.rest * (k + 1) // number - before
            if shares.made > before:
                jobs.append(Job(schedule, start, planned, min(planned, shares.made - before)))
        made += sum(run.made for run in crew.run(jobs, ran))
        if made < shares.rest * places.stop // number:
            break
        best = min(run.cost for run in ran)
        close = {run.schedule for run in ran if run.cost <= best + CLOSE}
        chosen = [schedule for schedule in chosen if schedule in close] or chosen
    return made


def _rounds(moves: int, count: int) -> tuple[int, int]:
    """Return in how many runs one after the other `moves` are made for `count` tensors: two halves."""
    runs = max(1, min(MOST, moves // (ENOUGH * count)))
    return (runs + 1) // 2, runs // 2


def colder(
    graph: Graph,
    path: Pairs,
    moves: int | None,
    clock: Clock,
    seed: int,
    engine: ModuleType,
    objective: Objective = FLOPS,
) -> tuple[Pairs, int]:
    """Return the best tree met in about `moves` local moves at low temperature, and the moves.

    They come in runs of `PIECE` moves a tensor, each from the best tree so far, so that the deadline undoes little.

    Args:
        moves: None for as many as the clock has time for.
    """
    crew = _Crew(graph, objective, engine, seed, 1, clock)
    ran: list[_Ran] = []
    if len(path) < 2 or clock.left() <= 0:
        return path, 0
    piece = PIECE * len(graph.leaves)
    for _ in counted() if moves is None else range(moves // piece):
        (run,) = crew.run([Job(LAST, path, piece, piece)], ran)
        if run.made < piece:
            ran.pop()
            break
        path = run.tree
    return path, piece * len(ran)


class Job(NamedTuple):
    """A run to be made: its schedule, the tree it starts from, the moves planned, those after which it stops."""

    schedule: Schedule
    start: Pairs
    moves: int
    stop: int


class _Ran(NamedTuple):
    """One run: its schedule and number, the moves it made, log2 of what its best tree is charged, that tree."""

    schedule: Schedule
    number: int
    made: int
    cost: float
    tree: Pairs
    seconds: float

    @property
    def scouted(self) -> bool:
        """Return whether it was a scout."""
        return self.schedule in (SCOUTS, HALVES)


@dataclass(slots=True)
class _Crew:
    """Who makes runs of annealing: one after the other, or on several threads.

    `halve` makes trees of halves, of other draws each, in the time of `work` moves; `pace` is moves in a second.
    """

    graph: Graph
    objective: Objective
    engine: ModuleType
    seed: int
    threads: int
    clock: Clock
    halve: Callable[[int], Pairs] | None = None
    work: float = 0.0
    pace: float = inf
    idle: list[Engine] = field(default_factory=list)

    def tree(self, path: Pairs) -> Engine:
        """Return a tree set to `path` that no other run uses."""
        try:
            tree = self.idle.pop()
        except IndexError:
            made: Engine = self.engine.Tree(self.graph, path, self.objective)
            return made
        tree.set(*children(path, tree.count))
        return tree

    def run(self, jobs: Sequence[Job], ran: list[_Ran]) -> list[_Ran]:
        """Return the runs of `jobs` up to the first that the deadline or its stop cut short; add them to `ran`."""
        numbered = [(len(ran) + k, job) for k, job in enumerate(jobs)]
        least = min([run.cost for run in ran], default=inf)
        if self.threads == 1 or len(jobs) == 1:
            done = []
            for number, job in numbered:
                done.append(self._made(number, job, self.clock, least))
                least = min(least, done[-1].cost)
                if done[-1].made < job.moves:
                    break
        else:
            done = self._together(numbered, least)
        ran += done
        return done

    def _together(self, numbered: Sequence[tuple[int, Job]], least: float) -> list[_Ran]:
        """Return runs made on several threads; this one looks at the clock and reports."""
        quiet = Clock(self.clock.deadline)
        with ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(self._made, number, job, quiet, least) for number, job in numbered]
            try:
                while wait(futures, timeout=EVERY).not_done:
                    self.clock.late(min([least, *(f.result().cost for f in futures if f.done())]))
            except KeyboardInterrupt:
                quiet.stop()
                self.clock.stop()
        made = [future.result() for future in futures]
        cut = next((k for k, (_, job) in enumerate(numbered) if made[k].made < job.moves), len(made))
        return made[: cut + 1]

    def _made(self, number: int, job: Job, clock: Clock, least: float) -> _Ran:
        """Return one run; its random numbers are given by the seed and its number."""
        schedule, start, moves, stop = job
        began = monotonic()
        if schedule is HALVES and self.halve:
            if clock.left() * self.pace < self.work:
                return _Ran(schedule, number, 0, inf, start, 0.0)
            start = self.halve(1_000_003 * self.seed + number)
        tree = self.tree(start)
        random = numbers(self.seed, number)
        sweeps = max(1, min(SWEEPS, moves // (LEAST * tree.count)))
        attempt = tree.walk if schedule.proposal == "walk" else tree.local
        found, cost, done = tree.get(), tree.cost(), 0
        block = self.engine.BLOCK * (1 if self.threads == 1 else TOGETHER)
        for sweep in range(sweeps):
            beta = schedule.first + (schedule.last - schedule.first) * sweep / max(1, sweeps - 1)
            tree.begin()
            end = min(stop, moves * (sweep + 1) // sweeps)
            try:
                while done < end and not clock.late(min(cost, least)):
                    size = min(block, end - done)
                    attempt(random.random((size, 2)), beta)
                    done += size
            except KeyboardInterrupt:  # perhaps within a move of Python's engine: the tree is dropped
                clock.stop()
                break
            if 2 * sweep >= sweeps or done < end or done >= stop:  # before that it is too hot for good trees
                now = tree.cost()
                if now < cost:
                    cost, found = now, tree.get()
            if done < end or done >= stop:
                break
        else:
            self.idle.append(tree)
        return _Ran(schedule, number, done, cost, path_of(*found, tree.count), monotonic() - began)

    def answer(self, ran: Sequence[_Ran], moves: tuple[int, ...]) -> Annealed:
        """Return the best of all runs."""
        best, *others = sorted(ran, key=lambda run: (run.cost, run.number))
        name = WALKS.name if best.scouted else best.schedule.name
        paths = tuple(dict.fromkeys(run.tree for run in others[:TREES]))
        return Annealed(best.tree, best.cost, name, self.engine.NAME, moves, paths)


def numbers(*seed: int) -> np.random.Generator:
    """Return the random numbers of one run: SFC64 draws them in under half of the time of NumPy's older generator."""
    return np.random.Generator(np.random.SFC64([part % 2**32 for part in seed]))


def _pace(tree: Engine, block: int) -> float:
    """Return how many moves a second the engine makes on this tree; the tree is left as it was."""
    before = tree.get()
    draws = numbers(0).random((2 * block, 2))
    tree.begin()
    tree.local(draws[:2], 1.0)
    began = monotonic()
    tree.local(draws, 1.0)
    tree.walk(draws, 1.0)
    pace = 4 * block / max(1e-9, monotonic() - began)
    tree.set(*before)
    return pace
