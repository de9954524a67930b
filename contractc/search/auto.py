"""The default search: exact for few tensors, greedy for cheap networks, and annealing for what pays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, log2, prod
from time import monotonic
from types import ModuleType
from typing import NamedTuple

from contractc.cost import Costs, costs
from contractc.machine import DEFAULT_MACHINE
from contractc.network import TensorNetwork
from contractc.options import Search
from contractc.plans import Path, kept_terms
from contractc.search.anneal import annealed, colder
from contractc.search.ask import Ask, Found
from contractc.search.clock import MOVES_PER_SECOND, Clock
from contractc.search.engines import engine
from contractc.search.exact import FULL, MOST_EXACT, full, optimal, optimal_pairs
from contractc.search.front import FIRSTS, best_sweep, sweep
from contractc.search.graph import FLOPS, Graph, Objective, Pairs, charge, graph_of
from contractc.search.greedy import greedy, greedy_pairs
from contractc.search.reconfigure import reconfigured
from contractc.search.reduce import Reduced, reduced, whole_path

MOVES = 400_000
"""Moves of annealing if nothing says how many: about half a second of pure Python."""

LEAST_MOVES = 2_000
"""Fewer moves than this are not worth starting."""

LONGEST = 1.0
"""Seconds that planning takes at most where the user gives no limit."""

PATIENCE = 15_000
"""Pairs of subsets looked at for the optimum of 9 to 16 tensors: a few milliseconds."""

SAMPLE = 4
"""A path is priced up to this part of it, to see how long the pricing of paths takes."""

PRICED = 4e-5
"""Seconds that pricing takes a step, or more, before any has been priced."""

PRICING = 1.3
"""Times as long as pricing the greedy path would take by that are left for each path that is priced in the end."""

SWEEPING = 0.2
"""The share of the time left that looking for a sweep to start from may take: of eight the best is far better.

A sweep of n tensors takes about as long as n**1.5 moves in Python.
"""

LONGEST_SWEEP = 2_000
"""Tensors of which a sweep is looked for beside the greedy order; it takes a tenth of a second for the last of them."""

COLD = 16
"""A last run over the whole tree gets the moves of all parts divided by this."""

COOLING, MOST_COOLING = 0.06, 0.3
"""The share of the time left that is kept for that run: more where many tensors were absorbed, at most the second."""

REFINING = 0.04
"""The share of the time left that is kept for optimal orders below the dearest steps in the end."""

ORDERS, WORTH_AN_ORDER = 64, 20_000
"""Most such orders that are looked for, and the moves of annealing beside which one may be."""

LONGEST_ORDER = 0.002
"""Seconds that one of them may take; it is not begun later than that before the end."""


def auto(network: TensorNetwork, ask: Ask) -> Found:
    """Return the optimal path of a small network; a greedy one of a large network, annealed if that pays.

    Without a limit of the user's, planning takes no longer than the greedy path would take to run, and at most
    `LONGEST`.
    """
    count = len(network.tensors)
    if count <= FULL:
        return _few(network, ask.options.minimize)
    options, clock = ask.options, ask.clock
    found = greedy(network, _in_time(network, clock))
    if count <= MOST_EXACT:
        best = optimal_pairs(graph_of(network), _pairs(found[0]), PATIENCE)
        if best is not None:
            return Found(best, "optimal", others=(found[0],))
    found = _or_swept(network, found, options.minimize, clock)
    moves = options.moves
    if options.time_limit is None and moves is None:
        path = found[0]
        cost = costs(network, path, (count + len(path) - 1,))
        running = cost.seconds - len(path) * DEFAULT_MACHINE.call
        if running * MOVES_PER_SECOND < LEAST_MOVES:
            return Found(*found)
        clock = Clock(min(clock.deadline, monotonic() + LONGEST), clock.report, clock.started)
        moves = int(running * MOVES_PER_SECOND) if running < LONGEST else None
    return _annealed(network, found, moves, clock, ask)


def _or_swept(
    network: TensorNetwork, found: tuple[Path, str], minimize: str, clock: Clock
) -> tuple[Path, str]:
    """Return `found`, or a sweep from the first tensor on if that is cheaper: for trains, many in a batch above all.

    Greedy orders merge neighbours there, which then cost several times as much. Annealing would find out, but is given
    no more time than the greedy order would take.
    """
    if len(network.tensors) > LONGEST_SWEEP or found[1].endswith("cut short"):
        return found
    graph, goal = graph_of(network), OBJECTIVES[minimize]
    swept = sweep(graph, 0, clock)
    if swept is None or charge(graph, swept, goal) >= charge(graph, _pairs(found[0]), goal):
        return found
    return swept, "a sweep"


def _in_time(network: TensorNetwork, clock: Clock) -> Clock:
    """Return a clock that leaves the time for pricing one plan."""
    return Clock(clock.deadline - PRICED * len(network.tensors))


TRAFFIC = 16
"""Multiplications in the time that one element of float64 takes to be read or written, on the model's machine."""

