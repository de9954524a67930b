"""The layouts that `compress` tries: which groups of modes make which format small, and how it is decomposed.

A layout is looked for in the ranks of the unfoldings, and decomposed only if it can be the best of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from contractc.evaluation import Array
from contractc.formats.arrays import frobenius, kept, merged, returned, zeros
from contractc.formats.decompose import relative_error, tt_svd, tucker_from_dense
from contractc.formats.factorized import Factorized, factorized
from contractc.formats.fitting import cp_from_dense
from contractc.formats.kinds import Split, cp, low_rank, tt_matrix, tucker
from contractc.formats.spectra import (
    Unfoldings,
    least_ranks,
    matrix_of,
    rank,
    settled,
    sizes_of,
    unfoldings,
)

_WORTH = 0.75
"""Share of the elements that a layout may have which was looked for: else most of noise would have to be decomposed to
know that it saves a little. The low rank of a matrix as it is may save anything."""

_MORE = 8
"""How many times the parameters of the smallest layout of another family a layout may have that is looked for: it may
still be faster."""

_SLICE = 4096
"""Elements of the slices by which blocks of low rank are looked for."""

_CANDIDATES = 4
"""Blocks of low rank that may be decomposed, of those that look best."""

_SWEEPS = 100
"""The most sweeps of a CP fit over all factors, for each rank tried."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout to decompose: its name, an operand of zeros with the ranks that are expected, and how it is made."""

    name: str
    expected: Factorized
    make: Callable[[], Factorized]


def layouts(
    u: Unfoldings, array: Any, split: Split, like: Any, say: Callable[[str], object]
) -> list[Candidate]:
    """Return the best layouts of each family for `array`, whose modes `u` has.

    A family is searched within `_MORE` times the parameters of the smallest layout that was found before.
    """
    found: list[Candidate] = []
    families: list[tuple[str, Callable[[float], Iterator[Candidate]]]] = [
        ("low rank", partial(matrices, u, split, like)),
        ("blocks of low rank", partial(blocks, u, split, like)),
        ("trains of groups of modes", partial(trains, u, split, like)),
        ("Tucker over groups of modes", partial(tuckers, u, split, like)),
        ("CP", partial(canonical, u, array, split, like)),
    ]
    for name, family in families:
        say(f"looking for {name}")
        least = min((c.expected.parameters for c in found), default=u.array.size)
        found += family(min(_WORTH * u.array.size, _MORE * least))
    return found


# Trains: groups of modes in any order.


def matrices(u: Unfoldings, split: Split, like: Any, most: float) -> Iterator[Candidate]:
    """Yield the low-rank matrix of a matrix, if it saves anything at all."""
    rows = (1 << len(split[0])) - 1 if split else 0
    if len(split) == 2 and rank(u, rows, 1) * sum(matrix_of(u.array, rows).shape) < u.array.size:
        yield _candidate(u, split, (rows, (1 << u.array.ndim) - 1 ^ rows), like)


def trains(u: Unfoldings, split: Split, like: Any, most: float) -> Iterator[Candidate]:
    """Yield the best train of each number of groups, if it is smaller than those of fewer; but not `matrices`."""
    d = u.array.ndim
    pairs = _transitions(d)
    for cuts in range(1, d):
        groups = _best_train(u, cuts, most, *pairs)
        if groups is not None:
            found = _candidate(u, split, groups[::-1] if groups[-1] & 1 else groups, like)
            most = min(most, found.expected.parameters - 1)
            if found.expected.layout.format != "low rank":
                yield found


def _members(groups: Sequence[int], modes: int) -> list[tuple[int, ...]]:
    """Return the modes of each group."""
    return [tuple(m for m in range(modes) if group >> m & 1) for group in groups]


def _best_train(
    u: Unfoldings, cuts: int, most: float, lefts: Array, masks: Array, starts: Array
) -> tuple[int, ...] | None:
    """Return the groups of modes, in order, of the train with the fewest parameters of `cuts` + 1 cores.

    Dynamic program over the set of modes to the left: the last core is any subset of it (3^modes transitions). It takes
    lower bounds of ranks; those that its answer has are computed, until the answer has no others. None if it has more
    than `most` parameters.

    Args:
        lefts, masks, starts: `_transitions` of the modes.
    """
    full, sizes = (1 << u.array.ndim) - 1, sizes_of(u.array.shape)
    while True:
        ranks = least_ranks(u, cuts)
        steps = ranks[lefts] * sizes[masks ^ lefts] * ranks[masks]
        best = [np.where(np.arange(full + 1) == 0, 0.0, np.inf)]
        for _ in range(cuts + 1):
            after = np.full(full + 1, np.inf)
            after[1:] = np.minimum.reduceat(best[-1][lefts] + steps, starts)
            best.append(after)
        if best[-1][full] > most:
            return None
        groups, mask = [], full
        for before in reversed(best[:-1]):
            into = slice(starts[mask - 1], starts[mask] if mask < full else None)
            left = int(lefts[into][np.argmin(before[lefts[into]] + steps[into])])
            groups.append(mask ^ left)
            mask = left
        bonds = [sum(groups[k:]) for k in range(1, len(groups))]
        if all(settled(u, bond) for bond in bonds):
            return tuple(reversed(groups))
        for bond in bonds:
            rank(u, bond, cuts)


