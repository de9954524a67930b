"""Tiles into vectors and back: transposed in registers where rows are contiguous, else element by element."""

from __future__ import annotations

from collections.abc import Sequence

from contractc.providers.loops.nest import Place, Ref, Tile, joined, separated
from contractc.providers.loops.text import Index, Kind, Parts, converted, vector


def pack(
    tile: Tile,
    source: Ref,
    target: Ref,
    modes: Sequence[tuple[int, Index]],
    rows: tuple[int, int] | None,
    lane: int,
    columns: int,
    start: Place,
) -> None:
    """Write the copy of a tile of `source` (in memory) to `target` (in vectors).

    Args:
        modes: what is looped over, with extents; not the lane mode.
        rows: a mode (not in `modes`) with unit stride in the source and its extent, along which is transposed.
    """
    place, loops = _opened(tile, modes, start)
    for column in range(columns):
        if rows is None:
            lanes = [_element(tile, source, _lane_at(tile, place, lane, column, k)) for k in range(tile.width)]
            x = tuple(_gathered(tile, [v[p] for v in lanes], source.kind) for p in range(source.kind.parts))
            _store_vector(tile, target, place, column, x, source)
            continue
        mode, extent = rows
        for first, count, inside in _strips(tile, extent):
            with inside as index:
                at = {**place, mode: (index, first)}
                kind = _whole(source.kind)
                mask = tile.w.ramp_below(count, 0, tile.width) if count < tile.width else ""
                lines = []
                for k in range(tile.width):
                    address = tile.address(source, _lane_at(tile, at, lane, column, k), source.kind.parts)
                    lines.append(tile.w.load(kind, tile.width, address, mask))
                for k, line in enumerate(transposed(tile, lines, kind)[:count]):
                    x = _as_parts(tile, line, source.kind)
                    here = {**at, mode: (index, first + k)}
                    _store_vector(tile, target, here, column, x, source)
    _closed(loops)


def unpack(
    tile: Tile,
    source: Ref,
    target: Ref,
    modes: Sequence[tuple[int, Index]],
    rows: tuple[int, int] | None,
    lane: int,
    columns: int,
    start: Place,
) -> None:
    """Write the copy of a tile of results from `source` (in vectors) to `target` (in memory)."""
    place, loops = _opened(tile, modes, start)
    w = tile.w
    for column in range(columns):
        if rows is None:
            x = converted(w, _vector_at(tile, source, place, column), tile.a.kind, target.kind, tile.width)
            v = vector(target.kind.type, tile.width)
            for k in range(tile.width):
                parts = [w.op(f"extractelement {v} {p}, i32 {k}") for p in x]

                def write(k: int = k, parts: Sequence[str] = parts) -> None:
                    at = _exact(place, lane, column * tile.width + k)
                    for p, part in enumerate(parts):
                        w.store(part, target.kind.type, 1, tile.address(target, at, target.kind.parts, p))

                _if_there(tile, column * tile.width + k, write)
            continue
        mode, extent = rows
        for first, count, inside in _strips(tile, extent):
            with inside as index:
                at = {**place, mode: (index, first)}
                kind = _whole(target.kind)
                lines = []
                for k in range(tile.width):
                    if k >= count:
                        lines.append("zeroinitializer")
                        continue
                    here = {**at, mode: (index, first + k)}
                    x = converted(w, _vector_at(tile, source, here, column), tile.a.kind, target.kind, tile.width)
                    lines.append(_from_parts(tile, x, target.kind))
                mask = w.ramp_below(count, 0, tile.width) if count < tile.width else ""
                for k, line in enumerate(transposed(tile, lines, kind)):

                    def write_row(k: int = k, line: str = line, at: Place = at) -> None:
                        spot = _exact(at, lane, column * tile.width + k)
                        w.store(line, kind, tile.width, tile.address(target, spot, target.kind.parts), mask)

                    _if_there(tile, column * tile.width + k, write_row)
    _closed(loops)


