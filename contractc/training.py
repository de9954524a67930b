"""What a contraction does when gradients are recorded: the forward and backward code for a pattern of operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from contractc.dtypes import is_floating
from contractc.fused import all_unfused
from contractc.grouping import groups
from contractc.hosted import NUMPY, alone, compiled, hostable
from contractc.lower.joint import cut, joined, parts_for_numpy, reusable
from contractc.lower.memory import made_bytes, owners
from contractc.lower.pack import pack
from contractc.lower.passes import natural_layout
from contractc.machine import Target
from contractc.programs import COPY, Contract, Loop, Program

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
    host = hostable(program, target)
    program = natural_layout(all_unfused(program))
    (result, *others) = program.results
    small = seconds < LEAST_SECONDS
    if not hasattr(backend, "joint") or others or (small and not (host and _has_several(program))):
        return run
    if program.semiring != "sum_product" or not is_floating(program.value(result).dtype):
        return run
    if any(isinstance(step, Loop) for step in program.steps):
        return run  # there is no rule for slices
    copies = not small and _copies_batches(program)
    if not (host or copies):
        return run

    def make(needs: Sequence[bool], here: bool) -> Any:
        made = _joint(program, constants, backend, needs, True) if here else None
        return _joint(program, constants, backend, needs, False) if made is None and copies else made

    differentiated: Callable[..., Any] = backend.joint.differentiated(
        run, make, host, alone(program, seconds), CALLS_BEFORE if small else 0
    )
    return differentiated


def _has_several(program: Program) -> bool:
    """Return whether `program` has several products."""
    return sum(len(step.inputs) > 1 for step in program.steps) > 1


def _joint(
    program: Program, constants: Sequence[Any], backend: Any, needs: Sequence[bool], host: bool
) -> Any:
    """Return the `Joint` code for the operands that need gradients, or None if there is no rule for the program.

    Args:
        host: the code is for arrays of NumPy.
    """
    numbers = [v.number for v in program.inputs]
    wanted = [n for n, needed in zip(numbers, needs, strict=True) if needed]
    if host:
        parts = parts_for_numpy(program, wanted)
        pair = None if parts is None or not reusable(parts) else (parts.forward, parts.back)
    else:  # copies of batched matrix products are shared
        both = joined(program, wanted, pack)
        pair = None if both is None else cut(both)
    if pair is None:
        return None
    forward, back = pair
    if backend.refuses(all_unfused(back)) is not None or not _extents_known(back):
        return None
    values = {c.value.number: x for c, x in zip(program.constants, constants, strict=True)}
    held = [values[c.value.number] for c in back.constants]
    if host:
        run, run_back = (
            backend.hosted.on_arrays(compiled(part, backend.hosted.arrays(fixed)))
            for part, fixed in ((forward, constants), (back, held))
        )
    else:
        run, run_back = (backend.compile(p, c).run for p, c in ((forward, constants), (back, held)))
    read = [numbers.index(v.number) for v in back.inputs[:-1] if v.number in numbers]
    below = _reached(program)
    targets = [numbers.index(n) for n in wanted if n in below]
    # A gradient depends on all operands but its own, be it through what was kept of them.
    others = [k for k, n in enumerate(numbers) if n in below and k not in read and targets != [k]]
    plain = backend.compile(program, constants).run
    return backend.joint.Joint(
        run, run_back, plain, tuple(read), tuple(others), tuple(targets), len(numbers), host
    )


def peak_in_training(program: Program, wanted: Sequence[int]) -> int:
    """Return the most bytes in memory while torch computes the value of `program` and its gradients, 0 if not known.

    Counted are the operands, the cotangent, the value, what is kept between the two, all gradients, and what both ways
    make meanwhile; that is known of what runs as programs for NumPy.

    Args:
        wanted: the inputs whose gradients are asked for, as numbers of values.
    """
    if not hostable(program, Target(backend="torch")):
        return 0
    parts = parts_for_numpy(natural_layout(all_unfused(program)), wanted)
    if parts is None or not reusable(parts):
        return 0
    forward, back = parts.forward, parts.back
    known = {v.number: v for v in (*forward.values().values(), *back.inputs)}
    owner = owners(forward)
    given = {v.number for v in (*forward.inputs, *(c.value for c in forward.constants), back.inputs[-1])}
    held = {owner.get(n, n) for n in given.union(forward.results)}

    def size(numbers: set[int]) -> int:
        return sum(forward.bytes_of(known[n]) for n in numbers)

    return max(size(given) + made_bytes(forward, NUMPY), size(held) + made_bytes(back, NUMPY))


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
