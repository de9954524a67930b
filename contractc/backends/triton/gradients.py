"""Derivatives of steps that run as kernels: contractions again, with the gradient in place of one input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from contractc.backends.triton.backward import differentiable, gradient_task
from contractc.backends.triton.launch import Step
from contractc.backends.triton.tasks import Task

Compute = Callable[..., Tensor]
"""The contraction that a task describes, of tensors."""


Apart = Callable[[Task, tuple[bool, ...]], Callable[..., Tensor] | None]
"""A fused task as several steps, given which inputs require grad, or None where it is cheaper as a whole."""


def recorded(compute: Compute, apart: Apart, step: Step, *tensors: Tensor) -> Tensor:
    """Return the contraction of `tensors`, recorded for autograd; backward steps are made by `compute`.

    What is fastest as one kernel for its value alone need not be so with its gradients: each of them computes what is
    inside anew, where several steps keep it.
    """
    if not differentiable(step.task):
        result: Tensor = step.plain(*tensors)
        return result
    steps = apart(step.task, tuple([x.requires_grad for x in tensors]))
    if steps is not None:
        return steps(*tensors)
    return _Recorded.apply(compute, step, *tensors)  # type: ignore[no-any-return]


class _Recorded(torch.autograd.Function):
    """A step whose backward steps run as kernels too, and can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, compute: Compute, step: Step, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.compute, ctx.step = compute, step
        return step.launch(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        found = (
            gradient_of(ctx.compute, ctx.step, k, gradient, tensors) if wanted else None
            for k, wanted in enumerate(needed)
        )
        return None, None, *found


def gradient_of(compute: Compute, step: Step, at: int, gradient: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return the gradient of input `at` of a step."""
    x = tensors[at]
    task, lone = gradient_task(step.task, at)
    others = [y for k, y in enumerate(tensors) if k != at]
    found: Tensor = compute(task, gradient, *others)
    if found.dtype != x.dtype:  # a real input of a complex product
        found = found.real.to(x.dtype)
    if not lone:
        return found
    kept = task.terms[-1]
    term = step.task.terms[at]
    index = tuple(None if m in lone else slice(None) for m in term)
    order = [kept.index(m) for m in term if m not in lone]
    return found.permute(order)[index].expand(x.shape)
