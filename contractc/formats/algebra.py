"""Algebra of factorized operands without materialising them.

Sums and products make ranks grow (r + s, r s); `rounded` makes them small again. Everything works on NumPy and torch
factors, and gradients pass through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from contractc.api import contract
from contractc.errors import OperandError, UnsupportedError
from contractc.formats.arrays import library, permuted, zeros
from contractc.formats.factorized import Factorized, factorized, with_factors
from contractc.formats.kinds import kronecker, low_rank, tt_matrix
from contractc.operands import Layout, dtype_name, is_torch, library_of, with_dtype


def scale(x: Factorized, number: Any) -> Factorized:
    """Return `number` times `x`: its smallest factor is multiplied, and all get its dtype if that is another."""
    at = min(range(len(x.factors)), key=lambda f: prod(x.factors[f].shape))
    scaled = x.factors[at] * number
    dtype = dtype_name(scaled)
    others = [y if dtype_name(y) == dtype else with_dtype(y, dtype) for y in x.factors]
    return with_factors(x.layout, [scaled if f == at else y for f, y in enumerate(others)])


def add(x: Factorized, y: Factorized) -> Factorized:
    """Return the sum of two operands of one format: ranks add up, factors become block diagonal in their ranks.

    Raises:
        UnsupportedError: the formats or splits differ, or factors are not tied together by ranks.
    """
    x, y = _alike(x, y, "add")
    if x.dtype != y.dtype:
        raise OperandError(f"add needs operands of one dtype, not {x.dtype} and {y.dtype}")
    layout = x.layout
    inner = summed_modes(layout)
    alone = {m for m in inner if layout.extents[m] == y.layout.extents[m] == 1}
    alone = {m for m in alone if sum(m in term for term in layout.terms) == 1}
    doubled = inner - alone
    if not _tied(layout, doubled):
        if len(x.factors) == 1:
            return with_factors(layout, [x.factors[0] + y.factors[0]])
        raise UnsupportedError(f"{layout.format} factors that share no ranks cannot be added; make one dense")
    factors = []
    for term, a, b in zip(layout.terms, x.factors, y.factors, strict=True):
        if not any(m in doubled for m in term):
            raise UnsupportedError(f"a factor of the {layout.format} has no rank, so it cannot be added")
        shape = [n + k if m in doubled else n for m, n, k in zip(term, a.shape, b.shape, strict=True)]
        made = zeros(a, shape)
        made[tuple(slice(n) if m in doubled else slice(None) for m, n in zip(term, a.shape, strict=True))] = a
        made[
            tuple(slice(n, None) if m in doubled else slice(None) for m, n in zip(term, a.shape, strict=True))
        ] = b
        factors.append(made)
    return with_factors(layout, factors)


def hadamard(x: Factorized, y: Factorized) -> Factorized:
    """Return the elementwise product of two operands of one format: ranks multiply.

    Raises:
        UnsupportedError: the formats or splits differ.
    """
    x, y = _alike(x, y, "hadamard")
    inner = summed_modes(x.layout)
    factors = []
    for term, a, b in zip(x.layout.terms, x.factors, y.factors, strict=True):
        left = [n for m, n in zip(term, a.shape, strict=True) for n in ((n, 1) if m in inner else (n,))]
        right = [n for m, n in zip(term, b.shape, strict=True) for n in ((1, n) if m in inner else (n,))]
        shape = [n * k if m in inner else n for m, n, k in zip(term, a.shape, b.shape, strict=True)]
        factors.append((a.reshape(left) * b.reshape(right)).reshape(shape))
    return with_factors(x.layout, factors)


def inner(x: Factorized, y: Factorized) -> Any:
    """Return the inner product sum conj(x) y, of any formats and splits."""
    if x.shape != y.shape:
        raise OperandError(f"an inner product needs equal shapes, not {x.shape} and {y.shape}")
    modes = list(range(x.ndim))
    return contract(x, modes, y, modes, [], conj=0)


def norm(x: Factorized) -> Any:
    """Return the Frobenius norm: the root of the inner product with itself, so half its digits near zero."""
    square = inner(x, x)
    return abs(square.real if hasattr(square, "real") else square) ** 0.5


def transpose(x: Factorized, axes: Sequence[int] | None = None) -> Factorized:
    """Return `x` with its axes in another order (reversed without `axes`).

    A TT matrix, a low-rank matrix and a Kronecker product keep their format; the factors are views.
    """
    order = (
        list(range(x.ndim))[::-1]
        if axes is None
        else [k % x.ndim if -x.ndim <= k < x.ndim else k for k in axes]
    )
    if sorted(order) != list(range(x.ndim)):
        raise OperandError(f"axes {tuple(axes or ())} are not an order of {x.ndim} axes")
    batch = x.ndim - 2
    if order == [*range(batch), batch + 1, batch] and _plain(x):
        if x.layout.format == "TT matrix":
            return _chosen(tt_matrix([c.swapaxes(-3, -2) for c in x.factors], batch=batch), x)
        if x.layout.format == "low rank" and all(t[-1] == x.layout.terms[0][-1] for t in x.layout.terms[2:]):
            left, right, *rest = x.factors
            made = low_rank(right.swapaxes(-1, -2), left.swapaxes(-1, -2), *rest, batch=batch)
            return _chosen(made, x)
        if x.layout.format == "Kronecker":
            return _chosen(kronecker(*(c.swapaxes(-1, -2) for c in x.factors), batch=batch), x)
    return replace(x, layout=replace(x.layout, axes=tuple(x.layout.axes[k] for k in order)))


def matmul(x: Factorized, y: Factorized) -> Factorized:
    """Return the matrix product of two matrices held as factors, or of two batches of them.

    TT matrices, and Kronecker products, of matching splits keep their format (ranks multiply); a low-rank matrix
    keeps its rank beside anything. Other pairs become a `network` of all their factors.

    Raises:
        OperandError: the shapes do not fit; batches have to be equal.
        UnsupportedError: the two split the mode between them in different ways.
    """
    if x.ndim < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-2]:
        raise OperandError(f"shapes {x.shape} and {y.shape} cannot be multiplied as matrices")
    library_of([x, y])
    formats, batch = (x.layout.format, y.layout.format), x.ndim - 2
    if formats[0] == "low rank" and _batched(x):
        left, right = _sides(x)
        return low_rank(left, contract("...ri,...ij->...rj", right, y), batch=batch)
    if formats[1] == "low rank" and _batched(y):
        left, right = _sides(y)
        return low_rank(contract("...oi,...ir->...or", x, left), right, batch=batch)
    shared = list(zip([*x.layout.axes[:-2], x.layout.axes[-1]], y.layout.axes[:-1], strict=True))
    for one, two in shared:
        sizes = [[z.layout.extents[m] for m in axis] for z, axis in ((x, one), (y, two))]
        if sizes[0] != sizes[1]:
            shown = " and ".join("x".join(map(str, each)) for each in sizes)
            raise UnsupportedError(
                f"the factors split the mode between the matrices as {shown}; make one dense"
            )
    if formats == ("TT matrix", "TT matrix") and _plain(x) and _plain(y):
        pairs = zip(x.factors, y.factors, strict=True)
        cores = [contract("...amkb,...cknd->...acmnbd", a, b) for a, b in pairs]
        return tt_matrix([_joined(c, batch, ((0, 1), (2,), (3,), (4, 5))) for c in cores], batch=batch)
    if formats == ("Kronecker", "Kronecker") and _plain(x) and _plain(y):
        heads = [_with_head(z).factors for z in (x, y)]
        products = [contract("...smk,...tkn->...stmn", a, b) for a, b in zip(*heads, strict=True)]
        return kronecker(*(_joined(c, batch, ((0, 1), (2,), (3,))) for c in products), batch=batch)
    shift = len(x.layout.extents)
    same = {m: n for one, two in shared for n, m in zip(one, two, strict=True)}
    number = {m: same.get(m, shift + m) for m in range(len(y.layout.extents))}
    terms = [*x.layout.terms, *(tuple(number[m] for m in term) for term in y.layout.terms)]
    columns = tuple(number[m] for m in y.layout.axes[-1])
    return compact(terms, [*x.layout.axes[:-1], columns], [*x.factors, *y.factors])


def take(x: Factorized, index: Any, axis: int = 0) -> Factorized:
    """Return the entries of one axis that `index` names: rows of a matrix, slices of an array.

    An axis of one mode stays one; of an axis of several modes each factor is read at its own part of the index, and
    the factors share the new axis: rows of an embedding are gathered without forming any other row.

    Args:
        index: a slice, or an array or list of ints (negative ones count from the end); its first axis becomes `axis`.
    """
    if not -x.ndim <= axis < x.ndim:
        raise OperandError(f"axis {axis} of an operand with {x.ndim} axes")
    axis %= x.ndim
    modes, size = x.layout.axes[axis], x.shape[axis]
    if isinstance(index, slice) and len(modes) == 1 and (index.step is None or index.step > 0):
        factors = [
            y[tuple(index if m == modes[0] else slice(None) for m in term)]
            for term, y in zip(x.layout.terms, x.factors, strict=True)
        ]
        return with_factors(x.layout, factors)
    numbers = _numbers(index, size, x.factors[0])
    parts: dict[int, Any] = {}
    for m in reversed(modes):
        parts[m] = numbers % x.layout.extents[m]
        numbers = numbers // x.layout.extents[m]
    if len(modes) == 1:
        factors = [
            y[tuple(parts.get(m, slice(None)) for m in term)]
            for term, y in zip(x.layout.terms, x.factors, strict=True)
        ]
        return with_factors(x.layout, factors)
    fresh = len(x.layout.extents)
    terms, factors = [], []
    for term, y in zip(x.layout.terms, x.factors, strict=True):
        own = [m for m in term if m in parts]
        if own:
            rest = tuple(m for m in term if m not in parts)
            y = permuted(y, [term.index(m) for m in (*own, *rest)])[tuple(parts[m] for m in own)]
            term = (fresh, *rest)
        terms.append(term)
        factors.append(y)
    axes = [(fresh,) if k == axis else a for k, a in enumerate(x.layout.axes)]
    return compact(terms, axes, factors)


def low_rank_factors(x: Factorized) -> tuple[Any, Any]:
    """Return left [m, r] and right [r, n] of a low-rank matrix, its scale and diagonal multiplied in."""
    rank = x.layout.terms[0][-1]
    left, right, *vectors = x.factors
    for term, vector in zip(x.layout.terms[2:], vectors, strict=True):
        left = left * (vector[..., None, :] if term[-1] == rank else vector[..., :, None])
    return left, right


def _sides(x: Factorized) -> tuple[Any, Any]:
    """Return left [..., m, r] and right [..., r, n] of a low-rank matrix, which may be transposed."""
    left, right = low_rank_factors(x)
    if x.layout.axes[-2] == x.layout.terms[0][-2:-1]:
        return left, right
    return right.swapaxes(-1, -2), left.swapaxes(-1, -2)


def compact(
    terms: Sequence[Sequence[int]], axes: Sequence[Sequence[int]], factors: Sequence[Any]
) -> Factorized:
    """Return the `network` of these factors, its modes numbered without gaps."""
    number = {m: k for k, m in enumerate(dict.fromkeys(m for term in terms for m in term))}
    return factorized(
        "network",
        [[number[m] for m in term] for term in terms],
        [[number[m] for m in axis] for axis in axes],
        factors,
    )


def summed_modes(layout: Layout) -> set[int]:
    """Return the modes that no axis has: the ranks."""
    return set(range(len(layout.extents))) - {m for axis in layout.axes for m in axis}


def _tied(layout: Layout, modes: set[int]) -> bool:
    """Return whether all factors hang together by `modes`."""
    groups = [set(term) & modes for term in layout.terms]
    reached, todo = groups[0], groups[1:]
    while True:
        near = [g for g in todo if g & reached]
        if not near:
            return not todo and bool(reached)
        reached = reached.union(*near)
        todo = [g for g in todo if g not in near]


def _batched(x: Factorized) -> bool:
    """Return whether the axes of `x` but its last two are those that all factors have in front."""
    head = tuple(range(x.ndim - 2))
    return x.layout.axes[:-2] == tuple((m,) for m in head) and all(
        term[: len(head)] == head for term in x.layout.terms
    )


def _plain(x: Factorized) -> bool:
    """Return whether `x` is a matrix, or a batch, as its constructor makes it: not transposed, nothing taken."""
    terms, format = x.layout.terms, x.layout.format
    if x.ndim < 2 or format not in ("low rank", "TT matrix", "Kronecker") or not _batched(x):
        return False
    if format == "low rank":
        return x.layout.axes[-2:] == (terms[0][-2:-1], terms[1][-1:])
    row, column = (-3, -2) if format == "TT matrix" else (-2, -1)
    return x.layout.axes[-2:] == (tuple(t[row] for t in terms), tuple(t[column] for t in terms))


def _chosen(made: Factorized, like: Factorized) -> Factorized:
    return replace(made, layout=replace(made.layout, choice=like.layout.choice))


def _with_head(x: Factorized) -> Factorized:
    """Return a Kronecker product as a sum of them, of one if it is none yet."""
    if summed_modes(x.layout):
        return x
    batch = len(x.layout.terms[0]) - 2
    heads = [y.reshape(*y.shape[:batch], 1, *y.shape[batch:]) for y in x.factors]
    return kronecker(*heads, batch=batch)


def _alike(x: Factorized, y: Factorized, name: str) -> tuple[Factorized, Factorized]:
    """Return both operands with the same terms, or raise UnsupportedError."""
    if x.shape != y.shape:
        raise OperandError(f"{name} needs operands of equal shapes, not {x.shape} and {y.shape}")
    library_of([x, y])
    made = []
    for z in (x, y):
        if z.layout.format == "low rank":
            batch = len(z.layout.terms[0]) - 2
            z = low_rank(*low_rank_factors(z), batch=batch)
        elif z.layout.format == "Kronecker":
            z = _with_head(z)
        made.append(z)
    one, two = made
    if one.layout.format == two.layout.format == "CP" and len(one.factors) != len(two.factors):
        one, two = (_with_weights(z) for z in made)
    outer = [m for axis in one.layout.axes for m in axis]
    same = one.layout.format == two.layout.format and one.layout.terms == two.layout.terms
    same = same and one.layout.axes == two.layout.axes
    if not same or any(one.layout.extents[m] != two.layout.extents[m] for m in outer):
        raise UnsupportedError(f"{name} needs two operands of one format and split, not {x} and {y}")
    return one, two


def _with_weights(x: Factorized) -> Factorized:
    """Return a CP operand with weights: ones, if it has none."""
    term = next((t for t in x.layout.terms if len(t) == len(x.layout.terms[-1]) - 1), None)
    if term is not None:
        return x
    *batch, _, rank = x.layout.terms[0]
    ones = zeros(x.factors[0], [x.layout.extents[m] for m in (*batch, rank)]) + 1
    terms = [(*batch, rank), *x.layout.terms]
    return factorized(x.layout.format, terms, x.layout.axes, [ones, *x.factors])


def _joined(x: Any, batch: int, groups: Sequence[Sequence[int]]) -> Any:
    """Return `x` with neighbouring axes after the first `batch` fused."""
    inner = x.shape[batch:]
    return x.reshape((*x.shape[:batch], *(prod(inner[a] for a in group) for group in groups)))


def _numbers(index: Any, size: int, like: Any) -> Any:
    """Return `index` as an array of numbers from 0 to size - 1, in the library of `like`."""
    if isinstance(index, slice):
        index = np.arange(*index.indices(size))
    numbers = index if is_torch(index) else np.asarray(index)
    if not is_torch(numbers) and numbers.size == 0:
        numbers = numbers.astype(np.int64)
    if is_torch(like):
        numbers = library(like).as_tensor(numbers, device=like.device)
    if len(numbers.shape) != 1 or "int" not in str(numbers.dtype):
        raise OperandError(f"an index has one axis of ints, not {tuple(numbers.shape)} of {numbers.dtype}")
    numbers = with_dtype(numbers, "int64")
    if len(numbers) and (int(numbers.min()) < -size or int(numbers.max()) >= size):
        raise OperandError(f"an index is outside of 0 to {size - 1}")
    return numbers % size if size else numbers
