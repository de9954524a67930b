"""compress: the layout of a dense array with the least predicted seconds, or bytes, that keeps a tolerance.

The axes are split into modes. Three families are searched, in any order of the modes:

- trains of groups of modes, of any number of groups: low rank and Kronecker products are trains of two, TT and TT
  matrices longer ones. The ranks follow from the singular spectra of the unfoldings, each computed once; the best
  groups and their order from a dynamic program over subsets of modes.
- blocks of low rank: at fixed values of some modes the rest is a matrix of low rank. Monarch is one.
- Tucker, and CP of arrays with three axes and more, at the few ranks that its unfoldings allow.

What looks best is decomposed, its error measured and its contraction planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations
from math import prod, sqrt
from typing import Any

import numpy as np

from contractc.building import conj_and_constant, network_of, plan_of
from contractc.dtypes import itemsize
from contractc.errors import OperandError, ResourceLimitError
from contractc.evaluation import Array
from contractc.formats.arrays import finite, frobenius, kept, merged, one_of, returned
from contractc.formats.decompose import relative_error, tt_svd, tucker_from_dense
from contractc.formats.factorized import Factorized, factorized, forced
from contractc.formats.fitting import cp_from_dense
from contractc.formats.kinds import Split, low_rank, shape_of_split, tt_matrix
from contractc.machine import Target
from contractc.operands import dtype_name
from contractc.options import Options
from contractc.plans import Plan, bytes_text, seconds_text
from contractc.reading import described, read_ahead

MOST_MODES = 10
"""The most modes that are searched over: all their subsets are unfolded."""

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
class Trial:
    """One layout that was tried: its relative error, parameters, bytes, predicted seconds, and why it was not taken.

    `seconds` is None without an expression.
    """

    layout: str
    error: float
    parameters: int
    bytes: int
    seconds: float | None
    verdict: str


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """What `compress` found: the operand (the array itself if it is best kept dense), and everything it tried."""

    operand: Any
    tolerance: float
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        head = ("layout", "error", "parameters", "bytes", "seconds", "")
        rows = [head]
        for t in self.trials:
            seconds = "" if t.seconds is None else seconds_text(t.seconds)
            rows.append(
                (t.layout, f"{t.error:.2g}", str(t.parameters), bytes_text(t.bytes), seconds, t.verdict)
            )
        widths = [max(len(row[c]) for row in rows) for c in range(len(head))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join(
            [f"layouts within a relative error of {self.tolerance:g}", *(f"  {x}" for x in lines)]
        )


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    make: Callable[[], Factorized]
    parameters: float


def compress(
    array: Any,
    *,
    tolerance: float,
    expression: Any = None,
    operands: Sequence[Any] = (),
    split: Split | None = None,
    target: str | Target | None = None,
    memory: int | None = None,
    progress: Callable[[str], object] | None = None,
) -> Compressed:
    """Return `array` held as factors in the layout with the least predicted seconds, and what else was tried.

    Without an expression, or at equal seconds, fewer bytes are better; the array stays dense if nothing is.

    Args:
        array: the constant operand, a NumPy array or torch tensor.
        tolerance: the largest relative error in the Frobenius norm.
        expression: what the array will be used in.
        operands: the operands of the expression: for each its shape, and the array itself at its place.
        split: the modes that each axis is made of, of which any order may have structure; at most `MOST_MODES` in
            all. By default each axis is split into prime factors, the smallest merged.
        target, memory: where the expression will run, and within how many bytes (`memory_limit` of `compile`).
        progress: called with a line of text before each stage; `progress=print` shows it.

    Raises:
        OperandError: the array is not among the operands, the split does not fit, or a mode is too many.
        ResourceLimitError: nothing fits into `memory`.
    """
    one_of(None, tolerance)
    values, like = finite(array)
    if (expression is None) != (not operands):
        raise OperandError("an expression comes with its operands, and operands with an expression")
    places = [k for k, x in enumerate(operands) if x is array]
    if operands and len(places) != 1:
        raise OperandError("operands= has the shapes of the other operands, and the array itself once")
    split = default_split(values.shape) if split is None else tuple(tuple(axis) for axis in split)
    if shape_of_split(split) != values.shape:
        raise OperandError(f"an array of shape {values.shape} cannot be split into {split}")
    modes = [n for axis in split for n in axis]
    if len(modes) > MOST_MODES:
        raise OperandError(f"{len(modes)} modes; at most {MOST_MODES} are searched over")
    say = progress or (lambda _: None)
    say(f"unfolding {'x'.join(map(str, modes))} along {2 ** (len(modes) - 1) - 1} cuts")
    candidates = [
        *_trains(values.reshape(modes), split, tolerance, like),
        *_blocks(values.reshape(modes), split, tolerance, like, say),
        _Candidate(
            "Tucker", lambda: tucker_from_dense(array, tolerance=tolerance, split=split, iterations=0), 0
        ),
        *_canonical(array, values, tolerance),
    ]

    def predicted(operand: Any) -> float | None:
        if expression is None:
            return None
        given = [operand if x is array else x for x in operands]
        return _planned(expression, given, places[0], dtype_name(like), target, memory).seconds

    tried = [_tried("dense", array, 0.0, predicted, memory)]
    made: list[Any] = [array]
    for candidate in candidates:
        if candidate.parameters >= values.size:
            continue
        say(f"decomposing as {candidate.name}")
        operand = candidate.make()
        if operand.parameters >= values.size:
            continue
        error = relative_error(operand, array)
        for choice in ("", "factored") if memory is not None and expression is not None else ("",):
            made.append(forced(operand, choice))
            name = f"{candidate.name}, never dense" if choice else candidate.name
            tried.append(_tried(name, made[-1], error, predicted, memory))
    fits = [k for k, t in enumerate(tried) if t.error <= tolerance and not t.verdict]
    if not fits:
        raise ResourceLimitError(f"no layout within {tolerance:g} fits into {bytes_text(memory or 0)}")
    best = min(fits, key=lambda k: (_rounded(tried[k].seconds), tried[k].bytes, k))
    trials = [
        replace(t, verdict="taken" if k == best else t.verdict or _miss(t, tolerance))
        for k, t in enumerate(tried)
    ]
    return Compressed(made[best], tolerance, tuple(trials))


def default_split(shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return each axis split into its prime factors, the smallest merged until `MOST_MODES` are enough for all."""
    each = max(1, MOST_MODES // max(len(shape), 1))
    return tuple(_factors(n, each) for n in shape)


def _factors(n: int, most: int) -> tuple[int, ...]:
    primes, p, left = [], 2, n
    while left > 1 and p * p <= left:
        while left % p == 0:
            primes.append(p)
            left //= p
        p += 1
    if left > 1 or not primes:
        primes.append(left)
    pieces = sorted(primes)
    while len(pieces) > most:
        pieces = sorted([pieces[0] * pieces[1], *pieces[2:]])
    return tuple(pieces)


def _miss(trial: Trial, tolerance: float) -> str:
    return "misses the tolerance" if trial.error > tolerance else ""


def _rounded(seconds: float | None) -> float:
    """Return predicted seconds to two digits: differences below that are none."""
    return 0.0 if seconds is None else float(f"{seconds:.2g}")


def _tried(
    name: str, operand: Any, error: float, predicted: Callable[[Any], float | None], memory: int | None
) -> Trial:
    """Return what came of one operand, with a verdict if it does not fit into memory."""
    parameters = operand.parameters if isinstance(operand, Factorized) else prod(operand.shape)
    dtype = dtype_name(operand)
    size = parameters * itemsize(dtype)
    try:
        seconds = predicted(operand)
    except ResourceLimitError:
        return Trial(name, error, parameters, size, None, "does not fit into memory")
    verdict = "does not fit into memory" if memory is not None and size > memory else ""
    return Trial(name, error, parameters, size, seconds, verdict)


def _planned(
    expression: Any,
    operands: Sequence[Any],
    place: int,
    dtype: str,
    target: str | Target | None,
    memory: int | None,
) -> Plan:
    """Return the plan of `expression` with the operand at `place` constant."""
    found, given, chosen = read_ahead(expression, operands, "sum_product", target)
    options = Options(memory_limit=memory)
    tensors = conj_and_constant(described(given, dtype), (), (place,))
    return plan_of(network_of(found, tensors, chosen, options), options)


# Trains: groups of modes in any order.


def _trains(array: Array, split: Split, tolerance: float, like: Any) -> Iterator[_Candidate]:
    """Yield the best train of each number of groups, and the low-rank matrix of a matrix."""
    d = array.ndim
    if d < 2:
        return
    spectrum = _spectra(array, tolerance)
    rows = (1 << len(split[0])) - 1
    seen: set[tuple[int, ...]] = set()
    if len(split) == 2:
        whole = (rows, (1 << d) - 1 ^ rows)
        seen.add(whole)
        yield _candidate(array, split, whole, tolerance, like, spectrum(rows, 1) * sum(_sides(array, rows)))
    for cuts in range(1, d):
        groups, parameters = _best_train(array.shape, spectrum, cuts)
        groups = groups[::-1] if groups[-1] & 1 else groups
        if groups not in seen:
            seen.add(groups)
            yield _candidate(array, split, groups, tolerance, like, parameters)


def _sides(array: Array, mask: int) -> tuple[int, int]:
    """Return the elements of the two sides of an unfolding."""
    one = prod(n for m, n in enumerate(array.shape) if mask >> m & 1)
    return one, array.size // max(one, 1)


def _spectra(array: Array, tolerance: float) -> Callable[[int, int], int]:
    """Return a function giving the rank that an unfolding needs if `cuts` of them share the tolerance.

    An unfolding is named by the set of its row modes, as bits. Every spectrum is computed once.
    """
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


def _best_train(
    shape: Sequence[int], rank: Callable[[int, int], int], cuts: int
) -> tuple[tuple[int, ...], int]:
    """Return the groups of modes, in order, of the train with the fewest parameters of `cuts` + 1 cores.

    Dynamic program over the set of modes to the left: the last core is any subset of it (3^d transitions).
    """
    d, full = len(shape), (1 << len(shape)) - 1
    sizes = [prod(n for m, n in enumerate(shape) if mask >> m & 1) for mask in range(full + 1)]
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
) -> _Candidate:
    """Return a train of groups of modes to decompose."""
    members = [tuple(m for m in range(array.ndim) if g >> m & 1) for g in groups]
    axis_of = [k for k, axis in enumerate(split) for _ in axis]
    whole = len(split) == 2 and [tuple({axis_of[m] for m in g}) for g in members] in (
        [(0,), (1,)],
        [(1,), (0,)],
    )
    name = "low rank" if whole else "Kronecker" if len(groups) == 2 else "train"
    labels = _labels(split)
    shown = " | ".join(" ".join(labels[m] for m in g) for g in members)
    return _Candidate(
        f"{name} {shown}", lambda: _train(array, split, members, tolerance, like, whole), parameters
    )


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


# CP: its rank is at least that of every unfolding.


def _canonical(array: Any, values: Array, tolerance: float) -> Iterator[_Candidate]:
    """Yield CP over the axes of an array, at the least rank that an unfolding along one axis allows and a few more."""
    if values.ndim < 3 or values.size == 0:
        return
    rank = _spectra(values, tolerance)
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
        yield _Candidate(f"CP of rank {ranks[0]} to {ranks[-1]}", made, least * each)


# Blocks of low rank: Monarch and its like, in any order of the modes.


def _blocks(
    array: Array, split: Split, tolerance: float, like: Any, say: Callable[[str], object]
) -> Iterator[_Candidate]:
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
        sides = " | ".join(" ".join(labels[m] for m in side) for side in (rows, columns))
        name = f"Monarch {sides} for each {' '.join(labels[m] for m in fixed)}"
        yield _Candidate(
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
