"""Greedy search: near-linear, for networks of any size."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp2

from contractc.network import TensorNetwork
from contractc.plans import Path
from contractc.search.clock import Clock
from contractc.search.graph import Graph, Pairs, bits, graph_of, weigher

WIDEST = 32
"""Of a mode shared by more tensors than this, only neighbours in size are tried as pairs, when all else is done."""

FEW = 1_000
"""So many tensors are contracted in good order even if no time is left: the larger tensors of bad orders cost more."""


def greedy(network: TensorNetwork, clock: Clock | None = None) -> tuple[Path, str]:
    """Return the path that keeps contracting the pair which shrinks memory most.

    The score of a pair is size(result) - size(left) - size(right), in elements; tensors with equal modes are
    merged first, what is left in separate parts last, smallest first. Ties go to the lower ids, so the path
    depends on nothing but the network. Source: opt_einsum's greedy path, extended to hyperedges of thousands
    of tensors.

    Args:
        clock: when its time is over and many tensors are left, any neighbours are contracted, and the name says so.
    """
    if len(network.tensors) == 1:
        return ((0,),), "greedy"
    state = _State(graph_of(network))
    state.merge_equal()
    whole = state.contract_neighbours(clock or Clock())
    state.join_parts()
    return tuple(state.steps), "greedy" if whole else "greedy, then any neighbours, cut short"


def greedy_pairs(graph: Graph) -> Pairs:
    """Return the greedy path of a graph of two tensors or more."""
    state = _State(graph)
    state.merge_equal()
    state.contract_neighbours(Clock())
    state.join_parts()
    return tuple(state.steps)


def sizer(extents: Sequence[int]) -> Callable[[int], float]:
    """Return a function from a mask to the elements of a tensor with its modes; capped, only compared."""
    weight = weigher(extents)
    if len(set(extents)) > 1:
        return lambda mask: exp2(min(weight(mask), 1000.0))
    table = [exp2(min(weight((1 << number) - 1), 1000.0)) for number in range(len(extents) + 1)]
    return lambda mask: table[mask.bit_count()]


class _State:
    """The tensors still alive, as bit masks of modes, and for each the partners that are tried.

    Those share a mode with it that at most `WIDEST` tensors have. `pairs` are the modes that two tensors have and
    the output has not: contracting these two makes them vanish.
    """

    def __init__(self, graph: Graph) -> None:
        self.size = sizer(graph.extents)
        self.masks = dict(enumerate(graph.leaves))
        self.steps: list[tuple[int, int]] = []
        self.next = len(graph.leaves)
        self.wanted = graph.wanted
        self.sizes = {i: self.size(mask) for i, mask in self.masks.items()}
        self.near: dict[int, set[int]] = {i: set() for i in self.masks}
        self.number: dict[int, int] = {}
        self.pairs = 0
        for m, held in self._holders().items():
            self.number[m] = len(held)
            if len(held) <= WIDEST:
                self._link(held)
            if len(held) == 2 and not self.wanted >> m & 1:
                self.pairs |= 1 << m

    def _holders(self) -> dict[int, list[int]]:
        """Return the tensors that have each mode."""
        holders: dict[int, list[int]] = defaultdict(list)
        for i, mask in self.masks.items():
            for m in bits(mask):
                holders[m].append(i)
        return holders

    def _link(self, held: Sequence[int]) -> None:
        """Let all these tensors be partners."""
        for i in held:
            self.near[i].update(held)
            self.near[i].discard(i)

    def contract(self, one: int, two: int) -> int:
        """Contract two tensors and return the id of the result."""
        a, b = self.masks.pop(one), self.masks.pop(two)
        gone = a & b & self.pairs
        made, self.next = self.next, self.next + 1
        self.steps.append((min(one, two), max(one, two)))
        self.masks[made] = (a | b) ^ gone
        self.sizes[made] = self.size(self.masks[made])
        near = self.near.pop(one) | self.near.pop(two)
        near -= {one, two}
        for k in near:
            other = self.near[k]
            other.discard(one)
            other.discard(two)
            other.add(made)
        self.near[made] = near
        for m in bits((a & b) ^ gone):  # one tensor less has them
            self.number[m] -= 1
            if self.number[m] == 2 and not self.wanted >> m & 1:
                self.pairs |= 1 << m
            if self.number[m] == WIDEST:
                self._link([i for i, mask in self.masks.items() if mask >> m & 1])
        return made

    def merge_equal(self) -> None:
        """Contract tensors that have the same modes: the result is no larger than each."""
        same: dict[int, list[int]] = defaultdict(list)
        for i, mask in self.masks.items():
            if mask:
                same[mask].append(i)
        for alike in same.values():
            while len(alike) > 1:
                made = self.contract(alike[0], alike[1])
                alike[:2] = [made] if self.masks[made] else []
                if len(alike) == 1 and not self.masks.get(alike[0]):
                    break

    def _score(self, one: int, two: int) -> float:
        a, b = self.masks[one], self.masks[two]
        return self.size((a | b) ^ (a & b & self.pairs)) - self.sizes[one] - self.sizes[two]

    def contract_neighbours(self, clock: Clock) -> bool:
        """Contract pairs that share a mode, best score first, until none or no time is left; return which."""
        heap = [(self._score(i, j), i, j) for i, near in self.near.items() for j in near if i < j]
        heapq.heapify(heap)
        while True:
            while heap:
                _, i, j = heapq.heappop(heap)
                if i not in self.masks or j not in self.masks:
                    continue
                if len(self.masks) > FEW and clock.late():
                    self.hurry()
                    return False
                made = self.contract(i, j)
                masks, sizes, size, pairs = self.masks, self.sizes, self.size, self.pairs
                mine, own = masks[made], sizes[made]
                for k in self.near[made]:
                    mask = masks[k]
                    score = size((mine | mask) ^ (mine & mask & pairs)) - sizes[k] - own
                    heapq.heappush(heap, (score, k, made))
            again = [held for held in self._holders().values() if len(held) > 1]
            if not again:
                return True
            for held in again:
                near = sorted(held, key=lambda j: (self.sizes[j], j))
                heap += [(self._score(i, j), min(i, j), max(i, j)) for i, j in pairwise(near)]
            heapq.heapify(heap)

    def hurry(self) -> None:
        """Contract every tensor with its smallest neighbour, in rounds, without looking for the best pairs."""
        met = True
        while met:
            met = False
            for i in list(self.masks):
                if i in self.masks and self.near[i]:
                    self.contract(i, min(self.near[i], key=lambda j: (self.sizes[j], j)))
                    met = True

    def join_parts(self) -> None:
        """Multiply what is left, smallest first: parts that share no mode."""
        left = [(self.sizes[i], i) for i in self.masks]
        heapq.heapify(left)
        while len(left) > 1:
            _, i = heapq.heappop(left)
            _, j = heapq.heappop(left)
            made = self.contract(i, j)
            heapq.heappush(left, (self.sizes[made], made))
