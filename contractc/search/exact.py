"""Exact dynamic programming over subsets of tensors."""

from __future__ import annotations

from contractc.network import TensorNetwork
from contractc.plans import Path
from contractc.search.greedy import greedy

MOST_EXACT = 12
"""Most tensors for which the optimal order is searched: the work grows as 3 to that power."""


def optimal(network: TensorNetwork) -> tuple[Path, str]:
    """Return the path with the fewest multiplications over pairwise steps, outer products included.

    For each set of tensors the best split in two is found from the best of its subsets; a step costs the
    product of the extents of all modes it touches, plus the size of its result so that ties go to the smaller
    intermediates. Beyond `MOST_EXACT` tensors the path is greedy, and named so.
    """
    count = len(network.tensors)
    if count == 1:
        return ((0,),), "nothing to search"
    if count > MOST_EXACT:
        path, name = greedy(network)
        return path, f"{name} (optimal is for at most {MOST_EXACT} tensors)"
    modes = [sum(1 << m for m in set(t.modes)) for t in network.tensors]
    wanted = sum(1 << m for m in {m for term in network.outputs for m in term})
    everything = (1 << count) - 1
    touched = _union_of_subsets(modes)
    keep = [touched[s] & (wanted | touched[everything ^ s]) for s in range(everything + 1)]
    for k in range(count):
        keep[1 << k] = modes[k]
    size = _sizes(network.extents)
    best: list[int] = [0] * (everything + 1)
    split = [0] * (everything + 1)
    for whole in range(3, everything + 1):
        if whole & (whole - 1) == 0:
            continue
        low = whole & -whole
        rest = whole ^ low
        cheapest, chosen = None, 0
        part = (rest - 1) & rest
        made = size(keep[whole])
        while True:
            left = part | low
            right = whole ^ left
            price = best[left] + best[right]
            if cheapest is None or price < cheapest:
                price += size(keep[left] | keep[right]) + made
                if cheapest is None or price < cheapest:
                    cheapest, chosen = price, left
            if part == 0:
                break
            part = (part - 1) & rest
        best[whole], split[whole] = cheapest or 0, chosen
    return _path_of(split, everything, count), "optimal"


def _union_of_subsets(modes: list[int]) -> list[int]:
    union = [0]
    for mask in modes:
        union += [other | mask for other in union]
    return union


def _sizes(extents: tuple[int, ...]):  # type: ignore[no-untyped-def]
    """Return a function from a mask of modes to the product of their extents, which remembers."""
    known: dict[int, int] = {0: 1}

    def size(mask: int) -> int:
        found = known.get(mask)
        if found is None:
            low = mask & -mask
            found = known[mask] = size(mask ^ low) * extents[low.bit_length() - 1]
        return found

    return size


def _path_of(split: list[int], everything: int, count: int) -> Path:
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
