"""Program: values and steps, the intermediate representation that backends run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from contractc import serial
from contractc.dtypes import is_dtype, is_floating, itemsize, to_numpy, zero_of
from contractc.evaluation import Array, evaluate_einsum
from contractc.grouping import kind
from contractc.network import typed
from contractc.notation import Term
from contractc.operations import OPERATIONS, add_scaled, times_power
from contractc.options import PRECISIONS
from contractc.semirings import SEMIRINGS
from contractc.slices import Sums, place, positions


@dataclass(frozen=True, slots=True)
class Value:
    """A dense array of the program: its number, the mode of each axis (distinct but in inputs and results)."""

    number: int
    modes: Term
    dtype: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A value whose array lies beside the program, under the SHA-256 of its bytes."""

    value: Value
    digest: str


@dataclass(frozen=True, slots=True)
class Contract:
    """The einsum of one or more values; `conj` tells for each input whether its conjugate is meant.

    A fused step has more than two inputs and a `path`: the pairwise order, in SSA form over the positions of the
    inputs, in which one kernel contracts them without writing the intermediates to memory. `how` is the way
    chosen for the step, in the words of the backend (a strategy, a tile configuration); "" leaves it to the
    backend. Neither changes the value.
    """

    out: Value
    inputs: tuple[int, ...]
    conj: tuple[bool, ...] = ()
    path: tuple[tuple[int, ...], ...] = ()
    how: str = ""

    @property
    def outs(self) -> tuple[Value, ...]:
        """Return the values this step sets."""
        return (self.out,)


COPY = "copy"
"""The way (`Contract.how`) of a step of one input that writes its result in the order of its modes, no view."""


PIECES = "pieces"
"""The way (`Fused.how`) of steps done one by one, by the way of each, on some positions of a mode at a time."""


@dataclass(frozen=True, slots=True)
class Loop:
    """The `body` run for every position of `modes`, the last the fastest, its inputs sliced there.

    A result whose value here has a loop mode gets the slices side by side along it; loop modes it lacks are
    summed over, in the semiring's addition and in the order of a fixed tree (`slices`): in `pairs`, or one after the
    other where that takes too much memory.

    With `scaled`, every second result of the body is the exponent of the one before: what is summed up and put
    side by side are the numbers value * 2**exponent, with one exponent for all of a result. As many slices as
    `threads` may be computed at the same time: how many are does not change a bit of the results.
    """

    outs: tuple[Value, ...]
    inputs: tuple[int, ...]
    body: Program
    modes: Term
    scaled: bool = False
    pairs: bool = True
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Fused:
    """The steps of `body` as one: what one of them makes for another is no value of the program.

    The body's values have the numbers they have here. Where there are `modes` (one at most), the kernel takes `piece`
    positions of that mode at a time and does all steps on them before the next. `how` is as in `Contract`, or `PIECES`:
    then the ways of the body's steps are those for a piece.
    """

    outs: tuple[Value, ...]
    inputs: tuple[int, ...]
    body: Program
    modes: Term = ()
    piece: int = 0
    how: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A registered operation (see `OPERATIONS`) on values."""

    outs: tuple[Value, ...]
    inputs: tuple[int, ...]
    operation: str


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same elements in the same order under other modes: axes split into several, or fused into one."""

    out: Value
    inputs: tuple[int, ...]

    @property
    def outs(self) -> tuple[Value, ...]:
        """Return the values this step sets."""
        return (self.out,)


@dataclass(frozen=True, slots=True)
class Broadcast:
    """The same value at every position of the modes that `out` has beside those of the input."""

    out: Value
    inputs: tuple[int, ...]

    @property
    def outs(self) -> tuple[Value, ...]:
        """Return the values this step sets."""
        return (self.out,)


Step = Contract | Reshape | Broadcast | Loop | Fused | Call


