"""What a contraction does when gradients are recorded: the forward and backward code for a pattern of operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from contractc.dtypes import is_floating
from contractc.fused import all_unfused
from contractc.lower.backward import backward
from contractc.lower.pack import pack
from contractc.lower.passes import PASSES, natural_layout
from contractc.programs import COPY, Contract, Program, groups

LEAST_SECONDS = 1e-4
"""Predicted seconds of the value from which on a call into Python on the way back, 30 us, is made up for."""


def with_joint_backward(
    run: Callable[..., Any], program: Program, seconds: float, constants: Sequence[Any], backend: Any
) -> Callable[..., Any]:
    """Return the code `run` of `program` that differentiates as a whole, where that is predicted to be faster.

    It is where batched matrix products read copies: torch makes them anew on the way back, for each factor of a
    product its own, where one backward program shares them. Everything else torch differentiates call by call, and
    what takes less than `LEAST_SECONDS`.
    """
    program = natural_layout(all_unfused(program))
    (result, *others) = program.results
    if not hasattr(backend, "joint") or others or seconds < LEAST_SECONDS or not _copies_batches(program):
        return run
    if program.semiring != "sum_product" or not is_floating(program.value(result).dtype):
        return run
    differentiated: Callable[..., Any] = backend.joint.differentiated(
        run, lambda needs: _joint(program, constants, backend, needs)
    )
    return differentiated


def _joint(program: Program, constants: Sequence[Any], backend: Any, needs: Sequence[bool]) -> Any:
    """Return the `Joint` code for the operands that need gradients, or None if there is no rule for the program."""
    program = pack(program)
    (result,) = program.results
    numbers = [v.number for v in program.inputs]
    wanted = [n for n, needed in zip(numbers, needs, strict=True) if needed]
    first = backward(program, result, wanted)
    if first is None or not first.results:
        return None
    made = {step.outs[0].number for step in program.steps}
    given = [v.number for v in first.inputs[:-1]]
    kept = [n for n in given if n in made]
    forward = replace(program, results=(result, *kept))
    places = {n: k for k, n in enumerate((*numbers, *forward.results))}
    arrays = {c.value.number: x for c, x in zip(program.constants, constants, strict=True)}
    codes = []
    for number in forward.results:
        back = backward(program, number, wanted)
        assert back is not None
        targets = [n for n in wanted if n in _reached(program, number)]
        for transform in (*PASSES, pack):
            back = transform(back)
        if backend.refuses(back) is not None or not _extents_known(back):
            return None
        run = backend.compile(back, [arrays[c.value.number] for c in back.constants]).run
        reads = tuple(places[v.number] for v in back.inputs[:-1])
        codes.append(backend.joint.Backward(run, reads, tuple(numbers.index(n) for n in targets)))
    if any(k not in codes[0].reads for code in codes for k in code.reads):
        return None
    compiled = backend.compile(forward, constants)
    return backend.joint.Joint(compiled.run, tuple(codes), len(numbers))


def _copies_batches(program: Program) -> bool:
    """Return whether a batched matrix product of `program` reads a copy of an operand."""
    packed = pack(program)
    known = packed.values()
    copies = {s.out.number for s in packed.steps if isinstance(s, Contract) and s.how == COPY}
    for step in packed.steps:
        if isinstance(step, Contract) and len(step.inputs) == 2 and copies.intersection(step.inputs):
            left, right = (known[i].modes for i in step.inputs)
            if groups(left, right, step.out.modes).batch:
                return True
    return False


def _reached(program: Program, of: int) -> set[int]:
    """Return the inputs that value `of` is made of."""
    below = {of}
    for step in reversed(program.steps):
        if step.outs[0].number in below:
            below.update(step.inputs)
    return below


def _extents_known(program: Program) -> bool:
    """Return whether each dynamic mode is one of an input, from which its extent is read."""
    there = {m for v in (*program.inputs, *(c.value for c in program.constants)) for m in v.modes}
    used = {m for step in program.steps for v in step.outs for m in v.modes}
    return not {m for m in used if m in program.dynamic} - there
