"""How tiles come from memory and go back: offsets, masks, and the order of axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import TYPE_CHECKING, NamedTuple

from contractc.backends.triton.addresses import letter
from contractc.backends.triton.problem import ACCUMULATED, adjacent_runs
from contractc.backends.triton.tiles import span
from contractc.dtypes import is_complex, itemsize

if TYPE_CHECKING:
    from contractc.backends.triton.emit import Writer

VECTOR = 16
"""Bytes that one thread loads at once at most."""


class Tile(NamedTuple):
    """A tile as code: one name, or two for complex numbers; the runs of its axes; its dtype.

    A `matrix` has two axes in fact: those of each side are one already.
    """

    parts: tuple[str, ...]
    axes: tuple[str, ...]
    dtype: str
    matrix: bool = False


def load(w: Writer, number: int, order: Sequence[str] | None, sides: Sequence[Sequence[str]] = ()) -> Tile:
    """Write the load of an input and return its tile.

    The axes come in the wanted `order`, but for those along which a thread reads many elements at once: where the
    unit axis is short or elements are pairs, its neighbours are read as one long axis, and then taken apart. What is
    going to be a matrix is read as one, where its `sides` are boxes: a copy to shared memory moves 16 bytes at once
    only if nothing but the product reads it.
    """
    access, own = w.problem.inputs[number], w.nodes[number].kept
    base = letter(number, len(w.problem.inputs))
    present = w.axes(own)
    axes = tuple(a for a in (order or present) if a in present)
    tail = _tail(w, number)
    matrix = not tail and any(len(side) > 1 for side in sides) and set(axes) == {a for s in sides for a in s}
    if matrix:
        pointer, mask = _matrix(w, number, sides)
    else:
        pointer, mask, axes = _pointer(w, number, axes, tail)
    guard = f", mask={mask}, other={w.padding()}" if mask else ""
    whole = w.name()
    w.line(f"{whole} = tl.load({base} + {pointer}{guard})")
    parts: tuple[str, ...] = (whole,)
    dtype = access.dtype
    if is_complex(dtype):
        if tail:
            whole = f"tl.reshape({whole}, {_sizes(w, axes, (2,))})"
        one, two = w.name(), w.name()
        w.line(f"{one}, {two} = tl.split({whole})")
        parts = (one, f"(-{two})" if access.conj else two)
        dtype = ACCUMULATED[dtype]
    elif len(tail) > 1:
        parts = (f"tl.reshape({whole}, {w.shape(axes)})",)
    if dtype == "bool":
        parts, dtype = tuple(f"({p} != 0).to(tl.int8)" for p in parts), "int8"
    if w.interpret and dtype in ("bfloat16", "float16"):
        parts, dtype = tuple(f"{p}.to(tl.float32)" for p in parts), "float32"
    if all(p.isidentifier() for p in parts):
        return Tile(parts, axes, dtype, matrix)
    return w.assign(parts, axes, dtype)._replace(matrix=matrix)


def store(w: Writer, tile: Tile) -> None:
    """Write the store of the result, the elements that one thread writes at once side by side."""
    at = len(w.problem.inputs)
    tail = _tail(w, at)
    tail = tail if set(tail) <= set(tile.axes) else ()
    pointer, mask, axes = _pointer(w, at, tile.axes, tail)
    parts = list(tile.parts)
    if axes != tile.axes:
        order = ", ".join(str(tile.axes.index(a)) for a in axes)
        parts = [f"tl.permute({p}, ({order}))" for p in parts]
    pair = is_complex(w.problem.out.dtype)
    if pair:
        parts = [f"tl.join({parts[0]}, {parts[1]})"]
    if len(tail) > 1 or (pair and tail):
        shape = _sizes(w, axes[: len(axes) - len(tail)], (w.size(tail) * (2 if pair else 1),))
        parts = [f"tl.reshape({parts[0]}, {shape})"]
    if w.config.split > 1:
        elements = " * ".join(w.at.extent(r) for r in w.runs if at in r.values) or "1"
        pointer = f"wide(pid) * ({'2 * ' if pair else ''}{elements}) + {pointer}"
    value = parts[0]
    if w.problem.out.dtype == "bool":
        value = f"({value} != 0).to(tl.uint8)"
    elif not pair:
        value = w.cast(value, w.accumulated, w.problem.out.dtype)
    w.line(f"tl.store(out + {pointer}, {value}{f', mask={mask}' if mask else ''})")


def _matrix(w: Writer, at: int, sides: Sequence[Sequence[str]]) -> tuple[str, str]:
    """Return the offsets and the mask of a tile of value `at` as a matrix whose sides are boxes of axes."""
    pair = is_complex(w.problem.values[at].dtype)
    tail = ", None" if pair else ""
    own = [r for r in w.runs if at in r.values]
    flat = {a for side in sides for a in side}
    terms = [w.at.call(at, r, f"x_{r.name}") for r in own if r.name not in flat]
    masks = []
    for side, index in zip(sides, (f"[:, None{tail}]", f"[None, :{tail}]"), strict=True):
        inner = 1
        for a in reversed(side):
            run, block = w.by_name[a], w.blocks[a]
            x = f"x_{a}"
            if len(side) > 1:
                lane = f"tl.arange(0, {w.size(side)})"
                lane = f"{lane} // {inner}" if inner > 1 else lane
                lane = f"({lane}) % {block}" if a != side[0] else lane
                tile = f"wide(t_{a})" if w.problem.size(run.modes) >= 2**31 else f"t_{a}"
                x = w.name()
                w.line(f"{x} = {lane}" if w.at.whole(run) else f"{x} = {tile} * {block} + {lane}")
            terms.append(_with_hint(w, at, a, w.at.call(at, run, x) + index, index, wraps=len(side) > 1))
            if w.at.masked(run):
                masks.append(f"({x} < {w.at.extent(run)}){index}")
            inner *= block
    if pair:
        terms = [f"2 * {t}" for t in terms] + ["tl.arange(0, 2)[None, None, :]"]
        masks += ["(tl.arange(0, 2) < 2)[None, None, :]"] if masks else []
    return " + ".join(terms), " & ".join(masks)


def _with_hint(w: Writer, at: int, name: str, offsets: str, index: str, *, wraps: bool) -> str:
    """Return the `offsets` of a run, expanded by `index`, with how many of them lie side by side, if it must be told.

    Triton follows a division by an extent only where coordinates do not wrap around inside of a tile.
    """
    access, run = w.problem.values[at], w.by_name[name]
    if not wraps or len(run.modes) == 1 or access.unit != run.modes[-1] or run.modes[-1] in w.problem.dynamic:
        return offsets
    together = gcd(w.blocks[name], w.problem.extents[run.modes[-1]])
    for m in run.modes[:-1]:
        together = gcd(together, access.stride(m) or 1)  # known at run time only: no promise
    if together == 1:
        return offsets
    sizes = index.strip("[]").replace(":", str(together)).replace("None", "1")
    return f"tl.max_contiguous(tl.multiple_of({offsets}, ({sizes})), ({sizes}))"


def _sizes(w: Writer, axes: Sequence[str], more: Sequence[int]) -> str:
    """Return the shape of a tile with `axes` and further axes of sizes `more`, as code."""
    return f"({', '.join(str(n) for n in (*(w.blocks[a] for a in axes), *more))},)"


def _tail(w: Writer, at: int) -> tuple[str, ...]:
    """Return the axes of value `at`, fastest first, that are reached as one; none if each is reached by itself.

    They lie side by side in memory from stride 1 on. Complex numbers are pairs of real ones, so that even one axis
    is reached together with the axis of the pair.
    """
    access = w.problem.values[at]
    chain: list[str] = []
    for run, _ in adjacent_runs(w.problem, w.runs, at):
        block = w.blocks[run.name]
        if run.modes[0] in w.problem.dynamic or block == 1:
            break
        chain.append(run.name)
        if block != w.problem.size(run.modes):
            break
    if len(chain) > 1 and w.blocks[chain[0]] * itemsize(access.dtype) < VECTOR:
        return tuple(chain)
    if is_complex(access.dtype):
        unit = access.unit
        for run in w.runs:
            literal = all(access.stride(m) is not None for m in run.modes)
            if at in run.values and run.modes[-1] == unit and w.blocks[run.name] > 1 and literal:
                return (run.name,)
    return ()


def _pointer(
    w: Writer, at: int, axes: tuple[str, ...], tail: tuple[str, ...]
) -> tuple[str, str, tuple[str, ...]]:
    """Return the offsets of a tile of value `at`, the mask ("" for none), and the order of its axes.

    The axes of `tail` come last and are one, twice as long if elements are pairs; without a tail pairs have an axis
    of their own at the end.
    """
    pair = 2 if is_complex(w.problem.values[at].dtype) else 1
    axes = (*(a for a in axes if a not in tail), *reversed(tail))
    places: list[str | tuple[str, ...]] = [a for a in axes if a not in tail]
    places += [tail] if tail else []
    count = len(places) + (pair == 2 and not tail)
    twice = "2 * " * (pair - 1)
    terms = [twice + w.at.call(at, r, f"x_{r.name}") for r in w.runs if at in r.values and r.name not in axes]
    masks = []
    for k, place in enumerate(places):
        index = f"[{', '.join(':' if k == j else 'None' for j in range(count))}]" if count > 1 else ""
        if not isinstance(place, tuple):
            run = w.by_name[place]
            terms.append(f"{twice}{w.at.call(at, run, f'x_{place}')}{index}")
            if w.at.masked(run):
                masks.append(f"ok_{place}{index}")
            continue
        outer = w.by_name[place[-1]]
        inner = span([w.by_name[a] for a in place[:-1]], w.blocks) * pair
        size = inner * w.blocks[outer.name]
        start = f"wide(t_{outer.name})" if w.problem.wide_offsets(at) else f"t_{outer.name}"
        x = f"tl.arange(0, {size})" if w.at.whole(outer) else f"({start} * {size} + tl.arange(0, {size}))"
        if len(place) == 1 and len(outer.modes) > 1:
            terms.append(w.at.call(at, outer, x, pairs=True) + index)
        else:
            terms.append(x + index)
        if w.at.masked(outer):
            masks.append(f"({x} < {w.at.extent(outer)} * {inner}){index}")
    if pair == 2 and not tail:
        index = f"[{'None, ' * (count - 1)}:]" if count > 1 else ""
        terms.append(f"tl.arange(0, 2){index}")
        if masks:
            masks.append(f"(tl.arange(0, 2) < 2){index}")
    return " + ".join(terms) or "0", " & ".join(masks), axes
