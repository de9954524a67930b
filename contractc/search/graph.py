"""The hypergraph that the searches work on: tensors as int masks of modes, extents as their logarithms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp2, log2

from contractc.network import TensorNetwork

Pairs = tuple[tuple[int, int], ...]
"""An SSA path of pairs: a contraction tree."""


@dataclass(frozen=True, slots=True)
class Graph:
    """What matters of a network for its order: bit b of a mask is a mode of extent `extents[b]`.

    `leaves` are the modes of each tensor, `wanted` those of the output. Bits are in order of their extent, all
    above 1, and every one is in two tensors at least, or in one and wanted.
    """

    leaves: tuple[int, ...]
    wanted: int
    extents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Objective:
    """What a step is charged: `flops` * touched + `reads` * (left + right) + `writes` * result, in elements.

    `power` is the exponent of the sizes of tensors: sums of high powers are ruled by the largest.
    """

    flops: float = 1.0
    reads: float = 0.0
    writes: float = 0.0
    power: float = 1.0

    @property
    def plain(self) -> bool:
        """Return whether only the multiplications count."""
        return self.reads == 0.0 and self.writes == 0.0


FLOPS = Objective()


def graph_of(network: TensorNetwork) -> Graph:
    """Return the graph of a network with one output; modes of extent 0 and 1 and lone summed modes are left out."""
    bit = {m: 1 << b for b, m in enumerate(modes_of(network))}
    leaves = tuple([sum([bit[m] for m in set(t.modes) if m in bit]) for t in network.tensors])
    wanted = {m for term in network.outputs for m in term}
    return Graph(leaves, sum([bit[m] for m in wanted if m in bit]), tuple(network.extents[m] for m in bit))


def modes_of(network: TensorNetwork) -> list[int]:
    """Return the modes of a network that its graph has, in the order of their bits."""
    extents = network.extents
    count = [0] * len(extents)
    for tensor in network.tensors:
        for m in set(tensor.modes):
            count[m] += 1
    wanted = {m for term in network.outputs for m in term}
    kept = [m for m, n in enumerate(extents) if n > 1 and (count[m] > 1 or (count[m] and m in wanted))]
    return sorted(kept, key=lambda m: (extents[m], m))


def bits(mask: int) -> Iterator[int]:
    """Yield the numbers of the bits of `mask`, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def classes(extents: Sequence[int]) -> list[tuple[float, int, int]]:
    """Return the runs of equal extents as (log2 of the extent, first bit, bit after the last)."""
    runs: list[tuple[float, int, int]] = []
    start = 0
    for b in range(1, len(extents) + 1):
        if b == len(extents) or extents[b] != extents[start]:
            runs.append((log2(extents[start]), start, b))
            start = b
    return runs


def weigher(extents: Sequence[int]) -> Callable[[int], float]:
    """Return a function from a mask to log2 of the product of its modes' extents."""
    runs = [(unit, (1 << last) - (1 << first)) for unit, first, last in classes(extents)]
    if not runs:
        return lambda mask: 0.0
    if len(runs) == 1:
        unit = runs[0][0]
        return lambda mask: unit * mask.bit_count()
    if len(runs) == 2:
        (unit, own), (second, its) = runs
        return lambda mask: unit * (mask & own).bit_count() + second * (mask & its).bit_count()
    return lambda mask: sum([unit * (mask & own).bit_count() for unit, own in runs])


PARTS = 1 << 40
"""Parts of a bit in which logarithms are counted where their sums must not depend on the order."""


def whole_logs(extents: Sequence[int]) -> list[int]:
    """Return log2 of each extent in `PARTS`; where all are equal each is 1."""
    if len(set(extents)) == 1:
        return [1] * len(extents)
    return [round(PARTS * log2(extent)) for extent in extents]


def sizer(extents: Sequence[int]) -> Callable[[int], float]:
    """Return a function from a sum of `whole_logs` to the elements of a tensor; capped, only compared."""
    if len(set(extents)) > 1:
        return lambda logs: exp2(min(logs / PARTS, 1000.0))
    unit = log2(extents[0]) if extents else 0.0
    return [exp2(min(unit * number, 1000.0)) for number in range(len(extents) + 1)].__getitem__


