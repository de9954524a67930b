"""The moves of annealing compiled by numba, on arrays of 64-bit words: the same moves as in anneal_python.

Importing this module imports numba, which takes a third of a second; `engines.engine` does so when it pays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from contractc.search import bisection
from contractc.search.anneal_python import FADED
from contractc.search.graph import FLOPS, Graph, Objective, Pairs, children, classes, path_of

NAME = "numba"
BLOCK = 4096
"""Moves between two looks at the clock: a quarter of a millisecond."""

WORD = 64


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled; the machine code is kept on disk where there is a folder to write to."""
    made: Callable[..., Any]
    try:
        made = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder can be written to
        made = numba.njit(nogil=True)(function)
    return made


@intrinsic
def _ones(typing: Any, word: Any) -> Any:
    """Return the number of bits set in a word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.types.uint64(numba.types.uint64), generate


class Tree:
    """A tree being annealed; see `anneal.Engine` for what it offers."""

    def __init__(self, graph: Graph, path: Pairs, objective: Objective = FLOPS) -> None:
        self.count = len(graph.leaves)
        self.objective = objective
        runs = classes(graph.extents)
        starts = np.cumsum([0] + [-(-(last - first) // WORD) for _, first, last in runs])
        words = max(1, int(starts[-1]))
        self.starts = starts.astype(np.int64)
        self.units = np.array([unit for unit, _, _ in runs], np.float64)
        self.uniform = len(runs) <= 1
        self.unit = float(self.units[0]) if runs else 0.0
        self.goal = np.array([objective.flops, objective.reads, objective.writes, objective.power])
        total = 2 * self.count - 1
        self.legs = np.zeros((total, words), np.uint64)
        self.wanted = np.zeros((1, words), np.uint64)
        for (_, first, last), start in zip(runs, starts, strict=False):
            own, length = (1 << (last - first)) - 1, -(-(last - first) // WORD)
            for row, mask in [
                *((self.legs[k], m) for k, m in enumerate(graph.leaves)),
                (self.wanted[0], graph.wanted),
            ]:
                part = (mask >> first) & own
                if part:
                    row[start : start + length] = np.frombuffer(part.to_bytes(8 * length, "little"), "<u8")
        self.children = np.full((total, 2), -1, np.int64)
        self.parent = np.full(total, -1, np.int64)
        self.touched = np.zeros(total)
        self.sizes = np.zeros(total)
        self.state = np.zeros(4)
        self.power = np.zeros(WORD * words + 1)
        self.set(*children(path, self.count))

    def set(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Take over a tree given by the children of its nodes."""
        path = path_of(left, right, self.count)
        self.children[self.count :] = path
        self._settle()

    def _settle(self) -> None:
        _settle(
            self.children, self.parent, self.legs, self.wanted, self.touched, self.sizes,
            self.starts, self.units, self.count,
        )  # fmt: skip
        self.state[2] = len(self.children) - 1

    def get(self) -> tuple[list[int], list[int]]:
        """Return the children of all nodes."""
        return self.children[:, 0].tolist(), self.children[:, 1].tolist()

    def path(self) -> Pairs:
        """Return the tree as an SSA path."""
        return path_of(*self.get(), self.count)

    def cost(self) -> float:
        """Return log2 of what all steps are charged."""
        goal, inner = self.objective, slice(self.count, None)
        parts = [self.touched[inner] + log2(goal.flops)] if goal.flops else []
        if goal.reads:
            parts.append(goal.power * self.sizes[:-1] + log2(goal.reads))
        if goal.writes:
            parts.append(goal.power * self.sizes[inner] + log2(goal.writes))
        every = np.concatenate(parts)
        top = every.max()
        return float(top + np.log2(np.exp2(every - top).sum()))

    def begin(self) -> None:
        """Choose the scale of the sums for the moves that follow, and add up."""
        self.offset = float(self.touched[self.count :].max())
        if not self.objective.plain:
            self.offset = max(self.offset, self.objective.power * float(self.sizes.max()))
        elif self.uniform:
            self.power = np.exp2(np.minimum(np.arange(len(self.power)) * self.unit - self.offset, 1000.0))
        self.state[3] = self.offset
        self.state[0] = self.state[1] = _sum(
            self.children,
            self.touched,
            self.sizes,
            self.goal,
            self.power,
            self._table,
            self.state,
            self.count,
            self.unit,
        )

    @property
    def _table(self) -> bool:
        return self.uniform and self.objective.plain

    def local(self, draws: Any, beta: float) -> None:
        """Try a move for each row of `draws` at random nodes, accepted by the charges of the two steps it changes."""
        _moves(
            self.children, self.parent, self.legs, self.touched, self.sizes, self.starts, self.units, self.goal,
            self.power, self._table, self.state, self.count, self.unit, draws, beta, False,
        )  # fmt: skip

    def walk(self, draws: Any, beta: float) -> None:
        """Try a move for each row of `draws` on walks from random leaves to the root, accepted by the whole charge."""
        _moves(
            self.children, self.parent, self.legs, self.touched, self.sizes, self.starts, self.units, self.goal,
            self.power, self._table, self.state, self.count, self.unit, draws, beta, True,
        )  # fmt: skip


