"""The operations that a step can call by name, and the arithmetic of numbers that carry a power of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import frexp, isfinite
from typing import Any, NamedTuple

import numpy as np

from contractc.evaluation import Array
from contractc.notation import Term

Scaled = tuple[Any, int]
"""An array x and an exponent e: the numbers x * 2**e."""


class Operation(NamedTuple):
    """An operation a `Call` can name: modes and dtype of what it makes of given values, and the arrays it makes."""

    outs: Callable[[Sequence[Any]], list[tuple[Term, str]]]
    evaluate: Callable[[Sequence[Array]], list[Array]]


def times_power(x: Array, exponent: int) -> Array:
    """Return x * 2**exponent, exact where the result is a normal number."""
    if not exponent:
        return x
    exponent = max(-40000, min(40000, exponent))  # beyond all floats, so 0 or infinity; a C int
    if x.dtype.kind != "c":  # the name of a dtype is made anew each time, and takes longer than all else here
        return np.asarray(np.ldexp(x, exponent), x.dtype)
    value = np.empty(np.shape(x), x.dtype)  # a sum with 1j times the imaginary part makes NaN of infinities
    value.real, value.imag = np.ldexp(x.real, exponent), np.ldexp(x.imag, exponent)
    return value


def add_scaled(left: Scaled, right: Scaled) -> Scaled:
    """Return the sum of two arrays that carry exponents; zeros have none."""
    (x, a), (y, b) = left, right
    if a != b and not np.any(x):
        return y, b
    if a != b and not np.any(y):
        return x, a
    e = max(a, b)
    return np.add(times_power(x, a - e), times_power(y, b - e)), e


def _split_exponent(arrays: Sequence[Array]) -> list[Array]:
    (x,) = arrays
    parts = [x.real, x.imag] if x.dtype.kind == "c" else [x]
    largest = max([float(max(p.max(initial=0), -p.min(initial=0))) for p in parts])
    exponent = frexp(largest)[1] if isfinite(largest) else 0
    return [np.asarray(times_power(x, -exponent)), np.array(exponent)]


OPERATIONS = {
    "split_exponent": Operation(
        lambda values: [(values[0].modes, values[0].dtype), ((), "int64")],
        _split_exponent,
    ),
    "sum_exponents": Operation(
        lambda values: [((), "int64")],
        lambda arrays: [np.array(sum(int(x) for x in arrays))],
    ),
    "times_power": Operation(
        lambda values: [(values[0].modes, values[0].dtype)],
        lambda arrays: [times_power(arrays[0], int(arrays[1]))],
    ),
}
"""`split_exponent`: x -> (x / 2**e, e), the largest part of x / 2**e in [0.5, 1); e = 0 for zeros and infinities.
`sum_exponents`: any number of exponents -> their sum. `times_power`: x, e -> x * 2**e."""
