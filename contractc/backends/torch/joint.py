"""One backward program for a whole contraction, in place of torch's differentiation of each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from contractc.backends.torch.compiled import has_tangents, in_jit_trace, unwatched
from contractc.backends.torch.hosted import threads
from contractc.recent import MISS

_transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
"""Whether torch.func transforms the running code; a torch that does not tell differentiates each call itself."""


class _Mismatch(Exception):
    """The operands are not the ones the code was generated for."""


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """Code for the value together with the intermediates that gradients need, and for the gradients.

    `forward` takes the operands and returns the value, in a tuple with the intermediates if there are any. `backward`
    takes the operands at the places `operands`, the intermediates and the cotangent, and returns the gradients by the
    operands `targets`. The operands `others` are those that intermediates stand for there. `plain` is the value alone
    as calls that torch can differentiate. `host` says that the first two are for memory of the CPU that nobody watches.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    plain: Callable[..., Any]
    operands: tuple[int, ...]
    others: tuple[int, ...]
    targets: tuple[int, ...]
    arity: int
    host: bool


def differentiated(
    run: Callable[..., Any],
    make: Callable[[tuple[bool, ...], bool], Joint | None],
    host: bool,
    alone: bool,
    calls: int,
) -> Callable[..., Any]:
    """Return `run` that differentiates as a whole where plain tensors record gradients.

    `make` gives the code for a pattern of operands that require grad, or None where torch shall differentiate each
    call; so it does while it traces or transforms, under autocast, in forward mode, and in the first `calls` calls.

    Args:
        host: whether `make` has code for memory of the CPU, too, which it is asked for where only autograd watches.
        alone: that code is for where torch has one thread.
    """
    joints: dict[tuple[tuple[bool, ...], bool], Joint | None] = {}
    waiting: dict[tuple[bool, ...], int] = {}

    def run_and_record(*operands: Any) -> Any:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return run(*operands)
        if any(type(x) is not Tensor and type(x) is not Parameter for x in operands):
            return run(*operands)  # of a class that takes part in calls
        needs = tuple([x.requires_grad for x in operands])
        if True not in needs or _transformed(operands):
            return run(*operands)
        key = needs, host and not (alone and threads() > 1) and unwatched(operands, recorded=True)
        if key not in joints:
            waiting[needs] = waiting.get(needs, 0) + 1
            if waiting[needs] <= calls:
                return run(*operands)
            joints[key] = make(*key)
        joint = joints[key]
        if joint is None:
            return run(*operands)
        try:
            return _Contraction.apply(joint, *operands)  # type: ignore[no-untyped-call]
        except _Mismatch:
            return MISS

    return run_and_record


def _transformed(operands: Sequence[Tensor]) -> bool:
    """Return whether something else than autograd's recording takes part in a call."""
    if _transforms_active() or in_jit_trace() or has_tangents(operands):
        return True
    device = operands[0].device.type  # "meta", for one, has no autocast
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


class _Contraction(torch.autograd.Function):
    """The value; its gradients by the backward code, or, where they are differentiated again, by calls of torch."""

    @staticmethod
    def forward(ctx: Any, joint: Joint, *operands: Tensor) -> Any:
        results = joint.forward(*operands)
        if results is MISS:
            raise _Mismatch
        value, *kept = results if isinstance(results, tuple) else (results,)
        ctx.joint = joint
        ctx.shapes = [x.shape for x in operands]
        others = [k for k in joint.others if operands[k].requires_grad]
        ctx.others = others
        ctx.fixed = {k: (operands[k], _version(operands[k])) for k in joint.others if k not in others}
        ctx.save_for_backward(*[operands[k] for k in joint.operands], *kept, *[operands[k] for k in others])
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        joint: Joint = ctx.joint
        saved = ctx.saved_tensors
        read = saved[: len(saved) - len(ctx.others)]
        again = torch.is_grad_enabled()
        if again or (joint.host and not unwatched((*read, cotangent))):
            given = dict(zip(joint.operands, saved, strict=False)) | _unchanged(ctx.fixed)
            given |= dict(zip(ctx.others, saved[len(read) :], strict=True))
            gradients = _again(joint, given, ctx.shapes, cotangent, again)
        else:
            gradients = joint.backward(*read, cotangent)
            assert gradients is not MISS, "generated code refuses the operands it was generated for"
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        found: list[Tensor | None] = [None] * joint.arity
        for k, gradient in zip(joint.targets, gradients, strict=True):
            found[k] = gradient
        return (None, *found)


def _version(x: Tensor) -> int | None:
    """Return how often a tensor has been changed in place, or None where nobody counts."""
    return None if x.is_inference() else x._version


def _unchanged(fixed: Mapping[int, tuple[Tensor, int | None]]) -> dict[int, Tensor]:
    """Return operands that nothing is asked of, and that were not saved: the first gradients need not know them."""
    for k, (x, version) in fixed.items():
        if _version(x) != version:
            raise RuntimeError(
                f"operand {k} was changed in place since the value was computed, and is needed again"
            )
    return {k: x for k, (x, _) in fixed.items()}


def _again(
    joint: Joint, given: Mapping[int, Tensor], shapes: Sequence[torch.Size], cotangent: Tensor, recorded: bool
) -> Sequence[Tensor]:
    """Return the gradients by calls of torch, as functions of operands and cotangent if that is `recorded`.

    The value is computed anew.

    What is not `given` the gradients do not depend on, so zeros stand for it. Every operand gets a view of its own: one
    tensor may stand in several places.
    """
    # Not made from the cotangent, which may stand for many.
    zero = torch.zeros((), dtype=cotangent.dtype, device=cotangent.device)
    with torch.enable_grad():
        views = [given[k].view_as(given[k]) if k in given else zero.expand(s) for k, s in enumerate(shapes)]
        views = [
            x if x.requires_grad or k not in joint.targets else x.requires_grad_()
            for k, x in enumerate(views)
        ]
        value = joint.plain(*views)
    return torch.autograd.grad(value, [views[k] for k in joint.targets], cotangent, create_graph=recorded)
