"""The formats: which modes the factors have. Shapes are in brackets, n and m extents, r ranks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from contractc.errors import OperandError
from contractc.formats.factorized import Factorized, factorized


def cp(factors: Sequence[Any], weights: Any = None) -> Factorized:
    """Return the CP (CANDECOMP/PARAFAC) array sum_r weights[r] A1[i1, r] A2[i2, r] ..., shape [n1, n2, ...].

    Args:
        factors: one [n_k, r] for each axis.
        weights: [r], or None for ones.
    """
    modes = range(1, len(factors) + 1)
    terms: list[tuple[int, ...]] = [(m, 0) for m in modes]
    arrays = list(factors)
    if weights is not None:
        terms.insert(0, (0,))
        arrays.insert(0, weights)
    return factorized("CP", terms, [(m,) for m in modes], arrays)


def tucker(core: Any, factors: Sequence[Any]) -> Factorized:
    """Return the Tucker array core x_1 U1 x_2 U2 ..., shape [n1, n2, ...].

    Args:
        core: [r1, r2, ...].
        factors: one [n_k, r_k] for each axis.
    """
    d = len(factors)
    ranks, modes = range(d), range(d, 2 * d)
    terms = [tuple(ranks), *zip(modes, ranks, strict=True)]
    return factorized("Tucker", terms, [(m,) for m in modes], [core, *factors])


def tt(cores: Sequence[Any]) -> Factorized:
    """Return the tensor train of `cores`, shape [n1, n2, ...].

    Args:
        cores: [r_{k-1}, n_k, r_k] each; the first and the last rank are 1.
    """
    d = len(cores)
    _boundary("TT", cores)
    terms = [(k, d + 1 + k, k + 1) for k in range(d)]
    return factorized("TT", terms, [(d + 1 + k,) for k in range(d)], cores)


def tt_matrix(cores: Sequence[Any]) -> Factorized:
    """Return the tensor-train matrix (matrix product operator) of `cores`, shape [m1 m2 ..., n1 n2 ...].

    Args:
        cores: [r_{k-1}, m_k, n_k, r_k] each, m for rows and n for columns; the first and last rank are 1.
    """
    d = len(cores)
    _boundary("TT matrix", cores)
    rows = range(d + 1, 2 * d + 1)
    columns = range(2 * d + 1, 3 * d + 1)
    terms = [(k, rows[k], columns[k], k + 1) for k in range(d)]
    return factorized("TT matrix", terms, [tuple(rows), tuple(columns)], cores)


def monarch(left: Any, right: Any) -> Factorized:
    """Return the block tensor-train matrix sum_r left[r, m, n, q] right[r, m, s, q], shape [m s, n q].

    With r = 1 it is a Monarch matrix: two block-diagonal matrices with a permutation between them.

    Args:
        left: [r, m, n, q].
        right: [r, m, s, q].
    """
    r, m, n, q, s = range(5)
    return factorized("Monarch", [(r, m, n, q), (r, m, s, q)], [(m, s), (n, q)], [left, right])


def low_rank(left: Any, right: Any, scale: Any = None, diagonal: Any = None) -> Factorized:
    """Return diag(diagonal) left diag(scale) right, shape [m, n].

    Args:
        left: [m, r].
        right: [r, n].
        scale: [r] or None; diagonal: [m] or None (as adapters such as AFLoRA have them).
    """
    rank, row, column = range(3)
    terms: list[tuple[int, ...]] = [(row, rank), (rank, column)]
    arrays = [left, right]
    for vector, mode in ((scale, rank), (diagonal, row)):
        if vector is not None:
            terms.append((mode,))
            arrays.append(vector)
    return factorized("low rank", terms, [(row,), (column,)], arrays)


def kronecker(*matrices: Any) -> Factorized:
    """Return the Kronecker product of `matrices`, or the sum of such products, shape [m1 m2 ..., n1 n2 ...].

    Args:
        matrices: [m_k, n_k] each; or [s, m_k, n_k] each for the sum over s of Kronecker products.
    """
    ranks = {len(x.shape) for x in matrices}
    if ranks not in ({2}, {3}):
        raise OperandError("the factors of a Kronecker product are all matrices, or all stacks of matrices")
    number = count()
    head = (next(number),) if ranks == {3} else ()
    rows = [next(number) for _ in matrices]
    columns = [next(number) for _ in matrices]
    terms = [(*head, m, n) for m, n in zip(rows, columns, strict=True)]
    return factorized("Kronecker", terms, [rows, columns], matrices)


def _boundary(format: str, cores: Sequence[Any]) -> None:
    if not cores:
        raise OperandError(f"a {format} has at least one core")
    for name, extent in (("first", cores[0].shape[0]), ("last", cores[-1].shape[-1])):
        if extent != 1:
            raise OperandError(f"the {name} rank of a {format} is 1, not {extent}")
