"""What a call may ask for beside its operands."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from contractc.errors import OperandError


@dataclass(frozen=True, slots=True)
class Options:
    """How an expression is to be planned and computed; hashable, so that it can be part of a cache key.

    `optimize` is what `search` takes, lists as tuples. `memory_limit` is in bytes or "max_input".
    `dtype` is the dtype to compute in and `element_type` that of the result (None: promoted).
    """

    optimize: Any = None
    memory_limit: int | str | None = None
    semiring: str = "sum_product"
    conj: tuple[int, ...] = ()
    exponent: bool = False
    dtype: str | None = None
    element_type: str | None = None


def frozen(optimize: Any) -> Any:
    """Return `optimize` with lists as tuples, and NumPy's pair (name, elements) as its name.

    NumPy's limit of elements only steers its path; the value is the same without it.
    """
    if isinstance(optimize, tuple | list):
        if len(optimize) == 2 and isinstance(optimize[0], str) and isinstance(optimize[1], int | float):
            return optimize[0]
        return tuple(tuple(step) if isinstance(step, tuple | list) else step for step in optimize)
    return optimize


def conjugated(conj: int | Iterable[int], count: int) -> tuple[int, ...]:
    """Return the operand numbers in `conj`, sorted.

    Raises:
        OperandError: a number that no operand has.
    """
    numbers = tuple(conj) if isinstance(conj, Iterable) else (index(conj),)
    for k in numbers:
        if not 0 <= k < count:
            raise OperandError(f"conj names operand {k}; there are {count} operands")
    return tuple(sorted(set(numbers)))


def bytes_allowed(memory_limit: int | str | None, inputs: Sequence[int]) -> int | None:
    """Return a memory limit in bytes of everything alive at once, or None for no limit.

    Args:
        memory_limit: bytes; None or -1 for no limit; "max_input" for the operands and twice the largest
            of them.
        inputs: the bytes of each operand.
    """
    if memory_limit is None or memory_limit == -1:
        return None
    if memory_limit == "max_input":
        return sum(inputs) + 2 * max(inputs, default=0)
    if isinstance(memory_limit, str) or memory_limit < 0:
        raise ValueError(f"memory_limit={memory_limit!r} is no number of bytes, None, -1 or 'max_input'")
    return int(memory_limit)


def environment_with(changes: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `changes`, for a process to be started."""
    return {**os.environ, **changes}
