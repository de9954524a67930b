"""Ranks of all unfoldings of an array: a bound for each of them at little cost, the exact rank where it is asked for.

An unfolding is named by the set of its row modes, as bits; it and its transpose are the same. A search over layouts
takes the bounds, and has only those unfoldings decomposed that its best answer rests on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from contractc.evaluation import Array
from contractc.formats.arrays import frobenius, kept, sampled_range

_GRAM = 1e-6
"""Down to this tolerance spectra come from Gram matrices, which lose half of the digits; below it only the spectra
that cannot save anything do."""

_SAMPLED = 512
"""Rows from which on a sample of the range is looked at first: `_SHORT` columns of it, which cost a tenth."""

_SHORT = 32

_SLACK = 1e-4
"""What is taken off the energy that bounds ask for: purities are computed in single precision."""


@dataclass(frozen=True, slots=True)
class Unfoldings:
    """An array, what its layouts may leave out, and what is known of its unfoldings.

    `purity` [2^modes] has sum s^4 / (sum s^2)^2 of the singular values s of each unfolding; `spectra` has the singular
    values themselves of those that were asked for.
    """

    array: Array
    tolerance: float
    norm: float
    purity: Array
    spectra: dict[int, Array]


def unfoldings(array: Array, tolerance: float) -> Unfoldings:
    """Return the unfoldings of `array`, none of which is decomposed yet."""
    norm = frobenius(array)
    narrow = (array / (norm or 1.0)).astype(
        np.complex64 if np.iscomplexobj(array) else np.float32, copy=False
    )
    return Unfoldings(array, tolerance, norm, _purities(narrow), {})


def settled(u: Unfoldings, mask: int) -> bool:
    """Return whether the spectrum of an unfolding is known."""
    full = (1 << u.array.ndim) - 1
    return mask in (0, full) or min(mask, full ^ mask) in u.spectra


def rank(u: Unfoldings, mask: int, cuts: int) -> int:
    """Return the rank that an unfolding needs if so many of them share the tolerance."""
    full = (1 << u.array.ndim) - 1
    if mask in (0, full):
        return 1
    key = min(mask, full ^ mask)
    if key not in u.spectra:
        u.spectra[key] = _spectrum(u, key)
    return kept(u.spectra[key], None, u.tolerance * u.norm / sqrt(cuts))


def least_ranks(u: Unfoldings, cuts: int) -> Array:
    """Return for each unfolding its rank if its spectrum is known, and a lower bound of it otherwise.

    Of N squared singular values with sum 1 and sum of squares q, the first r add up to at most
    r/N + sqrt(r (N - r) / N (q - 1/N)): when these are equal, and the others too. And modes that go from the rows
    to the columns, or back, make a rank at most their extent times smaller.
    """
    shorter = _shorter(u.array.shape)
    needed = (1 - u.tolerance**2 / cuts) * (1 - _SLACK)
    if needed <= 0:
        bounds = np.ones(len(shorter))
    else:
        excess = np.maximum(u.purity - 1 / shorter, 0)
        root = np.sqrt(excess**2 + 4 * needed * (1 - needed) * excess / shorter)
        bounds = (2 * needed / shorter + excess - root) * shorter / (2 * np.maximum(u.purity, 1 / shorter))
        bounds = np.clip(np.ceil(bounds - 1e-3), 1, shorter)
    full, sizes = len(shorter) - 1, sizes_of(u.array.shape)
    masks = np.arange(full + 1)
    known = {key: rank(u, key, cuts) for key in u.spectra}
    for key, r in known.items():
        for mask in (key, full ^ key):
            np.maximum(bounds, np.ceil(r / sizes[masks ^ mask] - 1e-9), out=bounds)
    for key, r in known.items():
        bounds[key] = bounds[full ^ key] = r
    bounds[0] = bounds[full] = 1
    return np.asarray(bounds)


def matrix_of(array: Array, mask: int) -> Array:
    """Return the unfolding of `array` with the modes in `mask` as rows."""
    rows = [m for m in range(array.ndim) if mask >> m & 1]
    columns = [m for m in range(array.ndim) if not mask >> m & 1]
    return array.transpose(*rows, *columns).reshape(prod(array.shape[m] for m in rows), -1)


def sizes_of(shape: tuple[int, ...]) -> Array:
    """Return the number of elements of each set of modes [2^modes]."""
    sizes = np.ones(1)
    for n in shape:
        sizes = np.concatenate([sizes, sizes * n])
    return sizes


def _shorter(shape: tuple[int, ...]) -> Array:
    """Return the length of the shorter side of each unfolding [2^modes]."""
    sizes = sizes_of(shape)
    return np.minimum(sizes, sizes[::-1])


def _purities(array: Array) -> Array:
    """Return the purity of each unfolding [2^modes] of an array of norm 1: the squared norm of its Gram matrix.

    Gram matrices of fewer row modes are partial traces of those of more; only the largest are products.
    """
    full, sizes = (1 << array.ndim) - 1, sizes_of(array.shape)
    found = np.full(full + 1, np.nan)

    def note(mask: int, gram: Array) -> None:
        found[mask] = found[full ^ mask] = float(np.linalg.norm(gram)) ** 2
        modes = [m for m in range(array.ndim) if mask >> m & 1]
        shape = [array.shape[m] for m in modes]
        for k, m in enumerate(modes):
            less = mask ^ 1 << m
            if less and np.isnan(found[less]):
                before, after = prod(shape[:k]), prod(shape[k + 1 :])
                parts = gram.reshape(before, shape[k], after, before, shape[k], after)
                note(less, np.trace(parts, axis1=1, axis2=4).reshape(before * after, -1))

    found[0] = found[full] = 1.0
    for mask in sorted(range(1, full), key=lambda mask: -sizes[mask]):
        if sizes[mask] ** 2 <= sizes[full] and np.isnan(found[mask]):
            matrix = matrix_of(array, mask)
            note(mask, matrix @ (matrix.conj().T if np.iscomplexobj(matrix) else matrix.T))
    return found


def _spectrum(u: Unfoldings, mask: int) -> Array:
    """Return the singular values of an unfolding, the largest first; of a sampled one, what was missed comes last."""
    matrix = matrix_of(u.array, mask)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    sampled = _sampled(u, matrix, _SHORT, powers=0)
    if sampled is not None:
        return sampled
    wide = matrix.astype(np.result_type(matrix.dtype, np.float64), copy=False)
    gram = wide @ (wide.conj().T if np.iscomplexobj(wide) else wide.T)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))
    least = kept(values, None, max(u.tolerance, _GRAM) * u.norm)
    if u.tolerance > _GRAM or least * sum(matrix.shape) >= u.array.size:
        return values
    sampled = _sampled(u, matrix, least + 16) if 4 * least <= len(matrix) else None
    return np.linalg.svd(matrix, compute_uv=False) if sampled is None else sampled


def _sampled(u: Unfoldings, matrix: Array, columns: int, powers: int = 2) -> Array | None:
    """Return the singular values of `matrix` on a sample of its range; None if it is small, or the sample misses."""
    if len(matrix) < _SAMPLED:
        return None
    basis = sampled_range(matrix, columns, powers)
    rest = basis.conj().T @ matrix
    missed = frobenius(matrix - basis @ rest)
    if missed > 0.1 * u.tolerance * u.norm / sqrt(u.array.ndim):
        return None
    return np.append(np.linalg.svd(rest, compute_uv=False), missed)
