"""Greedy search: near-linear, for networks of any size."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise

from contractc.network import TensorNetwork
from contractc.plans import Path
from contractc.search.clock import Clock
from contractc.search.graph import Graph, Pairs, bits, modes_of, sizer, whole_logs

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
    number = {m: b for b, m in enumerate(modes_of(network))}
    terms = [sorted([number[m] for m in set(t.modes) if m in number]) for t in network.tensors]
    wanted = {number[m] for term in network.outputs for m in term if m in number}
    state = _State(terms, wanted, [network.extents[m] for m in number])
    state.merge_equal(terms)
    whole = state.contract_neighbours(clock or Clock())
    state.join_parts()
    return tuple(state.steps), "greedy" if whole else "greedy, then any neighbours, cut short"


def greedy_pairs(graph: Graph) -> Pairs:
    """Return the greedy path of a graph of two tensors or more."""
    terms = [list(bits(leaf)) for leaf in graph.leaves]
    state = _State(terms, set(bits(graph.wanted)), graph.extents)
    state.merge_equal(terms)
    state.contract_neighbours(Clock())
    state.join_parts()
    return tuple(state.steps)


def _weigher(logs: Sequence[int]) -> Callable[[int], int]:
    """Return a function from a mask to the sum of the logarithms of its modes, which are in their order."""
    owns: dict[int, int] = defaultdict(int)
    for m, log in enumerate(logs):
        owns[log] |= 1 << m
    if list(owns) == [1]:
        return int.bit_count
    return lambda mask: sum([log * (mask & own).bit_count() for log, own in owns.items()])


class _State:
    """The tensors still alive, with their partners: those they share a mode with that at most `WIDEST` tensors have.

    A bond, a mode of two tensors that the output has not, is only a number: what both sides have of it, log2 of
    the extents, so that a step takes as long as it has partners, however many modes the network has. All other modes
    are bits of masks; `pairs` are those that by now only two tensors have. Logarithms are whole numbers (`whole_logs`).
    """

    def __init__(self, terms: Sequence[Sequence[int]], wanted: set[int], extents: Sequence[int]) -> None:
        count = len(terms)
        logs = whole_logs(extents)
        self.size = sizer(extents)
        self.steps: list[tuple[int, int]] = []
        self.next = count
        self.wanted = 0
        own: list[int] = []  # logarithms of the modes that are no bonds
        self.masks = dict.fromkeys(range(count), 0)
        self.weights = {i: sum([logs[m] for m in term]) for i, term in enumerate(terms)}
        self.sizes = {i: self.size(weight) for i, weight in self.weights.items()}
        self.near: dict[int, dict[int, int]] = {i: {} for i in range(count)}
        self.number: list[int] = []
        self.pairs = 0
        holders: list[list[int]] = [[] for _ in extents]
        for i, term in enumerate(terms):
            for m in term:
                holders[m].append(i)
        for m, held in enumerate(holders):
            if len(held) == 2 and m not in wanted:
                one, two = held
                bond = self.near[one].get(two, 0) + logs[m]
                self.near[one][two] = self.near[two][one] = bond
                continue
            bit = 1 << len(own)
            own.append(logs[m])
            self.number.append(len(held))
            self.wanted |= bit * (m in wanted)
            for i in held:
                self.masks[i] |= bit
            if len(held) <= WIDEST:
                self._link(held)
        self.weigh = _weigher(own)

    def _holders(self) -> dict[int, list[int]]:
        """Return the tensors that have each mode that is no bond."""
        holders: dict[int, list[int]] = defaultdict(list)
        for i, mask in self.masks.items():
            for m in bits(mask):
                holders[m].append(i)
        return holders

    def _link(self, held: Sequence[int]) -> None:
        """Let all these tensors be partners."""
        for i in held:
            near = self.near[i]
            for j in held:
                if j != i:
                    near.setdefault(j, 0)

    def contract(self, one: int, two: int) -> int:
        """Contract two tensors and return the id of the result."""
        a, b = self.masks.pop(one), self.masks.pop(two)
        weight = self._joint(self.weights.pop(one) + self.weights.pop(two), self.near[one].get(two, 0), a & b)
        gone = a & b & self.pairs
        made, self.next = self.next, self.next + 1
        self.steps.append((min(one, two), max(one, two)))
        self.masks[made], self.weights[made] = (a | b) ^ gone, weight
        self.sizes[made] = self.size(weight)
        mine: dict[int, int] = {}
        for i, other in ((one, two), (two, one)):
            for k, bond in self.near.pop(i).items():
                if k != other:
                    del self.near[k][i]
                    self.near[k][made] = mine[k] = mine.get(k, 0) + bond
        self.near[made] = mine
        for m in bits((a & b) ^ gone):  # one tensor less has them
            self.number[m] -= 1
            if self.number[m] == 2 and not self.wanted >> m & 1:
                self.pairs |= 1 << m
            if self.number[m] == WIDEST:
                self._link([i for i, mask in self.masks.items() if mask >> m & 1])
        return made

    def _joint(self, weight: int, bond: int, shared: int) -> int:
        """Return log2 of the size of a result from those of both tensors together, their bonds, their shared mask."""
        weight -= 2 * bond
        return weight - self.weigh(shared) - self.weigh(shared & self.pairs) if shared else weight

    def merge_equal(self, terms: Sequence[Sequence[int]]) -> None:
        """Contract tensors that have the same modes, as `terms` says: the result is no larger than each."""
        same: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, term in enumerate(terms):
            if term:
                same[tuple(term)].append(i)
        for alike in same.values():
            while len(alike) > 1:
                made = self.contract(alike[0], alike[1])
                alike[:2] = [made] if self.weights[made] else []
                if len(alike) == 1 and not self.weights.get(alike[0]):
                    break

    def _score(self, one: int, two: int) -> float:
        shared = self.masks[one] & self.masks[two]
        weight = self._joint(self.weights[one] + self.weights[two], self.near[one].get(two, 0), shared)
        return self.size(weight) - self.sizes[one] - self.sizes[two]

    def contract_neighbours(self, clock: Clock) -> bool:
        """Contract pairs that share a mode, best score first, until none or no time is left; return which."""
        heap = [(self._score(i, j), i, j) for i, near in self.near.items() for j in near if i < j]
        heapq.heapify(heap)
        size, weigh = self.size, self.weigh
        while True:
            while heap:
                _, i, j = heapq.heappop(heap)
                if i not in self.masks or j not in self.masks:
                    continue
                if len(self.masks) > FEW and clock.late():
                    self.hurry()
                    return False
                made = self.contract(i, j)
                masks, sizes, weights, pairs = self.masks, self.sizes, self.weights, self.pairs
                mine, own, weight = masks[made], sizes[made], weights[made]
                for k, bond in self.near[made].items():
                    joint = weight + weights[k] - 2 * bond
                    if shared := mine & masks[k]:
                        joint -= weigh(shared) + weigh(shared & pairs)
                    heapq.heappush(heap, (size(joint) - sizes[k] - own, k, made))
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
