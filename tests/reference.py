"""The meaning of einsum as the tests see it: one loop over all global positions, in plain Python.

Slow, obvious, and written without looking at (or importing) the package under test: its own parser, its own
ellipses, its own broadcasting, its own semirings. Integers are exact Python integers until `as_dtype` wraps
them; sums of floats are `math.fsum`, so the only rounding is that of one product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Label = Hashable
Term = tuple[Label, ...]
"""Labels of one operand or output; `Ellipsis` stands for the axes that have no label."""


@dataclass(frozen=True, slots=True)
class Semiring:
    """A commutative semiring on Python numbers: `total` adds up a list (not empty), `times` multiplies."""

    total: Callable[[list[Any]], Any]
    times: Callable[[Any, Any], Any]
    zero: Any
    one: Any


def _sum(values: list[Any]) -> Any:
    """Return the sum: exact for int, correctly rounded for float and per component for complex."""
    if isinstance(values[0], bool):
        return any(values)
    if isinstance(values[0], int):
        return sum(values)
    if isinstance(values[0], complex):
        return complex(_fsum([v.real for v in values]), _fsum([v.imag for v in values]))
    return _fsum(values)


def _fsum(values: list[float]) -> float:
    if all(map(math.isfinite, values)):
        return math.fsum(values)
    return float(sum(values))


def _product(x: Any, y: Any) -> Any:
    return (x and y) if isinstance(x, bool) and isinstance(y, bool) else x * y


def _log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top if math.isinf(top) else top + math.log(math.fsum(math.exp(v - top) for v in values))


SEMIRINGS = {
    "sum_product": Semiring(_sum, _product, 0, 1),
    "max_plus": Semiring(max, lambda x, y: x + y, -math.inf, 0),
    "min_plus": Semiring(min, lambda x, y: x + y, math.inf, 0),
    "max_times": Semiring(max, lambda x, y: x * y, 0, 1),
    "or_and": Semiring(any, lambda x, y: bool(x) and bool(y), False, True),
    "log_sum_exp": Semiring(_log_sum_exp, lambda x, y: x + y, -math.inf, 0),
}


def parse(text: str) -> tuple[list[Term], list[Term]]:
    """Return the input terms and the output terms of a well-formed text such as `ij,j...->i...`."""
    left, arrow, right = text.replace(" ", "").partition("->")
    inputs = [_term(part) for part in left.split(",")]
    return inputs, [_term(part) for part in right.split(",")] if arrow else [implicit(inputs)]


def _term(text: str) -> Term:
    before, dots, after = text.partition("...")
    return (*before, Ellipsis, *after) if dots else tuple(before)


def implicit(inputs: Sequence[Term]) -> Term:
    """Return the output meant where none is given: the ellipsis, then labels that occur once, sorted."""
    every = [label for term in inputs for label in term]
    once = sorted(label for label in set(every) - {Ellipsis} if every.count(label) == 1)  # type: ignore[type-var]
    return (Ellipsis, *once) if Ellipsis in every else tuple(once)


def resolve(
    inputs: Sequence[Term], outputs: Sequence[Term], shapes: Sequence[tuple[int, ...]]
) -> tuple[list[Term], list[Term], dict[Label, int]]:
    """Return the terms with one label per axis, and every label's extent (1 gives way to anything).

    The axes an ellipsis stands for are called `(Ellipsis, 1)`, `(Ellipsis, 2)`, ... counted from the right.
    """
    hidden = [
        len(shape) - (len(term) - 1) if Ellipsis in term else 0
        for term, shape in zip(inputs, shapes, strict=True)
    ]
    full_inputs = [_spelled_out(term, rank) for term, rank in zip(inputs, hidden, strict=True)]
    extents: dict[Label, int] = {}
    for term, shape in zip(full_inputs, shapes, strict=True):
        for label, extent in zip(term, shape, strict=True):
            if extents.setdefault(label, extent) == 1:
                extents[label] = extent
            assert extent in (1, extents[label]), f"{label!r} is {extent} and {extents[label]}"
    return full_inputs, [_spelled_out(term, max(hidden, default=0)) for term in outputs], extents


def _spelled_out(term: Term, rank: int) -> Term:
    full: list[Label] = []
    for label in term:
        full += [(Ellipsis, rank - k) for k in range(rank)] if label is Ellipsis else [label]
    return tuple(full)


def evaluate(
    inputs: Sequence[Term], outputs: Sequence[Term], operands: Sequence[Any], semiring: str = "sum_product"
) -> list[np.ndarray]:
    """Return one object array of exact Python numbers per output term."""
    ring = SEMIRINGS[semiring]
    arrays = [np.asarray(x) for x in operands]
    terms, results, extents = resolve(inputs, outputs, [x.shape for x in arrays])
    tensors = [dict(zip(np.ndindex(x.shape), x.ravel().tolist(), strict=True)) for x in arrays]
    axes = [
        [(label, extent > 1) for label, extent in zip(term, x.shape, strict=True)]
        for term, x in zip(terms, arrays, strict=True)
    ]
    found: list[dict[tuple[int, ...], list[Any]]] = [{} for _ in results]
    for position in itertools.product(*(range(extent) for extent in extents.values())):
        at = dict(zip(extents, position, strict=True))
        values = [
            tensor[tuple([at[label] if moves else 0 for label, moves in ax])]
            for tensor, ax in zip(tensors, axes, strict=True)
        ]
        value = values[0]
        for other in values[1:]:
            value = ring.times(value, other)
        for table, result in zip(found, results, strict=True):
            table.setdefault(tuple([at[label] for label in result]), []).append(value)
    answers = []
    for table, result in zip(found, results, strict=True):
        answer = np.full([extents[label] for label in result], ring.zero, dtype=object)
        for where, what in table.items():
            answer[where] = ring.total(what)
        answers.append(answer)
    return answers


def positions(inputs: Sequence[Term], shapes: Sequence[tuple[int, ...]]) -> int:
    """Return over how many global positions `evaluate` loops."""
    return math.prod(resolve(inputs, [], shapes)[2].values())


def einsum(text: str, *operands: Any, semiring: str = "sum_product") -> Any:
    """Return the object array of `text`'s value (a tuple of them for several outputs)."""
    inputs, outputs = parse(text)
    answers = evaluate(inputs, outputs, operands, semiring)
    return answers[0] if len(answers) == 1 else tuple(answers)


