"""What a page tells of each step of a plan: its cost, the memory alive, and what it runs as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from contractc.building import build
from contractc.cost import HUGE, step_costs, step_times
from contractc.errors import UnsupportedError
from contractc.executable import Executable
from contractc.grouping import kind
from contractc.machine import Target
from contractc.notation import Term
from contractc.options import Options
from contractc.plans import Plan
from contractc.programs import Contract, Loop, Program


@dataclass(frozen=True, slots=True)
class StepCost:
    """A step of a plan for all slices together: its operations, traffic and seconds; and what it leaves alive.

    `size` is the number of elements of its result in one slice; `alive` the bytes of the operands of the plan, of all
    intermediates and of the copies the step makes, while it runs.
    """

    number: int
    ids: tuple[int, ...]
    terms: tuple[Term, ...]
    out: Term
    size: int
    flops: int
    traffic: int
    seconds: float
    alive: int


def costs_of_steps(plan: Plan) -> list[StepCost]:
    """Return the predicted costs of each step of `plan`."""
    network, terms = plan.network, plan.terms()
    count, inputs = len(network.tensors), network.bytes_of_inputs()
    each = step_costs(network, plan.path, plan.results, plan.sliced)
    return [
        StepCost(
            count + s,
            ids,
            tuple(terms[i] for i in ids),
            terms[count + s],
            network.size(m for m in terms[count + s] if m not in plan.sliced),
            cost.flops * times,
            cost.traffic * times,
            cost.seconds * min(times, HUGE),
            inputs + cost.peak,
        )
        for s, (ids, cost, times) in enumerate(zip(plan.path, each, step_times(plan), strict=True))
    ]


def compiled(plan: Plan, target: Target | None = None) -> Executable | str:
    """Return `plan` compiled, to tell what its steps run as; or why that cannot be told here."""
    if any(t.constant for t in plan.network.tensors):
        return "the values of the constants are needed to compile this plan; give the executable instead"
    try:
        return build(plan, target or Target(), Options())
    except (UnsupportedError, MemoryError) as error:
        return str(error).splitlines()[0]


def runs_as(plan: Plan, executable: Executable) -> dict[int, str]:
    """Return for the id of each step of `plan` what it runs as in `executable`, and why."""
    notes: dict[int, str] = {}
    for step, note in zip(executable.program.steps, executable.notes, strict=True):
        notes |= {value.number: note for value in step.outs}
    notes |= _in_loops(executable.program)
    return {number: notes.get(number) or _elsewhere(plan, notes, number) for number in _ids(plan)}


def _in_loops(program: Program) -> dict[int, str]:
    """Return what the steps inside of the loops of `program` run as."""
    notes: dict[int, str] = {}
    for step in program.steps:
        if not isinstance(step, Loop):
            continue
        known = step.body.values()
        for inner in step.body.steps:
            if isinstance(inner, Contract):
                word = inner.how or kind([known[i].modes for i in inner.inputs], inner.out.modes)
                notes[inner.out.number] = f"{word}, in the loop over slices"
        notes |= _in_loops(step.body)
    return notes


def _ids(plan: Plan) -> range:
    count = len(plan.network.tensors)
    return range(count, count + len(plan.path))


def _elsewhere(plan: Plan, notes: Mapping[int, str], number: int) -> str:
    """Return where a step went that the program has no step for: into the nearest step above it that has one."""
    parents = {i: n for n, ids in zip(_ids(plan), plan.path, strict=True) for i in ids}
    above = parents.get(number)
    while above is not None and above not in notes:
        above = parents.get(above)
    return f"part of %{above}" if above is not None else "merged into another step"
