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


def total(x: np.ndarray, axes: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return `x` summed over `axes` in `dtype`: large arrays as products of vectors of ones with matrices.

    Along the fastest axis NumPy adds up in pairs, which loses fewer digits than a product; there it stays.
    """
    if x.size < SMALL or x.dtype is not dtype or dtype.kind not in "fc" or dtype.itemsize == 2:
        return np.asarray(x.sum(axes, dtype))
    summed = {axes} if isinstance(axes, int) else set(axes)
    if not x.flags.c_contiguous or dtype.char not in "fdFD":
        return np.asarray(x.sum(axes, dtype))
    shape = [n for k, n in enumerate(x.shape) if k not in summed]
    runs = [
        (gone, prod(x.shape[k] for k in ks)) for gone, ks in groupby(range(x.ndim), lambda k: k in summed)
    ]
    tail = 1
    while runs:
        gone, n = runs.pop()
        if not gone:
            tail *= n
        elif tail < _SHORT:
            x = x.reshape(-1, n, tail).sum(1)
        else:
            x = np.matmul(_ones(n, dtype), x.reshape(-1, n, tail))
    return x.reshape(shape)


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
