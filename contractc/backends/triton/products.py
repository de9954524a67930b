"""Torch's matrix product of two values, written to planned memory: where their layouts make it one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contractc.backends.triton.tasks import LIBRARY
from contractc.grouping import groups
from contractc.notation import Term
from contractc.programs import Contract, Program, Step

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
"""What torch multiplies on a GPU."""


@dataclass(frozen=True, slots=True)
class Product:
    """A pairwise step as one product of (batches of) matrices, after views of its values.

    `left`, `right` and `out` are the shapes of the values with each group as one axis, the axes in the order in which
    they lie; `left_axes`, `right_axes` and `out_axes` say where batch, rows and sum (or columns) are among them.
    `shape` is that of the result.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    out: tuple[int, ...]
    left_axes: tuple[int, ...]
    right_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, x: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
        """Return the product of `x` and `y`, in the memory `out`, which lies in order, or in fresh memory if None."""
        a = x.reshape(self.left).permute(self.left_axes)
        b = y.reshape(self.right).permute(self.right_axes)
        multiply = torch.bmm if len(self.out_axes) == 3 else torch.mm
        if out is None:
            back = [self.out_axes.index(axis) for axis in range(len(self.out_axes))]
            return multiply(a, b).permute(back).reshape(self.shape)
        multiply(a, b, out=out.view(self.out).permute(self.out_axes))
        return out


def product_of(step: Step, program: Program) -> Product | None:
    """Return a step that the library computes as one product, or None if it is none, or values had to be copied.

    Every group has to lie side by side, in one order, in all values that have it.
    """
    if not isinstance(step, Contract) or step.how != LIBRARY or len(step.inputs) != 2 or any(step.conj):
        return None
    known = program.values()
    values = (*(known[i] for i in step.inputs), step.out)
    if program.semiring != "sum_product" or {v.dtype for v in values} - {step.out.dtype}:
        return None
    terms = [v.modes for v in values]
    if step.out.dtype not in DTYPES or any(
        len(set(t)) < len(t) or set(t) & set(program.dynamic) for t in terms
    ):
        return None
    g = groups(*terms)
    if g.left or g.right or not (g.rows and g.columns and g.summed):
        return None
    batch = [g.batch] if g.batch else []
    sides = ([g.rows, g.summed], [g.summed, g.columns], [g.rows, g.columns])
    left, left_axes = _laid_out(terms[0], [*batch, *sides[0]], program.extents)
    right, right_axes = _laid_out(terms[1], [*batch, *sides[1]], program.extents)
    out, out_axes = _laid_out(terms[2], [*batch, *sides[2]], program.extents)
    if not (left and right and out):
        return None
    shape = tuple(program.extents[m] for m in terms[2])
    return Product(left, right, out, left_axes, right_axes, out_axes, shape)


def _laid_out(
    term: Term, parts: Sequence[Term], extents: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of a value whose groups `parts` are its axes, and where each is; nothing if they are not."""
    starts = [term.index(part[0]) for part in parts]
    if any(term[at : at + len(part)] != part for at, part in zip(starts, parts, strict=True)):
        return (), ()
    order = sorted(range(len(parts)), key=lambda k: starts[k])
    shape = []
    for k in order:
        size = 1
        for m in parts[k]:
            size *= extents[m]
        shape.append(size)
    return tuple(shape), tuple(order.index(k) for k in range(len(parts)))
