"""Bisection: tensors cut into two halves that share few modes, then each half, down to single tensors.

The functions from `halve` on run as they are, on lists, and compiled by numba, on arrays: the same moves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import gcd, log2
from typing import Any, NamedTuple

from contractc.network import TensorNetwork
from contractc.search.ask import Ask, Found
from contractc.search.clock import MOVES_PER_SECOND
from contractc.search.exact import FULL, optimal_pairs
from contractc.search.graph import Graph, Pairs, bits, charge, graph_of
from contractc.search.greedy import greedy_pairs
from contractc.search.reduce import reduced, whole_path

FINE = 4
"""Steps of a bit to which the weights of modes are rounded: moves are sorted by small integers."""

WIDEST = 64
"""A mode of more tensors is left out: every cut goes through it."""

SLACK = 10
"""A half may have this part of all tensors less than half of them."""

PASSES = 10
"""Most passes over all tensors that improve a cut."""

FEWEST, PATIENCE = 20, 4
"""A pass ends after so many moves, and this part of all, that have not led to a better cut."""

WORK = 8
"""A bisection takes about as long as this times the places of modes in tensors times log2(tensors) moves."""


TREES = 8
"""Trees of halves that are made where nothing else follows; the cheapest is taken."""


def bisect(network: TensorNetwork, ask: Ask = Ask()) -> Found:  # noqa: B008
    """Return the cheapest of `TREES` trees of halves; parts of few tensors are ordered best, trees and chains greedily.

    The network is simplified first. Where the time is too short for one tree, a part has its greedy order.
    """
    reduction = reduced(graph_of(network))
    paths, halved, late = [], 0, False
    for part in reduction.parts:
        graph = part.graph
        found = optimal_pairs(graph, (), 0) if len(graph.leaves) <= FULL else None
        if found is None:
            work = WORK * log2(len(graph.leaves)) * sum([leaf.bit_count() for leaf in graph.leaves])
            paths.append(greedy_pairs(graph))
            if work > MOVES_PER_SECOND * ask.clock.left():
                late = True
                continue
            halve = bisections(graph)
            trees: list[Pairs] = []
            while len(trees) < TREES and not (trees and ask.clock.late()):
                trees.append(halve(TREES * ask.options.seed + len(trees)))
            paths[-1] = min((*trees, paths[-1]), key=lambda path: charge(graph, path))
            halved += len(trees)
        else:
            paths.append(found)
    name = f"the best of {halved} bisections and greedy"
    if not halved:
        name = "greedy, no time for a bisection" if late else "optimal, too few tensors to bisect"
    return Found(whole_path(reduction, paths), name)


class Net(NamedTuple):
    """The modes of each tensor and the tensors of each mode, one after the other; the weights of modes.

    Those of mode m are `pins[pin_at[m] : pin_at[m + 1]]`. No tensor weighs more than `heaviest`.
    """

    pin_at: Any
    pins: Any
    own_at: Any
    own: Any
    weights: Any
    heaviest: int


class Cut(NamedTuple):
    """What a bisection works on: by tensor, by mode (`inside`), by gain (`heads`), by part, and the tree.

    `order` has the tensors of each part together, `part` the number of the part that a tensor is in, `side` its
    half. `before` and `after` link tensors of equal gain; `locked` ones have been moved. `inside` counts how many
    tensors of a mode are in the first and in the second half. A part goes from `low` to `high` in the order.
    """

    order: Any
    part: Any
    side: Any
    gain: Any
    before: Any
    after: Any
    locked: Any
    moved: Any
    inside: Any
    heads: Any
    low: Any
    high: Any
    left: Any
    right: Any


def net_of(graph: Graph, array: Callable[[Sequence[int]], Any] = list) -> Net:
    """Return `graph` as lists, or as arrays made by `array`."""
    holders: dict[int, list[int]] = defaultdict(list)
    for k, mask in enumerate(graph.leaves):
        for b in bits(mask):
            holders[b].append(k)
    kept = [b for b in sorted(holders) if 1 < len(holders[b]) <= WIDEST]
    weights = [max(1, round(FINE * log2(graph.extents[b]))) for b in kept]
    unit = gcd(*weights)
    weights = [weight // unit for weight in weights]
    own: list[list[int]] = [[] for _ in graph.leaves]
    for m, b in enumerate(kept):
        for k in holders[b]:
            own[k].append(m)
    heaviest = max([sum([weights[m] for m in modes]) for modes in own], default=0)
    pin_at, pins = _rows([holders[b] for b in kept])
    own_at, own_ = _rows(own)
    return Net(array(pin_at), array(pins), array(own_at), array(own_), array(weights), heaviest)


def _rows(rows: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Return where each row starts, and all rows one after the other."""
    starts: list[int] = [0]
    flat: list[int] = []
    for row in rows:
        flat += row
        starts.append(len(flat))
    return starts, flat


