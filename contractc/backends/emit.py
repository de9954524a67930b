"""Program -> Python source: what all array libraries have in common.

Only numbers reach the source: labels and texts of the user never do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Protocol

from contractc.backends import Compiled
from contractc.dtypes import is_complex
from contractc.grouping import Groups, groups, kind
from contractc.notation import Term
from contractc.programs import COPY, Broadcast, Call, Contract, Fused, Loop, Program, Reshape, Value
from contractc.providers import loops
from contractc.recent import MISS


class Dialect(Protocol):
    """How an array library spells the few operations that programs need; each method returns an expression.

    `names` are the globals of the generated function; a method may add to them.
    """

    names: dict[str, Any]
    fuse_batch: bool

    def opening(self, function: Function) -> Sequence[str]:
        """Return the lines that a function starts with, once its operands are known to fit."""

    def wide(self, dtype: str) -> str:
        """Return the dtype in which the library multiplies values of `dtype`."""

    def guard(self, name: str, value: Value, shape: str | None) -> str:
        """Return a condition that is true when `name` does not hold a value like this."""

    def dtype(self, name: str) -> str:
        """Return the name that stands for a dtype in the source."""

    def cast(self, x: str, dtype: str) -> str:
        """Return `x` converted to `dtype`."""

    def conj(self, x: str) -> str:
        """Return the complex conjugate of `x`."""

    def permute(self, x: str, axes: Sequence[int]) -> str:
        """Return `x` with its axes in the order `axes`."""

    def reshape(self, x: str, shape: Sequence[str]) -> str:
        """Return `x` with another shape."""

    def broadcast(self, x: str, shape: Sequence[str]) -> str:
        """Return `x` repeated along its axes of extent 1, and along new axes in front."""

    def in_order(self, x: str) -> str:
        """Return `x` with its elements in memory in the order of its axes."""

    def diagonal(self, x: str, rank: int, one: int, two: int, given: bool) -> str:
        """Return the diagonal of axes `one` and `two` of an array of rank `rank`, as a new last axis.

        What is `given` to the caller, as a view of an operand, may be written to where the operand may.
        """

    def total(self, x: str, axes: Sequence[int], dtype: str) -> str:
        """Return `x` summed over `axes`, with dtype `dtype`."""

    def multiply(self, x: str, y: str, dtype: str) -> str:
        """Return the elementwise product, broadcast."""

    def matmul(self, x: str, y: str, rank: int, dtype: str) -> str:
        """Return the matrix product over the last axes; `rank` 3 means leading batch axes."""

    def multiply_and_reduce(
        self, x: str, y: str, left: Term, right: Term, out: Term, dtype: str
    ) -> str | None:
        """Return sums of products with no free modes in one expression, or None to use matmul."""

    def spread(self, x: str, modes: Term, term: Term, program: Program, dtype: str) -> str:
        """Return `x` (with distinct `modes`) on the diagonals that `term` repeats, zero elsewhere."""

    def whole_step(
        self, names: Sequence[str], terms: Sequence[Term], out: Value, program: Program, conj: Sequence[bool]
    ) -> str | None:
        """Return the expression for a step that is no sum of products of numbers, or None for one that is."""

    def unwidened(self, how: str, terms: Sequence[Term], out: Term, names: Sequence[str]) -> str | None:
        """Return the expression for a step that `how` wants done in the dtype of its operands, or None."""

    def compiled(self, step: Contract | Fused, program: Program, names: Sequence[str]) -> tuple[str, str]:
        """Return the expression for a step that runs as compiled loops, and how it runs."""

    def pair(
        self,
        function: Function,
        how: str,
        left: tuple[str, Term],
        right: tuple[str, Term],
        out: Term,
        work: str,
    ) -> str | None:
        """Return the expression for a pairwise step done as `how` says, or None if that is left to us."""

    def call(self, operation: str, names: Sequence[str]) -> str:
        """Return the expression for a registered operation."""

    def loop(
        self, body: str, names: Sequence[str], step: Loop, program: Program, terms: Sequence[Term]
    ) -> str:
        """Return the expression for running the function `body` for every slice."""

    def scalar(self, x: str, dtype: str) -> str:
        """Return a result without axes as the library's users expect it."""

    def view(self, x: str) -> str:
        """Return `x` as an array object of its own that shares its memory."""


