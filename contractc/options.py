"""What a call may ask for beside its operands, and what the environment asks for: the only reader of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

from contractc.errors import OperandError, StoreError


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


def store_folder() -> Path | None:
    """Return the folder of the store: CONTRACTC_STORE (`off` for none), else one in the user's cache.

    That is `$XDG_CACHE_HOME/contractc` or `~/.cache/contractc`, on macOS `~/Library/Caches/contractc`, on Windows
    `%LOCALAPPDATA%\\contractc`: the places that platformdirs gives, except that no path names an author.

    Raises:
        StoreError: this user has no home.
    """
    asked = os.environ.get("CONTRACTC_STORE", "")
    if asked:
        return None if asked == "off" else Path(asked).absolute()
    cache = Path(os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", ""))
    if cache.is_absolute():  # the standard of these variables: relative names are ignored
        return cache / "contractc"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path()
    if not home.is_absolute():
        raise StoreError("there is no home folder; CONTRACTC_STORE can name another place")
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "contractc"
