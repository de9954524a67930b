"""The torch backend: one program is one straight-line Python function of plain aten calls.

Nothing is written in place and, in sums of products, no value is looked at, so that autograd, torch.func,
autocast, torch.compile and torch.export see what they would see had the calls been written by hand. The code
names no device: it runs where the tensors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contractc.backends import Compiled
from contractc.backends.emit import emit
from contractc.backends.torch import hosted, joint
from contractc.backends.torch.dialect import DTYPES, Torch
from contractc.dtypes import is_complex, to_numpy
from contractc.errors import OperandError, UnsupportedError
from contractc.operands import Operand
from contractc.programs import Fused, Loop, Program

__all__ = ["as_array", "compile", "constant", "hosted", "joint", "promote", "refuses", "to_bytes"]

_MOST_AXES = 64
"""The rank up to which torch sums."""


def as_array(x: Any, number: int, like: Any = None) -> Tensor:
    """Return operand `number` as a dense tensor; lists and numbers become tensors on the device of `like`.

    Raises:
        OperandError: it is an array of another library, a tensor that is not dense, or on another device than
            `like` (a 0-d tensor of the CPU goes with any device, as in torch).
    """
    if isinstance(x, Tensor):
        if x.layout != torch.strided or x.is_quantized or x.is_nested:
            kind = "nested " if x.is_nested else "quantized " if x.is_quantized else ""
            layout = "" if kind else f" of layout {x.layout}"
            raise OperandError(f"operand {number} is a {kind}tensor{layout}, not a dense one")
        if (
            isinstance(like, Tensor)
            and x.device != like.device
            and not (_goes_anywhere(x) or _goes_anywhere(like))
        ):
            raise OperandError(
                f"operand {number} is on {x.device}, but others on {like.device}; move one of them"
            )
        return x
    if isinstance(x, np.ndarray | np.generic) or hasattr(x, "__array_namespace__"):
        raise OperandError(f"operand {number} is a {type(x).__name__}, not a torch tensor; convert it")
    return torch.as_tensor(x, device=like.device if isinstance(like, Tensor) else None)


def _goes_anywhere(x: Tensor) -> bool:
    return x.ndim == 0 and x.device.type == "cpu"


def refuses(program: Program) -> str | None:
    """Return why `program` cannot run on torch, or None when it can."""
    values = program.values().values()
    for step in program.steps:
        if isinstance(step, Fused):
            return f"%{step.outs[0].number} is a fused step of several results, which is for NumPy"
        if isinstance(step, Loop):
            reason = refuses(step.body)
            if reason is not None:
                return reason
    for value in values:
        if value.dtype not in DTYPES:
            return f"%{value.number} is {value.dtype}, which torch does not have"
        if len(value.modes) > _MOST_AXES:
            return f"%{value.number} has {len(value.modes)} axes, torch sums over at most {_MOST_AXES}"
    results = [program.value(i).dtype for i in program.results]
    for value in program.inputs:
        if is_complex(value.dtype) and any(not is_complex(r) and r not in ("bool", "int64") for r in results):
            return f"%{value.number} is {value.dtype}, which would lose its imaginary part"
    return None


def promote(operands: Sequence[Operand]) -> str:
    """Return the dtype that torch.result_type gives: tensors without axes count only if of a higher kind.

    Raises:
        OperandError: torch does not combine these dtypes.
    """
    return _promoted(
        tuple(dict.fromkeys(o.dtype for o in operands if o.shape)),
        tuple(dict.fromkeys(o.dtype for o in operands if not o.shape)),
    )


@lru_cache(maxsize=1024)
def _promoted(with_axes: tuple[str, ...], without: tuple[str, ...]) -> str:
    try:
        dtypes = [_common(names) for names in (with_axes, without) if names]
        if len(dtypes) == 2:
            one = torch.empty((1,), dtype=dtypes[0], device="cpu")
            none = torch.empty((), dtype=dtypes[1], device="cpu")
            dtypes = [torch.result_type(one, none)]
    except (RuntimeError, AttributeError):
        listed = ", ".join((*with_axes, *without))
        raise OperandError(f"torch has no common dtype for {listed}; convert some operands") from None
    name = str(dtypes[0]).removeprefix("torch.")
    if name == "complex32":
        raise OperandError(
            "float16 and complex numbers give complex32, with which torch hardly computes; convert one"
        )
    return name


def _common(names: Sequence[str]) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, names[0])
    for name in names[1:]:
        dtype = torch.promote_types(dtype, getattr(torch, name))
    return dtype


def compile(program: Program, constants: Sequence[Any] = ()) -> Compiled:
    """Return `program` as a Python function on tensors."""
    return emit(program, Torch(), constants, "<contractc torch program>")


def constant(x: Tensor, number: int) -> Tensor:
    """Return a copy of constant operand `number`.

    Raises:
        OperandError: it requires grad; a copy would cut it off from its gradient.
    """
    if x.requires_grad:
        raise OperandError(
            f"operand {number} requires grad, so it cannot be a constant; detach it, or give it at each call"
        )
    return x.detach().clone(memory_format=torch.contiguous_format)


def to_portable(x: Tensor) -> np.ndarray:
    """Return a constant as a NumPy array, for a file.

    Raises:
        UnsupportedError: NumPy has no such dtype.
    """
    host = x.detach().resolve_conj().resolve_neg().cpu().contiguous()
    name = str(x.dtype).removeprefix("torch.")
    if name == "bfloat16":
        return host.view(torch.uint16).numpy().view(to_numpy(name))
    if name not in DTYPES or name == "complex32":
        raise UnsupportedError(f"NumPy has no {name}")
    return np.asarray(host.numpy())


def from_portable(x: np.ndarray, device: str) -> Tensor:
    """Return the constant that `to_portable` gave, from a file, on `device`."""
    native = np.array(x, to_numpy(x.dtype.name), order="C")
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(native.view(np.uint16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(native).to(device)


def unavailable(device: str) -> str | None:
    """Return why tensors cannot be on `device` here, or None when they can."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return None


def version() -> str:
    """Return the library and its version, for people to read."""
    return f"torch {torch.__version__}"


def to_bytes(x: Tensor) -> bytes:
    """Return what identifies a constant: dtype, shape and values."""
    host = x.detach().resolve_conj().resolve_neg().cpu().contiguous()
    body = host.reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{x.dtype}{tuple(x.shape)}".removeprefix("torch.").encode() + body
