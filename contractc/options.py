"""What a call may ask for beside its operands, and what the environment asks for: the only reader of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any

from contractc.errors import OperandError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

OBJECTIVES = ("seconds", "flops", "size", "write")
"""What a search may minimise."""

PRECISIONS = ("default", "strict", "fast")
"""How float32 (and complex64) is multiplied on tensor cores: see `Options`."""


@dataclass(frozen=True, slots=True)
class Search:
    """How the order is searched for: what `optimize=` takes where a name says too little.

    Args:
        method: the name of a search; see `contractc.search.SEARCHES`.
        time_limit: seconds that planning may take, from the call to the plan; None lets the search decide, which
            takes no longer than running the contraction would, and a second at most.
        moves: moves of annealing, instead of as many as there is time for: a number, or what `Plan.moves` says of
            an earlier plan. The plan then depends on nothing but the network and the seed.
        seed: of the random numbers.
        threads: runs of annealing at the same time, where numba is installed; with `moves` the plan is the same for
            any number.
        minimize: "seconds" on the machine model, "flops", the "size" of the largest intermediate, or what the steps
            "write".
        progress: called with a `contractc.search.clock.Progress` ten times a second; True for a bar of tqdm
            where that is installed and stderr is a terminal.
    """

    method: str = "auto"
    time_limit: float | None = None
    moves: int | tuple[int, ...] | None = None
    seed: int = 0
    threads: int = 1
    minimize: str = "seconds"
    progress: Callable[[Any], Any] | bool = field(default=False, compare=False, metadata={"stored": False})

    def __post_init__(self) -> None:
        """Refuse what no search can do.

        Raises:
            ValueError: a negative time or number of moves, no thread, an unknown objective.
        """
        if type(self.threads) is not int or self.threads < 1:
            raise ValueError(f"threads={self.threads!r:.40} is no number of threads")
        if self.minimize not in OBJECTIVES:
            raise ValueError(f"minimize={self.minimize!r:.40} is none of {', '.join(OBJECTIVES)}")
        if self.time_limit is not None and not self.time_limit >= 0:
            raise ValueError(f"time_limit={self.time_limit!r:.40} is no number of seconds")
        numbers = self.moves if isinstance(self.moves, tuple) else (self.moves or 0,)
        lengths = (2, 4) if isinstance(self.moves, tuple) else (1,)
        if any(type(n) is not int or n < 0 for n in numbers) or len(numbers) % 7 not in lengths:
            raise ValueError(f"moves={self.moves!r:.40} is no number of moves and no plan's moves")


@dataclass(frozen=True, slots=True)
class Options:
    """How an expression is to be planned and computed; hashable, so that it can be part of a cache key.

    `optimize` is what `search` takes, lists as tuples. `memory_limit` is in bytes or "max_input".
    `dtype` is the dtype to compute in and `element_type` that of the result (None: promoted). `ahead` tells that
    the code is made ahead of the calls, so that making it may take longer than a call is worth. `ordered` tells that
    results are wanted in C order; else they may be views in whatever order they are made. `tune` asks for steps whose
    ways are chosen by measurement, on NumPy arrays.

    `precision` of float32 on a GPU is "strict" (every product and sum in float32), "default" (products of three tf32
    parts each, nearly float32) or "fast" (one tf32 product, 10 bits of mantissa). On a CPU it is strict in any case.
    """

    optimize: Any = None
    memory_limit: int | str | None = None
    semiring: str = "sum_product"
    conj: tuple[int, ...] = ()
    exponent: bool = False
    dtype: str | None = None
    element_type: str | None = None
    ahead: bool = False
    ordered: bool = False
    precision: str = "default"
    tune: bool = False

    def __post_init__(self) -> None:
        """Refuse a precision that there is not; raises ValueError."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be 'default', 'strict' or 'fast', not {self.precision!r:.40}")


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
    from pathlib import Path  # loaded by those who use the store

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


def colors_wanted(stream: Any) -> bool:
    """Return whether text for `stream` may have colors: it is a terminal, and NO_COLOR and TERM do not forbid it."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return bool(stream.isatty()) and not plain