WORTH = 2_000_000
"""From so many multiplications on, small networks are searched a second time with traffic in mind: a millisecond's."""

CLEARLY = 0.9
"""What another order has to take of the predicted seconds of the one of fewest multiplications to be taken instead."""

OBJECTIVES = {
    "seconds": Objective(1.0, TRAFFIC, TRAFFIC),
    "flops": FLOPS,
    "size": Objective(0.0, 0.0, 1.0, 4.0),
    "write": Objective(0.0, 0.0, 1.0),
}
"""What annealing charges a step; for seconds only in its last run, the path being chosen by `costs` in the end."""


def _few(network: TensorNetwork, minimize: str) -> Found:
    """Return the best path of a small network: the one of fewest multiplications, or the one with traffic in mind."""
    path, name = optimal(network)
    if minimize == "flops" or len(network.tensors) < 3:
        return Found(path, name)
    if prod(network.extents) * len(path) < WORTH:  # no step touches more than all modes
        return Found(path, name)
    graph = graph_of(network)
    if charge(graph, _pairs(path)) < log2(WORTH):
        return Found(path, name)
    heeding = full(graph.leaves, graph.wanted, graph.extents, TRAFFIC)
    paths = tuple(dict.fromkeys((path, heeding, greedy_pairs(graph))))
    if minimize == "size":
        best = min(paths, key=lambda candidate: measured(network, candidate, minimize))
        return Found(best, name if best == path else "optimal in size", others=paths)
    priced = {candidate: _priced(network, candidate) for candidate in paths}
    if minimize == "write":
        best = min(paths, key=lambda candidate: priced[candidate].traffic)
    else:
        best = min(paths, key=lambda candidate: priced[candidate].seconds)
        if priced[best].seconds > CLEARLY * priced[path].seconds:
            best = path
    return Found(best, name if best == path else f"optimal in {minimize}", others=paths, costs=priced[best])


def measured(network: TensorNetwork, path: Path, minimize: str) -> float:
    """Return what is minimised, for a path: seconds, flops, elements of the largest intermediate, bytes moved."""
    if minimize == "size":
        terms = kept_terms(network, path, (len(network.tensors) + len(path) - 1,))
        return max([network.size(term) for term in terms[len(network.tensors) :]])
    found = _priced(network, path)
    return {"seconds": found.seconds, "flops": found.flops, "write": found.traffic}[minimize]


def _priced(network: TensorNetwork, path: Path) -> Costs:
    """Return the predicted costs of a path for the one output."""
    return costs(network, path, (len(network.tensors) + len(path) - 1,))


def anneal(network: TensorNetwork, ask: Ask = Ask()) -> Found:  # noqa: B008
    """Return the cheapest path met while annealing for the time or the moves asked for, or for `MOVES` moves."""
    found = greedy(network, _in_time(network, ask.clock))
    if len(network.tensors) < 3:
        return Found(*found)
    options, clock = ask.options, ask.clock
    moves = MOVES if options.time_limit is None and options.moves is None else options.moves
    return _annealed(network, found, moves, clock, ask)


