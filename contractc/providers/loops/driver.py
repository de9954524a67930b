"""Loop nests -> the LLVM text of one function that runs them, piece by piece.

The function is given two tuples of Python, of arrays of NumPy: operands, and results with a workspace behind them. It
finds their memory itself, which takes a nanosecond where asking an array for its address takes a microsecond. Where the
addresses lie is told by numbers (`arrays.layout`), so that the code does not depend on the version of Python or NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from contractc.programs import Fused, Value
from contractc.providers.loops.arrays import IN_ORDER
from contractc.providers.loops.kernel import ALIGNMENT, FENCE, aligned, kernel
from contractc.providers.loops.nests import AFTER, BEFORE, INSIDE, Nest, Nests, count, nests_of, streams
from contractc.providers.loops.problem import Problem
from contractc.providers.loops.schedule import Schedule
from contractc.providers.loops.text import Arithmetic, Function, Index, Writer, kind_of, module

PARAMETERS = "ptr %given, ptr %made, i64 %items, i64 %data, i64 %flags"


@lru_cache(maxsize=256)
def text(step: Fused, vector_bytes: int) -> tuple[str, int]:
    """Return the LLVM module that runs `step`, its function being `loops`, and the bytes of its workspace.

    The function returns 1, having done nothing, where an operand is not in C order.
    """
    nests = nests_of(step, vector_bytes)
    assert nests is not None, f"{step} has been refused"
    return _Driver(step, nests, vector_bytes).written()


class _Driver:
    """The function being written."""

    def __init__(self, step: Fused, nests: Nests, vector_bytes: int) -> None:
        self.step, self.nests, self.vector_bytes = step, nests, vector_bytes
        self.w = Writer()
        self.known = step.body.values()
        self.inner: dict[tuple[Problem, Schedule, bool, bool], Function] = {}
        self.workspace = 0
        self.pointers: dict[int, str] = {}

    def written(self) -> tuple[str, int]:
        """Return the module and the bytes of the workspace."""
        step, w = self.step, self.w
        self._operands()
        for nest in self.nests.whole:
            if nest.adds:
                self._clear(self.known[nest.makes])
        self._stage(self.nests.whole, BEFORE, 0)
        if step.modes:
            extent = step.body.extents[step.modes[0]]
            full = extent - extent % step.piece
            with w.loop(full, 0, step.piece) as index:
                self._stage(self.nests.whole, INSIDE, index)
            self._stage(self.nests.rest, INSIDE, full)
        self._stage(self.nests.whole, AFTER, 0)
        if any(streams for *_, streams in self.inner):
            w.do(FENCE)
        over = [f"{step.piece} of m{m} at a time" for m in step.modes]
        heading = [f"{len(self.nests.whole)} nests {' '.join(over)}"]
        function = w.function("loops", PARAMETERS, heading, "i64")
        room = ALIGNMENT + self.nests.inner + self.workspace
        return module(function, list(self.inner.values())), room

    def _operands(self) -> None:
        """Write where operands and results are, and the way out if one of them is not in order."""
        w, step = self.w, self.step
        flags = ""
        for source, values in (("%given", step.body.inputs), ("%made", step.outs)):
            items = w.op(f"getelementptr i8, ptr {source}, i64 %items")
            for k, value in enumerate(values):
                array = w.op(f"load ptr, ptr {w.at(items, 'ptr', k)}")
                place = w.op(f"getelementptr i8, ptr {array}, i64 %data")
                self.pointers[value.number] = w.op(f"load ptr, ptr {place}")
                place = w.op(f"getelementptr i8, ptr {array}, i64 %flags")
                own = w.op(f"load i32, ptr {place}")
                flags = own if not flags else w.op(f"and i32 {flags}, {own}")
        items = w.op("getelementptr i8, ptr %made, i64 %items")
        array = w.op(f"load ptr, ptr {w.at(items, 'ptr', len(step.outs))}")
        place = w.op(f"getelementptr i8, ptr {array}, i64 %data")
        work = aligned(w, w.op(f"load ptr, ptr {place}"))
        for number, offset in self.nests.offsets.items():
            self.pointers[number] = w.at(work, "i8", offset)
        self.scratch = w.at(work, "i8", self.nests.inner)
        fine = w.op(f"icmp ne i32 {w.op(f'and i32 {flags}, {IN_ORDER}')}, 0")
        go, out = w.fresh()[1:], w.fresh()[1:]
        w.do(f"br i1 {fine}, label %{go}, label %{out}")
        w.lines += [f"{out}:", "  ret i64 1", f"{go}:"]

    def _stage(self, nests: Sequence[Nest], stage: int, index: Index) -> None:
        """Write the calls of the nests of one stage, on the piece that begins at `index`."""
        for nest in nests:
            if nest.stage != stage:
                continue
            addresses = [*(self._at(i, index) for i in (*nest.reads, nest.makes)), self.scratch]
            arguments = ", ".join(f"ptr {x}" for x in addresses)
            self.w.do(f"call void @{self._function(nest).name}({arguments})")

    def _at(self, number: int, index: Index) -> str:
        """Return the address of value `number` on the piece that begins at `index`: intermediates have one place."""
        value, w = self.known[number], self.w
        if number in self.nests.offsets or not set(self.step.modes) & set(value.modes):
            return self.pointers[number]
        row = count(self.step, value, 1)
        kind = kind_of(value.dtype)
        return w.at(self.pointers[number], kind.type, w.multiply(index, row * kind.parts))

    def _function(self, nest: Nest) -> Function:
        value = self.known[nest.makes]
        past = streams(self.step, value)
        key = nest.problem, nest.schedule, nest.adds, past
        if key not in self.inner:
            name = f"nest{len(self.inner)}"
            made = kernel(nest.problem, nest.schedule, self.vector_bytes, name, nest.adds, past)
            self.inner[key] = made.function
            self.workspace = max(self.workspace, made.workspace)
        return self.inner[key]

    def _clear(self, value: Value) -> None:
        """Write a loop that sets all parts of `value` to zero, a vector at a time and then one by one."""
        kind = kind_of(value.dtype)
        zero = Arithmetic(self.w, kind, self.step.body.semiring, value.dtype == "bool").zero
        parts = count(self.step, value, 0) * kind.parts
        lanes = max(1, self.vector_bytes // kind.bytes)
        full = parts - parts % lanes
        for first, last, step in ((0, full, lanes), (full, parts, 1)):
            if last > first:
                with self.w.loop(last, first, step) as index:
                    place = self.w.at(self.pointers[value.number], kind.type, index)
                    self.w.store(zero(step)[0], kind.type, step, place)
