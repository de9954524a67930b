"""One backward program for a whole contraction, in place of torch's differentiation of each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contractc.recent import MISS

_transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
"""Whether torch.func transforms the running code; a torch that does not tell differentiates each call itself."""

_forward_mode = torch.autograd.forward_ad


class _Mismatch(Exception):
    """The operands are not the ones the code was generated for."""


@dataclass(frozen=True, slots=True, eq=False)
class Backward:
    """The gradients of one result of the forward code.

    `run` takes the values at the places `reads` (operands and results of the forward code, in that order) and the
    cotangent, and returns the gradients by the operands `targets`.
    """

    run: Callable[..., Any]
    reads: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """Code for the value together with the intermediates that gradients need, and for the gradients.

    `forward` returns the value and then the intermediates. `backwards[r]` is for result r; the value's reads
    everything that is kept.
    """

    forward: Callable[..., Any]
    backwards: tuple[Backward, ...]
    arity: int


def differentiated(
    run: Callable[..., Any], make: Callable[[tuple[bool, ...]], Joint | None]
) -> Callable[..., Any]:
    """Return `run` that differentiates as a whole where plain tensors record gradients.

    `make` gives the code for a pattern of operands that require grad, or None where torch shall differentiate each
    call; so it does while it traces or transforms, under autocast and in forward mode.
    """
    joints: dict[tuple[bool, ...], Joint | None] = {}

    def run_and_record(*operands: Any) -> Any:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return run(*operands)
        needs = tuple([_records(x) for x in operands])
        if True not in needs or _transformed(operands):
            return run(*operands)
        if needs not in joints:
            joints[needs] = make(needs)
        joint = joints[needs]
        if joint is None:
            return run(*operands)
        try:
            return _Contraction.apply(joint, *operands)[0]  # type: ignore[no-untyped-call]
        except _Mismatch:
            return MISS

    return run_and_record


def _records(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _transformed(operands: Sequence[Any]) -> bool:
    """Return whether something else than autograd's recording takes part."""
    if any(type(x) not in (Tensor, torch.nn.Parameter) for x in operands) or _transforms_active():
        return True
    return getattr(_forward_mode, "_current_level", 0) >= 0 or torch.is_autocast_enabled(
        operands[0].device.type
    )


class _Contraction(torch.autograd.Function):
    """The value and the intermediates its gradients need, all of them differentiable.

    The backward code is plain calls on what was kept, so it can be differentiated again; what flows back into the
    intermediates then takes their own backward code.
    """

    @staticmethod
    def forward(ctx: Any, joint: Joint, *operands: Tensor) -> Any:
        results = joint.forward(*operands)
        if results is MISS:
            raise _Mismatch
        results = results if isinstance(results, tuple) else (results,)
        ctx.joint = joint
        ctx.set_materialize_grads(False)
        places = joint.backwards[0].reads
        ctx.save_for_backward(*((*operands, *results)[k] for k in places))
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        joint: Joint = ctx.joint
        kept = dict(zip(joint.backwards[0].reads, ctx.saved_tensors, strict=True))
        found: list[Tensor | None] = [None] * joint.arity
        for code, cotangent in zip(joint.backwards, cotangents, strict=True):
            if cotangent is None or not code.targets:
                continue
            gradients = code.run(*(kept[k] for k in code.reads), cotangent)
            assert gradients is not MISS, "generated code refuses the operands it was generated for"
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
            for k, gradient in zip(code.targets, gradients, strict=True):
                before = found[k]
                found[k] = gradient if before is None else before + gradient
        return (None, *found)
