"""Pairwise steps as the tasks that ways to compute them are priced for."""

from __future__ import annotations

from collections.abc import Mapping

from contractc.backends.steps import Task, flat
from contractc.cost import BLAS
from contractc.dtypes import wide
from contractc.grouping import kind
from contractc.notation import Term
from contractc.programs import Contract, Program, Value

SMALL = 2**14
"""Positions of the joint index space up to which every way takes about as long as its calls."""

_MOST_MODES = 64
"""Modes of a step beyond which it is left as it is: neither NumPy nor torch has arrays of that many axes."""


def task_of(program: Program, step: Contract, known: Mapping[int, Value]) -> Task | None:
    """Return what `step` asks of a matrix library, or None if that is not for it.

    That is a step that is not pairwise, one whose way has been chosen, one too small to matter, or a sum of
    products that BLAS does not have.
    """
    if len(step.inputs) != 2 or step.path or step.how or step.out.dtype == "object":
        return None
    left, right = (_diagonal(known[i].modes) for i in step.inputs)
    out = tuple(dict.fromkeys(step.out.modes))
    size = 1
    for m in {*left, *right}:
        size *= program.extents[m]
    if not size > SMALL or len({*left, *right}) > _MOST_MODES:
        return None
    if wide(step.out.dtype) not in BLAS and any(m in right and m not in out for m in left):
        return None
    a = tuple(m for m in left if m in right or m in out)
    b = tuple(m for m in right if m in left or m in out)
    extents, dynamic = program.extents, program.dynamic
    return Task(
        flat(a, extents, dynamic),
        flat(b, extents, dynamic),
        flat(out, extents, dynamic),
        extents,
        wide(step.out.dtype),
    )


def is_view(program: Program, step: Contract) -> bool:
    """Return whether `step` only looks at its one input in another way."""
    if len(step.inputs) != 1 or any(step.conj):
        return False
    value = program.value(step.inputs[0])
    word = kind([value.modes], step.out.modes)
    return word in ("view", "permute", "diagonal") and value.dtype == step.out.dtype


def _diagonal(modes: Term) -> Term:
    """Return the axes of an array after the diagonals of its repeated modes are taken: they come last."""
    repeated = [m for m in dict.fromkeys(modes) if modes.count(m) > 1]
    return (*(m for m in modes if m not in repeated), *repeated)
