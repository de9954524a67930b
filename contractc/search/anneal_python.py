"""The moves of annealing in pure Python, on int masks: the reference, and what runs where numba does not."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp2, inf, log2
from typing import Any

import numpy as np

from contractc.search.bisection import bisections as bisections
from contractc.search.graph import FLOPS, Graph, Objective, Pairs, children, log2_sum, masks, path_of, weigher

NAME = "Python"
BLOCK = 256
"""Moves between two looks at the clock: a quarter of a millisecond."""

TINY = 1e-300
"""A draw of zero is taken for this, so that its power is a number."""

FADED = 2.0**-20
"""A sum that fell to this part of its last exact value is computed anew: what was subtracted has rounded it off."""


class Tree:
    """A tree being annealed; see `anneal.Engine` for what it offers."""

    def __init__(self, graph: Graph, path: Pairs, objective: Objective = FLOPS) -> None:
        self.count = len(graph.leaves)
        self.graph = graph
        self.objective = objective
        self.uniform = len(set(graph.extents)) <= 1
        self.unit = log2(graph.extents[0]) if graph.extents else 0.0
        self.weight: Any = int.bit_count if self.uniform else weigher(graph.extents)
        self.set(*children(path, self.count))

    def set(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Take over a tree given by the children of its nodes."""
        self.left, self.right = list(left), list(right)
        path = path_of(self.left, self.right, self.count)
        self.left, self.right = children(path, self.count)
        self.legs = masks(self.graph, path)
        self.parent = [-1] * len(self.left)
        for i in range(self.count, len(self.left)):
            self.parent[self.left[i]] = self.parent[self.right[i]] = i
        self.touched = [0] * self.count
        for i in range(self.count, len(self.left)):
            self.touched.append(self.weight(self.legs[self.left[i]] | self.legs[self.right[i]]))
        self.sizes = [self.weight(mask) for mask in self.legs]
        self.at = len(self.left) - 1

    def get(self) -> tuple[list[int], list[int]]:
        """Return the children of all nodes."""
        return list(self.left), list(self.right)

    def path(self) -> Pairs:
        """Return the tree as an SSA path."""
        return path_of(self.left, self.right, self.count)

    def cost(self) -> float:
        """Return log2 of what all steps are charged."""
        unit = self.unit if self.uniform else 1.0
        goal, inner = self.objective, range(self.count, len(self.left))
        parts = [unit * self.touched[i] + log2(goal.flops) for i in inner] if goal.flops else []
        if goal.reads:
            more = log2(goal.reads)
            parts += [goal.power * unit * size + more for size in self.sizes[:-1]]
        if goal.writes:
            more = log2(goal.writes)
            parts += [goal.power * unit * self.sizes[i] + more for i in inner]
        return log2_sum(parts)

    def begin(self) -> None:
        """Choose the scale of the sums for the moves that follow, and add up."""
        unit = self.unit if self.uniform else 1.0
        widest = len(self.graph.extents) + 1
        self.offset = unit * max(self.touched)
        if self.uniform:
            self.power: Any = [exp2(min(unit * w - self.offset, 1000.0)) for w in range(widest)]
        else:
            self.power = _Powers(self.offset, 1.0)
        if not self.objective.plain:
            power = self.objective.power
            self.offset = max(self.offset, power * unit * max(self.sizes))
            self.power, self.bulk = _Powers(self.offset, unit), _Powers(self.offset, unit * power)
        self.total = self.exact = self._sum()

    def _sum(self) -> float:
        inner = range(self.count, len(self.left))
        if self.objective.plain:
            return float(sum([self.power[self.touched[i]] for i in inner]))
        sizes = self.sizes
        return sum(
            [self._step(self.touched[i], sizes[self.left[i]], sizes[self.right[i]], sizes[i]) for i in inner]
        )

    def _step(self, touched: float, left: float, right: float, out: float) -> float:
        goal, bulk = self.objective, self.bulk
        charged = goal.flops * self.power[touched] + goal.writes * bulk[out]
        return float(charged + goal.reads * (bulk[left] + bulk[right]))

    def _turned(
        self, x: int, top: int, subtrees: tuple[int, int, int], weights: tuple[float, float, float]
    ) -> tuple[float, float]:
        """Return what two steps are charged as ((a, b), c) and as (a, (b, c)); `weights` are those of the latter."""
        sizes, touched, (a, b, c), (one, two, size) = self.sizes, self.touched, subtrees, weights
        before = self._step(touched[x], sizes[a], sizes[b], sizes[x])
        before += self._step(touched[top], sizes[x], sizes[c], sizes[top])
        after = self._step(one, sizes[b], sizes[c], size) + self._step(two, sizes[a], size, sizes[top])
        return before, after

    # The loops of `local` and `walk` both say how a move is looked at: with a call for each they would take half as
    # long again. What can be drawn for all moves at once is: the places, and by how much a charge may grow.

    def local(self, draws: Any, beta: float) -> None:
        """Try a move for each row of `draws` at random nodes, accepted by the charges of the two steps it changes."""
        left, right, legs, touched, sizes = self.left, self.right, self.legs, self.touched, self.sizes
        parent, power, weight, plain = self.parent, self.power, self.weight, self.objective.plain
        count = self.count
        picks = (draws[:, 0] * (4 * (len(left) - count))).astype(np.int64)
        tops, sides, flips = (picks >> 2) + count, picks & 1, picks & 2
        for top, side, flip, growth in zip(
            tops.tolist(), sides.tolist(), flips.tolist(), _growths(draws, beta), strict=True
        ):
            x, c = left[top], right[top]
            if side:
                x, c = c, x
            if x < count:
                x, c = c, x
                if x < count:
                    continue
            a, b = left[x], right[x]
            if flip:
                a, b = b, a
            lc = legs[c]
            lb = legs[b]
            if not lb & lc:
                a, b = b, a
                lb = legs[b]
                if not lb & lc:
                    continue
            bc = lb | lc
            one = weight(bc)
            if plain:
                most = growth * (power[touched[x]] + power[touched[top]])
                if power[one] > most:
                    continue
                la = legs[a]
                made = bc & (la | legs[top])
                two = weight(la | made)
                if power[one] + power[two] > most:
                    continue
            else:
                la = legs[a]
                made = bc & (la | legs[top])
                two, size = weight(la | made), weight(made)
                before, after = self._turned(x, top, (a, b, c), (one, two, size))
                if after > growth * before:
                    continue
                sizes[x] = size
            left[x], right[x], legs[x], touched[x] = b, c, made, one
            left[top], right[top], touched[top] = a, x, two
            parent[c], parent[a] = x, top

    def walk(self, draws: Any, beta: float) -> None:
        """Try a move for each row of `draws` on walks from random leaves to the root, accepted by the whole charge."""
        left, right, legs, touched, sizes = self.left, self.right, self.legs, self.touched, self.sizes
        parent, power, weight, plain = self.parent, self.power, self.weight, self.objective.plain
        total, at, count, root = self.total, self.at, self.count, len(left) - 1
        low = self.exact * FADED
        for u, growth in zip(draws[:, 0].tolist(), _growths(draws, beta), strict=True):
            if at == root:
                at = parent[int(u * count)]
                continue
            x, at = at, parent[at]
            c = left[at] + right[at] - x
            a, b = left[x], right[x]
            if u < 0.5:
                a, b = b, a
            lc = legs[c]
            lb = legs[b]
            if not lb & lc:
                a, b = b, a
                lb = legs[b]
                if not lb & lc:
                    continue
            la = legs[a]
            bc = lb | lc
            made = bc & (la | legs[at])
            one, two = weight(bc), weight(la | made)
            if plain:
                before = power[touched[x]] + power[touched[at]]
                after = power[one] + power[two]
            else:
                size = weight(made)
                before, after = self._turned(x, at, (a, b, c), (one, two, size))
            if after > before + (growth - 1.0) * total:
                continue
            if not plain:
                sizes[x] = size
            left[x], right[x], legs[x], touched[x] = b, c, made, one
            left[at], right[at], touched[at] = a, x, two
            parent[c], parent[a] = x, at
            total += after - before
            if total < low:
                total = self.exact = self._sum()
                low = total * FADED
        self.total, self.at = total, at


def _growths(draws: Any, beta: float) -> list[float]:
    """Return for each row of `draws` the factor by which a charge may grow: a growth g is accepted with g**-beta."""
    if not beta:
        return [inf] * len(draws)
    found: list[float] = (np.maximum(draws[:, 1], TINY) ** (-1.0 / beta)).tolist()
    return found


# The one class here that inherits: the innermost loop reads `power[w]`, and only a dict itself answers that without a
# call into Python, as the list does that stands in its place where all extents are equal.
class _Powers(dict[float, float]):
    """Powers of two by their exponent, scaled by an offset."""

    def __init__(self, offset: float, unit: float) -> None:
        super().__init__()
        self.offset, self.unit = offset, unit

    def __missing__(self, weight: float) -> float:
        found = self[weight] = exp2(min(self.unit * weight - self.offset, 1000.0)) if weight > -inf else 0.0
        return found
