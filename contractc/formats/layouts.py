"""The layouts that `compress` tries: which groups of modes make which format small, and how it is decomposed.

A layout is looked for in the singular spectra of the unfoldings, each computed once, and decomposed only if it looks
better than the others of its family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from math import prod, sqrt
from typing import Any

import numpy as np

from contractc.evaluation import Array
from contractc.formats.arrays import frobenius, kept, merged, returned
from contractc.formats.decompose import relative_error, tt_svd, tucker_from_dense
from contractc.formats.factorized import Factorized, factorized
from contractc.formats.fitting import cp_from_dense
from contractc.formats.kinds import Split, low_rank, tt_matrix, tucker

_GRAM = 1e-6
"""Down to this tolerance spectra come from Gram matrices, which lose half of the digits; below it only the spectra
that cannot save anything do."""

_SLICE = 4096
"""Elements of the slices by which blocks of low rank are looked for."""

_CANDIDATES = 4
"""Blocks of low rank that are decomposed, of those that look best."""

_SWEEPS = 100
"""The most sweeps of a CP fit over all factors, for each rank tried."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout to decompose: its name, how, and how many parameters it is expected to have."""

    name: str
    make: Callable[[], Factorized]
    parameters: float


# Trains: groups of modes in any order.


Ranks = Callable[[int, int], int]
"""The rank that an unfolding (the set of its row modes, as bits) needs if so many of them share the tolerance."""


def trains(array: Array, split: Split, tolerance: float, like: Any, rank: Ranks) -> Iterator[Candidate]:
    """Yield the best train of each number of groups, and the low-rank matrix of a matrix."""
    d = array.ndim
    if d < 2:
        return
    rows = (1 << len(split[0])) - 1
    seen: set[tuple[int, ...]] = set()
    if len(split) == 2:
        whole = (rows, (1 << d) - 1 ^ rows)
        seen.add(whole)
        yield _candidate(array, split, whole, tolerance, like, rank(rows, 1) * sum(_sides(array, rows)))
    for cuts in range(1, d):
        groups, parameters = _best_train(array.shape, rank, cuts)
        groups = groups[::-1] if groups[-1] & 1 else groups
        if groups not in seen:
            seen.add(groups)
            yield _candidate(array, split, groups, tolerance, like, parameters)


def _sides(array: Array, mask: int) -> tuple[int, int]:
    """Return the elements of the two sides of an unfolding."""
    one = prod(n for m, n in enumerate(array.shape) if mask >> m & 1)
    return one, array.size // max(one, 1)


def ranks_of(array: Array, tolerance: float) -> Ranks:
    """Return the ranks of the unfoldings of `array`; every spectrum is computed once, when it is asked for."""
    full = (1 << array.ndim) - 1
    size = frobenius(array)

    @cache
    def spectrum(mask: int) -> Array:
        matrix = _matrix(array, mask)
        if matrix.shape[0] > matrix.shape[1]:
            matrix = matrix.T
        gram = matrix.astype(np.result_type(matrix.dtype, np.float64)) @ matrix.conj().T
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))
        saves = kept(values, None, max(tolerance, _GRAM) * size) * sum(matrix.shape) < array.size
        if tolerance <= _GRAM and saves:
            values = np.linalg.svd(matrix, compute_uv=False)
        return values

    @cache
    def rank(mask: int, cuts: int) -> int:
        if mask in (0, full):
            return 1
        return kept(spectrum(min(mask, full ^ mask)), None, tolerance * size / sqrt(cuts))

    return rank


def _matrix(array: Array, mask: int) -> Array:
    """Return the unfolding of `array` with the modes in `mask` as rows."""
    rows = [m for m in range(array.ndim) if mask >> m & 1]
    columns = [m for m in range(array.ndim) if not mask >> m & 1]
    return array.transpose(*rows, *columns).reshape(prod(array.shape[m] for m in rows), -1)


def _sizes(shape: Sequence[int]) -> list[int]:
    """Return the number of elements of each set of modes."""
    return [prod(n for m, n in enumerate(shape) if mask >> m & 1) for mask in range(1 << len(shape))]


