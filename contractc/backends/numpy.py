"""The NumPy backend: one program is one straight-line Python function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contractc.backends import Compiled
from contractc.backends.blocked import contract_blocked, spread
from contractc.backends.compiled import NOTHING_BUILT, numpy_loops, numpy_together
from contractc.backends.emit import Function, emit
from contractc.backends.steps import NARROW
from contractc.backends.steps.code import write_pair
from contractc.dtypes import promote as promoted
from contractc.dtypes import to_numpy, wide
from contractc.errors import OperandError
from contractc.notation import Term
from contractc.operands import Operand, as_numpy, is_torch
from contractc.operations import OPERATIONS
from contractc.programs import PIECES, Contract, Fused, Loop, Program, Value
from contractc.providers import loops
from contractc.providers.copies import converted
from contractc.providers.reductions import exact_matmul, total, wide_einsum
from contractc.semirings import SEMIRINGS

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_AXES = 64
"""The rank that NumPy 2 allows."""


def as_array(x: Any, number: int, like: Any = None) -> np.ndarray:
    """Return operand `number` as a NumPy array in native byte order; raises OperandError for a torch tensor."""
    if is_torch(x):
        raise OperandError(f"operand {number} is a tensor of torch, but this was compiled for NumPy")
    return as_numpy(x, number)


def refuses(program: Program) -> str | None:
    """Return why `program` cannot run on NumPy, or None when it can."""
    values = program.values().values()
    if program.semiring == "log_sum_exp" and any(v.dtype == "object" for v in values):
        return "log_sum_exp has no meaning for Python objects"
    for value in values:
        if len(value.modes) > _MOST_AXES:
            return f"%{value.number} has {len(value.modes)} axes, NumPy arrays have at most {_MOST_AXES}"
    return _too_many_modes(program)


def _too_many_modes(program: Program) -> str | None:
    """Return which step brings more modes together than the function that computes it can name, or None."""
    known = program.values()
    for step in program.steps:
        if isinstance(step, Loop):
            found = _too_many_modes(step.body)
            if found is not None:
                return found
        if not isinstance(step, Contract):
            continue
        modes = {m for i in step.inputs for m in known[i].modes}
        if program.semiring != "sum_product" and len(modes) > _MOST_AXES:
            return f"%{step.out.number} is made of {len(modes)} modes, NumPy arrays have at most {_MOST_AXES} axes"
        if step.out.dtype == "object" and len(modes) > len(_LETTERS):
            return f"%{step.out.number} is made of {len(modes)} modes of objects, np.einsum takes {len(_LETTERS)}"
    return None


def promote(operands: Sequence[Operand]) -> str:
    """Return NumPy's result dtype of arrays like `operands`."""
    return promoted(o.dtype for o in operands)


def compile(program: Program, constants: Sequence[Any] = ()) -> Compiled:
    """Return `program` as a Python function on NumPy arrays."""
    return emit(program, _Numpy(), constants, "<contractc numpy program>")


def binaries(program: Program, device: str) -> dict[str, bytes]:
    """Return the machine code of the compiled loops of `program`, as named files."""
    from contractc.providers.loops import ahead  # loaded by those who save

    return ahead.binaries(program)


def from_binaries(
    program: Program, constants: Sequence[Any], held: Mapping[str, bytes], device: str
) -> Compiled:
    """Return `program` with the machine code that `binaries` gave: nothing is compiled, llvmlite is not needed.

    Raises:
        UnsupportedError: it is not for this processor, with the reason.
    """
    from contractc.providers.loops import ahead  # loaded by those who trust

    dialect = _Numpy(ahead.built(program, held))
    return emit(ahead.marked(program), dialect, constants, "<contractc numpy program>")


