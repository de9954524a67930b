"""The source of one pairwise step on NumPy arrays, done the way that was chosen for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from contractc.backends.steps import EINSUM, MULTIPLY, flat, understood
from contractc.backends.steps.forms import Axis, Form, arranged, form_of, fused, size_of
from contractc.notation import Term
from contractc.providers import NUMPY, TORCH
from contractc.providers.copies import packed
from contractc.providers.memory import fresh

if TYPE_CHECKING:
    from contractc.backends.emit import Function

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

LARGE = 2**15
"""Elements from which a result is written into memory of our own choosing rather than left to the operation."""


def write_pair(
    function: Function, how: str, left: tuple[str, Term], right: tuple[str, Term], out: Term, work: str
) -> str:
    """Return the expression for a pairwise step done as `how` says, after writing the lines that it needs.

    Args:
        left, right: for each operand its code and its modes, axis by axis.
        out: the modes of the result, axis by axis.
        work: the dtype of the operands and the result.

    Raises:
        ValueError: `how` is no way to compute this step.
    """
    strategy, copies, provider = understood(how)
    writer = _Writer(function, work, provider)
    extents, dynamic = function.program.extents, function.dynamic
    orders = tuple(flat(modes, extents, tuple(dynamic)) for modes in (left[1], right[1], out))
    if strategy in (MULTIPLY, EINSUM):
        axes = fused(orders)
        x, y = writer.shaped_from(left, axes[0]), writer.shaped_from(right, axes[1])
        code = writer.multiplied(x, y, axes) if strategy == MULTIPLY else writer.einsum(x, y, axes)
        return writer.shaped(code, axes[2], out)
    form = form_of(orders[0], orders[1], orders[2], extents, copies)
    if form is None or (provider == TORCH and form.sums and form.loops):
        raise ValueError(f"{how!r:.60} is no way to compute this step")
    moved = arranged(orders[0], orders[1], orders[2], copies)
    x = writer.operand(left, orders[0], moved[0], form.left)
    y = writer.operand(right, orders[1], moved[1], form.right)
    code = writer.product(x, y, form)
    if moved[2] == orders[2]:
        return writer.shaped(code, form.out, out)
    made, wanted = fused((moved[2], orders[2]))
    return writer.shaped(
        writer.copied(writer.reshaped(writer.named(code), form.out, made), made, wanted), wanted, out
    )


class _Writer:
    """Expressions on arrays whose axes are fused modes."""

    def __init__(self, function: Function, work: str, provider: str) -> None:
        self.function, self.provider, self.work = function, provider, work

    def use(self, name: str, thing: Any) -> str:
        """Return `name` after making it a global of the function."""
        self.function.dialect.names[name] = thing
        return name

    def named(self, code: str) -> str:
        """Return a new name for the value of `code`, after writing the assignment."""
        writer = self.function.writer
        writer.temporaries += 1
        name = f"t{writer.temporaries}"
        self.function.line(f"{name} = {code}")
        return name

    def size(self, axes: Sequence[Axis]) -> int:
        """Return the number of elements of an array with these axes, as planned."""
        return size_of(tuple(m for axis in axes for m in axis), self.function.program.extents)

    def reshaped(self, code: str, have: Sequence[Axis], want: Sequence[Axis]) -> str:
        """Return `code`, whose axes are `have`, with the axes `want`: the same modes in the same order."""
        if tuple(have) == tuple(want):
            return code
        return self.function.dialect.reshape(code, [self.function.extents(axis) for axis in want])

    def shaped_from(self, given: tuple[str, Term], axes: Sequence[Axis]) -> str:
        """Return an array given with an axis for each mode with fused `axes`; modes of one position go."""
        return self.reshaped(given[0], [(m,) for m in given[1]], axes)

    def operand(self, given: tuple[str, Term], order: Term, wanted: Term, axes: Sequence[Axis]) -> str:
        """Return an operand whose modes are in the order `order` as an array with `axes`, in the order `wanted`."""
        if order == wanted:
            return self.shaped_from(given, axes)
        before, after = fused((order, wanted))
        return self.reshaped(self.copied(self.shaped_from(given, before), before, after), after, axes)

    def aligned(self, code: str, axes: Sequence[Axis], wanted: Sequence[Axis | None]) -> str:
        """Return a view of `code` with the axes `wanted`: of one position where it has none, or for None."""
        order = [axes.index(axis) for axis in wanted if axis in axes]
        if order != list(range(len(order))):
            code = self.function.dialect.permute(code, order)
        if len(order) == len(wanted):
            return code
        return f"{code}[{', '.join(':' if axis in axes else 'None' for axis in wanted)}]"

    def copied(self, code: str, axes: Sequence[Axis], wanted: Sequence[Axis]) -> str:
        """Return the name of a copy of `code` whose axes are in the order `wanted`."""
        return self.named(f"{self.use('packed', packed)}({self.aligned(code, axes, wanted)})")

    def empty(self, axes: Sequence[Axis]) -> str:
        """Return the name of a new array."""
        shape = [self.function.extents(axis) for axis in axes]
        text = f"({', '.join(shape)}{',' * (len(shape) == 1)})"
        return self.named(f"{self.use('fresh', fresh)}({text}, {self.function.dialect.dtype(self.work)})")

    def multiplied(self, x: str, y: str, axes: Sequence[Sequence[Axis]]) -> str:
        """Return the elementwise product of two arrays with the first two of `axes`, with the axes of the third."""
        x, y = (
            self.aligned(code, own, axes[2][min((axes[2].index(a) for a in own), default=0) :])
            for code, own in ((x, axes[0]), (y, axes[1]))
        )
        if self.provider == TORCH:
            out = self.empty(axes[2])
            self.function.line(f"{self.torch('torch_multiply')}({x}, {y}, {out})")
            return out
        if self.size(axes[2]) < LARGE:
            return f"{self.use('multiply', np.multiply)}({x}, {y})"
        out = self.empty(axes[2])
        return f"{self.use('multiply', np.multiply)}({x}, {y}, {out})"

    def einsum(self, x: str, y: str, axes: Sequence[Sequence[Axis]]) -> str:
        """Return np.einsum of two arrays with the first two of `axes` to the axes of the third."""
        letters = {a: _LETTERS[k] for k, a in enumerate(dict.fromkeys((*axes[0], *axes[1])))}
        left, right, out = ("".join(letters[a] for a in own) for own in axes)
        place = self.empty(axes[2])
        self.function.line(f"{self.use('einsum', np.einsum)}('{left},{right}->{out}', {x}, {y}, out={place})")
        return place

    def product(self, x: str, y: str, form: Form) -> str:
        """Return the result of the matrix products of `form`, with the axes `form.out`."""
        rows, columns, summed = form.rows or None, form.columns or None, form.summed or None
        if not form.loops and not form.sums and self.provider == NUMPY:
            return self.dot(x, y, form)
        ahead = (*form.sums, *form.loops)
        x = self.aligned(x, form.left, (*ahead, rows, summed))
        y = self.aligned(y, form.right, (*ahead, summed, columns))
        out = self.empty(form.out)
        place = self.aligned(out, form.out, (*form.loops, rows, columns))
        if form.sums:
            multiply = (
                self.torch("torch_accumulate")
                if self.provider == TORCH
                else self.use("summed", summed_products)
            )
            self.function.line(f"{multiply}({x}, {y}, {place})")
        elif self.provider == TORCH:
            self.function.line(f"{self.torch('torch_matmul')}({x}, {y}, {place})")
        else:
            self.function.line(f"{self.use('matmul', np.matmul)}({x}, {y}, {place})")
        return out

    def dot(self, x: str, y: str, form: Form) -> str:
        """Return one matrix product (of a vector where there are no rows or no columns) with the axes `form.out`."""
        left, right = (form.rows, form.summed), (form.summed, form.columns)
        if form.out == (form.columns, form.rows) and form.rows and form.columns:
            x, y = y, x
            form = form._replace(left=form.right, right=form.left)
            left, right = (form.out[0], form.summed), (form.summed, form.out[1])
        x = self.aligned(x, form.left, [axis for axis in left if axis])
        y = self.aligned(y, form.right, [axis for axis in right if axis])
        if self.size(form.out) < LARGE:
            return f"{x}.dot({y})"
        return f"{x}.dot({y}, {self.empty(form.out)})"

    def shaped(self, code: str, axes: Sequence[Axis], modes: Term) -> str:
        """Return `code`, which has `axes`, with an axis for each of `modes`."""
        return self.reshaped(code, axes, [(m,) for m in modes])

    def torch(self, name: str) -> str:
        """Return the name of a function of the torch provider, or of NumPy's where a bundle came to without torch."""
        try:
            from contractc.providers import torch_products
        except ImportError:
            return self.use(name, WITHOUT_TORCH[name])  # by that name, as the source of a bundle has it
        return self.use(name, getattr(torch_products, name))


def summed_products(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Write the sum over the first axis of the matrix products of `x` and `y` to `out`."""
    np.matmul(x[0], y[0], out)
    part = np.empty_like(out)
    for k in range(1, max(len(x), len(y))):
        np.matmul(x[k], y[k], part)
        np.add(out, part, out)


WITHOUT_TORCH = {
    "torch_matmul": np.matmul,
    "torch_multiply": np.multiply,
    "torch_accumulate": summed_products,
}
"""What does the same as the functions of the torch provider, for programs that were made where torch was."""
