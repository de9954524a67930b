"""Ranks made small again: the best operand of the same format near one whose ranks have grown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod, sqrt
from typing import Any

import numpy as np

from contractc.errors import UnsupportedError
from contractc.evaluation import Array
from contractc.formats.algebra import low_rank_factors, summed_modes
from contractc.formats.arrays import finite, host, kept, library, one_of, permuted
from contractc.formats.factorized import Factorized, with_factors
from contractc.formats.kinds import low_rank
from contractc.operands import dtype_name, with_dtype


def rounded(x: Factorized, *, rank: int | None = None, tolerance: float | None = None) -> Factorized:
    """Return an operand of the same format with the least ranks, or ranks of at most `rank`.

    With a `tolerance` the error is at most that times the norm of `x`, in the Frobenius norm. TT and TT matrix by a
    sweep of QR and one of SVD (Oseledets 2011), Tucker by the higher-order SVD of its core, low rank, Monarch and a
    sum of Kronecker products of two matrices by QR and SVD. A batch gets common ranks.

    Raises:
        UnsupportedError: the format has no such sweep (CP, networks with loops): fit its dense array again.
    """
    one_of(rank, tolerance)
    how = _WAYS.get(x.layout.format)
    if how is None:
        raise UnsupportedError(
            f"a {x.layout.format} has no rounding; fit a smaller one to its dense array, for example with cp_from_dense"
        )
    for factor in x.factors:
        finite(factor)
    if 0 in x.layout.extents:
        return x
    dtype = dtype_name(x)
    if dtype not in ("float16", "bfloat16"):
        return how(x, rank, tolerance)
    wide = Factorized(x.layout, tuple(with_dtype(f, "float32") for f in x.factors))
    made = how(wide, rank, tolerance)
    return Factorized(made.layout, tuple(with_dtype(f, dtype) for f in made.factors))


def _train(x: Factorized, rank: int | None, tolerance: float | None) -> Factorized:
    cores = list(x.factors)
    shapes = [tuple(c.shape) for c in cores]
    batch = len(shapes[0]) - (4 if x.layout.format == "TT matrix" else 3)
    b, d, xp = shapes[0][:batch], len(cores), library(cores[0])
    for k in range(d - 1, 0, -1):  # rows orthonormal from the right on, so that the first core has the norm
        q, r = xp.linalg.qr(_adjoint(cores[k].reshape(*b, cores[k].shape[batch], -1)))
        cores[k] = _adjoint(q)
        cores[k - 1] = cores[k - 1].reshape(*b, -1, r.shape[-1]) @ _adjoint(r)
        cores[k - 1] = cores[k - 1].reshape(*b, shapes[k - 1][batch], -1)
    limit = None if tolerance is None else tolerance * _norms(cores[0]) / sqrt(max(d - 1, 1))
    made, rest, before = [], cores[0], 1
    for k in range(d - 1):
        middle = shapes[k][batch + 1 : -1]
        columns = rest.shape[-1] // prod(middle)
        u, s, v = xp.linalg.svd(rest.reshape(*b, before * prod(middle), columns), full_matrices=False)
        r = _common(s, rank, limit)
        made.append(u[..., :r].reshape(*b, before, *middle, r))
        rest = (s[..., :r, None] * v[..., :r, :]) @ cores[k + 1].reshape(*b, columns, -1)
        before = r
    made.append(rest.reshape(*b, before, *shapes[-1][batch + 1 :]))
    return with_factors(x.layout, made)


def _tucker(x: Factorized, rank: int | None, tolerance: float | None) -> Factorized:
    batch = len(x.layout.terms[1]) - 2
    core, *factors = x.factors
    xp = library(core)
    d = len(factors)
    bases = []
    for k, factor in enumerate(factors):
        q, r = xp.linalg.qr(factor)
        bases.append(q)
        core = _along(core, r, batch + k)
    limit = (
        None if tolerance is None else tolerance * _norms(core.reshape(*core.shape[:batch], 1, -1)) / sqrt(d)
    )
    for k in range(d):
        u, s, _ = xp.linalg.svd(_unfolded(core, batch, k), full_matrices=False)
        u = u[..., : _common(s, rank, limit)]
        core = _along(core, _adjoint(u), batch + k)
        bases[k] = bases[k] @ u
    return with_factors(x.layout, [core, *bases])


def _low_rank(x: Factorized, rank: int | None, tolerance: float | None) -> Factorized:
    left, right = _product(*low_rank_factors(x), rank, tolerance)
    made = low_rank(left, right, batch=len(x.layout.terms[0]) - 2)
    return replace(made, layout=replace(made.layout, axes=x.layout.axes, choice=x.layout.choice))


def _monarch(x: Factorized, rank: int | None, tolerance: float | None) -> Factorized:
    left, right = x.factors  # [b.., r, m, n, q] and [b.., r, m, s, q]; a matrix [s, n] of rank r at each m, q
    a = len(left.shape) - 4
    b = tuple(range(a))
    rows = permuted(right, (*b, a + 1, a + 3, a + 2, a))
    columns = permuted(left, (*b, a + 1, a + 3, a, a + 2))
    rows, columns = _product(rows, columns, rank, tolerance)
    right = permuted(rows, (*b, a + 3, a, a + 2, a + 1))
    left = permuted(columns, (*b, a + 2, a, a + 3, a + 1))
    return with_factors(x.layout, [left, right])


def _kronecker(x: Factorized, rank: int | None, tolerance: float | None) -> Factorized:
    stacked = any(x.layout.terms[0][-3:-2] == (m,) for m in summed_modes(x.layout))
    if not stacked:
        return x
    batch = len(x.layout.terms[0]) - 3
    if len(x.factors) != 2:
        raise UnsupportedError(
            "a sum of Kronecker products is rounded for two matrices; fit a smaller one instead"
        )
    one, two = x.factors
    left = one.reshape(*one.shape[: batch + 1], -1)
    right = two.reshape(*two.shape[: batch + 1], -1)
    swapped = (*range(batch), batch + 1, batch)
    left, right = _product(permuted(left, swapped), right, rank, tolerance)
    left = permuted(left, swapped)
    shapes = [(*y.shape[:-1], *z.shape[-2:]) for y, z in ((left, one), (right, two))]
    return with_factors(x.layout, [left.reshape(shapes[0]), right.reshape(shapes[1])])


def _product(left: Any, right: Any, rank: int | None, tolerance: float | None) -> tuple[Any, Any]:
    """Return the factors [..., m, r'], [..., r', n] of the product of [..., m, r] and [..., r, n] of least rank."""
    xp = library(left)
    q, a = xp.linalg.qr(left)
    p, b = xp.linalg.qr(_adjoint(right))
    u, s, v = xp.linalg.svd(a @ _adjoint(b), full_matrices=False)
    limit = None if tolerance is None else tolerance * _norms(s[..., None])
    r = _common(s, rank, limit)
    return (q @ u[..., :r]) * s[..., None, :r], v[..., :r, :] @ _adjoint(p)


def _adjoint(x: Any) -> Any:
    """Return the conjugate transpose of matrices [..., m, n]."""
    return x.swapaxes(-1, -2).conj()


def _along(x: Any, matrix: Any, axis: int) -> Any:
    """Return x [..., n at `axis`, ...] multiplied there by `matrix` [..., m, n]."""
    batch = len(matrix.shape) - 2
    moved = library(x).moveaxis(x, axis, batch)
    product = matrix @ moved.reshape(*moved.shape[: batch + 1], -1)
    return library(x).moveaxis(product.reshape(*product.shape[:-1], *moved.shape[batch + 1 :]), batch, axis)


def _unfolded(x: Any, batch: int, axis: int) -> Any:
    """Return x [..., n1, n2, ...] as matrices [..., n_axis, the others]."""
    moved = library(x).moveaxis(x, batch + axis, batch)
    return moved.reshape(*moved.shape[: batch + 1], -1)


def _norms(x: Any) -> Array:
    """Return the Frobenius norm of each matrix of x [..., m, n], as NumPy array."""
    values, _ = host(x)
    return np.asarray(np.linalg.norm(values.astype(np.result_type(values, np.float64)), axis=(-2, -1)))


def _common(s: Any, rank: int | None, limit: Array | None) -> int:
    """Return the rank that all of a batch of spectra s [..., r] need."""
    values, _ = host(s)
    if limit is None:
        return kept(values.reshape(-1, values.shape[-1])[0], rank, None)
    limits = np.broadcast_to(limit, values.shape[:-1]).reshape(-1)
    spectra = values.reshape(-1, values.shape[-1])
    return max((kept(x, None, float(one)) for x, one in zip(spectra, limits, strict=True)), default=1)


_WAYS: dict[str, Callable[[Factorized, int | None, float | None], Factorized]] = {
    "TT": _train,
    "TT matrix": _train,
    "Tucker": _tucker,
    "low rank": _low_rank,
    "Monarch": _monarch,
    "Kronecker": _kronecker,
}
