"""What a module runs: a compiled expression that can be copied and pickled, as it is made from its arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from contractc.api import compile
from contractc.executable import Executable
from contractc.formats import Factorized
from contractc.operands import Layout


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A compiled expression, called with tensors: an operand that has a layout is given as its factors.

    `operands` has a shape or a layout for each operand; the extents of the `dynamic` modes are what is planned for.
    What is cheapest with gradients need not be so without: `training` is planned with mode="train", `inferring` with
    mode="infer".
    """

    expression: str
    operands: tuple[tuple[int, ...] | Layout, ...]
    dynamic: str
    dtype: torch.dtype
    device: str
    training: Executable = field(repr=False)
    inferring: Executable = field(repr=False)

    def run(self, module: torch.nn.Module, *tensors: torch.Tensor) -> Any:
        """Return the contraction of `tensors`, as planned for training while `module` trains and torch records."""
        chosen = self.training if module.training and torch.is_grad_enabled() else self.inferring
        return chosen(*tensors)

    def __reduce__(self) -> tuple[Any, ...]:
        return planned, (self.expression, self.operands, self.dynamic, self.dtype, self.device)

    def __deepcopy__(self, memo: object) -> Planned:
        return self


def planned(
    expression: str,
    operands: tuple[tuple[int, ...] | Layout, ...],
    dynamic: str,
    dtype: torch.dtype,
    device: str,
) -> Planned:
    """Return `expression` compiled for torch tensors; see `Planned`."""
    made = []
    for recorded in (True, False):
        given = [_stand_in(x, dtype, recorded) for x in operands]
        mode = "train" if recorded else "infer"
        made.append(compile(expression, *given, dynamic=tuple(dynamic), target=f"torch:{device}", mode=mode))
    return Planned(expression, operands, dynamic, dtype, device, *made)


def _stand_in(operand: tuple[int, ...] | Layout, dtype: torch.dtype, recorded: bool) -> Any:
    """Return an operand without values: what is planned depends on shapes, and on what torch records."""
    if not isinstance(operand, Layout):
        return torch.empty(operand, dtype=dtype, device="meta", requires_grad=recorded)
    shapes = [tuple(operand.extents[m] for m in term) for term in operand.terms]
    return Factorized(operand, tuple(_stand_in(s, dtype, recorded) for s in shapes))


def accepted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return `x` in `dtype` where autocast converts between layers, and as it is elsewhere."""
    if x.dtype is not dtype and torch.is_autocast_enabled(x.device.type):
        return x.to(dtype)
    return x
