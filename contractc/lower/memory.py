"""How many bytes a program has in memory at a time: operands, what steps make, and what they copy on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from contractc.backends.steps import understood
from contractc.backends.steps.forms import LEFT, RESULT, RIGHT, form_of
from contractc.backends.steps.tasks import task_of
from contractc.dtypes import is_complex, itemsize, wide
from contractc.grouping import groups
from contractc.machine import Target
from contractc.notation import Term
from contractc.programs import (
    COPY,
    PIECES,
    Broadcast,
    Call,
    Contract,
    Fused,
    Loop,
    Program,
    Reshape,
    Step,
    Value,
    in_small,
)
from contractc.providers import loops
from contractc.slices import waiting

Bytes = int

NEGLIGIBLE = 2**16
"""Bytes by which a memory limit may be missed: Python's own objects take as much."""


def peak_bytes(program: Program, target: Target, threads: int | None = None) -> Bytes:
    """Return the most bytes in memory at a time while `program` runs: operands, constants and all that is made.

    Counted are the arrays of the operands, what is alive between steps, copies and temporaries inside of a step, and in
    a loop the sums that wait for their neighbours, for each thread. Small objects, the code, and the buffers that a
    BLAS keeps for good are not.

    Args:
        threads: how many there are; None for as many as loops may use.
    """
    given = sum(program.bytes_of(v) for v in (*program.inputs, *(c.value for c in program.constants)))
    return given + made_bytes(program, target, threads)


def owners(program: Program) -> dict[int, int]:
    """Return for each value the one whose memory it is: itself, or what it is a view of."""
    known = program.values()
    found = {v.number: v.number for v in (*program.inputs, *(c.value for c in program.constants))}
    for step in program.steps:
        view = _looks_at(program, known, step)
        found |= {v.number: v.number if view is None else found[view] for v in step.outs}
    return found


def made_bytes(program: Program, target: Target, threads: int | None = None) -> Bytes:
    """Return the most bytes that the steps of `program` hold at a time, beside its inputs and constants."""
    known = program.values()
    roots = owners(program)
    last: dict[int, int] = {}
    for s, step in enumerate(program.steps):
        last |= {roots[i]: s for i in step.inputs}
    last |= {roots[i]: len(program.steps) for i in program.results}
    read_last: dict[int, list[int]] = defaultdict(list)
    for number, s in last.items():
        read_last[s].append(number)
    held: dict[int, Bytes] = {}
    alive = most = 0
    for s, step in enumerate(program.steps):
        made = {v.number: program.bytes_of(v) for v in step.outs if roots[v.number] == v.number}
        if isinstance(step, Loop):
            most = max(most, alive + _loop(program, step, target, threads))
        else:
            most = max(most, alive + sum(made.values()) + _inside(program, known, step, target))
        for number, size in made.items():
            if last.get(number, -1) > s:
                held[number] = size
                alive += size
        alive -= sum([held.pop(number, 0) for number in read_last[s]])
    return most


def _looks_at(program: Program, known: Mapping[int, Value], step: Step) -> int | None:
    """Return the value of which `step` makes a view, or None if it makes an array."""
    if isinstance(step, Reshape):
        return step.inputs[0]
    if not isinstance(step, Contract) or len(step.inputs) != 1 or any(step.conj) or step.how:
        return None
    given = known[step.inputs[0]]
    summed = any(program.extents[m] != 1 for m in given.modes if m not in step.out.modes)
    repeated = len(set(step.out.modes)) != len(step.out.modes)
    return None if summed or repeated or given.dtype != step.out.dtype else given.number


LONG = 5.0e-4
"""Predicted seconds of a slice from which on a thread of its own is worth its start."""

MOST_THREADS = 64

THREAD = 2**27
"""Bytes of address space that a thread is counted with: its stack, an arena of the allocator, a buffer of BLAS."""