@dataclass(frozen=True, slots=True)
class Program:
    """Steps from `inputs` and `constants` to `results`, in single assignment.

    Inputs keep the order of the operands. Modes mean what they mean in the network: `extents` and `labels`
    are indexed by mode, `dynamic` modes have a planning extent only. `precision` is how a GPU may multiply float32
    (see `Options`).
    """

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    results: tuple[int, ...]
    extents: tuple[int, ...]
    semiring: str = "sum_product"
    dynamic: Term = ()
    constants: tuple[Constant, ...] = ()
    labels: tuple[str, ...] = field(default=(), compare=False)
    precision: str = "default"
    _known: Mapping[int, Value] | None = field(
        default=None, init=False, repr=False, compare=False, metadata={"stored": False}
    )

    def __str__(self) -> str:
        return _printed(self)

    def faults(self) -> list[str]:
        """Return each rule this program breaks, as a sentence; nothing means it is well formed."""
        return list(_faults(self))

    def evaluate(self, *arrays: Array, constants: Sequence[Array] = ()) -> tuple[Array, ...]:
        """Return the results, slowly: step by step with the slow evaluator. The meaning of a program."""
        return _evaluate(self, arrays, constants)

    def label(self, mode: int) -> str:
        """Return the user's label of `mode`."""
        return self.labels[mode] if self.labels else f"m{mode}"

    def value(self, number: int) -> Value:
        """Return the value with this number; raises KeyError if there is none."""
        return self.values()[number]

    def values(self) -> Mapping[int, Value]:
        """Return all values by number, collected when first asked for: passes over thousands of steps ask for each."""
        if self._known is None:
            found = {v.number: v for v in self.inputs}
            found |= {c.value.number: c.value for c in self.constants}
            found |= {v.number: v for step in self.steps for v in step.outs}
            object.__setattr__(self, "_known", found)
            return found
        return self._known

    def bytes_of(self, value: Value) -> int:
        """Return the bytes of `value`, dynamic modes having the extents they were planned with."""
        return prod([self.extents[m] for m in value.modes]) * itemsize(value.dtype)

    def to_json(self) -> str:
        """Return this program as canonical JSON."""
        return serial.dumps(self)

    @staticmethod
    def from_json(text: str) -> Program:
        """Return the program in `text`; raises ValueError if it is none or breaks a rule."""
        program: Program = serial.checked(serial.loads(text, PROGRAM_CLASSES))
        return program


def with_precision(program: Program, precision: str) -> Program:
    """Return `program`, and the bodies of its loops, with float32 multiplied as `precision` says.

    Before:  program (%0, %1),  %2 = contract %0 %1
    After:   program (%0, %1) in fast float32,  %2 = contract %0 %1
    """
    steps = tuple(
        replace(step, body=with_precision(step.body, precision)) if isinstance(step, Loop | Fused) else step
        for step in program.steps
    )
    return replace(program, steps=steps, precision=precision)


def in_small(body: Program, mode: int, piece: int) -> Program:
    """Return the steps of a piece: `mode` has `piece` positions."""
    return replace(body, extents=tuple(piece if m == mode else n for m, n in enumerate(body.extents)))


PROGRAM_CLASSES = (Program, Contract, Reshape, Broadcast, Loop, Fused, Call, Constant, Value)