def _zeros(number: int) -> list[int]:
    return [0] * number


Run = Callable[[Net, Cut, int], None]


def bisected(net: Net, seed: int, zeros: Callable[[int], Any] = _zeros, run: Run | None = None) -> Pairs:
    """Return a tree of halves of halves of all tensors; other seeds have other trees.

    A half is grown from a tensor drawn, neighbour after neighbour, and improved by moving tensors one at a time, those
    first that take the most modes out of the cut, or add the fewest; the best cut on the way is kept.
    Sources: C. Fiduccia and R. Mattheyses, "A linear-time heuristic for improving network partitions" (1982);
    trees by cuts: J. Gray and S. Kourtis, "Hyper-optimized tensor network contraction" (2021).

    Args:
        zeros: makes the lists or arrays to work on.
        run: `halve`, or `halve` compiled.
    """
    count, modes = len(net.own_at) - 1, len(net.weights)
    if count < 2:
        return ()
    heads = 2 * (2 * net.heaviest + 1)
    lengths = (*[count] * 8, 2 * modes, heads, count, count, count - 1, count - 1)
    cut = Cut(*map(zeros, lengths))
    (run or halve)(net, cut, seed % 2**31)
    pairs = [(int(a), int(b)) for a, b in zip(cut.left, cut.right, strict=True)]
    return tuple([(min(a, b), max(a, b)) for a, b in reversed(pairs)])


def bisections(graph: Graph) -> Callable[[int], Pairs]:
    """Return the function from a seed to a tree of halves of `graph`, in Python."""
    net = net_of(graph)
    return lambda seed: bisected(net, seed)


def halve(net: Net, cut: Cut, draw: int) -> None:
    """Fill `left` and `right` of `cut` with the children of all nodes, the root first: the last step of a path."""
    count = len(cut.order)
    for k in range(count):
        cut.order[k] = k
        cut.part[k] = 0
    cut.low[0], cut.high[0] = 0, count
    made = 1
    for at in range(count - 1):
        low, high = cut.low[at], cut.high[at]
        draw = (1103515245 * draw + 12345) % 2147483648
        grow(net, cut, low, high, at, low + (draw >> 8) % (high - low))
        if high - low > 2:
            for _ in range(PASSES):
                if not improve(net, cut, low, high, at):
                    break
        middle = divide(cut, low, high)
        for half in range(2):
            first, last = (low, middle) if half == 0 else (middle, high)
            if last - first == 1:
                child = cut.order[first]
            else:  # nodes are numbered from the root downwards, steps the other way round
                child = 2 * count - 2 - made
                cut.low[made], cut.high[made] = first, last
                for k in range(first, last):
                    cut.part[cut.order[k]] = made
                made += 1
            if half == 0:
                cut.left[at] = child
            else:
                cut.right[at] = child


def grow(net: Net, cut: Cut, low: int, high: int, part: int, first: int) -> None:
    """Put half of a part on side 0: tensor after tensor, neighbours of what is there; fill `inside`."""
    order, side, reached = cut.order, cut.side, cut.moved
    wanted = (high - low) // 2
    for k in range(low, high):
        side[order[k]] = 1
    scan, head, tail = low, 0, 0
    v = order[first]
    while tail < wanted:
        if head == tail:  # nothing is left next to what was reached
            while side[v] == 0:
                v = order[scan]
                scan += 1
            side[v] = 0
            reached[tail] = v
            tail += 1
        v = reached[head]
        head += 1
        for e in range(net.own_at[v], net.own_at[v + 1]):
            m = net.own[e]
            for p in range(net.pin_at[m], net.pin_at[m + 1]):
                u = net.pins[p]
                if tail < wanted and cut.part[u] == part and side[u] == 1:
                    side[u] = 0
                    reached[tail] = u
                    tail += 1
    for k in range(low, high):
        v = order[k]
        for e in range(net.own_at[v], net.own_at[v + 1]):
            m = net.own[e]
            cut.inside[2 * m] = cut.inside[2 * m + 1] = 0
    for k in range(low, high):
        v = order[k]
        for e in range(net.own_at[v], net.own_at[v + 1]):
            cut.inside[2 * net.own[e] + side[v]] += 1


