"""Tiles into vectors and back: transposed in registers where rows are contiguous, else element by element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

from contractc.providers.loops.blocks import COLUMN
from contractc.providers.loops.nest import Place, Ref, Tile, joined, separated
from contractc.providers.loops.text import Index, Kind, Parts, Writer, converted, vector


@dataclass(frozen=True, slots=True)
class Layout:
    """What is copied: the modes to loop over, with extents, the lane mode and the vectors of a tile.

    `rows` is a mode (not in `modes`) with unit stride in memory and its extent, along which squares of elements
    are transposed; None if there is none.
    """

    modes: tuple[tuple[int, Index], ...]
    rows: tuple[int, int] | None
    lane: int
    columns: int


def pack(tile: Tile, source: Ref, target: Ref, layout: Layout, start: Place) -> None:
    """Write the copy of a tile of `source` (in memory) to `target` (in vectors)."""
    w, width = tile.w, tile.width
    with ExitStack() as loops:
        place = _inside(tile, layout, start, loops)
        for column in range(layout.columns):
            lanes = [column * width + k for k in range(width)]
            if layout.rows is None or _one_is_there(tile, column):
                with tile.w.loop(layout.rows[1]) if layout.rows else nullcontext(0) as position:
                    at = {**place, layout.rows[0]: (position, 0)} if layout.rows else place
                    elements = [_element(tile, source, _clipped(tile, layout, at, n)) for n in lanes]
                    x = tuple(_gathered(tile, part, source.kind) for part in zip(*elements, strict=True))
                    _store_vector(tile, target, at, column, x, source)
                continue
            kind = _whole(source.kind)
            for index, first, count in _strips(tile, layout.rows[1]):
                with index as position:
                    at = {**place, layout.rows[0]: (position, first)}
                    mask = w.ramp_below(count, 0, width) if count < width else ""
                    lines = []
                    for n in lanes:
                        here = _clipped(tile, layout, at, n)
                        address = tile.address(source, here, source.kind.parts)
                        lines.append(w.load(kind, width, address, mask))
                    for k, line in enumerate(transposed(w, lines, kind)[:count]):
                        here = {**at, layout.rows[0]: (position, first + k)}
                        x = _as_parts(tile, line, source.kind)
                        _store_vector(tile, target, here, column, x, source)


def unpack(tile: Tile, source: Ref, target: Ref, layout: Layout, start: Place, adds: bool) -> None:
    """Write the copy of a tile of results from `source` (in vectors) to `target` (in memory), or add it to that."""
    w, width, kind = tile.w, tile.width, target.kind
    with ExitStack() as loops:
        place = _inside(tile, layout, start, loops)
        for column in range(layout.columns):
            if layout.rows is None:
                x = converted(w, _vector_at(tile, source, place, column), tile.a.kind, kind, width)
                for k in range(width):
                    at = _ahead(place, layout, column * width + k)
                    with _if_there(tile, column * width + k):
                        one: Parts = tuple(_lane(w, part, kind, width, k) for part in x)
                        places = [tile.address(target, at, kind.parts, p) for p in range(kind.parts)]
                        if adds:
                            held: Parts = tuple(w.load(kind.type, 1, address) for address in places)
                            one = tile.a.add(held, one, 1)
                        for part, address in zip(one, places, strict=True):
                            w.store(part, kind.type, 1, address)
                continue
            whole = _whole(kind)
            for index, first, count in _strips(tile, layout.rows[1]):
                with index as position:
                    lines = ["zeroinitializer"] * width
                    for k in range(count):
                        here = {**place, layout.rows[0]: (position, first + k)}
                        x = converted(w, _vector_at(tile, source, here, column), tile.a.kind, kind, width)
                        lines[k] = _from_parts(tile, x, kind)
                    mask = w.ramp_below(count, 0, width) if count < width else ""
                    for k, line in enumerate(transposed(w, lines, whole)):
                        at = {**_ahead(place, layout, column * width + k), layout.rows[0]: (position, first)}
                        with _if_there(tile, column * width + k):
                            address = tile.address(target, at, kind.parts)
                            if adds:
                                held = _as_parts(tile, w.load(whole, width, address, mask), kind)
                                line = _from_parts(
                                    tile, tile.a.add(held, _as_parts(tile, line, kind), width), kind
                                )
                            w.store(line, whole, width, address, mask)


def transposed(w: Writer, lines: Sequence[str], kind: str) -> list[str]:
    """Return the columns of a square of `lines`: log2(width) rounds of exchanges between pairs."""
    width, rows = len(lines), list(lines)
    step = 1
    while step < width:
        low = [lane if not lane & step else width + lane - step for lane in range(width)]
        high = [lane + step if not lane & step else width + lane for lane in range(width)]
        for i in range(width):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i] = w.shuffle(a, b, kind, width, low)
                rows[i + step] = w.shuffle(a, b, kind, width, high)
        step *= 2
    return rows


def can_transpose(kind: Kind) -> bool:
    """Return whether an element fits in one lane: complex128 does not."""
    return kind.parts * kind.bytes <= 8


def _whole(kind: Kind) -> str:
    """Return the type that holds all parts of an element."""
    return "double" if kind.complex else kind.type


def _as_parts(tile: Tile, line: str, kind: Kind) -> Parts:
    if not kind.complex:
        return (line,)
    flat = vector(kind.type, 2 * tile.width)
    row = tile.w.op(f"bitcast {vector('double', tile.width)} {line} to {flat}")
    return separated(tile.w, row, kind, tile.width)


def _from_parts(tile: Tile, x: Parts, kind: Kind) -> str:
    if not kind.complex:
        return x[0]
    flat = vector(kind.type, 2 * tile.width)
    return tile.w.op(
        f"bitcast {flat} {joined(tile.w, x, kind, tile.width)} to {vector('double', tile.width)}"
    )


def _strips(tile: Tile, extent: int) -> Iterator[tuple[AbstractContextManager[Index], int, int]]:
    """Yield (loop, first position, positions) of the strips of at most `width` positions."""
    full, left = divmod(extent, tile.width)
    if full:
        yield tile.w.loop(full * tile.width, 0, tile.width), 0, tile.width
    if left:
        yield nullcontext(0), full * tile.width, left


def _inside(tile: Tile, layout: Layout, start: Place, loops: ExitStack) -> Place:
    """Return the position inside of loops over the modes, which are closed with `loops`."""
    place = dict(start)
    for mode, extent in layout.modes:
        place[mode] = (loops.enter_context(tile.w.loop(extent)), 0)
    return place


def _clipped(tile: Tile, layout: Layout, place: Place, ahead: int) -> Place:
    """Return `place` at lane `ahead` of the tile; behind the end the last one that exists."""
    if tile.remaining is None:
        return _ahead(place, layout, ahead)
    last = tile.w.add(tile.remaining, -1)
    return {**place, layout.lane: (tile.w.add(place[layout.lane][0], tile.w.smallest(ahead, last)), 0)}


def _ahead(place: Place, layout: Layout, ahead: int) -> Place:
    return {**place, layout.lane: (place[layout.lane][0], ahead)}


def _one_is_there(tile: Tile, column: int) -> bool:
    """Return whether a vector of the tile is known to have but one lane that exists.

    All rows of a square would be that lane's: LLVM 22 turns products of two of its columns, of which one lane is
    stored, into wrong ones (64-bit integers in vectors of 512 bits).
    """
    return isinstance(tile.remaining, int) and tile.remaining - column * tile.width == 1


def _if_there(tile: Tile, ahead: int) -> AbstractContextManager[None]:
    """Make what is written inside run only if lane `ahead` of the tile exists."""
    return nullcontext() if tile.remaining is None else tile.w.when(tile.w.less(ahead, tile.remaining))


def _element(tile: Tile, source: Ref, place: Place) -> Parts:
    kind = source.kind
    return tuple(
        tile.w.load(kind.type, 1, tile.address(source, place, kind.parts, p)) for p in range(kind.parts)
    )


def _lane(w: Writer, x: str, kind: Kind, width: int, k: int) -> str:
    """Return lane `k` of a vector."""
    return w.op(f"extractelement {vector(kind.type, width)} {x}, i32 {k}")


def _gathered(tile: Tile, elements: Sequence[str], kind: Kind) -> str:
    x = "poison"
    for k, e in enumerate(elements):
        x = tile.w.op(f"insertelement {vector(kind.type, tile.width)} {x}, {kind.type} {e}, i32 {k}")
    return x


def _store_vector(tile: Tile, target: Ref, place: Place, column: int, x: Parts, source: Ref) -> None:
    x = converted(tile.w, x, source.kind, tile.a.kind, tile.width)
    if source.conj:
        x = tile.a.conj(x, tile.width)
    tile.store(target, {**place, COLUMN: (0, column)}, x, tile.width)


def _vector_at(tile: Tile, source: Ref, place: Place, column: int) -> Parts:
    return tile.load(source, {**place, COLUMN: (0, column)})
