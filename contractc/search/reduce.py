"""Simplification before a search: what every good order does anyway is done first, and parts are told apart."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from contractc.search.exact import FULL
from contractc.search.graph import Graph, Pairs, bits, weigher


@dataclass(frozen=True, slots=True)
class Part:
    """A connected part of a network that is left to be ordered: its graph, and the SSA id of each of its leaves."""

    graph: Graph
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reduced:
    """What is left of a graph: the steps done already, its parts, and the ids of what is a number by now."""

    count: int
    steps: Pairs
    parts: tuple[Part, ...]
    numbers: tuple[int, ...]


SMALL = 64
"""Of up to so many tensors none are absorbed if annealing has to follow: that orders all of them, and of what is left
the best order is not always the best of all."""


def reduced(graph: Graph) -> Reduced:
    """Return `graph` simplified: fewer tensors, fewer modes, connected parts.

    Tensors of equal modes are multiplied. A tensor is contracted into a neighbour if that makes a mode vanish and
    the result is no larger than the larger of both; smallest results first. Modes that have the same tensors
    become one. Source: the rank simplifications of quimb (J. Gray), with sizes in place of ranks.
    """
    work = _Work(graph)
    work.merge_equal()
    whole = work.left(graph) if len(graph.leaves) <= SMALL else None
    work.absorb()
    work.merge_equal()
    found = work.left(graph)
    return whole if whole and any(len(part.ids) > FULL for part in found.parts) else found


def whole_path(reduction: Reduced, paths: Sequence[Pairs]) -> Pairs:
    """Return the path of the whole graph from a path for each part; results are multiplied, smallest first."""
    steps = list(reduction.steps)
    tops: list[tuple[float, int]] = [(0.0, i) for i in reduction.numbers]
    for part, path in zip(reduction.parts, paths, strict=True):
        ids = list(part.ids)
        for a, b in path:
            steps.append((min(ids[a], ids[b]), max(ids[a], ids[b])))
            ids.append(reduction.count + len(steps) - 1)
        tops.append((weigher(part.graph.extents)(part.graph.wanted), ids[-1]))
    heapq.heapify(tops)
    while len(tops) > 1:
        one, two = heapq.heappop(tops), heapq.heappop(tops)
        steps.append((min(one[1], two[1]), max(one[1], two[1])))
        heapq.heappush(tops, (one[0] + two[0], reduction.count + len(steps) - 1))
    return tuple(steps)


class _Work:
    """The tensors still alive, by their ids, their modes, and for each mode who has it."""

    def __init__(self, graph: Graph) -> None:
        self.alive = dict(enumerate(graph.leaves))
        self.wanted = graph.wanted
        self.weight = weigher(graph.extents)
        self.holders: dict[int, set[int]] = defaultdict(set)
        self.steps: list[tuple[int, int]] = []
        self.next = len(graph.leaves)
        self.modes = {i: tuple(bits(mask)) for i, mask in self.alive.items()}
        for i, own in self.modes.items():
            for b in own:
                self.holders[b].add(i)

    def vanishing(self, one: int, two: int) -> int:
        """Return the modes that only these two tensors have."""
        gone = 0
        for b in bits(self.alive[one] & self.alive[two] & ~self.wanted):
            if len(self.holders[b]) == 2:
                gone |= 1 << b
        return gone

    def contract(self, one: int, two: int) -> int:
        """Contract two tensors and return the id of the result."""
        result = (self.alive[one] | self.alive[two]) & ~self.vanishing(one, two)
        for i in (one, two):
            del self.alive[i]
            for b in self.modes.pop(i):
                self.holders[b].discard(i)
        made, self.next = self.next, self.next + 1
        self.steps.append((min(one, two), max(one, two)))
        self.alive[made] = result
        self.modes[made] = tuple(bits(result))
        for b in self.modes[made]:
            self.holders[b].add(made)
        return made

    def left(self, graph: Graph) -> Reduced:
        """Return what is left of `graph` by now."""
        return Reduced(len(graph.leaves), tuple(self.steps), *_parts(graph, self.alive, self.modes))

    def merge_equal(self) -> None:
        """Multiply tensors that have the same modes."""
        same: dict[int, list[int]] = defaultdict(list)
        for i, mask in self.alive.items():
            if mask:
                same[mask].append(i)
        for first, *others in same.values():
            made = first
            for i in others:
                made = self.contract(made, i)

    def absorb(self) -> None:
        """Contract neighbours as long as a mode vanishes and nothing grows."""
        heap: list[tuple[float, float, int, int]] = []
        for i in self.alive:
            self.offer(heap, i, later=True)
        heapq.heapify(heap)
        while heap:
            _, _, i, j = heapq.heappop(heap)
            if i in self.alive and j in self.alive:
                made = self.contract(i, j)
                offers: list[tuple[float, float, int, int]] = []
                self.offer(offers, made, later=False)
                for offer in offers:
                    heapq.heappush(heap, offer)

    def offer(self, heap: list[tuple[float, float, int, int]], i: int, later: bool) -> None:
        """Add to `heap` the pairs of tensor `i` (with higher ids only if `later`) that may be contracted."""
        mine = self.alive[i]
        own = self.weight(mine)
        partners: set[int] = set()
        for b in self.modes[i]:
            if len(self.holders[b]) == 2 and not self.wanted >> b & 1:
                partners |= self.holders[b]
        partners.discard(i)
        for j in partners:
            if later and j < i:
                continue
            other = self.alive[j]
            result = self.weight((mine | other) & ~self.vanishing(i, j))
            if result <= max(own, self.weight(other)) + 1e-9:
                heap.append((result, self.weight(mine | other), min(i, j), max(i, j)))


def _parts(
    graph: Graph, alive: dict[int, int], modes: dict[int, tuple[int, ...]]
) -> tuple[tuple[Part, ...], tuple[int, ...]]:
    """Return the connected parts of the tensors `alive`, and the ids of those without modes."""
    holders: dict[int, list[int]] = defaultdict(list)
    for i, own in modes.items():
        for b in own:
            holders[b].append(i)
    done: set[int] = set()
    parts: list[Part] = []
    for first, mask in alive.items():
        if first in done or not mask:
            continue
        members, todo = [], [first]
        done.add(first)
        while todo:
            i = todo.pop()
            members.append(i)
            for b in modes[i]:
                for j in holders.pop(b, ()):
                    if j not in done:
                        done.add(j)
                        todo.append(j)
        members.sort()
        parts.append(
            Part(compacted([alive[i] for i in members], graph.wanted, graph.extents), tuple(members))
        )
    return tuple(parts), tuple(i for i, mask in alive.items() if not mask)


def compacted(leaves: Sequence[int], wanted_modes: int, extents: Sequence[int]) -> Graph:
    """Return the graph of `leaves` with modes that have the same tensors as one mode, and none that do not matter."""
    holders: dict[int, list[int]] = defaultdict(list)
    for k, mask in enumerate(leaves):
        for b in bits(mask):
            holders[b].append(k)
    merged: dict[tuple[tuple[int, ...], int], list[int]] = defaultdict(list)
    for b, held in holders.items():
        wanted = wanted_modes >> b & 1
        if len(held) > 1 or wanted:
            merged[tuple(held), wanted].append(b)
    kept = sorted(
        (prod(extents[b] for b in own), min(own), held, wanted) for (held, wanted), own in merged.items()
    )
    masks = [0] * len(leaves)
    wanted_mask = 0
    for at, (_, _, members, wanted) in enumerate(kept):
        for k in members:
            masks[k] |= 1 << at
        wanted_mask |= wanted << at
    return Graph(tuple(masks), wanted_mask, tuple(extent for extent, _, _, _ in kept))