def _members(groups: Sequence[int], modes: int) -> list[tuple[int, ...]]:
    """Return the modes of each group."""
    return [tuple(m for m in range(modes) if group >> m & 1) for group in groups]


def _best_train(shape: Sequence[int], rank: Ranks, cuts: int) -> tuple[tuple[int, ...], int]:
    """Return the groups of modes, in order, of the train with the fewest parameters of `cuts` + 1 cores.

    Dynamic program over the set of modes to the left: the last core is any subset of it (3^d transitions).
    """
    d, full = len(shape), (1 << len(shape)) - 1
    sizes = _sizes(shape)
    ranks = [rank(mask, cuts) for mask in range(full + 1)]
    best: list[dict[int, tuple[int, int]]] = [{0: (0, 0)}]
    for core in range(cuts + 1):
        after: dict[int, tuple[int, int]] = {}
        for left, (parameters, _) in best[core].items():
            free = full ^ left
            group = free if core == cuts else (free - 1) & free
            while group:
                mask = left | group
                count = parameters + ranks[left] * sizes[group] * ranks[mask]
                if mask not in after or count < after[mask][0]:
                    after[mask] = count, group
                if core == cuts:
                    break
                group = (group - 1) & free
        best.append(after)
    if full not in best[cuts + 1]:
        raise AssertionError(f"no train of {cuts + 1} groups over {d} modes")
    groups, mask = [], full
    for core in range(cuts, -1, -1):
        group = best[core + 1][mask][1]
        groups.append(group)
        mask ^= group
    return tuple(reversed(groups)), best[cuts + 1][full][0]


def _candidate(
    array: Array, split: Split, groups: tuple[int, ...], tolerance: float, like: Any, parameters: float
) -> Candidate:
    """Return a train of groups of modes to decompose."""
    members = _members(groups, array.ndim)
    axis_of = [k for k, axis in enumerate(split) for _ in axis]
    whole = len(split) == 2 and [tuple({axis_of[m] for m in g}) for g in members] in (
        [(0,), (1,)],
        [(1,), (0,)],
    )
    name = "low rank" if whole else "Kronecker" if len(groups) == 2 else "train"
    return Candidate(
        f"{name} {_shown(members, split)}",
        lambda: _train(array, split, members, tolerance, like, whole),
        parameters,
    )


def _shown(groups: Sequence[tuple[int, ...]], split: Split) -> str:
    """Return groups of modes as the table of `compress` shows them, such as `i0 j0 | i1`."""
    labels = _labels(split)
    return " | ".join(" ".join(labels[m] for m in g) for g in groups)


def _labels(split: Split) -> list[str]:
    """Return a label of each mode: its axis as a letter, and its place in it."""
    return [f"{chr(ord('i') + k)}{m}" for k, axis in enumerate(split) for m in range(len(axis))]


def _train(
    array: Array, split: Split, groups: Sequence[tuple[int, ...]], tolerance: float, like: Any, whole: bool
) -> Factorized:
    """Return the train of these groups by TT-SVD, in the format that has a name where there is one."""
    order = [m for g in groups for m in g]
    shape = [prod(array.shape[m] for m in g) for g in groups]
    cores = [returned(c, like) for c in tt_svd(array.transpose(order).reshape(shape), None, tolerance)]
    rows = len(split[0])
    if whole:
        left, right = cores[0][0], cores[1][..., 0]
        return low_rank(left, right) if groups[0][0] < rows else low_rank(right.T, left.T)
    pairs = [(k, rows + k) for k in range(rows)]
    if len(split) == 2 and [tuple(g) for g in groups] == pairs:
        shapes = [(array.shape[m], array.shape[n]) for m, n in pairs]
        return tt_matrix([c.reshape(c.shape[0], *s, c.shape[-1]) for c, s in zip(cores, shapes, strict=True)])
    d, terms, factors = array.ndim, [], []
    for k, (group, core) in enumerate(zip(groups, cores, strict=True)):
        # Bonds have the numbers after the modes; the ends of the train have none.
        left = (d + k - 1,) if k else ()
        right = (d + k,) if k < len(groups) - 1 else ()
        terms.append((*left, *group, *right))
        inner = [array.shape[m] for m in group]
        factors.append(core.reshape([*core.shape[: len(left)], *inner, *core.shape[2 : 2 + len(right)]]))
    return factorized("train" if len(groups) > 2 else "Kronecker", terms, _axes(split), factors)