class _Numpy:
    """How NumPy spells the operations of a program."""

    fuse_batch = False

    def __init__(self, built: Mapping[str, loops.Variant] = NOTHING_BUILT) -> None:
        self.built = built
        self.names: dict[str, Any] = {"ndarray": np.ndarray, "matmul": np.matmul, "multiply": np.multiply}

    wide = staticmethod(wide)

    def opening(self, function: Function) -> Sequence[str]:
        return ()

    def dtype(self, name: str) -> str:
        """Return the name that stands for a dtype in the source."""
        self.names[name] = to_numpy(name)
        return name

    def use(self, name: str, thing: Any) -> str:
        """Return `name` after making it a global of the function."""
        self.names[name] = thing
        return name

    def guard(self, name: str, value: Value, shape: str | None) -> str:
        condition = f"type({name}) is not ndarray or {name}.dtype is not {self.dtype(value.dtype)}"
        return condition if shape is None else f"{condition} or {name}.shape != {shape}"

    def cast(self, x: str, dtype: str) -> str:
        if dtype in ("float16", "bfloat16", "float32"):
            return f"{self.use('converted', converted)}({x}, {self.dtype(dtype)})"
        return f"{x}.astype({self.dtype(dtype)})"

    def conj(self, x: str) -> str:
        return f"{x}.conj()"

    def permute(self, x: str, axes: Sequence[int]) -> str:
        return f"{x}.T" if tuple(axes) == (1, 0) else f"{x}.transpose({', '.join(map(str, axes))})"

    def reshape(self, x: str, shape: Sequence[str]) -> str:
        return f"{x}.reshape({', '.join(shape) or '()'})"

    def broadcast(self, x: str, shape: Sequence[str]) -> str:
        return f"{self.use('broadcast', _broadcast)}({x}, {_tuple(shape)})"

    def in_order(self, x: str) -> str:
        return f"{self.use('in_order', np.ascontiguousarray)}({x})"

    def diagonal(self, x: str, rank: int, one: int, two: int, given: bool) -> str:
        if not given:
            return f"{x}.diagonal(0, {one}, {two})"
        return f"{self.use('diagonal', _diagonal)}({x}, {one}, {two})"

    def total(self, x: str, axes: Sequence[int], dtype: str) -> str:
        if dtype == "bool":
            return f"{x}.any({_axes(axes)})"
        return f"{self.use('total', total)}({x}, {_axes(axes)}, {self.dtype(dtype)})"

    def multiply(self, x: str, y: str, dtype: str) -> str:
        return f"multiply({x}, {y})"

    def matmul(self, x: str, y: str, rank: int, dtype: str) -> str:
        if dtype == "bool" or dtype.startswith(("int", "uint")):
            return f"{self.use('exact_matmul', exact_matmul)}({x}, {y})"
        if rank == 2:
            return f"{x}.dot({y})"
        if dtype in ("float32", "float64", "complex64", "complex128"):
            ready = self.use("blas_ready", _blas_ready)
            return f"matmul({ready}({x}), {ready}({y}))"
        return f"matmul({x}, {y})"

    def multiply_and_reduce(
        self, x: str, y: str, left: Term, right: Term, out: Term, dtype: str
    ) -> str | None:
        if not out or len({*left, *right}) > len(_LETTERS):
            return None
        return f"{self.use('einsum', np.einsum)}({_letters([left, right], out)!r}, {x}, {y})"

    def spread(self, x: str, modes: Term, term: Term, program: Program, dtype: str) -> str:
        axes = tuple(modes.index(m) for m in term)
        ring = self.use(program.semiring, SEMIRINGS[program.semiring])
        return f"{self.use('spread', _spread)}({x}, {axes}, {ring})"

    def whole_step(
        self, names: Sequence[str], terms: Sequence[Term], out: Value, program: Program, conj: Sequence[bool]
    ) -> str | None:
        if program.semiring != "sum_product":
            function = self.use("contract_blocked", contract_blocked)
            ring = self.use(program.semiring, SEMIRINGS[program.semiring])
            dtype = self.dtype(out.dtype)
            work = self.dtype(wide(out.dtype))
            code = f"{function}({ring}, [{', '.join(names)}], {list(terms)}, {out.modes}, {work}).astype({dtype})"
            return f"{code}[()]" if out.dtype == "object" else code
        if out.dtype != "object":
            return None
        names = [self.conj(x) if flag else x for x, flag in zip(names, conj, strict=True)]
        own = tuple(dict.fromkeys(out.modes))
        function = self.use("object_einsum", _object_einsum)
        code = f"{function}({list(terms)}, {own}, {', '.join(names)})"
        return code if own == out.modes else self.spread(code, own, out.modes, program, "object")

    def compiled(self, step: Contract | Fused, program: Program, names: Sequence[str]) -> tuple[str, str]:
        if isinstance(step, Fused) and step.how == PIECES:
            from contractc.backends.pieces import numpy_pieces  # by those who train

            run = numpy_pieces(step, compile)
            name = self.use(f"step{len(self.names)}", run)
            of = program.label(step.modes[0])
            return (
                f"{name}({', '.join(names)})",
                f"{len(step.body.steps)} steps, {step.piece} of {of} at a time",
            )
        if isinstance(step, Fused):
            run = numpy_together(program, step, compile, self.built)
        else:
            run = numpy_loops(program, step, compile, self.built)
        name = self.use(f"step{len(self.names)}", run)
        return f"{name}({', '.join(names)})", loops.note(program, step)

    def unwidened(self, how: str, terms: Sequence[Term], out: Term, names: Sequence[str]) -> str | None:
        if how != NARROW:
            return None
        try:
            from contractc.providers.torch_products import torch_einsum
        except ImportError:  # a bundle came to where torch is not
            torch_einsum = wide_einsum
        return f"{self.use('torch_einsum', torch_einsum)}({_letters(terms, out)!r}, {', '.join(names)})"

    def pair(
        self,
        function: Function,
        how: str,
        left: tuple[str, Term],
        right: tuple[str, Term],
        out: Term,
        work: str,
    ) -> str:
        return write_pair(function, how, left, right, out, work)

    def call(self, operation: str, names: Sequence[str]) -> str:
        return f"{self.use(operation, OPERATIONS[operation].evaluate)}([{', '.join(names)}])"

    def loop(
        self, body: str, names: Sequence[str], step: Loop, program: Program, terms: Sequence[Term]
    ) -> str:
        from contractc.backends.sliced import borrowed_results, scaled_slices, sliced  # not by everyone

        function = self.use(
            "scaled_slices" if step.scaled else "sliced", scaled_slices if step.scaled else sliced
        )
        modes = {m: program.extents[m] for m in step.modes}
        borrowed = borrowed_results(step.body)
        outs = ", ".join(
            f"({v.modes}, {self.dtype(v.dtype)}, {i in borrowed})"
            for v, i in zip(step.outs, step.body.results, strict=True)
        )
        operands = f"{body}, [{', '.join(names)}], {list(terms)}, {modes}, [{outs}]"
        if step.scaled:
            return f"{function}({operands}, {step.pairs}, {step.threads})"
        ring = self.use(program.semiring, SEMIRINGS[program.semiring])
        return f"{function}({operands}, {ring}, {step.pairs}, {step.threads})"

    def scalar(self, x: str, dtype: str) -> str:
        return x if dtype == "object" else f"{x}[()]"

    def view(self, x: str) -> str:
        return f"{x}.view()"


