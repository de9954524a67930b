"""Slices of a loop on NumPy arrays: one after the other, or some at a time in threads, with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from contractc.dtypes import zero_of
from contractc.notation import Term
from contractc.operations import Scaled, add_scaled, times_power
from contractc.programs import Contract, Program, Reshape
from contractc.providers.memory import fresh
from contractc.providers.threads import lent, side_by_side
from contractc.semirings import Semiring
from contractc.slices import Add, Sums, place, positions

Out = tuple[Term, np.dtype, bool]
"""Modes and dtype of a result, and whether what the body gives may share memory with something else."""


def borrowed_results(body: Program) -> set[int]:
    """Return the results of `body` that may be views: of an input, a constant or another result."""
    roots = {v.number: v.number for v in (*body.inputs, *(c.value for c in body.constants))}
    given = set(roots)
    for step in body.steps:
        view = isinstance(step, Contract | Reshape) and len(step.inputs) == 1
        roots |= {v.number: roots[step.inputs[0]] if view else v.number for v in step.outs}
    own = [roots[i] for i in body.results]
    return {i for i, root in zip(body.results, own, strict=True) if root in given or own.count(root) > 1}


def sliced(
    body: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    terms: Sequence[Term],
    modes: dict[int, int],
    outs: Sequence[Out],
    ring: Semiring,
    pairs: bool,
    threads: int,
) -> Any:
    """Return the results of `body` over all slices along `modes`, side by side or added up (see `slices`).

    At most `threads` slices are computed at a time, and no more than NumPy's BLAS may use threads.
    """
    function = getattr(np, ring.add)

    def add(x: Any, y: Any) -> Any:
        return function(x, y, out=y) if type(y) is np.ndarray else function(x, y)

    if 0 in modes.values():
        shapes = [_shape(arrays, terms, modes, t) for t, _, _ in outs]
        found = [
            np.full(shape, zero_of(ring.name, d.name), d)
            for shape, (_, d, _) in zip(shapes, outs, strict=True)
        ]
        return found[0] if len(outs) == 1 else tuple(found)
    whole: list[Any] = [
        fresh(_shape(arrays, terms, modes, t), d) if modes.keys() & set(t) else None for t, d, _ in outs
    ]

    def done(k: int, at: dict[int, int], total: Any) -> None:
        if whole[k] is None:
            whole[k] = np.asarray(total, outs[k][1])
        else:
            whole[k][(*place(at, outs[k][0]), ...)] = total

    def parts(found: Any) -> Sequence[Any]:
        return found if len(outs) > 1 else (found,)

    _run(body, arrays, terms, modes, outs, add, done, parts, pairs, threads)
    return whole[0] if len(outs) == 1 else tuple(whole)


def scaled_slices(
    body: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    terms: Sequence[Term],
    modes: dict[int, int],
    outs: Sequence[Out],
    pairs: bool,
    threads: int,
) -> tuple[Any, ...]:
    """Return the same for a `body` that gives pairs of a value and its exponent; every second of `outs` is one."""
    values = outs[::2]
    whole: list[Any] = [fresh(_shape(arrays, terms, modes, t), d) for t, d, _ in values]
    exponents: list[list[tuple[tuple[Any, ...], int]]] = [[] for _ in values]

    def done(k: int, at: dict[int, int], total: Scaled) -> None:
        here = (*place(at, values[k][0]), ...)
        whole[k][here] = total[0]
        exponents[k].append((here, total[1] if np.any(total[0]) else _NONE))

    def parts(found: Any) -> Sequence[Scaled]:
        return [(x, int(e)) for x, e in zip(found[::2], found[1::2], strict=True)]

    _run(body, arrays, terms, modes, values, add_scaled, done, parts, pairs, threads)
    made: list[Any] = []
    for k in range(len(values)):
        largest = max((e for _, e in exponents[k]), default=_NONE)
        for here, e in exponents[k]:
            if e != largest:
                whole[k][here] = times_power(whole[k][here], e - largest)
        made += [whole[k], np.array(0 if largest == _NONE else largest)]
    return tuple(made)


_NONE = -(2**40)
"""The exponent of zeros, where exponents are compared."""


def _run(
    body: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    terms: Sequence[Term],
    modes: dict[int, int],
    outs: Sequence[Out],
    add: Add,
    done: Callable[[int, dict[int, int], Any], None],
    parts: Callable[[Any], Sequence[Any]],
    pairs: bool,
    threads: int,
) -> None:
    """Run `body` over all slices, its results as `parts` of sums, and hand each sum to `done`."""
    listed = [term for term, _, _ in outs]
    count = prod(modes.values())

    def run(start: int, stop: int) -> Sums:
        sums = Sums(modes, listed, add, done, pairs)
        for at in positions(modes, start, stop):
            found = parts(body(*(x[(*place(at, t), ...)] for x, t in zip(arrays, terms, strict=True))))
            for k, part in enumerate(found):
                copied = outs[k][2] and sums.counts[k] > 1 and type(part) is np.ndarray
                sums.put(k, at, part.copy() if copied else part)
        return sums

    with lent(min(threads, count)) as workers:
        first, *others = side_by_side(run, count, workers)
        if others:
            whole = Sums(modes, listed, add, done, pairs)
            for part in (first, *others):
                whole.join(part)


def _shape(
    arrays: Sequence[np.ndarray], terms: Sequence[Term], modes: dict[int, int], out: Term
) -> tuple[int, ...]:
    extents = {m: n for x, t in zip(arrays, terms, strict=True) for m, n in zip(t, np.shape(x), strict=True)}
    return tuple([(extents | modes)[m] for m in out])
