"""The predicted seconds of a whole program on a CPU, step by step as each was chosen to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contractc.backends.steps import copy_seconds, flat, ways
from contractc.backends.steps.tasks import is_view, task_of
from contractc.cost import bandwidth
from contractc.dtypes import itemsize
from contractc.lower.fuse import library_seconds
from contractc.machine import DEFAULT_MACHINE, Machine
from contractc.programs import COPY, Broadcast, Contract, Fused, Loop, Program, Step
from contractc.providers import loops, providers


def program_seconds(program: Program, machine: Machine = DEFAULT_MACHINE) -> float:
    """Return the predicted seconds of one call of `program`; steps on constants alone have run before."""
    names = providers()
    constant = {c.value.number for c in program.constants}
    total = 0.0
    for step in program.steps:
        if constant.issuperset(step.inputs):
            constant |= {v.number for v in step.outs}
        else:
            total += _step_seconds(program, step, machine, names)
    return total


def _step_seconds(program: Program, step: Step, machine: Machine, names: Sequence[str]) -> float:
    if isinstance(step, Loop):
        slices = 1
        for m in step.modes:
            slices *= program.extents[m]
        return slices * program_seconds(step.body, machine)
    if isinstance(step, Broadcast):
        size = program_size(program, step.out.modes) * itemsize(step.out.dtype)
        return machine.call + size / bandwidth(machine, size)
    if isinstance(step, Fused):
        return loops.together_seconds(step)
    if not isinstance(step, Contract):
        return machine.call
    if loops.is_loop(step.how):
        return loops.predicted(program, replace(step, how=""))
    known = program.values()
    if step.how == COPY:
        old, new = (flat(v.modes, program.extents, ()) for v in (known[step.inputs[0]], step.out))
        return copy_seconds(machine, old, new, program.extents, itemsize(step.out.dtype)) + machine.call
    if is_view(program, step):
        return machine.call
    plain = replace(step, how="")
    task = task_of(program, plain, known)
    if task is None:
        return library_seconds(program, plain, machine, names)
    return ways(task, machine, names)[0].seconds


def program_size(program: Program, modes: Sequence[int]) -> int:
    """Return the elements of a value with these modes."""
    size = 1
    for m in modes:
        size *= program.extents[m]
    return size
