"""Sweeps: one tensor after the other into a growing front, as a transfer matrix goes through a lattice."""

from __future__ import annotations

import heapq
from collections import defaultdict
from math import inf

from contractc.search.clock import Clock
from contractc.search.graph import Graph, Pairs, bits, charge, weigher

FIRSTS = 8
"""How many first tensors are tried, evenly spaced over the numbers of the tensors."""

MANY = 8
"""More tensors than this that share a mode are no neighbours by it while there are others, nor by one of the output."""


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

    Ties go to the neighbour that has waited longest, so a lattice is swept layer by layer; a batch of trains is swept
    core by core, as a mode of the batch makes no neighbours (see `MANY`). None if the clock ran out. A tree of this
    kind is a path decomposition; its width is the largest front.
    """
    count, weight = len(graph.leaves), weigher(graph.extents)
    modes = [tuple(bits(leaf)) for leaf in graph.leaves]
    holders: dict[int, list[int]] = defaultdict(list)
    for k, own in enumerate(modes):
        for b in own:
            holders[b].append(k)
    open_ = {b: len(held) + (graph.wanted >> b & 1) for b, held in holders.items()}
    todo = dict.fromkeys(range(count))
    waiting: dict[int, int] = {}  # since when
    grown: dict[int, float] = {}  # log2 of what the front grows by
    heap: list[tuple[bool, float, int, int]] = []
    front, k, steps, made = 0, first, [], first
    for time in range(count):
        if time:
            k = _next(heap, waiting, grown, todo)
            steps.append((min(k, made), max(k, made)))
            made = count + len(steps) - 1
            if clock.late():
                return None
        del todo[k]
        waiting.pop(k, None)
        changed: set[int] = set()
        for b in modes[k]:
            entered = not front >> b & 1
            open_[b] -= 1
            front |= 1 << b
            if not open_[b]:
                front ^= 1 << b
            if entered or open_[b] == 1:
                changed.update(j for j in holders[b] if j in todo)
        for j in changed:
            waiting.setdefault(j, time)
            mine = graph.leaves[j]
            last = sum([1 << b for b in modes[j] if open_[b] == 1])
            grown[j] = weight(mine & ~front & ~last) - weight(mine & front & last)
            apart = all(open_[b] > MANY or graph.wanted >> b & 1 for b in modes[j] if front >> b & 1)
            heapq.heappush(heap, (apart, grown[j], waiting[j], j))
    return tuple(steps)


def _next(
    heap: list[tuple[bool, float, int, int]],
    waiting: dict[int, int],
    grown: dict[int, float],
    todo: dict[int, None],
) -> int:
    """Return the waiting tensor that lets the front grow least; if none waits, the first one left."""
    while heap:
        _, growth, _, j = heapq.heappop(heap)
        if j in waiting and grown[j] == growth:
            return j
    return next(iter(todo))
