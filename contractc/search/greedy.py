"""Greedy search: near-linear, for networks of any size."""

from __future__ import annotations

import heapq
from collections import defaultdict

from contractc.network import TensorNetwork
from contractc.plans import Path
from contractc.search.graph import Graph, Pairs, bits, graph_of, weigher

WIDEST = 32
"""Of a mode shared by more tensors than this, only neighbours in size are tried as pairs, when all else is done."""


def greedy(network: TensorNetwork) -> tuple[Path, str]:
    """Return the path that keeps contracting the pair which shrinks memory most.

    The score of a pair is size(result) - size(left) - size(right), in elements; tensors with equal modes are
    merged first, what is left in separate parts last, smallest first. Ties go to the lower ids, so the path
    depends on nothing but the network. Source: opt_einsum's greedy path, extended to hyperedges of thousands
    of tensors.
    """
    return (greedy_pairs(graph_of(network)) if len(network.tensors) > 1 else ((0,),)), "greedy"


def greedy_pairs(graph: Graph) -> Pairs:
    """Return the greedy path of a graph of two tensors or more."""
    state = _State(graph)
    state.merge_equal()
    state.contract_neighbours()
    state.join_parts()
    return tuple(state.steps)


class _State:
    """The tensors still alive, as bit masks of modes, and for each mode who has it."""

    def __init__(self, graph: Graph) -> None:
        self.weight = weigher(graph.extents)
        self.masks = dict(enumerate(graph.leaves))
        self.holders: dict[int, set[int]] = defaultdict(set)
        self.steps: list[tuple[int, int]] = []
        self.next = len(graph.leaves)
        self.wanted = graph.wanted
        self.sizes: dict[int, float] = {}
        for k, mask in self.masks.items():
            for b in bits(mask):
                self.holders[b].add(k)

    def _size(self, mask: int) -> float:
        """Return the elements of a tensor with the modes of `mask`; capped, only compared."""
        found = self.sizes.get(mask)
        if found is None:
            found = self.sizes[mask] = 2.0 ** min(self.weight(mask), 1000.0)
        return found

    def _result(self, one: int, two: int) -> int:
        """Return the modes of the contraction of two tensors."""
        a, b = self.masks[one], self.masks[two]
        gone = 0
        for m in bits(a & b & ~self.wanted):
            if len(self.holders[m]) == 2:
                gone |= 1 << m
        return (a | b) & ~gone

    def contract(self, one: int, two: int) -> int:
        """Contract two tensors and return the id of the result."""
        result = self._result(one, two)
        for i in (one, two):
            for m in bits(self.masks.pop(i)):
                self.holders[m].discard(i)
        made, self.next = self.next, self.next + 1
        self.masks[made] = result
        for m in bits(result):
            self.holders[m].add(made)
        self.steps.append((min(one, two), max(one, two)))
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
        return self._size(self._result(one, two)) - self._size(self.masks[one]) - self._size(self.masks[two])

    def _pairs(self, i: int) -> list[int]:
        """Return the tensors that are tried as partners of tensor `i`."""
        partners: set[int] = set()
        for m in bits(self.masks[i]):
            if len(self.holders[m]) <= WIDEST:
                partners |= self.holders[m]
        partners.discard(i)
        return sorted(partners)

    def contract_neighbours(self) -> None:
        """Contract pairs that share a mode, best score first, until none is left."""
        heap: list[tuple[float, int, int]] = []
        for i in sorted(self.masks):
            heap += [(self._score(i, j), i, j) for j in self._pairs(i) if i < j]
        heapq.heapify(heap)
        while True:
            while heap:
                _, i, j = heapq.heappop(heap)
                if i not in self.masks or j not in self.masks:
                    continue
                made = self.contract(i, j)
                for k in self._pairs(made):
                    heapq.heappush(heap, (self._score(k, made), k, made))
            again = [(m, h) for m, h in self.holders.items() if len(h) > 1]
            if not again:
                return
            for _, holders in again:
                near = sorted(holders, key=lambda j: (self._size(self.masks[j]), j))
                pairs = zip(near, near[1:], strict=False)
                heap += [(self._score(i, j), min(i, j), max(i, j)) for i, j in pairs]
            heapq.heapify(heap)

    def join_parts(self) -> None:
        """Multiply what is left, smallest first: parts that share no mode."""
        left = [(self._size(mask), i) for i, mask in self.masks.items()]
        heapq.heapify(left)
        while len(left) > 1:
            _, i = heapq.heappop(left)
            _, j = heapq.heappop(left)
            made = self.contract(i, j)
            heapq.heappush(left, (self._size(self.masks[made]), made))
