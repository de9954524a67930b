"""A plan within a memory limit: order and slices together for large networks, slices alone for small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, log2

from contractc.cost import costs
from contractc.dtypes import itemsize, wide
from contractc.plans import Path, Plan
from contractc.search.ask import Ask
from contractc.search.clock import MOVES_PER_SECOND, Clock
from contractc.search.engines import engine
from contractc.search.exact import FULL
from contractc.search.graph import Graph, Pairs, bits, frugal, graph_of, modes_of
from contractc.search.joint import SWEEP, fitted, sliced_jointly
from contractc.search.slice import sliced_to_fit

FIRST = 0.35
"""The share of the time in which the order is searched for without slices, where there is a memory limit."""

LEAST = 10
"""Fewest rounds of slicing that are planned."""

WORK = 5_000
"""Rounds times tensors, where the user gives neither time nor moves."""


def within(plan: Plan, memory_limit: int, others: Sequence[Path], ask: Ask, joint: bool) -> Plan:
    """Return `plan`, or another for its network, with a peak of at most `memory_limit` bytes.

    Networks of more than `FULL` tensors are searched again, order and slices together, from the plan's path and
    from `others`; the plan of less predicted seconds is taken, the given order with slices among them.

    Args:
        joint: whether the order may change.

    Raises:
        ResourceLimitError: the limit cannot be kept, with the least peak found.
    """
    network = plan.network
    if costs(network, plan.path, plan.results).peak <= memory_limit:
        return plan
    if joint:
        plan = _frugal(plan)
        if costs(network, plan.path, plan.results).peak <= memory_limit:
            return plan
    found = [sliced_to_fit(plan, memory_limit)] if not joint or len(network.tensors) <= FULL else []
    if not found:
        graph = graph_of(network)
        paths: list[Pairs] = [tuple((a, b) for a, b in path) for path in (plan.path, *others)]
        limit = _elements(plan, graph, paths[0], memory_limit)
        options, clock = ask.options, ask.clock
        record = options.moves if isinstance(options.moves, tuple) else ()
        rounds: int | tuple[int, int] | None = max(LEAST, WORK // len(network.tensors))
        if len(record) % 7 == 4:
            rounds = (record[-2], record[-1])
        elif options.time_limit is not None and options.moves is None:
            rounds = None
        elif isinstance(options.moves, int):
            rounds = max(LEAST, options.moves // (SWEEP * len(network.tensors)))
        number = rounds[0] if isinstance(rounds, tuple) else rounds or 0
        seconds = number * SWEEP * len(network.tensors) / MOVES_PER_SECOND if number else clock.left()
        barred = sum([1 << b for b, m in enumerate(modes_of(network)) if m in network.dynamic])
        until = clock if clock.deadline < inf else Clock(report=clock.report)
        sliced = sliced_jointly(
            graph, paths, limit, until, ask.engine or engine(seconds), rounds, options.seed, barred
        )
        if sliced is not None:
            names = modes_of(network)
            modes = tuple(sorted(names[b] for b in bits(sliced.modes)))
            made = f"{plan.search}; {sliced.rounds[1]} rounds of slicing"
            candidate = replace(plan, path=sliced.path, sliced=modes, search=made)
            candidate = replace(candidate, moves=(*plan.moves, *sliced.rounds) if plan.moves else ())
            return sliced_to_fit(_frugal(candidate), memory_limit)
        found = [sliced_to_fit(plan, memory_limit)]
    return found[0]


def _frugal(plan: Plan) -> Plan:
    """Return `plan` with its steps in the order of the lower peak: as they are, or those of least memory first."""
    network = plan.network
    graph, names = graph_of(network), modes_of(network)
    sliced = sum([1 << b for b, m in enumerate(names) if m in plan.sliced])
    other = (
        frugal(graph, tuple((a, b) for a, b in plan.path), sliced) if len(network.tensors) > 1 else plan.path
    )
    peaks = [costs(network, path, plan.results, plan.sliced).peak for path in (plan.path, other)]
    return replace(plan, path=other) if peaks[1] < peaks[0] else plan


def _elements(plan: Plan, graph: Graph, path: Pairs, memory_limit: int) -> float:
    """Return log2 of the elements of the largest intermediate with which slices of `path` keep the limit."""
    network = plan.network
    names = modes_of(network)
    limit = log2(max(1.0, memory_limit / itemsize(wide(network.dtype))))
    while limit > 0.0:
        modes = fitted(graph, path, limit)
        if modes is not None:
            sliced = tuple(names[b] for b in bits(modes))
            if costs(network, path, plan.results, sliced).peak <= memory_limit:
                break
        limit -= 1.0
    return max(limit, 0.0)
