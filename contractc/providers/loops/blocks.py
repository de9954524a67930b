"""Which results of a step are in registers at once while summed modes run, and how many cycles that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, prod

from contractc.notation import Term
from contractc.providers.loops.problem import Problem
from contractc.providers.loops.text import LINE, kind_of

COLUMN = -1
"""Stands for a mode: the vectors of a tile side by side."""

SPLIT = 0.35
"""Cycles that a vector takes longer which lies across two cache lines."""

MOST_UNROLLED = 96
"""Products in a row that are written out without a loop."""

MOST_BLOCK = MOST_UNROLLED // 3
"""Results in a register block where nothing is summed; in others there are fewer."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The loops of one step on one tile: extents (None: known at run time, planned as `planned`) by mode.

    `split` has for each input the part of its vectors that lie across two cache lines.
    """

    out: tuple[tuple[int, int | None], ...]
    summed: tuple[tuple[int, int | None], ...]
    reads: tuple[frozenset[int], ...]
    planned: tuple[tuple[int, int], ...]
    parts: int
    split: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Blocking:
    """How many positions of each mode of the result are in registers at once, which summed modes are unrolled."""

    factors: tuple[tuple[int, int], ...]
    unrolled: Term
    cycles: float


def split_part(problem: Problem, k: int, lane: int, width: int) -> float:
    """Return the part of the vectors of input k, read along mode `lane` where they are, that lie across two lines."""
    term = problem.terms[k]
    kind = kind_of(problem.dtypes[k])
    size = kind.bytes * kind.parts
    if lane not in term or width * size <= LINE // 4:  # allocators give multiples of 16 bytes
        return 0.0
    in_line = len(term) == 1 or problem.extents[term[-1]] * size % LINE == 0
    return 0.0 if problem.aligned[k] and in_line else min(1.0, width * size / LINE)


def step_shape(
    problem: Problem, step: int, lane: int, width: int, columns: int, outer: Term, packed: Sequence[bool]
) -> Shape:
    """Return the loops of `step` on one tile; `COLUMN` stands for the lane mode where a tile has several vectors."""
    ids = problem.reads[step]
    out = problem.terms[problem.inputs + step]
    vectors = lane in {m for i in ids for m in problem.terms[i]}
    planned = {m: problem.extents[m] for i in ids for m in problem.terms[i]} | {COLUMN: columns}

    def modes(term: Sequence[int]) -> tuple[tuple[int, int | None], ...]:
        own = [m for m in dict.fromkeys(term) if m != lane and m not in outer]
        if lane in term and columns > 1:
            own.append(COLUMN)
        return tuple((m, None if m in problem.dynamic else planned[m]) for m in own)

    reads = tuple(
        frozenset(problem.terms[i]) | ({COLUMN} if vectors and lane in problem.terms[i] else set())
        for i in ids
    )
    parts = kind_of(problem.work).parts
    split = tuple(
        0.0 if i >= problem.inputs or packed[i] else split_part(problem, i, lane, width) for i in ids
    )
    return Shape(modes(out), modes(problem.summed(step)), reads, tuple(sorted(planned.items())), parts, split)


def blocking(shape: Shape, vector_bytes: int) -> Blocking:
    """Return the register blocks with the least predicted cycles for one tile of a step."""
    planned = dict(shape.planned)
    small = [(_group(shape, m), n, m) for m, n in shape.out if n is not None and n > 1 and m != COLUMN]
    small = sorted(small, key=lambda p: (p[0], -min(p[1], 8)))[:4]
    column = next(((_group(shape, m), n) for m, n in shape.out if m == COLUMN and n), (0, 1))
    factors, cycles = _blocks(
        tuple([(group, n) for group, n, _ in small]),
        column,
        len(shape.reads),
        prod([planned[m] for m, _ in shape.out]),
        prod([planned[m] for m, _ in shape.summed]),
        shape.parts,
        shape.split,
        vector_bytes,
    )
    chosen = {m: f for (_, _, m), f in zip(small, factors, strict=True) if f > 1}
    if column[1] > 1:
        chosen[COLUMN] = column[1]
    return Blocking(tuple(sorted(chosen.items())), _unrolled(shape, prod(chosen.values())), cycles)


@lru_cache(maxsize=4096)
def _blocks(
    small: tuple[tuple[int, int], ...],
    column: tuple[int, int],
    reads: int,
    whole: int,
    depth: int,
    parts: int,
    split: tuple[float, ...],
    vector_bytes: int,
) -> tuple[Term, float]:
    """Return how many positions of each mode in `small` are in registers at once, and the cycles that takes.

    Modes are (operands that have them, extent), so that equal steps of all problems are priced once; `whole` and
    `depth` are the positions of the result and of what is summed for one of them. Two products and two loads are
    done a cycle, and a sum is ready after four; the part `split` of an input's loads takes longer. A block of `n`
    results with all its partial sums has to fit in the registers.
    """
    room = max((24 if vector_bytes == 64 else 11) // parts, column[1])
    room = room if depth > 1 else max(room, MOST_BLOCK)
    loads = tuple([column[1] if column[0] >> k & 1 else 1 for k in range(reads)])
    blocks: list[tuple[int, float, tuple[int, ...], Term]] = [(column[1], 1.0, loads, ())]
    for group, n in small:
        cuts = [
            (f, (n // f + (0.3 + 0.7 * (n % f) / f) * (n % f > 0)) * f / n)
            for f in range(1, min(n, 16, room) + 1)
            if n % f == 0 or f in (4, 6)
        ]
        blocks = [
            (
                block * f,
                waste * more,
                tuple([x * f if group >> k & 1 else x for k, x in enumerate(loads)]),
                (*chosen, f),
            )
            for block, waste, loads, chosen in blocks
            for f, more in cuts
            if block * f <= room
        ]
    best = inf
    found: Term = ()
    for block, waste, loads, chosen in blocks:
        load = sum(loads) * parts
        twice = sum(n * s for n, s in zip(loads, split, strict=True)) * parts
        each = max(0.5 * block * parts**2, 0.5 * (load + twice), 4.0 if depth > 1 else 0.0)
        each += (
            0.3 + 0.2 * load + SPLIT * twice
        )  # loads are not quite free: what is read again comes from afar
        around = 3.0 + 1.0 * block * parts + (3.0 if depth > 4 else 0.0)
        cycles = whole / block * waste * (depth * each + around)
        if cycles < best:
            best, found = cycles, chosen
    return found, best


def _group(shape: Shape, mode: int) -> int:
    """Return which operands have a mode, as a number: 3 for both."""
    return sum(2**k for k, r in enumerate(shape.reads) if mode in r)


def _unrolled(shape: Shape, block: int) -> Term:
    """Return the summed modes that are written out: the vectors of a tile, then the last modes while few."""
    chosen = [m for m, _ in shape.summed if m == COLUMN]
    count = block * prod(n or 1 for m, n in shape.summed if m == COLUMN)
    for m, n in reversed([p for p in shape.summed if p[0] != COLUMN]):
        if n is None or count * n > MOST_UNROLLED:
            break
        chosen.append(m)
        count *= n
    return tuple(chosen)
