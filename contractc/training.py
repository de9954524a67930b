"""What a contraction does when gradients are recorded: the forward and backward code for a pattern of operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from contractc.dtypes import is_floating, itemsize
from contractc.fused import all_unfused
from contractc.grouping import groups
from contractc.hosted import NUMPY, for_numpy, hostable, hosted
from contractc.lower.backward import with_kept
from contractc.lower.memory import made_bytes, owners
from contractc.lower.pack import pack
from contractc.lower.passes import PASSES, natural_layout
from contractc.lower.seconds import program_seconds
from contractc.machine import Target
from contractc.programs import COPY, Contract, Loop, Program
from contractc.providers.memory import MOST

LEAST_SECONDS = 1e-4
"""Predicted seconds of the value from which on a call into Python on the way back, 30 us, is made up for."""

CALLS_BEFORE = 4
"""Calls recorded by torch before the code for less than `LEAST_SECONDS` is made, which takes 5 to 50 ms."""


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
    steps together; small ones too, as each step that torch records costs it 20 to 30 us of calls, there and back.
    Elsewhere it is where batched matrix products read copies: torch makes them anew on the way back, for each factor
    of a product its own, where one backward program shares them. All else torch differentiates call by call.
    """
    host = hostable(program, target) and _reusable(program)
    program = natural_layout(all_unfused(program))
    (result, *others) = program.results
    small = seconds < LEAST_SECONDS
    if not hasattr(backend, "joint") or others or (small and not (host and _has_several(program))):
        return run
    if program.semiring != "sum_product" or not is_floating(program.value(result).dtype):
        return run
    if any(isinstance(step, Loop) for step in program.steps):
        return run  # there is no rule for slices
    if not (host or _copies_batches(program)):
        return run
    differentiated: Callable[..., Any] = backend.joint.differentiated(
        run,
        lambda needs: _joint(program, seconds, constants, backend, needs, host),
        CALLS_BEFORE if small else 0,
    )
    return differentiated


def _has_several(program: Program) -> bool:
    """Return whether `program` has several products."""
    return sum(len(step.inputs) > 1 for step in program.steps) > 1


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
    found = _programs(program, wanted, host)
    if found is None:
        return None
    program, forward, back = found
    if backend.refuses(back) is not None or not _extents_known(back):
        return None
    arrays = {c.value.number: x for c, x in zip(program.constants, constants, strict=True)}
    held = [arrays[c.value.number] for c in back.constants]
    codes = [backend.compile(p, c).run for p, c in ((program, constants), (forward, constants), (back, held))]
    if host:
        codes[1] = hosted(codes[1], forward, seconds, constants, backend, ahead=True)
        codes[2] = hosted(codes[2], back, seconds, held, backend, ahead=True)
    read = [numbers.index(v.number) for v in back.inputs[:-1] if v.number in numbers]
    assert all(v.number in numbers for v in back.inputs[: len(read)]), f"operands come first\n{back}"
    below = _reached(program)
    targets = [numbers.index(n) for n in wanted if n in below]
    plain, run, run_back = codes
    return backend.joint.Joint(run, run_back, plain, tuple(read), tuple(targets), len(numbers))


def peak_in_training(program: Program, wanted: Sequence[int]) -> int:
    """Return the most bytes in memory while torch computes the value of `program` and its gradients, 0 if not known.

    Counted are the operands, the cotangent, the value, what is kept between the two, all gradients, and what both ways
    make meanwhile; that is known of what runs as programs for NumPy.

    Args:
        wanted: the inputs whose gradients are asked for, as numbers of values.
    """
    if not (hostable(program, Target(backend="torch")) and _reusable(program)):
        return 0
    found = _programs(natural_layout(all_unfused(program)), wanted, host=True)
    if found is None:
        return 0
    _, forward, back = found
    known = {v.number: v for v in (*forward.values().values(), *back.inputs)}
    owner = owners(forward)
    given = {v.number for v in (*forward.inputs, *(c.value for c in forward.constants), back.inputs[-1])}
    held = {owner.get(n, n) for n in given.union(forward.results)}

    def size(numbers: set[int]) -> int:
        return sum(
            prod([forward.extents[m] for m in known[n].modes]) * itemsize(known[n].dtype) for n in numbers
        )

    there, again = (made_bytes(for_numpy(p), NUMPY) for p in (forward, back))
    return max(size(given) + there, size(held) + again)


def _programs(program: Program, wanted: Sequence[int], host: bool) -> tuple[Program, Program, Program] | None:
    """Return `program` as it is differentiated, giving too what gradients read, and these; None without a rule."""
    program, packing = _packed(program, wanted) if host else (pack(program), pack)
    found = with_kept(program, wanted)
    if found is None:
        return None
    forward, back = found
    for transform in (*PASSES, packing):
        back = transform(back)
    return program, forward, back


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


def _reached(program: Program) -> set[int]:
    """Return the values that the result of `program` is made of."""
    below = set(program.results)
    for step in reversed(program.steps):
        if step.outs[0].number in below:
            below.update(step.inputs)
    return below


def _extents_known(program: Program) -> bool:
    """Return whether each dynamic mode is one of an input, from which its extent is read."""
    there = {m for v in (*program.inputs, *(c.value for c in program.constants)) for m in v.modes}
    used = {m for step in program.steps for v in step.outs for m in v.modes}
    return not {m for m in used if m in program.dynamic} - there
