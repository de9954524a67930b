"""Exact dynamic programming over subsets of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from contractc.network import TensorNetwork
from contractc.plans import Path
from contractc.search.graph import Graph, Pairs, bits
from contractc.search.greedy import greedy

FULL = 8
"""Up to so many tensors every split of every subset is looked at: the work grows as 3 to that power."""

MOST_EXACT = 16
"""Most tensors for which the optimal order is searched."""

PATIENCE = 400_000
"""Pairs of subsets that are looked at for `optimize="optimal"`: a tenth of a second."""


def optimal(network: TensorNetwork) -> tuple[Path, str]:
    """Return the path with the fewest multiplications over pairwise steps, outer products included.

    Beyond `MOST_EXACT` tensors, and where too many subsets stay in question, the path is greedy, and named so.
    """
    count = len(network.tensors)
    if count == 1:
        return ((0,),), "nothing to search"
    if count > MOST_EXACT:
        path, name = greedy(network)
        return path, f"{name} (optimal is for at most {MOST_EXACT} tensors)"
    leaves = [sum([1 << m for m in set(t.modes)]) for t in network.tensors]
    wanted = sum([1 << m for m in {m for term in network.outputs for m in term}])
    if count <= FULL:
        return full(leaves, wanted, network.extents), "optimal"
    start, name = greedy(network)
    found = pruned(leaves, wanted, network.extents, start, PATIENCE)  # type: ignore[arg-type]
    return (start, f"{name} (optimal takes too long)") if found is None else (found, "optimal")


def optimal_pairs(graph: Graph, start: Pairs, patience: int) -> Pairs | None:
    """Return the optimal path of a graph of few tensors; None if more than `patience` pairs would be looked at."""
    if len(graph.leaves) <= FULL:
        return full(graph.leaves, graph.wanted, graph.extents)
    return pruned(graph.leaves, graph.wanted, graph.extents, start, patience)


def full(
    leaves: Sequence[int], wanted: int, extents: Sequence[int], traffic: int = 0, outer: bool = True
) -> Pairs:
    """Return the optimal path, from every split of every subset.

    For each set of tensors the best split in two is found from the best of its subsets; a step costs the
    product of the extents of all modes it touches, plus the size of its result so that ties go to the smaller
    intermediates.

    Args:
        traffic: what reading or writing an element costs, in multiplications.
        outer: whether tensors that share no mode may be multiplied. Without that it takes a fifth of the time, and
            nothing is returned for leaves that are not connected.
    """
    count = len(leaves)
    if count < 3:
        return ((0, 1),) if count == 2 else ()
    everything = (1 << count) - 1
    touched = [0]
    for mask in leaves:
        touched += [other | mask for other in touched]
    keep = [inside & (wanted | outside) for inside, outside in zip(touched, reversed(touched), strict=True)]
    for k in range(count):
        keep[1 << k] = leaves[k]
    size = _sizes(extents)
    never = 4 * (1 + traffic) * count * prod(filter(None, extents))  # dearer than any path
    best = [0] * (everything + 1)
    split = [0] * (everything + 1)
    for whole in range(3, everything + 1):
        low = whole & -whole
        rest = whole ^ low
        if not rest:
            continue
        part = rest
        cheapest = never
        made = size(keep[whole])
        while part:
            part = (part - 1) & rest
            left = part | low
            right = whole ^ left
            price = best[left] + best[right]
            if price < cheapest and (outer or keep[left] & keep[right]):
                price += size(keep[left] | keep[right])
                if traffic:
                    price += traffic * (size(keep[left]) + size(keep[right]))
                if price < cheapest:
                    cheapest, chosen = price, left
        best[whole] = cheapest + (1 + traffic) * made
        if cheapest < never:
            split[whole] = chosen
    if not split[everything]:
        return ()
    return _path_of(split, everything, count)


def pruned(
    leaves: Sequence[int], wanted: int, extents: Sequence[int], start: Pairs, patience: int
) -> Pairs | None:
    """Return the optimal path, from the subsets that can be part of one better than `start`.

    A subset is left out if contracting it alone costs as much as all of `start`. None if more than `patience`
    pairs of subsets would be looked at. Source: the cost cap of R. Pfeifer, J. Haegeman, F. Verstraete, "Faster
    identification of optimal contraction sequences for tensor networks" (2014), with the bound of a known path.
    """
    count = len(leaves)
    size = _sizes(extents)
    touched = {1 << k: leaf for k, leaf in enumerate(leaves)}
    holders = _holders(leaves)
    everything = (1 << count) - 1

    def kept(subset: int, inside: int) -> int:
        """Return the modes of the result of a subset."""
        needed = inside & wanted
        for b in bits(inside & ~wanted):
            if holders[b] & ~subset:
                needed |= 1 << b
        return needed

    keep = dict(touched)
    best = dict.fromkeys(touched, 0)
    split: dict[int, int] = {}
    bound = 1 + _price(leaves, start, kept, size)
    levels: list[list[int]] = [[], list(touched)]
    for order in range(2, count + 1):
        level: dict[int, int] = {}
        for small in range(1, order // 2 + 1):
            ones, others = levels[small], levels[order - small]
            patience -= len(ones) * len(others)
            if patience < 0:
                return None
            same = small == order - small
            for one in ones:
                mine, mask = best[one], keep[one]
                for two in others:
                    if one & two or (same and two < one):
                        continue
                    price = mine + best[two]
                    whole = one | two
                    limit = level.get(whole, bound)
                    if price >= limit:
                        continue
                    price += size(mask | keep[two])
                    if price >= limit:
                        continue
                    if whole not in keep:
                        touched[whole] = touched[one] | touched[two]
                        keep[whole] = kept(whole, touched[whole])
                    price += size(keep[whole])
                    if price < limit:
                        level[whole], split[whole] = price, one
        best.update(level)
        levels.append(list(level))
    return _path_of(split, everything, count)


def _holders(leaves: Sequence[int]) -> dict[int, int]:
    """Return for each mode the set of the tensors that have it."""
    holders: dict[int, int] = {}
    for k, leaf in enumerate(leaves):
        for b in bits(leaf):
            holders[b] = holders.get(b, 0) | 1 << k
    return holders


def _price(
    leaves: Sequence[int], path: Pairs, kept: Callable[[int, int], int], size: Callable[[int], int]
) -> int:
    """Return what the exact search minimises, for a given path."""
    subsets = [1 << k for k in range(len(leaves))]
    inside, modes = list(leaves), list(leaves)
    total = 0
    for a, b in path:
        subsets.append(subsets[a] | subsets[b])
        inside.append(inside[a] | inside[b])
        total += size(modes[a] | modes[b])
        modes.append(kept(subsets[-1], inside[-1]))
        total += size(modes[-1])
    return total


AT_ONCE = 6
LOWEST = (1 << AT_ONCE) - 1
"""Modes whose products are looked up at once, and their mask."""


def _sizes(extents: Sequence[int]) -> Callable[[int], int]:
    """Return a function from a mask of modes to the product of their extents, which remembers."""
    tables = []  # of the products of all subsets of `AT_ONCE` modes
    for first in range(0, len(extents), AT_ONCE):
        table = [1]
        for extent in extents[first : first + AT_ONCE]:
            table += [extent * product for product in table]
        tables.append(table)
    if len(tables) == 1:
        return tables[0].__getitem__
    known: dict[int, int] = {}

    def size(mask: int) -> int:
        found = known.get(mask)
        if found is None:
            found, rest = 1, mask
            for table in tables:
                found *= table[rest & LOWEST]
                rest >>= AT_ONCE
            known[mask] = found
        return found

    return size


def _path_of(split: Sequence[int] | dict[int, int], everything: int, count: int) -> Pairs:
    steps: list[tuple[int, int]] = []

    def build(whole: int) -> int:
        if whole & (whole - 1) == 0:
            return whole.bit_length() - 1
        left = build(split[whole])
        right = build(whole ^ split[whole])
        steps.append((min(left, right), max(left, right)))
        return count + len(steps) - 1

    build(everything)
    return tuple(steps)