def _printed(program: Program, indent: str = "") -> str:
    def number(value: Value) -> str:
        return f"%{value.number}: {typed(value.dtype, value.modes, program)}"

    known = program.values()
    ring = "" if program.semiring == "sum_product" else f" in {program.semiring}"
    ring += "" if program.precision == "default" else f" in {program.precision} float32"
    lines = [f"program ({', '.join(number(v) for v in program.inputs)}){ring}"]
    for constant in program.constants:
        lines.append(f"  {number(constant.value)} = constant sha256 {constant.digest[:12]}")
    for step in program.steps:
        names = " ".join(f"%{i}" for i in step.inputs)
        outs = ", ".join(number(v) for v in step.outs)
        if isinstance(step, Contract):
            names = " ".join(f"%{i}{'*' * c}" for i, c in _with_conj(step))
            terms = [known[i].modes for i in step.inputs]
            summed = [m for m in dict.fromkeys(m for t in terms for m in t) if m not in step.out.modes]
            over = f" over {' '.join(program.label(m) for m in summed)}" if summed else ""
            lines.append(f"  {outs} = contract {names}{over}  # {_comment(step, terms)}")
        elif isinstance(step, Reshape | Broadcast):
            lines.append(f"  {outs} = {type(step).__name__.lower()} {names}")
        elif isinstance(step, Loop):
            over = " ".join(f"{program.label(m)}={program.extents[m]}" for m in step.modes)
            how = [*["scaled"] * step.scaled, *["one after the other"] * (not step.pairs)]
            how += [f"at most {step.threads} at a time"] * (step.threads > 1)
            lines.append(f"  {outs} = loop {names} over {over}{'  # ' * bool(how)}{', '.join(how)}")
            lines += ["    " + line for line in _printed(step.body).splitlines()]
        elif isinstance(step, Fused):
            pieces = ""
            for m in step.modes:
                pieces = f" over {program.label(m)}={program.extents[m]}, {step.piece} at a time"
            lines.append(f"  {outs} = fused {names}{pieces}{'  # ' * bool(step.how)}{step.how}")
            lines += ["    " + line for line in _printed(step.body).splitlines()[1:-1]]
        else:
            lines.append(f"  {outs} = {step.operation} {names}")
    lines.append(f"  return {' '.join(f'%{i}' for i in program.results)}")
    return "\n".join(indent + line for line in lines)


def _comment(step: Contract, terms: Sequence[Term]) -> str:
    """Return what a step amounts to: its kind, or the order inside a fused step, and how it is done."""
    word = kind(terms, step.out.modes)
    if step.path:
        word = "fused: " + ", ".join(" ".join(map(str, ids)) for ids in step.path)
    return f"{word}, {step.how}" if step.how else word


def _with_conj(step: Contract) -> Iterator[tuple[int, bool]]:
    for k, i in enumerate(step.inputs):
        yield i, k < len(step.conj) and step.conj[k]


def _faults(program: Program) -> Iterator[str]:
    known: dict[int, Value] = {}
    modes = range(len(program.extents))
    yield from (
        f"mode {m} has extent {n}" for m, n in enumerate(program.extents) if type(n) is not int or n < 0
    )
    for value in (*program.inputs, *(c.value for c in program.constants)):
        if value.number in known:
            yield f"%{value.number} is an input twice"
        known[value.number] = value
        yield from _value_faults(value, modes)
    for at, step in enumerate(program.steps):
        missing = [i for i in step.inputs if i not in known]
        yield from (f"step {at} reads %{i} before it is set" for i in missing)
        if not missing:
            yield from (
                f"step {at} {fault}" for fault in _step_faults(program, step, [known[i] for i in step.inputs])
            )
        for out in step.outs:
            if out.number in known:
                yield f"step {at} sets %{out.number} a second time"
            known[out.number] = out
            yield from _value_faults(out, modes)
    yield from (f"result %{i} is never set" for i in program.results if i not in known)
    if program.semiring not in SEMIRINGS:
        yield f"no semiring is called {program.semiring!r}"
    if program.precision not in PRECISIONS:
        yield f"no precision is called {program.precision!r}"
    yield from (f"dynamic mode {m} has no extent" for m in program.dynamic if m not in modes)


def _is_pairwise_path(path: Sequence[Sequence[int]], count: int) -> bool:
    """Return whether `path` joins the tensors 0 to `count` - 1 two at a time, each id used once."""
    used = [i for ids in path for i in ids]
    before = all(i < count + s for s, ids in enumerate(path) for i in ids)
    return (
        count > 2
        and before
        and len(path) == count - 1
        and all(len(ids) == 2 for ids in path)
        and sorted(used) == list(range(2 * count - 2))
    )


def _value_faults(value: Value, modes: range) -> Iterator[str]:
    """Yield what is wrong with one value; its numbers become names in generated source, so they have to be ints."""
    if type(value.number) is not int or value.number < 0:
        yield f"a value has the number {value.number!r}"
    for m in value.modes:
        if type(m) is not int or m not in modes:
            yield f"%{value.number} has mode {m!r}, which has no extent"
    if not is_dtype(value.dtype):
        yield f"%{value.number} has dtype {value.dtype!r}"


