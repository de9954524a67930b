"""Graphical models: marginals of all modes from one tree, and the positions at which a best value is taken."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from contractc.backends import backend_named
from contractc.building import network_of, plan_of
from contractc.calls import cached
from contractc.dtypes import wide
from contractc.errors import OperandError, UnsupportedError
from contractc.fused import all_unfused
from contractc.lower import lower
from contractc.machine import Target
from contractc.notation import Einsum, Term, display
from contractc.operands import Operand, describe, flattened
from contractc.options import Options, frozen
from contractc.plans import Plan
from contractc.programs import Contract, Program
from contractc.reading import read
from contractc.semirings import SEMIRINGS

Array = np.ndarray[Any, Any]

BEST = {"max_plus": np.argmax, "min_plus": np.argmin, "max_times": np.argmax}
"""The semirings in which a sum is one of its terms, and which one: of equal ones the first."""

BLOCK = 2**22
"""Most elements of the joint space of one step, for all positions of the output, that are compared at a time."""


def marginals(
    expression: Any,
    *operands: Any,
    modes: Iterable[Hashable] | None = None,
    semiring: str = "sum_product",
    optimize: Any = None,
    memory_limit: int | str | None = None,
) -> dict[str, Any]:
    """Return for each mode the contraction of all operands to that mode alone, by label.

    In "sum_product" these are the unnormalised marginals (each sums to the contraction of everything), in
    "log_sum_exp" their logarithms, in "max_plus", "min_plus" and "max_times" the max-marginals: the best value with
    the mode at each position. All come from one contraction tree. The output of the expression plays no part.

    Args:
        expression, operands, optimize, memory_limit: as in `contract`.
        modes: labels; None for all modes.

    >>> import numpy as np
    >>> found = marginals("ab,b->", np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0]))
    >>> found["a"].tolist(), found["b"].tolist()
    ([21.0, 43.0], [4.0, 60.0])
    """
    found, arrays, target = read(expression, operands, semiring, None)
    labels = _labels(found, expression, operands)
    wanted = _modes(labels, modes)
    if not wanted:
        return {}
    several = replace(found, outputs=tuple((m,) for m in wanted), source="")
    executable = cached(several, arrays, target, Options(frozen(optimize), memory_limit))
    results = executable(*flattened(arrays))
    results = results if isinstance(results, tuple) else (results,)
    return {labels[m]: x for m, x in zip(wanted, results, strict=True)}


def best_assignment(
    expression: Any,
    *operands: Any,
    semiring: str = "max_plus",
    optimize: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Return the value of `expression` in an ordered semiring, and the positions of the summed modes that attain it.

    The value is the best over the summed modes: the most probable explanation of a model, a maximum cut, a ground
    state. Going down the contraction tree from the result, each step tells at which position of the modes that it
    sums its best term is, given the positions found before; of equal terms the first in the order of the operands'
    modes is taken, so that the answer depends on nothing but the arguments.

    Args:
        expression, operands, optimize: as in `contract`; one output.
        semiring: "max_plus", "min_plus" or "max_times" (values not negative).

    Returns:
        The value, as `contract` gives it; and by label the positions: for an output without axes ints, else NumPy
        arrays of the shape of the output.

    Raises:
        OperandError: a summed mode has extent 0, so that there is no position.
        UnsupportedError: in another semiring no single term is the sum.

    >>> import numpy as np
    >>> x, y = np.array([[0.0, 5.0], [6.0, 1.0]]), np.array([[1.0, 2.0], [9.0, 0.0]])
    >>> value, places = best_assignment("ab,bc->", x, y)
    >>> float(value), places
    (14.0, {'a': 0, 'b': 1, 'c': 0})
    """
    found, arrays, target = read(expression, operands, semiring, None)
    if found.semiring not in BEST:
        raise UnsupportedError(f"best_assignment needs one of {', '.join(BEST)}, not {found.semiring}")
    if len(found.outputs) != 1:
        raise UnsupportedError(f"best_assignment is that of one output, not of {len(found.outputs)}")
    plan, program, run = _with_all_values(
        replace(found, source=""), tuple(describe(x) for x in arrays), target, Options(frozen(optimize))
    )
    network = plan.network
    labels = _labels(found, expression, operands)
    labels += [network.label(m) for m in range(len(labels), len(network.extents))]
    empty = [m for m, n in enumerate(network.extents) if n == 0]
    if empty:
        raise OperandError(f"mode '{display(labels[empty[0]])}' has extent 0, so there is no best position")
    made = [step.outs[0].number for step in program.steps]
    results = run(*arrays)
    results = results if len(made) > 1 else (results,)
    held = dict(zip([v.number for v in program.inputs], map(_as_numpy, arrays), strict=True))
    held |= dict(zip(made, map(_as_numpy, results), strict=True))
    (term,) = network.outputs
    shape = tuple(network.extents[m] for m in dict.fromkeys(term))
    places = _descended(program, held, shape)
    named: dict[str, Any] = {}
    for m in range(len(network.extents)):
        if (
            m in places and m not in term
        ):  # a mode of extent 1 that broadcasts has the label of an earlier one
            at = places[m].reshape(shape)
            named.setdefault(labels[m], _over_diagonal(at, term, network.extents) if shape else int(at))
    return results[made.index(program.results[0])], named


