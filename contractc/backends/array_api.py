"""The array-API backend: programs on the arrays of any library with an `__array_namespace__`.

Only functions of the array API standard (2023.12) are called, each through the namespace of its argument, so
one program runs on CuPy, JAX or dask arrays; nothing is written in place and no value is looked at, so it can
be traced (`jax.jit`). What the standard has no word for is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from contractc.backends import Compiled
from contractc.backends.emit import Function, emit
from contractc.dtypes import is_complex, is_floating, wide
from contractc.dtypes import promote as promoted
from contractc.errors import OperandError, UnsupportedError
from contractc.notation import Term
from contractc.operands import Operand, dtype_name
from contractc.programs import Call, Contract, Fused, Loop, Program, Step, Value
from contractc.slices import Sums, place, positions

try:
    from array_api_compat import array_namespace as namespace
    from array_api_compat import device
except ImportError:
    raise UnsupportedError("arrays of this library need the package array-api-compat") from None

_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = ("bool", *_INTEGERS, "float32", "float64", "complex64", "complex128", "float16", "bfloat16")
"""The dtypes that programs may have here: those of the standard, and the two narrow floats that JAX adds."""


def as_array(x: Any, number: int, like: Any = None) -> Any:
    """Return operand `number` as an array of the library and on the device of `like`.

    A list or a number takes the dtype of `like` if that can hold it, as a Python number does in the standard.

    Raises:
        OperandError: it is an array of another library, or nothing tells which library is meant.
        TypeError: its dtype is no number or bool.
    """
    if _is_array(x):
        if like is None or (_is_array(like) and namespace(x) is namespace(like)):
            return x
    elif like is None and not hasattr(x, "shape"):
        raise OperandError(f"operand {number} is a {type(x).__name__}; one operand has to be an array")
    elif _is_array(like) and not hasattr(x, "shape"):
        return _converted(x, number, like)
    raise OperandError(f"operand {number} is a {type(x).__name__} of another array library; convert it")


def refuses(program: Program) -> str | None:
    """Return why `program` cannot run on array-API arrays, or None when it can."""
    if program.semiring != "sum_product":
        return f"{program.semiring} needs NumPy or torch; other arrays have sum_product"
    for value in program.values().values():
        if value.dtype not in DTYPES:
            return f"%{value.number} is {value.dtype}, which the array API standard does not have"
    if any(isinstance(step, Call) for step in _all_steps(program)):
        return "exponents are split off on NumPy or torch only"
    if any(isinstance(step, Contract) and step.path for step in _all_steps(program)):
        return "a fused step runs on NumPy or torch only"
    return None


def promote(operands: Sequence[Operand]) -> str:
    """Return the dtype to which the array API standard promotes arrays like `operands`.

    Raises:
        OperandError: the standard leaves it to the library (other kinds, or uint64 with a signed integer).
    """
    names = [o.dtype for o in operands]
    if len(set(names)) == 1:
        return names[0]
    kinds = [_kind(name) for name in names]
    result = promoted(names) if len(set(kinds)) == 1 else ""
    if _kind(result) == kinds[0]:
        return result
    listed = ", ".join(dict.fromkeys(names))
    raise OperandError(f"{listed} have no common dtype in the array API standard; convert some operands")


def compile(program: Program, constants: Sequence[Any] = ()) -> Compiled:
    """Return `program` as a Python function on arrays of any one library."""
    return emit(program, _ArrayAPI(), constants, "<contractc array_api program>")


def constant(x: Any, number: int) -> Any:
    """Return a copy of constant operand `number`."""
    return namespace(x).asarray(x, copy=True)


def to_bytes(x: Any) -> bytes:
    """Return what identifies a constant: dtype, shape and values."""
    try:
        host = np.asarray(x)
    except TypeError:  # a library that only copies from its device when told to
        host = np.from_dlpack(x, device="cpu")
    return f"{dtype_name(x)}{tuple(x.shape)}".encode() + np.ascontiguousarray(host).tobytes()


class _ArrayAPI:
    """How the array API standard spells the operations of a program."""

    fuse_batch = False
    wide = staticmethod(wide)

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.first = ""

    def use(self, function: Any) -> str:
        """Return the name of a function of this module after making it a global of the generated function."""
        name: str = function.__name__.lstrip("_")
        self.names[name] = function
        return name

    def opening(self, function: Function) -> Sequence[str]:
        return ()

    def dtype(self, name: str) -> str:
        """Return a dtype as it stands in the source: its name, which is one of few."""
        assert name in DTYPES, name
        return repr(name)

    def guard(self, name: str, value: Value, shape: str | None) -> str:
        condition = f"not {self.use(_fits)}({name}, {self.dtype(value.dtype)}, {shape})"
        if self.first:
            function = self.use(_same_library)
            return f"{condition} or not {function}({self.first}, {name})"
        self.first = name
        return condition

    def cast(self, x: str, dtype: str) -> str:
        return f"{self.use(_cast)}({x}, {self.dtype(dtype)})"

    def conj(self, x: str) -> str:
        return f"{self.use(_conj)}({x})"

    def permute(self, x: str, axes: Sequence[int]) -> str:
        return f"{self.use(_permute)}({x}, {tuple(axes)})"

    def reshape(self, x: str, shape: Sequence[str]) -> str:
        return f"{self.use(_reshape)}({x}, ({', '.join(shape)}{',' * (len(shape) == 1)}))"

    def broadcast(self, x: str, shape: Sequence[str]) -> str:
        return f"{self.use(_broadcast)}({x}, ({', '.join(shape)}{',' * (len(shape) == 1)}))"

    def in_order(self, x: str) -> str:
        return x

    def diagonal(self, x: str, rank: int, one: int, two: int, given: bool) -> str:
        return f"{self.use(_diagonal)}({x}, {one}, {two})"

    def total(self, x: str, axes: Sequence[int], dtype: str) -> str:
        if dtype == "bool":
            return f"{self.use(_any_along)}({x}, {tuple(axes)})"
        return f"{self.use(_total)}({x}, {tuple(axes)}, {self.dtype(dtype)})"

    def multiply(self, x: str, y: str, dtype: str) -> str:
        return f"{self.use(_both if dtype == 'bool' else _multiply)}({x}, {y})"

    def matmul(self, x: str, y: str, rank: int, dtype: str) -> str:
        return f"{self.use(_matmul_bool if dtype == 'bool' else _matmul)}({x}, {y})"

    def multiply_and_reduce(
        self, x: str, y: str, left: Term, right: Term, out: Term, dtype: str
    ) -> str | None:
        return None

    def spread(self, x: str, modes: Term, term: Term, program: Program, dtype: str) -> str:
        return f"{self.use(_spread)}({x}, {tuple(modes.index(m) for m in term)})"

    def whole_step(
        self, names: Sequence[str], terms: Sequence[Term], out: Value, program: Program, conj: Sequence[bool]
    ) -> str | None:
        return None

    def unwidened(self, how: str, terms: Sequence[Term], out: Term, names: Sequence[str]) -> str | None:
        return None

    def compiled(self, step: Contract | Fused, program: Program, names: Sequence[str]) -> tuple[str, str]:
        raise AssertionError("refuses() lets a step through that runs as compiled loops")

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
        raise AssertionError(f"refuses() lets {operation} through")

    def loop(
        self, body: str, names: Sequence[str], step: Loop, program: Program, terms: Sequence[Term]
    ) -> str:
        modes = {m: program.extents[m] for m in step.modes}
        outs = [v.modes for v in step.outs]
        return (
            f"{self.use(_sliced)}({body}, [{', '.join(names)}], {list(terms)}, {modes}, {outs}, {step.pairs})"
        )

    def scalar(self, x: str, dtype: str) -> str:
        return x

    def view(self, x: str) -> str:
        return f"{x}[...]"


def _broadcast(x: Any, shape: tuple[int, ...]) -> Any:
    xp = namespace(x)
    return xp.asarray(xp.broadcast_to(x, shape), copy=True)


def _all_steps(program: Program) -> list[Step]:
    inner = [s for step in program.steps if isinstance(step, Loop) for s in _all_steps(step.body)]
    return [*program.steps, *inner]


def _kind(name: str) -> str:
    """Return the kind of a dtype within which the standard promotes."""
    if name in ("bool", ""):
        return name
    if is_floating(name):
        return "floating"
    return "integer"


def _is_array(x: Any) -> bool:
    """Return whether `x` is an array of this backend: NumPy's arrays, which have a namespace too, are not."""
    return hasattr(x, "__array_namespace__") and not isinstance(x, np.ndarray | np.generic)


