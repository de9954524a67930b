"""A problem and its schedule -> the LLVM text of one function that computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from contractc.notation import Term
from contractc.providers.loops.blocks import COLUMN, blocking, step_shape
from contractc.providers.loops.forms import ORDERED, UNIT
from contractc.providers.loops.nest import Place, Ref, Tile, write_step
from contractc.providers.loops.problem import Problem
from contractc.providers.loops.reorder import Layout, can_transpose, pack, unpack
from contractc.providers.loops.schedule import Schedule, in_lines, is_streamed, levels
from contractc.providers.loops.text import LINE, Arithmetic, Function, Index, Kind, Writer, kind_of, module

ON_STACK = 2**13
"""Bytes of an intermediate up to which it is a stack slot, which LLVM may keep in registers."""

ALIGNMENT = 64

FENCE = "fence seq_cst"
"""What is behind stores past the caches: other processors might see them later than stores that follow."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A function whose arguments are pointers to inputs, result and workspace, then numbers.

    The numbers are the extents of the dynamic modes, in order, then all strides (in elements) of each input that
    is not ordered.
    """

    function: Function
    workspace: int
    numbers: int

    @property
    def text(self) -> str:
        """Return the LLVM module of this function alone."""
        return module(self.function)


def kernel(
    problem: Problem,
    schedule: Schedule,
    vector_bytes: int,
    name: str = "loops",
    adds: bool = False,
    streams: bool | None = None,
) -> Kernel:
    """Return the function called `name` that computes `problem` in the way `schedule` says.

    With `adds` it adds to what the result holds already. `streams` tells whether to write past the caches where vectors
    are whole cache lines, and that the caller has a `FENCE` behind; None for where the result is large.
    """
    asked = in_lines if streams else is_streamed
    past = streams is not False and asked(problem, schedule.lane, schedule.width, schedule.unpacked)
    made = _Kernel(problem, schedule, vector_bytes, adds, past and not adds)
    return made.written(name, FENCE if streams is None else "")


def aligned(w: Writer, address: str) -> str:
    """Return the first address from `address` on that is a multiple of `ALIGNMENT`: vectors that lie across two cache
    lines take twice the time."""
    number = w.op(f"ptrtoint ptr {address} to i64")
    return w.at(address, "i8", w.op(f"and i64 {w.op(f'sub i64 0, {number}')}, {ALIGNMENT - 1}"))


class _Kernel:
    """One function being written."""

    def __init__(
        self, problem: Problem, schedule: Schedule, vector_bytes: int, adds: bool, streams: bool
    ) -> None:
        self.p, self.s, self.vector_bytes, self.adds = problem, schedule, vector_bytes, adds
        self.streams = streams
        self.w = Writer()
        self.work = kind_of(problem.work)
        boolean = problem.work == "bool"
        self.a = Arithmetic(self.w, self.work, problem.semiring, boolean)
        self.work_at, self.workspace = "", 0
        self.extents: list[Index] = [
            f"%d{m}" if m in problem.dynamic else n for m, n in enumerate(problem.extents)
        ]
        self.kept = schedule.lane in problem.out

    def written(self, name: str, fence: str) -> Kernel:
        """Return the whole function; `fence` is written behind stores past the caches."""
        p, s = self.p, self.s
        names = [f"ptr noalias %x{k}" for k in range(p.inputs)] + ["ptr noalias %out", "ptr noalias %work"]
        numbers = [f"i64 %d{m}" for m in range(len(p.extents)) if m in p.dynamic]
        for k, (term, form) in enumerate(zip(p.terms, p.forms, strict=False)):
            numbers += [f"i64 %s{k}_{axis}" for axis in range(len(term))] if form != ORDERED else []
        self.memory = [
            Ref(f"%x{k}", kind_of(p.dtypes[k]), self._strides(k), s.lane in p.terms[k], False, p.conj[k])
            for k in range(p.inputs)
        ]
        out_strides = self._ordered_strides(p.out)
        self.result = Ref("%out", kind_of(p.result), out_strides, self.kept, False)
        self.values: list[Ref] = [*self.memory, *(self._made(k) for k in range(len(p.reads)))]
        for k, flag in enumerate(s.packed):
            if flag:
                self.values[k] = self._scratch(p.terms[k], True)
        self.levels = levels(p, s.lane, s.outer)
        if self.streams:
            w = self.w
            low = w.op(f"and i64 {w.op('ptrtoint ptr %out to i64')}, {LINE - 1}")
            with w.when(w.op(f"icmp eq i64 {low}, 0")):
                self.values[-1] = replace(self.result, streamed=True)
                self._all()
                if fence:
                    w.do(fence)
            self.values[-1] = self.result
            with w.when(w.op(f"icmp ne i64 {low}, 0")):
                self._all()
        else:
            self._all()
        legend = ", ".join(
            f"{m} = {self._named(m)}[{'at run time' if m in p.dynamic else p.extents[m]}]"
            for m in range(len(p.extents))
        )
        heading = [
            f"contract {' '.join(map(str, p.terms[: p.inputs]))} to {p.out} by {p.reads}",
            f"modes {legend}",
            f"mode {s.lane} in {s.columns} vectors of {s.width}, outer {s.outer}, dtypes {p.dtypes}, forms {p.forms}",
        ]
        function = self.w.function(name, ", ".join(names + numbers), heading)
        return Kernel(function, self.workspace, len(numbers))

    def _all(self) -> None:
        """Write everything that is computed."""
        self._steps(0, {}, None)
        self._outer(list(self.s.outer), {})

    def _named(self, mode: int) -> str:
        return "*".join(f"m{m}" for m in self.p.members[mode])

    def _ordered_strides(self, term: Term) -> dict[int, Index]:
        strides: dict[int, Index] = {}
        step: Index = 1
        for m in reversed(term):
            strides[m] = self.w.add(strides.get(m, 0), step)
            step = self.w.multiply(step, self.extents[m])
        return self._with_columns(strides)

    def _strides(self, k: int) -> dict[int, Index]:
        term, form = self.p.terms[k], self.p.forms[k]
        if form == ORDERED:
            return self._ordered_strides(term)
        strides: dict[int, Index] = {}
        for axis, m in enumerate(term):
            unit = form == UNIT and axis == len(term) - 1
            strides[m] = self.w.add(strides.get(m, 0), 1 if unit else f"%s{k}_{axis}")
        return self._with_columns(strides)

    def _with_columns(self, strides: dict[int, Index]) -> dict[int, Index]:
        if self.s.lane in strides:
            strides[COLUMN] = self.w.multiply(strides[self.s.lane], self.s.width)
        return strides

    def _made(self, step: int) -> Ref:
        """Return where the result of a step goes."""
        term = self.p.terms[self.p.inputs + step]
        if step < len(self.p.reads) - 1:
            return self._scratch(term, self.s.lane in term)
        if self.s.unpacked or not self.kept:
            return self._scratch(term, True)
        return self.result

    def _scratch(self, term: Term, vectors: bool) -> Ref:
        """Return room for the values of `term` on one tile (of one position of the outer modes)."""
        own = [m for m in dict.fromkeys(term) if m != self.s.lane and m not in self.s.outer]
        strides: dict[int, Index] = {}
        size = self.s.columns if vectors and self.s.lane in term else 1
        if size > 1:
            strides[COLUMN] = 1
        for m in reversed(own):
            strides[m] = size
            size *= self.p.extents[m]
        kind = self.work
        count = size * kind.parts * (self.s.width if vectors else 1)
        bytes_ = count * kind.bytes
        if bytes_ <= ON_STACK:
            base = self.w.slot(f"[{count} x {kind.type}]")
        else:
            if not self.work_at:
                self.work_at, self.workspace = aligned(self.w, "%work"), ALIGNMENT
            base = self.w.op(f"getelementptr i8, ptr {self.work_at}, i64 {self.workspace - ALIGNMENT}")
            self.workspace += -(-bytes_ // ALIGNMENT) * ALIGNMENT
        return Ref(base, kind, strides, vectors, vectors)

    def _steps(self, level: int, place: Place, remaining: Index | None) -> None:
        """Write the steps that are done at this level."""
        tile = Tile(self.w, self.a, self.s.width, self.s.columns, remaining, not self.kept)
        for step, at in enumerate(self.levels):
            if at == level:
                self._step(tile, step, place)

    def _step(self, tile: Tile, step: int, place: Place) -> None:
        p = self.p
        s = self.s
        shape = step_shape(p, step, s.lane, s.width, s.columns, s.outer, s.packed)
        target = self.values[p.inputs + step]
        sources = [self.values[i] for i in p.reads[step]]
        out = [(m, self._extent(m)) for m, _ in shape.out]
        summed = [(m, self._extent(m)) for m, _ in shape.summed]
        last = step == len(p.reads) - 1
        self.w.comment(f"step {step}: {[p.terms[i] for i in p.reads[step]]} -> {p.terms[p.inputs + step]}")
        write_step(
            tile,
            target,
            sources,
            out,
            summed,
            blocking(shape, self.vector_bytes),
            place,
            last and (not self.kept or (self.adds and not self.s.unpacked)),
        )

    def _extent(self, mode: int) -> Index:
        return self.s.columns if mode == COLUMN else self.extents[mode]

    def _outer(self, todo: list[int], place: Place) -> None:
        """Write the loops over the outer modes, and inside of them everything of that position."""
        if todo:
            with self.w.loop(self.extents[todo[0]]) as index:
                self._outer(todo[1:], {**place, todo[0]: (index, 0)})
            return
        self._steps(1, place, None)
        if not self.kept:
            self._each_result(place, self._clear)
        self._tiles(place)
        if not self.kept:
            self._each_result(place, self._reduce)

    def _tiles(self, place: Place) -> None:
        extent, size = self.extents[self.s.lane], self.s.width * self.s.columns
        full = self.w.multiply(self.w.floor_divide(extent, size), size)
        if full != 0:
            with self.w.loop(full, 0, size) as index:
                self._tile({**place, self.s.lane: (index, 0)}, None)
        if isinstance(extent, int) and isinstance(full, int):
            if extent > full:
                self._tile({**place, self.s.lane: (full, 0)}, extent - full)
            return
        negative = self.w.multiply(full, -1)
        remaining = self.w.add(extent, negative)
        with self.w.when(self.w.less(0, remaining)):
            self._tile({**place, self.s.lane: (full, 0)}, remaining)

    def _tile(self, place: Place, remaining: Index | None) -> None:
        """Write the work on one tile, of which only `remaining` positions exist."""
        p, s = self.p, self.s
        tile = Tile(self.w, self.a, s.width, s.columns, remaining, not self.kept)
        for k, flag in enumerate(s.packed):
            if flag:
                layout = self._layout(p.terms[k], self.memory[k].kind, p.forms[k] >= UNIT)
                pack(tile, self.memory[k], self.values[k], layout, place)
        self._steps(2, place, remaining)
        if s.unpacked:
            layout = self._layout(p.out, self.result.kind, True)
            unpack(tile, self.values[-1], self.result, layout, place, self.adds)

    def _layout(self, term: Term, kind: Kind, unit: bool) -> Layout:
        """Return how a tensor is put in vectors; `unit` tells whether its last axis has unit stride."""
        own = [m for m in dict.fromkeys(term) if m != self.s.lane and m not in self.s.outer]
        last = term[-1]
        fits = unit and last in own and term.count(last) == 1 and last not in self.p.dynamic
        rows = (last, self.p.extents[last]) if fits and can_transpose(kind) else None
        modes = tuple((m, self.extents[m]) for m in own if rows is None or m != last)
        return Layout(modes, rows, self.s.lane, self.s.columns)

    def _each_result(self, place: Place, write: Callable[[Place], None]) -> None:
        """Write loops over the results that the tiles of one position of the outer modes add up."""

        def over(todo: Sequence[int], at: Place) -> None:
            if not todo:
                write(at)
                return
            with self.w.loop(self.extents[todo[0]]) as index:
                over(todo[1:], {**at, todo[0]: (index, 0)})

        over([m for m in self.p.out if m not in self.s.outer], place)

    def _clear(self, at: Place) -> None:
        tile = Tile(self.w, self.a, self.s.width, self.s.columns, None, False)
        tile.store(self.values[-1], at, self.a.zero(self.s.width), self.s.width)

    def _reduce(self, at: Place) -> None:
        tile = Tile(self.w, self.a, self.s.width, self.s.columns, None, False)
        x = self.a.reduced(tile.load(self.values[-1], at), self.s.width)
        if self.adds:
            x = self.a.add(tile.load(self.result, at), x, 1)
        tile.store(self.result, at, x, 1)
