"""Tensors of the CPU given to a program on NumPy arrays: the same memory, where nobody watches the calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contractc.backends.torch.compiled import unwatched
from contractc.recent import MISS


def hosted(
    run: Callable[..., Any], make: Callable[[], Callable[..., Any]], alone: bool
) -> Callable[..., Any]:
    """Return `run` that lets the code of `make`, for arrays of NumPy, do what nobody watches.

    Autograd, torch.func, torch.compile, autocast and other modes have to see aten calls, and tensors of other
    devices have no memory here: for these `run` is called. `make` is called when it is first needed.

    Args:
        alone: leave it to `run` where torch may use several threads, which NumPy's loops do not.
    """
    made: list[Callable[..., Any]] = []

    def run_hosted(*tensors: Any) -> Any:
        if not unwatched(tensors):
            return run(*tensors)
        if alone and threads() > 1:
            return run(*tensors)
        if not made:
            made.append(on_arrays(make()))
        return made[0](*tensors)

    return run_hosted


def on_arrays(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return the code `run` for arrays of NumPy as a function of tensors that nobody watches."""

    def run_on_arrays(*tensors: Tensor) -> Any:
        with np.errstate(all="ignore"):  # torch does not warn of overflow either
            result = run(*[_array(x) for x in tensors])
        if result is MISS:
            return MISS
        return tuple(map(_tensor, result)) if isinstance(result, tuple) else _tensor(result)

    return run_on_arrays


def threads() -> int:
    """Return how many threads torch may use in an operation."""
    return torch.get_num_threads()


def arrays(constants: Sequence[Tensor]) -> list[np.ndarray]:
    """Return constants as arrays on the same memory."""
    return [_array(x) for x in constants]


def _array(x: Tensor) -> np.ndarray:
    return x.numpy(force=True)


def _tensor(x: Any) -> Tensor:
    return torch.from_numpy(np.asarray(x))