def masks(graph: Graph, path: Pairs) -> list[int]:
    """Return the modes of every node of a tree: those inside that are needed outside."""
    count = len(graph.leaves)
    inside = list(graph.leaves)
    for a, b in path:
        inside.append(inside[a] | inside[b])
    outside = [0] * len(inside)
    outside[-1] = graph.wanted
    for i in range(len(inside) - 1, count - 1, -1):
        a, b = path[i - count]
        outside[a] = outside[i] | inside[b]
        outside[b] = outside[i] | inside[a]
    for i in range(count, len(inside)):
        inside[i] &= outside[i]
    return inside


def charge(graph: Graph, path: Pairs, objective: Objective = FLOPS) -> float:
    """Return log2 of what the steps of a tree are charged together."""
    nodes, weight = masks(graph, path), weigher(graph.extents)
    count = len(graph.leaves)
    parts: list[float] = []
    for s, (a, b) in enumerate(path):
        if objective.flops:
            parts.append(weight(nodes[a] | nodes[b]) + log2(objective.flops))
        if objective.reads:
            parts += [objective.power * weight(nodes[i]) + log2(objective.reads) for i in (a, b)]
        if objective.writes:
            parts.append(objective.power * weight(nodes[count + s]) + log2(objective.writes))
    return log2_sum(parts)


def log2_sum(parts: Sequence[float]) -> float:
    """Return log2 of the sum of the powers of two given by their exponents; none of them can overflow."""
    if not parts:
        return float("-inf")
    top = max(parts)
    return top + log2(sum([exp2(part - top) for part in parts]))


def children(path: Pairs, count: int) -> tuple[list[int], list[int]]:
    """Return the left and the right child of every node; -1 for those of the leaves."""
    left, right = [-1] * count, [-1] * count
    for a, b in path:
        left.append(a)
        right.append(b)
    return left, right


def path_of(left: Sequence[int], right: Sequence[int], count: int) -> Pairs:
    """Return the tree given by the children of its nodes as a path; the last node is its root."""
    order, todo = [], [len(left) - 1]
    while todo:
        i = todo.pop()
        if i >= count:
            order.append(i)
            todo += [left[i], right[i]]
    ids = list(range(len(left)))
    steps: list[tuple[int, int]] = []
    for i in reversed(order):
        a, b = ids[left[i]], ids[right[i]]
        steps.append((min(a, b), max(a, b)))
        ids[i] = count + len(steps) - 1
    return tuple(steps)


def frugal(graph: Graph, path: Pairs, modes: int = 0) -> Pairs:
    """Return the same tree with its steps in the order that keeps the fewest elements of results alive at once.

    Of two subtrees the one goes first whose peak exceeds the size of its result by more. Source: the registers of
    R. Sethi and J. D. Ullman, "The generation of optimal code for arithmetic expressions" (1970), with sizes.

    Args:
        modes: a mask of modes that are sliced.
    """
    count = len(graph.leaves)
    weight = weigher(graph.extents)
    sizes = [exp2(min(1000.0, weight(mask & ~modes))) for mask in masks(graph, path)]
    sizes[:count] = [0.0] * count
    peaks = list(sizes)
    swapped = [False] * len(sizes)
    for i, (a, b) in enumerate(path, start=count):
        one = max(peaks[a], sizes[a] + peaks[b])
        two = max(peaks[b], sizes[b] + peaks[a])
        swapped[i] = two < one
        peaks[i] = max(min(one, two), sizes[a] + sizes[b] + sizes[i])
    order: list[int] = []
    todo = [count + len(path) - 1] if path else []
    while todo:  # the root first, and of its subtrees first the one that is contracted last
        i = todo.pop()
        if i >= count:
            order.append(i)
            a, b = path[i - count]
            todo += [b, a] if swapped[i] else [a, b]
    ids = list(range(len(sizes)))
    steps: list[tuple[int, int]] = []
    for i in reversed(order):
        a, b = (ids[child] for child in path[i - count])
        steps.append((min(a, b), max(a, b)))
        ids[i] = count + len(steps) - 1
    return tuple(steps)