def transposed(tile: Tile, lines: Sequence[str], kind: str) -> list[str]:
    """Return the columns of a square of `lines`: log2(width) rounds of exchanges between pairs."""
    width, rows = tile.width, list(lines)
    step = 1
    while step < width:
        for i in range(width):
            if i & step:
                continue
            a, b = rows[i], rows[i + step]
            low = [lane if not lane & step else width + lane - step for lane in range(width)]
            high = [lane + step if not lane & step else width + lane for lane in range(width)]
            rows[i] = tile.w.shuffle(a, b, kind, width, low)
            rows[i + step] = tile.w.shuffle(a, b, kind, width, high)
        step *= 2
    return rows


def can_transpose(kind: Kind) -> bool:
    """Return whether an element fits in one lane: complex128 does not."""
    return kind.parts * kind.bytes <= 8


def _whole(kind: Kind) -> str:
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
    return tile.w.op(f"bitcast {flat} {joined(tile.w, x, kind, tile.width)} to {vector('double', tile.width)}")


class _Inside:
    """A loop over the strips of a mode, or for the last strip the place behind it."""

    def __init__(self, tile: Tile, full: int) -> None:
        self.manager = tile.w.loop(full * tile.width, 0, tile.width) if full else None

    def __enter__(self) -> Index:
        return self.manager.__enter__() if self.manager else 0

    def __exit__(self, *error: object) -> None:
        if self.manager:
            self.manager.__exit__(None, None, None)


def _strips(tile: Tile, extent: int) -> list[tuple[int, int, _Inside]]:
    """Return (first position, positions, loop) of the strips of at most `width` positions."""
    full, left = divmod(extent, tile.width)
    found = [(0, tile.width, _Inside(tile, full))] if full else []
    if left:
        found.append((full * tile.width, left, _Inside(tile, 0)))
    return found


def _opened(tile: Tile, modes: Sequence[tuple[int, Index]], start: Place) -> tuple[Place, list[_Loop]]:
    place = dict(start)
    loops = []
    for mode, extent in modes:
        loop = _Loop(tile, extent)
        place[mode] = (loop.index, 0)
        loops.append(loop)
    return place, loops


class _Loop:
    """A loop that has been opened and is closed later."""

    def __init__(self, tile: Tile, extent: Index) -> None:
        self.manager = tile.w.loop(extent)
        self.index = self.manager.__enter__()


def _closed(loops: Sequence[_Loop]) -> None:
    for loop in reversed(loops):
        loop.manager.__exit__(None, None, None)


def _lane_at(tile: Tile, place: Place, lane: int, column: int, k: int) -> Place:
    """Return `place` at lane `k` of a vector; behind the end the last one that exists."""
    start = place[lane][0]
    ahead = column * tile.width + k
    if tile.remaining is None:
        return _exact(place, lane, ahead)
    last = tile.w.add(tile.remaining, -1)
    return {**place, lane: (tile.w.add(start, tile.w.smallest(ahead, last)), 0)}


def _exact(place: Place, lane: int, ahead: int) -> Place:
    return {**place, lane: (place[lane][0], ahead)}


def _element(tile: Tile, source: Ref, place: Place) -> Parts:
    kind = source.kind
    return tuple(
        tile.w.load(kind.type, 1, tile.address(source, place, kind.parts, p)) for p in range(kind.parts)
    )


def _gathered(tile: Tile, elements: Sequence[str], kind: Kind) -> str:
    v = vector(kind.type, tile.width)
    x = "poison"
    for k, e in enumerate(elements):
        x = tile.w.op(f"insertelement {v} {x}, {kind.type} {e}, i32 {k}")
    return x


def _column(place: Place, column: int) -> Place:
    return {**place, -1: (0, column)}


def _store_vector(tile: Tile, target: Ref, place: Place, column: int, x: Parts, source: Ref) -> None:
    x = converted(tile.w, x, source.kind, tile.a.kind, tile.width)
    if source.conj:
        x = tile.a.conj(x, tile.width)
    tile.store(target, _column(place, column), x, tile.width)


def _vector_at(tile: Tile, source: Ref, place: Place, column: int) -> Parts:
    return tile.load(source, _column(place, column))


def _if_there(tile: Tile, ahead: int, write: object) -> None:
    """Write what runs only if lane `ahead` of the tile exists."""
    assert callable(write)
    if tile.remaining is None:
        write()
        return
    with tile.w.when(tile.w.less(ahead, tile.remaining)):
        write()
