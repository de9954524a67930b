"""How a problem is cut into vectors, tiles and register blocks, and how long that takes by prediction.

One mode, the *lane* mode, runs along the lanes of the vectors in every value that has it; values without it
are broadcast. A tile is `width * columns` positions of the lane mode; all steps are done on a tile before the
next one, so that the intermediates of a tile stay in cache. Within a step a block of the result is kept in
registers while the summed modes run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf

from contractc.cost import fresh_seconds, memory_seconds
from contractc.dtypes import itemsize
from contractc.machine import DEFAULT_MACHINE
from contractc.notation import Term
from contractc.providers.loops.blocks import MOST_BLOCK, Blocking, blocking, split_part, step_shape
from contractc.providers.loops.forms import ORDERED, STRIDED
from contractc.providers.loops.problem import Problem
from contractc.providers.loops.text import LINE, kind_of

CLOCK = 3.0e9
"""Cycles a second that the predicted cycles are divided by."""

CACHES = ((2**15, 0.0), (3 * 2**19, 48.0), (2**24, 12.0), (2**62, 4.0))
"""Bytes of the caches and of memory, and bytes a cycle from there; 0: as fast as they are used."""

RUN, STEEP = 300, 2 / 3
"""Bytes in a row with which memory is read at half its rate, and the power with which shorter runs take longer: 64 of
800 took 3.8 times as long as all 800, 256 2.1."""

PAGE = 4096
"""Bytes of a page: one element far from all others takes a cache line of the caches, or a page of its pages."""

LINES = ((2**15, 0.0), (2**18, 4.0e-9), (2**62, 1.2e-8))
"""Bytes of the lines that are touched before one is used again, and seconds to get that line back: 45 to 63 ms for
three million lines of 1 MB at a time, 3 ms for 262,000 of 0.5 MB."""

STREAMED = 3 * 2**20
"""Bytes of a result from which it is written past the caches: three of 8 MB took half the time so, one of 4 MB two
thirds, gradients with one of 2.7 MB 1.2 times as long; what a cache holds is read from there by the next step."""

MOST_COLUMNS = 8
"""Vectors of a tile at most, where there are 32 registers and a number is in one of them."""

MOST_SCRATCH = 3 * 2**19
"""Bytes of the intermediates and packed inputs of a tile: what stays in a second-level cache."""

CALL = 4.0e-6
"""Seconds to call a compiled function from Python and to allocate its result."""

INTEGERS = {1: 1.0, 2: 1.0, 4: 3.0, 8: 4.5}
"""How much longer products of integers take than those of floats, by their bytes: they are several instructions."""

NOT_HIDDEN = 0.7
"""The part of the shorter of arithmetic and memory that does not hide behind the longer one."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The choices for a problem: see the module. `outer` modes are looped over outside of tiles, one at a time.

    `packed[k]` tells whether a tile of input k is first put in vectors; `unpacked` whether one of the result is put in
    order afterwards. `busy` is the part of the predicted seconds that is arithmetic and waiting for caches.
    """

    lane: int
    width: int
    columns: int
    outer: Term
    packed: tuple[bool, ...]
    unpacked: bool
    scratch: int
    seconds: float
    busy: float


def best_schedule(problem: Problem, vector_bytes: int) -> Schedule | None:
    """Return the schedule with the least predicted seconds, or None if there is none that fits in cache."""
    return _best_schedule(replace(problem, members=()), vector_bytes)  # whose modes they are costs no time


@lru_cache(maxsize=4096)
def _best_schedule(problem: Problem, vector_bytes: int) -> Schedule | None:
    best: Schedule | None = None
    for floor, cut in _floors(problem, vector_bytes):
        if best is not None and floor > best.seconds:
            break
        for summed_inside in (False, True):
            found = _priced(problem, *cut, vector_bytes, inf if best is None else best.seconds, summed_inside)
            if found is not None and (
                best is None
                or (found.seconds, found.lane, found.columns) < (best.seconds, best.lane, best.columns)
            ):
                best = found
    return best


def least_seconds(problem: Problem, vector_bytes: int) -> float:
    """Return seconds below which no schedule of `problem` is, far sooner than the best one is found."""
    return min((floor for floor, _ in _floors(problem, vector_bytes)), default=inf)


def schedules(problem: Problem, vector_bytes: int) -> Iterator[Schedule]:
    """Yield the schedules of `problem` whose tiles fit in cache, for vectors of `vector_bytes`."""
    for cut in _cuts(problem, vector_bytes):
        for summed_inside in (False, True):
            schedule = _priced(problem, *cut, vector_bytes, inf, summed_inside)
            if schedule is not None:
                yield schedule


def _cuts(problem: Problem, vector_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Yield the modes that may run along the lanes, with the lanes of a vector and the vectors of a tile."""
    kind = kind_of(problem.work)
    most = max(1, min(16, vector_bytes // kind.bytes))
    wide = vector_bytes == 64 and kind.parts == 1
    for lane in dict.fromkeys(m for term in problem.terms[: problem.inputs] for m in term):
        extent = problem.extents[lane]
        repeated = any(term.count(lane) > 1 for term in problem.terms)
        early = any(lane in problem.summed(s) for s in range(len(problem.reads) - 1))
        if repeated or early or (extent == 1 and lane not in problem.dynamic):
            continue
        width = most
        while lane not in problem.dynamic and width // 2 >= extent:
            width //= 2
        whole = extent // width if extent % width == 0 and lane not in problem.dynamic else 1
        for columns in sorted({1, 2, 4, min(whole, MOST_COLUMNS if wide else 4)}):
            if columns == 1 or lane in problem.dynamic or extent >= width * columns:
                yield lane, width, columns


@lru_cache(maxsize=1024)
def _floors(problem: Problem, vector_bytes: int) -> list[tuple[float, tuple[int, int, int]]]:
    """Return the ways to cut `problem`, each behind seconds below which no schedule with it is; the least first.

    That is the time of the memory, or of the products in the best register blocks that there could be.
    """
    kind = kind_of(problem.work)
    slower = 1.0 if kind.floating else INTEGERS[kind.bytes]
    steps = []
    for s, ids in enumerate(problem.reads):
        modes = {m for i in ids for m in problem.terms[i]}
        depth = problem.size(problem.summed(s))
        steps.append(
            (modes, slower * problem.size(tuple(modes)) * _least_cycles(len(ids), kind.parts, depth))
        )
    found = []
    for lane, width, columns in _cuts(problem, vector_bytes):
        extent = problem.extents[lane]
        vectors = -(-extent // (width * columns)) * columns / extent
        cycles = sum(each * (vectors if lane in modes else 1.0) for modes, each in steps)
        streamed = is_streamed(problem, lane, width, False)
        memory = _memory_seconds(problem, lane, width * columns, tuple(range(len(problem.extents))), streamed)
        found.append((0.999 * (max(cycles / CLOCK, memory) + CALL), (lane, width, columns)))
    return sorted(found)


@lru_cache(maxsize=1024)
def _least_cycles(reads: int, parts: int, depth: int) -> float:
    """Return cycles below which no product is in a sum of at most `depth`, whatever the register block."""
    found = []
    for block in range(1, MOST_BLOCK + 1):
        load = parts * (block if reads == 1 else 2 * block**0.5)
        each = max(0.5 * block * parts**2, 0.5 * load) + 0.3 + 0.2 * load
        found.append((each + (3.0 + block * parts) / depth) / block)
    return min(found)


def _priced(
    problem: Problem,
    lane: int,
    width: int,
    columns: int,
    vector_bytes: int,
    most: float,
    summed_inside: bool,
) -> Schedule | None:
    """Return the schedule with that lane mode and tile, or None if it does not fit or takes over `most` seconds.

    Where the lane mode is summed, the results are looped over outside of all tiles, one result after the other, or
    `summed_inside` of each tile, which has the sums of all of them in memory: a block of results reads less.
    """
    count = problem.inputs
    if summed_inside and lane in problem.out:
        return None
    packed = tuple(
        lane in term and not (term[-1] == lane and form != STRIDED)
        for term, form in zip(problem.terms[:count], problem.forms, strict=True)
    )
    kept = lane in problem.out
    unpacked = kept and problem.out[-1] != lane
    made = problem.terms[count:]
    inner = [t for t, flag in zip(problem.terms, packed, strict=False) if flag]
    inner += [t for t in made[:-1] if lane in t] + ([made[-1]] if unpacked or not kept else [])
    everywhere = tuple(
        m for m in problem.out if m != lane and all(m in t and t.count(m) == 1 for t in (*made, *inner))
    )
    kind = kind_of(problem.work)
    slot = width * kind.parts * kind.bytes

    def footprint(outer: Term) -> int:
        bytes_ = 0
        for t in inner:
            own = [m for m in t if m not in outer and m != lane]
            bytes_ += problem.size(own) * slot * (columns if lane in t else 1)
        for t in made[:-1]:
            if lane not in t:
                bytes_ += problem.size([m for m in t if m not in outer]) * kind.parts * kind.bytes
        return bytes_

    outer: Term = ()
    dynamic_inner = any(m in problem.dynamic and m != lane for t in inner for m in t)
    if inner and (footprint(()) > 2**15 or dynamic_inner or not (kept or summed_inside)):
        outer = everywhere
        if summed_inside:
            return None
    scratch = footprint(outer)
    if scratch > MOST_SCRATCH or any(
        m in problem.dynamic and m != lane and m not in outer for t in (*inner, *made[:-1]) for m in t
    ):
        return None
    at = levels(problem, lane, outer)
    blocks = [
        blocking(step_shape(problem, s, lane, width, columns, outer, packed), vector_bytes)
        for s in range(len(problem.reads))
    ]
    cycles = _step_cycles(problem, lane, width * columns, outer, at, blocks)
    if 0.999 * cycles / CLOCK + CALL > most:
        return None
    cycles += _sweep_cycles(problem, lane, width, columns, outer, packed, at, blocks)
    lanes = -(-problem.extents[lane] // width) * width
    for k, flag in enumerate(packed):
        if flag:
            cycles += _reorder_cycles(problem, problem.terms[k], lane, lanes, problem.forms[k], width, outer)
    if unpacked:
        cycles += _reorder_cycles(problem, problem.out, lane, lanes, ORDERED, width, outer)
    if scratch > 2**15:
        cycles *= 1.15
    seconds = cycles / CLOCK
    streamed = is_streamed(problem, lane, width, unpacked)
    memory = _memory_seconds(problem, lane, width * columns, outer, streamed) + _line_seconds(problem, outer)
    total = max(seconds, memory) + NOT_HIDDEN * min(seconds, memory) + CALL
    total += fresh_seconds(DEFAULT_MACHINE, problem.size(problem.out) * itemsize(problem.result))
    return Schedule(lane, width, columns, outer, packed, unpacked, scratch, total, seconds)


def is_streamed(problem: Problem, lane: int, width: int, unpacked: bool) -> bool:
    """Return whether the result is written past the caches, if it begins at a cache line."""
    large = problem.size(problem.out) * itemsize(problem.result) >= STREAMED
    return large and in_lines(problem, lane, width, unpacked)


def in_lines(problem: Problem, lane: int, width: int, unpacked: bool) -> bool:
    """Return whether the vectors of the result are whole cache lines, written once, if it begins at a line."""
    if lane not in problem.out or unpacked or problem.dynamic:
        return False
    kind = kind_of(problem.result)
    size = kind.bytes * kind.parts
    rows = len(set(problem.out)) == 1 or problem.extents[problem.out[-1]] * size % LINE == 0
    return rows and width * size % LINE == 0


def _memory_seconds(problem: Problem, lane: int, tile: int, outer: Term, streamed: bool) -> float:
    """Return the seconds to bring all inputs in and the result out, once.

    A result that is `streamed` takes as long as one that is read: 13 to 18 GB/s were written so. What is larger than
    the caches and comes or goes in short runs takes longer: one of each row for every tile, where a tile has rows,
    modes that are not looped over outside. Else the next tile goes on where this one ends.
    """
    terms, dtypes = (*problem.terms[: problem.inputs], problem.out), (*problem.dtypes, problem.result)
    moved, whole = [], 0
    for term, dtype in zip(terms, dtypes, strict=True):
        size = problem.size(term) * itemsize(dtype)
        short = term and term[-1] == lane and tile < problem.extents[lane] and size > CACHES[1][0]
        short = short and any(m != lane and m not in outer for m in term)
        moved.append(size * (1 + (RUN / (tile * itemsize(dtype))) ** STEEP if short else 1.0))
        whole += size
    written = 0.0 if streamed else moved[-1]
    return memory_seconds(DEFAULT_MACHINE, sum(moved) - written, written, whole)


def _line_seconds(problem: Problem, outer: Term) -> float:
    """Return the seconds lost on cache lines of which each position of the outer loops uses a part.

    The rest of a line is used when the mode next to that part advances; what the loops inside of that one touch
    meanwhile decides whether the line is still there.
    """
    total = 0.0
    for term, dtype in zip(
        (*problem.terms[: problem.inputs], problem.out), (*problem.dtypes, problem.result), strict=True
    ):
        run, size = itemsize(dtype), problem.size(term)
        for m in reversed(term):
            if m in outer or run >= LINE:
                break
            run *= problem.extents[m]
        else:
            continue
        if run >= LINE or not size:
            continue
        lines = size * itemsize(dtype) / run
        later = problem.size([n for n in dict.fromkeys(term) if n in outer[: outer.index(m) + 1]])
        total += lines * next(seconds for most, seconds in LINES if lines / later * LINE <= most)
    return total


def _sweep_cycles(
    problem: Problem,
    lane: int,
    width: int,
    columns: int,
    outer: Term,
    packed: Sequence[bool],
    at: Sequence[int],
    blocks: Sequence[Blocking],
) -> float:
    """Return the cycles that steps wait for what they read again and again, by the cache it comes from."""
    total = 0.0
    tile = width * columns
    tiles = -(-problem.extents[lane] // tile)
    part = kind_of(problem.work).bytes * kind_of(problem.work).parts
    for s, ids in enumerate(problem.reads):
        factors = dict(blocks[s].factors)
        out = problem.terms[problem.inputs + s]
        fixed = {lane, *outer} if at[s] == 2 else set(outer) if at[s] == 1 else set()
        repeats = (1, problem.size(outer), problem.size(outer) * tiles)[at[s]]
        for i in ids:
            term = problem.terms[i]
            inner = [m for m in dict.fromkeys(term) if m not in fixed]
            swept = problem.size(inner) * part * (tile if lane in term and at[s] == 2 else 1)
            again = 1.0
            for m in out:
                if m not in term and m not in fixed:
                    again *= -(-problem.extents[m] // factors.get(m, 1))
            memory = i < problem.inputs and not packed[i]
            last = term[-1] if term else lane
            wasted = 4.0 if memory and lane not in term and last in out and last not in factors else 1.0
            if memory and lane not in term and last in outer:
                total += problem.size(inner) * again * repeats * _apart_cycles(problem, term, outer, part)
                continue
            reach = swept
            if memory and any(m not in term for m in outer):  # read again when all tiles have been read
                reach = problem.size([m for m in term if m not in outer]) * part
            elif memory and lane in term and again == 1:  # read once, as it comes from memory
                continue
            rate = rate_behind(reach)
            if (
                memory and lane in term and tile < problem.extents[lane]
            ):  # the lines at the ends of a row of the tile
                wasted += split_part(problem, i, lane, width) / columns
            total += swept * again * repeats * wasted / rate if rate else 0.0
    return total


def rate_behind(size: float) -> float:
    """Return the bytes a cycle at which what is used again after `size` bytes comes."""
    return next(rate for most, rate in CACHES if size <= most)


def _apart_cycles(problem: Problem, term: Term, outer: Term, part: int) -> float:
    """Return the cycles for each element of an array whose last modes are looped over outside.

    Each is in a cache line of its own, often in a page of its own; both come again for the next of those positions.
    """
    stride = part
    for m in reversed(term):
        if m not in outer:
            break
        stride *= problem.extents[m]
    reach = problem.size([m for m in term if m not in outer]) * min(PAGE, max(LINE, stride))
    rate = rate_behind(reach)
    return 1.0 + (LINE / rate if rate else 0.0)


def _reorder_cycles(
    problem: Problem, term: Term, lane: int, lanes: int, form: int, width: int, outer: Term
) -> float:
    """Return the cycles to put an input in vectors, or a result out of them: transposed in registers or not."""
    last = term[-1]
    elements = problem.size([m for m in term if m != lane]) * lanes
    if last in outer:
        kind = kind_of(problem.work)
        return elements * _apart_cycles(problem, term, outer, kind.bytes * kind.parts)
    if form == STRIDED or last == lane or last in problem.dynamic:
        return 1.2 * elements
    extent = problem.extents[last]
    rows = -(-extent // width) * width
    return elements * (0.25 + 0.18 * (rows / extent - 1))


def levels(problem: Problem, lane: int, outer: Term) -> list[int]:
    """Return for each step where it is done: 2 for each tile, 1 for each position of `outer`, 0 once."""
    found = []
    for ids in problem.reads:
        modes = {m for i in ids for m in problem.terms[i]}
        found.append(2 if lane in modes else 1 if modes & set(outer) else 0)
    return found


def _step_cycles(
    problem: Problem, lane: int, tile: int, outer: Term, at: Sequence[int], blocks: Sequence[Blocking]
) -> float:
    """Return the cycles of the arithmetic of all steps, `at` these levels and in these register blocks."""
    total = 0.0
    kind = kind_of(problem.work)
    slower = 1.0 if kind.floating else INTEGERS[kind.bytes]
    outer_size = problem.size(outer)
    tiles = -(-problem.extents[lane] // tile)
    for level, block in zip(at, blocks, strict=True):
        repeats = (1, outer_size, outer_size * tiles)[level]
        total += repeats * (slower * block.cycles * (1.0 if level == 2 else 1.5) + 2.0)
    if lane not in problem.out:
        total += outer_size * problem.size([m for m in problem.out if m not in outer]) * 12.0
    return total
