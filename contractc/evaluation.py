"""The slow evaluator: what an einsum means. Every lowering is tested against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contractc.dtypes import is_complex, to_numpy, wide, zero_of
from contractc.errors import ResourceLimitError
from contractc.semirings import SEMIRINGS

LIMIT = 2**24
"""Most elements the slow evaluator holds at a time."""

Array = np.ndarray[Any, Any]


def evaluate_einsum(
    terms: Sequence[tuple[int, ...]],
    outputs: Sequence[tuple[int, ...]],
    extents: Sequence[int] | Mapping[int, int],
    arrays: Sequence[Array],
    *,
    dtypes: Sequence[str],
    semiring: str = "sum_product",
    conj: Sequence[bool] = (),
) -> tuple[Array, ...]:
    """Return one array per output: operands are combined in the order given, by broadcasting alone.

    Modes are summed as soon as no later operand and no output has them. Every operand is converted to the
    dtype in which the result's `dtypes[0]` accumulates, and the results to `dtypes`.

    Args:
        terms: the modes of each operand; a mode may be repeated.
        outputs: the modes of each result; a mode may be repeated (the value is on the diagonal, the
            semiring's zero elsewhere); along a mode that no operand has the result is constant.
        extents: of every mode.
        arrays: the operands, shapes as `terms` and `extents` say.
        dtypes: of each result.
        semiring: by name.
        conj: which operands are conjugated.

    Raises:
        ResourceLimitError: more than `LIMIT` elements at a time.
    """
    ring = SEMIRINGS[semiring]
    multiply, add = getattr(np, ring.multiply), getattr(np, ring.add)
    name = wide(dtypes[0])
    work = np.dtype(bool) if semiring == "or_and" else to_numpy(name)
    wanted = {m for term in outputs for m in term}
    modes: tuple[int, ...] = ()
    value: Array = np.array(int(ring.one), work)
    for k, (term, array) in enumerate(zip(terms, arrays, strict=True)):
        array = array.astype(bool) if semiring == "or_and" else array.astype(work)
        if k < len(conj) and conj[k] and (is_complex(array.dtype.name) or array.dtype.hasobject):
            array = np.asarray(array.conj(), array.dtype)
        array, own = _diagonal(array, term)
        union = tuple(dict.fromkeys((*modes, *own)))
        size = 1
        for m in union:
            size *= extents[m]
        if size > LIMIT:
            raise ResourceLimitError(f"the slow evaluator would hold {size} elements, more than {LIMIT}")
        left, right = _spread(value, modes, union), _spread(array, own, union)
        value = np.asarray(right if k == 0 else multiply(left, right))
        value = np.broadcast_to(value, [extents[m] for m in union])
        later = {m for t in terms[k + 1 :] for m in t} | wanted
        modes = tuple(m for m in union if m in later)
        value = _reduce(add, value, [i for i, m in enumerate(union) if m not in later], semiring, name)
    return tuple(
        _place(add, value, modes, term, extents, semiring, name).astype(to_numpy(dtype))
        for term, dtype in zip(outputs, dtypes, strict=True)
    )


def _diagonal(array: Array, term: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Return `array` with one axis for each distinct mode of `term`, and these modes."""
    own = tuple(dict.fromkeys(term))
    if len(own) == len(term):
        return array, own
    grid = np.indices([array.shape[term.index(m)] for m in own])
    return array[tuple(grid[own.index(m)] for m in term)], own


def _spread(array: Array, modes: tuple[int, ...], union: tuple[int, ...]) -> Array:
    """Return `array` with its axes in the order of `union`, extent 1 where it lacks a mode."""
    array = array.transpose([modes.index(m) for m in union if m in modes])
    return array[tuple(slice(None) if m in modes else None for m in union)]


def _reduce(add: Any, array: Array, axes: Sequence[int], semiring: str, dtype: str) -> Array:
    if not axes:
        return array
    if array.size:
        return np.asarray(
            add.reduce(array, axis=tuple(axes), dtype=None if semiring == "or_and" else array.dtype)
        )
    shape = [n for axis, n in enumerate(array.shape) if axis not in axes]
    if 0 in shape:
        return np.empty(shape, array.dtype)
    return np.full(shape, zero_of(semiring, dtype), array.dtype)


def _place(
    add: Any,
    array: Array,
    modes: tuple[int, ...],
    term: tuple[int, ...],
    extents: Sequence[int] | Mapping[int, int],
    semiring: str,
    dtype: str,
) -> Array:
    """Return `array`, which has `modes`, with the axes of `term`."""
    array = _reduce(add, array, [i for i, m in enumerate(modes) if m not in term], semiring, dtype)
    modes = tuple(m for m in modes if m in term)
    own = tuple(dict.fromkeys(term))
    new = tuple(m for m in own if m not in modes)
    if new:
        array = np.broadcast_to(array, [*(extents[m] for m in new), *array.shape])
        modes = (*new, *modes)
    array = array.transpose([modes.index(m) for m in own])
    if len(own) == len(term):
        return array
    shape = [extents[m] for m in term]
    if 0 in shape:
        return np.empty(shape, array.dtype)
    if all(extents[m] == 1 for m in own if term.count(m) > 1):
        return array.reshape(shape)
    result = np.full(shape, zero_of(semiring, dtype), array.dtype)
    grid = np.indices(array.shape)
    result[tuple(grid[own.index(m)] for m in term)] = array
    return result
