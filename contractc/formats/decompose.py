"""Dense array -> factors: truncated decompositions with NumPy's linear algebra.

Each takes a `rank` or a relative `tolerance` in the Frobenius norm. TT and Tucker keep the tolerance by theory
(truncations of d unfoldings share it, a factor sqrt(d) each); for matrices it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

import numpy as np

from contractc.errors import OperandError
from contractc.evaluation import Array
from contractc.formats.factorized import Factorized
from contractc.formats.kinds import kronecker, low_rank, monarch, tt, tt_matrix, tucker


def low_rank_from_dense(
    matrix: Array, *, rank: int | None = None, tolerance: float | None = None
) -> Factorized:
    """Return the best low-rank approximation of `matrix` [m, n] (Eckart-Young)."""
    u, s, v = np.linalg.svd(_floating(matrix), full_matrices=False)
    r = _kept(s, rank, tolerance, 1.0)
    return low_rank(u[:, :r] * s[:r], v[:r])


def tt_from_dense(array: Array, *, rank: int | None = None, tolerance: float | None = None) -> Factorized:
    """Return a tensor train near `array` [n1, n2, ...] by TT-SVD (Oseledets 2011).

    The error is at most `tolerance` times the norm of `array`, or within sqrt(d - 1) of the best for `rank`.
    """
    return tt(_tt_svd(_floating(array), rank, tolerance))


def tt_matrix_from_dense(
    matrix: Array,
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
    matrix = _floating(matrix)
    _check_split(matrix, rows, columns)
    d = len(rows)
    paired = matrix.reshape(*rows, *columns).transpose([k + d * side for k in range(d) for side in (0, 1)])
    cores = _tt_svd(paired.reshape([m * n for m, n in zip(rows, columns, strict=True)]), rank, tolerance)
    return tt_matrix(
        [c.reshape(c.shape[0], m, n, c.shape[2]) for c, m, n in zip(cores, rows, columns, strict=True)]
    )


def tucker_from_dense(
    array: Array, *, rank: int | Sequence[int] | None = None, tolerance: float | None = None
) -> Factorized:
    """Return a Tucker array near `array` [n1, n2, ...] by the higher-order SVD (De Lathauwer et al. 2000).

    The error is at most `tolerance` times the norm of `array`, or within sqrt(d) of the best for the ranks.
    """
    array = _floating(array)
    d = array.ndim
    ranks = [rank] * d if rank is None or isinstance(rank, int) else list(rank)
    core, factors = array, []
    for axis in range(d):
        u, s, _ = np.linalg.svd(
            np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1), full_matrices=False
        )
        u = u[:, : _kept(s, ranks[axis], tolerance, 1 / sqrt(d))]
        core = np.moveaxis(np.tensordot(u.conj().T, core, (1, axis)), 0, axis)
        factors.append(u)
    return tucker(core, factors)


def monarch_from_dense(
    matrix: Array,
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
    matrix = _floating(matrix)
    _check_split(matrix, rows, columns)
    (m, s), (n, q) = rows, columns
    blocks = matrix.reshape(m, s, n, q).transpose(0, 3, 1, 2)
    u, sigma, v = np.linalg.svd(blocks, full_matrices=False)
    spectrum = np.sqrt((sigma**2).sum((0, 1)))
    r = _kept(spectrum, rank, tolerance, 1.0)
    right = (u[..., :r] * sigma[..., None, :r]).transpose(3, 0, 2, 1)
    left = v[..., :r, :].transpose(2, 0, 3, 1)
    return monarch(np.ascontiguousarray(left), np.ascontiguousarray(right))


def kronecker_from_dense(
    matrix: Array,
    rows: tuple[int, int],
    columns: tuple[int, int],
    *,
    rank: int | None = None,
    tolerance: float | None = None,
) -> Factorized:
    """Return the sum of `rank` Kronecker products nearest to `matrix` [m1 m2, n1 n2] (Van Loan and Pitsianis 1993)."""
    matrix = _floating(matrix)
    _check_split(matrix, rows, columns)
    (m1, m2), (n1, n2) = rows, columns
    rearranged = matrix.reshape(m1, m2, n1, n2).transpose(0, 2, 1, 3).reshape(m1 * n1, m2 * n2)
    u, s, v = np.linalg.svd(rearranged, full_matrices=False)
    r = _kept(s, rank, tolerance, 1.0)
    return kronecker((u[:, :r] * s[:r]).T.reshape(r, m1, n1), v[:r].reshape(r, m2, n2))


def _tt_svd(array: Array, rank: int | None, tolerance: float | None) -> list[Array]:
    """Return TT cores [r, n, r'] of `array`: one truncated SVD after the other, left to right."""
    shape = array.shape
    share = 1 / sqrt(max(len(shape) - 1, 1))
    threshold = None if tolerance is None else tolerance * share * float(np.linalg.norm(array))
    cores, rest, left = [], array.reshape(1, -1), 1
    for n in shape[:-1]:
        u, s, v = np.linalg.svd(rest.reshape(left * n, -1), full_matrices=False)
        r = _kept(s, rank, threshold, 1.0, absolute=True)
        cores.append(u[:, :r].reshape(left, n, r))
        rest, left = s[:r, None] * v[:r], r
    cores.append(rest.reshape(left, shape[-1], 1))
    return cores


def _kept(
    s: Array, rank: int | None, tolerance: float | None, share: float, *, absolute: bool = False
) -> int:
    """Return how many singular values to keep: at least 1, at most `rank`, the tail within the tolerance."""
    if (rank is None) == (tolerance is None):
        raise OperandError("give a rank or a tolerance, one of them")
    if rank is not None:
        return max(1, min(rank, len(s)))
    assert tolerance is not None
    limit = tolerance * share * (1.0 if absolute else float(np.linalg.norm(s)))
    tail = np.sqrt(np.cumsum(s[::-1] ** 2))[::-1]
    return max(1, int((tail > limit).sum()))


def _check_split(matrix: Array, rows: Sequence[int], columns: Sequence[int]) -> None:
    if len(rows) != len(columns):
        raise OperandError(f"the rows are split into {len(rows)} modes but the columns into {len(columns)}")
    if matrix.shape != (prod(rows), prod(columns)):
        raise OperandError(
            f"a matrix of shape {matrix.shape} cannot be split into rows {tuple(rows)} and columns {tuple(columns)}"
        )


def _floating(array: Array) -> Array:
    array = np.asarray(array)
    return array if array.dtype.kind in "fc" else array.astype(np.float64)