def as_dtype(exact: np.ndarray, dtype: Any) -> np.ndarray:
    """Return `exact` in `dtype`: integers wrap around, everything else is rounded once."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "iu":
        return exact.astype(dtype)
    bits = 8 * dtype.itemsize
    low = -(1 << (bits - 1)) if dtype.kind == "i" else 0
    wrapped = [(int(v) - low) % (1 << bits) + low for v in exact.ravel()]
    return np.array(wrapped, dtype=object).reshape(exact.shape).astype(dtype)


def vectorised(
    inputs: Sequence[Term], outputs: Sequence[Term], operands: Sequence[Any], dtype: Any = np.float64
) -> list[np.ndarray]:
    """Return the outputs for sizes at which the loop is too slow: every operand is spread over all positions.

    Memory is one element of `dtype` per global position, twice; sum-product only.
    """
    arrays = [np.asarray(x).astype(dtype) for x in operands]
    terms, results, extents = resolve(inputs, outputs, [x.shape for x in arrays])
    sizes = list(extents.values())
    place = {label: k for k, label in enumerate(extents)}

    def coordinate(label: Label) -> np.ndarray:
        shape = [n if k == place[label] else 1 for k, n in enumerate(sizes)]
        return np.arange(extents[label]).reshape(shape)

    product = np.ones(sizes, dtype)
    for x, term in zip(arrays, terms, strict=True):
        index = tuple(coordinate(label) if n != 1 else 0 for label, n in zip(term, x.shape, strict=True))
        product = product * x[index]
    answers = []
    for result in results:
        kept = list(dict.fromkeys(result))
        summed = product.sum(axis=tuple(k for k, label in enumerate(extents) if label not in kept))
        order = [label for label in extents if label in kept]
        summed = summed.transpose([order.index(label) for label in kept])
        answer = np.zeros([extents[label] for label in result], dtype)
        grid = np.indices([extents[label] for label in kept])
        answer[tuple(grid[kept.index(label)] for label in result)] = summed
        answers.append(answer)
    return answers
