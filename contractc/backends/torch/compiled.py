"""Steps that run as compiled loops, on dense tensors of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.utils import _python_dispatch
from torch.utils._device import DeviceContext

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
        lambda shape: torch.empty(shape, dtype=dtype, device="cpu"),
        lambda size: torch.empty(size, dtype=torch.uint8, device="cpu"),
        dtypes,
    )

    def make() -> Callable[..., Any]:
        if step.how == HOW_FIRST and _refused(program, step):
            return pairwise
        return loops.compiled(program, step, library)

    fast = loops.at_first_call(make) if step.how == HOW_FIRST else make()

    def run(*tensors: Any) -> Any:
        return fast(*tensors) if unwatched(tensors) else pairwise(*tensors)

    return run


def _refused(program: Program, step: Contract) -> bool:
    return not loops.installed() or loops.refuses(program, step) is not None


def unwatched(tensors: Sequence[Any], recorded: bool = False) -> bool:
    """Return whether all are memory of the CPU whose derivatives nobody asks for, and no mode sees the calls.

    Args:
        recorded: derivatives that autograd records are seen to by the caller.
    """
    if (
        torch.compiler.is_compiling()
        or in_jit_trace()
        or _python_dispatch.is_in_torch_dispatch_mode()
        or torch.is_autocast_enabled("cpu")
        or _sees_functions()
    ):
        return False
    recording = not recorded and torch.is_grad_enabled()
    for x in tensors:
        if type(x) is not Tensor and type(x) is not Parameter:
            return False
        if not x.is_cpu or (recording and x.requires_grad):
            return False
        try:
            if not x.untyped_storage().data_ptr():  # freed, as that of sharded parameters is
                return False
        except RuntimeError:  # a wrapper of torch.func, or zeros that are not written out
            return False
    return not has_tangents(tensors)


def in_jit_trace() -> bool:
    """Return whether torch.jit.trace writes down the running calls: what it does not see is a constant of its graph."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _sees_functions() -> bool:
    """Return whether a mode sees the functions of torch: all do but a default device, which is for new tensors only."""
    return torch.overrides._is_torch_function_mode_enabled() and any(  # type: ignore[attr-defined]
        type(mode) is not DeviceContext
        for mode in torch.overrides._get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    )


def has_tangents(tensors: Sequence[Tensor]) -> bool:
    """Return whether one is differentiated in forward mode."""
    if getattr(forward_ad, "_current_level", 0) < 0:
        return False
    return any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)  # type: ignore[no-untyped-call]


def _form(x: Tensor) -> int:
    if x.is_conj() or x.is_neg():
        return COPIED
    if x.is_contiguous():
        return ORDERED
    return UNIT if x.stride(-1) == 1 else STRIDED


def _copied(x: Tensor) -> Tensor:
    return x.resolve_conj().resolve_neg().contiguous()
