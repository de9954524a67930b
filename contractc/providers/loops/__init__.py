"""Contractions as compiled loops: text for LLVM, made for one contraction, run through llvmlite if it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from contractc.fused import numbered_anew
from contractc.machine import processor_features
from contractc.programs import Contract, Fused, Loop, Program
from contractc.providers.loops import native
from contractc.providers.loops.forms import COPIED, ORDERED, STRIDED, UNIT

if TYPE_CHECKING:  # a bundle is loaded without what only compiling needs
    from contractc.providers.loops.problem import Problem
    from contractc.providers.loops.schedule import Schedule

__all__ = [
    "BUILT",
    "COPIED",
    "HOW",
    "HOW_FIRST",
    "ORDERED",
    "STRIDED",
    "UNIT",
    "Library",
    "Variant",
    "at_least",
    "compiled",
    "installed",
    "is_loop",
    "later",
    "note",
    "postponed",
    "predicted",
    "refuses",
    "text_of",
    "together",
    "together_seconds",
    "together_workspace",
    "variant",
]

HOW, HOW_FIRST = "loops", "loops at first call"
"""The words in `Contract.how` for steps that run as compiled loops: made with the program, or by the first call."""

BUILT = "loops built "
"""The words, before a number, for steps whose machine code was built before."""

installed = native.installed

MOST_VARIANTS = 8
"""With more ways in which inputs lie in memory than this, inputs are copied."""

ASSUMED_VECTOR_BYTES = 32
"""For predictions where llvmlite is not loaded and the system does not tell."""


def together_seconds(step: Fused) -> float:
    """Return the predicted seconds of a step of several results as loops; infinite where they cannot do it."""
    from contractc.providers.loops.arrays import layout
    from contractc.providers.loops.nests import seconds

    return seconds(numbered_anew(step)[0], vector_bytes()) if layout() is not None else float("inf")


def together_workspace(step: Fused) -> int:
    """Return the bytes of what lies between the steps of a step of several results, and of what one of them packs."""
    from contractc.providers.loops.kernel import ON_STACK
    from contractc.providers.loops.nests import nests_of

    nests = nests_of(numbered_anew(step)[0], vector_bytes())
    if nests is None:
        return 0
    packed = max([nest.schedule.scratch for nest in (*nests.whole, *nests.rest)])
    return nests.inner + (packed if packed > ON_STACK else 0)


def is_loop(how: str) -> bool:
    """Return whether `how` means compiled loops."""
    return how.startswith(HOW)


def refuses(program: Program, step: Contract) -> str | None:
    """Return why `step` cannot run as compiled loops, or None if it can."""
    from contractc.providers.loops.problem import refused

    reason = refused(program, step)
    if reason is None and _schedule(program, step) is None:
        reason = "no tile of it fits in cache"
    return reason


def predicted(program: Program, step: Contract) -> float:
    """Return the predicted seconds of `step` as compiled loops; infinite where they cannot run it."""
    from contractc.providers.loops.problem import refused

    schedule = None if refused(program, step) else _schedule(program, step)
    return float("inf") if schedule is None else schedule.seconds


def room(program: Program, step: Contract) -> int:
    """Return the bytes in which the loops of `step` hold packed inputs and what is between its pairs."""
    from contractc.providers.loops.problem import refused

    schedule = None if refused(program, step) else _schedule(program, step)
    return 0 if schedule is None else schedule.scratch


def at_least(program: Program, step: Contract) -> float:
    """Return seconds that `predicted` is not below, found far sooner."""
    from contractc.providers.loops.problem import problem_of, refused
    from contractc.providers.loops.schedule import least_seconds

    if refused(program, step):
        return float("inf")
    return least_seconds(problem_of(program, step, [ORDERED] * len(step.inputs)), vector_bytes())


def _schedule(program: Program, step: Contract) -> Schedule | None:
    from contractc.providers.loops.problem import problem_of
    from contractc.providers.loops.schedule import best_schedule

    return best_schedule(problem_of(program, step, [ORDERED] * len(step.inputs)), vector_bytes())


def vector_bytes() -> int:
    """Return the bytes of a vector; llvmlite, which knows them anywhere, is loaded to compile, not to price."""
    if native.loaded():
        return native.vector_bytes()
    features = processor_features()
    return native.widest(features) if features else ASSUMED_VECTOR_BYTES


class Library(NamedTuple):
    """How arrays of one library are looked at, in all that loops need to know.

    `form` gives `ORDERED`, `UNIT` or `STRIDED`, or `COPIED` for an array whose strides are no whole elements;
    `strides` are in elements, and `empty` makes a result.
    """

    form: Callable[[Any], int]
    address: Callable[[Any], int]
    strides: Callable[[Any], Sequence[int]]
    copied: Callable[[Any], Any]
    empty: Callable[[tuple[int, ...]], Any]
    workspace: Callable[[int], Any]
    dtypes: tuple[Any, ...]


COMPILING, COMPILING_STEP, IMPORTING = 0.05, 0.015, 0.15
"""Seconds that planning and compiling loops takes, about, beside those for each step, and importing the compiler."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The function for inputs that lie in memory in certain ways, and where its numbers come from.

    `workspace` is in bytes; a number is the product of the extents (operand, axis) of one of `extents`, then come
    the strides of the operands `strided`.
    """

    native: native.Native
    workspace: int
    extents: tuple[tuple[tuple[int, int], ...], ...]
    strided: tuple[int, ...]


def at_first_call(make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """Return a function that is made when it is first called: loading a bundle compiles nothing."""
    made: list[Callable[..., Any]] = []

    def run(*arrays: Any, **named: Any) -> Any:
        if not made:
            made.append(make())
        return made[0](*arrays, **named)

    return run


def postponed(program: Program) -> Program:
    """Return `program` with its compiled loops compiled when they are first called, if ever: nothing waits for them."""
    steps = tuple(
        replace(step, how=HOW_FIRST)
        if isinstance(step, Contract | Fused) and step.how == HOW
        else replace(step, body=postponed(step.body))
        if isinstance(step, Loop)
        else step
        for step in program.steps
    )
    return replace(program, steps=steps)


def later(
    run: Callable[..., Any], make: Callable[[], Callable[..., Any] | None], steps: int
) -> Callable[..., Any]:
    """Return `run` while all its calls together have taken less than compiling does, from then on what `make` returns.

    So loops cost a caller at most as much time as has been spent without them. Where `make` returns None, `run` stays.
    """
    spent = 0.0
    cost = COMPILING + COMPILING_STEP * steps
    made: list[Callable[..., Any]] = []

    def run_and_count(*arrays: Any) -> Any:
        nonlocal spent
        if made:
            return made[0](*arrays)
        start = perf_counter()
        result = run(*arrays)
        spent += perf_counter() - start
        if spent > cost and (native.loaded() or spent > cost + IMPORTING):
            made.append((make() if installed() else None) or run)
        return result

    return run_and_count


def compiled(
    program: Program,
    step: Contract,
    library: Library,
    pick: Callable[[Problem, int], Schedule | None] | None = None,
    built: Variant | None = None,
) -> Callable[..., Any]:
    """Return a function of the arrays of the inputs of `step`, of the dtypes in `program`; it may run in threads.

    It writes to the array `into` if one is given, which is in the order of its axes, and returns the result. The code
    for inputs in the order of their axes is made now, if it was not `built` before, for others when they come; `pick`
    chooses the schedule for a problem and the bytes of a vector.
    """
    known = program.values()
    terms = [known[i].modes for i in step.inputs]
    where = _places(program, step)
    fixed = all(m not in program.dynamic for m in step.out.modes)
    shape = tuple(program.extents[m] for m in step.out.modes)
    axes = tuple(where[m] for m in step.out.modes)
    variants: dict[tuple[int, ...], Variant | None] = {}
    form, address, strides, copied, empty, workspace, dtypes = library
    ordered = (ORDERED,) * len(terms)
    first = built or _variant(program, step, ordered, pick)
    assert first is not None, f"{step} has been refused"
    most = MOST_VARIANTS if built is None or native.available() else 0

    def run(*arrays: Any, into: Any = None) -> Any:
        for x, dtype in zip(arrays, dtypes, strict=True):
            assert x.dtype == dtype, f"{x.dtype} came where {dtype} was compiled for\n{program}"
        forms = tuple([form(x) for x in arrays])
        if forms == ordered:
            variant: Variant | None = first
        else:
            if forms not in variants and len(variants) < most and COPIED not in forms:
                variants[forms] = _variant(program, step, forms, pick)
            variant = variants.get(forms)
            if variant is None:
                arrays = tuple([x if f == ORDERED else copied(x) for x, f in zip(arrays, forms, strict=True)])
                variant = first
        assert variant is not None
        result = into
        if result is None:
            result = empty(shape if fixed else tuple([arrays[k].shape[axis] for k, axis in axes]))
        room = workspace(variant.workspace)
        numbers = [prod([arrays[k].shape[axis] for k, axis in places]) for places in variant.extents]
        for k in variant.strided:
            numbers += strides(arrays[k])
        variant.native.run(*[address(x) for x in arrays], address(result), address(room), *numbers)
        return result

    return run


def variant(program: Program, step: Contract | Fused) -> Variant:
    """Return the function that computes `step` for inputs in the order of their axes."""
    if isinstance(step, Fused):
        return together(step)
    found = _variant(program, step, (ORDERED,) * len(step.inputs), None)
    assert found is not None, f"{step} has been refused"
    return found


def together(step: Fused) -> Variant:
    """Return the function that computes a step of several results; it takes tuples, see `loops.driver`."""
    from contractc.providers.loops.driver import text

    written, room = text(numbered_anew(step)[0], native.vector_bytes())
    return Variant(native.native(written, "loops"), room, (), ())


def _places(program: Program, step: Contract) -> dict[int, tuple[int, int]]:
    """Return for each mode of `step` an (operand, axis) that has it."""
    known = program.values()
    return {m: (k, axis) for k, i in enumerate(step.inputs) for axis, m in enumerate(known[i].modes)}


def _variant(
    program: Program,
    step: Contract,
    forms: tuple[int, ...],
    pick: Callable[[Problem, int], Schedule | None] | None,
) -> Variant | None:
    from contractc.providers.loops.kernel import kernel  # loaded by those who compile
    from contractc.providers.loops.problem import problem_of
    from contractc.providers.loops.schedule import best_schedule

    problem = problem_of(program, step, forms)
    schedule = (pick or best_schedule)(problem, native.vector_bytes())
    if schedule is None:
        return None
    where = _places(program, step)
    made = kernel(problem, schedule, native.vector_bytes())
    extents = tuple(tuple(where[m] for m in problem.members[k]) for k in sorted(problem.dynamic))
    strided = tuple(k for k, f in enumerate(forms) if f != ORDERED)
    return Variant(native.native(made.text, made.function.name), made.workspace, extents, strided)


def text_of(program: Program, step: Contract, vector_bytes: int) -> str:
    """Return the LLVM text that `step` runs as for inputs in the order of their axes."""
    from contractc.providers.loops.kernel import kernel
    from contractc.providers.loops.problem import problem_of
    from contractc.providers.loops.schedule import best_schedule

    problem = problem_of(program, step, [ORDERED] * len(step.inputs))
    schedule = best_schedule(problem, vector_bytes)
    assert schedule is not None, problem
    return kernel(problem, schedule, vector_bytes).text


def note(program: Program, step: Contract | Fused) -> str:
    """Return how `step` runs, for `explain`."""
    if step.how.startswith(BUILT):
        return "compiled loop, machine code built before"
    if step.how == HOW_FIRST and native.available():
        return "compiled loop, made at the first call"
    if isinstance(step, Fused):
        if not installed():
            return "pairwise: compiled loops need llvmlite, which contractc[fast] installs"
        over = "".join(f", {step.piece} of {program.label(m)} at a time" for m in step.modes)
        return f"{len(step.body.steps)} compiled loops in one call{over}"
    schedule = _schedule(program, step)
    if schedule is None or not installed():
        return "pairwise: compiled loops need llvmlite, which contractc[fast] installs"
    from contractc.providers.loops.problem import problem_of

    problem = problem_of(program, step, [ORDERED] * len(step.inputs))
    lane = " ".join(program.label(m) for m in problem.members[schedule.lane])
    outer = " ".join(program.label(m) for k in schedule.outer for m in problem.members[k])
    words = f"compiled loop, {schedule.width} lanes x {schedule.columns} over {lane}"
    return f"{words}, outside of it {outer}" if outer else words
