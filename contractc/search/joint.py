"""Order and slices searched for together: what is looped over so that no tensor is larger than a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp2, inf, log2
from time import monotonic
from types import ModuleType

import numpy as np

from contractc.search.anneal import Engine
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
    fitting = [(path, fitted(graph, path, 0, limit, barred)) for path in dict.fromkeys(starts)]
    states = [_State(graph, path, modes) for path, modes in fitting if modes is not None]
    states = sorted(states, key=lambda state: state.cost)[:STARTS]
    if not states:
        return None
    starts = list(dict.fromkeys(starts))
    if isinstance(rounds, tuple):
        planned, stop = rounds
    else:
        if rounds is None:
            rounds = _affordable(graph, states[0], limit, clock, engine, barred)
        planned = stop = rounds
    random = np.random.RandomState(seed)
    done, length, share = 0, states[0].modes.bit_count(), 0.0
    try:
        while done + length <= min(stop, GROWING * planned) and not clock.late(states[0].best.cost):
            path = starts[len(states) % len(starts)]
            grown = _grown(graph, path, limit, engine, random, barred, clock)
            if grown is None or clock.left() <= 0:
                break
            states.append(_State(graph, *grown[:2]))
            length = grown[2]
            done += length
        states = sorted(states, key=lambda state: state.cost)[:STARTS]
        while done < stop and not clock.late(states[0].best.cost):
            share = done / planned
            if share > TRIALS:
                states = sorted(states, key=lambda state: state.best.cost)[:1]
            state = states[done % len(states)]
            tried = _round(graph, state.path, state.modes, limit, engine, random, barred, clock)
            if clock.left() <= 0:  # it may have been cut short, so it does not count
                break
            done += 1
            if tried is not None:
                state.judge(graph, tried, share, random)
    except KeyboardInterrupt:
        clock.stop()
    best = min((state.best for state in states), key=lambda found: found.cost)
    return replace(best, rounds=(planned, done))


def _affordable(
    graph: Graph, state: _State, limit: float, clock: Clock, engine: ModuleType, barred: int
) -> int:
    """Return how many rounds there is time for: `ROUNDS` without a deadline."""
    if clock.deadline == inf:
        return ROUNDS
    began = monotonic()
    for seed in (0, 1):
        if not clock.late():
            _round(graph, state.path, state.modes, limit, engine, np.random.RandomState(seed), barred, clock)
    return int(PACE * max(0.0, clock.left()) / max(1e-6, (monotonic() - began) / 2))


PACE = 0.75
"""The share of the time left that rounds are planned for."""

STARTS = 4
"""Most trees that slicing starts from."""

GROWING = 0.4
"""The share of the rounds in which starts are grown."""

ADVENTURE = 1.0
"""How many better modes are passed over on average when the next to slice is chosen."""

TRIALS = 0.6
"""The share of the rounds after which only the best goes on."""


class _State:
    """A tree and its slices as they are now, and the best so far."""

    def __init__(self, graph: Graph, path: Pairs, modes: int) -> None:
        self.path, self.modes = path, modes
        self.cost = _charge(graph, path, modes)
        self.best = Sliced(path, modes, self.cost, (0, 0))

    def judge(
        self, graph: Graph, tried: tuple[Pairs, int], share: float, random: np.random.RandomState
    ) -> None:
        """Take what was tried, or keep what there is; far above the best, return to it."""
        new = _charge(graph, *tried)
        beta = LENIENT + (STRICT - LENIENT) * share
        if new <= self.cost or random.random_sample() < exp2(max(-1000.0, beta * (self.cost - new))):
            self.path, self.modes, self.cost = *tried, new
        if self.cost < self.best.cost - 1e-9:
            self.best = Sliced(self.path, self.modes, self.cost, (0, 0))
        elif self.cost > self.best.cost + FAR:
            self.path, self.modes, self.cost = self.best.path, self.best.modes, self.best.cost


FAR = 3.0
"""Bits above the best at which a search returns to it."""


def _round(
    graph: Graph,
    path: Pairs,
    modes: int,
    limit: float,
    engine: ModuleType,
    random: np.random.RandomState,
    barred: int,
    clock: Clock,
) -> tuple[Pairs, int] | None:
    sliced = list(bits(modes))
    for k in random.permutation(len(sliced))[: 1 + random.randint(3)]:
        modes &= ~(1 << sliced[k])
    steps, number, warm = 4, SWEEP, WARM
    if random.random_sample() < RARE:
        steps, number, warm = 24, LONG, HOT
    path = _settled(graph, path, modes, limit, engine, random, clock, steps, number, warm)
    found = fitted(graph, path, modes, limit, barred)
    return None if found is None else (path, _dropped(graph, path, found, limit))


def _grown(
    graph: Graph,
    path: Pairs,
    limit: float,
    engine: ModuleType,
    random: np.random.RandomState,
    barred: int,
    clock: Clock,
) -> tuple[Pairs, int, int] | None:
    """Return a tree and slices that fit, after one mode at a time, and the rounds it took; None if none fit.

    The next mode is of the largest tensor, one of those that add the fewest multiplications.
    """
    modes, weight, taken = 0, weigher(graph.extents), 0
    while True:
        nodes = masks(graph, path)[len(graph.leaves) :]
        largest = max(nodes, key=lambda mask: weight(mask & ~modes))
        if weight(largest & ~modes) <= limit + 1e-9:
            return path, _dropped(graph, path, modes, limit), taken
        candidates = [
            ((_charge(graph, path, modes | 1 << b) - _charge(graph, path, modes)) / log2(graph.extents[b]), b)
            for b in bits(largest & ~modes & ~barred)
        ]
        if not candidates or clock.left() <= 0:
            return None
        place = min(len(candidates) - 1, int(random.exponential(ADVENTURE)))
        modes |= 1 << sorted(candidates)[place][1]
        taken += 1
        path = _settled(graph, path, modes, limit, engine, random, clock, 4, SWEEP, WARM)


def _settled(
    graph: Graph,
    path: Pairs,
    modes: int,
    limit: float,
    engine: ModuleType,
    random: np.random.RandomState,
    clock: Clock,
    steps: int,
    number: int,
    warm: float,
) -> Pairs:
    """Return the tree after `number` moves a tensor in `steps` temperatures, too large tensors being charged more."""
    reference = _charge(graph, path, modes) - modes_log2(graph, modes)
    goal = Objective(1.0, 0.0, exp2(max(-900.0, min(900.0, reference - EASE - STEEP * limit))), STEEP)
    tree: Engine = engine.Tree(_without(graph, modes), path, goal)
    for beta in np.linspace(warm, COLD, steps):
        if clock.left() <= 0:
            break
        tree.begin()
        tree.local(random.random_sample((number * tree.count // steps, 2)), float(beta))
    return tree.path()


def _without(graph: Graph, modes: int) -> Graph:
    """Return the graph of one slice; modes keep their bits."""
    return Graph(tuple([leaf & ~modes for leaf in graph.leaves]), graph.wanted & ~modes, graph.extents)


def modes_log2(graph: Graph, modes: int) -> float:
    """Return log2 of the number of slices over `modes`."""
    return weigher(graph.extents)(modes)


def _charge(graph: Graph, path: Pairs, modes: int) -> float:
    """Return log2 of the multiplications over all slices."""
    nodes, weight = masks(graph, path), weigher(graph.extents)
    parts = [weight((nodes[a] | nodes[b]) & ~modes) for a, b in path]
    return log2_sum(parts) + weight(modes)


def fitted(graph: Graph, path: Pairs, modes: int, limit: float, barred: int) -> int | None:
    """Return `modes` and what else has to be sliced so that every tensor fits; None if that cannot be."""
    nodes, weight = masks(graph, path), weigher(graph.extents)
    touched = [nodes[a] | nodes[b] for a, b in path]
    unit = np.log2(np.array(graph.extents, float))
    nodes = nodes[len(graph.leaves) :]
    sizes = np.array([weight(mask & ~modes) for mask in nodes])
    if sizes.max() <= limit + 1e-9:
        return modes
    table = _table(touched, len(graph.extents))
    inside = _table(nodes, len(graph.extents))
    costs = np.array([weight(mask & ~modes) for mask in touched])
    free = np.ones(len(graph.extents), bool)
    free[list(bits(modes | barred))] = False
    while True:
        largest = int(sizes.argmax())
        if sizes[largest] <= limit + 1e-9:
            return modes
        candidates = np.flatnonzero(inside[largest] & free)
        if not len(candidates):
            return None
        scaled = np.exp2(costs - costs.max())  # a mode that takes off two bits may cost twice the bits of one
        relieved = scaled @ table[:, candidates]
        extents = np.exp2(unit[candidates])
        grown = extents * (scaled.sum() - relieved) + relieved
        chosen = int(candidates[((np.log2(grown) - np.log2(scaled.sum())) / unit[candidates]).argmin()])
        free[chosen] = False
        modes |= 1 << chosen
        sizes -= unit[chosen] * inside[:, chosen]
        costs -= unit[chosen] * table[:, chosen]


def _dropped(graph: Graph, path: Pairs, modes: int, limit: float) -> int:
    """Return `modes` without those that nothing needs, the ones that cost most first."""
    nodes, weight = masks(graph, path)[len(graph.leaves) :], weigher(graph.extents)
    sizes = np.array([weight(mask & ~modes) for mask in nodes])
    inside = _table(nodes, len(graph.extents))
    for b in sorted(bits(modes), key=lambda b: (-graph.extents[b], b)):
        grown = sizes + log2(graph.extents[b]) * inside[:, b]
        if grown.max() <= limit + 1e-9:
            modes ^= 1 << b
            sizes = grown
    return modes


def _table(rows: Sequence[int], width: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return the bits of each mask as a row."""
    length = -(-width // 8)
    data = b"".join([mask.to_bytes(length, "little") for mask in rows])
    table = np.frombuffer(data, np.uint8).reshape(len(rows), length)
    return np.unpackbits(table, axis=1, bitorder="little")[:, :width].astype(bool)
