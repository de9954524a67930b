"""The formats: which modes the factors have. Shapes are in brackets, n and m extents, r ranks.

Everywhere, `batch` is the number of leading axes that all factors share; they come first in the dense array too.
`split` says which modes an axis of the dense array is made of, by their extents: `split=((4, 4), (8, 2))` makes a
16x16 matrix of four modes. Without it every mode is an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from contractc.errors import OperandError
from contractc.evaluation import Array
from contractc.formats.arrays import identity, zeros
from contractc.formats.factorized import Factorized, check_arrays, factorized

Split = Sequence[Sequence[int]]


def cp(
    factors: Sequence[Any], weights: Any = None, *, split: Split | None = None, batch: int = 0
) -> Factorized:
    """Return the CP (CANDECOMP/PARAFAC) array sum_r weights[r] A1[i1, r] A2[i2, r] ..., shape [n1, n2, ...].

    Args:
        factors: one [n_k, r] for each mode.
        weights: [r], or None for ones.
        split, batch: see the module.
    """
    b, r = tuple(range(batch)), batch
    modes = range(batch + 1, batch + 1 + len(factors))
    terms: list[tuple[int, ...]] = [(*b, m, r) for m in modes]
    arrays = list(factors)
    if weights is not None:
        terms.insert(0, (*b, r))
        arrays.insert(0, weights)
    return factorized("CP", terms, [*singly(b), *axes_of("CP", modes, factors, batch, split)], arrays)


def tucker(core: Any, factors: Sequence[Any], *, split: Split | None = None, batch: int = 0) -> Factorized:
    """Return the Tucker array core x_1 U1 x_2 U2 ..., shape [n1, n2, ...].

    Args:
        core: [r1, r2, ...].
        factors: one [n_k, r_k] for each mode.
        split, batch: see the module.
    """
    b, d = tuple(range(batch)), len(factors)
    ranks, modes = range(batch, batch + d), range(batch + d, batch + 2 * d)
    terms = [(*b, *ranks), *((*b, m, r) for m, r in zip(modes, ranks, strict=True))]
    axes = [*singly(b), *axes_of("Tucker", modes, factors, batch, split)]
    return factorized("Tucker", terms, axes, [core, *factors])


def tt(cores: Sequence[Any], *, split: Split | None = None, batch: int = 0) -> Factorized:
    """Return the tensor train of `cores`, shape [n1, n2, ...].

    With `split=(rows, columns)` it is a matrix whose train runs through the row modes, then through the column
    modes, as adapters have it (LoRETTA): the rank in the middle is that of the matrix.

    Args:
        cores: [r_{k-1}, n_k, r_k] each; the first and the last rank are 1.
        split, batch: see the module.
    """
    b, d = tuple(range(batch)), len(cores)
    boundary("TT", cores, batch)
    modes = range(batch + d + 1, batch + 2 * d + 1)
    terms = [(*b, batch + k, m, batch + k + 1) for k, m in enumerate(modes)]
    return factorized("TT", terms, [*singly(b), *axes_of("TT", modes, cores, batch + 1, split)], cores)


def tt_matrix(cores: Sequence[Any], *, batch: int = 0) -> Factorized:
    """Return the tensor-train matrix (matrix product operator) of `cores`, shape [m1 m2 ..., n1 n2 ...].

    Args:
        cores: [r_{k-1}, m_k, n_k, r_k] each, m for rows and n for columns; the first and last rank are 1.
        batch: see the module.
    """
    b, d = tuple(range(batch)), len(cores)
    boundary("TT matrix", cores, batch)
    rows = range(batch + d + 1, batch + 2 * d + 1)
    columns = range(batch + 2 * d + 1, batch + 3 * d + 1)
    terms = [(*b, batch + k, rows[k], columns[k], batch + k + 1) for k in range(d)]
    return factorized("TT matrix", terms, [*singly(b), tuple(rows), tuple(columns)], cores)


def monarch(left: Any, right: Any, *, batch: int = 0) -> Factorized:
    """Return the block tensor-train matrix sum_r left[r, m, n, q] right[r, m, s, q], shape [m s, n q].

    With r = 1 it is a Monarch matrix: two block-diagonal matrices with a permutation between them.

    Args:
        left: [r, m, n, q].
        right: [r, m, s, q].
        batch: see the module.
    """
    b = tuple(range(batch))
    r, m, n, q, s = range(batch, batch + 5)
    terms = [(*b, r, m, n, q), (*b, r, m, s, q)]
    return factorized("Monarch", terms, [*singly(b), (m, s), (n, q)], [left, right])


def low_rank(left: Any, right: Any, scale: Any = None, diagonal: Any = None, *, batch: int = 0) -> Factorized:
    """Return diag(diagonal) left diag(scale) right, shape [m, n].

    Args:
        left: [m, r].
        right: [r, n].
        scale: [r] or None; diagonal: [m] or None (as adapters such as AFLoRA have them).
        batch: see the module.
    """
    b = tuple(range(batch))
    rank, row, column = range(batch, batch + 3)
    terms: list[tuple[int, ...]] = [(*b, row, rank), (*b, rank, column)]
    arrays = [left, right]
    for vector, mode in ((scale, rank), (diagonal, row)):
        if vector is not None:
            terms.append((*b, mode))
            arrays.append(vector)
    return factorized("low rank", terms, [*singly(b), (row,), (column,)], arrays)


def kronecker(*matrices: Any, batch: int = 0) -> Factorized:
    """Return the Kronecker product of `matrices`, or the sum of such products, shape [m1 m2 ..., n1 n2 ...].

    Args:
        matrices: [m_k, n_k] each; or [s, m_k, n_k] each for the sum over s of Kronecker products.
        batch: see the module.
    """
    check_arrays("Kronecker", matrices)
    ranks = {len(x.shape) - batch for x in matrices}
    if ranks not in ({2}, {3}):
        raise OperandError("the factors of a Kronecker product are all matrices, or all stacks of matrices")
    b, d, head = tuple(range(batch)), len(matrices), tuple(range(batch, batch + (ranks == {3})))
    rows = range(batch + len(head), batch + len(head) + d)
    columns = range(rows.stop, rows.stop + d)
    terms = [(*b, *head, m, n) for m, n in zip(rows, columns, strict=True)]
    return factorized("Kronecker", terms, [*singly(b), tuple(rows), tuple(columns)], matrices)


def kronecker_sum(*matrices: Any, batch: int = 0) -> Factorized:
    """Return A x 1 x ... + 1 x B x ... + ..., shape [n1 n2 ..., n1 n2 ...]: a TT matrix of rank 2.

    Such is the Laplacian of a product of graphs, or the Hamiltonian of parts that do not interact.

    Args:
        matrices: [n_k, n_k] each.
        batch: see the module.
    """
    check_arrays("Kronecker sum", matrices)
    cores = []
    last = len(matrices) - 1
    for k, x in enumerate(matrices):
        if len(x.shape) != batch + 2 or x.shape[-2] != x.shape[-1]:
            raise OperandError(
                f"matrix {k} of a Kronecker sum has shape {tuple(x.shape)}, which is not square"
            )
        if last == 0:
            cores.append(x[..., None, :, :, None])
            continue
        # Row 0 of the core: no matrix so far; row 1: the matrix has been taken.
        n = x.shape[-1]
        core = zeros(x, (*x.shape[:-2], 2, n, n, 2))
        core[..., 0, :, :, 0] = core[..., 1, :, :, 1] = identity(x, n)
        core[..., 0, :, :, 1] = x
        cores.append(core[..., :1, :, :, :] if k == 0 else core[..., 1:] if k == last else core)
    return tt_matrix(cores, batch=batch)


def singly(modes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return one axis for each mode."""
    return [(m,) for m in modes]


