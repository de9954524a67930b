"""Weight: the factors of an operand as parameters, with dropout, masks and a penalty on the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod
from typing import Any, TypeVar

import torch
from torch import nn

from contractc.errors import OperandError
from contractc.formats import (
    Factorized,
    cp,
    cp_from_dense,
    kronecker,
    kronecker_from_dense,
    low_rank,
    low_rank_from_dense,
    monarch,
    monarch_from_dense,
    tt,
    tt_from_dense,
    tt_matrix,
    tt_matrix_from_dense,
    tucker,
    tucker_from_dense,
    with_factors,
)
from contractc.formats.arrays import check_rank, one_of
from contractc.operands import Layout, is_torch

Split = Sequence[Sequence[int]]

Module = TypeVar("Module", bound=nn.Module)

FORMATS = ("cp", "tucker", "tt", "tt_matrix", "monarch", "low_rank", "kronecker")


class Weight(nn.Module):
    """The factors of a factorized operand as parameters.

    Args:
        operand: torch factors; they are copied.
        dropout: probability with which each value of each rank is left out of a training pass; those that stay are
            scaled so that the mean is the weight (Kolbeinsson et al. 2021).
        lasso: whether every value of every rank gets a learned scale (1 at first), for `penalty` and `pruned`.
    """

    layout: Layout

    def __init__(self, operand: Factorized, *, dropout: float = 0.0, lasso: bool = False) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise OperandError(f"dropout={dropout} is no probability below 1")
        if not all(is_torch(x) for x in operand.factors):
            raise OperandError(
                "the factors of a layer are torch tensors; formats.load(path, library='torch') has such"
            )
        self.layout = operand.layout
        self.dropout = dropout
        self.factors = nn.ParameterList(
            nn.Parameter(x.detach().clone().contiguous()) for x in operand.factors
        )
        self.places = rank_places(operand.layout)
        self.scales = nn.ParameterDict()
        for mode, factor in self.places if lasso else ():
            ones = torch.ones_like(self.factors[factor].detach().reshape(-1)[:1])
            self.scales[str(mode)] = nn.Parameter(ones.expand(self.layout.extents[mode]).clone())

    def forward(self) -> list[torch.Tensor]:
        """Return the factors as they enter a contraction: scaled, masked, and with dropout while training."""
        factors = list(self.factors)
        if not (self.scales or self._buffers or (self.dropout and self.training)):
            return factors
        for mode, at in self.places:
            term = self.layout.terms[at]
            shape = [-1 if m == mode else 1 for m in term]
            name = str(mode)
            if name in self.scales:
                factors[at] = factors[at] * self.scales[name].reshape(shape)
            mask = getattr(self, f"mask_{mode}", None)
            if mask is not None:
                factors[at] = factors[at] * mask.reshape(shape)
            if self.dropout and self.training:
                kept = torch.full_like(factors[at].detach().reshape(-1)[:1], 1 - self.dropout)
                noise = torch.bernoulli(kept.expand(self.layout.extents[mode])) / (1 - self.dropout)
                factors[at] = factors[at] * noise.reshape(shape)
        return factors

    def of_axes(self, axes: int, what: str) -> Weight:
        """Return this weight; raises OperandError unless its dense array has so many axes."""
        if len(self.layout.axes) != axes:
            raise OperandError(f"the weight of a {what} has {axes} axes, not {len(self.layout.axes)}")
        return self

    def operand(self) -> Factorized:
        """Return the operand that the weight stands for now; gradients reach the parameters."""
        return Factorized(self.layout, tuple(self()))

    def mask(self, mode: int, values: torch.Tensor | Sequence[float]) -> None:
        """Multiply the rank `mode` of the layout by `values` [r], zeros and ones, which are kept in the state.

        Raises:
            OperandError: the mode is no rank, or has another extent.
        """
        values = torch.as_tensor(values)
        if mode not in [m for m, _ in self.places]:
            raise OperandError(f"mode {mode} is no rank; the ranks are {[m for m, _ in self.places]}")
        if tuple(values.shape) != (self.layout.extents[mode],):
            raise OperandError(f"a mask of shape {tuple(values.shape)} for rank {self.layout.extents[mode]}")
        like = self.factors[0]
        self.register_buffer(f"mask_{mode}", values.to(device=like.device, dtype=like.dtype))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *more: Any) -> None:
        for mode, _ in self.places:  # masks are a part of the state that a new weight does not have
            values = state.get(f"{prefix}mask_{mode}")
            if values is not None and getattr(self, f"mask_{mode}", None) is None:
                self.mask(mode, values)
        super()._load_from_state_dict(state, prefix, *more)

    def penalty(self) -> torch.Tensor:
        """Return the sum of the sizes of all scales: the lasso penalty that makes ranks vanish."""
        if not self.scales:
            raise OperandError("a weight without lasso=True has no scales to penalise")
        return torch.stack([s.abs().sum() for s in self.scales.values()]).sum()

    def pruned(self, threshold: float) -> Weight:
        """Return a weight without the values of ranks whose scale times mask is at most `threshold` (one is kept).

        Scales and masks are multiplied into the factors.
        """
        training = self.training
        self.eval()
        factors = [f.detach() for f in self()]
        self.train(training)
        for mode, _ in self.places:
            both = [self.scales[str(mode)].detach().abs()] if str(mode) in self.scales else []
            both += [x for x in [getattr(self, f"mask_{mode}", None)] if x is not None]
            if not both:
                continue
            sizes = torch.stack(both).prod(0)
            kept = (sizes > threshold).nonzero()[:, 0]
            if len(kept) == 0:
                kept = sizes.argmax()[None]
            for at, term in enumerate(self.layout.terms):
                if mode in term:
                    factors[at] = factors[at].index_select(term.index(mode), kept)
        return Weight(with_factors(self.layout, factors), dropout=self.dropout)

    def extra_repr(self) -> str:
        return f"{Factorized(self.layout, tuple(self.factors))}"


def rank_places(layout: Layout) -> tuple[tuple[int, int], ...]:
    """Return every rank (a summed mode that ties factors together) and the smallest factor that has it."""
    outer = {m for axis in layout.axes for m in axis}
    places = []
    for m, n in enumerate(layout.extents):
        holders = [f for f, term in enumerate(layout.terms) if m in term]
        if m not in outer and (n > 1 or len(holders) > 1):
            places.append((m, min(holders, key=lambda f: prod(layout.extents[k] for k in layout.terms[f]))))
    return tuple(places)


def fresh(
    format: str,
    split: Split,
    rank: int | Sequence[int],
    *,
    shape: tuple[int, ...] | None = None,
    std: float | None = None,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> Factorized:
    """Return an operand with random factors.

    Args:
        format: one of `FORMATS`.
        split: the modes that each axis of the dense array is made of, such as `((4, 8), (8, 4))` for a 32x32 matrix.
        rank: of all modes, or one for each (Tucker).
        shape: of the dense array, if the split is to be held against it.
        std: what the entries of the dense array have as standard deviation; None for that of torch.nn.Linear.

    Raises:
        OperandError: there is no such format, it has no such split, or the split makes another shape.
    """
    shapes = shapes_of(format, split, rank)
    blank = [torch.empty(s, device=device, dtype=dtype) for s in shapes]
    made = assembled(format, split, blank)
    if shape is not None and made.shape != shape:
        raise OperandError(f"the split {tuple(split)} makes {made.shape}, not {shape}")
    if std is None:
        std = (3 * made.shape[-1]) ** -0.5
    paths = prod(made.layout.extents[m] for m, _ in rank_places(made.layout))
    # Uniform, not normal: a product of many normal factors is zero almost everywhere and huge elsewhere.
    bound = 3**0.5 * (std**2 / paths) ** (0.5 / len(blank))
    return with_factors(made.layout, [x.uniform_(-bound, bound) for x in blank])


def shapes_of(format: str, split: Split, rank: int | Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes of the factors of a `format` with this split and rank."""
    modes = [n for axis in split for n in axis]
    check_rank(rank, len(modes) if format == "tucker" else 0)
    if format == "tucker":
        ranks = list(rank) if isinstance(rank, Sequence) else [rank] * len(modes)
        ranks = [min(r, n) for r, n in zip(ranks, modes, strict=True)]
        return [tuple(ranks), *zip(modes, ranks, strict=True)]
    assert not isinstance(rank, Sequence)
    if format == "cp":
        return [(rank,), *((n, rank) for n in modes)]
    if format == "tt":
        bonds = _bonds(modes, rank)
        return [(bonds[k], n, bonds[k + 1]) for k, n in enumerate(modes)]
    if format not in FORMATS:
        raise OperandError(f"format={format!r:.40} is none of {', '.join(FORMATS)}")
    if len(split) != 2 or (format != "low_rank" and len(split[0]) != len(split[1])):
        raise OperandError(
            f"a {format} is a matrix with as many row modes as column modes, not {tuple(split)}"
        )
    rows, columns = split
    if format == "low_rank":
        return [(prod(rows), rank), (rank, prod(columns))]
    if format == "kronecker":
        return [(rank, m, n) for m, n in zip(rows, columns, strict=True)]
    if format == "tt_matrix":
        bonds = _bonds([m * n for m, n in zip(rows, columns, strict=True)], rank)
        return [(bonds[k], m, n, bonds[k + 1]) for k, (m, n) in enumerate(zip(rows, columns, strict=True))]
    if len(rows) != 2:
        raise OperandError(f"rows and columns of a monarch are split into 2 modes each, not {len(rows)}")
    (m, s), (n, q) = rows, columns
    return [(rank, m, n, q), (rank, m, s, q)]


