"""Problem: one contraction as a kernel sees it, with the strides of its values; and the runs of its modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from contractc.dtypes import is_complex, itemsize
from contractc.notation import Term

ALIGNMENT = 16
"""Pointers, and run-time numbers that are said to be, are multiples of this: bytes, or elements."""


ACCUMULATED = {
    "float16": "float32",
    "bfloat16": "float32",
    "int8": "int32",
    "int16": "int32",
    "uint8": "int32",
    "bool": "int32",
    "complex64": "float32",
    "complex128": "float64",
}
"""The dtype that a kernel adds up in; parts of complex numbers are real."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a kernel reaches a value: its distinct modes, for each the stride in elements (None: run-time), its dtype."""

    modes: Term
    strides: tuple[int | None, ...]
    dtype: str
    conj: bool = False

    def stride(self, mode: int) -> int | None:
        """Return the stride of `mode`: 0 if this value does not have it, None if it is known at run time only."""
        return self.strides[self.modes.index(mode)] if mode in self.modes else 0

    @property
    def unit(self) -> int | None:
        """Return the mode with stride 1, or None."""
        return self.modes[self.strides.index(1)] if 1 in self.strides else None


@dataclass(frozen=True, slots=True)
class Problem:
    """A contraction of the values `inputs` to the value `out`, in the order `path` (SSA, pairwise or one unary step).

    `extents` is indexed by mode; the extents of the modes in `dynamic` are for planning, a kernel takes them at
    run time. `precision` of float32 is `strict` (IEEE), `default` (three tf32 products, nearly float32) or `fast`
    (one tf32 product). `work` is the dtype that is multiplied, where it is not that of the output.
    """

    inputs: tuple[Access, ...]
    out: Access
    path: tuple[tuple[int, ...], ...]
    extents: tuple[int, ...]
    dynamic: Term = ()
    semiring: str = "sum_product"
    precision: str = "default"
    work: str = ""

    @property
    def dtype(self) -> str:
        """Return the dtype that is multiplied."""
        return self.work or self.out.dtype

    def size(self, modes: Sequence[int]) -> int:
        """Return the number of positions of `modes`."""
        product = 1
        for m in modes:
            product *= self.extents[m]
        return product

    @property
    def values(self) -> tuple[Access, ...]:
        """Return the inputs and the output."""
        return (*self.inputs, self.out)

    def bytes_of(self, at: int) -> int:
        """Return the bytes of value `at` (the output comes last)."""
        return self.size(self.values[at].modes) * itemsize(self.values[at].dtype)

    def wide_offsets(self, at: int) -> bool:
        """Return whether an offset into value `at` can reach 2**31."""
        access, reach = self.values[at], 0
        for m, s in zip(access.modes, access.strides, strict=True):
            if s is None or m in self.dynamic:
                return self.size(access.modes) * 16 >= 2**31 or s is None
            reach += abs(s) * max(0, self.extents[m] - 1)
        return reach * (2 if is_complex(access.dtype) else 1) >= 2**31


@dataclass(frozen=True, slots=True)
class Run:
    """Modes that a kernel walks through as one coordinate, the slowest first.

    `values` are the positions of the values that have them (the output comes last); all modes of a run are in the
    same ones.
    """

    name: str
    modes: Term
    values: frozenset[int]
    summed: bool


