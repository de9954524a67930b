"""A value and its gradients as one program, finished as a whole, then cut in two behind the value.

Orders of intermediates suit all that reads them, on the way there and on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from contractc.backends.steps.tasks import is_view
from contractc.lower import finished, fusers
from contractc.lower.backward import backward
from contractc.lower.pack import SMALL, pack
from contractc.lower.passes import PASSES
from contractc.lower.seconds import program_seconds, program_size
from contractc.machine import Target
from contractc.programs import COPY, Contract, Program, Reshape, Step, Value

Packing = Callable[[Program], Program]


def joined(program: Program, wanted: Sequence[int], packing: Packing) -> Program | None:
    """Return the program of the one value of `program`, then of its gradients by the inputs `wanted`.

    Its last input is the cotangent. None where there is no rule, or nothing is wanted that the value is made of.

    Args:
        packing: what is done with the copies that matrix products read.
    """
    program = packing(program)
    (result,) = program.results
    back = backward(program, result, wanted)
    if back is None or not back.results:
        return None
    for transform in (*PASSES, packing):
        back = transform(back)
    return replace(
        program,
        inputs=(*program.inputs, back.inputs[-1]),
        steps=(*program.steps, *back.steps),
        results=(result, *back.results),
    )


def joined_for_numpy(program: Program, wanted: Sequence[int]) -> Program | None:
    """Return `joined` with runs fused, orders and ways chosen for NumPy, copies as steps of their own if that pays."""
    target, best = Target(), None
    # One call for several steps might stand on both sides of the cut.
    kernels = [replace(kernel, several=None) for kernel in fusers(target)]
    for packing in (as_it_is, pack):
        both = joined(program, wanted, packing)
        if both is None:
            return None
        if packing is pack and best is not None and not any(map(_is_copy, both.steps)):
            break
        both = finished(both, target, kernels=kernels)
        seconds = program_seconds(both)
        if best is None or seconds < best[0]:
            best = seconds, both
    return None if best is None else best[1]


def cut(both: Program) -> tuple[Program, Program]:
    """Return what makes the first result of `both`, giving then what the rest reads of it, and the rest.

    The inputs of the rest are the inputs it reads, what was kept for it, and the last input of `both`. What inputs give
    by looking at them or copying them, or in less time than keeping it takes, is not kept but made again.

    Before:  (%0, %1, %5) -> %3 = contract %0 %1,  %4 = contract %3,  %6 = contract %3 %5,  return %4 %6
    After:   (%0, %1) -> %3 = contract %0 %1,  %4 = contract %3,  return %4 %3
             (%3, %5) -> %6 = contract %3 %5,  return %6
    """
    first, *others = both.results
    known = both.values()
    there = _needed(both, {first})
    forward = [step for step in both.steps if there.issuperset(v.number for v in step.outs)]
    rest = [step for step in both.steps if not there.issuperset(v.number for v in step.outs)]
    given = {v.number for v in (*both.inputs, *(c.value for c in both.constants))}
    ready = set(given)
    again: list[Step] = []
    for step in forward:
        if ready.issuperset(step.inputs) and _cheap(both, step, known):
            again.append(step)
            ready |= {v.number for v in step.outs}
    read = {i for step in rest for i in step.inputs}.union(others)
    for step in reversed(again):
        if not read.isdisjoint(v.number for v in step.outs):
            rest.insert(0, step)
            read.update(step.inputs)
    made = {v.number for step in rest for v in step.outs}
    kept = sorted(read - given - made)
    operands = [v for v in both.inputs[:-1] if v.number in read]
    ahead = replace(both, inputs=both.inputs[:-1], steps=tuple(forward), results=(first, *kept))
    behind = replace(
        both,
        inputs=(*operands, *(known[i] for i in kept), both.inputs[-1]),
        constants=tuple(c for c in both.constants if c.value.number in read),
        steps=tuple(rest),
        results=tuple(others),
    )
    return ahead, behind


def _cheap(program: Program, step: Step, known: Mapping[int, Value]) -> bool:
    """Return whether making what `step` makes takes less than the 3 us of keeping it, or no arithmetic at all."""
    if isinstance(step, Reshape):
        return True
    if not isinstance(step, Contract):
        return False
    if is_view(program, step):  # or a copy
        return True
    modes = {m for i in step.inputs for m in known[i].modes}
    return program_size(program, tuple(modes)) <= SMALL


def as_it_is(program: Program) -> Program:
    """Return `program`."""
    return program


def _is_copy(step: Step) -> bool:
    return isinstance(step, Contract) and step.how == COPY


def _needed(program: Program, results: set[int]) -> set[int]:
    """Return the values that `results` are made of, themselves included."""
    found = set(results)
    for step in reversed(program.steps):
        if not found.isdisjoint(v.number for v in step.outs):
            found |= {v.number for v in step.outs} | set(step.inputs)
    return found
