"""Contractions as compiled loops: text for LLVM, made for one contraction, run through llvmlite if it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from contractc.programs import Contract, Program
from contractc.providers.loops import native
from contractc.providers.loops.kernel import Kernel, kernel
from contractc.providers.loops.problem import ORDERED, STRIDED, UNIT, Problem, problem_of, refused
from contractc.providers.loops.schedule import Schedule, best_schedule

__all__ = ["Library", "compiled", "installed", "loaded", "predicted", "refuses"]

installed = native.installed
loaded = native.loaded

MOST_VARIANTS = 8
"""With more ways in which inputs lie in memory than this, inputs are copied."""

ASSUMED_VECTOR_BYTES = 32
"""For predictions where llvmlite is not loaded."""


def refuses(program: Program, step: Contract) -> str | None:
    """Return why `step` cannot run as compiled loops, or None if it can."""
    reason = refused(program, step)
    if reason is None and _schedule(program, step) is None:
        reason = "no tile of it fits in cache"
    return reason


def predicted(program: Program, step: Contract) -> float:
    """Return the predicted seconds of `step` as compiled loops; infinite where they cannot run it."""
    schedule = None if refused(program, step) else _schedule(program, step)
    return float("inf") if schedule is None else schedule.seconds


def _schedule(program: Program, step: Contract) -> Schedule | None:
    return best_schedule(problem_of(program, step, [ORDERED] * len(step.inputs)), _vector_bytes())


def _vector_bytes() -> int:
    return native.vector_bytes() if native.loaded() else ASSUMED_VECTOR_BYTES


class Library(NamedTuple):
    """How arrays of one library are looked at: dtype apart, all that loops need to know."""

    form: Callable[[Any], int]
    address: Callable[[Any], int]
    strides: Callable[[Any], tuple[int, ...]]
    copied: Callable[[Any], Any]
    empty: Callable[[tuple[int, ...]], Any]
    workspace: Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class _Variant:
    """The function for inputs that lie in memory in certain ways, and where its numbers come from."""

    native: native.Native
    workspace: int
    extents: tuple[tuple[tuple[int, int], ...], ...]
    strided: tuple[int, ...]


def compiled(program: Program, step: Contract, library: Library) -> Callable[..., Any]:
    """Return a function of the arrays of the inputs of `step`, of the dtypes in `program`; it may run in threads.

    The code for inputs in the order of their axes is made now, for others when they come.
    """
    known = program.values()
    terms = [known[i].modes for i in step.inputs]
    where = {m: (k, axis) for k, term in enumerate(terms) for axis, m in enumerate(term)}
    fixed = all(m not in program.dynamic for m in step.out.modes)
    shape = tuple(program.extents[m] for m in step.out.modes)
    axes = tuple(where[m] for m in step.out.modes)
    variants: dict[tuple[int, ...], _Variant | None] = {}
    form, address, strides, copied, empty, workspace = library
    first = variants[(ORDERED,) * len(terms)] = _variant(program, step, (ORDERED,) * len(terms), where)
    assert first is not None, f"{step} has been refused"

    def run(*arrays: Any) -> Any:
        forms = tuple(map(form, arrays))
        variant = variants.get(forms)
        if variant is None:
            if forms not in variants and len(variants) < MOST_VARIANTS:
                variants[forms] = variant = _variant(program, step, forms, where)
            if variant is None:
                return run(*(x if f == ORDERED else copied(x) for x, f in zip(arrays, forms, strict=True)))
        result = empty(shape if fixed else tuple([arrays[k].shape[axis] for k, axis in axes]))
        room = workspace(variant.workspace)
        numbers = [prod([arrays[k].shape[axis] for k, axis in run_]) for run_ in variant.extents]
        for k in variant.strided:
            numbers += strides(arrays[k])
        variant.native.run(*map(address, arrays), address(result), address(room), *numbers)
        return result

    return run


def _variant(
    program: Program, step: Contract, forms: tuple[int, ...], where: dict[int, tuple[int, int]]
) -> _Variant | None:
    problem = problem_of(program, step, forms)
    schedule = best_schedule(problem, native.vector_bytes())
    if schedule is None:
        return None
    made = kernel(problem, schedule, native.vector_bytes())
    extents = tuple(tuple(where[m] for m in problem.members[k]) for k in sorted(problem.dynamic))
    strided = tuple(k for k, f in enumerate(forms) if f != ORDERED)
    return _Variant(native.native(made.text, made.function), made.workspace, extents, strided)


def text_of(program: Program, step: Contract) -> str:
    """Return the LLVM text that `step` runs as for inputs in the order of their axes."""
    made = _made(problem_of(program, step, [ORDERED] * len(step.inputs)))
    return made.text


def _made(problem: Problem) -> Kernel:
    schedule = best_schedule(problem, native.vector_bytes())
    assert schedule is not None, problem
    return kernel(problem, schedule, native.vector_bytes())
