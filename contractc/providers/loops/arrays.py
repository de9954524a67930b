"""Where arrays of NumPy, and tuples of them, have what machine code has to know: by NumPy's C API."""

from __future__ import annotations

import sys
from ctypes import c_int32, c_size_t
from functools import cache
from typing import NamedTuple

import numpy as np

IN_ORDER = 1
"""NumPy's flag of arrays in C order, NPY_ARRAY_C_CONTIGUOUS of its C API."""


class Layout(NamedTuple):
    """Where in a tuple its items begin, and where in an array of NumPy its address and its flags are, in bytes."""

    items: int
    data: int
    flags: int


@cache
def layout() -> Layout | None:
    """Return how tuples and arrays lie in memory in this process, or None where they are not as expected.

    An array begins as any object, then come address, rank, shape, strides, base, dtype and flags: PyArrayObject_fields
    of NumPy's C API, which compiled extensions rely on. It is tried on arrays whose answers are known.
    """
    if sys.implementation.name != "cpython":
        return None
    head = object.__basicsize__
    found = Layout(tuple.__basicsize__, head, head + 48)
    x = np.zeros((3, 5))
    samples = (x, x.T, x[1:], x[:, 1:])
    for k, sample in enumerate(samples):
        item = c_size_t.from_address(id(samples) + found.items + 8 * k).value
        if item != id(sample):
            return None
        address = c_size_t.from_address(item + found.data).value
        flags = c_int32.from_address(item + found.flags).value
        ordered = bool(flags & IN_ORDER)
        if address != sample.__array_interface__["data"][0] or ordered != sample.flags.c_contiguous:
            return None
    return found
