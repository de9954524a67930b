"""The modes of a pairwise step by where they occur, and what a step amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from contractc.notation import Term


class Groups(NamedTuple):
    """The modes of a pairwise step by where they occur: the coordinates of a batched matrix product.

    `batch` is in both operands and the result, `rows` in the left and the result, `columns` in the right and
    the result, `summed` in both operands only; `left` and `right` are summed within one operand.
    """

    batch: Term
    rows: Term
    columns: Term
    summed: Term
    left: Term
    right: Term


def groups(left: Term, right: Term, out: Term) -> Groups:
    """Return the groups of contracting `left` with `right` to `out`, each in the left operand's order."""
    in_left, in_right, kept = dict.fromkeys(left), dict.fromkeys(right), set(out)
    both = [m for m in in_left if m in in_right]
    return Groups(
        batch=tuple(m for m in both if m in kept),
        rows=tuple(m for m in in_left if m in kept and m not in in_right),
        columns=tuple(m for m in in_right if m in kept and m not in in_left),
        summed=tuple(m for m in both if m not in kept),
        left=tuple(m for m in in_left if m not in kept and m not in in_right),
        right=tuple(m for m in in_right if m not in kept and m not in in_left),
    )


def kind(terms: Sequence[Term], out: Term) -> str:
    """Return what a contraction amounts to: the word behind `#` in a printed program."""
    if len(terms) == 1:
        own = dict.fromkeys(terms[0])
        if len(out) != len(set(out)):
            return "spread on a diagonal"
        if len(own) > len(out):
            return "reduce"
        return "diagonal" if len(own) < len(terms[0]) else ("view" if terms[0] == out else "permute")
    if len(terms) > 2:
        return "n-ary"
    g = groups(terms[0], terms[1], out)
    if not g.summed:
        return "multiply" if g.batch or not (g.rows and g.columns) else "outer product"
    if not g.rows and not g.columns:
        return "multiply and reduce" if g.batch else "inner product"
    name = "gemm" if g.rows and g.columns else "gemv"
    return f"batched {name}" if g.batch else name