def with_threads(program: Program, target: Target, seconds: float, memory: int | None) -> Program:
    """Return `program` with loops that may run as many slices at a time as there is room for in `memory` bytes.

    Those are loops of slices that take long (`seconds` each) and in which NumPy does all the work: torch has threads
    of its own. How many run is decided by the thread settings of the array library when the program runs.

    Before:  %4 = loop %0 %1 over i=8
    After:   %4 = loop %0 %1 over i=8  # at most 4 at a time
    """
    if target.backend != "numpy" or seconds < LONG:
        return program
    steps = list(program.steps)
    for k, step in enumerate(steps):
        if not isinstance(step, Loop) or not step.pairs or "by torch" in str(step.body):
            continue

        def with_loop(threads: int, at: int = k, loop: Loop = step) -> Program:
            found = [*steps[:at], replace(loop, threads=threads), *steps[at + 1 :]]
            return replace(program, steps=tuple(found))

        most = min(MOST_THREADS, prod([program.extents[m] for m in step.modes]))
        if memory is not None:
            one, two = (peak_bytes(with_loop(n), target) for n in (1, 2))
            most = min(most, 1 + max(0, memory - one) // (two - one + THREAD))
        steps[k] = replace(step, threads=max(1, most))
    return replace(program, steps=tuple(steps))


def _loop(program: Program, loop: Loop, target: Target, threads: int | None) -> Bytes:
    """Return the most bytes that `loop` holds at a time, its results included."""
    whole = pending = 0
    parts = 0
    for out in loop.outs:
        size = program.bytes_of(out)
        kept = [m for m in loop.modes if m in out.modes]
        summed = [m for m in loop.modes if m not in out.modes]
        part = size // max(1, prod([program.extents[m] for m in kept]))
        first = min((loop.modes.index(m) for m in summed), default=len(loop.modes))
        places = prod([program.extents[m] for m in kept if loop.modes.index(m) > first])
        count = prod([program.extents[m] for m in summed])
        parts += part if count > 1 else 0
        whole += size if kept else 0
        pending += (waiting(count) - 1 if loop.pairs else min(1, count - 1)) * part * places
    body = made_bytes(loop.body, target, 1)
    if target.backend == "numpy":
        return whole + min(loop.threads, threads or loop.threads) * (pending + body)
    held = whole + pending + max(body, 2 * parts)  # sums are new arrays
    return held if target.device == "cpu" else max(held, 2 * whole)  # elsewhere results are stacked


def _inside(program: Program, known: Mapping[int, Value], step: Step, target: Target) -> Bytes:
    """Return the bytes of what `step` allocates beside its result."""
    if isinstance(step, Call):
        return program.bytes_of(step.outs[0]) if step.operation == "split_exponent" else 0
    if isinstance(step, Fused) and step.how == PIECES:
        return _piece(step, target)
    if isinstance(step, Fused):
        return loops.together_workspace(step) if target.backend == "numpy" else 0
    if isinstance(step, Broadcast | Reshape | Loop) or step.how == COPY:
        return 0
    if loops.is_loop(step.how):
        return loops.room(program, replace(step, how=""))
    inputs = [known[i] for i in step.inputs]
    work = wide(step.out.dtype) if target.backend == "numpy" else step.out.dtype
    width = itemsize(work)
    flags = step.conj or (False,) * len(inputs)
    total = 0
    terms: list[Term] = []
    for k, (value, flag) in enumerate(zip(inputs, flags, strict=True)):
        size = program.bytes_of(value) // itemsize(value.dtype)
        lazy = target.backend == "torch" and flag
        total += size * width * ((value.dtype != work) + (flag and is_complex(value.dtype) and not lazy))
        needed = {m for i, v in enumerate(inputs) if i != k for m in v.modes} | set(step.out.modes)
        term = tuple(m for m in dict.fromkeys(value.modes) if m in needed or program.extents[m] == 1)
        reduced = prod([program.extents[m] for m in term])
        total += reduced * width if len(inputs) > 1 and reduced < size else 0
        terms.append(term)
    made = prod([program.extents[m] for m in dict.fromkeys(step.out.modes)]) * width
    if len(inputs) == 2 and not step.path:
        total += _copied(program, step, known, terms, width, made)
    return total + (made if step.out.dtype != work else 0)


def _piece(step: Fused, target: Target) -> Bytes:
    """Return the bytes of what a piece holds at a time, the sums over pieces before not included."""
    (mode,) = step.modes
    return made_bytes(in_small(step.body, mode, step.piece), target)


def _copied(
    program: Program, step: Contract, known: Mapping[int, Value], terms: list[Term], width: int, made: Bytes
) -> Bytes:
    """Return the bytes of the copies that a pairwise step makes of its operands and its result."""
    sizes = [prod([program.extents[m] for m in term]) * width for term in terms]
    if step.how:
        try:
            strategy, copies, _ = understood(step.how)
        except ValueError:
            return 0  # compiled loops and kernels read operands where they are
        total = sizes[0] * (LEFT in copies) + sizes[1] * (RIGHT in copies) + made * (RESULT in copies)
        task = task_of(program, _unchosen(step), known)
        form = None if task is None else form_of(task.left, task.right, task.out, task.extents, copies)
        return total + (made if form is not None and form.sums and strategy == "matmul" else 0)
    g = groups(terms[0], terms[1], step.out.modes)
    if not g.summed:
        return 0
    if not g.rows and not g.columns:
        return max(sizes) if step.out.modes else 0
    total = 0
    for term, free, size in ((terms[0], g.rows, sizes[0]), (terms[1], g.columns, sizes[1])):
        order = [(m in g.batch) * 2 + (m in free) for m in term]
        runs = sum(1 for k, x in enumerate(order) if k == 0 or order[k - 1] != x)
        scattered = runs > len(set(order)) or (2 in order and order[0] != 2)
        total += size if scattered else 0
    return total


def _unchosen(step: Contract) -> Contract:
    return Contract(step.out, step.inputs, step.conj)