def _step_faults(program: Program, step: Step, inputs: Sequence[Value]) -> Iterator[str]:
    present = {m for value in inputs for m in value.modes}
    if isinstance(step, Contract):
        if not step.inputs:
            yield "contracts nothing"
        if len(step.conj) not in (0, len(step.inputs)):
            yield f"has {len(step.conj)} conj flags for {len(step.inputs)} inputs"
        yield from (f"keeps mode {m}, which no input has" for m in step.out.modes if m not in present)
        if step.path and not _is_pairwise_path(step.path, len(step.inputs)):
            yield f"has path {step.path}, which does not contract its {len(step.inputs)} inputs pairwise"
    elif isinstance(step, Reshape):
        if [_size(program, v) for v in inputs] != [_size(program, step.out)] or inputs[
            0
        ].dtype != step.out.dtype:
            yield f"makes %{step.out.number} with another number of elements or dtype"
    elif isinstance(step, Broadcast):
        modes, kept = inputs[0].modes, step.out.modes
        if len(inputs) != 1 or inputs[0].dtype != step.out.dtype or not set(modes) <= set(kept):
            yield f"makes %{step.out.number} with another dtype, or without modes of its input"
        if len(set(modes)) != len(modes) or len(set(kept)) != len(kept):
            yield "broadcasts a repeated mode"
    elif isinstance(step, Loop):
        yield from (f"has a body in which {fault}" for fault in step.body.faults())
        yield from (f"loops over mode {m}, which is dynamic" for m in step.modes if m in program.dynamic)
        yield from (f"loops over mode {m}, which no input has" for m in step.modes if m not in present)
        if (step.body.extents, step.body.semiring) != (program.extents, program.semiring):
            yield "has a body with other extents or another semiring"
        if step.body.precision != program.precision:
            yield "has a body of another precision"
        if (
            len(set(step.modes)) != len(step.modes)
            or step.threads < 1
            or (step.threads > 1 and not step.pairs)
        ):
            yield f"loops over {step.modes}, {step.threads} slices at a time"
        exponents = step.outs[1::2] if step.scaled else ()
        if len(step.outs) % (1 + step.scaled) or any((v.modes, v.dtype) != ((), "int64") for v in exponents):
            yield "is scaled, but its results are not pairs of a value and an exponent"
        if len(step.body.inputs) != len(inputs) or len(step.body.results) != len(step.outs):
            yield "has another number of inputs or results than its body"
            return
        if step.body.faults():
            return
        for outer, inner in zip(inputs, step.body.inputs, strict=True):
            if inner.modes != tuple(m for m in outer.modes if m not in step.modes):
                yield f"gives its body %{outer.number} with other modes than it expects"
        known = step.body.values()
        for out, result in zip(step.outs, step.body.results, strict=True):
            if known[result].modes != tuple(m for m in out.modes if m not in step.modes):
                yield f"makes %{out.number} with other modes than its body gives"
    elif isinstance(step, Fused):
        yield from _fused_faults(program, step, inputs)
    elif step.operation not in OPERATIONS:
        yield f"calls {step.operation!r}, which is no operation"
    else:
        expected = OPERATIONS[step.operation].outs(inputs)
        if [(v.modes, v.dtype) for v in step.outs] != expected:
            yield f"has outputs that {step.operation} does not make"


def _fused_faults(program: Program, step: Fused, inputs: Sequence[Value]) -> Iterator[str]:
    body = step.body
    yield from (f"has a body in which {fault}" for fault in body.faults())
    if replace(program, inputs=body.inputs, steps=body.steps, results=body.results, constants=()) != body:
        yield "has a body with other extents, another semiring or precision, or constants"
    if body.inputs != tuple(inputs):
        yield "gives its body other inputs than it expects"
    made = body.values()
    if body.results != tuple(v.number for v in step.outs) or any(made.get(v.number) != v for v in step.outs):
        yield "has other results than its body"
    if not all(isinstance(inner, Contract) for inner in body.steps):
        yield "has a body of more than contractions"
    if len(step.modes) > 1 or any(not 0 < step.piece <= program.extents[m] for m in step.modes):
        yield f"takes {step.piece} positions of {step.modes} at a time"
    if step.how == PIECES and not step.modes:
        yield "is taken in pieces of no mode"


