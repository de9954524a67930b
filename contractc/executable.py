"""Executable: a program compiled for a target, callable from several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from contractc.dtypes import widens
from contractc.errors import OperandError
from contractc.machine import Target
from contractc.network import typed
from contractc.operands import dtype_name, flattened, is_torch, shares_storage, with_dtype
from contractc.plans import Plan, bytes_text, choices_told
from contractc.programs import Program
from contractc.recent import MISS, traced


@dataclass(frozen=True, slots=True, eq=False)
class Executable:
    """A program and the code that runs it.

    Call it with the operands that are not constants, in order, of the shapes and dtypes it was compiled for
    (a dynamic mode may have any extent). The result is fresh memory or a view of an operand, never of
    anything kept here; a Program without a workspace makes it safe to call from several threads.

    `memory` tells how many bytes are in memory at a time at most, operands and constants included (0 where that cannot
    be told ahead). `source` is the generated code as text; `notes[s]` says what step s runs as and why. `considered`
    tells by the number of a value which ways to compute it were compared, with their predicted seconds. `constants`
    are the arrays of the program's constants, `exponent` tells that exponents are returned beside the results, and
    `remarks` are what else `explain` has to say, such as why a bundle is not run by a binary it holds.

    It can be pickled, for worker processes; to keep or to ship it, `save` it.
    """

    program: Program
    plan: Plan
    target: Target
    source: str
    notes: tuple[str, ...]
    run: Callable[..., Any] = field(repr=False)
    as_array: Callable[[Any, int, Any], Any] = field(repr=False)
    arity: int = field(repr=False)
    considered: Callable[[], dict[int, str]] = field(default=dict, repr=False)
    constants: tuple[Any, ...] = field(default=(), repr=False)
    exponent: bool = field(default=False, repr=False)
    remarks: tuple[str, ...] = field(default=(), repr=False)
    memory: Callable[[], int] = field(default=int, repr=False)
    saver: Callable[..., str] | None = field(default=None, repr=False)
    assembler: Callable[..., Executable] | None = field(default=None, repr=False)

    def __call__(self, *operands: Any, out: Any = None) -> Any:
        """Return the result (a tuple of results if the expression has several outputs).

        Args:
            operands: arrays with the shapes and dtypes compiled for.
            out: an array to write the result to and return; it may overlap the operands.

        Raises:
            OperandError: number, shape, dtype or library of the operands is another one, or `out` does not fit.
            TypeError: the dtype of `out` is of another kind, so that values would be lost.
        """
        try:
            result = self.run(*operands)
        except TypeError:
            if len(operands) == self.arity:
                raise
            result = MISS
        if result is MISS:
            arrays = flattened(operands)
            if len(arrays) != len(self.program.inputs) and self.plan.network.groups:
                raise OperandError(
                    f"this executable takes {len(self.program.inputs)} arrays, not {len(arrays)}: it was compiled for "
                    "operands held as factors, each factor is an array"
                )
            result = self.run(*admitted(arrays, self.program, self.as_array))
            assert result is not MISS, (
                f"generated code refuses the operands it was generated for\n{self.program}"
            )
        return result if out is None else stored(result, out)

    def __str__(self) -> str:
        return explain(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what another process makes this from: the program, whose code is generated there anew."""
        assert self.assembler is not None, "only what is built can be built again"
        parts = (
            self.program,
            self.plan,
            self.target,
            self.constants,
            self.exponent,
            self.saver,
            self.remarks,
        )
        return self.assembler, parts

    def __deepcopy__(self, memo: object) -> Executable:
        return self

    @property
    def peak(self) -> int:
        """Return the bytes that are in memory at a time at most, as far as the program tells, or 0."""
        return self.memory()

    def save(self, path: str | PathLike[str], *others: Executable) -> str:
        """Write this to a bundle, with `others` compiled from the same expression for other targets.

        Returns:
            The SHA-256 of the file in hexadecimal, which `contractc.load` can be told to expect.

        Raises:
            BundleError: something in it cannot be saved, with the reason.
            OSError: the file cannot be written.
        """
        assert self.saver is not None, "only what is built has a saver"
        return self.saver(path, self, *others)


def explain(executable: Executable) -> str:
    """Return which step of `executable` runs as what, and why: the ways compared and their predicted seconds."""
    plan, program, considered = executable.plan, executable.program, executable.considered()
    most = executable.peak
    peak = f"; {bytes_text(most)} in memory at most" if most >= 2**20 else ""
    head = f"runs on {executable.target}; order found by {plan.search}{peak}"
    lines = [head, *(f"  {line}" for line in choices_told(plan)), *executable.remarks]
    for step, note in zip(program.steps, executable.notes, strict=True):
        outs = ", ".join(f"%{v.number}" for v in step.outs)
        lines.append(f"  {outs}: {note}")
        lines += [f"    of {considered[v.number]}" for v in step.outs if v.number in considered]
    return "\n".join(lines)


def stored(result: Any, out: Any, casting: Any = "same_kind") -> Any:
    """Return `out` after writing `result` to it, which may share its memory.

    Raises:
        OperandError: `result` is several, or of another shape.
        TypeError: NumPy's rule `casting` forbids to store it in the dtype of `out`.
    """
    if isinstance(result, tuple):
        raise OperandError("out= takes one result; this expression has several")
    shape = tuple(getattr(result, "shape", ()))
    if tuple(out.shape) != shape:
        raise OperandError(f"out has shape {tuple(out.shape)}, the result {shape}")
    if isinstance(out, np.ndarray):
        np.copyto(out, result, casting=casting)
    else:
        overlaps = is_torch(result) and (traced() or shares_storage(result, out))
        out[...] = result.clone() if overlaps else result
    return out


def admitted(
    operands: Sequence[Any], program: Program, as_array: Callable[[Any, int, Any], Any]
) -> list[Any]:
    """Return `operands` as the arrays that `program` was compiled for.

    Lists and numbers become arrays of the dtype compiled for, if that is of their kind or a wider one; arrays
    have to be of that dtype already.

    Raises:
        OperandError: number, shape or dtype is another one.
    """
    if len(operands) != len(program.inputs):
        wanted = len(program.inputs)
        raise OperandError(
            f"this executable takes {wanted} operand{'s' * (wanted != 1)}, not {len(operands)}"
        )
    like = next((x for x in operands if hasattr(x, "dtype")), None)
    arrays = []
    extents: dict[int, tuple[int, int]] = {}
    fixed = {m for constant in program.constants for m in constant.value.modes}
    dynamic = set(program.dynamic) - fixed
    for value, x in zip(program.inputs, operands, strict=True):
        array = as_array(x, value.number, like)
        expected = typed(value.dtype, value.modes, program)
        given = dtype_name(array)
        if given != value.dtype:
            if hasattr(x, "dtype") or not widens(given, value.dtype):
                raise OperandError(f"operand {value.number} is {given}, but was compiled as {expected}")
            array = with_dtype(array, value.dtype)
        shape = tuple(array.shape)
        fits = len(shape) == len(value.modes)
        for axis, m in enumerate(value.modes) if fits else ():
            if m in dynamic:
                first = extents.setdefault(m, (shape[axis], value.number))
                if first[0] != shape[axis]:
                    raise OperandError(
                        f"dynamic mode '{program.label(m)}' is {first[0]} in operand {first[1]} "
                        f"but {shape[axis]} in operand {value.number}"
                    )
            else:
                fits = fits and shape[axis] == program.extents[m]
        if not fits:
            raise OperandError(f"operand {value.number} has shape {shape}, but was compiled as {expected}")
        arrays.append(array)
    return arrays