def _axes(split: Split) -> list[tuple[int, ...]]:
    modes = iter(range(sum(len(axis) for axis in split)))
    return [tuple(next(modes) for _ in axis) for axis in split]


# Tucker: a small core and a factor for each group of modes.


def tuckers(array: Array, split: Split, tolerance: float, like: Any, rank: Ranks) -> Iterator[Candidate]:
    """Yield the Tucker array with the fewest parameters, over any three and more groups of modes."""
    if array.ndim < 3 or array.size == 0:
        return
    groups, parameters = _best_groups(array.shape, rank)
    members = _members(groups, array.ndim)
    yield Candidate(
        f"Tucker {_shown(members, split)}",
        partial(_tucker, array, split, members, tolerance, like),
        parameters,
    )


def _best_groups(shape: Sequence[int], rank: Ranks) -> tuple[tuple[int, ...], int]:
    """Return the partition of the modes that makes the smallest Tucker array, and its parameters.

    All partitions are looked at, but for those whose core and factors are too large already: 116 thousand of ten modes.
    A group of full rank has no factor.
    """
    full, sizes = (1 << len(shape)) - 1, _sizes(shape)
    best: list[Any] = [None, sizes[full] * len(shape) * 2]

    def look(free: int, left: int, core: int, factors: int, groups: tuple[int, ...]) -> None:
        if core + factors >= best[1]:
            return
        if not left:
            best[:] = groups, core + factors
            return
        lowest = free & -free
        rest = more = free ^ lowest
        while True:
            group = lowest | more
            if (left == 1) == (group == free) and (free ^ group).bit_count() >= left - 1:
                r = ranks[group]
                look(
                    free ^ group,
                    left - 1,
                    core * r,
                    factors + (r < sizes[group]) * r * sizes[group],
                    (*groups, group),
                )
            if not more:
                return
            more = (more - 1) & rest

    for count in range(3, len(shape) + 1):
        ranks = [rank(mask, count) for mask in range(full + 1)]
        look(full, count, 1, 0, ())
    return best[0], best[1]


def _tucker(
    array: Array, split: Split, groups: Sequence[tuple[int, ...]], tolerance: float, like: Any
) -> Factorized:
    """Return the Tucker array of these groups by the higher-order SVD; one over the axes, if these are the groups."""
    shape = [prod(array.shape[m] for m in g) for g in groups]
    grouped = array.transpose([m for g in groups for m in g]).reshape(shape)
    core, *bases = tucker_from_dense(grouped, tolerance=tolerance, iterations=0).factors
    modes = iter(range(array.ndim))
    if [tuple(g) for g in groups] == [tuple(next(modes) for _ in axis) for axis in split]:
        return tucker(returned(core, like), [returned(u, like) for u in bases])
    terms: list[tuple[int, ...]] = [()]
    factors: list[Any] = []
    inner: list[int] = []
    for k, (group, u) in enumerate(zip(groups, bases, strict=True)):
        extents = [array.shape[m] for m in group]
        if u.shape[0] == u.shape[1]:
            core = np.moveaxis(np.tensordot(u, core, (1, k)), 0, k)
            terms[0] += group
            inner += extents
        else:
            terms[0] += (array.ndim + k,)
            terms.append((*group, array.ndim + k))
            inner.append(u.shape[1])
            factors.append(u.reshape(*extents, u.shape[1]))
    numbered = {m: n for n, m in enumerate(sorted({m for term in terms for m in term}))}
    return factorized(
        "Tucker groups",
        [tuple(numbered[m] for m in term) for term in terms],
        _axes(split),
        [returned(x, like) for x in (core.reshape(inner), *factors)],
    )


# CP: its rank is at least that of every unfolding.


