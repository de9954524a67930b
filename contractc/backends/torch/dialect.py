"""How torch spells the operations of a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from contractc.backends import Compiled
from contractc.backends.emit import Function, emit
from contractc.backends.torch import operations, semirings
from contractc.backends.torch.compiled import torch_loops
from contractc.dtypes import wide, zero_of
from contractc.errors import UnsupportedError
from contractc.notation import Term
from contractc.programs import Contract, Fused, Loop, Program, Value
from contractc.providers import loops

_INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
_UNSIGNED = ("uint16", "uint32", "uint64")
_NARROW = ("float16", "bfloat16")
DTYPES = ("bool", *_INTEGERS, *_UNSIGNED, *_NARROW, "float32", "float64", "complex64", "complex128")
"""The dtypes that programs may have on torch."""


class Torch:
    """The words of torch; see `emit.Dialect`.

    `kernel(names, out, program)` returns the expression for a step that is none of torch's own operations, or
    None for one that is; `opening(names, program)` the lines that a function of inputs of these names starts with.
    `sliced` runs loops.
    """

    fuse_batch = True

    def __init__(
        self,
        kernel: Callable[[Sequence[str], Value, Program], str | None] | None = None,
        opening: Callable[[Sequence[str], Program], Sequence[str]] | None = None,
        sliced: Callable[..., Any] = operations.sliced,
    ) -> None:
        self.names: dict[str, Any] = {"Tensor": torch.Tensor}
        self.kernel, self.starts, self.sliced = kernel, opening, sliced

    def opening(self, function: Function) -> Sequence[str]:
        """Return what `starts` says, if anything."""
        program = function.program
        names = [function.names[v.number] for v in program.inputs]
        return () if self.starts is None else self.starts(names, program)

    def wide(self, dtype: str) -> str:
        """Return int64 for the unsigned dtypes that torch only stores (it wraps as they do), else `dtype`.

        Matrix products of narrow floats add up in float32 by themselves, and under autocast too.
        """
        return "int64" if dtype in _UNSIGNED else dtype

    def dtype(self, name: str) -> str:
        """Return the name that stands for a dtype in the source."""
        assert name in DTYPES, name
        return self.use(name, getattr(torch, name))

    def use(self, name: str, thing: Any) -> str:
        """Return `name` after making it a global of the function."""
        self.names[name] = thing
        return name

    def guard(self, name: str, value: Value, shape: str | None) -> str:
        condition = f"not isinstance({name}, Tensor) or {name}.dtype is not {self.dtype(value.dtype)}"
        return condition if shape is None else f"{condition} or {name}.shape != {shape}"

    def cast(self, x: str, dtype: str) -> str:
        return f"{x}.to({self.dtype(dtype)})"

    def conj(self, x: str) -> str:
        return f"{x}.conj()"

    def permute(self, x: str, axes: Sequence[int]) -> str:
        return f"{x}.t()" if tuple(axes) == (1, 0) else f"{x}.permute({', '.join(map(str, axes))})"

    def reshape(self, x: str, shape: Sequence[str]) -> str:
        return f"{x}.reshape({', '.join(shape) or '()'})"

    def broadcast(self, x: str, shape: Sequence[str]) -> str:
        return f"{x}.expand({', '.join(shape)})"

    def in_order(self, x: str) -> str:
        return f"{x}.contiguous()"

    def diagonal(self, x: str, rank: int, one: int, two: int, given: bool) -> str:
        return f"{x}.diagonal(0, {one}, {two})"

    def total(self, x: str, axes: Sequence[int], dtype: str) -> str:
        along = str(axes[0]) if len(axes) == 1 else str(tuple(axes))
        if dtype == "bool":
            return f"{x}.any({along})"
        if dtype in _NARROW:
            return self.cast(f"{x}.sum({along}, dtype={self.dtype('float32')})", dtype)
        if dtype in _INTEGERS:
            return f"{x}.sum({along}, dtype={self.dtype(dtype)})"
        return f"{x}.sum({along})"

    def multiply(self, x: str, y: str, dtype: str) -> str:
        return f"{self.use('mul', torch.mul)}({x}, {y})"

    def matmul(self, x: str, y: str, rank: int, dtype: str) -> str:
        if dtype == "bool":
            return f"{self.use('matmul_bool', operations.matmul_bool)}({x}, {y})"
        if dtype in _INTEGERS:
            return f"{self.use('matmul_integer', operations.matmul_integer)}({x}, {y})"
        function = self.use("bmm", torch.bmm) if rank == 3 else self.use("matmul", torch.matmul)
        return f"{function}({x}, {y})"

    def multiply_and_reduce(
        self, x: str, y: str, left: Term, right: Term, out: Term, dtype: str
    ) -> str | None:
        """Return a product that is summed up in the layout of `left`: a matrix product of many tiny matrices,
        which is what this is otherwise, is slower."""
        if not out:
            return None
        if left != right:
            y = self.permute(y, [right.index(m) for m in left])
        if dtype in _NARROW:
            x = self.cast(x, "float32")
        axes = [axis for axis, m in enumerate(left) if m not in out]
        code = self.total(self.multiply(x, y, dtype), axes, dtype)
        kept = tuple(m for m in left if m in out)
        return code if kept == out else self.permute(code, [kept.index(m) for m in out])

    def spread(self, x: str, modes: Term, term: Term, program: Program, dtype: str) -> str:
        axes = tuple(modes.index(m) for m in term)
        return f"{self.use('spread', operations.spread)}({x}, {axes}, {_zero(program.semiring, dtype)})"

    def whole_step(
        self, names: Sequence[str], terms: Sequence[Term], out: Value, program: Program, conj: Sequence[bool]
    ) -> str | None:
        """Return a step in an ordered semiring, or one with a kernel of its own; or_and is what sums of products of
        bools are anyway."""
        code = self.kernel(names, out, program) if self.kernel is not None else None
        if code is not None:
            return code
        if program.semiring in ("sum_product", "or_and"):
            return None
        own = tuple(dict.fromkeys(out.modes))
        work = self.wide(wide(out.dtype))
        given = {v.number for v in program.inputs} | {c.value.number for c in program.constants}
        if program.semiring == "max_times":
            check = self.use("not_negative", semirings.not_negative)
            names = [f"{check}({x})" if int(x[1:]) in given else x for x in names]
        function = self.use("contract_blocked", semirings.contract_blocked)
        ring = self.use(program.semiring, semirings.OPERATIONS[program.semiring])
        operands = f"[{', '.join(names)}], {list(terms)}, {own}"
        code = f"{function}({ring}, {operands}, {self.dtype(work)}, {_zero(program.semiring, work)})"
        if work != out.dtype:
            code = self.cast(code, out.dtype)
        return code if own == out.modes else self.spread(code, own, out.modes, program, out.dtype)

    def unwidened(self, how: str, terms: Sequence[Term], out: Term, names: Sequence[str]) -> str | None:
        return None

    def compiled(self, step: Contract | Fused, program: Program, names: Sequence[str]) -> tuple[str, str]:
        assert isinstance(step, Contract), "refuses() lets a step through that is for NumPy"
        name = self.use(f"step{len(self.names)}", torch_loops(program, step, _compile))
        note = loops.note(program, step)
        return f"{name}({', '.join(names)})", f"{note}; pairwise where autograd or a tracer watches"

    def pair(
        self,
        function: Function,
        how: str,
        left: tuple[str, Term],
        right: tuple[str, Term],
        out: Term,
        work: str,
    ) -> None:
        return None

    def call(self, operation: str, names: Sequence[str]) -> str:
        return f"{self.use(operation, getattr(operations, operation))}({', '.join(names)})"

    def loop(
        self, body: str, names: Sequence[str], step: Loop, program: Program, terms: Sequence[Term]
    ) -> str:
        modes = {m: program.extents[m] for m in step.modes}
        if step.scaled:
            function = self.use("scaled_slices", operations.scaled_slices)
            outs = [v.modes for v in step.outs[::2]]
            return f"{function}({body}, [{', '.join(names)}], {list(terms)}, {modes}, {outs}, {step.pairs})"
        function = self.use("sliced", self.sliced)
        add = self.use(f"add_{program.semiring}", semirings.OPERATIONS[program.semiring].add)
        outs = [v.modes for v in step.outs]
        dtypes = [f"({self.dtype(v.dtype)}, {self.dtype(self.wide(wide(v.dtype)))})" for v in step.outs]
        total = f"{self.use('Sum', operations.Sum)}({outs}, [{', '.join(dtypes)}], {step.pairs}, {add})"
        return f"{function}({body}, [{', '.join(names)}], {list(terms)}, {modes}, {total})"

    def scalar(self, x: str, dtype: str) -> str:
        return x

    def view(self, x: str) -> str:
        return f"{x}.view_as({x})"


def _compile(program: Program) -> Compiled:
    return emit(program, Torch(), (), "<contractc torch program>")


def _zero(semiring: str, dtype: str) -> str:
    """Return the semiring's zero as code, or as a text the reason why `dtype` has none."""
    try:
        zero = zero_of(semiring, dtype)
    except UnsupportedError as error:
        return repr(str(error))
    if dtype == "bool":
        return "False"
    return repr(zero) if zero == 0 else f"float('{zero}')"
