"""Sums over axes, and matrix products of integers and of truth values, done by BLAS where that is exact or as good."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from math import prod

import numpy as np

SMALL = 2**15
"""Elements, or products of elements, up to which NumPy's own loops are as fast."""

_SHORT = 8
"""Elements in a row from which a product with ones is faster than NumPy's sum."""

_FEW, _ROW = 12, 32
"""Where so few whole rows are added up, and elements of rows so long as well, the elements go first: the sum of the
rows is nearly as large as they are (1.2 to 1.9 times as fast for 4 and 8 rows, as fast for 16, one core)."""

_LONGEST = 2**10
"""Elements that a product with ones adds up along the fastest axis; longer sums are made of such pieces."""

_VECTOR = 2**12
"""Elements that one dot product adds up."""


def total(x: np.ndarray, axes: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return `x` summed over `axes` in `dtype`: large arrays as products of vectors of ones with matrices.

    Such a product reads at the speed of memory, in any dtype that BLAS has. The slowest axis goes first if rows are
    long: adding whole rows up is the pass that memory is best at. Along the fastest axis, sums longer than
    `_LONGEST` are taken in pieces, whose sums NumPy adds up in pairs, so that no more digits are lost than by NumPy.
    """
    if dtype.char not in "fdFD" or x.dtype is not dtype:
        return np.asarray(np.add.reduce(x, axes, dtype))
    if x.size <= _VECTOR and dtype.kind == "f":
        found = _few(x, axes, dtype)
        return np.asarray(np.add.reduce(x, axes, dtype)) if found is None else found
    if x.size < SMALL or not x.flags.c_contiguous:
        return np.asarray(np.add.reduce(x, axes, dtype))
    summed = {axes} if isinstance(axes, int) else set(axes)
    if dtype.kind == "c":  # parts apart: infinity times a complex one is no number
        real = np.dtype(dtype.char.lower())
        return total(x.view(real).reshape(*x.shape, 2), tuple(summed), real).view(dtype)[..., 0]
    shape = [n for k, n in enumerate(x.shape) if k not in summed]
    runs = [
        (gone, prod(x.shape[k] for k in ks)) for gone, ks in groupby(range(x.ndim), lambda k: k in summed)
    ]
    inside = runs[0][1] <= _FEW and runs[-1][0] and _ROW <= runs[-1][1] <= _LONGEST
    if runs[0][0] and x.size >= _SHORT * runs[0][1] and not inside:
        x = _ones(runs[0][1], dtype).dot(x.reshape(runs[0][1], -1))
        del runs[0]
    tail = 1
    while runs:
        gone, n = runs.pop()
        if not gone:
            tail *= n
        elif tail == 1:
            x = _row_sums(x.reshape(-1, n))
        elif tail < _SHORT:
            x = x.reshape(-1, n, tail).sum(1)
        else:
            x = np.matmul(_ones(n, dtype), x.reshape(-1, n, tail))
    return x.reshape(shape)


def _few(x: np.ndarray, axes: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    """Return the sums of a small array as one product, which is the quickest call there is, or None."""
    found: np.ndarray
    if x.ndim == 1:
        found = x.dot(_ones(x.size, dtype))
        return found
    if not x.flags.c_contiguous:
        return None
    if type(axes) is tuple:
        return np.asarray(x.reshape(-1).dot(_ones(x.size, dtype))) if len(axes) == x.ndim else None
    if x.ndim > 2:
        return None
    found = x.dot(_ones(x.shape[1], dtype)) if axes == 1 else _ones(x.shape[0], dtype).dot(x)
    return found


def _row_sums(x: np.ndarray) -> np.ndarray:
    """Return the sums of the rows of a matrix in C order."""
    rows, n = x.shape
    if n < _SHORT:
        return np.asarray(x.sum(1))
    count = -(-n // _LONGEST)
    if n % count:
        return np.asarray(x.sum(1))
    parts = x.reshape(-1, n // count).dot(_ones(n // count, x.dtype))
    return parts if count == 1 else np.asarray(parts.reshape(rows, count).sum(1))


@lru_cache(maxsize=64)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    ones = np.ones(n, dtype)
    ones.flags.writeable = False
    return ones


def exact_matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the matrix product of two arrays of integers or truth values of one dtype, wrapped as NumPy does.

    The product goes through floats if no sum can be larger than what they hold exactly, which takes one look at
    all values; otherwise NumPy multiplies, one element after the other.
    """
    if (
        x.ndim < 2
        or y.ndim < 2
        or x.shape[-2] * x.shape[-1] * y.shape[-1] < SMALL
        or not x.size
        or not y.size
    ):
        return np.asarray(np.matmul(x, y))
    if x.dtype.kind == "b":
        return np.asarray(np.matmul(x.astype(np.float32), y.astype(np.float32)) != 0)
    bound = _largest(x) * _largest(y) * x.shape[-1]
    if bound >= 2**53:
        return np.asarray(np.matmul(x, y))
    work = np.float32 if bound < 2**24 else np.float64
    exact: np.ndarray = np.matmul(x.astype(work), y.astype(work))
    return np.asarray(exact.astype(np.int64).astype(x.dtype, copy=False))


def _largest(x: np.ndarray) -> int:
    return max(int(x.max()), -int(x.min()))


def wide_einsum(equation: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return np.einsum of two arrays of float16 or bfloat16, computed in float32."""
    return np.asarray(
        np.einsum(equation, x.astype(np.float32), y.astype(np.float32), optimize=True).astype(x.dtype)
    )
