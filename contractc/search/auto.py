"""The default search: exact for few tensors, greedy for cheap networks, and annealing for what pays."""

from __future__ import annotations

from contractc.cost import costs
from contractc.machine import DEFAULT_MACHINE
from contractc.network import TensorNetwork
from contractc.search.anneal import SCHEDULES, annealed, engine
from contractc.search.ask import Ask, Found
from contractc.search.clock import Clock
from contractc.search.exact import optimal
from contractc.search.front import FIRSTS, best_sweep
from contractc.search.graph import Pairs, charge, graph_of
from contractc.search.greedy import greedy

FEW = 8
"""Networks of so many tensors are searched exactly."""

MOVES = 400_000
"""Moves of annealing if nothing says how many: about half a second of pure Python."""

LEAST_MOVES = 2_000
"""Fewer moves than this are not worth starting."""

MOVES_PER_SECOND = 500_000
"""How fast annealing is at least in pure Python, for deciding how much of it a network is worth."""

LONGEST = 1.0
"""Seconds that planning takes at most where the user gives no limit."""

SWEEPING = 0.2
"""The share of the time left that looking for a sweep to start from may take."""


def auto(network: TensorNetwork, ask: Ask) -> Found:
    """Return the optimal path of a small network; a greedy one of a large network, annealed if that pays.

    Without a limit of the user's, planning takes no longer than the greedy path would take to run, and at most
    `LONGEST`.
    """
    if len(network.tensors) <= FEW:
        return Found(*optimal(network))
    found = greedy(network)
    options, clock = ask
    moves = options.moves
    if options.time_limit is None and moves is None:
        path = found[0]
        cost = costs(network, path, (len(network.tensors) + len(path) - 1,))
        running = cost.seconds - len(path) * DEFAULT_MACHINE.call
        if running * MOVES_PER_SECOND < LEAST_MOVES:
            return Found(*found)
        clock = Clock(min(clock.deadline, clock.started + LONGEST), clock.report, clock.started)
        moves = int(running * MOVES_PER_SECOND) if running < LONGEST else None
    return _annealed(network, found, moves, clock, ask)


def anneal(network: TensorNetwork, ask: Ask = Ask()) -> Found:  # noqa: B008
    """Return the cheapest path met while annealing for the time or the moves asked for, or for `MOVES` moves."""
    found = greedy(network)
    if len(network.tensors) < 3:
        return Found(*found)
    options, clock = ask
    moves = MOVES if options.time_limit is None and options.moves is None else options.moves
    return _annealed(network, found, moves, clock, ask)


def _annealed(
    network: TensorNetwork,
    start: tuple[tuple[tuple[int, ...], ...], str],
    moves: int | tuple[int, ...] | None,
    clock: Clock,
    ask: Ask,
) -> Found:
    """Return the cheapest path met while annealing from `start`, a path and its name, and from a sweep."""
    path: Pairs = start[0]  # type: ignore[assignment]
    if clock.left() <= 0:
        return Found(path, f"{start[1]}, no time for more")
    graph = graph_of(network)
    left = clock.left()
    sweeps, until = FIRSTS, Clock()
    if isinstance(moves, tuple):
        sweeps, moves = moves[0], moves[1:]
    elif moves is None:
        until = Clock(clock.deadline - (1 - SWEEPING) * left)
    try:
        swept, cost, sweeps = best_sweep(graph, until, sweeps)
    except KeyboardInterrupt:
        return Found(path, f"{start[1]}, interrupted")
    starts = [path]
    if swept is not None:
        starts = [swept, path, swept] if cost < charge(graph, path) else [path, swept]
    seconds = left if moves is None else _total(moves) / MOVES_PER_SECOND
    found = annealed(graph, starts, moves, clock, ask.options.seed, engine=engine(seconds))
    if not found.moves:
        return Found(found.path, f"annealing by {found.schedule}, cut short")
    done = f"{_total(found.moves)} moves in {found.engine}"
    return Found(found.path, f"annealing by {found.schedule}, {done}", (sweeps, *found.moves))


def _total(moves: int | tuple[int, ...]) -> int:
    """Return the moves made in all."""
    if isinstance(moves, int):
        return moves
    return len(SCHEDULES) * moves[0] + moves[-1]