def problem_of(
    terms: Sequence[Term],
    strides: Sequence[Sequence[int | None]],
    dtypes: Sequence[str],
    extents: Sequence[int],
    *,
    conj: Sequence[bool] = (),
    path: Sequence[Sequence[int]] = (),
    dynamic: Sequence[int] = (),
    semiring: str = "sum_product",
    precision: str = "default",
) -> tuple[Problem, tuple[tuple[int, ...], ...]]:
    """Return the problem in its plainest form, and for each of its modes the modes it stands for, slowest first.

    Inputs come first in `terms`, `strides` and `dtypes`, the output last. Axes of extent 1 are gone, a repeated
    mode is one mode with the sum of its strides, and modes that lie side by side in all values are one mode.
    """
    flags = tuple(conj) or (False,) * (len(terms) - 1)
    kept: list[dict[int, int | None]] = []
    for term, given in zip(terms, strides, strict=True):
        found: dict[int, int | None] = {}
        for m, s in zip(term, given, strict=True):
            if extents[m] != 1 or m in dynamic:
                before = found.get(m, 0)
                found[m] = None if s is None or before is None else s + before
        kept.append(found)
    parts: list[Term] = [(m,) for m in dict.fromkeys(m for found in kept for m in found)]
    merged = True
    while merged:
        merged = False
        for outer in parts:
            for inner in parts:
                if outer is not inner and _adjacent(outer, inner, kept, extents, dynamic):
                    parts = [(*outer, *inner) if p is outer else p for p in parts if p is not inner]
                    merged = True
                    break
            if merged:
                break
    sizes = []
    for part in parts:
        size = 1
        for m in part:
            size *= extents[m]
        sizes.append(size)
    accesses = []
    for found, dtype, flag in zip(kept, dtypes, (*flags, False), strict=True):
        own = tuple(k for k, part in enumerate(parts) if part[0] in found)
        accesses.append(
            Access(own, tuple(found[parts[k][-1]] for k in own), dtype, flag and is_complex(dtype))
        )
    order = tuple(tuple(ids) for ids in path)
    if not order:
        order = ((0, 1),) if len(terms) == 3 else ((0,),)
    made = Problem(
        tuple(accesses[:-1]),
        accesses[-1],
        order,
        tuple(sizes),
        tuple(k for k, part in enumerate(parts) if set(part) & set(dynamic)),
        semiring,
        precision,
    )
    return made, tuple(parts)


def _adjacent(
    outer: Term, inner: Term, kept: Sequence[dict[int, Any]], extents: Sequence[int], dynamic: Sequence[int]
) -> bool:
    """Return whether the modes `outer` lie around the modes `inner` in every value that has one of them."""
    if set(outer) & set(dynamic) or set(inner) & set(dynamic):
        return False
    size = 1
    for m in inner:
        size *= extents[m]
    for found in kept:
        if (outer[-1] in found) != (inner[-1] in found):
            return False
        if outer[-1] in found:
            far, near = found[outer[-1]], found[inner[-1]]
            if far is None or near is None or far != near * size:
                return False
    return True


def runs_of(problem: Problem) -> tuple[Run, ...]:
    """Return the runs of a problem: one for each set of values that share modes, more where their units conflict.

    Inside a run the mode with stride 1 is the fastest. Where two values of a set have different modes with
    stride 1, each gets a run of its own, so that a tile is a box with both of them (findings 2 and 4 of
    docs/kernels.md).
    """
    count = len(problem.inputs)
    sets: dict[frozenset[int], list[int]] = {}
    for m in range(len(problem.extents)):
        values = frozenset(at for at, v in enumerate(problem.values) if m in v.modes)
        sets.setdefault(values, []).append(m)
    found: list[tuple[Term, frozenset[int]]] = []
    for values, modes in sets.items():
        found += [(run, values) for run in _split(problem, values, modes)]
    named: list[Run] = []
    taken: dict[str, int] = {}
    for run, values in found:
        letter = _letter(values, count)
        number = taken.get(letter, 0)
        taken[letter] = number + 1
        named.append(Run(f"{letter}{number or ''}", run, values, count not in values))
    return tuple(named)


def _letter(values: frozenset[int], count: int) -> str:
    """Return the letter for a run: b, m, n, k of a matrix product; o (kept) or s (summed) of other contractions."""
    if count == 2:
        known = {
            frozenset({0, 1, 2}): "b",
            frozenset({0, 2}): "m",
            frozenset({1, 2}): "n",
            frozenset({0, 1}): "k",
        }
        return known.get(values, "s")
    return "o" if count in values else "s"


