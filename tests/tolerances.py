"""How far a result may be from the truth: from the dtype and the number of additions, in one place."""

from __future__ import annotations

from typing import Any

import numpy as np

EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "complex64": 2.0**-23}
TINY = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "complex64": 2.0**-149}
"""The distance from 0 to the next number: what an underflow may lose."""


def epsilon(dtype: Any) -> float:
    """Return the distance from 1 to the next number of `dtype` (2**-52 for float64 and complex128)."""
    return EPSILON.get(str(dtype), 2.0**-52)


def tolerance(dtype: Any, length: int, operands: int, scale: Any = 1.0) -> Any:
    """Return the largest allowed absolute error of a sum of `length` products of `operands` factors.

    `scale` is the sum of the absolute values of the products (per result element): the bound is the classical
    one of any order of summation and any order of contraction. float16 and bfloat16 are rounded once per
    step and added up in float32; integers and bool are exact.
    """
    name = str(dtype)
    if np.dtype(name if name != "bfloat16" else "float32").kind in "biu":
        return 0.0 * np.asarray(scale, dtype=np.float64)
    step = epsilon(name)
    addition = epsilon("float32") if name in ("float16", "bfloat16") else step
    relative = 4 * (operands + 1) * step + 2 * length * addition
    return relative * np.asarray(scale, dtype=np.float64) + 2 * operands * (length + 1) * TINY.get(name, 0.0)
