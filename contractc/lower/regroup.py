"""The plan with large steps in the order of contraction that runs fastest on a CPU, by the ways they have there."""

from __future__ import annotations

from dataclasses import replace

from contractc.backends.steps.choose import Prices
from contractc.backends.steps.regroup import WORTH_A_LOOK, regrouped
from contractc.cost import priced
from contractc.lower import translate
from contractc.lower.passes import PASSES
from contractc.machine import Machine, Target
from contractc.plans import Plan
from contractc.programs import Contract
from contractc.providers import providers


def regrouped_plan(plan: Plan, machine: Machine) -> Plan:
    """Return `plan` with two steps in another order where NumPy programs are predicted to be faster: see `regrouped`.

    Plans with splits of modes, or steps that become several, are left as they are.
    """
    if plan.seconds < WORTH_A_LOOK or plan.sliced or plan.network.semiring != "sum_product":
        return plan
    program = translate(plan, Target())
    for transform in PASSES:
        program = transform(program)
    turned = regrouped(program, Prices(machine, tuple(providers())))
    made = {n: n for n in range(len(plan.network.tensors))}
    path: list[tuple[int, ...]] = []
    for step in turned.steps:
        if not isinstance(step, Contract) or not made.keys() >= set(step.inputs):
            return plan
        path.append(tuple(sorted(made[i] for i in step.inputs)))
        made[step.out.number] = len(made)
    if len(path) != len(plan.path) or path == list(plan.path):
        return plan
    results = tuple(made[i] for i in plan.results)
    search = f"{plan.search}, two steps in the order that suits memory"
    return priced(replace(plan, path=tuple(path), results=results, search=search), machine)