def improve(net: Net, cut: Cut, low: int, high: int, part: int) -> bool:
    """Move each tensor of a part at most once; keep the best cut and return whether it is better than before."""
    order, side, gain, heads, moved = cut.order, cut.side, cut.gain, cut.heads, cut.moved
    size, span = high - low, 2 * net.heaviest + 1
    smallest = max(1, size // 2 - size // SLACK)
    for h in range(2 * span):
        heads[h] = -1
    first = 0
    for k in range(low, high):
        v = order[k]
        first += 1 - side[v]
        cut.locked[v] = 0
        gain[v] = 0
        s = side[v]
        for e in range(net.own_at[v], net.own_at[v + 1]):
            m = net.own[e]
            if cut.inside[2 * m + 1 - s] == 0:
                if cut.inside[2 * m + s] > 1:
                    gain[v] -= net.weights[m]
            elif cut.inside[2 * m + s] == 1:
                gain[v] += net.weights[m]
        link(cut, v, s * span + gain[v] + net.heaviest)
    off = abs(2 * first - size)
    top0, top1 = span - 1, span - 1
    done = kept = now = best = 0
    while True:
        while top0 >= 0 and heads[top0] < 0:
            top0 -= 1
        while top1 >= 0 and heads[span + top1] < 0:
            top1 -= 1
        may0, may1 = top0 >= 0 and first > smallest, top1 >= 0 and size - first > smallest
        if not may0 and not may1:
            break
        if may0 and (not may1 or top0 > top1 or (top0 == top1 and 2 * first >= size)):
            v = heads[top0]
        else:
            v = heads[span + top1]
        s = side[v]
        unlink(cut, v, s * span + gain[v] + net.heaviest)
        cut.locked[v] = 1
        now += gain[v]
        top0, top1 = move(net, cut, v, part, top0, top1)
        first += 2 * s - 1
        moved[done] = v
        done += 1
        if done - kept > max(FEWEST, size // PATIENCE):
            break
        if now > best or (now == best and abs(2 * first - size) < off):
            best, kept, off = now, done, abs(2 * first - size)
    for k in range(kept, done):
        v = moved[k]
        s = side[v]
        side[v] = 1 - s
        for e in range(net.own_at[v], net.own_at[v + 1]):
            m = net.own[e]
            cut.inside[2 * m + s] -= 1
            cut.inside[2 * m + 1 - s] += 1
    return best > 0


def move(net: Net, cut: Cut, v: int, part: int, top0: int, top1: int) -> tuple[int, int]:
    """Move a tensor to the other side and change what its neighbours gain; return the highest gains of both sides."""
    side, gain, span = cut.side, cut.gain, 2 * net.heaviest + 1
    s = side[v]
    for e in range(net.own_at[v], net.own_at[v + 1]):
        m = net.own[e]
        here, there = cut.inside[2 * m + s], cut.inside[2 * m + 1 - s]
        cut.inside[2 * m + s] = here - 1
        cut.inside[2 * m + 1 - s] = there + 1
        if here > 2 and there > 1:
            continue
        for p in range(net.pin_at[m], net.pin_at[m + 1]):
            u = net.pins[p]
            if cut.part[u] != part or cut.locked[u]:
                continue
            t = side[u]
            change = (there == 0) + (here == 2) if t == s else -(there == 1) - (here == 1)
            if change != 0:
                unlink(cut, u, t * span + gain[u] + net.heaviest)
                gain[u] += change * net.weights[m]
                place = gain[u] + net.heaviest
                link(cut, u, t * span + place)
                if t == 0:
                    top0 = max(top0, place)
                else:
                    top1 = max(top1, place)
    side[v] = 1 - s
    return top0, top1


def link(cut: Cut, v: int, place: int) -> None:
    """Put a tensor in front of those of equal gain on its side."""
    u = cut.heads[place]
    cut.after[v] = u
    cut.before[v] = -1
    if u >= 0:
        cut.before[u] = v
    cut.heads[place] = v


def unlink(cut: Cut, v: int, place: int) -> None:
    """Take a tensor out from those of equal gain on its side."""
    u, w = cut.before[v], cut.after[v]
    if u >= 0:
        cut.after[u] = w
    else:
        cut.heads[place] = w
    if w >= 0:
        cut.before[w] = u


def divide(cut: Cut, low: int, high: int) -> int:
    """Sort a part by its sides; return where the second half begins."""
    order, later = cut.order, cut.moved
    at, number = low, 0
    for k in range(low, high):
        v = order[k]
        if cut.side[v] == 0:
            order[at] = v
            at += 1
        else:
            later[number] = v
            number += 1
    for k in range(number):
        order[at + k] = later[k]
    return at


HALVING = (link, unlink, move, divide, grow, improve, halve)
"""What is compiled, each after what it calls."""