def _transitions(modes: int) -> tuple[Array, Array, Array]:
    """Return all pairs of a set of modes and a larger one, sorted by the larger, and where each larger one starts."""
    lefts = []
    for mask in range(1, 1 << modes):
        subset, found = mask, []
        while subset:
            subset = (subset - 1) & mask
            found.append(subset)
        lefts.append(found)
    counts = [len(found) for found in lefts]
    masks = np.repeat(np.arange(1, 1 << modes), counts)
    return np.concatenate([np.array(found) for found in lefts]), masks, np.cumsum([0, *counts[:-1]])


def _candidate(u: Unfoldings, split: Split, groups: tuple[int, ...], like: Any) -> Candidate:
    """Return a train of groups of modes to decompose."""
    members = _members(groups, u.array.ndim)
    axis_of = [k for k, axis in enumerate(split) for _ in axis]
    whole = len(split) == 2 and [tuple({axis_of[m] for m in g}) for g in members] in (
        [(0,), (1,)],
        [(1,), (0,)],
    )
    name = "low rank" if whole else "Kronecker" if len(groups) == 2 else "train"
    bonds = [1, *(rank(u, sum(groups[:k]), len(groups) - 1) for k in range(1, len(groups))), 1]
    extents = [prod(u.array.shape[m] for m in g) for g in members]
    cores = [zeros(like, (bonds[k], n, bonds[k + 1])) for k, n in enumerate(extents)]
    build = partial(_train, u.array.shape, split, members, whole)

    def made() -> Factorized:
        grouped = u.array.transpose([m for g in members for m in g]).reshape(extents)
        return build([returned(c, like) for c in tt_svd(grouped, None, u.tolerance)])

    return Candidate(f"{name} {_shown(members, split)}", build(cores), made)


def _shown(groups: Sequence[tuple[int, ...]], split: Split) -> str:
    """Return groups of modes as the table of `compress` shows them, such as `i0 j0 | i1`."""
    labels = _labels(split)
    return " | ".join(" ".join(labels[m] for m in g) for g in groups)


def _labels(split: Split) -> list[str]:
    """Return a label of each mode: its axis as a letter, and its place in it."""
    return [f"{chr(ord('i') + k)}{m}" for k, axis in enumerate(split) for m in range(len(axis))]


def _train(
    shape: tuple[int, ...], split: Split, groups: Sequence[tuple[int, ...]], whole: bool, cores: Sequence[Any]
) -> Factorized:
    """Return the train of these groups with `cores` [r, n, r'], in the format that has a name where there is one."""
    rows = len(split[0])
    if whole:
        left, right = cores[0][0], cores[1][..., 0]
        return low_rank(left, right) if groups[0][0] < rows else low_rank(right.T, left.T)
    pairs = [(k, rows + k) for k in range(rows)]
    if len(split) == 2 and [tuple(g) for g in groups] == pairs:
        shapes = [(shape[m], shape[n]) for m, n in pairs]
        return tt_matrix([c.reshape(c.shape[0], *s, c.shape[-1]) for c, s in zip(cores, shapes, strict=True)])
    d, terms, factors = len(shape), [], []
    for k, (group, core) in enumerate(zip(groups, cores, strict=True)):
        # Bonds have the numbers after the modes; the ends of the train have none.
        left = (d + k - 1,) if k else ()
        right = (d + k,) if k < len(groups) - 1 else ()
        terms.append((*left, *group, *right))
        inner = [shape[m] for m in group]
        factors.append(core.reshape([*core.shape[: len(left)], *inner, *core.shape[2 : 2 + len(right)]]))
    return factorized("train" if len(groups) > 2 else "Kronecker", terms, _axes(split), factors)


def _axes(split: Split) -> list[tuple[int, ...]]:
    modes = iter(range(sum(len(axis) for axis in split)))
    return [tuple(next(modes) for _ in axis) for axis in split]


# Tucker: a small core and a factor for each group of modes.


