"""Steps that run as compiled loops, on dense tensors of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _python_dispatch

from contractc.backends import Compiled
from contractc.fused import unfused
from contractc.programs import Contract, Program
from contractc.providers import loops
from contractc.providers.loops import COPIED, HOW_FIRST, ORDERED, STRIDED, UNIT, Library


def torch_loops(
    program: Program, step: Contract, compile_: Callable[[Program], Compiled]
) -> Callable[..., Any]:
    """Return the function of tensors that computes `step`: loops where nobody watches, pairwise aten calls else.

    Autograd, torch.func, torch.compile, autocast and other modes have to see aten calls, and tensors of other
    devices have no memory here.
    """
    pairwise = compile_(unfused(program, step)).run
    if step.how != HOW_FIRST and _refused(program, step):
        return pairwise
    known = program.values()
    dtypes = tuple(getattr(torch, known[i].dtype) for i in step.inputs)
    dtype = getattr(torch, step.out.dtype)
    library = Library(
        _form,
        Tensor.data_ptr,
        Tensor.stride,
        _copied,
        lambda shape: torch.empty(shape, dtype=dtype),
        lambda size: torch.empty(size, dtype=torch.uint8),
        dtypes,
    )

    def make() -> Callable[..., Any]:
        if step.how == HOW_FIRST and _refused(program, step):
            return pairwise
        return loops.compiled(program, step, library)

    fast = loops.at_first_call(make) if step.how == HOW_FIRST else make()

    def run(*tensors: Any) -> Any:
        if torch.compiler.is_compiling() or watched() or not all(map(plain, tensors)):
            return pairwise(*tensors)
        return fast(*tensors)

    return run


def _refused(program: Program, step: Contract) -> bool:
    return not loops.installed() or loops.refuses(program, step) is not None


def watched() -> bool:
    """Return whether a mode wants to see the calls that are made."""
    return (
        _python_dispatch.is_in_torch_dispatch_mode()
        or torch.is_autocast_enabled("cpu")
        or torch.overrides._is_torch_function_mode_enabled()  # type: ignore[attr-defined]
    )


def plain(x: Tensor) -> bool:
    """Return whether `x` is memory of the CPU and no derivative of it is asked for."""
    if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
        return False
    if x.device.type != "cpu" or (x.requires_grad and torch.is_grad_enabled()):
        return False
    if forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
        return False
    try:
        x.data_ptr()
    except RuntimeError:  # a wrapper of torch.func
        return False
    return True


def _form(x: Tensor) -> int:
    if x.is_conj() or x.is_neg():
        return COPIED
    if x.is_contiguous():
        return ORDERED
    return UNIT if x.stride(-1) == 1 else STRIDED


def _copied(x: Tensor) -> Tensor:
    return x.resolve_conj().resolve_neg().contiguous()
