"""What generated functions call beside aten: tensors in, fresh tensors out, nothing written in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from contractc.errors import UnsupportedError
from contractc.notation import Term

BLOCK = 2**22
"""Most products of integers that are in memory at a time where torch has no integer matmul."""


def matmul_bool(x: Tensor, y: Tensor) -> Tensor:
    """Return the or-and product of bools: counts in float32, which never wrap to 0."""
    return torch.matmul(x.to(torch.float32), y.to(torch.float32)) != 0


def matmul_integer(x: Tensor, y: Tensor) -> Tensor:
    """Return the product of integer matrices [.., m, k] and [.., k, n], or vectors; it wraps.

    Torch has it for the CPU only; elsewhere products are formed and summed in blocks of `BLOCK` elements.
    """
    if x.device.type in ("cpu", "meta"):
        return torch.matmul(x, y)
    return matmul_in_blocks(x, y, BLOCK)


def matmul_in_blocks(x: Tensor, y: Tensor, most: int) -> Tensor:
    """Return the matrix product from elementwise ones of at most `most` elements (or one row's)."""
    if x.ndim == 1 and y.ndim == 1:
        return (x * y).sum(dtype=x.dtype)
    if x.ndim == 1:
        return matmul_in_blocks(x[None], y, most)[0]
    if y.ndim == 1:
        return matmul_in_blocks(x, y[:, None], most)[:, 0]
    rows, summed = x.shape[-2:]
    plane = prod(x.shape[:-2]) * y.shape[-1]
    deep = max(1, min(summed, most // max(1, plane)))
    high = max(1, most // max(1, plane * deep))
    blocks = []
    for top in range(0, max(rows, 1), high):
        left = x[..., top : top + high, :]
        block = None
        for k in range(0, max(summed, 1), deep):
            part = left[..., k : k + deep, None] * y[..., None, k : k + deep, :]
            total = part.sum(-2, dtype=x.dtype)
            block = total if block is None else block + total
        assert block is not None
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, -2)


_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def spread(x: Tensor, axes: tuple[int, ...], zero: float | bool | str) -> Tensor:
    """Return a tensor with axis k running along axis `axes[k]` of `x`: `zero` where axes that repeat differ.

    Raises:
        UnsupportedError: `zero` is the reason why there is none, and an element needs it.
    """
    order = tuple(dict.fromkeys(axes))
    first = x.permute(order)[tuple(None if a in axes[:k] else slice(None) for k, a in enumerate(axes))]
    mask = None
    for k, a in enumerate(axes):
        if a not in axes[:k]:
            continue
        extent = x.shape[a]
        if isinstance(zero, str) and extent > 1:
            raise UnsupportedError(zero)
        positions = torch.arange(extent, device=x.device)
        along = [[extent if axis == at else 1 for axis in range(len(axes))] for at in (axes.index(a), k)]
        equal = positions.reshape(along[0]) == positions.reshape(along[1])
        mask = equal if mask is None else mask & equal
    assert mask is not None
    bits = _SIGNED.get(x.dtype)  # torch only stores these dtypes: before 2.13 it has no `where` for them
    chosen = torch.where(
        mask, first if bits is None else first.view(bits), 0 if isinstance(zero, str) else zero
    )
    return chosen if bits is None else chosen.view(x.dtype)


def split_exponent(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (x / 2**e, e) with the largest part of x / 2**e in [0.5, 1); e = 0 for zeros and infinities.

    The exponent counts as a constant in derivatives.
    """
    if x.is_complex():  # a product with the complex number 1 would make NaN of infinities
        parts, exponent = split_exponent(torch.view_as_real(x.resolve_conj()))
        return torch.view_as_complex(parts), exponent
    if x.numel() == 0:
        return x.view_as(x), torch.zeros((), dtype=torch.int64, device=x.device)
    largest = x.detach().abs().amax()
    exponent = torch.frexp(largest.to(torch.float64)).exponent.to(torch.int64)
    exponent = torch.where(largest.isfinite(), exponent, 0)
    half = exponent >> 1
    scaled = x * _power_of_two(-half, largest.dtype) * _power_of_two(half - exponent, largest.dtype)
    return scaled, exponent


def _power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 2**exponent exactly, for exponents of normal float64 numbers: `pow` may round."""
    return ((exponent + 1023) << 52).view(torch.float64).to(dtype)


def sum_exponents(*exponents: Tensor) -> tuple[Tensor]:
    """Return the sum, as the one result of this operation."""
    total = exponents[0]
    for exponent in exponents[1:]:
        total = total + exponent
    return (total,)


def sliced(
    body: Callable[..., Any],
    arrays: Sequence[Tensor],
    terms: Sequence[Term],
    modes: dict[int, int],
    outs: Sequence[Term],
    dtypes: Sequence[tuple[torch.dtype, torch.dtype]],
    add: Callable[[Tensor, Tensor], Tensor],
) -> Any:
    """Return the results of `body` over all slices along `modes`, stacked or added up in order.

    `dtypes` are those of each result and in which it is added up.
    """
    sums: list[dict[tuple[int, ...], Tensor]] = [{} for _ in outs]
    for position in product(*(range(n) for n in modes.values())):
        at = dict(zip(modes, position, strict=True))
        slices = [tuple(at.get(m, slice(None)) for m in term) for term in terms]
        parts = body(*(x[place] for x, place in zip(arrays, slices, strict=True)))
        for k, part in enumerate(parts if len(outs) > 1 else (parts,)):
            place = tuple(at[m] for m in outs[k] if m in modes)
            before = sums[k].get(place)
            if len(place) < len(modes):
                part = part.to(dtypes[k][1])
            sums[k][place] = part if before is None else add(before, part)
    results = [_stacked(sums[k], modes, out).to(dtypes[k][0]) for k, out in enumerate(outs)]
    return results[0] if len(outs) == 1 else tuple(results)


def _stacked(parts: dict[tuple[int, ...], Tensor], modes: dict[int, int], out: Term) -> Tensor:
    """Return the parts, whose keys are the positions along those `modes` that `out` has, as one tensor."""
    ranges = [range(modes[m]) for m in out if m in modes]
    if not ranges:
        return parts[()]
    whole = torch.stack([parts[place] for place in product(*ranges)])
    whole = whole.reshape(*map(len, ranges), *whole.shape[1:])
    sources = [m for m in out if m in modes] + [m for m in out if m not in modes]
    return whole.permute([sources.index(m) for m in out])
