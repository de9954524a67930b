"""What a contraction does when gradients are recorded: the forward and backward code for a pattern of operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from contractc.dtypes import is_floating, itemsize
from contractc.fused import all_unfused
from contractc.hosted import for_numpy, hostable, hosted
from contractc.lower.backward import backward, with_kept
from contractc.lower.pack import pack
from contractc.lower.passes import PASSES, natural_layout
from contractc.lower.seconds import program_seconds
from contractc.machine import Target
from contractc.programs import COPY, Contract, Loop, Program, groups
from contractc.providers.memory import MOST

LEAST_SECONDS = 1e-4
"""Predicted seconds of the value from which on a call into Python on the way back, 30 us, is made up for."""


def with_joint_backward(
    run: Callable[..., Any],
    program: Program,
    seconds: float,
    constants: Sequence[Any],
    backend: Any,
    target: Target,
) -> Callable[..., Any]:
    """Return the code `run` of `program` that differentiates as a whole, where that is predicted to be faster.

    On the CPU the value and the gradients then run as programs for NumPy, with orders and ways chosen for all their
    steps together. Elsewhere it is where batched matrix products read copies: torch makes them anew on the way back,
    for each factor of a product its own, where one backward program shares them. What takes less than
    `LEAST_SECONDS` torch differentiates call by call, and all else.
    """
    host = hostable(program, target, seconds) and _reusable(program)
    program = natural_layout(all_unfused(program))
    (result, *others) = program.results
    if not hasattr(backend, "joint") or others or seconds < LEAST_SECONDS:
        return run
    if program.semiring != "sum_product" or not is_floating(program.value(result).dtype):
        return run
    if any(isinstance(step, Loop) for step in program.steps):
        return run  # there is no rule for slices
    if not (host or _copies_batches(program)):
        return run
    differentiated: Callable[..., Any] = backend.joint.differentiated(
        run, lambda needs: _joint(program, seconds, constants, backend, needs, host)
    )
    return differentiated


def _reusable(program: Program) -> bool:
    """Return whether all values of `program` are small enough for their memory to be given out again.

    Pages from the system, which every step of a training would wait for, take back what the NumPy program gains.
    """
    return all(
        prod([program.extents[m] for m in v.modes]) * itemsize(v.dtype) <= MOST // 2
        for v in program.values().values()
    )


def _joint(
    program: Program,
    seconds: float,
    constants: Sequence[Any],
    backend: Any,
    needs: Sequence[bool],
    host: bool,
) -> Any:
    """Return the `Joint` code for the operands that need gradients, or None if there is no rule for the program."""
    numbers = [v.number for v in program.inputs]
    wanted = [n for n, needed in zip(numbers, needs, strict=True) if needed]
    program, packing = _packed(program, wanted) if host else (pack(program), pack)
    found = with_kept(program, wanted)
    if found is None:
        return None
    forward = found[0]
    places = {n: k for k, n in enumerate((*numbers, *forward.results))}
    arrays = {c.value.number: x for c, x in zip(program.constants, constants, strict=True)}
    codes: list[Any] = []
    for number in forward.results:
        back = backward(program, number, wanted)
        assert back is not None
        targets = [n for n in wanted if n in _reached(program, number)]
        for transform in (*PASSES, packing):
            back = transform(back)
        if backend.refuses(back) is not None or not _extents_known(back):
            return None
        held = [arrays[c.value.number] for c in back.constants]
        run = backend.compile(back, held).run
        if host and not codes:  # the others come when gradients are differentiated, under torch's eyes
            run = hosted(run, back, seconds, held, backend, ahead=True)
        reads = tuple(places[v.number] for v in back.inputs[:-1])
        codes.append(backend.joint.Backward(run, reads, tuple(numbers.index(n) for n in targets)))
    if any(k not in codes[0].reads for code in codes for k in code.reads):
        return None
    run = backend.compile(forward, constants).run
    if host:
        run = hosted(run, forward, seconds, constants, backend, ahead=True)
    return backend.joint.Joint(run, tuple(codes), len(numbers))


def _packed(program: Program, wanted: Sequence[int]) -> tuple[Program, Callable[[Program], Program]]:
    """Return `program` with the copies that products read as steps of their own if that pays for NumPy, and how."""
    best = None
    for packing in (_as_it_is, pack):
        found = with_kept(packing(program), wanted)
        if found is not None:
            forward, back = found
            for transform in (*PASSES, packing):
                back = transform(back)
            seconds = sum(program_seconds(for_numpy(part)) for part in (forward, back))
            if best is None or seconds < best[0]:
                best = seconds, packing
    packing = _as_it_is if best is None else best[1]
    return packing(program), packing


def _as_it_is(program: Program) -> Program:
    return program


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
