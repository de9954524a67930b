"""Simulated annealing of contraction trees, on int bit masks."""

from __future__ import annotations

from collections.abc import Callable
from math import exp2, log2
from random import Random

from contractc.network import TensorNetwork
from contractc.plans import Path
from contractc.search.greedy import greedy

MOVES = 400_000
"""Moves that `anneal` tries: about a second of pure Python."""

COLDEST = 12.0
"""Final inverse temperature, per doubling of a node's cost; it starts at a twelfth of it."""


def anneal(network: TensorNetwork, moves: int = MOVES, seed: int = 0) -> tuple[Path, str]:
    """Return the cheapest path met while annealing from the greedy one.

    A move takes a node ((A, B), C) and makes it (A, (B, C)) or (B, (A, C)). It is accepted by the ratio of the
    multiplications of the two steps before and after, so one move costs a few operations on masks however
    large the tree is. The path depends on the network, `moves` and `seed` only. Sources: tree annealing as in
    cotengra and in Google's tnco; the local acceptance follows neither.
    """
    path, name = greedy(network)
    if len(network.tensors) < 3:
        return path, name
    tree = Tree(network, path)
    best, best_cost = tree.path(), tree.cost()
    random = Random(seed)
    sweeps = 20
    for sweep in range(sweeps):
        tree.moves(moves // sweeps, COLDEST * (1 / 12 + sweep / sweeps), random)
        cost = tree.cost()
        if cost < best_cost:
            best, best_cost = tree.path(), cost
    return best, f"annealing ({moves} moves)"


class Tree:
    """A contraction tree: leaves 0..n-1 are tensors, inner nodes follow; `legs` are the modes of each as a mask."""

    def __init__(self, network: TensorNetwork, path: Path) -> None:
        self.count = len(network.tensors)
        self.left = [-1] * self.count
        self.right = [-1] * self.count
        wanted = 0
        for m in {m for term in network.outputs for m in term}:
            wanted |= 1 << m
        self.legs = [_mask(t.modes) for t in network.tensors]
        self.weight = _weigher(network.extents)
        for pair in path:
            self.left.append(pair[0])
            self.right.append(pair[1])
        self._set_legs(wanted)

    def _set_legs(self, wanted: int) -> None:
        """Set the modes of all nodes: those inside that are needed outside."""
        inside = list(self.legs)
        for i in range(self.count, len(self.left)):
            inside.append(inside[self.left[i]] | inside[self.right[i]])
        outside = [0] * len(inside)
        outside[-1] = wanted
        for i in range(len(inside) - 1, self.count - 1, -1):
            a, b = self.left[i], self.right[i]
            outside[a] = outside[i] | inside[b]
            outside[b] = outside[i] | inside[a]
        self.legs = [i & o for i, o in zip(inside, outside, strict=True)]

    def cost(self) -> float:
        """Return log2 of the multiplications of the whole tree."""
        costs = [
            self.weight(self.legs[self.left[i]] | self.legs[self.right[i]])
            for i in range(self.count, len(self.left))
        ]
        top = max(costs)
        return top + log2(sum(exp2(c - top) for c in costs))

    def moves(self, number: int, beta: float, random: Random) -> None:
        """Try `number` moves at inverse temperature `beta`."""
        left, right, legs, weight = self.left, self.right, self.legs, self.weight
        count, total = self.count, len(self.left)
        draw = random.random
        for _ in range(number):
            top = count + int(draw() * (total - count))
            x, c = left[top], right[top]
            if x < count or (c >= count and draw() < 0.5):
                x, c = c, x
            if x < count:
                continue
            a, b = left[x], right[x]
            if draw() < 0.5:
                a, b = b, a
            la, lb, lc = legs[a], legs[b], legs[c]
            made = (lb | lc) & (la | legs[top])
            one, two = weight(la | lb), weight(legs[x] | lc)
            new_one, new_two = weight(lb | lc), weight(la | made)
            before = (one if one > two else two) + log2(1.0 + exp2(-abs(one - two)))
            after = (new_one if new_one > new_two else new_two) + log2(1.0 + exp2(-abs(new_one - new_two)))
            if after <= before or draw() < exp2(beta * (before - after)):
                left[x], right[x], legs[x] = b, c, made
                left[top], right[top] = a, x

    def path(self) -> Path:
        """Return the tree as an SSA path."""
        order, todo = [], [len(self.left) - 1]
        while todo:
            i = todo.pop()
            if i >= self.count:
                order.append(i)
                todo += [self.left[i], self.right[i]]
        ids = list(range(len(self.left)))
        steps = []
        for i in reversed(order):
            a, b = ids[self.left[i]], ids[self.right[i]]
            steps.append((min(a, b), max(a, b)))
            ids[i] = self.count + len(steps) - 1
        return tuple(steps)


def _mask(modes: tuple[int, ...]) -> int:
    mask = 0
    for m in modes:
        mask |= 1 << m
    return mask


def _weigher(extents: tuple[int, ...]) -> Callable[[int], float]:
    """Return a function from a mask to log2 of the product of its modes' extents."""
    parts = [
        (log2(extent), _mask(tuple(m for m, n in enumerate(extents) if n == extent)))
        for extent in sorted(set(extents))
        if extent > 1
    ]
    if len(parts) == 1:
        unit, _ = parts[0]
        everything = parts[0][1]
        return lambda mask: unit * (mask & everything).bit_count()
    return lambda mask: sum([unit * (mask & own).bit_count() for unit, own in parts])