def _converted(x: Any, number: int, like: Any) -> Any:
    """Return a list or a number as an array like `like`, in its dtype if that can hold the kind of `x`."""
    given = np.asarray(x)
    if given.dtype.kind not in "biufc":
        raise TypeError(f"operand {number} has dtype {given.dtype}; einsum needs numbers or bool")
    xp, own = namespace(like), dtype_name(like)
    order = "b", "iu", "f", "c"
    rank = next(k for k, kinds in enumerate(order) if given.dtype.kind in kinds)
    holds = 3 if is_complex(own) else 2 if is_floating(own) else 0 if own == "bool" else 1
    if rank <= holds:
        return xp.asarray(x, dtype=like.dtype, device=device(like))
    if rank == 3 and holds == 2:
        return xp.asarray(x, dtype=xp.complex128 if own == "float64" else xp.complex64, device=device(like))
    return xp.asarray(x, device=device(like))


# What generated functions call. Each looks its namespace up anew: a program is not bound to one library.


def _fits(x: Any, dtype: str, shape: tuple[int, ...] | None) -> bool:
    """Return whether `x` is an array of this backend with that dtype and shape (None: any shape)."""
    return _is_array(x) and dtype_name(x) == dtype and (shape is None or x.shape == shape)


def _same_library(x: Any, y: Any) -> bool:
    return namespace(x) is namespace(y)


