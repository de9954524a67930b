"""A fused step of several results as loop nests, one after the other on each piece, and how long that takes.

A step of the body is done before all pieces if it has nothing of the mode that is taken in pieces, for each piece if it
has, after all pieces if it reads what they add up. What a piece leaves for its own later steps stays in cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, prod

from contractc.cost import fresh_seconds, memory_seconds
from contractc.dtypes import itemsize, wide
from contractc.machine import DEFAULT_MACHINE
from contractc.programs import Contract, Fused, Program, Value
from contractc.providers.loops.forms import ORDERED
from contractc.providers.loops.problem import Problem, problem_of, refused
from contractc.providers.loops.schedule import (
    CACHES,
    CALL,
    CLOCK,
    NOT_HIDDEN,
    STREAMED,
    Schedule,
    best_schedule,
    in_lines,
    rate_behind,
    schedules,
)
from contractc.providers.loops.text import LINE
from contractc.workspace import Block, planned

BEFORE, INSIDE, AFTER = range(3)

CALL_TOGETHER, CALL_OPERAND = 1.0e-6, 6.0e-8
"""Seconds to call one function for several results, and to look at one operand or make one result."""

EMPTY = 1.0e-8
"""Seconds to call a nest and to set up its loops."""

FIRST_LEVEL, SECOND_LEVEL, CACHED = 2**15, 2**20, 48.0
"""Bytes of two caches, and the bytes a cycle that come from the second."""

FAR, FAR_ARRAY = 2**25, 2**23
"""Bytes of the working set at whose rate what comes from memory is priced, to choose between schedules; bytes of an
array from which its short runs are waited for: 4 MB in runs of 64 bytes took as long as in order, 16 MB three times."""


@dataclass(frozen=True, slots=True)
class Nest:
    """One step of the body on one piece: the values it reads and makes, when it is done, whether pieces add up."""

    problem: Problem
    schedule: Schedule
    reads: tuple[int, ...]
    makes: int
    stage: int
    adds: bool


@dataclass(frozen=True, slots=True)
class Nests:
    """The nests for a whole piece, for a last one that is shorter, and where what they make in between lies.

    `offsets` are in bytes of a workspace, by the number of a value; what a nest needs for itself comes behind `inner`.
    """

    whole: tuple[Nest, ...]
    rest: tuple[Nest, ...]
    offsets: Mapping[int, int]
    inner: int
    seconds: float


@lru_cache(maxsize=4096)
def nests_of(step: Fused, vector_bytes: int) -> Nests | None:
    """Return `step` as loop nests, or None if they cannot do it."""
    body = step.body
    stages = _stages(step)
    if stages is None:
        return None
    pieces = [step.piece] if step.modes else [0]
    left = body.extents[step.modes[0]] % step.piece if step.modes else 0
    made = [_nests(step, stages, n, vector_bytes) for n in (*pieces, *([left] if left else []))]
    whole, rest = made[0], made[1] if left else ()
    if whole is None or rest is None:
        return None
    offsets, inner = _places(step, whole)
    return Nests(whole, rest, offsets, inner, _seconds(step, whole, rest))


def count(step: Fused, value: Value, piece: int) -> int:
    """Return the elements of `value` for a piece of so many positions; 0 for all of them."""
    return prod([piece if piece and m in step.modes else step.body.extents[m] for m in value.modes])


def streams(step: Fused, value: Value) -> bool:
    """Return whether `value` is written past the caches where it can be: it is large, and no step reads it."""
    large = count(step, value, 0) * itemsize(value.dtype) >= STREAMED
    return large and not any(value.number in inner.inputs for inner in step.body.steps)


def _stages(step: Fused) -> dict[int, int] | None:
    """Return when each value of the body is complete, or None where pieces cannot give it.

    That is where a piece of an operand or a result would not be one run of memory, or a sum is read too early.
    """
    body, known = step.body, step.body.values()
    if body.dynamic or any(wide(v.dtype) != v.dtype for v in known.values()):
        return None
    found = {v.number: INSIDE if set(step.modes) & set(v.modes) else BEFORE for v in body.inputs}
    for inner in body.steps:
        assert isinstance(inner, Contract)
        stages = [found[i] for i in inner.inputs]
        apart = any(m in known[i].modes for i in inner.inputs for m in step.modes)
        if apart and AFTER in stages:
            return None
        kept = any(m in inner.out.modes for m in step.modes)
        found[inner.out.number] = (INSIDE if kept else AFTER) if apart else max(stages)
    outside = {*(v.number for v in body.inputs), *body.results}
    for m in step.modes:
        for v in known.values():
            if v.modes.count(m) > 1 or (v.number in outside and m in v.modes[1:]):
                return None
    return found


def _nests(step: Fused, stages: Mapping[int, int], piece: int, vector_bytes: int) -> tuple[Nest, ...] | None:
    """Return the nests for a piece of so many positions."""
    body, known = step.body, step.body.values()
    extents = tuple(piece if piece and m in step.modes else n for m, n in enumerate(body.extents))
    outside = {*(v.number for v in body.inputs), *body.results} if step.modes else set()
    sizes = {n: count(step, v, 0) * itemsize(v.dtype) for n, v in known.items()}
    found = []
    made: set[int] = set()
    for inner in body.steps:
        assert isinstance(inner, Contract)
        values = tuple(known[i] for i in inner.inputs)
        aligned = tuple(i in made for i in inner.inputs)
        made.add(inner.out.number)
        problem = _problem(values, inner, extents, body.semiring, aligned)
        far = tuple(i in outside and sizes[i] > FAR_ARRAY for i in (*inner.inputs, inner.out.number))
        schedule = None if problem is None else _schedule(problem, far, vector_bytes)
        if problem is None or schedule is None:
            return None
        apart = any(m in v.modes for v in values for m in step.modes)
        adds = apart and stages[inner.out.number] == AFTER
        stage = INSIDE if apart else stages[inner.out.number]
        found.append(Nest(problem, schedule, inner.inputs, inner.out.number, stage, adds))
    return tuple(found)


@lru_cache(maxsize=4096)
def _schedule(problem: Problem, far: tuple[bool, ...], vector_bytes: int) -> Schedule | None:
    """Return the schedule for `problem` whose inputs and result are pieces of arrays in memory where `far` says so."""
    if not any(far):
        return best_schedule(problem, vector_bytes)

    def seconds(schedule: Schedule) -> tuple[float, int, int]:
        moved = [_bytes(problem, schedule, k) if there else 0.0 for k, there in enumerate(far)]
        memory = memory_seconds(DEFAULT_MACHINE, sum(moved[:-1]), moved[-1], FAR)
        found = max(schedule.busy, memory) + NOT_HIDDEN * min(schedule.busy, memory)
        return found, schedule.lane, schedule.columns

    return min(schedules(problem, vector_bytes), key=seconds, default=None)


def _bytes(problem: Problem, schedule: Schedule, k: int) -> float:
    """Return the bytes of input k of `problem`, or of its result, and for each run in which tiles use it a line more.

    The rows of a tile are gone through side by side where they are turned in squares of a vector.
    """
    term = problem.terms[k] if k < problem.inputs else problem.out
    width = itemsize(problem.dtypes[k] if k < problem.inputs else problem.result)
    lane, tile = schedule.lane, schedule.width * schedule.columns
    rows = any(m != lane and m not in schedule.outer for m in term)
    run = inf
    if lane in term and rows:
        last = term[-1] == lane
        run = (
            tile * width if last and tile < problem.extents[lane] else inf if last else schedule.width * width
        )
    return problem.size(term) * width * (1 + LINE / run)


@lru_cache(maxsize=4096)
def _problem(
    values: tuple[Value, ...],
    step: Contract,
    extents: tuple[int, ...],
    semiring: str,
    aligned: tuple[bool, ...],
) -> Problem | None:
    distinct = tuple({v.number: v for v in values}.values())
    alone = Program(distinct, (step,), (step.out.number,), extents, semiring)
    return None if refused(alone, step) else problem_of(alone, step, [ORDERED] * len(values), aligned)


def _places(step: Fused, nests: Sequence[Nest]) -> tuple[dict[int, int], int]:
    """Return where in the workspace each intermediate lies, and the bytes they take together."""
    known, results = step.body.values(), set(step.body.results)
    order = sorted(range(len(nests)), key=lambda k: nests[k].stage)
    when = {k: at for at, k in enumerate(order)}
    inside = [when[k] for k, nest in enumerate(nests) if nest.stage == INSIDE] or [0]
    blocks: dict[int, Block] = {}
    for k, nest in enumerate(nests):
        value = known[nest.makes]
        size = count(step, value, step.piece) * itemsize(value.dtype)
        readers = [when[j] for j, other in enumerate(nests) if nest.makes in other.reads]
        first, last = when[k], max([when[k], *readers])
        if nest.adds:
            first = min(inside)
        elif nest.stage == BEFORE and any(at >= min(inside) for at in readers):
            last = max(last, max(inside))
        if nest.makes not in results:
            blocks[nest.makes] = Block(size, first, last)
    room, offsets = planned(blocks)
    return offsets, room


def _seconds(step: Fused, whole: Sequence[Nest], rest: Sequence[Nest]) -> float:
    """Return the predicted seconds of one call."""
    outside = [*step.body.inputs, *step.outs]
    call = CALL_TOGETHER + CALL_OPERAND * len(outside)
    known, everything = step.body.values(), _all_bytes(step)
    each = [_nest_seconds(step, nest, known, everything) for nest in whole]
    if not step.modes:
        return call + sum(each)  # what is between the steps may have gone to memory
    extent = step.body.extents[step.modes[0]]
    inside = sum(s for s, nest in zip(each, whole, strict=True) if nest.stage == INSIDE)
    around = sum(each) - inside
    last = sum(_nest_seconds(step, nest, known, everything) for nest in rest if nest.stage == INSIDE)
    busy = extent // step.piece * inside + last
    sizes = {v.number: count(step, v, 0) * itemsize(v.dtype) for v in outside}
    moved = {n: float(size) for n, size in sizes.items()}
    for nest in reversed(whole):  # the first that reads a piece brings it from memory
        for k, i in enumerate((*nest.reads, nest.makes)):
            if sizes.get(i, 0) > FAR_ARRAY and nest.stage == INSIDE:
                pieces = extent / step.piece if step.modes[0] in known[i].modes else 1.0
                moved[i] = pieces * _bytes(nest.problem, nest.schedule, k)
    made = [v.number for v in step.outs]
    past = [nest.makes for nest in whole if nest.makes in made and _is_streamed(step, nest, known)]
    written = sum(moved[i] for i in made if i not in past)
    memory = memory_seconds(DEFAULT_MACHINE, sum(moved.values()) - written, written, sum(sizes.values()))
    fresh = sum(fresh_seconds(DEFAULT_MACHINE, sizes[i]) for i in made)
    return call + around + max(busy, memory) + NOT_HIDDEN * min(busy, memory) + fresh


def _is_streamed(step: Fused, nest: Nest, known: Mapping[int, Value]) -> bool:
    """Return whether the result of a nest is written past the caches, which takes as long as reading it."""
    schedule = nest.schedule
    past = not nest.adds and streams(step, known[nest.makes])
    return past and in_lines(nest.problem, schedule.lane, schedule.width, schedule.unpacked)


def _nest_seconds(step: Fused, nest: Nest, known: Mapping[int, Value], everything: int) -> float:
    """Return the predicted seconds of a nest: on a piece, what it reads and writes is in the second-level cache.

    What all pieces read or add up has gone from there, where the nests of a piece touch more than it holds.
    `everything` are the bytes of all values of the body on one piece, which are `known`.
    """
    if nest.stage != INSIDE and everything > SECOND_LEVEL:
        return nest.schedule.seconds - CALL
    waiting = 0.0
    for i in (*nest.reads, nest.makes, *([nest.makes] if nest.adds else [])):
        size = count(step, known[i], step.piece) * itemsize(known[i].dtype)
        kept = set(step.modes) & set(known[i].modes) or everything <= CACHES[1][0]
        waiting += size / (CACHED if kept else rate_behind(everything))
    waiting = NOT_HIDDEN * waiting if everything > FIRST_LEVEL else 0.0
    return nest.schedule.busy + waiting / CLOCK + EMPTY


def _all_bytes(step: Fused) -> int:
    """Return the bytes of all values of the body on one piece."""
    return sum(count(step, v, step.piece) * itemsize(v.dtype) for v in step.body.values().values())


def seconds(step: Fused, vector_bytes: int) -> float:
    """Return the predicted seconds of `step`; infinite where loops cannot do it."""
    nests = nests_of(step, vector_bytes)
    return inf if nests is None else nests.seconds
