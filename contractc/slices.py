"""Slices of a loop: their order, and the tree in which what they give is added up.

The parts of a sum are numbered in the order of the loop and added in pairs, and the sums of pairs again: node n of
one level is the sum of nodes 2n and 2n + 1 of the level below. So the result has the same bits whoever computes
which slice, at most log2 of the number of parts wait for their neighbour at a time, and rounding errors grow with
the logarithm. (Pairwise summation: N. J. Higham, "The accuracy of floating point summation" (1993).)

Where there is no memory for parts that wait, they are added up one after the other instead, which is a fixed order too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from math import prod
from typing import Any, NamedTuple

from contractc.notation import Term

Add = Callable[[Any, Any], Any]
"""Addition of two parts, the earlier one first; it may write into either, nothing else refers to them."""


DEEPEST = 4
"""Loops inside of each other at most; modes that would make more of them share one."""


class Node(NamedTuple):
    """The sum of 2**`level` parts, from part `number` * 2**`level` on."""

    level: int
    number: int
    value: Any


def waiting(count: int) -> int:
    """Return the most parts and sums of parts of `count` that are in memory at a time, the newest included."""
    return count.bit_length()


def pushed(nodes: list[Node], node: Node, add: Add) -> None:
    """Append `node` to `nodes`, which end where it begins, and join halves of a node to that node."""
    nodes.append(node)
    while len(nodes) > 1:
        left, right = nodes[-2], nodes[-1]
        if left.level != right.level or left.number % 2 or left.number + 1 != right.number:
            return
        del nodes[-2:]
        nodes.append(Node(left.level + 1, left.number // 2, add(left.value, right.value)))


def total(nodes: list[Node], add: Add) -> Any:
    """Return the sum of all parts, taking `nodes` from the last to the first; there is one at least."""
    value = nodes.pop().value
    while nodes:
        value = add(nodes.pop().value, value)
    return value


class Sums:
    """What the results of a run of slices add up to; `done` is called with each sum that has all its parts.

    Args:
        modes: the loop's, with their extents, the outermost first.
        outs: the modes of each result; those of the loop that it keeps have a sum for each position.
        pairs: whether parts are added in pairs; else one after the other.
        done: takes the number of a result, the positions of its sum (by mode) and the sum.
    """

    def __init__(
        self,
        modes: Mapping[int, int],
        outs: Sequence[Term],
        add: Add,
        done: Callable[[int, dict[int, int], Any], None],
        pairs: bool = True,
    ) -> None:
        self.kept = [[m for m in modes if m in term] for term in outs]
        self.summed = [[(m, n) for m, n in modes.items() if m not in term] for term in outs]
        self.counts = [prod([n for _, n in summed]) for summed in self.summed]
        self.add, self.done, self.pairs = add, done, pairs
        self.nodes: list[dict[tuple[int, ...], list[Node]]] = [{} for _ in outs]

    def put(self, out: int, at: Mapping[int, int], part: Any) -> None:
        """Add what the slice `at` gives for result `out`: all its parts before have been added here, or elsewhere."""
        number = 0
        for m, n in self.summed[out]:
            number = number * n + at[m]
        self._push(out, tuple([at[m] for m in self.kept[out]]), Node(0, number, part))

    def join(self, later: Sums) -> None:
        """Add what the slices that follow gave."""
        for out, sums in enumerate(later.nodes):
            while sums:
                position, nodes = sums.popitem()
                for node in nodes:
                    self._push(out, position, node)

    def _push(self, out: int, position: tuple[int, ...], node: Node) -> None:
        nodes = self.nodes[out].setdefault(position, [])
        if self.pairs:
            pushed(nodes, node, self.add)
        elif nodes:
            nodes[0] = Node(0, node.number, self.add(nodes[0].value, node.value))
        else:
            nodes.append(node)
        last = nodes[-1]
        if (nodes[0].number == 0 or not self.pairs) and (last.number + 1) << last.level >= self.counts[out]:
            del self.nodes[out][position]
            self.done(out, dict(zip(self.kept[out], position, strict=True)), total(nodes, self.add))


def positions(modes: Mapping[int, int], start: int = 0, stop: int | None = None) -> Iterator[dict[int, int]]:
    """Yield the position of each slice from number `start` to `stop` along `modes`, the last mode the fastest."""
    every = product(*(range(n) for n in modes.values()))
    for position in islice(every, start, stop):
        yield dict(zip(modes, position, strict=True))


def place(at: Mapping[int, int], term: Term) -> tuple[Any, ...]:
    """Return the index of the slice `at` in an array with the modes `term`."""
    return tuple([at.get(m, slice(None)) for m in term])


def repeats(
    depends: Sequence[frozenset[int]], work: Sequence[int], modes: Term, extents: Sequence[int]
) -> list[int]:
    """Return how often each step runs when steps are in the loops they depend on; `work` are their flops."""
    loops = levels(modes, list(zip(depends, work, strict=True)), extents)
    counts = []
    for own in depends:
        depth = max((k + 1 for k, g in enumerate(loops) if own & set(g)), default=0)
        counts.append(prod(extents[m] for g in loops[:depth] for m in g))
    return counts


def levels(
    modes: Term, work: Sequence[tuple[frozenset[int], int]], extents: Sequence[int]
) -> tuple[Term, ...]:
    """Return the modes of each loop, the outermost first; a loop of its own where that takes work out of it."""
    left, rest = list(modes), list(work)
    order: list[int] = []
    saved: list[int] = []
    while left:
        outside = {m: sum(f for own, f in rest if m not in own) for m in left}
        inner = max(left, key=lambda m: (outside[m] - outside[m] // extents[m], m))
        order.insert(0, inner)
        saved.insert(0, outside[inner])
        left.remove(inner)
        rest = [(own, f) for own, f in rest if inner not in own]
    starts = sorted(sorted(range(1, len(order)), key=lambda k: -saved[k])[: DEEPEST - 1])
    starts = [0, *(k for k in starts if saved[k])]
    return tuple(tuple(sorted(order[a:b])) for a, b in zip(starts, [*starts[1:], len(order)], strict=True))
