"""Contractions in any semiring on NumPy, block by block so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from contractc.dtypes import zero_of
from contractc.errors import OperandError
from contractc.notation import Term
from contractc.semirings import Semiring

BLOCK = 2**20
"""Most elements of the joint index space that are in memory at a time."""


def contract_blocked(
    ring: Semiring, arrays: Sequence[Any], terms: Sequence[Term], out: Term, work: np.dtype
) -> np.ndarray:
    """Return the contraction of `arrays` to `out` in `ring`, computed in dtype `work` by broadcasting.

    Beside the result at most a few blocks of `BLOCK` elements are allocated.

    Raises:
        OperandError: `ring` is max_times and a value is negative.
        UnsupportedError: a sum is empty and `work` cannot hold the semiring's zero.
    """
    views, modes = [], dict.fromkeys(out)
    for array, term in zip(arrays, terms, strict=True):
        x = (array != 0) if ring.name == "or_and" else np.asarray(array).astype(work, copy=False)
        if ring.name == "max_times" and x.size and x.min() < 0:
            raise OperandError("max_times needs values that are not negative")
        views.append((_one_axis_a_mode(x, term), tuple(dict.fromkeys(term))))
        modes |= dict.fromkeys(term)
    extent = {m: n for x, own in views for m, n in zip(own, x.shape, strict=True)}
    space = (*dict.fromkeys(out), *(m for m in modes if m not in out))
    kept = len(dict.fromkeys(out))
    aligned = [_aligned(x, own, space) for x, own in views]
    shape = [extent[m] for m in space]
    result = np.empty(shape[:kept], work)
    multiply, add, reduce = getattr(np, ring.multiply), getattr(np, ring.add), _reducer(ring)
    axes = tuple(range(kept, len(space)))
    if 0 in shape[kept:] and 0 not in shape[:kept]:
        result[...] = zero_of(ring.name, work.name)
    for first, block in block_slices(shape, kept, BLOCK):
        part = aligned[0][_clipped(aligned[0], block)]
        for x in aligned[1:]:
            part = multiply(part, x[_clipped(x, block)])
        part = np.broadcast_to(part, [s.stop - s.start for s in block])
        part = reduce(part, axes) if axes else part
        place: Any = (*block[:kept], ...)
        result[place] = part if first else add(result[place], part)
    return result if len(out) == kept else spread(result, tuple(space.index(m) for m in out), ring, work)


def block_slices(shape: Sequence[int], kept: int, most: int) -> Iterator[tuple[bool, tuple[slice, ...]]]:
    """Return the blocks, of at most `most` elements, that tile an index space of this `shape`.

    The first `kept` axes stay in the result, the others are summed; the flag tells whether a block is the
    first of its place in the result. Leading axes are cut first, so that blocks stay long in memory.
    """
    if 0 in shape:
        return
    size = list(shape)
    total = 1
    for n in shape:
        total *= n
    for axis, n in enumerate(shape):
        rest = total // n
        if total <= most:
            break
        size[axis] = max(1, most // rest) if rest < most else 1
        total = rest * size[axis]
    ranges = [[slice(k, min(k + s, n)) for k in range(0, n, s)] for s, n in zip(size, shape, strict=True)]
    for block in product(*ranges):
        yield all(s.start == 0 for s in block[kept:]), block


def _clipped(x: np.ndarray, block: Sequence[slice]) -> tuple[Any, ...]:
    return (*(slice(None) if n == 1 else s for n, s in zip(x.shape, block, strict=True)), ...)


def _reducer(ring: Semiring) -> Any:
    if ring.name != "log_sum_exp":
        return getattr(np, ring.add).reduce
    return _log_sum_exp


def _log_sum_exp(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    top = np.max(x, axis=axes, keepdims=True)
    safe = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore", over="ignore"):
        total: np.ndarray = np.log(np.exp(x - safe).sum(axis=axes, keepdims=True)) + safe
    return total.reshape([n for axis, n in enumerate(x.shape) if axis not in axes])


def _one_axis_a_mode(x: np.ndarray, term: Term) -> np.ndarray:
    modes = list(term)
    for m in dict.fromkeys(term):
        while modes.count(m) > 1:
            one = modes.index(m)
            two = modes.index(m, one + 1)
            x = x.diagonal(0, one, two)
            del modes[two], modes[one]
            modes.append(m)
    order = tuple(dict.fromkeys(term))
    return x.transpose([modes.index(m) for m in order])


def _aligned(x: np.ndarray, own: Term, space: Term) -> np.ndarray:
    x = x.transpose([own.index(m) for m in space if m in own])
    return x[(*(slice(None) if m in own else None for m in space), ...)]


def spread(x: np.ndarray, axes: tuple[int, ...], ring: Semiring, dtype: np.dtype) -> np.ndarray:
    """Return an array with axis k of the result running along axis `axes[k]` of `x`; elsewhere the zero.

    Axes that repeat span a diagonal: `axes == (0, 0)` puts a vector on the diagonal of a matrix.
    """
    shape = [x.shape[a] for a in axes]
    only_diagonal = not x.size or all(x.shape[a] == 1 for a in axes if axes.count(a) > 1)
    result = (
        np.empty(shape, dtype) if only_diagonal else np.full(shape, zero_of(ring.name, dtype.name), dtype)
    )
    grid = np.ogrid[tuple(slice(n) for n in x.shape)]
    result[tuple(grid[a] for a in axes)] = x
    return result
