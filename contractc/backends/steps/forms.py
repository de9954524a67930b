"""A pairwise step as matrix products: which modes are rows, columns and summed, which are looped over.

All functions work on memory orders: the modes of an array from the slowest to the fastest, gap-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from contractc.grouping import Groups, groups
from contractc.notation import Term

Axis = Term
"""Modes that are neighbours in every array that has them: to a matrix product one axis."""

LEFT, RIGHT, RESULT = "copy left", "copy right", "permute result"
COPIES: tuple[frozenset[str], ...] = tuple(
    frozenset(names)
    for names in (
        (),
        (LEFT,),
        (RIGHT,),
        (RESULT,),
        (LEFT, RIGHT),
        (LEFT, RESULT),
        (RIGHT, RESULT),
        (LEFT, RIGHT, RESULT),
    )
)
"""What may be copied into another order around a matrix product, the least first."""


_groups = lru_cache(maxsize=4096)(groups)


class Form(NamedTuple):
    """Matrix products that make up a pairwise step.

    `left`, `right` and `out` are the axes of the arrays that are multiplied, slowest first, after the copies
    that were asked for. `rows`, `columns` and `summed` are one axis each, or () for a vector; the products are
    repeated over `loops` and added up over `sums`.
    """

    left: tuple[Axis, ...]
    right: tuple[Axis, ...]
    out: tuple[Axis, ...]
    rows: Axis
    columns: Axis
    summed: Axis
    loops: tuple[Axis, ...]
    sums: tuple[Axis, ...]


@lru_cache(maxsize=4096)
def fused(orders: tuple[Term, ...]) -> tuple[tuple[Axis, ...], ...]:
    """Return `orders` with modes that stand side by side in every order that has them as one axis."""
    owners: dict[int, int] = {}
    before: dict[int, int] = {}
    for k, order in enumerate(orders):
        last = -1
        for m in order:
            if before.setdefault(m, last) != last:
                before[m] = -1
            owners[m] = owners.get(m, 0) | 1 << k
            last = m
    result = []
    for order in orders:
        axes: list[list[int]] = []
        for m in order:
            if before[m] >= 0 and owners[before[m]] == owners[m]:
                axes[-1].append(m)
            else:
                axes.append([m])
        result.append(tuple(map(tuple, axes)))
    return tuple(result)


def arranged(left: Term, right: Term, out: Term, copies: frozenset[str]) -> tuple[Term, Term, Term]:
    """Return the orders of both operands and the result after `copies` into the order that suits a product.

    A copy puts batch modes first. Free and summed modes follow in the orders they have in the other arrays,
    the group with the fastest mode last if it is known, so that the copy moves runs of memory.
    """
    if not copies:
        return left, right, out
    g = _groups(left, right, out)
    if RESULT in copies:
        flipped = bool(out) and out[-1] in g.rows and bool(g.columns)
        out = (*g.batch, *g.columns, *g.rows) if flipped else (*g.batch, *g.rows, *g.columns)
    if LEFT in copies:
        left = _operand(left, g.rows, right, out, g)
    if RIGHT in copies:
        right = _operand(right, g.columns, left, out, g)
    return left, right, out


def _of(order: Term, part: Term) -> Term:
    return tuple([m for m in order if m in part])


def _operand(own: Term, free: Term, other: Term, out: Term, g: Groups) -> Term:
    head, inner, outer = _of(out, g.batch), _of(other, g.summed), _of(out, free)
    if own and own[-1] in free:
        return (*head, *inner, *outer)
    return (*head, *outer, *inner)


def form_of(
    left: Term, right: Term, out: Term, extents: Sequence[int], copies: frozenset[str]
) -> Form | None:
    """Return the matrix products for operands in the given memory orders after `copies`, or None if there are none."""
    return form_in(*arranged(left, right, out, copies), extents)


def form_in(left: Term, right: Term, out: Term, extents: Sequence[int]) -> Form | None:
    """Return the matrix products for operands in the given memory orders as they are, or None if there are none.

    Each array needs its fastest axis in the matrix, or the product would read single elements far apart. Of
    the other axes the largest are taken: a loop should have few, large products. Products are added up over
    one axis at most.
    """
    a, b, c = fused((left, right, out))
    in_a, in_b, in_c = set(a), set(b), set(c)
    last = [axes[-1] for axes in (a, b, c) if axes]
    rows = [x for x in a if x in in_c and x not in in_b]
    columns = [x for x in b if x in in_c and x not in in_a]
    summed = [x for x in a if x in in_b and x not in in_c]
    batch = {x for x in c if x in in_a and x in in_b}
    if any(x in batch for x in last):
        return None
    chosen = []
    for part in (rows, columns, summed):
        forced = {x for x in last if x in part}
        if len(forced) > 1:
            return None
        chosen.append(forced.pop() if forced else max(part, key=lambda x: size_of(x, extents), default=()))
    m, n, k = chosen
    sums = tuple(x for x in summed if x != k)
    if len(sums) > 1:
        return None
    return Form(a, b, c, m, n, k, tuple(x for x in c if x not in (m, n)), sums)


def size_of(modes: Sequence[int], extents: Sequence[int]) -> int:
    """Return the number of positions of `modes`."""
    size = 1
    for m in modes:
        size *= extents[m]
    return size


def natural_orders(left: Term, right: Term, out: Term) -> list[Term]:
    """Return the orders in which products leave the modes `out`: batch, then rows and columns.

    Where nothing is summed a batch that is fast in both operands stays so.
    """
    g = _groups(left, right, out)
    batch, rows, columns = g.batch, g.rows, g.columns
    if not g.summed and batch and left[-1] in batch:
        return list(dict.fromkeys(((*rows, *columns, *batch), (*columns, *rows, *batch))))
    return list(dict.fromkeys(((*batch, *rows, *columns), (*batch, *columns, *rows))))
