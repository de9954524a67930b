"""Matrix and elementwise products of NumPy arrays computed by torch, written into memory of NumPy.

Torch allocates nothing here: fresh memory costs it several times what it costs NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.utils import _python_dispatch

from contractc.providers.reductions import wide_einsum

_transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
"""Whether torch.func transforms the running code, where torch tells."""


@cache
def works() -> bool:
    """Return whether a small product comes out right."""
    x = np.arange(6.0).reshape(2, 3)
    out = np.empty((2, 2))
    try:
        torch_matmul(x, x.T, out)
    except (RuntimeError, TypeError, ValueError):
        return False
    return bool((out == x @ x.T).all())


def _tensor(x: np.ndarray) -> Any:
    """Return `x` as a tensor on the same memory; torch cannot say that it is read-only, and reads only.

    Raises:
        ValueError: torch has no negative strides; or a mode or transform of torch sees its calls, and may not do them.
    """
    if _python_dispatch.is_in_torch_dispatch_mode() or _transforms_active():
        raise ValueError("torch does something else here")
    if not x.flags.writeable:
        interface = {**x.__array_interface__, "data": (x.__array_interface__["data"][0], False)}
        owner = type("Writeable", (), {"__array_interface__": interface, "owner": x})()
        x = np.asarray(owner)
    return torch.from_numpy(x)


def torch_matmul(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Write the matrix products of the last two axes of `x` and `y` to `out`; leading axes broadcast."""
    try:
        tensors = _tensor(x), _tensor(y), _tensor(out)
    except ValueError:
        np.matmul(x, y, out=out)
        return
    _matmul(tensors[0], tensors[1], tensors[2])


def _matmul(x: Any, y: Any, out: Any) -> None:
    if out.dim() == 2:
        if out.stride(1) != 1:
            x, y, out = y.t(), x.t(), out.t()
        torch.mm(x, y, out=out)
    elif out.dim() == 3:
        if out.stride(2) != 1:
            x, y, out = y.transpose(1, 2), x.transpose(1, 2), out.transpose(1, 2)
        count = out.shape[0]
        torch.bmm(x.expand(count, -1, -1), y.expand(count, -1, -1), out=out)
    else:
        loops = out.dim() - 3
        for at in product(*(range(n) for n in out.shape[:loops])):
            inner = [t[tuple(i * (t.shape[k] > 1) for k, i in enumerate(at))] for t in (x, y)]
            _matmul(inner[0], inner[1], out[at])


def torch_accumulate(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Write the sum over the first axis of the matrix products of `x` and `y` to `out`; both have two more axes."""
    if out.strides[-1] != out.itemsize:
        x, y, out = y.swapaxes(-1, -2), x.swapaxes(-1, -2), out.T
    try:
        a, b, c = _tensor(x), _tensor(y), _tensor(out)
    except ValueError:
        np.sum(np.matmul(x, y), 0, out=out)
        return
    torch.mm(a[0], b[0], out=c)
    for k in range(1, len(a)):
        c.addmm_(a[k], b[k])


def torch_multiply(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Write the elementwise product of `x` and `y`, broadcast, to `out`."""
    try:
        tensors = _tensor(x), _tensor(y), _tensor(out)
    except ValueError:
        np.multiply(x, y, out=out)
        return
    torch.mul(tensors[0], tensors[1], out=tensors[2])


def torch_einsum(equation: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return torch.einsum of two arrays of float16 or bfloat16, multiplied as they are, summed in float32."""
    if torch.is_autocast_enabled("cpu"):  # it would give another dtype
        return wide_einsum(equation, x, y)
    try:
        left, right = _narrow(x), _narrow(y)
    except ValueError:
        return wide_einsum(equation, x, y)
    turned = _as_product(equation)
    if turned is None:
        result = torch.einsum(equation, left, right).contiguous()
    else:  # torch.einsum takes some 20 us more
        a, b = (left.t() if turned[0] else left), (right.t() if turned[1] else right)
        result = torch.mm(b.t(), a.t()) if turned[2] else torch.mm(a, b)
    return result.view(torch.int16).numpy().view(x.dtype)


@cache
def _as_product(equation: str) -> tuple[bool, bool, bool] | None:
    """Return whether left, right and result of a product of two matrices are transposed, None if it is none."""
    inputs, _, out = equation.partition("->")
    left, right = inputs.split(",")
    summed = set(left) & set(right)
    if [len(left), len(right), len(out), len(summed)] != [2, 2, 2, 1] or summed & set(out):
        return None
    (k,) = summed
    return left[0] == k, right[1] == k, out[0] in right


def _narrow(x: np.ndarray) -> Any:
    """Return `x`, whose elements have two bytes, as a tensor on the same memory, copied if a stride is negative."""
    if min(x.strides, default=0) < 0:
        x = x.copy()  # np.ascontiguousarray leaves the strides of axes of extent 1 as they are
    return _tensor(x.view(np.int16)).view(torch.float16 if x.dtype.kind == "f" else torch.bfloat16)


def torch_convert(x: np.ndarray, out: np.ndarray) -> None:
    """Write `x` to `out`, which is in C order, in the dtype of `out`."""
    try:
        target, source = (_narrow(a) if a.dtype.itemsize == 2 else _tensor(a) for a in (out, x))
    except ValueError:
        out[...] = x
        return
    target.copy_(source)