def _split(problem: Problem, values: frozenset[int], modes: Sequence[int]) -> list[Term]:
    """Return `modes`, which all of `values` have, as runs."""
    by_size = sorted(values, key=lambda at: (-problem.size(problem.values[at].modes), at))
    units: dict[int, int] = {}
    for at in by_size:
        unit = problem.values[at].unit
        if unit is not None and unit in modes:
            units.setdefault(unit, at)
    reference = by_size[0]
    runs: list[tuple[list[int], int]] = [([m], at) for m, at in units.items()] or [([], reference)]

    def stride(at: int, m: int) -> float:
        s = problem.values[at].stride(m)
        return float("inf") if s is None else abs(s)

    rest = sorted((m for m in modes if m not in units), key=lambda m: (stride(reference, m), -m))
    alone: list[Term] = []
    for m in rest:
        if m in problem.dynamic:
            continue
        short = [r for r in runs if problem.size(r[0]) < 64] or runs
        best = min(short, key=lambda r: (stride(r[1], m), r is not runs[0]))
        best[0].insert(0, m)
    for m in rest:
        if m in problem.dynamic:
            first = runs[0][0]
            if (not first or first[0] not in problem.dynamic) and not any(
                u in problem.dynamic for u in first
            ):
                first.insert(0, m)
            else:
                alone.append((m,))
    made: list[Term] = []
    for run, _ in runs:
        tail = [m for m in run[1:] if m in problem.dynamic]  # only the slowest mode of a run may vary
        alone += [(m,) for m in tail]
        made.append(tuple(m for m in run if m not in tail))
    return [run for run in (*made, *alone) if run]


def adjacent_runs(problem: Problem, runs: Sequence[Run], at: int) -> list[tuple[Run, int]]:
    """Return the single-mode runs of value `at` that lie side by side in memory from stride 1 on, fastest first."""
    own = [
        (r, s)
        for r in runs
        if at in r.values and len(r.modes) == 1 and (s := problem.values[at].stride(r.modes[0])) is not None
    ]
    own.sort(key=lambda pair: pair[1])
    chain = own[:1] if own and own[0][1] == 1 else []
    if chain:
        for (run, s), (outer, far) in pairwise(own):
            if far != s * problem.extents[run.modes[0]]:
                break
            chain.append((outer, far))
    return chain


def contiguous(term: Term, extents: Sequence[int], dynamic: Sequence[int]) -> tuple[int | None, ...]:
    """Return the strides of a value in order in memory; None where a dynamic extent decides."""
    strides: list[int | None] = []
    size: int | None = 1
    for m in reversed(term):
        strides.append(size)
        size = None if m in dynamic or size is None else size * extents[m]
    return tuple(reversed(strides))


def parts(problem: Problem, split: int) -> tuple[Problem, Problem]:
    """Return the two passes of a split sum: into `split` partial results in the order of the output, and their sum."""
    order = sorted(range(len(problem.out.modes)), key=lambda k: -(problem.out.strides[k] or 0))
    modes = tuple(problem.out.modes[k] for k in order)
    inner = contiguous(modes, problem.extents, ())
    dtype = problem.dtype if is_complex(problem.dtype) else ACCUMULATED.get(problem.dtype, problem.dtype)
    first = replace(problem, out=Access(modes, inner, dtype), work=problem.dtype)
    along = len(problem.extents)
    whole = ((along, *modes), (problem.size(modes), *inner))
    second, _ = problem_of(
        [whole[0], problem.out.modes],
        [whole[1], problem.out.strides],
        [dtype, problem.out.dtype],
        (*problem.extents, split),
        semiring=problem.semiring,
    )
    return first, replace(second, work=dtype if dtype != problem.out.dtype else "")


def splittable(problem: Problem) -> bool:
    """Return whether the partial sums of a problem are walked through like its output, so that its tiles fit them."""
    if problem.dynamic or any(s is None for s in problem.out.strides):
        return False
    return runs_of(parts(problem, 2)[0]) == runs_of(problem)
