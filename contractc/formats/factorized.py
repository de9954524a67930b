"""Factorized: a layout and the arrays of its factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from contractc.errors import OperandError
from contractc.operands import CHOICES, Layout, dtype_name, library_of


@dataclass(frozen=True, slots=True, eq=False)
class Factorized:
    """An array held as factors (NumPy arrays or torch tensors; parameters of a module stay parameters).

    It stands for the dense array of shape `shape` that is the einsum of its factors; see `Layout`.
    """

    layout: Layout
    factors: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the dense array."""
        return self.layout.shape()

    @property
    def ndim(self) -> int:
        """Return the number of axes of the dense array."""
        return len(self.layout.axes)

    @property
    def dtype(self) -> Any:
        """Return the dtype of the factors."""
        return self.factors[0].dtype

    @property
    def parameters(self) -> int:
        """Return the number of elements of all factors together."""
        return sum(prod(x.shape) for x in self.factors)

    def __array__(self, *_: object, **__: object) -> Any:
        """Raise TypeError: NumPy would take this for one object, and compute something else without a word."""
        raise TypeError(f"a {self.layout.format} is no array; contract it, or take its to_dense()")

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape))
        factors = ", ".join(str(tuple(x.shape)) for x in self.factors)
        share = self.parameters / max(prod(self.shape), 1)
        return f"{self.layout.format} {sizes}, {self.parameters} parameters ({share:.3g} of dense): {factors}"

    def faults(self) -> list[str]:
        """Return each rule this operand breaks, as a sentence; nothing means it is well formed."""
        layout = self.layout
        found = layout.faults()
        if found:
            return found
        if len(layout.terms) != len(self.factors):
            found.append(f"{len(self.factors)} factors for {len(layout.terms)} terms")
        for f, (term, x) in enumerate(zip(layout.terms, self.factors, strict=False)):
            expected = tuple(layout.extents[m] for m in term)
            if tuple(x.shape) != expected:
                found.append(f"factor {f} has shape {tuple(x.shape)}, its term {expected}")
        dtypes = dict.fromkeys(dtype_name(x) for x in self.factors)
        if len(dtypes) > 1:
            found.append(f"its factors have different dtypes, {' and '.join(dtypes)}")
        return found

    def to_dense(self) -> Any:
        """Return the dense array, contracted from the factors by their own library."""
        from contractc.api import contract

        labels = [x for f, term in zip(self.factors, self.layout.terms, strict=True) for x in (f, list(term))]
        modes = [m for axis in self.layout.axes for m in axis]
        return contract(*labels, modes).reshape(self.shape)


def with_factors(layout: Layout, factors: Sequence[Any]) -> Factorized:
    """Return the operand of the same format, modes and axes with other factors, whose extents may differ."""
    made = factorized(layout.format, layout.terms, layout.axes, factors)
    return Factorized(replace(made.layout, choice=layout.choice), made.factors)


def forced(operand: Factorized, choice: str) -> Factorized:
    """Return `operand` with the planner's choice made for it.

    Args:
        choice: "factored": its dense array is never formed; "materialised": it is formed first (once, if the
            operand is a constant); "": the planner chooses again.

    Raises:
        OperandError: there is no such choice.
    """
    if choice not in CHOICES:
        raise OperandError(f"choice={choice!r:.40} is none of {', '.join(map(repr, CHOICES))}")
    return replace(operand, layout=replace(operand.layout, choice=choice))


def check_arrays(format: str, factors: Sequence[Any]) -> None:
    """Raise OperandError unless all `factors` are arrays, and of one library."""
    for f, x in enumerate(factors):
        if not hasattr(x, "shape"):
            raise OperandError(f"factor {f} of a {format} is a {type(x).__name__}, not an array")
    library_of(factors, f"factor {{}} of a {format}".format)
    devices = [str(getattr(x, "device", "cpu")) for x in factors]
    for f, device in enumerate(devices):
        if device != devices[0]:
            raise OperandError(
                f"factor {f} of a {format} is on {device}, factor 0 on {devices[0]}; move one of them"
            )


def factorized(
    format: str, terms: Sequence[Sequence[int]], axes: Sequence[Sequence[int]], factors: Sequence[Any]
) -> Factorized:
    """Return the operand with these factors; extents are read off their shapes.

    Args:
        format: its name, for printing.
        terms: the modes of each factor, as ints from 0.
        axes: the modes that each axis of the dense array is made of, slowest first.
        factors: arrays of one library and one dtype.

    Raises:
        OperandError: the factors do not fit together, with both sides.
    """
    check_arrays(format, factors)
    extents: dict[int, tuple[int, int]] = {}
    for f, (term, x) in enumerate(zip(terms, factors, strict=True)):
        if len(x.shape) != len(term):
            raise OperandError(f"factor {f} of a {format} has {len(term)} axes, not {len(x.shape)}")
        for axis, (m, n) in enumerate(zip(term, x.shape, strict=True)):
            first = extents.setdefault(m, (int(n), f))
            if first[0] != n:
                raise OperandError(
                    f"factors {first[1]} and {f} of a {format} share a mode, "
                    f"which is {first[0]} in one and {n} (axis {axis}) in the other"
                )
    layout = Layout(
        format,
        tuple(map(tuple, terms)),
        tuple(map(tuple, axes)),
        tuple(extents[m][0] for m in range(len(extents))),
    )
    made = Factorized(layout, tuple(factors))
    faults = made.faults()
    if faults:
        raise OperandError(f"not a {format}: {'; '.join(faults)}")
    return made
