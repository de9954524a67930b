"""Dense array -> factors, by truncated singular value decompositions.

Each takes a `rank` or a relative `tolerance` in the Frobenius norm. TT and Tucker keep the tolerance by theory
(truncations of d unfoldings share it, a factor sqrt(d) each); for matrices it is exact. Torch tensors are decomposed
by NumPy on the host, and the factors go back to where the tensor was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import Any

import numpy as np

from contractc.errors import OperandError
from contractc.evaluation import Array
from contractc.formats.arrays import (
    finite,
    frobenius,
    host,
    kept,
    merged,
    one_of,
    returned,
    truncated,
    unfolded,
)
from contractc.formats.factorized import Factorized
from contractc.formats.fitting import Progress, cp_from_dense, until_it_settles
from contractc.formats.kinds import Split, kronecker, low_rank, monarch, reshaped, tt, tt_matrix, tucker


def low_rank_from_dense(
    matrix: Any, *, rank: int | None = None, tolerance: float | None = None
) -> Factorized:
    """Return the best low-rank approximation of `matrix` [m, n] (Eckart-Young)."""
    one_of(rank, tolerance)
    array, like = finite(matrix)
    if array.ndim != 2:
        raise OperandError(f"a low-rank matrix has 2 axes, not {array.ndim}")
    u, s, v = truncated(array, rank, _limit(array, tolerance, 1))
    return low_rank(returned(u * s, like), returned(v, like))


def tt_from_dense(
    array: Any, *, rank: int | None = None, tolerance: float | None = None, split: Split | None = None
) -> Factorized:
    """Return a tensor train near `array` [n1, n2, ...] by TT-SVD (Oseledets 2011).

    The error is at most `tolerance` times the norm of `array`, or within sqrt(d - 1) of the best for `rank`.
    `split=(rows, columns)` runs the train through the row modes of a matrix, then through its column modes.
    """
    one_of(rank, tolerance)
    values, like = finite(array)
    return tt([returned(c, like) for c in tt_svd(reshaped(values, split), rank, tolerance)], split=split)


def tt_matrix_from_dense(
    matrix: Any,
    rows: Sequence[int],
    columns: Sequence[int],
    *,
    rank: int | None = None,
    tolerance: float | None = None,
) -> Factorized:
    """Return a TT matrix near `matrix` [prod(rows), prod(columns)] by TT-SVD of the paired modes.

    Args:
        rows, columns: extents m_k and n_k the axes are split into, of equal number.
    """
    one_of(rank, tolerance)
    paired, like = _paired(matrix, rows, columns)
    cores = tt_svd(paired, rank, tolerance)
    shaped = [c.reshape(c.shape[0], m, n, c.shape[2]) for c, m, n in zip(cores, rows, columns, strict=True)]
    return tt_matrix([returned(c, like) for c in shaped])


def tucker_from_dense(
    array: Any,
    *,
    rank: int | Sequence[int] | None = None,
    tolerance: float | None = None,
    split: Split | None = None,
    iterations: int = 10,
    progress: Callable[[Progress], object] | None = None,
) -> Factorized:
    """Return a Tucker array near `array` [n1, n2, ...] (De Lathauwer et al. 2000).

    The higher-order SVD finds the ranks: its error is at most `tolerance` times the norm of `array`, or within
    sqrt(d) of the best for the ranks. Higher-order orthogonal iterations then make it smaller; Ctrl-C ends them.
    """
    values, like = finite(array)
    values = reshaped(values, split)
    d = values.ndim
    one_of(rank, tolerance, d)
    ranks = list(rank) if isinstance(rank, Sequence) else [rank] * d
    limit = _limit(values, tolerance, d)
    bases: list[Array] = [truncated(unfolded(values, k), ranks[k], limit)[0] for k in range(d)]
    size = frobenius(values)

    def step(_: int) -> float:
        for k in range(d):
            rest = _projected(values, bases, k)
            bases[k] = np.linalg.svd(unfolded(rest, k), full_matrices=False)[0][:, : bases[k].shape[1]]
        core = frobenius(_projected(values, bases, None)) / (size or 1.0)
        return sqrt(max(1 - core**2, 0.0))

    if d > 1:
        until_it_settles("Tucker", step, iterations, progress)
    core = _projected(values, bases, None)
    return tucker(returned(core, like), [returned(u, like) for u in bases], split=split)


def monarch_from_dense(
    matrix: Any,
    rows: tuple[int, int],
    columns: tuple[int, int],
    *,
    rank: int | None = None,
    tolerance: float | None = None,
) -> Factorized:
    """Return the block TT matrix (Monarch for rank 1) nearest to `matrix` [m s, n q].

    Every block [s, n] at fixed (m, q) is truncated to the same rank: the best there is (Dao et al. 2022).

    Args:
        rows: (m, s); columns: (n, q).
    """
    one_of(rank, tolerance)
    values, like = _split_matrix(matrix, rows, columns, 2)
    u, sigma, v = np.linalg.svd(values.transpose(0, 3, 1, 2), full_matrices=False)
    r = kept(merged(sigma), rank, _limit(values, tolerance, 1))
    right = (u[..., :r] * sigma[..., None, :r]).transpose(3, 0, 2, 1)
    left = v[..., :r, :].transpose(2, 0, 3, 1)
    return monarch(returned(left, like), returned(right, like))


def kronecker_from_dense(
    matrix: Any,
    rows: Sequence[int],
    columns: Sequence[int],
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Factorized:
    """Return the sum of `rank` Kronecker products nearest to `matrix` [m1 m2 ..., n1 n2 ...].

    Of two matrices each it is the best (Van Loan and Pitsianis 1993); of more, the rearranged array is fitted by
    `cp_from_dense`, and the tolerance is measured.

    Args:
        rows, columns: extents m_k and n_k of the matrices, of equal number.
    """
    one_of(rank, tolerance)
    vectors, like = _paired(matrix, rows, columns)
    if len(rows) == 1:
        stacked = [vectors[None]]
    elif len(rows) == 2:
        u, s, v = truncated(vectors, rank, _limit(vectors, tolerance, 1))
        stacked = [(u * s).T, v]
    else:
        found = cp_from_dense(vectors, rank=rank, tolerance=tolerance, progress=progress)
        weights, *factors = found.factors
        stacked = [(f * weights if k == 0 else f).T for k, f in enumerate(factors)]
    shaped = [x.reshape(-1, m, n) for x, m, n in zip(stacked, rows, columns, strict=True)]
    return kronecker(*(returned(x, like) for x in shaped))


def relative_error(operand: Factorized, array: Any) -> float:
    """Return the norm of the difference between an operand and a dense array, over the norm of the array."""
    found, _ = host(operand.to_dense())
    expected, _ = host(array)
    return frobenius(found - expected) / (frobenius(expected) or 1.0)


def tt_svd(array: Array, rank: int | None, tolerance: float | None) -> list[Array]:
    """Return TT cores [r, n, r'] of `array`: one truncated SVD after the other, left to right."""
    shape = array.shape
    limit = _limit(array, tolerance, max(len(shape) - 1, 1))
    cores, rest, left = [], array.reshape(1, -1), 1
    for n in shape[:-1]:
        u, s, v = truncated(rest.reshape(left * n, rest.size // max(left * n, 1)), rank, limit)
        cores.append(u.reshape(left, n, len(s)))
        rest, left = s[:, None] * v, len(s)
    cores.append(rest.reshape(left, shape[-1] if shape else 1, 1))
    return cores


def _limit(array: Array, tolerance: float | None, parts: int) -> float | None:
    """Return the norm that each of `parts` orthogonal truncations may leave out."""
    return None if tolerance is None else tolerance * frobenius(array) / sqrt(parts)


def _projected(array: Array, bases: Sequence[Array], left_out: int | None) -> Array:
    """Return `array` with each axis but one projected on the columns of its basis."""
    for axis, u in enumerate(bases):
        if axis != left_out:
            array = np.moveaxis(np.tensordot(u.conj().T, array, (1, axis)), 0, axis)
    return array


def _paired(matrix: Any, rows: Sequence[int], columns: Sequence[int]) -> tuple[Array, Any]:
    """Return `matrix` as an array [m1 n1, m2 n2, ...] of its row modes with its column modes, and what it is like."""
    values, like = _split_matrix(matrix, rows, columns)
    d = len(rows)
    paired = values.transpose([k + d * side for k in range(d) for side in (0, 1)])
    return paired.reshape([m * n for m, n in zip(rows, columns, strict=True)]), like


def _split_matrix(
    matrix: Any, rows: Sequence[int], columns: Sequence[int], count: int | None = None
) -> tuple[Array, Any]:
    """Return `matrix` as an array with its axes split into row modes, then column modes, and what it is like."""
    values, like = finite(matrix)
    if len(rows) != len(columns):
        raise OperandError(f"the rows are split into {len(rows)} modes but the columns into {len(columns)}")
    if not rows:
        raise OperandError("the rows and columns of a matrix are split into one mode or more")
    if count is not None and len(rows) != count:
        raise OperandError(f"rows and columns are split into {count} modes each, not {len(rows)}")
    if values.shape != (prod(rows), prod(columns)):
        raise OperandError(
            f"a matrix of shape {values.shape} cannot be split into rows {tuple(rows)} and columns {tuple(columns)}"
        )
    return values.reshape(*rows, *columns), like