def _cast(x: Any, dtype: str) -> Any:
    xp = namespace(x)
    return xp.astype(x, getattr(xp, dtype), copy=False)


def _conj(x: Any) -> Any:
    return namespace(x).conj(x)


def _permute(x: Any, axes: tuple[int, ...]) -> Any:
    return namespace(x).permute_dims(x, axes)


def _reshape(x: Any, shape: tuple[int, ...]) -> Any:
    return namespace(x).reshape(x, shape)


def _total(x: Any, axes: tuple[int, ...], dtype: str) -> Any:
    xp = namespace(x)
    return xp.sum(x, axis=axes, dtype=getattr(xp, dtype))


def _any_along(x: Any, axes: tuple[int, ...]) -> Any:
    return namespace(x).any(x, axis=axes)


def _multiply(x: Any, y: Any) -> Any:
    return namespace(x).multiply(x, y)


def _both(x: Any, y: Any) -> Any:
    return namespace(x).logical_and(x, y)


def _matmul(x: Any, y: Any) -> Any:
    return namespace(x).matmul(x, y)


def _matmul_bool(x: Any, y: Any) -> Any:
    """Return the or-and product, which the standard's matmul lacks: floats count, and never wrap to 0."""
    xp = namespace(x)
    counts = xp.matmul(xp.astype(x, xp.float32), xp.astype(y, xp.float32))
    return xp.astype(counts, xp.bool)


def _diagonal(x: Any, one: int, two: int) -> Any:
    """Return the diagonal of two axes as a new last axis.

    The standard's own diagonal is in an optional extension, and takes the last two axes only.
    """
    xp = namespace(x)
    rest = [axis for axis in range(len(x.shape)) if axis not in (one, two)]
    extent = x.shape[one]
    square = xp.permute_dims(x, (*rest, one, two))
    return xp.reshape(square, (*square.shape[:-2], extent * extent))[..., :: extent + 1]


def _spread(x: Any, axes: tuple[int, ...]) -> Any:
    """Return an array whose axis k runs along axis `axes[k]` of `x`: zero where axes that repeat differ."""
    xp = namespace(x)
    own = tuple(dict.fromkeys(axes))
    shape = tuple(x.shape[a] for a in axes)
    x = xp.permute_dims(x, own)[tuple(None if a in axes[:k] else slice(None) for k, a in enumerate(axes))]
    zero = xp.zeros((), dtype=x.dtype, device=device(x))
    for k, a in enumerate(axes):
        if a in axes[:k]:
            first = axes.index(a)
            equal = xp.eye(shape[k], dtype=xp.bool, device=device(x))
            along = tuple(n if axis in (first, k) else 1 for axis, n in enumerate(shape))
            x = xp.where(xp.reshape(equal, along), x, zero)
    return x


def _sliced(
    body: Any,
    arrays: Sequence[Any],
    terms: Sequence[Term],
    modes: dict[int, int],
    outs: Sequence[Term],
    pairs: bool,
) -> Any:
    """Return the results of `body` over all slices along `modes`, stacked or added up."""
    xp = namespace(arrays[0])
    found: list[dict[tuple[int, ...], Any]] = [{} for _ in outs]

    def add(x: Any, y: Any) -> Any:
        return xp.logical_or(x, y) if dtype_name(x) == "bool" else xp.add(x, y)

    def done(k: int, at: dict[int, int], total: Any) -> None:
        found[k][tuple(at.values())] = total

    sums = Sums(modes, outs, add, done, pairs)
    for at in positions(modes):
        parts = body(*(x[place(at, t)] for x, t in zip(arrays, terms, strict=True)))
        for k, part in enumerate(parts if len(outs) > 1 else (parts,)):
            sums.put(k, at, part)
    results = [_stacked(xp, found[k], modes, out) for k, out in enumerate(outs)]
    return results[0] if len(outs) == 1 else tuple(results)


def _stacked(xp: Any, parts: dict[tuple[int, ...], Any], modes: dict[int, int], out: Term) -> Any:
    """Return the parts, whose keys are the positions along those `modes` that `out` has, as one array."""
    kept = [m for m in modes if m in out]
    for mode in reversed(kept):
        rows: dict[tuple[int, ...], list[Any]] = {}
        for position, part in parts.items():
            rows.setdefault(position[:-1], []).append(part)
        later = kept[kept.index(mode) :]
        axis = len([m for m in out[: out.index(mode)] if m not in kept or m in later])
        parts = {position: xp.stack(row, axis=axis) for position, row in rows.items()}
    return parts[()]