def assembled(format: str, split: Split, factors: Sequence[Any]) -> Factorized:
    """Return the operand of a `format` with these factors."""
    if format == "cp":
        return cp(factors[1:], factors[0], split=split)
    if format == "tucker":
        return tucker(factors[0], factors[1:], split=split)
    if format == "tt":
        return tt(factors, split=split)
    if format == "tt_matrix":
        return tt_matrix(factors)
    if format == "kronecker":
        return kronecker(*factors)
    return (monarch if format == "monarch" else low_rank)(*factors)


def decomposed(
    array: Any,
    format: str,
    split: Split | None,
    rank: int | Sequence[int] | None,
    tolerance: float | None,
) -> Factorized:
    """Return the operand of a `format` near a dense array, its axes split by default where `split` is None."""
    split = split or default_split(format, array.shape)
    if format == "tucker":
        return tucker_from_dense(array, rank=rank, tolerance=tolerance, split=split)
    one_of(rank, tolerance)
    assert not isinstance(rank, Sequence)
    if format == "cp":
        return cp_from_dense(array, rank=rank, tolerance=tolerance, split=split)
    if format == "tt":
        return tt_from_dense(array, rank=rank, tolerance=tolerance, split=split)
    if format == "low_rank":
        return low_rank_from_dense(array, rank=rank, tolerance=tolerance)
    if format not in FORMATS:
        raise OperandError(f"format={format!r:.40} is none of {', '.join(FORMATS)}")
    rows, columns = (tuple(axis) for axis in split)
    if format == "tt_matrix":
        return tt_matrix_from_dense(array, rows, columns, rank=rank, tolerance=tolerance)
    if format == "kronecker":
        return kronecker_from_dense(array, rows, columns, rank=rank, tolerance=tolerance)
    (m, s), (n, q) = rows, columns
    return monarch_from_dense(array, (m, s), (n, q), rank=rank, tolerance=tolerance)