def emit(program: Program, dialect: Dialect, constants: Sequence[Any], file: str) -> Compiled:
    """Return `program` as a compiled Python function of its inputs, in the words of `dialect`.

    The function returns `MISS` when an operand has another type, dtype or shape than the program's input.
    """
    writer = _Writer(dialect)
    writer.function("contracted", program, guards=True)
    source = "\n".join(writer.lines) + "\n"
    names = {"MISS": MISS, **dialect.names}
    names |= {f"c{c.value.number}": x for c, x in zip(program.constants, constants, strict=True)}
    exec(compile(source, file, "exec"), names)
    run: Callable[..., Any] = names["contracted"]
    return Compiled(run, source, tuple(writer.notes))


class _Writer:
    """The source written so far, and a note for each step of the outermost function."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.bodies = 0
        self.temporaries = 0

    def function(self, name: str, program: Program, *, guards: bool) -> None:
        """Write the function `name` that runs `program`."""
        Function(self, name, program, guards).write()


class Function:
    """One function being written: the code that stands for each value, and when a value is last used."""

    def __init__(self, writer: _Writer, name: str, program: Program, guards: bool) -> None:
        self.writer, self.dialect = writer, writer.dialect
        self.name, self.program, self.guards = name, program, guards
        self.known = program.values()
        self.names = {v.number: f"x{v.number}" for v in self.known.values()}
        self.names |= {c.value.number: f"c{c.value.number}" for c in program.constants}
        self.dynamic = set(program.dynamic)

    def write(self) -> None:
        """Write the whole function."""
        program = self.program
        bodies: dict[int, str] = {}
        for s, step in enumerate(program.steps):
            if isinstance(step, Loop):
                self.writer.bodies += 1
                bodies[s] = f"body{self.writer.bodies}"
                self.writer.function(bodies[s], step.body, guards=False)
        self.line(f"def {self.name}({', '.join(self.names[v.number] for v in program.inputs)}):", "")
        if self.guards:
            self._guards()
        self._dynamic_extents()
        for line in self.dialect.opening(self):
            self.line(line)
        last = {i: s for s, step in enumerate(program.steps) for i in step.inputs}
        made: set[int] = set()
        for s, step in enumerate(program.steps):
            outs = ", ".join(self.names[v.number] for v in step.outs)
            before = self.writer.temporaries
            if isinstance(step, Contract):
                code, note = self._contract(step)
            elif isinstance(step, Reshape):
                shape = [self.extent(m) for m in step.out.modes]
                code, note = self.dialect.reshape(self.names[step.inputs[0]], shape), "reshape"
            elif isinstance(step, Broadcast):
                code, note = self._broadcast(step), "broadcast"
            elif isinstance(step, Fused):
                code, note = self.dialect.compiled(step, self.program, [self.names[i] for i in step.inputs])
            elif isinstance(step, Loop):
                code, note = self._loop(step, bodies[s]), "a loop over slices"
            else:
                assert isinstance(step, Call)
                code = self.dialect.call(step.operation, [self.names[i] for i in step.inputs])
                outs += "," * (len(step.outs) == 1)
                note = step.operation
            self.line(f"{outs} = {code}")
            if self.guards:
                self.writer.notes.append(f"{note}: {code}")
            made |= {v.number for v in step.outs}
            gone = [f"t{k + 1}" for k in range(before, self.writer.temporaries)]
            gone += [
                self.names[i]
                for i in dict.fromkeys(step.inputs)
                if last[i] == s and i in made and i not in program.results
            ]
            if gone and s < len(program.steps) - 1:
                self.line(f"del {', '.join(gone)}")
        self.line(f"return {', '.join(self._result(i) for i in program.results)}")

    def line(self, text: str, indent: str = "    ") -> None:
        """Write one line."""
        self.writer.lines.append(indent + text)

    def _guards(self) -> None:
        for value in self.program.inputs:
            shape = None
            if not self.dynamic.intersection(value.modes):
                shape = _tuple([str(self.program.extents[m]) for m in value.modes])
            condition = self.dialect.guard(self.names[value.number], value, shape)
            if shape is None:
                name = self.names[value.number]
                condition += f" or len({name}.shape) != {len(value.modes)}"
                for axis, m in enumerate(value.modes):
                    if m not in self.dynamic:
                        condition += f" or {name}.shape[{axis}] != {self.program.extents[m]}"
            self.line(f"if {condition}:")
            self.line("    return MISS")

    def _dynamic_extents(self) -> None:
        first: dict[int, str] = {}
        for value in (*self.program.inputs, *(c.value for c in self.program.constants)):
            for axis, m in enumerate(value.modes):
                if m not in self.dynamic:
                    continue
                here = f"{self.names[value.number]}.shape[{axis}]"
                if m not in first:
                    first[m] = here
                    self.line(f"d{m} = {here}")
                elif self.guards:
                    self.line(f"if {here} != d{m}:")
                    self.line("    return MISS")

    def extent(self, mode: int) -> str:
        """Return the extent of `mode` as code: a literal, or the name of a run-time value."""
        return f"d{mode}" if mode in self.dynamic else str(self.program.extents[mode])

    def extents(self, modes: Sequence[int]) -> str:
        """Return the product of the extents of `modes` as code."""
        fixed = 1
        names = []
        for m in modes:
            if m in self.dynamic:
                names.append(f"d{m}")
            else:
                fixed *= self.program.extents[m]
        return " * ".join([*names, *([str(fixed)] if fixed != 1 or not names else [])])

    def _result(self, number: int) -> str:
        value = self.known[number]
        name = self.names[number]
        return name if value.modes or not self.guards else self.dialect.scalar(name, value.dtype)

    def _loop(self, step: Loop, body: str) -> str:
        terms = [self.known[i].modes for i in step.inputs]
        return self.dialect.loop(body, [self.names[i] for i in step.inputs], step, self.program, terms)

    def _broadcast(self, step: Broadcast) -> str:
        (source,) = step.inputs
        code, modes = self.names[source], self.known[source].modes
        if modes:
            code = _aligned(self.dialect, code, modes, step.out.modes)
        return self.dialect.broadcast(code, [self.extent(m) for m in step.out.modes])

    def _contract(self, step: Contract) -> tuple[str, str]:
        """Return the expression for one Contract, and what it amounts to."""
        conj = step.conj or (False,) * len(step.inputs)
        terms = [self.known[i].modes for i in step.inputs]
        names = [self.names[i] for i in step.inputs]
        if loops.is_loop(step.how):
            return self.dialect.compiled(step, self.program, names)
        note = kind(terms, step.out.modes)
        whole = self.dialect.whole_step(names, terms, step.out, self.program, conj)
        if whole is None:
            whole = self.dialect.unwidened(step.how, terms, step.out.modes, names)
        if whole is not None:
            return whole, note
        moved = len(terms) == 1 and set(terms[0]) <= set(step.out.modes)  # nothing is computed
        work = step.out.dtype if moved else self.dialect.wide(step.out.dtype)
        own = tuple(dict.fromkeys(step.out.modes))
        factors = [self._prepared(i, flag, work, moved) for i, flag in zip(step.inputs, conj, strict=True)]
        if len(factors) == 1:
            code, modes = self._reduced(*factors[0], own, work)
            code = _permuted(self.dialect, code, modes, own)
        else:
            code, modes = self._pair(factors[0], factors[1], own, work, step.how)
            code = _permuted(self.dialect, code, modes, own)
        if step.how == COPY:
            code = self.dialect.in_order(code)
        if step.out.dtype != work:
            code = self.dialect.cast(code, step.out.dtype)
        if len(own) != len(step.out.modes):
            code = self.dialect.spread(code, own, step.out.modes, self.program, step.out.dtype)
        if code == names[0]:
            code = self.dialect.view(code)
        return code, note

    def _prepared(self, number: int, conj: bool, work: str, given: bool) -> tuple[str, Term]:
        """Return an input of a step with dtype `work`, conjugated if asked, each of its modes once.

        Args:
            given: the result may be a view of it that is given to the caller.
        """
        value = self.known[number]
        code = self.names[number]
        if value.dtype != work:
            code = self.dialect.cast(code, work)
        if conj and is_complex(value.dtype):
            code = self.dialect.conj(code)
        modes = list(value.modes)
        for m in dict.fromkeys(value.modes):
            while modes.count(m) > 1:
                one = modes.index(m)
                two = modes.index(m, one + 1)
                code = self.dialect.diagonal(code, len(modes), one, two, given)
                del modes[two], modes[one]
                modes.append(m)
        return code, tuple(modes)

    def _reduced(self, code: str, modes: Term, keep: Sequence[int], work: str) -> tuple[str, Term]:
        extents, dynamic = self.program.extents, self.dynamic
        left = tuple(m for m in modes if m in keep or (extents[m] == 1 and m not in dynamic))
        if left != modes:
            axes = [axis for axis, m in enumerate(modes) if m not in left]
            code = self.dialect.total(code, axes, work)
        kept = tuple(m for m in left if m in keep)
        if kept != left:  # a sum over one position is a view
            code = self.dialect.reshape(code, [self.extent(m) for m in kept])
        return code, kept

    def _pair(
        self, left: tuple[str, Term], right: tuple[str, Term], out: Term, work: str, how: str = ""
    ) -> tuple[str, Term]:
        """Return the contraction of two prepared inputs, and the order its modes come out in."""
        a, a_modes = self._reduced(*left, (*right[1], *out), work)
        b, b_modes = self._reduced(*right, (*left[1], *out), work)
        chosen = self.dialect.pair(self, how, (a, a_modes), (b, b_modes), out, work) if how else None
        if chosen is not None:
            return chosen, out
        g = groups(a_modes, b_modes, out)
        if not g.summed:
            return self._multiply(a, a_modes, b, b_modes, out, work)
        if not g.rows and not g.columns:
            fused = self.dialect.multiply_and_reduce(a, b, a_modes, b_modes, out, work)
            if fused is not None:
                return fused, out
        return self._matmul(a, a_modes, b, b_modes, g, out, work)

    def _multiply(
        self, a: str, a_modes: Term, b: str, b_modes: Term, out: Term, work: str
    ) -> tuple[str, Term]:
        if not a_modes or not b_modes:
            return self.dialect.multiply(a, b, work), a_modes or b_modes
        return self.dialect.multiply(
            _aligned(self.dialect, a, a_modes, out), _aligned(self.dialect, b, b_modes, out), work
        ), out

    def _matmul(
        self, a: str, a_modes: Term, b: str, b_modes: Term, g: Groups, out: Term, work: str
    ) -> tuple[str, Term]:
        """Return a (batched) matrix product: no operand is copied when its groups lie side by side."""
        summed = self._summed_order(a_modes, b_modes, g)
        swap = bool(g.rows and g.columns) and out[-1] in g.rows
        if swap:
            a, a_modes, b, b_modes = b, b_modes, a, a_modes
            g = g._replace(rows=g.columns, columns=g.rows)
        batch = tuple(m for m in a_modes if m in g.batch)
        rows = self._free_order(a_modes, g.rows, out)
        columns = self._free_order(b_modes, g.columns, out)
        x = self._matrix(a, a_modes, batch, rows, summed)
        y = self._matrix(b, b_modes, batch, summed, columns)
        code = self.dialect.matmul(x, y, 3 if batch else 2, work)
        modes = (*batch, *rows, *columns)
        made = 1 if batch and self.dialect.fuse_batch else len(batch)
        made += 2 if batch else bool(rows) + bool(columns)
        if made != len(modes) or (batch and not (rows and columns)):
            code = self.dialect.reshape(code, [self.extent(m) for m in modes])
        return code, modes

    def _free_order(self, modes: Term, free: Sequence[int], out: Term) -> Term:
        """Return the order of the free modes of an operand: that of the result, if the operand is less to copy."""
        own = tuple(m for m in modes if m in free)
        wanted = tuple(m for m in out if m in free)
        extents = self.program.extents
        sizes = [prod(extents[m] for m in term) for term in (modes, out)]
        return wanted if own != wanted and sizes[0] < sizes[1] else own

    def _summed_order(self, a_modes: Term, b_modes: Term, g: Groups) -> Term:
        """Return the order of the summed modes for which fewer elements are copied."""
        orders = [tuple(m for m in modes if m in g.summed) for modes in (a_modes, b_modes)]
        extents = self.program.extents

        def copied(order: Term) -> int:
            total = 0
            for modes, free in ((a_modes, g.rows), (b_modes, g.columns)):
                own = tuple(m for m in modes if m in free)
                if not (_adjacent(modes, order) and _adjacent(modes, own)):
                    size = 1
                    for m in modes:
                        size *= extents[m]
                    total += size
            return total

        return min(orders, key=copied)

    def _matrix(self, x: str, modes: Term, batch: Term, rows: Term, columns: Term) -> str:
        """Return `x` as a matrix of `rows` by `columns` (a vector if one is empty), after `batch` axes."""
        if not batch:
            if modes == (*columns, *rows) and rows and columns:
                return self.dialect.permute(self._fused(x, modes, [columns, rows]), (1, 0))
            x = _permuted(self.dialect, x, modes, (*rows, *columns))
            return self._fused(x, (*rows, *columns), [part for part in (rows, columns) if part])
        heads = [batch] if self.dialect.fuse_batch else [(m,) for m in batch]
        if modes[len(batch) :] == (*columns, *rows) and modes[: len(batch)] == batch and rows and columns:
            x = self._fused(x, modes, [*heads, columns, rows])
            rank = len(heads)
            return self.dialect.permute(x, (*range(rank), rank + 1, rank))
        x = _permuted(self.dialect, x, modes, (*batch, *rows, *columns))
        return self._fused(x, (*batch, *rows, *columns), [*heads, rows, columns])

    def _fused(self, x: str, modes: Term, parts: Sequence[Term]) -> str:
        """Return `x`, whose axes are `modes`, with one axis for each of `parts`."""
        if [(m,) for m in modes] == list(parts):
            return x
        return self.dialect.reshape(x, [self.extents(part) for part in parts])


def _permuted(dialect: Dialect, x: str, modes: Term, order: Term) -> str:
    if modes == order:
        return x
    return dialect.permute(x, [modes.index(m) for m in order])


def _aligned(dialect: Dialect, x: str, modes: Term, out: Term) -> str:
    """Return `x` so that it broadcasts against an array with the modes `out`."""
    x = _permuted(dialect, x, modes, tuple(m for m in out if m in modes))
    present = [m in modes for m in out]
    present = present[present.index(True) :]
    if all(present):
        return x
    return f"{x}[{', '.join(':' if there else 'None' for there in present)}]"


def _adjacent(modes: Term, part: Term) -> bool:
    """Return whether `part` stands side by side and in this order in `modes`."""
    if not part:
        return True
    at = modes.index(part[0])
    return modes[at : at + len(part)] == part


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' * (len(items) == 1)})"
