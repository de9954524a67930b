"""The predicted seconds of a program on a CPU, step by step as each was chosen to run, and of the other ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contractc.backends.steps import NARROW, copy_seconds, flat, ways
from contractc.backends.steps.choose import Prices, arranged
from contractc.backends.steps.regroup import orders_compared
from contractc.backends.steps.tasks import is_view, task_of
from contractc.cost import bandwidth, fresh_seconds
from contractc.dtypes import itemsize
from contractc.fused import unfused
from contractc.lower.fuse import library_seconds
from contractc.machine import DEFAULT_MACHINE, Machine
from contractc.plans import seconds_text
from contractc.programs import COPY, PIECES, Broadcast, Contract, Fused, Loop, Program, Step, in_small
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
        return _pieces_seconds(step, machine) if step.how == PIECES else loops.together_seconds(step)
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


def _pieces_seconds(step: Fused, machine: Machine) -> float:
    """Return the predicted seconds of a step taken in pieces: of all pieces, and of what is read and written once."""
    (mode,) = step.modes
    body, known = step.body, step.body.values()
    count = -(-body.extents[mode] // step.piece)
    arrays = [*(known[i] for i in step.inputs), *step.outs]
    sizes = [program_size(body, v.modes) * itemsize(v.dtype) for v in arrays]
    each = program_seconds(in_small(body, mode, step.piece), machine) + machine.call * (2 + len(arrays) / 2)
    written = sum([fresh_seconds(machine, size) for size in sizes[len(step.inputs) :]])
    return count * each + sum(sizes) / bandwidth(machine, sum(sizes)) + written


def compared(program: Program, machine: Machine) -> dict[int, str]:
    """Return the ways that were compared for the steps of `program`, with their seconds, by what each step makes."""
    names = providers()
    known = program.values()
    found = {}
    for step in program.steps:
        if isinstance(step, Fused):
            together, apart = (
                loops.together_seconds(step),
                program_seconds(arranged(step.body, machine, names), machine),
            )
            one = step.outs[0].number
            found[one] = f"together {seconds_text(together)}; one by one {seconds_text(apart)}"
        if not isinstance(step, Contract) or not step.how or step.how == NARROW:
            continue
        plain = replace(step, how="")
        priced: list[tuple[str, float]] = []
        if loops.is_loop(step.how):
            priced.append((step.how, loops.predicted(program, plain)))
        if step.path:
            pairs = arranged(unfused(program, step), machine, names)
            priced.append(("pair by pair", program_seconds(pairs, machine)))
        task = task_of(program, plain, known)
        priced += [(way.how, way.seconds) for way in (() if task is None else ways(task, machine, names))]
        if priced:
            found[step.out.number] = "; ".join(f"{how} {seconds_text(seconds)}" for how, seconds in priced)
    for number, orders in orders_compared(program, Prices(machine, tuple(names))).items():
        found[number] = "; ".join([*([found[number]] if number in found else ()), f"in order {orders}"])
    return found


def program_size(program: Program, modes: Sequence[int]) -> int:
    """Return the elements of a value with these modes."""
    size = 1
    for m in modes:
        size *= program.extents[m]
    return size