def _annealed(
    network: TensorNetwork,
    start: tuple[Path, str],
    moves: int | tuple[int, ...] | None,
    clock: Clock,
    ask: Ask,
) -> Found:
    """Return the cheapest path met while annealing, no dearer than `start`, a path and its name.

    The network is simplified first. Its parts are annealed one after the other, and then the whole tree in the
    cold, since what simplifying did need not be the best for the rest.
    """
    first = _pairs(start[0])
    if start[1].endswith("cut short"):
        return Found(first, start[1])
    if clock.left() < 2 * PRICED * len(network.tensors):  # as long as a graph of it and prices take
        return Found(first, f"{start[1]}, no time for more")
    graph = graph_of(network)
    began = monotonic()
    if 0.0 < clock.left() < inf:
        sample = first[: -(-len(first) // SAMPLE)]
        costs(network, sample, (len(network.tensors) + len(sample) - 1,))
    candidates = 2 if len(network.tensors) > MANY else 3 + KEPT
    candidates = 1 if ask.options.minimize == "flops" else candidates
    pricing = candidates * PRICING * SAMPLE * (monotonic() - began)
    clock = Clock(clock.deadline - pricing, clock.report, clock.started)
    if clock.left() <= 0:
        return Found(first, f"{start[1]}, no time for more")
    seed, timed = ask.options.seed, moves is None and clock.deadline < inf
    seconds = clock.left() if moves is None else _total(moves) / MOVES_PER_SECOND
    chosen = ask.engine or engine(seconds)
    goal = OBJECTIVES[ask.options.minimize]
    hot = FLOPS if ask.options.minimize == "seconds" else goal
    try:
        reduction = reduced(graph)
        span = max(0.0, clock.left())
        left = sum([len(part.graph.leaves) for part in reduction.parts])
        cooling = min(MOST_COOLING, COOLING * len(graph.leaves) / max(1, left))
        until = (
            Clock(clock.deadline - (cooling + REFINING) * span, clock.report, clock.started)
            if timed
            else clock
        )
        found = list(_parts(reduction, first, moves, until, hot, ask, chosen))
    except KeyboardInterrupt:
        return Found(first, f"{start[1]}, interrupted")
    found.sort(key=lambda item: item.at)
    path = whole_path(reduction, [part.path for part in found])
    others: tuple[Pairs, ...] = ()
    if len(found) == 1:
        others = tuple([whole_path(reduction, [other]) for other in found[0].others])
    ways = " and ".join(dict.fromkeys(part.way for part in found if part.way)) or "splits of small parts"
    if any(part.way and not part.moves for part in found):
        path, priced = _better(network, (path, first), ask)
        return Found(path, f"annealing by {ways}, cut short", costs=priced)
    record = [number for part in sorted(found, key=lambda item: item.turn) for number in part.moves]
    made = sum(part.moves[-1] for part in found if part.moves)
    total: int | None = made // COLD
    most = min(ORDERS, made // WORTH_AN_ORDER)
    if isinstance(moves, tuple):
        total, most = moves[-2:]
    elif timed and made:
        total, most = None, ORDERS
    until = Clock(clock.deadline - REFINING * span, clock.report, clock.started) if timed else clock
    final, cold = colder(graph, path, total, until, seed, chosen, goal)
    until = Clock(clock.deadline - LONGEST_ORDER, clock.report, clock.started) if timed else clock
    final, orders = reconfigured(graph, final, most, until, goal)
    record += [cold, orders]
    path, priced = _better(network, (final, path, first, *others[:KEPT]), ask)
    if not record[:-2]:
        return Found(path, f"greedy and {ways}", costs=priced)
    said = f"{_total(tuple(record))} moves in {chosen.NAME}"
    return Found(path, f"annealing by {ways}, {said}", tuple(record), others, costs=priced)


KEPT = 2
"""Trees of other runs that take part in the choice by predicted seconds."""

MANY = 100
"""Beyond so many tensors only two paths are priced, which takes as long as thousands of moves."""


def _better(network: TensorNetwork, candidates: Sequence[Pairs], ask: Ask) -> tuple[Pairs, Costs | None]:
    """Return the best of some paths, and its costs if they were looked at: for flops its multiplications suffice.

    Of many tensors the first path and the one of fewest multiplications are compared.
    """
    distinct, goal = list(dict.fromkeys(candidates)), ask.options.minimize
    if goal == "flops" or len(network.tensors) > MANY:
        graph = graph_of(network)
        fewest = min(distinct, key=lambda path: charge(graph, path))
        if goal == "flops":
            return fewest, None
        distinct = list(dict.fromkeys((distinct[0], fewest)))
    if goal == "size":
        return min(distinct, key=lambda path: measured(network, path, goal)), None
    priced = [(path, _priced(network, path)) for path in distinct]
    return min(priced, key=lambda item: item[1].seconds if goal == "seconds" else item[1].traffic)


class _PartFound(NamedTuple):
    """The tree of one part: its place among the parts, its turn, its path, how it was found, its moves."""

    at: int
    turn: int
    path: Pairs
    way: str
    moves: tuple[int, ...]
    others: tuple[Pairs, ...] = ()


def _parts(
    reduction: Reduced,
    first: Pairs,
    moves: int | tuple[int, ...] | None,
    clock: Clock,
    goal: Objective,
    ask: Ask,
    chosen: ModuleType,
) -> Iterator[_PartFound]:
    """Yield a tree for each part, smallest part first: exact for few tensors, else annealed for its share."""
    sizes = [len(part.graph.leaves) for part in reduction.parts]
    left = sum(size for size in sizes if size > FULL)
    turn = 0
    for at in sorted(range(len(sizes)), key=lambda k: (sizes[k], k)):
        graph = reduction.parts[at].graph
        if sizes[at] <= FULL:
            yield _PartFound(at, turn, optimal_pairs(graph, (), 0) or (), "", ())
            continue
        if isinstance(moves, tuple):
            share: int | tuple[int, ...] | None = moves[7 * turn : 7 * turn + 7]
        else:
            share = None if moves is None else moves * sizes[at] // sum(s for s in sizes if s > FULL)
        end = clock.deadline if moves is not None else monotonic() + clock.left() * sizes[at] / left
        path = first if sizes[at] == reduction.count else greedy_pairs(graph)
        until = Clock(end, clock.report, clock.started)
        found = _annealed_part(graph, path, share, until, goal, ask.options, chosen)
        yield _PartFound(at, turn, *found)
        left -= sizes[at]
        turn += 1


def _annealed_part(
    graph: Graph,
    path: Pairs,
    moves: int | tuple[int, ...] | None,
    clock: Clock,
    goal: Objective,
    options: Search,
    chosen: ModuleType,
) -> tuple[Pairs, str, tuple[int, ...], tuple[Pairs, ...]]:
    """Return the tree of one part by annealing from the greedy `path` and from a sweep, how, the moves, and more."""
    sweeps, until = FIRSTS, Clock()
    if isinstance(moves, tuple):
        sweeps, moves = moves[0], moves[1:]
    elif moves is None:
        until = Clock(clock.deadline - (1 - SWEEPING) * clock.left())
    else:
        sweeps = min(FIRSTS, int(SWEEPING * moves / len(graph.leaves) ** 1.5))
    swept, cost, sweeps = best_sweep(graph, until, sweeps)
    starts = [path]
    if swept is not None:
        starts = [swept, path, swept] if cost < charge(graph, path) else [path, swept]
    found = annealed(graph, starts, moves, clock, options.seed, goal, chosen, options.threads)
    return found.path, found.schedule, (sweeps, *found.moves) if found.moves else (), found.others


def _pairs(path: Path) -> Pairs:
    """Return a path of pairs as such."""
    return tuple((a, b) for a, b in path)


def _total(moves: int | tuple[int, ...]) -> int:
    """Return the moves made in all."""
    if isinstance(moves, int):
        return moves
    parts = [moves[k : k + 7] for k in range(0, len(moves) - 2, 7)]
    return moves[-2] + sum(
        made + ((1 + (sweeps > 0)) * pilot + scouting) * (half > 0)
        for sweeps, pilot, scouting, half, _, _, made in parts
    )
