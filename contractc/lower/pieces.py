"""Steps over a common mode as one that takes some positions of it at a time: caches hold what lies between.

A layer in training reads its input, its cotangent and what lies between its products several times. With whole batches
each time is from memory; with some rows at a time only the first is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from contractc.backends.steps.tasks import is_view
from contractc.cost import bandwidth
from contractc.lower.seconds import program_seconds
from contractc.machine import DEFAULT_MACHINE
from contractc.programs import PIECES, Contract, Fused, Program, Reshape, Step, in_small

HELD = (2**20, 2**21)
"""Bytes of all that has the mode, for one piece: about what the second cache holds, and less."""

LARGE = 2**21
"""Bytes from which what lies between two steps is taken to go to memory and come back."""

LEAST = 16
"""The fewest positions in a piece: thinner products take longer than is predicted."""


def taken_in_pieces(program: Program, finished: Callable[[Program], Program]) -> Program:
    """Return `program` with the steps over one of its modes done piece by piece, or as it is where none can be.

    Of the modes and the lengths of pieces those of the least predicted seconds are taken.

    Before:  %3: [b, r] = contract %0: [b, i] %1,  %4: [b, o] = contract %3 %2,  return %4
    After:   %4 = fused %0 %1 %2 over b=5000, 200 at a time:  %3 = contract %0 %1,  %4 = contract %3 %2
    """
    best = None
    for mode in modes_for_pieces(program):
        for piece in lengths(program, mode):
            made = in_pieces(program, mode, piece, finished)
            if made is None:
                break
            seconds = program_seconds(made)
            if best is None or seconds < best[0]:
                best = seconds, made
    return program if best is None else best[1]


def modes_for_pieces(program: Program) -> list[int]:
    """Return the modes that are slowest in an input: a piece of it is one block of memory.

    If one may have any extent it is the only one: the others in a piece are as planned.
    """
    first = {v.modes[0] for v in program.inputs if v.modes}
    first = {m for m in first if not set(program.dynamic) - {m}}
    return [m for m in sorted(first) if program.extents[m] >= 2 * LEAST]


def lengths(program: Program, mode: int) -> list[int]:
    """Return numbers of positions worth a look, the least first; they divide the extent where some near do."""
    extent = program.extents[mode]
    whole = sum(program.bytes_of(v) for v in program.values().values() if mode in v.modes)
    found = []
    for most in HELD:
        wanted = most * extent // max(1, whole)
        wanted -= wanted % LEAST
        piece = next((n for n in range(wanted, max(LEAST - 1, wanted // 2), -1) if extent % n == 0), wanted)
        if LEAST <= piece <= extent // 2:
            found.append(piece)
    return sorted(set(found))


def in_pieces(
    program: Program, mode: int, piece: int, finished: Callable[[Program], Program]
) -> Program | None:
    """Return `program` with its steps over `mode` as one step, `piece` positions at a time; None if that cannot be.

    Args:
        finished: gives the steps of a piece their ways.
    """
    known = program.values()
    before: list[Step] = []
    inside: list[Contract] = []
    after: list[Step] = []
    made: set[int] = set()  # in a piece
    ends: set[int] = set()  # of it
    for step in program.steps:
        terms = [*(known[i].modes for i in step.inputs), *(v.modes for v in step.outs)]
        if any(i in ends for i in step.inputs):
            after.append(step)
            ends |= {v.number for v in step.outs}
        elif not any(mode in term for term in terms):
            late = any(i in made for i in step.inputs)
            (after if late else before).append(step)
            ends |= {v.number for v in step.outs} if late else set()
        elif isinstance(step, Contract):
            if any(term.count(mode) > 1 for term in terms) or any(
                i in made and mode not in known[i].modes for i in step.inputs
            ):
                return None
            inside.append(step)
            made |= {step.out.number}
        elif any(i in made for i in step.inputs):
            after.append(step)
            ends |= {v.number for v in step.outs}
        else:
            before.append(step)
    if any(mode in known[i].modes for step in after if isinstance(step, Contract) for i in step.inputs):
        return None  # it waits for a sum over all pieces
    if len(inside) < 2:
        return None
    read = {i for step in after for i in step.inputs}.union(program.results)
    inside = _least_alive(program, inside)
    outs = tuple(v for step in inside for v in step.outs if v.number in read)
    inputs = tuple(dict.fromkeys(i for step in inside for i in step.inputs if i not in made))
    body = replace(
        program,
        inputs=tuple(known[i] for i in inputs),
        constants=(),
        steps=tuple(inside),
        results=tuple(v.number for v in outs),
    )
    ready = finished(replace(in_small(body, mode, piece), dynamic=()))
    assert all(isinstance(step, Contract) for step in ready.steps), f"{ready}"
    body = replace(body, steps=ready.steps)
    return replace(program, steps=(*before, Fused(outs, inputs, body, (mode,), piece, PIECES), *after))


def _least_alive(program: Program, steps: Sequence[Contract]) -> list[Contract]:
    """Return `steps` in an order in which little is alive at a time: the next is the one that adds least to it."""
    size = {n: program.bytes_of(v) for n, v in program.values().items()}
    left = list(steps)
    ordered: list[Contract] = []
    waiting = {step.out.number for step in steps}
    given = size.keys() - waiting
    while left:
        readers = [i for step in left for i in set(step.inputs)]

        def growth(step: Contract, readers: Sequence[int] = readers) -> int:
            own = {i for i in step.inputs if i not in given and readers.count(i) == 1}
            return size[step.out.number] - sum([size[i] for i in own])

        step = min([s for s in left if waiting.isdisjoint(s.inputs)], key=growth)
        left.remove(step)
        waiting.remove(step.out.number)
        ordered.append(step)
    return ordered


def spilled(program: Program) -> float:
    """Return the seconds in which large intermediates go to memory and come back, each time that one is read.

    What steps take is predicted for operands that the caches have. Inputs are left out: reading them in thin pieces
    was measured to gain nothing.
    """
    moved = 0
    sizes = {
        v.number: size
        for step in program.steps
        for v in step.outs
        if v.number not in program.results and (size := program.bytes_of(v)) >= LARGE
    }
    for step in program.steps:
        if isinstance(step, Reshape) or (isinstance(step, Contract) and is_view(program, step)):
            continue
        moved += sum([sizes[i] for i in set(step.inputs) if i in sizes])
        moved += sum([sizes.get(v.number, 0) for v in step.outs])
    return moved / bandwidth(DEFAULT_MACHINE, 2**30)