def axes_of(
    format: str, modes: Sequence[int], factors: Sequence[Any], place: int, split: Split | None
) -> list[tuple[int, ...]]:
    """Return the modes of each axis of the dense array, as `split` declares them.

    Args:
        factors, place: one factor for each mode, and which of its axes has the mode.

    Raises:
        OperandError: the factors have other extents.
    """
    check_arrays(format, factors)
    if split is None or any(len(x.shape) <= place for x in factors):  # `factorized` refuses such a factor
        return singly(modes)
    extents = tuple(int(x.shape[place]) for x in factors)
    if tuple(n for axis in split for n in axis) != extents:
        shown = " and ".join("x".join(map(str, axis)) for axis in split)
        raise OperandError(f"the split {shown} is not that of the factors of the {format}, {extents}")
    left = iter(modes)
    return [tuple(next(left) for _ in axis) for axis in split]


def boundary(format: str, cores: Sequence[Any], batch: int) -> None:
    """Raise OperandError unless the first and the last rank of a train of `cores` are 1."""
    if not cores:
        raise OperandError(f"a {format} has at least one core")
    check_arrays(format, cores)
    for k, x in enumerate(cores):
        axes = batch + (4 if format == "TT matrix" else 3)
        if len(x.shape) != axes:
            raise OperandError(f"factor {k} of a {format} has {axes} axes, not {len(x.shape)}")
    for name, extent in (("first", cores[0].shape[batch]), ("last", cores[-1].shape[-1])):
        if extent != 1:
            raise OperandError(f"the {name} rank of a {format} is 1, not {extent}")


def reshaped(array: Array, split: Split | None) -> Array:
    """Return `array` with its axes split into modes; raises OperandError if they cannot be."""
    if split is None:
        return array
    if shape_of_split(split) != array.shape:
        shown = " and ".join("x".join(map(str, axis)) for axis in split)
        raise OperandError(f"an array of shape {array.shape} cannot be split into {shown}")
    return array.reshape([n for axis in split for n in axis])


def shape_of_split(split: Split) -> tuple[int, ...]:
    """Return the shape of the dense array that is split so."""
    return tuple(prod(axis) for axis in split)
