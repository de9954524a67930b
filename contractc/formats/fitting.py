"""Fits that iterate: CP by alternating least squares. They report progress, and Ctrl-C keeps the best so far."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from contractc.errors import OperandError
from contractc.evaluation import Array
from contractc.formats.arrays import finite, frobenius, one_of, returned, unfolded
from contractc.formats.factorized import Factorized
from contractc.formats.kinds import Split, cp, reshaped

SETTLED = 1e-9
"""A fit ends when the relative error has changed by less than this from one iteration to the next."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit is: of what, after how many iterations of at most how many, its relative error."""

    fit: str
    iteration: int
    most: int
    error: float

    def __str__(self) -> str:
        return f"{self.fit}: iteration {self.iteration} of {self.most}, relative error {self.error:.3g}"


def until_it_settles(
    fit: str,
    step: Callable[[int], float],
    iterations: int,
    progress: Callable[[Progress], object] | None,
    enough: float = 0.0,
) -> bool:
    """Iterate `step`, which returns its error, until that settles or is `enough`; return whether Ctrl-C came first.

    That ends the iterations with a warning; `step` has to leave behind what it has found so far.
    """
    error = np.inf
    try:
        for k in range(iterations):
            before, error = error, step(k)
            if progress is not None:
                progress(Progress(fit, k + 1, iterations, error))
            if error <= enough or abs(before - error) <= SETTLED:
                break
    except KeyboardInterrupt:
        warnings.warn(f"the fit of a {fit} was interrupted at a relative error of {error:.3g}", stacklevel=3)
        return True
    return False


