"""compress: the layout of a dense array with the least predicted seconds, or bytes, that keeps a tolerance.

The axes are split into modes. These families are searched, in any order of the modes:

- trains of groups of modes, of any number of groups: low rank and Kronecker products are trains of two, TT and TT
  matrices longer ones. The ranks follow from the singular spectra of the unfoldings, each computed at most once; the
  best groups and their order from a dynamic program over subsets of modes.
- blocks of low rank: at fixed values of some modes the rest is a matrix of low rank. Monarch is one.
- Tucker over groups of modes, of all partitions of the modes that with the fewest parameters.
- CP of arrays with three axes and more, at the few ranks that their unfoldings allow.

Each is planned as it will be used. What can be the best is decomposed, in the order of predicted seconds (or bytes),
and its error measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from contractc.building import conj_and_constant, network_of, plan_of
from contractc.dtypes import itemsize
from contractc.errors import OperandError, ResourceLimitError
from contractc.evaluation import Array
from contractc.formats.arrays import finite, one_of
from contractc.formats.decompose import relative_error
from contractc.formats.factorized import Factorized, forced
from contractc.formats.kinds import Split, reshaped
from contractc.formats.layouts import Candidate, layouts
from contractc.formats.spectra import unfoldings
from contractc.machine import Target
from contractc.operands import dtype_name
from contractc.options import Options
from contractc.plans import bytes_text, seconds_text
from contractc.reading import described, read_ahead
from contractc.search import lowered_seconds

MOST_MODES = 10
"""The most modes that are searched over: all their subsets are unfolded."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One layout that was tried: its relative error, parameters, bytes, predicted seconds, and why it was not taken.

    `seconds` is None without an expression. `error` is None if the array was not decomposed, as this could not have
    been the best; parameters are then those that the singular values ask for.
    """

    layout: str
    error: float | None
    parameters: int
    bytes: int
    seconds: float | None
    verdict: str


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """What `compress` found: the operand (the array itself if it is best kept dense), and everything it tried."""

    operand: Any
    tolerance: float
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        head = ("layout", "error", "parameters", "bytes", "seconds", "")
        rows = [head]
        for t in self.trials:
            seconds = "" if t.seconds is None else seconds_text(t.seconds)
            error = "" if t.error is None else f"{t.error:.2g}"
            rows.append((t.layout, error, str(t.parameters), bytes_text(t.bytes), seconds, t.verdict))
        widths = [max(len(row[c]) for row in rows) for c in range(len(head))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join(
            [f"layouts within a relative error of {self.tolerance:g}", *(f"  {x}" for x in lines)]
        )


def compress(
    array: Any,
    *,
    tolerance: float,
    expression: Any = None,
    operands: Sequence[Any] = (),
    split: Split | None = None,
    target: str | Target | None = None,
    memory: int | None = None,
    progress: Callable[[str], object] | None = None,
) -> Compressed:
    """Return `array` held as factors in the layout with the least predicted seconds, and what else was tried.

    Without an expression, or at equal seconds, fewer bytes are better; the array stays dense if nothing is. Ctrl-C ends
    the search with the best so far.

    Args:
        array: the constant operand, a NumPy array or torch tensor.
        tolerance: the largest relative error in the Frobenius norm.
        expression: what the array will be used in.
        operands: the operands of the expression: for each its shape, and the array itself at its place.
        split: the modes that each axis is made of, of which any order may have structure; at most `MOST_MODES` in
            all. By default each axis is split into prime factors, the smallest merged.
        target, memory: where the expression will run, and within how many bytes (`memory_limit` of `compile`).
        progress: called with a line of text before each stage; `progress=print` shows it.

    Raises:
        OperandError: the array is not among the operands, the split does not fit, or a mode is too many.
        ResourceLimitError: nothing fits into `memory`.
    """
    one_of(None, tolerance)
    values, like = finite(array)
    if (expression is None) != (not operands):
        raise OperandError("an expression comes with its operands, and operands with an expression")
    places = [k for k, x in enumerate(operands) if x is array]
    if operands and len(places) != 1:
        raise OperandError("operands= has the shapes of the other operands, and the array itself once")
    split = default_split(values.shape) if split is None else tuple(tuple(axis) for axis in split)
    unfused = reshaped(values, split)
    if unfused.ndim > MOST_MODES:
        raise OperandError(f"{unfused.ndim} modes; at most {MOST_MODES} are searched over")
    say = progress or (lambda _: None)

    def predicted(operand: Any) -> float | None:
        if expression is None:
            return None
        given = [operand if x is array else x for x in operands]
        return _seconds(expression, given, places[0], dtype_name(like), target, memory)

    tried = [_tried("dense", array, 0.0, predicted, memory)]
    made: list[Any] = [array]
    try:
        choices = ("", "factored") if memory is not None and expression is not None else ("",)
        waiting = [
            (_tried(_named(c.name, choice), forced(c.expected, choice), None, predicted, memory), c, choice)
            for c in _candidates(array, unfused, split, tolerance, like, say)
            if c.expected.parameters < values.size
            for choice in choices
        ]
        errors: dict[str, tuple[Factorized, float]] = {}
        for hoped, candidate, choice in sorted(waiting, key=lambda w: _key(w[0])):
            best = min((_key(t) for t in tried if _fits(t, tolerance)), default=None)
            if hoped.verdict or (best is not None and _key(hoped) >= best):
                tried.append(hoped if hoped.verdict else replace(hoped, verdict="cannot be better"))
                made.append(None)
                continue
            if candidate.name not in errors:
                say(f"decomposing as {candidate.name}")
                operand = candidate.make()
                errors[candidate.name] = operand, relative_error(operand, array)
            operand, error = errors[candidate.name]
            made.append(forced(operand, choice))
            tried.append(_tried(hoped.layout, made[-1], error, predicted, memory))
    except KeyboardInterrupt:
        warnings.warn("the search was interrupted: what it found so far is returned", stacklevel=2)
    fits = [k for k, t in enumerate(tried) if _fits(t, tolerance)]
    if not fits:
        raise ResourceLimitError(f"no layout within {tolerance:g} fits into {bytes_text(memory or 0)}")
    best_of_all = min(fits, key=lambda k: (_key(tried[k]), k))
    trials = [
        replace(t, verdict="taken" if k == best_of_all else t.verdict or _miss(t, tolerance))
        for k, t in enumerate(tried)
    ]
    return Compressed(made[best_of_all], tolerance, tuple(trials))


def _candidates(
    array: Any, unfused: Array, split: Split, tolerance: float, like: Any, say: Callable[[str], object]
) -> list[Candidate]:
    """Return the layouts to look at; none for an array of one element or without any."""
    if unfused.size < 2:
        return []
    say(f"unfolding {'x'.join(map(str, unfused.shape))} along {2 ** (unfused.ndim - 1) - 1} cuts")
    return layouts(unfoldings(unfused, tolerance), array, split, like, say)


def default_split(shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return each axis split into its prime factors, the smallest merged until `MOST_MODES` are enough for all."""
    each = max(1, MOST_MODES // max(len(shape), 1))
    return tuple(_factors(n, each) for n in shape)


def _factors(n: int, most: int) -> tuple[int, ...]:
    primes, p, left = [], 2, n
    while left > 1 and p * p <= left:
        while left % p == 0:
            primes.append(p)
            left //= p
        p += 1
    if left > 1 or not primes:
        primes.append(left)
    pieces = sorted(primes)
    while len(pieces) > most:
        pieces = sorted([pieces[0] * pieces[1], *pieces[2:]])
    return tuple(pieces)


def _miss(trial: Trial, tolerance: float) -> str:
    return "misses the tolerance" if trial.error is not None and trial.error > tolerance else ""


def _fits(trial: Trial, tolerance: float) -> bool:
    """Return whether a layout was decomposed, keeps the tolerance and fits into memory."""
    return trial.error is not None and trial.error <= tolerance and not trial.verdict


def _key(trial: Trial) -> tuple[float, int]:
    """Return what is to be small: predicted seconds to two digits, as differences below that are none, then bytes."""
    return 0.0 if trial.seconds is None else float(f"{trial.seconds:.2g}"), trial.bytes


def _named(name: str, choice: str) -> str:
    return f"{name}, never dense" if choice else name


def _tried(
    name: str,
    operand: Any,
    error: float | None,
    predicted: Callable[[Any], float | None],
    memory: int | None,
) -> Trial:
    """Return what came of one operand, with a verdict if it does not fit into memory."""
    parameters = operand.parameters if isinstance(operand, Factorized) else prod(operand.shape)
    dtype = dtype_name(operand)
    size = parameters * itemsize(dtype)
    try:
        seconds = predicted(operand)
    except ResourceLimitError:
        return Trial(name, error, parameters, size, None, "does not fit into memory")
    verdict = "does not fit into memory" if memory is not None and size > memory else ""
    return Trial(name, error, parameters, size, seconds, verdict)


def _seconds(
    expression: Any,
    operands: Sequence[Any],
    place: int,
    dtype: str,
    target: str | Target | None,
    memory: int | None,
) -> float:
    """Return the predicted seconds of `expression` with the operand at `place` constant, by the steps that run."""
    found, given, chosen = read_ahead(expression, operands, "sum_product", target)
    options = Options(memory_limit=memory)
    tensors = conj_and_constant(described(given, dtype), (), (place,))
    plan = plan_of(network_of(found, tensors, chosen, options), options, target=chosen)
    if plan.sliced or len(plan.alternatives) > 1 or len(plan.results) > 1:
        return plan.seconds
    return lowered_seconds(plan.network, plan.path, plan.seconds, chosen)
