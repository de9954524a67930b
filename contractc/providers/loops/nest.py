"""The loops of one step on one tile, in LLVM text: a block of results in registers while the summed modes run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from contractc.providers.loops.blocks import COLUMN, Blocking
from contractc.providers.loops.text import Arithmetic, Index, Kind, Parts, Writer, converted, vector

Place = Mapping[int, tuple[Index, int]]
"""A position: for each mode the part known at run time and the part known now."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Where the values of one tensor lie while a tile is worked on.

    `strides` are in elements; of a `packed` tensor in slots, each of which has a whole vector of real parts and,
    for complex numbers, one of imaginary parts. `vectors` tells whether it has the lane mode, `streamed` whether its
    vectors are cache lines that are written past the caches.
    """

    base: str
    kind: Kind
    strides: Mapping[int, Index]
    vectors: bool
    packed: bool
    conj: bool = False
    streamed: bool = False


class Tile:
    """What all steps of a tile have in common: the width of vectors, and in the last tile the masks."""

    def __init__(
        self,
        writer: Writer,
        arithmetic: Arithmetic,
        width: int,
        columns: int,
        remaining: Index | None,
        summed: bool,
    ) -> None:
        self.w, self.a, self.width = writer, arithmetic, width
        self.remaining = remaining
        self.summed = summed
        self._masks: dict[tuple[int, int], str] = {}
        if remaining is not None:  # written here, outside of all loops of the tile
            for column in range(columns):
                for repeat in (1, 2):
                    self._masks[column, repeat] = writer.ramp_below(
                        remaining, column * width, width * repeat, repeat
                    )

    def mask(self, column: int, repeat: int = 1) -> str:
        """Return the mask of the lanes of vector `column` that exist, each `repeat` times; "" if all do."""
        return self._masks.get((column, repeat), "")

    def offset(self, ref: Ref, place: Place) -> tuple[Index, int]:
        """Return where the element at `place` is: a part known at run time and one known now."""
        dynamic: Index = 0
        known = 0
        for m, stride in ref.strides.items():
            if m not in place:
                continue
            index, constant = place[m]
            dynamic = self.w.add(dynamic, self.w.multiply(index, stride))
            if isinstance(stride, int):
                known += constant * stride
            else:
                dynamic = self.w.add(dynamic, self.w.multiply(constant, stride))
        if isinstance(dynamic, int):
            dynamic, known = 0, known + dynamic
        return dynamic, known

    def address(self, ref: Ref, place: Place, scale: int, part: int = 0) -> str:
        """Return the address of a part of the element at `place`; an element has `scale` parts."""
        dynamic, known = self.offset(ref, place)
        start = self.w.at(ref.base, ref.kind.type, self.w.multiply(dynamic, scale))
        return self.w.at(start, ref.kind.type, known * scale + part)

    def load(self, ref: Ref, place: Place) -> Parts:
        """Return the value at `place` in the dtype of the work, in all lanes."""
        kind, w = ref.kind, self.w
        if not ref.vectors:
            x: Parts = tuple(
                w.load(kind.type, 1, self.address(ref, place, kind.parts, p)) for p in range(kind.parts)
            )
            return self._conj(ref, converted(w, x, kind, self.a.kind, 1), 1)
        if ref.packed:
            return tuple(
                w.load(
                    kind.type, self.width, self.address(ref, place, kind.parts * self.width, p * self.width)
                )
                for p in range(kind.parts)
            )
        column = place[COLUMN][1] if COLUMN in place else 0
        row = w.load(
            kind.type,
            self.width * kind.parts,
            self.address(ref, place, kind.parts),
            self.mask(column, kind.parts),
        )
        x = separated(w, row, kind, self.width)
        return self._conj(ref, converted(w, x, kind, self.a.kind, self.width), self.width)

    def store(self, ref: Ref, place: Place, x: Parts, lanes: int) -> None:
        """Write a value of the dtype of the work."""
        kind, w = ref.kind, self.w
        if ref.packed:
            for p, part in enumerate(x):
                address = self.address(ref, place, kind.parts * self.width, p * self.width)
                w.store(part, kind.type, self.width, address)
            return
        x = converted(w, x, self.a.kind, kind, lanes)
        if not ref.vectors:
            for p, part in enumerate(x):
                w.store(part, kind.type, 1, self.address(ref, place, kind.parts, p))
            return
        column = place[COLUMN][1] if COLUMN in place else 0
        row = joined(w, x, kind, lanes)
        address = self.address(ref, place, kind.parts)
        w.store(row, kind.type, lanes * kind.parts, address, self.mask(column, kind.parts), ref.streamed)

    def _conj(self, ref: Ref, x: Parts, lanes: int) -> Parts:
        return self.a.conj(x, lanes) if ref.conj else x


def separated(w: Writer, row: str, kind: Kind, width: int) -> Parts:
    """Return the real and the imaginary parts of `width` complex numbers in a row; a real row as it is."""
    if not kind.complex:
        return (row,)
    if width == 1:
        v = vector(kind.type, 2)
        return tuple(w.op(f"extractelement {v} {row}, i32 {p}") for p in (0, 1))
    return tuple(w.shuffle(row, "poison", kind.type, 2 * width, range(p, 2 * width, 2)) for p in (0, 1))


def joined(w: Writer, x: Parts, kind: Kind, width: int) -> str:
    """Return real and imaginary parts one after the other, in one vector."""
    if not kind.complex:
        return x[0]
    if width == 1:
        v = vector(kind.type, 2)
        one = w.op(f"insertelement {v} poison, {kind.type} {x[0]}, i32 0")
        return w.op(f"insertelement {v} {one}, {kind.type} {x[1]}, i32 1")
    places = [k // 2 + (k % 2) * width for k in range(2 * width)]
    return w.shuffle(x[0], x[1], kind.type, width, places)


def write_step(
    tile: Tile,
    target: Ref,
    sources: Sequence[Ref],
    out: Sequence[tuple[int, Index]],
    summed: Sequence[tuple[int, Index]],
    blocks: Blocking,
    start: Place,
    accumulate: bool,
) -> None:
    """Write the loops that set, or with `accumulate` add to, the results of one step.

    Args:
        out, summed: the modes that are looped over, and their extents.
        start: the position of the modes that are fixed here.
    """
    factors = dict(blocks.factors)

    def over(todo: Sequence[tuple[int, Index]], place: Place, block: dict[int, int]) -> None:
        if not todo:
            _block(tile, target, sources, summed, blocks, place, block, accumulate)
            return
        (mode, extent), rest = todo[0], todo[1:]
        factor = factors.get(mode, 1)
        if isinstance(extent, int):
            full, left = divmod(extent, factor)
            if full:
                with tile.w.loop(full) as index:
                    over(rest, {**place, mode: (tile.w.multiply(index, factor), 0)}, {**block, mode: factor})
            if left:
                over(rest, {**place, mode: (full * factor, 0)}, {**block, mode: left})
            return
        with tile.w.loop(extent) as index:
            over(rest, {**place, mode: (index, 0)}, {**block, mode: 1})

    over(out, start, {})


def _block(
    tile: Tile,
    target: Ref,
    sources: Sequence[Ref],
    summed: Sequence[tuple[int, Index]],
    blocks: Blocking,
    place: Place,
    block: Mapping[int, int],
    accumulate: bool,
) -> None:
    """Write one block of results: sums over all summed modes in registers, then the stores."""
    w, a = tile.w, tile.a
    modes = [m for m, n in block.items() if n > 1]
    places = [
        {m: (place[m][0], d) for m, d in zip(modes, at, strict=True)}
        for at in product(*(range(block[m]) for m in modes))
    ]
    vectors = any(s.vectors for s in sources)
    lanes = tile.width if vectors else 1
    looped = [(m, n) for m, n in summed if m not in blocks.unrolled]
    unrolled = [(m, n) for m, n in summed if m in blocks.unrolled]
    depth = [
        {m: (0, d) for (m, _), d in zip(unrolled, at, strict=True)}
        for at in product(*(range(int(n)) for _, n in unrolled))
    ]

    def sums(inner: Place, totals: list[Parts | None]) -> list[Parts | None]:
        for k in depth:
            seen: dict[tuple[int, tuple[tuple[int, tuple[Index, int]], ...]], Parts] = {}
            for n, at in enumerate(places):
                here = {**inner, **k, **at}
                values = []
                for s, ref in enumerate(sources):
                    key = s, tuple((m, here[m]) for m in ref.strides if m in here)
                    if key not in seen:
                        seen[key] = tile.load(ref, here)
                    values.append(seen[key])
                totals[n] = _added(tile, totals[n], values, sources, lanes, k)
        return totals

    if not looped:
        results = sums(place, [None] * len(places))
    else:
        v = vector(a.kind.type, lanes)
        slots = [tuple(w.slot(v) for _ in range(a.kind.parts)) for _ in places]
        for slot in slots:
            for p, z in zip(slot, a.zero(lanes), strict=True):
                w.do(f"store {v} {z}, ptr {p}")

        def run() -> None:
            held: list[Parts | None] = [tuple(w.op(f"load {v}, ptr {p}") for p in slot) for slot in slots]
            for slot, total in zip(slots, sums(state[0], held), strict=True):
                assert total is not None
                for p, x in zip(slot, total, strict=True):
                    w.do(f"store {v} {x}, ptr {p}")

        state: list[Place] = [place]
        _nested(tile, looped, state, run)
        results = [tuple(w.op(f"load {v}, ptr {p}") for p in slot) for slot in slots]
    for at, total in zip(places, results, strict=True):
        here = {**place, **at}
        assert total is not None
        if accumulate:
            total = a.add(tile.load(target, here), total, lanes)
        tile.store(target, here, total, lanes)


def _nested(
    tile: Tile, todo: Sequence[tuple[int, Index]], state: list[Place], run: Callable[[], None]
) -> None:
    """Write loops over the modes in `todo`, `state[0]` being the position inside of them."""
    if not todo:
        run()
        return
    (mode, extent), rest = todo[0], todo[1:]
    outside = state[0]
    with tile.w.loop(extent) as index:
        state[0] = {**outside, mode: (index, 0)}
        _nested(tile, rest, state, run)
        state[0] = outside


def _added(
    tile: Tile,
    total: Parts | None,
    values: Sequence[Parts],
    sources: Sequence[Ref],
    lanes: int,
    at: Place,
) -> Parts:
    """Return `total` and one more product; lanes that do not exist add nothing to a sum over lanes."""
    a = tile.a
    wide = [
        x if s.vectors or lanes == 1 else tuple(tile.w.splat(p, a.kind.type, lanes) for p in x)
        for x, s in zip(values, sources, strict=True)
    ]
    column = at[COLUMN][1] if COLUMN in at else 0
    if tile.summed and lanes > 1 and tile.mask(column):
        term = wide[0] if len(wide) == 1 else a.multiply(wide[0], wide[1], lanes)
        term = a.chosen(tile.mask(column), term, a.zero(lanes), lanes)
        return term if total is None else a.add(total, term, lanes)
    if len(wide) == 1:
        return wide[0] if total is None else a.add(total, wide[0], lanes)
    if total is None:
        return a.multiply(wide[0], wide[1], lanes)
    return a.add_product(total, wide[0], wide[1], lanes)
