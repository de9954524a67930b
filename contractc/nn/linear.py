"""Linear layers and embeddings with factorized weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from contractc.errors import OperandError
from contractc.formats import Factorized
from contractc.nn.planned import Planned, accepted, as_they_are, biased
from contractc.nn.weights import Split, Weight, built, copied, decomposed, default_split, fresh, of_kind
from contractc.operands import Layout


class FactorizedLinear(nn.Module):
    """y = x W^T + bias, W [out_features, in_features] held as factors.

    Args:
        format, rank, split: see `contractc.nn.fresh`; without a split the axes are split into near-equal modes.
        bias: whether there is one.
        batch: the number of rows that is planned for. Any other number runs the same code.
        dropout, lasso: see `Weight`.

    >>> layer = FactorizedLinear(64, 32, format="monarch", rank=1)
    >>> layer(torch.zeros(2, 5, 64)).shape
    torch.Size([2, 5, 32])
    >>> [name for name in layer.state_dict()]
    ['bias', 'weight.factors.0', 'weight.factors.1']
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        format: str = "tt_matrix",
        rank: int | Sequence[int] = 8,
        split: Split | None = None,
        bias: bool = True,
        batch: int = 64,
        dropout: float = 0.0,
        lasso: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = out_features, in_features
        split = split or default_split(format, shape)
        operand = fresh(format, split, rank, shape=shape, device=device, dtype=dtype)
        bound = in_features**-0.5
        values = (
            torch.empty(out_features, device=device, dtype=dtype).uniform_(-bound, bound) if bias else None
        )
        self._build(Weight(operand, dropout=dropout, lasso=lasso), values, batch)

    def _build(self, weight: Weight, bias: torch.Tensor | None, batch: int) -> None:
        self.weight = weight.of_axes(2, "linear layer")
        self.bias = copied(bias)
        self.batch = batch
        self.out_features, self.in_features = weight.layout.shape()
        operands = ((batch, self.in_features), weight.layout)
        self.planned = Planned("bi,oi->bo", operands, "b", weight.factors[0])

    @classmethod
    def from_factors(
        cls, weight: Factorized | Weight, bias: torch.Tensor | None = None, *, batch: int = 64
    ) -> FactorizedLinear:
        """Return a layer with the weight [out_features, in_features] in these factors."""
        return built(cls, weight, bias, batch)

    @classmethod
    def from_layer(
        cls,
        layer: nn.Linear,
        *,
        format: str = "tt_matrix",
        rank: int | Sequence[int] | None = None,
        tolerance: float | None = None,
        split: Split | None = None,
        batch: int = 64,
    ) -> FactorizedLinear:
        """Return a layer near a dense one: of this rank, or within this relative error of its weight."""
        of_kind(layer, nn.Linear)
        weight = decomposed(layer.weight, format, split, rank, tolerance)
        return cls.from_factors(weight, layer.bias, batch=batch)

    def to_layer(self) -> nn.Linear:
        """Return the dense layer that gives the same: for inference where its weight is small enough."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight.operand().to_dense().detach())
        layer.register_parameter("bias", copied(self.bias))
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output [..., out_features] for x [..., in_features]."""
        if not x.ndim or x.shape[-1] != self.in_features:
            given = x.shape[-1] if x.ndim else "no"
            raise OperandError(f"x has {given} features, the layer takes {self.in_features}")
        factors = self.weight()
        rows = accepted(x, factors[0].dtype).reshape(-1, self.in_features)
        y: torch.Tensor = self.planned.forward(rows, *factors)
        return biased(y.reshape(*x.shape[:-1], self.out_features), self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


class FactorizedEmbedding(nn.Module):
    """Rows of W [num_embeddings, embedding_dim] held as factors; only the rows asked for are formed.

    Args:
        format, rank, split: as in `FactorizedLinear`.
        batch: the number of rows that is planned for.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        format: str = "tt_matrix",
        rank: int | Sequence[int] = 8,
        split: Split | None = None,
        batch: int = 256,
        dropout: float = 0.0,
        lasso: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = num_embeddings, embedding_dim
        split = split or default_split(format, shape)
        operand = fresh(format, split, rank, shape=shape, std=1.0, device=device, dtype=dtype)
        self._build(Weight(operand, dropout=dropout, lasso=lasso), batch)

    def _build(self, weight: Weight, batch: int) -> None:
        self.weight = weight.of_axes(2, "table of rows")
        self.batch = batch
        self.num_embeddings, self.embedding_dim = weight.layout.shape()
        layout, self.gathers = gathered_layout(weight.layout, batch)
        self.planned = Planned("pd->pd", (layout,), "p", weight.factors[0])

    @classmethod
    def from_factors(cls, weight: Factorized | Weight, *, batch: int = 256) -> FactorizedEmbedding:
        """Return an embedding with the weight [num_embeddings, embedding_dim] in these factors."""
        return built(cls, weight, batch)

    @classmethod
    def from_layer(
        cls,
        layer: nn.Embedding,
        *,
        format: str = "tt_matrix",
        rank: int | Sequence[int] | None = None,
        tolerance: float | None = None,
        split: Split | None = None,
        batch: int = 256,
    ) -> FactorizedEmbedding:
        """Return an embedding near a dense one: of this rank, or within this relative error.

        Raises:
            OperandError: its rows are not those of its weight alone, or their gradients are not.
        """
        of_kind(layer, nn.Embedding)
        if layer.padding_idx is not None or layer.max_norm is not None or layer.scale_grad_by_freq:
            raise OperandError(
                "an embedding with padding_idx, max_norm or scale_grad_by_freq has no factorized form"
            )
        return cls.from_factors(decomposed(layer.weight, format, split, rank, tolerance), batch=batch)

    def to_layer(self) -> nn.Embedding:
        """Return the dense embedding with the same rows."""
        layer = nn.Embedding(self.num_embeddings, self.embedding_dim, device="meta")
        layer.weight = nn.Parameter(self.weight.operand().to_dense().detach())
        return layer

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """Return the rows [..., embedding_dim] that `index` [...] names; negative numbers count from the last row.

        Raises:
            IndexError: there is no such row.
            OperandError: the numbers are not whole.
        """
        if index.dtype is torch.bool or index.dtype.is_floating_point or index.dtype.is_complex:
            raise OperandError(f"rows are named by whole numbers, not by {index.dtype}")
        numbers = index.reshape(-1).long()  # bytes would be a mask, and count to 255 only
        parts: dict[int, torch.Tensor] = {}
        slowest, *others = self.weight.layout.axes[0]
        for m in reversed(others):
            parts[m] = numbers % self.weight.layout.extents[m]
            numbers = numbers // self.weight.layout.extents[m]
        parts[slowest] = (
            numbers  # outside of its extent if the row is outside of the table, which torch refuses
        )
        factors = []
        for factor, (order, own) in zip(self.weight(), self.gathers, strict=True):
            if own:
                factor = factor.permute(order)[tuple(parts[m] for m in own)]
            factors.append(factor)
        with as_they_are(index):  # torch leaves tables of rows in their dtype
            rows: torch.Tensor = self.planned.forward(*factors)
        return rows.reshape(*index.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"


Gather = tuple[tuple[int, ...], tuple[int, ...]]


def gathered_layout(layout: Layout, rows: int) -> tuple[Layout, tuple[Gather, ...]]:
    """Return the layout of some rows of a matrix, and for each factor its axes with row modes first and those modes.

    Factors that have row modes share the mode of the rows gathered.
    """
    modes = layout.axes[0]
    fresh_mode = len(layout.extents)
    terms, gathers = [], []
    for term in layout.terms:
        own = tuple(m for m in term if m in modes)
        rest = tuple(m for m in term if m not in modes)
        terms.append((fresh_mode, *rest) if own else term)
        gathers.append((tuple(term.index(m) for m in (*own, *rest)), own))
    used = list(dict.fromkeys(m for term in terms for m in term))
    number = {m: k for k, m in enumerate(used)}
    made = Layout(
        f"rows of a {layout.format}",
        tuple(tuple(number[m] for m in term) for term in terms),
        ((number[fresh_mode],), tuple(number[m] for m in layout.axes[1])),
        tuple(rows if m == fresh_mode else layout.extents[m] for m in used),
    )
    return made, tuple(gathers)
