"""Program -> Program: runs of steps become one kernel where that is faster, and every step says how it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from contractc.backends.triton import toolchain
from contractc.backends.triton.emit import source_of
from contractc.backends.triton.problem import Problem, parts
from contractc.backends.triton.tasks import (
    LIBRARY,
    MOST_INPUTS,
    TRIED,
    Choice,
    Task,
    choice,
    kept_modes,
    library_is_coarser,
    refusal,
    task_of,
    trials,
)
from contractc.backends.triton.tiles import TileConfig
from contractc.machine import Gpu
from contractc.programs import Contract, Loop, Program, Step, Value

GAIN = 0.95
"""A fused step has to be predicted to take less than this share of its parts: predictions are not that exact."""


def prepared(program: Program, device: Gpu, *, checked: bool) -> Program:
    """Return `program` with its steps fused where that is predicted to be faster, each with how it is done.

    With `checked`, kernels are compiled and those that spill are not used.

    Before:  %3 = contract %0 %1,  %4 = contract %3 %2
    After:   %4 = contract %0 %1 %2  # fused: 0 1, 3 2, tile o=16 s=16 ...
    """
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=prepared(step.body, device, checked=checked))
        steps.append(step)
    program = _fused(replace(program, steps=tuple(steps)), device, checked)
    steps, number = [], 1 + max(program.values(), default=0)
    for step in program.steps:
        if isinstance(step, Contract) and not step.how:
            found = chosen(task_of(step, program), device, checked=checked)
            step = replace(step, how=found.how)
            if found.how == LIBRARY and len(step.inputs) > 2 and step.path:
                expanded = unfused(step, program, number)
                number += len(expanded) - 1
                steps += expanded
                continue
        steps.append(step)
    return replace(program, steps=tuple(steps))


@lru_cache(maxsize=4096)
def chosen(task: Task, device: Gpu, *, checked: bool) -> Choice:
    """Return how `task` is computed; with `checked` by the first tile config that does not spill, if any."""
    found = choice(task, device)
    if found.how == LIBRARY or not checked:
        return found
    problem, _ = task.problem(task.in_order())
    for config, prediction in trials(problem, device):
        if fits(problem, config, device):
            better = prediction.seconds <= found.library or library_is_coarser(task, device)
            return Choice(str(config) if better else LIBRARY, prediction.seconds, found.library)
    return Choice(LIBRARY, None, found.library, f"the first {TRIED} kernels spill")


def fits(problem: Problem, config: TileConfig, device: Gpu) -> bool:
    """Return whether a kernel compiles for `device` without spills and within its shared memory."""
    once = parts(problem, config.split)[0] if config.split > 1 else problem
    try:
        binary = toolchain.compiled(source_of(once, config), config.warps, config.stages, device.arch)
    except toolchain.FAILURES:
        return False
    return binary.spills == 0 and binary.shared <= device.shared


def unfused(step: Contract, program: Program, number: int) -> list[Contract]:
    """Return a fused step as pairwise steps; intermediates get the numbers from `number` on."""
    task = task_of(step, program)
    modes = tuple(dict.fromkeys(m for i in step.inputs for m in program.value(i).modes))
    terms = list(task.terms[:-1])
    numbers = list(step.inputs)
    flags = list(step.conj or (False,) * len(step.inputs))
    made: list[Contract] = []
    for s, ids in enumerate(step.path):
        last = s == len(step.path) - 1
        term = task.terms[-1] if last else kept_modes(task, s, terms)
        out = step.out if last else Value(number + s, tuple(modes[m] for m in term), step.out.dtype)
        conj = tuple(flags[i] for i in ids)
        made.append(Contract(out, tuple(numbers[i] for i in ids), conj if any(conj) else (), (), LIBRARY))
        terms.append(term)
        numbers.append(out.number)
        flags.append(False)
    return made


def _fused(program: Program, device: Gpu, checked: bool) -> Program:
    """Return `program` with the pairs of steps merged that gain most, one after the other."""
    while True:
        best: tuple[float, Contract, Contract, Contract] | None = None
        for first, second in _mergeable(program):
            merged = _merged(first, second)
            if merged is None or refusal(task_of(merged, program)) is not None:
                continue
            apart = sum(_seconds(s, program, device) for s in (first, second))
            found = choice(task_of(merged, program), device)
            if found.how == LIBRARY or found.kernel is None or found.kernel > GAIN * apart:
                continue
            if best is None or apart - found.kernel > best[0]:
                if checked and chosen(task_of(merged, program), device, checked=True).how == LIBRARY:
                    continue
                best = (apart - found.kernel, first, second, merged)
        if best is None:
            return program
        _, first, second, merged = best
        steps = [merged if s is second else s for s in program.steps if s is not first]
        program = replace(program, steps=tuple(steps))


def _mergeable(program: Program) -> list[tuple[Contract, Contract]]:
    """Return the pairs of steps whose first is read once, by the second."""
    readers: dict[int, list[Step]] = {}
    for step in program.steps:
        for i in step.inputs:
            readers.setdefault(i, []).append(step)
    found = []
    for step in program.steps:
        if not isinstance(step, Contract) or len(step.inputs) < 2 or step.out.number in program.results:
            continue
        read = readers.get(step.out.number, [])
        if len(read) == 1 and isinstance(read[0], Contract) and len(read[0].inputs) > 1:
            second = read[0]
            if not step.how and not second.how and len(step.inputs) + len(second.inputs) - 1 <= MOST_INPUTS:
                found.append((step, second))
    return found


def _merged(first: Contract, second: Contract) -> Contract | None:
    """Return one step for two, the inputs of `first` where `second` reads it; None if dtypes differ on the way."""
    if first.out.dtype != second.out.dtype:
        return None
    at = second.inputs.index(first.out.number)
    inputs = (*second.inputs[:at], *first.inputs, *second.inputs[at + 1 :])
    count, inner = len(inputs), len(first.inputs)
    flags = second.conj or (False,) * len(second.inputs)
    inside = first.conj or (False,) * inner
    conj = (*flags[:at], *(f ^ flags[at] for f in inside), *flags[at + 1 :])
    path: list[tuple[int, ...]] = []
    for ids in first.path or ((0, 1),):
        path.append(tuple(at + i if i < inner else count + i - inner for i in ids))
    made = count + len(path) - 1
    shift = len(path)
    outer = len(second.inputs)
    for ids in second.path or ((0, 1),):
        path.append(tuple(_moved(i, at, inner, outer, count, made, shift) for i in ids))
    return Contract(second.out, inputs, conj if any(conj) else (), tuple(path))


def _moved(i: int, at: int, inner: int, outer: int, count: int, made: int, shift: int) -> int:
    """Return the id in the merged path of id `i` of the second step's path."""
    if i >= outer:
        return count + shift + i - outer
    if i == at:
        return made
    return i if i < at else i + inner - 1


def _seconds(step: Contract, program: Program, device: Gpu) -> float:
    found = choice(task_of(step, program), device)
    return min(found.library, found.kernel if found.kernel is not None else float("inf"))


def notes(program: Program, device: Gpu) -> Sequence[str]:
    """Return for each step what it runs as and what its candidates are predicted to take."""
    lines = []
    for step in program.steps:
        if isinstance(step, Contract) and step.how:
            found = choice(task_of(replace(step, how=""), program), device)
            lines.append(f"{'kernel' if step.how != LIBRARY else LIBRARY}: {found}")
        else:
            lines.append("")
    return lines
