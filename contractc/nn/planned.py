"""What a module runs: an expression compiled for torch tensors, and again when the module changes dtype or device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from contractc.api import compile
from contractc.executable import Executable
from contractc.formats import Factorized
from contractc.machine import Target
from contractc.operands import Layout
from contractc.reading import where


class Planned(nn.Module):
    """A compiled expression, called with tensors: an operand that has a layout is given as its factors.

    What is cheapest with gradients need not be so without: `learning` is planned with mode="train", `inferring` with
    mode="infer". Where these run as kernels, `watched` are the same planned for calls of torch, which is what
    torch.compile and autocast see; elsewhere it is None. As a module it goes where the module around it goes, and knows
    whether that trains.

    Args:
        operands: a shape or a layout for each operand; the extents of the `dynamic` modes are what is planned for.
        like: a tensor of the dtype and on the device that is planned for.
    """

    learning: Executable
    inferring: Executable
    watched: tuple[Executable, Executable] | None

    def __init__(
        self,
        expression: str,
        operands: tuple[tuple[int, ...] | Layout, ...],
        dynamic: str,
        like: torch.Tensor,
    ) -> None:
        super().__init__()
        self.expression, self.operands, self.dynamic = expression, operands, dynamic
        self._plan(like)

    def _plan(self, like: torch.Tensor) -> None:
        self.dtype, self.device = like.dtype, _device(like)
        target, calls = where("torch", self.device), Target("torch", self.device)
        self.learning, self.inferring = self._both(target)
        self.watched = None if target == calls else self._both(calls)

    def _both(self, target: Target) -> tuple[Executable, Executable]:
        """Return what is cheapest with gradients, and what is without."""
        asked = self.expression, self.operands, self.dynamic, self.dtype, target
        return _compiled(*asked, recorded=True), _compiled(*asked, recorded=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Planned:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        like = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        if (like.dtype, _device(like)) != (self.dtype, self.device):
            self._plan(like)
        return self

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Return the contraction of `tensors`, as planned for training while this trains and torch records."""
        learning, inferring = self.learning, self.inferring
        if self.watched is not None and (torch.compiler.is_compiling() or _autocast(tensors[0])):
            learning, inferring = self.watched
        return (learning if self.training and torch.is_grad_enabled() else inferring)(*tensors)

    def extra_repr(self) -> str:
        return self.expression


@lru_cache(maxsize=512)
def _compiled(
    expression: str,
    operands: tuple[tuple[int, ...] | Layout, ...],
    dynamic: str,
    dtype: torch.dtype,
    target: Target,
    *,
    recorded: bool,
) -> Executable:
    """Return an expression compiled for operands without values: equal layers share what they run."""
    given = [_stand_in(x, dtype, recorded) for x in operands]
    mode = "train" if recorded else "infer"
    return compile(expression, *given, dynamic=tuple(dynamic), target=target, mode=mode)


def _device(like: torch.Tensor) -> str:
    """Return what is planned for: the CPU, until a module without values gets some."""
    return "cpu" if like.device.type == "meta" else like.device.type


def _stand_in(operand: tuple[int, ...] | Layout, dtype: torch.dtype, recorded: bool) -> Any:
    """Return an operand without values: what is planned depends on shapes, and on what torch records."""
    if not isinstance(operand, Layout):
        return torch.empty(operand, dtype=dtype, device="meta", requires_grad=recorded)
    shapes = [tuple(operand.extents[m] for m in term) for term in operand.terms]
    return Factorized(operand, tuple(_stand_in(s, dtype, recorded) for s in shapes))


def as_they_are(x: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast converts nothing on the device of `x`."""
    return torch.autocast(x.device.type, enabled=False) if _autocast(x) else nullcontext()


CASTS = (torch.float16, torch.bfloat16, torch.float32)
"""The dtypes that autocast converts into each other."""


def accepted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return `x` in `dtype` where autocast converts between layers, and as it is elsewhere."""
    if x.dtype is not dtype and x.dtype in CASTS and dtype in CASTS and _autocast(x):
        return x.to(dtype)
    return x


def biased(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return `y` with `bias` added, in the dtype of autocast where that is on, as torch.nn's layers are."""
    if y.dtype in CASTS and _autocast(y):
        y = y.to(torch.get_autocast_dtype(y.device.type))
    return y if bias is None else y + bias.to(y.dtype)


def _autocast(x: torch.Tensor) -> bool:
    """Return whether autocast is on for the device of `x`; not all devices have it."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
