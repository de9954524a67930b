"""Order and slices searched for together: what is looped over so that no tensor is larger than a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp2, inf
from sys import maxsize
from time import monotonic
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from contractc.search import anneal_python
from contractc.search.anneal import Engine, numbers
from contractc.search.clock import Clock
from contractc.search.graph import Graph, Objective, Pairs, bits, log2_sum, masks, weigher

ROUNDS = 200
"""Rounds if neither a time nor a number is given."""

SWEEP = 200
"""Moves of annealing a tensor in each round."""

WARM, COLD = 5.0, 20.0
"""First and last inverse temperature inside of a round."""

RARE, LONG, HOT = 0.1, 2000, 1.0
"""How often a round is a long one, which forgets the tree: its moves a tensor, its first inverse temperature."""

STEEP = 4.0
"""A tensor that is larger than the limit by one bit is charged this many bits more."""

EASE = 6.0
"""A tensor as large as the limit is charged this many bits less than all steps together."""

LENIENT, STRICT = 2.0, 40.0
"""First and last inverse temperature at which a round is kept, per bit of the whole charge."""


@dataclass(frozen=True, slots=True)
class Sliced:
    """A tree, its sliced modes, log2 of the multiplications over all slices, the rounds planned and made."""

    path: Pairs
    modes: int
    cost: float
    rounds: tuple[int, int]


def sliced_jointly(
    graph: Graph,
    starts: Sequence[Pairs],
    limit: float,
    clock: Clock,
    engine: ModuleType,
    rounds: int | tuple[int, int] | None = None,
    seed: int = 0,
    barred: int = 0,
) -> Sliced | None:
    """Return the cheapest tree and slices met whose tensors have at most 2**`limit` elements; None if none has.

    A round takes one to three modes out of the slices, lets the rest of the tree settle by a little annealing in
    which tensors above the limit are charged more, slices again what is too large, each time the mode that adds
    the fewest multiplications, and drops the slices that are not needed. Its result is kept by the Metropolis rule
    on the whole charge. Only results of steps count: the tensors given are there anyway. Several trees to start
    from get some rounds each, and the best of them the rest.

    Most starts are grown: from a tree without slices one mode after the other is sliced, and after each the tree
    settles in a round of its own. (Slicing and improving the tree in turn: cotengra's `slicing_reconf`, J. Gray.)

    Args:
        rounds: how many, or (planned, made) as an earlier search has recorded them; None for as many as there is
            time for.
        barred: modes that are never sliced.
    """
    task = _Task(graph, limit, barred, engine, clock)
    trees = [_Cut(task, path, 0) for path in dict.fromkeys(starts)]
    states = [_State(cut) for cut in map(_fitted, trees) if cut is not None]
    states = sorted(states, key=lambda state: state.now.cost)[:STARTS]
    if not states:
        return None
    if isinstance(rounds, tuple):
        planned, stop = rounds
    elif rounds is None and clock.deadline < inf:
        planned, stop = _affordable(states[0].now), maxsize
    else:
        planned = stop = ROUNDS if rounds is None else rounds
    random = numbers(seed)
    done, length, share = 0, states[0].now.modes.bit_count(), 0.0
    try:
        while done + length <= min(stop, GROWING * planned) and not clock.late(states[0].best.cost):
            grown, length = _grown(trees[len(states) % len(trees)], random)
            if grown is None or clock.left() <= 0:
                break
            states.append(_State(grown))
            done += length
        states = sorted(states, key=lambda state: state.now.cost)[:STARTS]
        while done < stop and not clock.late(states[0].best.cost):
            share = min(1.0, done / planned)
            if share > TRIALS:
                states = sorted(states, key=lambda state: state.best.cost)[:1]
            state = states[done % len(states)]
            long = random.random() < RARE
            tried = _round(state.now, random, long)
            if clock.left() <= 0:  # it may have been cut short, so it does not count
                break
            done += 1
            if tried is not None:
                state.judge(tried, share, random)
    except KeyboardInterrupt:
        clock.stop()
    best = min((state.best for state in states), key=lambda found: found.cost)
    return Sliced(best.path, best.modes, best.cost, (planned, done))


@dataclass(frozen=True, slots=True)
class _Task:
    """What does not change in a search for slices; `weight` is log2 of the elements of a mask, `unit` of each mode."""

    graph: Graph
    limit: float
    barred: int
    engine: ModuleType
    clock: Clock
    weight: Callable[[int], float] = field(init=False)
    unit: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", weigher(self.graph.extents))
        object.__setattr__(self, "unit", np.log2(np.array(self.graph.extents, float)))


class _Cut:
    """A tree and its sliced modes: the modes of its nodes, what its steps touch, log2 of what all slices cost."""

    def __init__(self, task: _Task, path: Pairs, modes: int, nodes: Sequence[int] = ()) -> None:
        self.task, self.path, self.modes = task, path, modes
        self.nodes = nodes or masks(task.graph, path)
        self.touched = [self.nodes[a] | self.nodes[b] for a, b in path]
        self.made = self.nodes[len(task.graph.leaves) :]
        weight = task.weight
        self.slice_cost = log2_sum([weight(mask & ~modes) for mask in self.touched])
        self.cost = self.slice_cost + weight(modes)

    def sliced(self, modes: int) -> _Cut:
        """Return the same tree with other slices."""
        return self if modes == self.modes else _Cut(self.task, self.path, modes, self.nodes)

    def largest(self) -> int:
        """Return the modes of the largest tensor made in a slice."""
        weight, modes = self.task.weight, self.modes
        return max(self.made, key=lambda mask: weight(mask & ~modes))

    def fits(self) -> bool:
        """Return whether no tensor is too large."""
        return self.task.weight(self.largest() & ~self.modes) <= self.task.limit + 1e-9


class _State:
    """A tree and its slices as they are now, and the best so far."""

    def __init__(self, cut: _Cut) -> None:
        self.now = self.best = cut

    def judge(self, tried: _Cut, share: float, random: np.random.Generator) -> None:
        """Take what was tried, or keep what there is; far above the best, return to it."""
        rise = tried.cost - self.now.cost
        beta = LENIENT + (STRICT - LENIENT) * share
        if rise <= 0 or random.random() < exp2(max(-1000.0, -beta * rise)):
            self.now = tried
        if self.now.cost < self.best.cost - 1e-9:
            self.best = self.now
        elif self.now.cost > self.best.cost + FAR:
            self.now = self.best


def _affordable(cut: _Cut) -> int:
    """Return how many rounds there is time for, at least."""
    clock, began = cut.task.clock, monotonic()
    for seed in (0, 1):
        if not clock.late():
            _round(cut, numbers(seed), long=False)
    taken = (1 - RARE + RARE * LONG / SWEEP) * (monotonic() - began) / 2
    return 1 + int(PACE * max(0.0, clock.left()) / max(1e-6, taken))


PACE = 0.9
"""The share of the time left that rounds are planned for; the temperature stays low in those that follow."""


STARTS = 4
"""Most trees that slicing starts from."""

GROWING = 0.4
"""The share of the rounds in which starts are grown."""

ADVENTURE = 1.0
"""How many better modes are passed over on average when the next to slice is chosen."""

TRIALS = 0.6
"""The share of the rounds after which only the best goes on."""

FAR = 3.0
"""Bits above the best at which a search returns to it."""


def _round(cut: _Cut, random: np.random.Generator, long: bool) -> _Cut | None:
    """Return a tree and slices that fit, a round away; None if none do."""
    modes, sliced = cut.modes, list(bits(cut.modes))
    for k in random.permutation(len(sliced))[: 1 + int(random.integers(3))]:
        modes &= ~(1 << sliced[k])
    found = _fitted(_settled(cut.sliced(modes), random, *((24, LONG, HOT) if long else (4, SWEEP, WARM))))
    return None if found is None else _dropped(found)


def _grown(cut: _Cut, random: np.random.Generator) -> tuple[_Cut | None, int]:
    """Return a tree and slices that fit, after one mode at a time, or None, and the rounds it took.

    The next mode is of the largest tensor, one of those that add the fewest multiplications.
    """
    task, taken = cut.task, 0
    while not cut.fits():
        candidates = np.array(list(bits(cut.largest() & ~cut.modes & ~task.barred)), int)
        if not len(candidates) or task.clock.left() <= 0:
            return None, taken
        costs = np.array([task.weight(mask & ~cut.modes) for mask in cut.touched])
        added = _added(task, costs, _table(cut.touched, len(task.graph.extents)), candidates)
        place = min(len(candidates) - 1, int(random.exponential(ADVENTURE)))
        chosen = int(candidates[added.argsort(kind="stable")[place]])
        taken += 1
        cut = _settled(cut.sliced(cut.modes | 1 << chosen), random, 4, SWEEP, WARM)
    return _dropped(cut), taken


def _settled(cut: _Cut, random: np.random.Generator, steps: int, number: int, warm: float) -> _Cut:
    """Return the tree after `number` moves a tensor in `steps` temperatures, too large tensors being charged more."""
    task, modes = cut.task, cut.modes
    charged = exp2(max(-900.0, min(900.0, cut.slice_cost - EASE - STEEP * task.limit)))
    tree: Engine = task.engine.Tree(
        _without(task.graph, modes), cut.path, Objective(1.0, 0.0, charged, STEEP)
    )
    for beta in np.linspace(warm, COLD, steps):
        if task.clock.left() <= 0:
            break
        tree.begin()
        tree.local(random.random((number * tree.count // steps, 2)), float(beta))
    return _Cut(task, tree.path(), modes)


def _without(graph: Graph, modes: int) -> Graph:
    """Return the graph of one slice; modes keep their bits."""
    return Graph(tuple([leaf & ~modes for leaf in graph.leaves]), graph.wanted & ~modes, graph.extents)


def fitted(graph: Graph, path: Pairs, limit: float) -> int | None:
    """Return what has to be sliced so that every tensor of a tree fits; None if that cannot be."""
    found = _fitted(_Cut(_Task(graph, limit, 0, anneal_python, Clock()), path, 0))
    return None if found is None else found.modes


def _fitted(cut: _Cut) -> _Cut | None:
    """Return the same tree with more slices, so that every tensor fits; None if that cannot be."""
    if cut.fits():
        return cut
    task, modes, width = cut.task, cut.modes, len(cut.task.graph.extents)
    sizes = np.array([task.weight(mask & ~modes) for mask in cut.made])
    costs = np.array([task.weight(mask & ~modes) for mask in cut.touched])
    table, inside = _table(cut.touched, width), _table(cut.made, width)
    free = np.ones(width, bool)
    free[list(bits(modes | task.barred))] = False
    while True:
        largest = int(sizes.argmax())
        if sizes[largest] <= task.limit + 1e-9:
            return cut.sliced(modes)
        candidates = np.flatnonzero(inside[largest] & free)
        if not len(candidates):
            return None
        chosen = int(candidates[_added(task, costs, table, candidates).argmin()])
        free[chosen] = False
        modes |= 1 << chosen
        sizes -= task.unit[chosen] * inside[:, chosen]
        costs -= task.unit[chosen] * table[:, chosen]


def _added(
    task: _Task, costs: NDArray[np.float64], table: NDArray[np.bool_], candidates: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Return log2 of how much slicing each candidate multiplies the cost by, for a bit that it takes off.

    A mode that takes off two bits may cost twice the bits of one.

    Args:
        costs: log2 of what each step costs.
        table: which modes each step touches.
    """
    scaled = np.exp2(costs - costs.max())
    relieved = scaled @ table[:, candidates]
    grown = np.exp2(task.unit[candidates]) * (scaled.sum() - relieved) + relieved
    added: NDArray[np.float64] = (np.log2(grown) - np.log2(scaled.sum())) / task.unit[candidates]
    return added


def _dropped(cut: _Cut) -> _Cut:
    """Return the same tree without slices that nothing needs, the ones that cost most first."""
    task, modes, extents = cut.task, cut.modes, cut.task.graph.extents
    sizes = np.array([task.weight(mask & ~modes) for mask in cut.made])
    inside = _table(cut.made, len(extents))
    for b in sorted(bits(modes), key=lambda b: (-extents[b], b)):
        grown = sizes + task.unit[b] * inside[:, b]
        if grown.max() <= task.limit + 1e-9:
            modes ^= 1 << b
            sizes = grown
    return cut.sliced(modes)


def _table(rows: Sequence[int], width: int) -> NDArray[np.bool_]:
    """Return the bits of each mask as a row."""
    length = -(-width // 8)
    data = b"".join([mask.to_bytes(length, "little") for mask in rows])
    table = np.frombuffer(data, np.uint8).reshape(len(rows), length)
    return np.unpackbits(table, axis=1, bitorder="little")[:, :width].astype(bool)