@_compiled
def _settle(children, parent, legs, wanted, touched, sizes, starts, units, count):
    """Fill in parents, modes and weights of a tree whose nodes come after their children."""
    total, words = legs.shape
    outside = np.zeros((total, words), np.uint64)
    for i in range(count, total):
        a, b = children[i, 0], children[i, 1]
        parent[a] = i
        parent[b] = i
        for w in range(words):
            legs[i, w] = legs[a, w] | legs[b, w]
    parent[total - 1] = -1
    for w in range(words):
        outside[total - 1, w] = wanted[0, w]
    for i in range(total - 1, count - 1, -1):
        a, b = children[i, 0], children[i, 1]
        for w in range(words):
            outside[a, w] = outside[i, w] | legs[b, w]
            outside[b, w] = outside[i, w] | legs[a, w]
    for i in range(count, total):
        for w in range(words):
            legs[i, w] &= outside[i, w]
    for i in range(total):
        a, b = children[i, 0], children[i, 1]
        size = 0.0
        both = 0.0
        for k in range(len(units)):
            ones = np.uint64(0)
            union = np.uint64(0)
            for w in range(starts[k], starts[k + 1]):
                ones += _ones(legs[i, w])
                if i >= count:
                    union += _ones(legs[a, w] | legs[b, w])
            size += units[k] * ones
            both += units[k] * union
        sizes[i] = size
        touched[i] = both


@_compiled
def _step(goal, offset, touched, left, right, out):
    """Return what a step is charged, scaled."""
    p = goal[3]
    charged = goal[0] * 2.0 ** min(touched - offset, 1000.0)
    if goal[1] != 0.0:
        charged += goal[1] * (2.0 ** min(p * left - offset, 1000.0) + 2.0 ** min(p * right - offset, 1000.0))
    return charged + goal[2] * 2.0 ** min(p * out - offset, 1000.0)


@_compiled
def _sum(children, touched, sizes, goal, power, table, state, count, unit):
    """Return what all steps are charged, scaled."""
    total = 0.0
    plain = goal[1] == 0.0 and goal[2] == 0.0
    for i in range(count, len(touched)):
        if table:
            total += power[int(touched[i] / unit + 0.5)] if unit > 0.0 else 1.0
        elif plain:
            total += goal[0] * 2.0 ** min(touched[i] - state[3], 1000.0)
        else:
            a, b = children[i, 0], children[i, 1]
            total += _step(goal, state[3], touched[i], sizes[a], sizes[b], sizes[i])
    return total


@_compiled
def _meets(legs, b, c):
    """Return whether two nodes share a mode."""
    shared = np.uint64(0)
    for w in range(legs.shape[1]):
        shared |= legs[b, w] & legs[c, w]
    return shared != 0


@_compiled
def _counted(legs, a, b, c, top):
    """Return how many modes the two steps of ((a), (b, c)) touch, and the modes that b and c share, in one word."""
    first = np.uint64(0)
    second = np.uint64(0)
    shared = np.uint64(0)
    for w in range(legs.shape[1]):
        lb, lc, la = legs[b, w], legs[c, w], legs[a, w]
        bc = lb | lc
        shared |= lb & lc
        first += _ones(bc)
        second += _ones(la | (bc & legs[top, w]))
    return first, second, shared