def tuckers(u: Unfoldings, split: Split, like: Any, most: float) -> Iterator[Candidate]:
    """Yield the Tucker array with the fewest parameters, over any three and more groups of modes."""
    groups = _best_groups(u, most) if u.array.ndim > 2 else None
    if groups is None:
        return
    members = _members(groups, u.array.ndim)
    over_axes = members == _axes(split)
    extents = [prod(u.array.shape[m] for m in g) for g in members]
    ranks = [rank(u, group, len(groups)) for group in groups]
    bases = [zeros(like, (n, r)) for n, r in zip(extents, ranks, strict=True)]
    build = partial(_tucker, u.array.shape, split, members, over_axes)

    def made() -> Factorized:
        grouped = u.array.transpose([m for g in members for m in g]).reshape(extents)
        core, *bases = tucker_from_dense(grouped, tolerance=u.tolerance, iterations=0).factors
        for k, base in enumerate(bases):
            if base.shape[0] == base.shape[1] and not over_axes:
                core = np.moveaxis(np.tensordot(base, core, (1, k)), 0, k)
        return build(returned(core, like), [returned(x, like) for x in bases])

    yield Candidate(f"Tucker {_shown(members, split)}", build(zeros(like, ranks), bases), made)


def _best_groups(u: Unfoldings, most: float) -> tuple[int, ...] | None:
    """Return the partition of the modes that makes the smallest Tucker array, None if it has `most` parameters.

    All partitions are looked at, but for those whose core and factors are too large already: 116 thousand of ten modes.
    Ranks are lower bounds until a partition is better by them than the best one so far. A group of full rank has no
    factor.
    """
    full = (1 << u.array.ndim) - 1
    sizes = [int(n) for n in sizes_of(u.array.shape)]
    together = [int(r) for r in least_ranks(u, 1)]  # groups have at least the rank of their union
    best: list[Any] = [None, most]

    def parameters(groups: Sequence[int], ranks: Sequence[int]) -> int:
        return prod(ranks) + sum(r * sizes[g] for g, r in zip(groups, ranks, strict=True) if r < sizes[g])

    def look(free: int, left: int, core: int, factors: int, groups: tuple[int, ...]) -> None:
        if core * together[free] + factors >= best[1]:
            return
        if not left:
            for group in groups:
                least[group] = rank(u, group, len(groups))
                if parameters(groups, [least[g] for g in groups]) >= best[1]:
                    return
            best[:] = groups, parameters(groups, [least[g] for g in groups])
            return
        lowest = free & -free
        rest = more = free ^ lowest
        while True:
            group = lowest | more
            if (left == 1) == (group == free) and (free ^ group).bit_count() >= left - 1:
                r = least[group]
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

    for count in range(3, u.array.ndim + 1):
        least = [int(r) for r in least_ranks(u, count)]
        look(full, count, 1, 0, ())
    found: tuple[int, ...] | None = best[0]
    return found


def _tucker(
    shape: tuple[int, ...],
    split: Split,
    groups: Sequence[tuple[int, ...]],
    over_axes: bool,
    core: Any,
    bases: Sequence[Any],
) -> Factorized:
    """Return the Tucker array of these groups.

    Unless these are the axes, the basis of a group of full rank is left out: the core has its modes themselves.
    """
    if over_axes:
        return tucker(core, bases)
    terms: list[tuple[int, ...]] = [()]
    factors: list[Any] = []
    inner: list[int] = []
    for k, (group, u) in enumerate(zip(groups, bases, strict=True)):
        extents = [shape[m] for m in group]
        if u.shape[0] == u.shape[1]:
            terms[0] += group
            inner += extents
        else:
            terms[0] += (len(shape) + k,)
            terms.append((*group, len(shape) + k))
            inner.append(u.shape[1])
            factors.append(u.reshape(*extents, u.shape[1]))
    numbered = {m: n for n, m in enumerate(sorted({m for term in terms for m in term}))}
    return factorized(
        "Tucker groups",
        [tuple(numbered[m] for m in term) for term in terms],
        _axes(split),
        [core.reshape(inner), *factors],
    )


# CP: its rank is at least that of every unfolding.