def cp_from_dense(
    array: Any,
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    split: Split | None = None,
    non_negative: bool = False,
    iterations: int = 300,
    seed: int = 0,
    progress: Callable[[Progress], object] | None = None,
) -> Factorized:
    """Return a CP array near `array` [n1, n2, ...] by alternating least squares (Carroll and Chang 1970).

    The columns of the factors have norm 1, the weights are their sizes in falling order. With a `tolerance` ranks
    are tried from 1 on until the measured error is within it.

    Args:
        non_negative: only factors without negative entries, by hierarchical ALS (Cichocki and Phan 2009).
        iterations: the most sweeps over all factors, for each rank.
        seed: of the random columns that the leading singular vectors are completed with.
        progress: called with a `Progress` after each sweep; `progress=print` shows it.

    Raises:
        OperandError: no rank that has fewer parameters than the array meets the tolerance; the best error is told.
    """
    one_of(rank, tolerance)
    values, like = finite(array)
    values = reshaped(values, split)
    if values.ndim < 1:
        raise OperandError("a CP array has at least one axis")
    if non_negative and (np.iscomplexobj(values) or bool((values < 0).any())):
        raise OperandError("a non-negative CP array needs real entries that are not negative")
    most = rank if rank is not None else max(1, values.size // (sum(values.shape) + 1))
    leading = [_leading(values, axis) for axis in range(values.ndim)]
    best: tuple[float, list[Array]] | None = None
    for r in [most] if rank is not None else _ranks(most):
        rng = np.random.default_rng(seed)
        starts = [_start(vectors, r, non_negative, rng) for vectors in leading]
        error, found, interrupted = _fitted(
            values, starts, non_negative, iterations, progress, tolerance or 0.0
        )
        if best is None or error < best[0]:
            best = error, found
        if interrupted or tolerance is None or error <= tolerance:
            weights, *factors = (returned(x, like) for x in best[1])
            return cp(factors, weights, split=split)
    assert best is not None
    raise OperandError(
        f"no CP array of rank at most {most} is within {tolerance:g}; the best was at {best[0]:.3g}"
    )


def _ranks(most: int) -> list[int]:
    """Return the ranks to try: all small ones, then by steps of a quarter."""
    ranks = [1]
    while ranks[-1] < most:
        ranks.append(min(most, max(ranks[-1] + 1, ranks[-1] * 5 // 4)))
    return ranks


def _fitted(
    array: Array,
    factors: list[Array],
    non_negative: bool,
    iterations: int,
    progress: Callable[[Progress], object] | None,
    enough: float,
) -> tuple[float, list[Array], bool]:
    """Return the relative error, the weights [r] with factors [n, r] of columns of norm 1, and whether Ctrl-C came.

    Args:
        factors: what the iterations start from; they are replaced.
    """
    rank = factors[0].shape[1]
    size = frobenius(array) or 1.0
    kept = [[x.copy() for x in factors]]
    lowest = [np.inf]

    def step(_: int) -> float:
        for axis in range(array.ndim):
            others = [f for k, f in enumerate(factors) if k != axis]
            gram = _hadamard([f.T @ f.conj() for f in others], rank, array.dtype)
            product = unfolded(array, axis) @ _khatri_rao(others, rank, array.dtype).conj()
            factors[axis] = (
                _nearest_non_negative(factors[axis], product, gram)
                if non_negative
                else _solved(product, gram)
            )
            if axis < array.ndim - 1:  # the last factor keeps the sizes
                sizes = np.linalg.norm(factors[axis], axis=0)
                factors[axis] = factors[axis] / np.where(sizes > 0, sizes, 1)
        found = factors[-1] @ _khatri_rao(factors[:-1], rank, array.dtype).T
        error = frobenius(found - unfolded(array, array.ndim - 1)) / size
        if error < lowest[0]:
            lowest[0], kept[0] = error, [x.copy() for x in factors]
        return error

    interrupted = until_it_settles(f"CP of rank {rank}", step, iterations, progress, enough)
    factors = kept[0]
    sizes = [np.linalg.norm(f, axis=0) for f in factors]
    weights = np.prod(sizes, axis=0)
    order = np.argsort(-weights, kind="stable")
    factors = [(f / np.where(s > 0, s, 1))[:, order] for f, s in zip(factors, sizes, strict=True)]
    return lowest[0], [weights[order].astype(array.dtype), *factors], interrupted


def _leading(array: Array, axis: int) -> Array:
    """Return the left singular vectors of an unfolding, the leading one first."""
    flat = unfolded(array, axis)
    _, vectors = np.linalg.eigh(flat @ flat.conj().T)
    return np.asarray(vectors[:, ::-1])


def _start(vectors: Array, rank: int, non_negative: bool, rng: np.random.Generator) -> Array:
    """Return the leading singular vectors of an unfolding, and random columns beyond them."""
    leading = vectors[:, :rank]
    rest = rng.standard_normal((len(vectors), rank - leading.shape[1])).astype(vectors.dtype)
    # A touch of noise: columns that are orthogonal in every mode are a saddle point of the fit.
    noise = rng.standard_normal(leading.shape).astype(vectors.dtype)
    start = np.concatenate([leading + 0.01 * noise, rest], axis=1)
    return abs(start) if non_negative else start


def _solved(product: Array, gram: Array) -> Array:
    """Return the factor that `gram` takes to `product`: least squares, where the Gram matrix is singular."""
    try:
        found = np.linalg.solve(gram.T, product.T).T
    except np.linalg.LinAlgError:
        found = np.full_like(product, np.nan)
    if not np.isfinite(found).all():
        found = np.linalg.lstsq(gram.T, product.T, rcond=None)[0].T
    return np.asarray(found)


def _nearest_non_negative(factor: Array, product: Array, gram: Array) -> Array:
    """Return `factor` after one sweep over its columns, each the best that has no negative entry."""
    factor = factor.copy()
    for r in range(factor.shape[1]):
        if gram[r, r] > 0:
            column = factor[:, r] + (product[:, r] - factor @ gram[:, r]) / gram[r, r]
            factor[:, r] = np.maximum(column, 0)
    return factor


def _hadamard(matrices: Sequence[Array], rank: int, dtype: Any) -> Array:
    """Return the elementwise product of matrices [r, r]; ones, if there are none."""
    made: Array = np.ones((rank, rank), dtype)
    for x in matrices:
        made = made * x
    return made


def _khatri_rao(factors: Sequence[Array], rank: int, dtype: Any) -> Array:
    """Return the columnwise Kronecker product [n1 n2 ..., r] of factors [n_k, r]."""
    made: Array = np.ones((1, rank), dtype)
    for f in factors:
        made = (made[:, None] * f[None]).reshape(prod((made.shape[0], f.shape[0])), rank)
    return made
