"""Names of dtypes: `float32`, `bfloat16`, `object`, ... shared by all array libraries."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from contractc.errors import OperandError, UnsupportedError
from contractc.semirings import SEMIRINGS

WIDE = {"float16": "float32", "bfloat16": "float32"}
"""The dtype in which a narrow dtype is multiplied and accumulated."""


@lru_cache(maxsize=256)
def to_numpy(name: str) -> np.dtype:
    """Return the NumPy dtype called `name`; `bfloat16` needs the package ml_dtypes.

    Raises:
        UnsupportedError: NumPy has no dtype of that name here.
    """
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise UnsupportedError("bfloat16 on NumPy needs the package ml_dtypes") from None
        narrow: np.dtype = np.dtype(ml_dtypes.bfloat16)
        return narrow
    try:
        return np.dtype(name)
    except TypeError:
        raise UnsupportedError(f"NumPy has no dtype {name!r:.40}") from None


@lru_cache(maxsize=256)
def itemsize(name: str) -> int:
    """Return the bytes of one element (of one pointer for `object`)."""
    return 2 if name == "bfloat16" else to_numpy(name).itemsize


def is_dtype(name: object) -> bool:
    """Return whether `name` is the name of a dtype that values of a program can have."""
    return isinstance(name, str) and _is_dtype(name)


@lru_cache(maxsize=256)
def _is_dtype(name: str) -> bool:
    if name == "bfloat16":
        return True
    try:
        dtype = to_numpy(name)
    except UnsupportedError:
        return False
    return dtype.name == name and dtype.kind in "biufcO"


def wide(name: str) -> str:
    """Return the dtype in which values of dtype `name` are multiplied and accumulated."""
    return WIDE.get(name, name)


def is_complex(name: str) -> bool:
    """Return whether dtype `name` is complex."""
    return name.startswith("complex") or name == "clongdouble"


def is_floating(name: str) -> bool:
    """Return whether dtype `name` has infinities: real or complex floating."""
    return name.startswith(("float", "bfloat", "longdouble")) or is_complex(name)


def widens(dtype: str, other: str) -> bool:
    """Return whether numbers of dtype `dtype` can be read as `other`: of its kind, or one that includes it."""
    return _kind(dtype) <= _kind(other)


def _kind(name: str) -> int:
    """Return the place of a dtype in the order bool, integer, real, complex, object."""
    if name in ("bool", "object"):
        return 0 if name == "bool" else 4
    return 1 if name.startswith(("int", "uint")) else 3 if is_complex(name) else 2


def check_numeric(dtype: np.dtype, where: str) -> None:
    """Raise TypeError if einsum has no meaning for `dtype` (texts, dates, records)."""
    if dtype.kind not in "biufcO" and dtype.name != "bfloat16":
        raise TypeError(f"{where} has dtype {dtype}; einsum needs numbers, bool or object")


def promote(names: Iterable[str]) -> str:
    """Return the dtype in which NumPy combines arrays of these dtypes."""
    return np.result_type(*(to_numpy(n) for n in names)).name


def result_dtype(semiring: str, dtype: str) -> str:
    """Return the dtype of a result in `semiring` for operands promoted to `dtype`.

    `or_and` gives bool, `log_sum_exp` at least a float; ordered semirings refuse complex numbers, and bool
    is no number for those that add.

    Raises:
        OperandError: the semiring has no meaning for that dtype.
    """
    ring = SEMIRINGS[semiring]
    if ring.ordered and is_complex(dtype):
        raise OperandError(f"{semiring} needs an order; {dtype} has none")
    if semiring == "or_and":
        return "bool"
    if semiring == "sum_product":
        return dtype
    if dtype == "bool":
        raise OperandError(f"{semiring} needs numbers, not bool")
    if semiring == "log_sum_exp" and dtype != "object" and not is_floating(dtype):
        return promote([dtype, "float32"])
    return dtype


def zero_of(semiring: str, dtype: str) -> float | int:
    """Return the neutral element of addition as a Python number of dtype `dtype`.

    Raises:
        UnsupportedError: the zero is infinite and the dtype has no infinity.
    """
    zero = SEMIRINGS[semiring].zero
    if zero == 0:
        return 0
    if dtype != "object" and not is_floating(dtype):
        raise UnsupportedError(f"the zero of {semiring} is {zero}, which {dtype} cannot hold")
    return zero
