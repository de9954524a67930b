"""Adapters: a trained layer stays as it is, a small factorized weight is added to it."""

from __future__ import annotations

import torch
from torch import nn

from contractc.errors import OperandError
from contractc.formats import low_rank, tt
from contractc.nn.linear import FactorizedLinear
from contractc.nn.weights import Split, balanced, fresh, of_kind

KINDS = ("lora", "loretta", "aflora")


class Adapter(nn.Module):
    """y = layer(x) + scale W x, where only W is trained; it is zero at first.

    Args:
        layer: the trained linear layer; its parameters are frozen.
        kind: "lora", a low-rank W (Hu et al. 2022); "loretta", a tensor train through row modes, then column modes
            (Yang et al. 2024); "aflora", a low-rank W with a trained diagonal on the rank and on the rows (Liu et al.
            2024).
        rank: of W.
        split: the row modes and column modes of the train; near-equal ones by default.
        scale: a number.
    """

    def __init__(
        self,
        layer: nn.Linear,
        *,
        kind: str = "lora",
        rank: int = 8,
        split: Split | None = None,
        scale: float = 1.0,
        batch: int = 256,
    ) -> None:
        super().__init__()
        of_kind(layer, nn.Linear)
        if kind not in KINDS:
            raise OperandError(f"kind={kind!r:.40} is none of {', '.join(KINDS)}")
        self.layer = layer.requires_grad_(False)
        self.scale = scale
        like = layer.weight
        if kind == "loretta":
            split = split or (balanced(layer.out_features, 3), balanced(layer.in_features, 3))
            made = fresh("tt", split, rank, device=like.device, dtype=like.dtype)
            delta = tt([torch.zeros_like(made.factors[0]), *made.factors[1:]], split=split)
        else:
            right = like.new_empty(rank, layer.in_features)
            nn.init.kaiming_uniform_(right, a=5**0.5)
            left = like.new_zeros(layer.out_features, rank)
            if kind == "aflora":
                nn.init.kaiming_uniform_(left, a=5**0.5)
                vectors = like.new_ones(rank), like.new_zeros(layer.out_features)
                delta = low_rank(left, right, *vectors)
            else:
                delta = low_rank(left, right)
        self.delta = FactorizedLinear.from_factors(delta, batch=batch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the adapted layer's output [..., out_features]."""
        y: torch.Tensor = self.layer(x)
        delta: torch.Tensor = self.delta(x)
        return y + self.scale * delta

    def merged(self) -> nn.Linear:
        """Return a dense layer that gives what this one gives now."""
        merged = nn.Linear(self.layer.in_features, self.layer.out_features, self.layer.bias is not None)
        merged = merged.to(device=self.layer.weight.device, dtype=self.layer.weight.dtype)
        with torch.no_grad():
            merged.weight.copy_(self.layer.weight + self.scale * self.delta.weight.operand().to_dense())
            if self.layer.bias is not None:
                merged.bias.copy_(self.layer.bias)
        return merged
