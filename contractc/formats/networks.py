"""More formats: what can be described and contracted. Shapes are in brackets, n and m extents, r ranks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from contractc.errors import OperandError
from contractc.formats.arrays import returned
from contractc.formats.factorized import Factorized, check_arrays, factorized
from contractc.formats.kinds import Split, axes_of, singly


def tensor_ring(cores: Sequence[Any], *, split: Split | None = None, batch: int = 0) -> Factorized:
    """Return the tensor ring trace(G1[i1] G2[i2] ...), shape [n1, n2, ...] (Zhao et al. 2016).

    Args:
        cores: [r_{k-1}, n_k, r_k] each; the last rank is the first again.
        split, batch: see `contractc.formats.kinds`.
    """
    if len(cores) < 2:
        raise OperandError("a tensor ring has at least two cores")
    b, d = tuple(range(batch)), len(cores)
    modes = range(batch + d, batch + 2 * d)
    terms = [(*b, batch + k, m, batch + (k + 1) % d) for k, m in enumerate(modes)]
    axes = axes_of("tensor ring", modes, cores, batch + 1, split)
    return factorized("tensor ring", terms, [*singly(b), *axes], cores)


def hierarchical_tucker(
    leaves: Sequence[Any], transfers: Sequence[Any], *, split: Split | None = None, batch: int = 0
) -> Factorized:
    """Return the hierarchical Tucker array of a balanced binary tree, shape [n1, n2, ...] (Hackbusch and Kühn 2009).

    The nodes of a level are paired from the left; one that is left over goes up as it is. Any other tree is a
    `network`.

    Args:
        leaves: [n_k, r_k] each.
        transfers: [r_left, r_right, r_up] each, level by level from the leaves on; the last one [r_left, r_right].
        split, batch: see `contractc.formats.kinds`.
    """
    d = len(leaves)
    if d == 0 or len(transfers) != d - 1:
        raise OperandError(
            f"a hierarchical Tucker array has a leaf for each mode and one transfer less, not {d} and {len(transfers)}"
        )
    b, modes = tuple(range(batch)), range(batch, batch + d)
    terms: list[tuple[int, ...]] = [(*b, m, d + m) for m in modes]
    level, fresh = list(range(batch + d, batch + 2 * d)), batch + 2 * d
    while len(level) > 1:
        above = []
        for k in range(0, len(level) - 1, 2):
            top = len(level) == 2
            terms.append((*b, level[k], level[k + 1], *(() if top else (fresh,))))
            above.append(fresh)
            fresh += 1
        level = above + level[len(level) - len(level) % 2 :]
    axes = axes_of("hierarchical Tucker", modes, leaves, batch, split)
    return factorized("hierarchical Tucker", terms, [*singly(b), *axes], [*leaves, *transfers])


def block_term(
    cores: Any, factors: Sequence[Any], *, split: Split | None = None, batch: int = 0
) -> Factorized:
    """Return a sum of K Tucker arrays of equal ranks, shape [n1, n2, ...] (De Lathauwer 2008).

    Args:
        cores: [K, r1, r2, ...].
        factors: [K, n_k, r_k] each.
        split, batch: see `contractc.formats.kinds`.
    """
    b, k, d = tuple(range(batch)), batch, len(factors)
    ranks, modes = range(k + 1, k + d + 1), range(k + d + 1, k + 2 * d + 1)
    terms = [(*b, k, *ranks), *((*b, k, m, r) for m, r in zip(modes, ranks, strict=True))]
    axes = axes_of("block term", modes, factors, batch + 1, split)
    return factorized("block term", terms, [*singly(b), *axes], [cores, *factors])


def tubal(left: Any, right: Any, *, batch: int = 0) -> Factorized:
    """Return the t-product of two stacks of tubes, shape [m, n, t] (Kilmer and Martin 2011).

    Element [i, j, u] is the sum over k, p, q with p + q = u (mod t) of left[i, k, p] right[k, j, q]: tubes are
    multiplied by circular convolution. The convolution is one more factor, a constant [t, t, t] of zeros and ones,
    which all of a batch share.

    Args:
        left: [m, k, t].
        right: [k, n, t].
        batch: see `contractc.formats.kinds`.
    """
    check_arrays("tubal", (left, right))
    t = int(left.shape[-1]) if left.shape else 0
    p, q = np.ogrid[:t, :t]
    circulant = np.zeros((t, t, t))
    circulant[p, q, (p + q) % t if t else 0] = 1
    convolution = returned(circulant, left)
    b = tuple(range(batch))
    i, k, j, one, two, u = range(batch, batch + 6)
    terms = [(*b, i, k, one), (*b, k, j, two), (one, two, u)]
    return factorized("tubal", terms, [*singly(b), (i,), (j,), (u,)], [left, right, convolution])


def network(
    factors: Sequence[Any], terms: Sequence[Sequence[Hashable]], axes: Sequence[Sequence[Hashable]]
) -> Factorized:
    """Return any tensor network as an operand.

    Args:
        factors: arrays of one library and one dtype.
        terms: the labels of each factor's axes; letters, or any hashable labels. A label that is in no axis of the
            dense array is summed.
        axes: the labels that each axis of the dense array is made of, slowest first.

    >>> A = network([np.ones((2, 3)), np.ones((3, 4))], ["ar", "rb"], ["ab"])
    >>> print(A)
    network 8, 18 parameters (2.25 of dense): (2, 3), (3, 4)
    """
    number: dict[Hashable, int] = {}
    for label in (x for term in terms for x in term):
        number.setdefault(label, len(number))
    if len(terms) != len(factors):
        raise OperandError(f"{len(factors)} factors but {len(terms)} terms")
    missing = [label for axis in axes for label in axis if label not in number]
    if missing:
        raise OperandError(f"mode {missing[0]!r:.40} of an axis is in no factor")
    return factorized(
        "network",
        [[number[x] for x in term] for term in terms],
        [[number[x] for x in axis] for axis in axes],
        factors,
    )
