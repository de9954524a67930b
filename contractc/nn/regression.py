"""Layers on tensors: contraction (TCL) and regression (TRL), without flattening what comes in."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn

from contractc.errors import OperandError
from contractc.formats import Factorized
from contractc.nn.planned import Planned, accepted, biased
from contractc.nn.weights import Weight, built, copied, fresh

_LETTERS = "cdefghijklmn"


class TCL(nn.Module):
    """Tensor contraction layer: each mode n_k of x [b, n1, n2, ...] is mapped to m_k (Kossaifi et al. 2017).

    Args:
        in_shape: n1, n2, ...; out_shape: m1, m2, ...
        batch: the number of samples that is planned for.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        bias: bool = True,
        batch: int = 64,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(in_shape) != len(out_shape) or not 0 < len(in_shape) <= len(_LETTERS):
            raise OperandError(
                f"a TCL maps each of 1 to {len(_LETTERS)} modes, not {in_shape} to {out_shape}"
            )
        self.in_shape, self.out_shape, self.batch = tuple(in_shape), tuple(out_shape), batch
        self.factors = nn.ParameterList(
            nn.Parameter(torch.empty(m, n, device=device, dtype=dtype).uniform_(-(n**-0.5), n**-0.5))
            for m, n in zip(out_shape, in_shape, strict=True)
        )
        self.bias = nn.Parameter(torch.zeros(self.out_shape, device=device, dtype=dtype)) if bias else None
        inner = _LETTERS[: len(self.in_shape)]
        outer = inner.upper()
        terms = ",".join(m + n for m, n in zip(outer, inner, strict=True))
        shapes = tuple(zip(self.out_shape, self.in_shape, strict=True))
        operands = ((batch, *self.in_shape), *shapes)
        self.planned = Planned(f"b{inner},{terms}->b{outer}", operands, "b", self.factors[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [b, m1, m2, ...] for x [b, n1, n2, ...]."""
        y: torch.Tensor = self.planned.forward(accepted(x, self.factors[0].dtype), *self.factors)
        return biased(y, self.bias)

    def extra_repr(self) -> str:
        return f"in_shape={self.in_shape}, out_shape={self.out_shape}, bias={self.bias is not None}"


class TRL(nn.Module):
    """Tensor regression layer: y = <x, W>, W [n1, n2, ..., outputs] held as factors (Kossaifi et al. 2020).

    Args:
        in_shape: n1, n2, ... of x [b, n1, n2, ...].
        outputs: the number of outputs.
        format: "cp", "tucker" or "tt"; rank: as in `contractc.nn.fresh`.
        batch: the number of samples that is planned for.
        dropout, lasso: see `Weight`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        outputs: int,
        *,
        format: str = "tucker",
        rank: int | Sequence[int] = 8,
        bias: bool = True,
        batch: int = 64,
        dropout: float = 0.0,
        lasso: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if format not in ("cp", "tucker", "tt"):
            raise OperandError(f"format={format!r:.40} is none of cp, tucker, tt")
        if not 0 < len(in_shape) <= len(_LETTERS):
            raise OperandError(f"a TRL takes 1 to {len(_LETTERS)} modes, not {len(in_shape)}")
        split = tuple((n,) for n in (*in_shape, outputs))
        std = (3 * prod(in_shape)) ** -0.5
        operand = fresh(format, split, rank, std=std, device=device, dtype=dtype)
        values = torch.zeros(outputs, device=device, dtype=dtype) if bias else None
        self._build(Weight(operand, dropout=dropout, lasso=lasso), values, batch)

    def _build(self, weight: Weight, bias: torch.Tensor | None, batch: int) -> None:
        self.weight, self.batch = weight, batch
        self.bias = copied(bias)
        *shape, _ = weight.layout.shape()
        inner = _LETTERS[: len(shape)]
        self.planned = Planned(
            f"b{inner},{inner}o->bo", ((batch, *shape), weight.layout), "b", weight.factors[0]
        )

    @classmethod
    def from_factors(
        cls, weight: Factorized | Weight, bias: torch.Tensor | None = None, *, batch: int = 64
    ) -> TRL:
        """Return a layer with the weight [n1, n2, ..., outputs] in these factors."""
        return built(cls, weight, bias, batch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [b, outputs] for x [b, n1, n2, ...]."""
        factors = self.weight()
        y: torch.Tensor = self.planned.forward(accepted(x, factors[0].dtype), *factors)
        return biased(y, self.bias)
