"""What generated functions call beside aten: tensors in, fresh tensors out, nothing written in place.

Only where nobody watches, slices are written to their places in a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contractc.backends.torch.compiled import unwatched
from contractc.errors import UnsupportedError
from contractc.notation import Term
from contractc.slices import Sums, place, positions

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


class Sum(NamedTuple):
    """What becomes of the results of a loop's slices: their terms, for each the dtype and that in which it is added
    up, whether sums are trees of pairs (see `slices.Sums`), and how two are added."""

    outs: Sequence[Term]
    dtypes: Sequence[tuple[torch.dtype, torch.dtype]]
    pairs: bool
    add: Callable[[Tensor, Tensor], Tensor]


def sliced(
    body: Callable[..., Any],
    arrays: Sequence[Tensor],
    terms: Sequence[Term],
    modes: dict[int, int],
    total: Sum,
) -> Any:
    """Return the results of `body` over all slices along `modes`, stacked or added up in the order of `slices`.

    Where somebody watches the calls, slices are kept and put side by side in the end, else each is written to its
    place when it is there.
    """
    outs, dtypes, pairs, add = total
    found: list[dict[tuple[int, ...], Tensor]] = [{} for _ in outs]
    direct = unwatched(arrays)
    extents = {m: n for x, t in zip(arrays, terms, strict=True) for m, n in zip(t, x.shape, strict=True)}
    targets = [
        torch.empty([extents[m] for m in out], dtype=dtype, device=arrays[0].device)
        if direct and modes.keys() & set(out) and extents.keys() >= set(out)
        else None
        for out, (dtype, _) in zip(outs, dtypes, strict=True)
    ]

    def done(k: int, at: dict[int, int], whole: Tensor) -> None:
        target = targets[k]
        if target is None:
            found[k][tuple(at.values())] = whole
        else:
            target[place(at, outs[k])] = whole

    sums = Sums(modes, outs, add, done, pairs)
    for at in positions(modes):
        parts = body(*(x[place(at, term)] for x, term in zip(arrays, terms, strict=True)))
        for k, part in enumerate(parts if len(outs) > 1 else (parts,)):
            sums.put(k, at, part.to(dtypes[k][1]) if sums.counts[k] > 1 else part)
    results = [
        _stacked(found[k], modes, out).to(dtypes[k][0]) if target is None else target
        for k, (out, target) in enumerate(zip(outs, targets, strict=True))
    ]
    return results[0] if len(outs) == 1 else tuple(results)


def scaled_slices(
    body: Callable[..., Any],
    arrays: Sequence[Tensor],
    terms: Sequence[Term],
    modes: dict[int, int],
    outs: Sequence[Term],
    pairs: bool,
) -> tuple[Tensor, ...]:
    """Return the same for a `body` that gives pairs of a value and its exponent, a pair for each of `outs`."""
    found: list[dict[tuple[int, ...], tuple[Tensor, Tensor]]] = [{} for _ in outs]

    def done(k: int, at: dict[int, int], total: tuple[Tensor, Tensor]) -> None:
        found[k][tuple(at.values())] = total

    sums = Sums(modes, outs, add_scaled, done, pairs)
    for at in positions(modes):
        parts = body(*(x[place(at, term)] for x, term in zip(arrays, terms, strict=True)))
        for k in range(len(outs)):
            sums.put(k, at, (parts[2 * k], parts[2 * k + 1]))
    made: list[Tensor] = []
    for k, out in enumerate(outs):
        largest = torch.stack([_exponent(*pair) for pair in found[k].values()]).amax()
        largest = torch.where(largest == _NONE, 0, largest)
        scaled = {at: scaled_by_power(x, e - largest) for at, (x, e) in found[k].items()}
        made += [_stacked(scaled, modes, out), largest]
    return tuple(made)


_NONE = -(2**40)
"""The exponent of zeros, where exponents are compared."""


def _exponent(x: Tensor, exponent: Tensor) -> Tensor:
    return torch.where(x.detach().any(), exponent, _NONE)


def scaled_by_power(x: Tensor, exponent: Tensor) -> Tensor:
    """Return x * 2**exponent, exact where the result is a normal number."""
    most = 500 if x.real.dtype in (torch.float32, torch.bfloat16) else 4000  # a quarter is a normal number
    exponent = exponent.clamp(-most, most)
    quarter, rest = _power_of_two(exponent >> 2, x.real.dtype), _power_of_two(exponent & 3, x.real.dtype)
    return x * rest * quarter * quarter * quarter * quarter


def times_power(x: Tensor, exponent: Tensor) -> tuple[Tensor]:
    """Return x * 2**exponent, as the one result of this operation."""
    return (scaled_by_power(x, exponent),)


def add_scaled(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sum of two tensors that carry exponents; zeros have none."""
    e = torch.maximum(_exponent(*left), _exponent(*right))
    (x, a), (y, b) = left, right
    return scaled_by_power(x, a - e) + scaled_by_power(y, b - e), torch.where(e == _NONE, 0, e)


def _stacked(parts: dict[tuple[int, ...], Tensor], modes: dict[int, int], out: Term) -> Tensor:
    """Return the parts, whose keys are the positions along those `modes` that `out` has, as one tensor."""
    outer = [m for m in modes if m in out]  # in the order of the keys
    if not outer:
        return parts[()]
    whole = torch.stack([parts[at] for at in product(*[range(modes[m]) for m in outer])])
    whole = whole.reshape(*[modes[m] for m in outer], *whole.shape[1:])
    sources = outer + [m for m in out if m not in modes]
    return whole.permute([sources.index(m) for m in out])
