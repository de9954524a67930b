"""The order that runs fastest: the best orders a search knows are lowered, and what their programs take is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from contractc.lower.regroup import regrouped_plan
from contractc.lower.seconds import program_seconds
from contractc.machine import Machine
from contractc.options import Options, Search
from contractc.plans import Plan
from contractc.programs import Program
from contractc.search import candidates, tree

WORTH_RANKING, MORE = 2.0e-4, 5.0e-4
"""Predicted seconds of a call below which other orders are not lowered, and for which one order more is: that takes
some 20 ms where there are loops."""

FEW = 8
"""Tensors of a network of which several orders are lowered."""

LEAST_RANKED, MOST_RANKED, MOST_TUNED = 3, 12, 24
"""Orders that are lowered: of short calls, of long ones, and to time the best of them."""

GAIN = 1.05
"""How many times faster another order has to be by prediction than the search's own: it is no better known."""


def is_open(options: Options) -> bool:
    """Return whether it is left to the default search which order is predicted to take the least seconds."""
    optimize = options.optimize
    if isinstance(optimize, Search):
        return optimize.method == "auto" and optimize.minimize == "seconds"
    return optimize in (None, True, "auto")


def may_rank(plan: Plan, options: Options) -> bool:
    """Return whether `plan` is for few tensors and long calls, its order open, without a limit of time or memory."""
    limited = isinstance(options.optimize, Search) and options.optimize.time_limit is not None
    if limited or options.memory_limit is not None or not is_open(options):
        return False
    return len(plan.network.tensors) <= FEW and plan.seconds >= WORTH_RANKING


def to_rank(plan: Plan, options: Options, machine: Machine) -> tuple[Plan, ...]:
    """Return `plan` and the orders whose programs are worth a comparison with that of `plan`.

    Those are the best that the search knows, where code is made ahead of the calls, and `plan` with two steps in the
    order that suits memory.
    """
    count = len(plan.network.tensors)
    if options.tune:
        plans = candidates(plan, MOST_TUNED) if count <= FEW else candidates(plan)
    elif options.ahead and may_rank(plan, options):
        plans = candidates(plan, min(MOST_RANKED, LEAST_RANKED + int(plan.seconds / MORE)))
    else:
        plans = (plan,)
    turned = regrouped_plan(plan, machine)
    known = [tree(other.path, count) for other in plans]
    return plans if tree(turned.path, count) in known else (*plans, turned)


def ranked(
    plans: Sequence[Plan], lowered: Callable[[Plan], Program], machine: Machine
) -> list[tuple[Plan, Program]]:
    """Return `plans` with their programs, the one predicted to be fastest first, with some odds for the first given.

    A search prices steps one by one, each on arrays in the order that suits it. What fused steps save, and what the
    order of an array in memory costs, is known once a program is there.
    """
    found = [(plan, lowered(plan)) for plan in plans]
    if len(found) == 1:
        return found
    seconds = {
        plan.path: program_seconds(program, machine) * (1.0 if plan is plans[0] else GAIN)
        for plan, program in found
    }
    return sorted(found, key=lambda pair: seconds[pair[0].path])