def canonical(array: Any, values: Array, tolerance: float) -> Iterator[Candidate]:
    """Yield CP over the axes of an array, at the least rank that an unfolding along one axis allows and a few more."""
    if values.ndim < 3 or values.size == 0:
        return
    rank = ranks_of(values, tolerance)
    least = max(rank(1 << axis, 1) for axis in range(values.ndim))
    each = sum(values.shape) + 1
    ranks = [r for r in dict.fromkeys((least, least + 1, -(-5 * least // 4))) if 2 * r * each <= values.size]

    def made() -> Factorized:
        for r in ranks:
            found = cp_from_dense(array, rank=r, iterations=_SWEEPS)
            if relative_error(found, array) <= tolerance:
                break
        return found

    if ranks:
        yield Candidate(f"CP of rank {ranks[0]} to {ranks[-1]}", made, least * each)


# Blocks of low rank: Monarch and its like, in any order of the modes.


def blocks(
    array: Array, split: Split, tolerance: float, like: Any, say: Callable[[str], object]
) -> Iterator[Candidate]:
    """Yield the blocks of low rank that look best on random slices."""
    d = array.ndim
    if d < 3:
        return
    say("looking for blocks of low rank")
    found: list[tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []
    rng = np.random.default_rng(0)
    for count in range(1, d - 1):
        for fixed in combinations(range(d), count):
            rest = tuple(m for m in range(d) if m not in fixed)
            if prod(array.shape[m] for m in rest) <= _SLICE:
                found += _on_slices(array, fixed, rest, tolerance, rng)
    labels = _labels(split)
    for parameters, fixed, rows, columns in sorted(found)[:_CANDIDATES]:
        name = f"Monarch {_shown((rows, columns), split)} for each {' '.join(labels[m] for m in fixed)}"
        yield Candidate(
            name, partial(_block, array, split, fixed, rows, columns, tolerance, like), parameters
        )


def _on_slices(
    array: Array, fixed: tuple[int, ...], rest: tuple[int, ...], tolerance: float, rng: np.random.Generator
) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Yield parameters, fixed modes, rows and columns of the ways to unfold a slice that save half of it."""
    blocks = prod(array.shape[m] for m in fixed)
    slices = []
    for _ in range(2):
        at = {m: int(rng.integers(array.shape[m])) for m in fixed}
        slices.append(array[tuple(at.get(m, slice(None)) for m in range(array.ndim))])
    size = slices[0].size
    sizes = [frobenius(x) for x in slices]
    for count in range(1, len(rest)):
        for side in combinations(range(len(rest)), count):
            if 0 not in side:
                continue
            other = tuple(k for k in range(len(rest)) if k not in side)
            m = prod(array.shape[rest[k]] for k in side)
            if 2 * (m + size // m) > size:
                continue
            stack = np.stack([x.transpose(*side, *other).reshape(m, -1) for x in slices])
            spectra = np.linalg.svd(stack, compute_uv=False)
            r = max(kept(s, None, tolerance * norm) for s, norm in zip(spectra, sizes, strict=True))
            parameters = r * blocks * (m + size // m)
            if 2 * parameters <= array.size:
                yield parameters, fixed, tuple(rest[k] for k in side), tuple(rest[k] for k in other)


def _block(
    array: Array,
    split: Split,
    fixed: tuple[int, ...],
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    tolerance: float,
    like: Any,
) -> Factorized:
    """Return all blocks truncated to one rank by their SVDs."""
    shapes = [[array.shape[m] for m in part] for part in (fixed, rows, columns)]
    stack = array.transpose(*fixed, *rows, *columns).reshape(prod(shapes[0]), prod(shapes[1]), -1)
    u, s, v = np.linalg.svd(stack, full_matrices=False)
    r = kept(merged(s), None, tolerance * frobenius(array))
    left = (u[..., :r] * s[:, None, :r]).reshape(*shapes[0], *shapes[1], r)
    right = v[:, :r].reshape(*shapes[0], r, *shapes[2])
    d = array.ndim
    terms = [(*fixed, *rows, d), (*fixed, d, *columns)]
    return factorized("Monarch blocks", terms, _axes(split), [returned(left, like), returned(right, like)])
