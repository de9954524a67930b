"""What the formats need of an array library: NumPy and torch spell most of it alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from contractc.dtypes import is_floating
from contractc.errors import OperandError, UnsupportedError
from contractc.evaluation import Array
from contractc.operands import dtype_name, is_torch, with_dtype

LARGE = 1000
"""Matrices with both sides at least this long are decomposed by random sampling where that suffices."""

_OVERSAMPLED = 10
"""Columns sampled beyond the rank wanted (Halko, Martinsson and Tropp 2011 recommend 5 to 10)."""

_POWERS = 2
"""Power iterations of the sampled range, for spectra that decay slowly."""


def library(x: Any) -> Any:
    """Return the module, numpy or torch, that computes with `x`.

    Raises:
        UnsupportedError: `x` is an array of another library.
    """
    if is_torch(x):
        return sys.modules["torch"]
    if isinstance(x, np.ndarray | np.generic):
        return np
    raise UnsupportedError(
        f"factors of type {type(x).__name__}; the algebra of formats takes NumPy and torch"
    )


def zeros(like: Any, shape: Sequence[int]) -> Any:
    """Return zeros of the library, dtype and device of `like`."""
    if is_torch(like):
        return like.new_zeros(tuple(shape))
    return np.zeros(shape, like.dtype)


def identity(like: Any, size: int | None = None) -> Any:
    """Return the unit matrix of the library, dtype and device of `like` (and of its size, or the one given)."""
    size = like.shape[0] if size is None else size
    if is_torch(like):
        return sys.modules["torch"].eye(size, dtype=like.dtype, device=like.device)
    return np.eye(size, dtype=like.dtype)


def permuted(x: Any, axes: Sequence[int]) -> Any:
    """Return `x` with its axes in another order."""
    return x.permute(tuple(axes)) if is_torch(x) else x.transpose(tuple(axes))


def conjugate(x: Any) -> Any:
    """Return the complex conjugate of `x`."""
    return x.conj()


def host(x: Any) -> tuple[Array, Any]:
    """Return `x` as a floating NumPy array of at least single precision, and `x` as an array to be like.

    What is computed from it goes back with `like`; gradients end here.
    """
    if is_torch(x):
        like = x
        x = x.detach().cpu()
        if dtype_name(x) in ("bfloat16", "float16"):
            x = with_dtype(x, "float32")
        array = x.resolve_conj().numpy()
    else:
        like = array = np.asarray(x)
        if dtype_name(array) in ("bfloat16", "float16"):
            array = array.astype(np.float32)
    if not is_floating(dtype_name(array)):
        array = array.astype(np.float64)
        like = with_dtype(like, "float64")
    return array, like


def returned(x: Array, like: Any) -> Any:
    """Return the NumPy array `x` as one of the library, dtype and device of `like`."""
    if not is_torch(like):
        return np.asarray(x, like.dtype, order="C")
    torch = sys.modules["torch"]
    return torch.from_numpy(np.asarray(x, order="C")).to(device=like.device, dtype=like.dtype)


def finite(x: Any) -> tuple[Array, Any]:
    """Return `host(x)`; raises OperandError for values that are not finite, on which LAPACK may never return."""
    array, like = host(x)
    if not np.isfinite(array).all():
        raise OperandError("an array with values that are not finite cannot be decomposed")
    return array, like


def frobenius(x: Array) -> float:
    """Return the norm of `x`, also where the squares of its values overflow or vanish."""
    with np.errstate(over="ignore", under="ignore"):
        norm = float(np.linalg.norm(x))
    limits = np.finfo(x.dtype)
    if float(limits.tiny) ** 0.25 < norm < float(limits.max) ** 0.5:
        return norm
    largest = float(abs(x).max(initial=0))
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(x / x.dtype.type(largest)))


def kept(s: Any, rank: int | None, limit: float | None) -> int:
    """Return how many singular values to keep: at least 1, at most `rank`, the rest of norm at most `limit`."""
    if rank is not None:
        return min(rank, len(s))
    assert limit is not None
    values = np.asarray(s, np.float64)
    largest = float(values.max(initial=0)) or 1.0
    tail = np.sqrt(np.cumsum((values[::-1] / largest) ** 2))[::-1]
    return max(1, int((tail > limit / largest).sum()))


def unfolded(x: Array, axis: int) -> Array:
    """Return `x` as a matrix: one axis, then the others fused."""
    moved = np.moveaxis(x, axis, 0)
    return moved.reshape(len(moved), prod(moved.shape[1:]))


def merged(spectra: Array) -> Array:
    """Return the spectrum [r] that blocks with `spectra` [..., r] have together if all keep the same rank."""
    largest = float(spectra.max(initial=0)) or 1.0
    squares = (spectra.astype(np.float64).reshape(-1, spectra.shape[-1]) / largest) ** 2
    return np.asarray(largest * np.sqrt(squares.sum(0)))


def one_of(rank: int | Sequence[int] | None, tolerance: float | None, ranks: int = 0) -> None:
    """Raise OperandError unless one of the two is given, and makes sense.

    Args:
        ranks: how many numbers the rank may be instead of one; none by default.
    """
    if (rank is None) == (tolerance is None):
        raise OperandError("give a rank or a tolerance, one of them")
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise OperandError(f"a tolerance is a number from 0 on, not {tolerance}")
    if rank is not None:
        check_rank(rank, ranks)


def check_rank(rank: int | Sequence[int], ranks: int = 0) -> None:
    """Raise OperandError unless `rank` is a whole number from 1 on, or as many of them as `ranks` says."""
    if isinstance(rank, Sequence) and not ranks:
        raise OperandError(f"the rank is one number, not {tuple(rank)}")
    if isinstance(rank, Sequence) and len(rank) != ranks:
        raise OperandError(f"{len(rank)} ranks for {ranks} modes")
    for r in rank if isinstance(rank, Sequence) else [rank]:
        if not isinstance(r, int | np.integer) or isinstance(r, bool) or r < 1:
            raise OperandError(f"a rank is a whole number from 1 on, not {r!r:.40}")


def truncated(matrix: Array, rank: int | None, limit: float | None) -> tuple[Array, Array, Array]:
    """Return u [m, r], s [r], v [r, n] of a truncated SVD of `matrix`.

    Args:
        rank: the most singular values to keep, or None.
        limit: the Frobenius norm that what is left out may have; used without a rank.

    A large matrix of which few singular values are wanted is sampled first (Halko, Martinsson and Tropp 2011);
    what the sample leaves out is computed and counts towards the limit, so that the bound holds.
    """
    least = min(matrix.shape)
    if least >= LARGE:
        size = (rank or 32) + _OVERSAMPLED
        while 4 * size < least:
            basis = sampled_range(matrix, size)
            rest = basis.conj().T @ matrix
            if rank is not None:
                u, s, v = np.linalg.svd(rest, full_matrices=False)
                return basis @ u[:, :rank], s[:rank], v[:rank]
            assert limit is not None
            missed = frobenius(matrix - basis @ rest)
            if missed < limit:
                u, s, v = np.linalg.svd(rest, full_matrices=False)
                r = kept(s, None, float(np.sqrt(limit**2 - missed**2)))
                if r < size:
                    return basis @ u[:, :r], s[:r], v[:r]
            size *= 2
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    r = kept(s, rank, limit)
    return u[:, :r], s[:r], v[:r]


def sampled_range(matrix: Array, size: int, powers: int = _POWERS) -> Array:
    """Return an orthonormal basis [m, size] of nearly the range of `matrix`, the same at every call."""
    rng = np.random.default_rng(0)
    sample = matrix @ rng.standard_normal((matrix.shape[1], size)).astype(matrix.real.dtype)
    for _ in range(powers):
        basis, _ = np.linalg.qr(sample)
        basis, _ = np.linalg.qr(matrix.conj().T @ basis)
        sample = matrix @ basis
    basis, _ = np.linalg.qr(sample)
    return basis