@lru_cache(maxsize=64)
def _with_all_values(
    expression: Einsum, operands: tuple[Operand, ...], target: Target, options: Options
) -> tuple[Plan, Program, Callable[..., Any]]:
    """Return the plan and the program of `expression`, and code that returns what every step makes."""
    plan = plan_of(network_of(expression, operands, target, options), options)
    program = all_unfused(lower(plan, target))
    whole = replace(program, results=tuple(step.outs[0].number for step in program.steps))
    return plan, program, backend_named(target.backend).compile(whole, ()).run


def _descended(program: Program, held: Mapping[int, Array], shape: tuple[int, ...]) -> dict[int, Array]:
    """Return the position of every mode for each of the positions of the output (flat, of extents `shape`)."""
    known = program.values()
    ring = SEMIRINGS[program.semiring]
    multiply: Callable[..., Array] = getattr(np, ring.multiply)
    count = int(np.prod(shape))
    grid = np.indices(shape).reshape(len(shape), count) if shape else np.zeros((0, 1), np.intp)
    term = known[program.results[0]].modes
    places: dict[int, Array] = dict(zip(dict.fromkeys(term), grid, strict=True))
    for step in reversed(program.steps):
        assert isinstance(step, Contract), step
        terms = [known[i].modes for i in step.inputs]
        new = tuple(m for m in dict.fromkeys(m for t in terms for m in t) if m not in places)
        if not new:
            continue
        size = [program.extents[m] for m in new]
        work = np.dtype(wide(step.out.dtype))
        chosen = np.empty(count, np.intp)
        block = max(1, BLOCK // max(1, int(np.prod(size))))
        for first in range(0, count, block):
            part = slice(first, first + block)
            value: Array | None = None
            for i, modes in zip(step.inputs, terms, strict=True):
                x = _at(held[i], modes, {m: p[part] for m, p in places.items() if m in modes}, new)
                x = x.astype(work)
                value = x if value is None else multiply(value, x)
            assert value is not None
            rows = min(count, first + block) - first
            flat = np.broadcast_to(value, (rows, *size)).reshape(rows, -1)
            chosen[part] = BEST[program.semiring](flat, axis=1)
        places |= dict(zip(new, np.unravel_index(chosen, size), strict=True))
    return places


def _at(x: Array, modes: Term, places: Mapping[int, Array], new: Sequence[int]) -> Array:
    """Return `x` at the `places` found (its first axis runs along them) for all positions of the modes `new`."""
    index: list[Any] = []
    for axis, m in enumerate(modes):
        if m in places:
            index.append(places[m].reshape(-1, *[1] * len(new)))
        else:
            index.append(np.arange(x.shape[axis]).reshape(1, *[-1 if n == m else 1 for n in new]))
    return np.asarray(x[tuple(index)]) if index else np.asarray(x).reshape(1, *[1] * len(new))


def _over_diagonal(at: Array, term: Term, extents: Sequence[int]) -> Array:
    """Return positions over the distinct modes of `term` in the shape of the output; off its diagonals 0."""
    own = tuple(dict.fromkeys(term))
    if len(own) == len(term):
        return at
    whole = np.zeros([extents[m] for m in term], at.dtype)
    grid = np.indices(at.shape)
    whole[tuple(grid[own.index(m)] for m in term)] = at
    return whole


def _as_numpy(x: Any) -> Array:
    detached = x.detach().cpu() if hasattr(x, "detach") else x
    return np.asarray(detached)


def _labels(found: Einsum, expression: Any, operands: Sequence[Any]) -> list[str]:
    """Return the label of each mode in full, as the text it prints as; those of `found` are short, for messages.

    Raises:
        OperandError: two modes have the same text, so that results could not be told apart.
    """
    if isinstance(expression, str | Einsum):
        return list(found.labels)
    terms = (expression, *operands)[1 : 2 * len(found.inputs) : 2]
    labels = [str(x) for x in dict.fromkeys(x for term in terms for x in term if x is not ...)]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise OperandError(
            f"two modes are called '{display(twice)}', so their results could not be told apart"
        )
    return labels


def _modes(labels: Sequence[str], asked: Iterable[Hashable] | None) -> list[int]:
    """Return the numbers of the modes asked for, by their labels."""
    if asked is None:
        return list(range(len(labels)))
    wanted = []
    for label in asked:
        if str(label) not in labels:
            raise OperandError(f"mode '{display(label)}' is in no operand")
        wanted.append(labels.index(str(label)))
    return wanted