@_compiled
def _moves(
    children, parent, legs, touched, sizes, starts, units, goal,
    power, table, state, count, unit, draws, beta, walking,
):  # fmt: skip
    """Try a move for each row of `draws`; `state`: the sum, when last exact, the node walked to, the offset."""
    total, words = legs.shape
    root, places = total - 1, 4 * (total - count)
    charged, low, at, offset = state[0], state[1] * FADED, int(state[2]), state[3]
    plain = goal[1] == 0.0 and goal[2] == 0.0
    inverse = 1.0 / unit if unit > 0.0 else 0.0
    for k in range(len(draws)):
        u = draws[k, 0]
        if walking:
            if at == root:
                at = parent[int(u * count)]
                continue
            x = at
            at = top = parent[x]
            c = children[top, 0] + children[top, 1] - x
            flip = u < 0.5
        else:
            pick = int(u * places)
            top = count + (pick >> 2)
            side = pick & 1
            x, c = children[top, side], children[top, 1 - side]
            if x < count:
                x, c = c, x
                if x < count:
                    continue
            flip = pick & 2 != 0
        a, b = children[x, 0], children[x, 1]
        if flip:
            a, b = b, a
        one = two = size = 0.0
        if table:
            first, second, shared = _counted(legs, a, b, c, top)
            if shared == 0:
                a, b = b, a
                first, second, shared = _counted(legs, a, b, c, top)
                if shared == 0:
                    continue
            one, two = unit * first, unit * second
            before = power[int(touched[x] * inverse + 0.5)] + power[int(touched[top] * inverse + 0.5)]
            after = power[first] + power[second]
        else:
            if not _meets(legs, b, c):
                a, b = b, a
                if not _meets(legs, b, c):
                    continue
            for j in range(len(units)):
                first = np.uint64(0)
                second = np.uint64(0)
                third = np.uint64(0)
                for w in range(starts[j], starts[j + 1]):
                    la = legs[a, w]
                    bc = legs[b, w] | legs[c, w]
                    made = bc & (la | legs[top, w])
                    first += _ones(bc)
                    second += _ones(la | made)
                    third += _ones(made)
                one += units[j] * first
                two += units[j] * second
                size += units[j] * third
            if plain:
                before = 2.0 ** min(touched[x] - offset, 1000.0) + 2.0 ** min(touched[top] - offset, 1000.0)
                after = 2.0 ** min(one - offset, 1000.0) + 2.0 ** min(two - offset, 1000.0)
            else:
                before = _step(goal, offset, touched[x], sizes[a], sizes[b], sizes[x])
                before += _step(goal, offset, touched[top], sizes[x], sizes[c], sizes[top])
                after = _step(goal, offset, one, sizes[b], sizes[c], size)
                after += _step(goal, offset, two, sizes[a], size, sizes[top])
        if after > before:
            growth = 1.0 + (after - before) / (charged if walking else before)
            rise, draw = growth - 1.0, draws[k, 1]
            # three terms of growth**beta are less than it: most moves are refused by them, without the power
            if beta >= 2.0 and draw * (1.0 + beta * rise * (1.0 + 0.5 * (beta - 1.0) * rise)) >= 1.0:
                continue
            if draw * growth**beta >= 1.0:
                continue
        for w in range(words):
            legs[x, w] = (legs[b, w] | legs[c, w]) & (legs[a, w] | legs[top, w])
        children[x, 0], children[x, 1] = b, c
        children[top, 0], children[top, 1] = a, x
        parent[c] = x
        parent[a] = top
        touched[x], touched[top], sizes[x] = one, two, size
        if walking:
            charged += after - before
            if charged < low:
                charged = _sum(children, touched, sizes, goal, power, table, state, count, unit)
                state[1] = charged
                low = charged * FADED
    state[0], state[2] = charged, at


def _compiled_halving() -> Callable[..., Any]:
    """Return `bisection.halve` compiled with all that it calls."""
    scope = dict(vars(bisection))
    for function in bisection.HALVING:
        scope[function.__name__] = _compiled(FunctionType(function.__code__, scope, function.__name__))
    made: Callable[..., Any] = scope["halve"]
    return made


_halve = _compiled_halving()


def _array(numbers: Sequence[int]) -> Any:
    return np.array(numbers, np.int64)


def _zeros(number: int) -> Any:
    return np.zeros(number, np.int64)


def bisections(graph: Graph) -> Callable[[int], Pairs]:
    """Return the function from a seed to a tree of halves of `graph`: the trees of `bisection.bisections`."""
    net = bisection.net_of(graph, _array)
    return lambda seed: bisection.bisected(net, seed, _zeros, _halve)
