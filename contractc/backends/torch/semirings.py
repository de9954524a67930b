"""Contractions in ordered semirings on torch, block by block so that memory stays bounded.

Derivatives are those of the values found: a maximum shares its gradient evenly among the positions where it
is taken. Where gradients are recorded, autograd keeps every block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from contractc.backends.blocked import BLOCK, block_slices
from contractc.errors import OperandError, UnsupportedError
from contractc.notation import Term


class Operations(NamedTuple):
    """A semiring in torch's functions; `total` adds up along several axes."""

    add: Callable[[Tensor, Tensor], Tensor]
    multiply: Callable[[Tensor, Tensor], Tensor]
    total: Callable[[Tensor, tuple[int, ...]], Tensor]


def log_sum_exp(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the log of the sum of exponentials; where all is -inf the gradient is 0 (torch's is NaN)."""
    top = x.detach().amax(axes, keepdim=True)
    shift = torch.where(top.isfinite(), top, 0)
    total = (x - shift).exp().sum(axes, keepdim=True)
    empty = total == 0
    value = torch.where(empty, top, torch.where(empty, 1, total).log() + shift)
    return value.squeeze(axes)


def log_add_exp(x: Tensor, y: Tensor) -> Tensor:
    """Return the log of the sum of two exponentials."""
    return log_sum_exp(torch.stack([x, y]), (0,))


OPERATIONS = {
    "sum_product": Operations(torch.add, torch.mul, torch.sum),
    "max_plus": Operations(torch.maximum, torch.add, torch.amax),
    "min_plus": Operations(torch.minimum, torch.add, torch.amin),
    "max_times": Operations(torch.maximum, torch.mul, torch.amax),
    "or_and": Operations(torch.logical_or, torch.logical_and, torch.any),
    "log_sum_exp": Operations(log_add_exp, torch.add, log_sum_exp),
}
"""The operations of every semiring by its name."""


def contract_blocked(
    ring: Operations,
    arrays: Sequence[Tensor],
    terms: Sequence[Term],
    out: Term,
    work: torch.dtype,
    zero: float | str,
) -> Tensor:
    """Return the contraction of `arrays` to the distinct modes `out`, computed in dtype `work`.

    Beside the result at most a few blocks of `BLOCK` elements are allocated. `zero` is the semiring's, or the
    reason why `work` cannot hold it.

    Raises:
        UnsupportedError: a sum is empty and there is no zero.
    """
    modes = dict.fromkeys([*out, *(m for term in terms for m in term)])
    space = tuple(modes)
    kept = len(out)
    views = [_aligned(x.to(work), term, space) for x, term in zip(arrays, terms, strict=True)]
    extents = {
        m: n for x, term in zip(arrays, terms, strict=True) for m, n in zip(term, x.shape, strict=True)
    }
    shape = [extents[m] for m in space]
    if 0 in shape:
        if 0 not in shape[:kept] and isinstance(zero, str):
            raise UnsupportedError(zero)
        fill = 0 if isinstance(zero, str) else zero
        return torch.full(shape[:kept], fill, dtype=work, device=views[0].device)
    axes = tuple(range(kept, len(space)))
    if prod(shape) <= BLOCK:
        return _block(ring, views, axes)
    parts: dict[tuple[int, ...], Tensor] = {}
    for _, block in block_slices(shape, kept, BLOCK):
        clipped = [
            x[tuple(slice(None) if n == 1 else s for n, s in zip(x.shape, block, strict=True))] for x in views
        ]
        part = _block(ring, clipped, axes)
        place = tuple(s.start for s in block[:kept])
        before = parts.get(place)
        parts[place] = part if before is None else ring.add(before, part)
    return _joined(parts, kept)


def not_negative(x: Tensor) -> Tensor:
    """Return `x`; raises OperandError if a value is negative, where values can be looked at.

    They cannot while a graph is traced, under vmap, and on tensors without data.
    """
    if torch.compiler.is_compiling() or x.dtype in _UNSIGNED:
        return x
    try:
        negative = bool((x < 0).any())
    except RuntimeError:
        return x
    if negative:
        raise OperandError("max_times needs values that are not negative")
    return x


_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def _block(ring: Operations, views: Sequence[Tensor], axes: tuple[int, ...]) -> Tensor:
    part = views[0]
    for x in views[1:]:
        part = ring.multiply(part, x)
    return ring.total(part, axes) if axes else part


def _joined(parts: dict[tuple[int, ...], Tensor], kept: int) -> Tensor:
    """Return parts, whose keys are where they start, side by side along the first `kept` axes."""
    for axis in reversed(range(kept)):
        rows: dict[tuple[int, ...], list[Tensor]] = {}
        for place, part in parts.items():
            rows.setdefault(place[:axis], []).append(part)
        parts = {place: row[0] if len(row) == 1 else torch.cat(row, axis) for place, row in rows.items()}
    return parts[()]


def _aligned(x: Tensor, term: Term, space: Term) -> Tensor:
    """Return `x` with one axis for every mode of `space`, of extent 1 for those that it does not have."""
    modes = list(term)
    for m in dict.fromkeys(term):
        while modes.count(m) > 1:
            one = modes.index(m)
            two = modes.index(m, one + 1)
            x = x.diagonal(0, one, two)
            del modes[two], modes[one]
            modes.append(m)
    x = x.permute([modes.index(m) for m in space if m in modes])
    return x[tuple(slice(None) if m in modes else None for m in space)]
