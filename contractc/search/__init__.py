"""TensorNetwork -> Plan. One function a search, one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from contractc.cost import costs, priced
from contractc.errors import ResourceLimitError
from contractc.machine import Target
from contractc.network import TensorNetwork
from contractc.options import Search
from contractc.plans import Alternative, Path, Plan, exact_bytes_text, ssa_from_linear
from contractc.search.ask import Ask, Found
from contractc.search.auto import anneal, auto
from contractc.search.bisection import bisect
from contractc.search.candidates import candidates, tree
from contractc.search.clock import Clock, clock_of
from contractc.search.exact import MOST_EXACT, optimal
from contractc.search.factored import CPU, cheapest_layout, joint_layouts, layout_choices, lowered_seconds
from contractc.search.greedy import greedy
from contractc.search.limit import FIRST, within
from contractc.search.outputs import joint_path
from contractc.search.recompute import recomputed
from contractc.search.slice import sliced_to_fit
from contractc.search.training import gradient_plan
from contractc.serial import checked

__all__ = [
    "MOST_EXACT",
    "SEARCHES",
    "candidates",
    "check_allocation",
    "lowered_seconds",
    "search",
    "search_gradients",
    "tree",
]


def left_to_right(network: TensorNetwork) -> tuple[Path, str]:
    """Return the path that contracts the tensors in the order given: no search at all."""
    count = len(network.tensors)
    steps = [(count + k - 2 if k > 1 else 0, k) for k in range(1, count)]
    return tuple(steps) or ((0,),), "left to right"


SEARCHES: dict[str, Callable[[TensorNetwork, Ask], Found]] = {
    "auto": auto,
    "optimal": lambda network, ask: Found(*optimal(network)),
    "greedy": lambda network, ask: Found(*greedy(network, ask.clock)),
    "bisect": bisect,
    "anneal": anneal,
    "left-to-right": lambda network, ask: Found(*left_to_right(network)),
}
"""Every search by the name `optimize=` takes. Adding a search means adding it here, and nowhere else."""


def search(
    network: TensorNetwork,
    optimize: Any = None,
    memory_limit: int | None = None,
    started: float | None = None,
    target: Target = CPU,
) -> Plan:
    """Return the plan that `optimize` asks for, within `memory_limit` bytes alive at once.

    Args:
        network: what to contract.
        optimize: None, True or "auto" (the default search); False (left to right, no search); the name of a
            search, here or (with `opt_einsum:` in front or not) in opt_einsum; a `Search` with the name, a limit
            of time and more; a path in linear form, with or without NumPy's "einsum_path" in front; an opt_einsum
            path optimizer.
        memory_limit: bytes of all tensors alive at once, inputs included; None for no limit.
        started: when the planning began, in seconds of `monotonic`, if a limit of time counts from before this call.
        target: where the plan is to run, which decides what is done with operands held as factors.

    Raises:
        ValueError: no search has that name, or the path does not fit the network.
        ResourceLimitError: the limit cannot be kept; nothing was allocated.
    """
    options = optimize if isinstance(optimize, Search) else Search()
    clock = clock_of(options, started)
    checked(network)
    named = optimize is None or optimize is True or isinstance(optimize, str | Search)
    method = options.method if optimize is options else optimize
    first = Ask(options, clock) if memory_limit is None else _unsliced(options, clock)
    finds = _Finds(first._replace(target=target), method)
    alone = len(network.outputs) == 1
    alternatives: tuple[Alternative, ...] = ()
    if network.groups and not alone and method in (None, True, "auto"):
        (path, results, name), alternatives = joint_layouts(
            network, lambda forced: joint_path(forced, finds.of, share=named)
        )
    else:
        path, results, name = joint_path(network, finds.of, share=named)
    moves = finds.found.moves if alone and finds.found is not None else ()
    if alone and finds.found is not None:
        alternatives = finds.found.alternatives
    choices = layout_choices(network, path)
    plan = Plan(network, path, results, (), choices, name, moves=moves, alternatives=alternatives)
    if memory_limit is not None:
        joint = alone and not network.groups and method in (None, True, "auto", "anneal")
        others = finds.found.others if alone and finds.found is not None else ()
        if alternatives and alone:
            plan = _fastest_within(plan, others, memory_limit, Ask(options, clock))
        else:
            plan = within(plan, memory_limit, others if joint else (), Ask(options, clock), joint)
    known = finds.found.costs if alone and memory_limit is None and finds.found is not None else None
    best = priced(plan) if known is None else replace(plan, **known._asdict())
    if not alone or best.sliced or network.groups or finds.found is None:
        return _as_chosen(best, target)
    beside = [other for other in dict.fromkeys(finds.found.others) if other != best.path]
    return replace(best, others=tuple(beside[:KEPT])) if beside else best


def _fastest_within(plan: Plan, paths: Sequence[Path], memory_limit: int, ask: Ask) -> Plan:
    """Return `plan`, or another of `paths` for its network, within the limit: that of the least predicted seconds.

    Raises:
        ResourceLimitError: none keeps the limit, with the least peak of `plan`.
    """
    network, count = plan.network, len(plan.network.tensors)
    if costs(network, plan.path, plan.results).peak <= memory_limit:
        return plan
    found: list[Plan] = []
    errors: list[ResourceLimitError] = []
    for path in dict.fromkeys((plan.path, *paths)):
        choices = layout_choices(network, path)
        other = replace(plan, path=path, results=(count + len(path) - 1,), choices=choices)
        try:
            found.append(priced(within(other, memory_limit, (), ask, False)))
        except ResourceLimitError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return min(found, key=lambda other: other.seconds)


def _as_chosen(plan: Plan, target: Target) -> Plan:
    """Return `plan` with the seconds by which what is done with operands held as factors was chosen, of the value."""
    taken = [a for a in plan.alternatives if a.choices == plan.choices]
    if plan.sliced or not taken:
        return plan
    network = plan.network
    if not any(t.trained for t in network.tensors):
        return replace(plan, seconds=taken[0].seconds)
    if target.device == "cpu":
        return plan
    value = replace(network, tensors=tuple(replace(t, trained=False) for t in network.tensors))
    return replace(plan, seconds=lowered_seconds(value, plan.path, plan.seconds, target))


KEPT = 3
"""Paths of other orders that a plan keeps."""


def _unsliced(options: Search, clock: Clock) -> Ask:
    """Return what is asked for the order alone, where order and slices are searched for together afterwards."""
    moves = options.moves
    if isinstance(moves, tuple) and len(moves) % 7 == 4:
        moves = moves[:-2]
    end = clock.deadline if options.time_limit is None else clock.started + FIRST * options.time_limit
    return Ask(replace(options, moves=moves), Clock(end, clock.report, clock.started))


@dataclass(slots=True)
class _Finds:
    """The orders looked for in one search: one, or some for several outputs."""

    ask: Ask
    optimize: Any
    found: Found | None = None

    def of(self, network: TensorNetwork) -> tuple[Path, str]:
        """Return a path for a network of one output, and the name of the search that found it."""
        self.found = _path(network, self.optimize, self.ask)
        return self.found.path, self.found.search


def search_gradients(
    network: TensorNetwork,
    wanted: Sequence[int],
    optimize: Any = None,
    memory_limit: int | None = None,
    value: bool = True,
    target: Target = CPU,
) -> Plan:
    """Return the plan of the one output of `network` and of its gradients by the tensors `wanted`.

    The order is found as in `search`, for what value and gradients cost together; the limit is for both together.
    The last tensor of the plan's network is the cotangent; see `sweep.with_cotangent`.

    Args:
        value: whether the output itself comes first.
        target: where the plan is to run.
    """
    trained = [replace(t, trained=k in wanted) for k, t in enumerate(network.tensors)]
    tree = search(replace(network, tensors=tuple(trained)), optimize, target=target)
    plan = gradient_plan(network, tree, wanted, value)
    return plan if memory_limit is None else _within(plan, memory_limit)


def _within(plan: Plan, limit: int) -> Plan:
    """Return `plan` within `limit` bytes: some steps done again, or all in slices, whichever is predicted to be faster.

    Raises:
        ResourceLimitError: neither gets there.
    """
    again = recomputed(plan, limit)
    if again is not None and again.path == plan.path:
        return plan
    try:
        sliced = priced(sliced_to_fit(plan, limit))
    except ResourceLimitError:
        if again is None:
            raise
        return again
    return sliced if again is None or sliced.seconds <= again.seconds else again


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


def _path(network: TensorNetwork, optimize: Any, ask: Ask) -> Found:
    count = len(network.tensors)
    if count == 1 and (not isinstance(optimize, str) or optimize in SEARCHES):
        return Found(((0,),), "nothing to search")
    if optimize is None or optimize is True:
        optimize = "auto"
    elif optimize is False:
        optimize = "left-to-right"
    if isinstance(optimize, str) and optimize in SEARCHES:
        find = SEARCHES[optimize]
        if network.groups and (optimize == "auto" or any(network.forced)):
            found = cheapest_layout(network, lambda part: find(part, ask)[:2], ask.target)
            return Found(found.path, found.search, others=found.paths, alternatives=found.alternatives)
        return find(network, ask)
    if isinstance(optimize, Sequence) and not isinstance(optimize, str):
        steps = list(optimize)
        if steps and steps[0] == "einsum_path":
            steps = steps[1:]
        return Found(ssa_from_linear(steps, count), "the path given")
    from contractc.search.external import opt_einsum_path

    return Found(*opt_einsum_path(network, optimize))