def built(cls: type[Module], weight: Factorized | Weight, *more: Any) -> Module:
    """Return a module of `cls` around factors that are there: its `_build` takes the weight, then `more`."""
    made = cls.__new__(cls)
    nn.Module.__init__(made)
    made._build(weight if isinstance(weight, Weight) else Weight(weight), *more)  # type: ignore[operator]
    return made


def of_kind(layer: Any, *kinds: type[nn.Module]) -> None:
    """Raise OperandError unless `layer` is one of torch's `kinds`."""
    if not isinstance(layer, kinds):
        names = " or ".join(f"nn.{kind.__name__}" for kind in kinds)
        raise OperandError(f"this takes a layer of torch, an {names}, not a {type(layer).__name__}")


def copied(values: torch.Tensor | None) -> nn.Parameter | None:
    """Return a parameter with these values, or None."""
    return None if values is None else nn.Parameter(values.detach().clone())


def default_split(format: str, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return how the axes of an array are split if nobody says: not for low rank, else into 2 or 3 near-equal modes."""
    if any(not isinstance(n, int) or n < 1 for n in shape):
        raise OperandError(f"a weight has whole numbers of rows and columns from 1 on, not {tuple(shape)}")
    if format == "low_rank":
        return tuple((n,) for n in shape)
    pieces = 2 if format in ("monarch", "kronecker") else 3
    return tuple(balanced(n, pieces) for n in shape)


def balanced(n: int, pieces: int) -> tuple[int, ...]:
    """Return `pieces` factors of `n` as near to each other as a greedy choice makes them, the largest first.

    >>> balanced(1024, 3), balanced(100, 2), balanced(7, 2)
    ((16, 8, 8), (10, 10), (7, 1))
    """
    made = [1] * pieces
    for prime in reversed(_primes(n)):
        made[made.index(min(made))] *= prime
    return tuple(sorted(made, reverse=True))


def _primes(n: int) -> list[int]:
    found, p = [], 2
    while n > 1:
        if p > isqrt(n):
            p = n
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return found


def _bonds(modes: Sequence[int], rank: int) -> list[int]:
    """Return the ranks of a train: `rank`, or less where the modes to one side make less."""
    return [min(rank, prod(modes[:k]), prod(modes[k:])) for k in range(len(modes) + 1)]
