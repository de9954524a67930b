"""TensorNetwork -> Plan. One function a search, one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from contractc.cost import costs, priced
from contractc.errors import ResourceLimitError
from contractc.machine import DEFAULT_MACHINE
from contractc.network import TensorNetwork
from contractc.plans import Path, Plan, exact_bytes_text, ssa_from_linear
from contractc.search.anneal import MOVES, anneal
from contractc.search.exact import MOST_EXACT, optimal
from contractc.search.factored import cheapest_layout, layout_choices
from contractc.search.greedy import greedy
from contractc.search.outputs import join_outputs, single_output
from contractc.search.slice import sliced_to_fit
from contractc.serial import checked

__all__ = ["MOST_EXACT", "SEARCHES", "check_allocation", "search"]


MOVES_PER_SECOND = 500_000
"""How fast annealing is in pure Python, for deciding how much of it a network is worth."""


def auto(network: TensorNetwork) -> tuple[Path, str]:
    """Return the optimal path of a small network; a greedy one of a large network, annealed if that pays.

    Annealing gets as many moves as take about as long as the greedy path would take to run, at most `MOVES`.
    """
    if len(network.tensors) <= 8:
        return optimal(network)
    path, name = greedy(network)
    found = costs(network, path, (len(network.tensors) + len(path) - 1,))
    running = found.seconds - len(path) * DEFAULT_MACHINE.call
    moves = int(min(running * MOVES_PER_SECOND, MOVES))
    return anneal(network, moves) if moves >= LEAST_MOVES else (path, name)


LEAST_MOVES = 2_000
"""Fewer moves than this are not worth starting."""


def left_to_right(network: TensorNetwork) -> tuple[Path, str]:
    """Return the path that contracts the tensors in the order given: no search at all."""
    count = len(network.tensors)
    steps = [(count + k - 2 if k > 1 else 0, k) for k in range(1, count)]
    return tuple(steps) or ((0,),), "left to right"


SEARCHES: dict[str, Callable[[TensorNetwork], tuple[Path, str]]] = {
    "auto": auto,
    "optimal": optimal,
    "greedy": greedy,
    "anneal": anneal,
    "left-to-right": left_to_right,
}
"""Every search by the name `optimize=` takes. Adding a search means adding it here, and nowhere else."""


def search(network: TensorNetwork, optimize: Any = None, memory_limit: int | None = None) -> Plan:
    """Return the plan that `optimize` asks for, within `memory_limit` bytes alive at once.

    Args:
        network: what to contract.
        optimize: None, True or "auto" (the default search); False (left to right, no search); the name of a
            search, here or (with `opt_einsum:` in front or not) in opt_einsum; a path in linear form, with or
            without NumPy's "einsum_path" in front; an opt_einsum path optimizer.
        memory_limit: bytes of all tensors alive at once, inputs included; None for no limit.

    Raises:
        ValueError: no search has that name, or the path does not fit the network.
        ResourceLimitError: the limit cannot be kept; nothing was allocated.
    """
    checked(network)
    each = [_path(single_output(network, o), optimize) for o in range(len(network.outputs))]
    path, results = join_outputs(network, [path for path, _ in each])
    plan = Plan(network, path, results, (), layout_choices(network, path), each[0][1])
    if memory_limit is not None:
        plan = sliced_to_fit(plan, memory_limit)
    return priced(plan)


def check_allocation(plan: Plan, available: int | None) -> None:
    """Raise ResourceLimitError if running `plan` would allocate more than the `available` bytes."""
    needed = 0 if _is_view(plan) else plan.peak - plan.network.bytes_of_inputs()
    if available is not None and needed > available:
        raise ResourceLimitError(
            f"the contraction would allocate {exact_bytes_text(needed)}, "
            f"this machine has {exact_bytes_text(available)}"
        )


def _is_view(plan: Plan) -> bool:
    """Return whether the result is a view of the only tensor, so that nothing is allocated."""
    network = plan.network
    if len(network.tensors) > 1 or len(network.outputs) > 1:
        return False
    (tensor,), (term,) = network.tensors, network.outputs
    same = set(term) == set(tensor.modes) and len(set(term)) == len(term) and not network.fused
    return same and tensor.dtype == network.dtype and not tensor.conj


def _path(network: TensorNetwork, optimize: Any) -> tuple[Path, str]:
    count = len(network.tensors)
    if count == 1 and (not isinstance(optimize, str) or optimize in SEARCHES):
        return ((0,),), "nothing to search"
    if optimize is None or optimize is True:
        optimize = "auto"
    elif optimize is False:
        optimize = "left-to-right"
    if network.groups and (optimize == "auto" or (any(network.forced) and optimize in SEARCHES)):
        return cheapest_layout(network, SEARCHES[optimize])
    if isinstance(optimize, str) and optimize in SEARCHES:
        return SEARCHES[optimize](network)
    if isinstance(optimize, Sequence) and not isinstance(optimize, str):
        steps = list(optimize)
        if steps and steps[0] == "einsum_path":
            steps = steps[1:]
        return ssa_from_linear(steps, count), "the path given"
    from contractc.search.external import opt_einsum_path

    return opt_einsum_path(network, optimize)