def canonical(u: Unfoldings, array: Any, split: Split, like: Any, most: float) -> Iterator[Candidate]:
    """Yield CP over the axes of an array, at the least rank that an unfolding along one axis allows and a few more."""
    if len(split) < 3:
        return
    axes = [sum(1 << m for m in axis) for axis in _axes(split)]
    least = max(rank(u, axis, 1) for axis in axes)
    shape = [prod(axis) for axis in split]
    each = sum(shape) + 1
    ranks = [
        r
        for r in dict.fromkeys((least, least + 1, -(-5 * least // 4)))
        if r * each <= most and 2 * r * each <= u.array.size
    ]

    def made() -> Factorized:
        for r in ranks:
            found = cp_from_dense(array, rank=r, iterations=_SWEEPS)
            if relative_error(found, array) <= u.tolerance:
                break
        return found

    if ranks:
        expected = cp([zeros(like, (n, ranks[0])) for n in shape], zeros(like, (ranks[0],)))
        yield Candidate(f"CP of rank {ranks[0]} to {ranks[-1]}", expected, made)


# Blocks of low rank: Monarch and its like, in any order of the modes.

Blocks = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The modes that number the blocks, and those of their rows and columns."""


def blocks(u: Unfoldings, split: Split, like: Any, most: float) -> Iterator[Candidate]:
    """Yield the blocks of low rank that look best on random slices, and save half.

    The ways to unfold a slice are taken by the parameters that a lower bound of its rank makes, until no other can be
    among the best.
    """
    d, shape = u.array.ndim, u.array.shape
    rng = np.random.default_rng(0)
    hoped: list[tuple[float, Blocks, int]] = []
    slices: dict[tuple[int, ...], list[Array]] = {}
    for count in range(1, d - 1):
        for fixed in combinations(range(d), count):
            rest = tuple(m for m in range(d) if m not in fixed)
            if prod(shape[m] for m in rest) <= _SLICE:
                slices[fixed] = [_slice(u.array, fixed, rng) for _ in range(2)]
                ways = _ways(slices[fixed][0], u, fixed, rest)
                hoped += [way for way in ways if way[0] <= min(most, u.array.size / 2)]
    found: list[tuple[float, Blocks, int]] = []
    for least, modes, elements in sorted(hoped):
        if len(found) == _CANDIDATES and least >= found[-1][0]:
            break
        r = _rank_of_slices(slices[modes[0]], u, modes)
        if r * elements <= min(most, u.array.size / 2):
            found = sorted([*found, (r * elements, modes, r)])[:_CANDIDATES]
    labels = _labels(split)
    for _, modes, r in found:
        name = f"Monarch {_shown(modes[1:], split)} for each {' '.join(labels[m] for m in modes[0])}"
        first, rows, columns = ([shape[m] for m in part] for part in modes)
        build = partial(_block, d, split, modes)
        expected = build(zeros(like, (*first, *rows, r)), zeros(like, (*first, r, *columns)))
        yield Candidate(name, expected, partial(_decomposed_blocks, u, modes, like, build))


def _slice(array: Array, fixed: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return `array` at random values of the modes `fixed`."""
    at = {m: int(rng.integers(array.shape[m])) for m in fixed}
    return np.asarray(array[tuple(at.get(m, slice(None)) for m in range(array.ndim))])


def _ways(
    part: Array, u: Unfoldings, fixed: tuple[int, ...], rest: tuple[int, ...]
) -> Iterator[tuple[float, Blocks, int]]:
    """Yield the ways to unfold a slice: the least parameters of its blocks, their modes, and elements for each rank."""
    number, size = u.array.size // part.size, part.size
    bounds = least_ranks(unfoldings(part, u.tolerance), 1)
    for mask in range(1, (1 << len(rest)) - 1, 2):
        rows = tuple(m for k, m in enumerate(rest) if mask >> k & 1)
        columns = tuple(m for k, m in enumerate(rest) if not mask >> k & 1)
        m = prod(u.array.shape[k] for k in rows)
        elements = number * (m + size // m)
        yield float(bounds[mask]) * elements, (fixed, rows, columns), elements


def _rank_of_slices(slices: Sequence[Array], u: Unfoldings, modes: Blocks) -> int:
    """Return the rank within the tolerance of slices unfolded in one way."""
    _, rows, columns = modes
    rest = sorted((*rows, *columns))
    axes = [rest.index(m) for m in (*rows, *columns)]
    m = prod(u.array.shape[k] for k in rows)
    spectra = np.linalg.svd(np.stack([x.transpose(axes).reshape(m, -1) for x in slices]), compute_uv=False)
    sizes = [frobenius(x) for x in slices]
    return max(kept(s, None, u.tolerance * norm) for s, norm in zip(spectra, sizes, strict=True))


def _decomposed_blocks(
    u: Unfoldings, modes: Blocks, like: Any, build: Callable[[Any, Any], Factorized]
) -> Factorized:
    """Return all blocks truncated to one rank by their SVDs."""
    first, rows, columns = ([u.array.shape[m] for m in part] for part in modes)
    stack = u.array.transpose([m for part in modes for m in part]).reshape(prod(first), prod(rows), -1)
    left, s, right = np.linalg.svd(stack, full_matrices=False)
    r = kept(merged(s), None, u.tolerance * u.norm)
    left = (left[..., :r] * s[:, None, :r]).reshape(*first, *rows, r)
    right = right[:, :r].reshape(*first, r, *columns)
    return build(returned(left, like), returned(right, like))


def _block(d: int, split: Split, modes: Blocks, left: Any, right: Any) -> Factorized:
    """Return blocks of low rank with factors left [fixed, rows, r] and right [fixed, r, columns]."""
    fixed, rows, columns = modes
    terms = [(*fixed, *rows, d), (*fixed, d, *columns)]
    return factorized("Monarch blocks", terms, _axes(split), [left, right])