def _size(program: Program, value: Value) -> int:
    size = 1
    for m in value.modes:
        size *= program.extents[m]
    return size


def _evaluate(program: Program, arrays: Sequence[Array], constants: Sequence[Array]) -> tuple[Array, ...]:
    values = program.inputs + tuple(c.value for c in program.constants)
    held = {v.number: x for v, x in zip(values, (*arrays, *constants), strict=True)}
    known = program.values()
    for step in program.steps:
        operands = [held[i] for i in step.inputs]
        if isinstance(step, Contract | Broadcast):
            made: Sequence[Array] = evaluate_einsum(
                [known[i].modes for i in step.inputs],
                [step.out.modes],
                program.extents,
                operands,
                dtypes=[step.out.dtype],
                semiring=program.semiring,
                conj=step.conj if isinstance(step, Contract) else (),
            )
        elif isinstance(step, Reshape):
            made = [operands[0].reshape([program.extents[m] for m in step.out.modes])]
        elif isinstance(step, Fused):
            made = _evaluate(step.body, operands, ())
        elif isinstance(step, Loop):
            made = _evaluate_loop(program, step, operands, [known[i].modes for i in step.inputs])
        else:
            made = OPERATIONS[step.operation].evaluate(operands)
        held |= {v.number: x for v, x in zip(step.outs, made, strict=True)}
    return tuple(held[i] for i in program.results)


def _evaluate_loop(
    program: Program, step: Loop, operands: Sequence[Array], terms: Sequence[Term]
) -> list[Array]:
    add: Any = add_scaled if step.scaled else getattr(np, SEMIRINGS[program.semiring].add)
    outs = step.outs[:: 1 + step.scaled]
    whole = [_empty_sum(program, v) for v in outs]
    exponents: list[dict[tuple[int, ...], int]] = [{} for _ in outs]

    def done(k: int, at: dict[int, int], total: Any) -> None:
        here = (*place(at, outs[k].modes), ...)
        whole[k][here], exponents[k][tuple(at.values())] = total if step.scaled else (total, 0)

    modes = {m: program.extents[m] for m in step.modes}
    sums = Sums(modes, [v.modes for v in outs], add, done, step.pairs)
    for at in positions(modes):
        given = [x[(*place(at, t), ...)] for x, t in zip(operands, terms, strict=True)]
        parts = _evaluate(step.body, given, ())
        for k in range(len(outs)):
            sums.put(k, at, (parts[2 * k], int(parts[2 * k + 1])) if step.scaled else parts[k])
    if not step.scaled:
        return whole
    made = []
    for k, out in enumerate(outs):
        largest = max(exponents[k].values(), default=0)
        kept = [m for m in step.modes if m in out.modes]
        for position, exponent in exponents[k].items():
            here = (*place(dict(zip(kept, position, strict=True)), out.modes), ...)
            whole[k][here] = times_power(whole[k][here], exponent - largest)
        made += [whole[k], np.array(largest)]
    return made


def _empty_sum(program: Program, out: Value) -> Array:
    shape = [program.extents[m] for m in out.modes]
    exact = program.semiring == "sum_product" or is_floating(out.dtype) or out.dtype in ("bool", "object")
    zero = zero_of(program.semiring, out.dtype) if exact else _least(program.semiring, out.dtype)
    return np.full(shape, zero, to_numpy(out.dtype))


def _least(semiring: str, dtype: str) -> int:
    """Return the integer that the semiring's addition never prefers."""
    info = np.iinfo(to_numpy(dtype))
    return int(info.max if semiring == "min_plus" else info.min)
