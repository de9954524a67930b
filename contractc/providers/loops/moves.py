"""Copies of arrays into another memory order as compiled loops: squares turned in registers, short runs moved whole.

The text is written once for each element size; what one copy is about (extents and strides) is a table of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache

from contractc.providers.loops import native
from contractc.providers.loops.reorder import transposed
from contractc.providers.loops.text import Index, Writer, module, vector

OUTER = 7
"""Axes that are looped over outside of a square or a run."""

BLOCK = 64
"""Positions along both axes of a square of squares, which is copied before the next: so few pages are in use."""

NEAR = 2048
"""Bytes between rows, in the source or in the copy, up to which squares are faster than NumPy's copies of tiles: one of
the two is read or written nearly in order. Where both are farther apart, pages are what counts."""

LONG = 512
"""Bytes of a run from which NumPy copies runs as fast."""

_TYPES = {4: "i32", 8: "i64"}

Axis = tuple[int, int, int]
"""Extent, bytes from one position to the next in the source, and in the copy."""


def lanes_of(width: int) -> tuple[int, ...]:
    """Return the sides of the squares in which elements of `width` bytes are transposed, the largest first, 1 last."""
    return tuple(n for n in (16, 8, 4, 1) if n * width <= native.vector_bytes())


@lru_cache(maxsize=32)
def squares(width: int, lanes: int) -> native.Native:
    """Return what copies along two axes, in squares of `lanes` elements of `width` bytes, inside of `OUTER` others.

    It takes the addresses of source, copy and table: the outer axes, the slowest first, then the two. Of these the
    first is the fastest of the copy, the second of the source, and both have `lanes` elements at least; with one lane
    they may be any. The last squares overlap those before, which write the same.
    """
    name = f"squares{width}x{lanes}"
    return native.native(_squares(name, width, lanes), name)


@lru_cache(maxsize=8)
def runs(width: int) -> native.Native:
    """Return what copies runs of elements of `width` bytes that lie in order in both arrays.

    The table has the outer axes, the slowest first, then the axis that is looped over inside of them, then the runs.
    """
    name = f"runs{width}"
    return native.native(_runs(name, width, native.vector_bytes() // width), name)


def _squares(name: str, width: int, lanes: int) -> str:
    w, kind = Writer(), _TYPES[width]
    with ExitStack() as loops:
        source, copy, table = _outer(w, loops)
        (n, from_n, to_n), (m, from_m, to_m) = table[OUTER:]
        last_n, last_m = w.add(n, -lanes), w.add(m, -lanes)
        ends = []
        for extent in (m, n):
            start = loops.enter_context(w.loop(extent, 0, BLOCK))
            ends.append((w.smallest(w.add(start, BLOCK), extent), start))
        j, i = (loops.enter_context(w.loop(end, start, lanes)) for end, start in ends)
        i, j = w.smallest(i, last_n), w.smallest(j, last_m)
        read = w.add(w.multiply(i, from_n), w.multiply(j, from_m))
        written = w.add(w.multiply(i, to_n), w.multiply(j, to_m))
        lines = [
            w.load(kind, lanes, w.at(source, "i8", w.add(read, w.multiply(k, from_n)))) for k in range(lanes)
        ]
        for k, line in enumerate(transposed(w, lines, kind)):
            w.store(line, kind, lanes, w.at(copy, "i8", w.add(written, w.multiply(k, to_m))))
    return module(
        w.function(name, "ptr %source, ptr %copy, ptr %table", [f"squares of {lanes} x {lanes} {kind}"])
    )


def _runs(name: str, width: int, lanes: int) -> str:
    w, kind = Writer(), _TYPES[width]
    with ExitStack() as loops:
        source, copy, table = _outer(w, loops)
        (n, from_n, to_n), (m, _, _) = table[OUTER:]
        whole = w.multiply(w.floor_divide(m, lanes), lanes)
        left = w.op(f"sub i64 {m}, {whole}")
        mask = w.ramp_below(left, 0, lanes)
        rest = w.op(f"icmp ne i64 {left}, 0")
        i = loops.enter_context(w.loop(n))
        source, copy = (w.at(p, "i8", w.multiply(i, s)) for p, s in ((source, from_n), (copy, to_n)))
        with w.loop(whole, 0, lanes) as j:
            w.store(w.load(kind, lanes, w.at(source, kind, j)), kind, lanes, w.at(copy, kind, j))
        with w.when(rest):
            x = w.load(kind, lanes, w.at(source, kind, whole), mask)
            w.store(x, kind, lanes, w.at(copy, kind, whole), mask)
    heading = [f"runs of {kind}, in vectors of {vector(kind, lanes)}"]
    return module(w.function(name, "ptr %source, ptr %copy, ptr %table", heading))


def _outer(w: Writer, loops: ExitStack) -> tuple[str, str, list[tuple[Index, Index, Index]]]:
    """Write the loops over the outer axes; return where source and copy are inside of them, and the table's numbers."""
    table = [
        (
            w.op(f"load i64, ptr {w.at('%table', 'i64', 3 * k)}"),
            w.op(f"load i64, ptr {w.at('%table', 'i64', 3 * k + 1)}"),
            w.op(f"load i64, ptr {w.at('%table', 'i64', 3 * k + 2)}"),
        )
        for k in range(OUTER + 2)
    ]
    source, copy = "%source", "%copy"
    for extent, from_, to in table[:OUTER]:
        i = loops.enter_context(w.loop(extent))
        source, copy = w.at(source, "i8", w.multiply(i, from_)), w.at(copy, "i8", w.multiply(i, to))
    return source, copy, [*table]


def planned(axes: Sequence[Axis], width: int) -> tuple[native.Native, tuple[int, ...]] | None:
    """Return what copies an array with these fused `axes`, and its table; None where NumPy does it as well or better.

    That is where runs are long, where an element has not 4, 8 or 16 bytes, where there are too many axes, and where
    neither array is gone through nearly in order.
    """
    if width == 16:
        axes, width = [*axes, (2, 8, 8)], 8
    if width not in _TYPES or not 2 <= len(axes) <= OUTER + 2:
        return None
    slowest_first = sorted(axes, key=lambda axis: -abs(axis[2]))
    read, write = min(axes, key=lambda axis: abs(axis[1])), slowest_first[-1]
    if read == write:
        if read[1:] != (width, width) or read[0] * width > LONG:
            return None
        return runs(width), _table(slowest_first[:-2], slowest_first[-2], read)
    if min(abs(write[1]), abs(read[2])) > NEAR:
        return None
    outer = [axis for axis in slowest_first if axis not in (read, write)]
    fits = read[1] == width and write[2] == width
    lanes = next(n for n in lanes_of(width) if n == 1 or (fits and n <= min(read[0], write[0])))
    inner = (read, write) if lanes == 1 and write[0] < read[0] else (write, read)
    return squares(width, lanes), _table(outer, *inner)


def _table(outer: Sequence[Axis], first: Axis, second: Axis) -> tuple[int, ...]:
    ones = [(1, 0, 0)] * (OUTER - len(outer))
    return tuple(n for axis in (*ones, *outer, first, second) for n in axis)
