"""How tiles come from memory and go back: offsets, masks, and the order of axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from contractc.backends.triton.addresses import letter
from contractc.backends.triton.problem import adjacent_runs
from contractc.backends.triton.tiles import ACCUMULATED, span
from contractc.dtypes import is_complex, itemsize

if TYPE_CHECKING:
    from contractc.backends.triton.emit import Writer

VECTOR = 16
"""Bytes that one thread loads at once at most."""


class Tile(NamedTuple):
    """A tile as code: one name, or two for complex numbers; the runs of its axes; its dtype."""

    parts: tuple[str, ...]
    axes: tuple[str, ...]
    dtype: str


def load(w: Writer, number: int, order: Sequence[str] | None) -> Tile:
    """Write the load of an input, in its own memory order where its unit axis is short."""
    access, own = w.problem.inputs[number], w.nodes[number].kept
    axes = tuple(a for a in (order or w.axes(own)) if a in w.axes(own))
    flat = _flat(w, number)
    pointer, mask, shape_axes = _pointer(w, number, axes, flat)
    other = w.padding()
    guard = f", mask={mask}, other={other}" if mask else ""
    size = len(shape_axes) - (len(flat) - 1 if flat else 0)
    if is_complex(access.dtype):
        tail = ", ".join([":"] * size)
        pair = f"[{tail}, None]" if size else ""
        offsets = f"(({pointer}) * 2){pair} + tl.arange(0, 2)"
        if mask:
            guard = f", mask=({mask})[{tail}, None] & (tl.arange(0, 2) < 2)[{'None, ' * size}:], other=0"
        whole = w.name()
        w.line(f"{whole} = tl.load({letter(number, len(w.problem.inputs))} + {offsets}{guard})")
        one, two = w.name(), w.name()
        w.line(f"{one}, {two} = tl.split({whole})")
        parts: tuple[str, ...] = (one, f"(-{two})" if access.conj else two)
    else:
        whole = w.name()
        base = letter(number, len(w.problem.inputs))
        w.line(f"{whole} = tl.load({base} + {pointer}{guard})")
        parts = (whole,)
    dtype = ACCUMULATED.get(access.dtype, access.dtype) if is_complex(access.dtype) else access.dtype
    if access.dtype == "bool":
        parts, dtype = tuple(f"({p} != 0).to(tl.int8)" for p in parts), "int8"
    tile = Tile(parts, shape_axes, dtype)
    if flat:
        tile = Tile(tuple(f"tl.reshape({p}, {w.shape(shape_axes)})" for p in parts), shape_axes, dtype)
    if w.interpret and access.dtype in ("bfloat16", "float16"):
        tile = Tile(tuple(f"{p}.to(tl.float32)" for p in tile.parts), tile.axes, "float32")
    if tile.parts != (whole,):
        tile = w.assign(tile.parts, tile.axes, tile.dtype)
    return tile


def store(w: Writer, tile: Tile) -> None:
    """Write the store of the result, in memory order where its unit axis is short."""
    at = len(w.problem.inputs)
    flat = _flat(w, at)
    flat = flat if set(flat) <= set(tile.axes) else ()
    pointer, mask, axes = _pointer(w, at, tile.axes, flat)
    parts = list(tile.parts)
    if axes != tile.axes:
        order = ", ".join(str(tile.axes.index(a)) for a in axes)
        parts = [f"tl.permute({p}, ({order}))" for p in parts]
    size = len(axes)
    if flat:
        size = len(axes) - len(flat) + 1
        sizes = [str(w.blocks[a]) for a in axes if a not in flat] + [str(w.size(flat))]
        parts = [f"tl.reshape({p}, ({', '.join(sizes)},))" for p in parts]
    if w.config.split > 1:
        elements = " * ".join(w.at.extent(r) for r in w.runs if at in r.values) or "1"
        pointer = f"wide(pid) * ({elements}) + {pointer}"
    guard = f", mask={mask}" if mask else ""
    if w.problem.out.dtype == "bool":
        w.line(f"tl.store(out + {pointer}, ({parts[0]} != 0).to(tl.uint8){guard})")
    elif w.complex:
        tail = ", ".join([":"] * size)
        offsets = f"(({pointer}) * 2)[{tail}, None]" if size else f"({pointer}) * 2"
        lanes = f"tl.arange(0, 2)[{'None, ' * size}:]" if size else "tl.arange(0, 2)"
        if mask:
            guard = f", mask=({mask})[{tail}, None] & (tl.arange(0, 2) < 2)[{'None, ' * size}:]"
        w.line(f"tl.store(out + {offsets} + {lanes}, tl.join({parts[0]}, {parts[1]}){guard})")
    else:
        value = w.cast(parts[0], w.accumulated, w.problem.out.dtype)
        w.line(f"tl.store(out + {pointer}, {value}{guard})")


def _flat(w: Writer, at: int) -> tuple[str, ...]:
    """Return the axes of value `at`, fastest first, that are reached as one because the unit axis is short."""
    access = w.problem.values[at]
    chain: list[str] = []
    for run, _ in adjacent_runs(w.problem, w.runs, at):
        block = w.blocks[run.name]
        if run.modes[0] in w.problem.dynamic or block == 1:
            break
        chain.append(run.name)
        if block != w.problem.size(run.modes):
            break
    if len(chain) < 2 or w.blocks[chain[0]] * itemsize(access.dtype) >= VECTOR:
        return ()
    return tuple(chain)


def _pointer(
    w: Writer, at: int, axes: tuple[str, ...], flat: tuple[str, ...]
) -> tuple[str, str, tuple[str, ...]]:
    """Return the offsets of a tile of value `at`, the mask ("" for none), and the order of its axes."""
    runs = [r for r in w.runs if at in r.values]
    if flat:
        axes = (*(a for a in axes if a not in flat), *reversed(flat))
    places: list[str | tuple[str, ...]] = [a for a in axes if a not in flat]
    if flat:
        places.append(flat)
    terms, masks = [], []
    for r in runs:
        if r.name not in axes:
            terms.append(w.at.call(at, r, f"x_{r.name}"))
    for k, place in enumerate(places):
        index = f"[{', '.join(':' if k == j else 'None' for j in range(len(places)))}]"
        index = index if len(places) > 1 else ""
        if isinstance(place, tuple):
            outer = w.by_name[place[-1]]
            inner = span([w.by_name[a] for a in place[:-1]], w.blocks)
            size = inner * w.blocks[outer.name]
            if w.at.whole(outer):
                x = f"tl.arange(0, {size})"
            else:
                start = f"t_{outer.name} * {size}"
                if w.problem.wide_offsets(at):
                    start = f"wide(t_{outer.name}) * {size}"
                x = f"({start} + tl.arange(0, {size}))"
            terms.append(f"{x}{index}")
            if w.at.masked(outer):
                masks.append(f"({x} < {w.at.extent(outer)} * {inner}){index}")
            continue
        run = w.by_name[place]
        terms.append(w.at.call(at, run, f"x_{place}") + index)
        if w.at.masked(run):
            masks.append(f"ok_{place}{index}")
    return " + ".join(t for t in terms if t) or "0", " & ".join(masks), axes