def _axes(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else str(tuple(axes))


def _letters(terms: Sequence[Term], out: Term) -> str:
    names = {m: _LETTERS[k] for k, m in enumerate(dict.fromkeys(m for t in terms for m in t))}
    return ",".join("".join(names[m] for m in t) for t in terms) + "->" + "".join(names[m] for m in out)


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' * (len(items) == 1)})"


def _broadcast(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `x` broadcast to `shape`, in memory of its own."""
    return np.array(np.broadcast_to(x, shape))


def _diagonal(x: np.ndarray, one: int, two: int) -> np.ndarray:
    """Return the diagonal of two axes as a new last axis: a view, writeable if `x` is (np.diagonal's is not)."""
    view = x.diagonal(0, one, two)
    if x.flags.writeable:
        view.setflags(write=True)
    return view


def _blas_ready(x: np.ndarray) -> np.ndarray:
    """Return `x`, copied if neither of its last two axes has unit stride: matmul would not call BLAS then."""
    strides, item = x.strides, x.itemsize
    rows, columns = x.shape[-2:]
    if (strides[-1] == item and strides[-2] >= item * columns) or (
        strides[-2] == item and strides[-1] >= item * rows
    ):
        return x
    return x if rows == 1 or columns == 1 else np.ascontiguousarray(x)


def _object_einsum(terms: Sequence[Term], out: Term, *arrays: Any) -> Any:
    """Return np.einsum of Python objects: their own + and * are called, and their exceptions surface."""
    if any(np.size(array) == 0 for array in arrays):
        shape = {
            m: n for t, x in zip(terms, arrays, strict=True) for m, n in zip(t, np.shape(x), strict=True)
        }
        return np.full([shape[m] for m in out], 0, object)[()]
    names = {m: k for k, m in enumerate(dict.fromkeys(m for t in terms for m in t))}
    pairs: list[Any] = [x for a, t in zip(arrays, terms, strict=True) for x in (a, [names[m] for m in t])]
    return np.einsum(*pairs, [names[m] for m in out], dtype=object)


def _spread(x: np.ndarray, axes: tuple[int, ...], ring: Any) -> np.ndarray:
    return spread(np.asarray(x), axes, ring, np.asarray(x).dtype)


def constant(x: np.ndarray, number: int) -> np.ndarray:
    """Return a read-only copy of constant operand `number`."""
    copy = np.array(x, order="C")
    copy.flags.writeable = False
    return copy


def to_portable(x: np.ndarray) -> np.ndarray:
    """Return a constant as a NumPy array, for a file."""
    return x


def from_portable(x: np.ndarray, device: str) -> np.ndarray:
    """Return the constant that `to_portable` gave, from a file: in fresh memory, as `constant` made it.

    Generated code compares dtypes by identity; np.array would keep an equal dtype that the file's reader made.
    """
    found = np.empty(x.shape, to_numpy(x.dtype.name))
    found[...] = x
    return constant(found, 0)


def to_bytes(x: np.ndarray) -> bytes:
    """Return what identifies a constant: dtype, shape and values (of Python objects their text)."""
    x = np.asarray(x)
    body = repr(x.tolist()).encode() if x.dtype.hasobject else np.ascontiguousarray(x).tobytes()
    return f"{x.dtype.name}{x.shape}".encode() + body
