"""Sweeps: one tensor after the other into a growing front, as a transfer matrix goes through a lattice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from math import inf

from contractc.search.clock import Clock
from contractc.search.graph import Graph, Pairs, bits, charge, weigher

FIRSTS = 8
"""How many first tensors are tried, evenly spaced over the numbers of the tensors."""


def best_sweep(graph: Graph, clock: Clock, most: int = FIRSTS) -> tuple[Pairs | None, float, int]:
    """Return the cheapest of `most` sweeps, log2 of its multiplications, and how many there was time for."""
    best, least, done, count = None, inf, 0, len(graph.leaves)
    for done in range(min(most, count)):
        path = sweep(graph, done * count // min(FIRSTS, count), clock)
        if path is None:
            return best, least, done
        cost = charge(graph, path)
        if cost < least:
            best, least = path, cost
    return best, least, min(most, count)


def sweep(graph: Graph, first: int, clock: Clock) -> Pairs | None:
    """Return the path that starts with tensor `first` and takes in the neighbour that leaves the smallest front.

    Ties go to the neighbour that has waited longest, so a lattice is swept layer by layer. None if the clock
    ran out. A tree of this kind is a path decomposition; its width is the largest front.
    """
    count, weight = len(graph.leaves), weigher(graph.extents)
    modes = [tuple(bits(leaf)) for leaf in graph.leaves]
    holders: dict[int, list[int]] = defaultdict(list)
    for k, own in enumerate(modes):
        for b in own:
            holders[b].append(k)
    open_ = {b: len(held) + (graph.wanted >> b & 1) for b, held in holders.items()}
    waiting: dict[int, int] = {}
    todo = dict.fromkeys(range(count))
    front, k, steps, made = 0, first, [], first
    for time in range(count):
        if time:
            if not waiting:
                k = next(iter(todo))
            elif clock.late():
                return None
            else:
                k = _smallest(waiting, front, graph, modes, open_, weight)
            steps.append((min(k, made), max(k, made)))
            made = count + len(steps) - 1
            waiting.pop(k, None)
        del todo[k]
        front |= graph.leaves[k]
        for b in modes[k]:
            open_[b] -= 1
            if not open_[b]:
                front ^= 1 << b
            for j in holders[b]:
                if j in todo:
                    waiting.setdefault(j, time)
            holders[b] = [j for j in holders[b] if j in todo]
    return tuple(steps)


def _smallest(
    waiting: dict[int, int],
    front: int,
    graph: Graph,
    modes: list[tuple[int, ...]],
    open_: dict[int, int],
    weight: Callable[[int], float],
) -> int:
    """Return the waiting tensor that leaves the smallest front."""
    best, chosen = (inf, 0, 0), -1
    for j, since in waiting.items():
        kept = front | graph.leaves[j]
        for b in modes[j]:
            if open_[b] == 1:
                kept ^= 1 << b
        key = (weight(kept), since, j)
        if key < best:
            best, chosen = key, j
    return chosen
