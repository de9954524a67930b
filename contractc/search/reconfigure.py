"""Optimal orders below the dearest steps of a tree: what annealing left undone there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from contractc.search.clock import Clock
from contractc.search.exact import FULL, full
from contractc.search.graph import FLOPS, Graph, Objective, Pairs, charge, children, masks, path_of, weigher
from contractc.search.reduce import compacted

NEGLIGIBLE = 7.0
"""Steps that touch so many bits less than the largest are left as they are."""


def reconfigured(
    graph: Graph, path: Pairs, most: int, clock: Clock, objective: Objective = FLOPS
) -> tuple[Pairs, int]:
    """Return the tree with optimal orders below its dearest steps, and how many such orders were looked for.

    A step is taken with what is below it, the largest nodes taken apart until there are `FULL`; how these are
    contracted is found by the exact search. The dearest step comes first, and is looked at again, with what is
    next to it, where that has changed something.
    Source: the subtree reconfiguration of cotengra (J. Gray, S. Kourtis, 2021).

    Args:
        most: orders looked for at most.
        objective: one that counts multiplications; nothing is done for others.
    """
    count, tried = len(graph.leaves), 0
    if not objective.flops or len(path) < 2:
        return path, 0
    weight = weigher(graph.extents)
    left, right = children(path, count)
    nodes = masks(graph, path)
    touched = [-1.0] * count
    touched += [weight(nodes[a] | nodes[b]) for a, b in path]
    todo = sorted(range(count, len(nodes)), key=lambda i: (touched[i], -i))
    looked: set[tuple[int, ...]] = set()
    least, unchanged = max(touched) - NEGLIGIBLE, True
    while todo and tried < most and not clock.late():
        top = todo.pop()
        if touched[top] < least:
            break
        below, inner = _taken_apart(top, left, right, nodes, weight, count)
        key = tuple(sorted([nodes[i] for i in below]))
        if len(below) < 3 or key in looked:
            continue
        looked.add(key)
        tried += 1
        small = compacted([nodes[i] for i in below], nodes[top], graph.extents)
        ids = [*below, *inner]
        place = {i: at for at, i in enumerate(ids)}
        before = tuple([(place[left[i]], place[right[i]]) for i in inner])
        after = full(small.leaves, small.wanted, small.extents, round(objective.reads), outer=False)
        if not after or charge(small, after, objective) > charge(small, before, objective) - 1e-9:
            continue
        for i, (a, b), mask in zip(inner, after, _kept(nodes, below, after, nodes[top]), strict=True):
            left[i], right[i], nodes[i] = ids[a], ids[b], mask
            touched[i] = weight(nodes[left[i]] | nodes[right[i]])
        todo = sorted(range(count, len(nodes)), key=lambda i: (touched[i], -i))
        least, unchanged = max(touched) - NEGLIGIBLE, False
    return path if unchanged else path_of(left, right, count), tried


def _taken_apart(
    top: int,
    left: Sequence[int],
    right: Sequence[int],
    nodes: Sequence[int],
    weight: Callable[[int], float],
    count: int,
) -> tuple[list[int], list[int]]:
    """Return up to `FULL` nodes that node `top` is contracted from, and those between, `top` last."""
    below = [top]
    inner: list[int] = []
    while len(below) < FULL:
        inside = [i for i in below if i >= count]
        if not inside:
            break
        largest = max(inside, key=lambda i: (weight(nodes[i]), i)) if inner else top
        below.remove(largest)
        below += [left[largest], right[largest]]
        inner.append(largest)
    return below, inner[::-1]


def _kept(nodes: Sequence[int], below: Sequence[int], path: Pairs, wanted: int) -> list[int]:
    """Return the modes of the result of every step of `path` over the nodes `below`."""
    sets = [1 << k for k in range(len(below))]
    found = []
    for a, b in path:
        sets.append(sets[a] | sets[b])
        inside, outside = 0, wanted
        for k, i in enumerate(below):
            if sets[-1] >> k & 1:
                inside |= nodes[i]
            else:
                outside |= nodes[i]
        found.append(inside & outside)
    return found
