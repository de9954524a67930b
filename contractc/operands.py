"""What an operand is, seen from outside: shape, dtype, which library it belongs to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal

import numpy as np

from contractc import serial
from contractc.dtypes import check_numeric, to_numpy
from contractc.errors import OperandError

Library = Literal["numpy", "torch", "array_api"]


_UNSEEN = 64
"""The extent that is planned for where torch traces one of which it knows no example."""


CHOICES = "", "factored", "materialised"
"""What a user can ask of a factorized operand: nothing (the planner chooses), never dense, always dense."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a dense array is held as factors: as the einsum of them, its axes fused from modes.

    `terms[f]` are the modes of factor f, `axes[k]` the modes that axis k of the dense array is made of (slowest
    first, each mode in one axis only), `extents[m]` the extent of mode m. Modes in no axis are summed. `choice`
    is one of `CHOICES`: whether the planner may choose how to contract it.
    """

    format: str
    terms: tuple[tuple[int, ...], ...]
    axes: tuple[tuple[int, ...], ...]
    extents: tuple[int, ...]
    choice: str = ""

    def faults(self) -> list[str]:
        """Return each rule this layout breaks, as a sentence; nothing means it is well formed."""
        known = range(len(self.extents))
        used = [m for term in (*self.terms, *self.axes) for m in term]
        found = [f"mode {m} has no extent" for m in dict.fromkeys(used) if m not in known]
        found += [f"mode {m} has extent {n}" for m, n in enumerate(self.extents) if n < 0]
        found += ["an axis has no modes"] * any(not axis for axis in self.axes)
        for axis in () if found else self.axes:
            if len(axis) > 1 and 0 in (self.extents[m] for m in axis):
                found.append("a mode that is part of an axis has extent 0")
        modes = [m for axis in self.axes for m in axis]
        present = {m for term in self.terms for m in term}
        if len(modes) != len(set(modes)):
            found.append("a mode is in two axes")
        found += [f"mode {m} of an axis is in no factor" for m in modes if m not in present]
        found += ["a layout has at least one factor"] * (not self.terms)
        if self.choice not in CHOICES:
            found.append(f"{self.choice!r:.20} is no choice; there are {', '.join(map(repr, CHOICES))}")
        return found

    def to_json(self) -> str:
        """Return this layout as canonical JSON."""
        return serial.dumps(self)

    @staticmethod
    def from_json(text: str) -> Layout:
        """Return the layout in `text`; raises ValueError if it is none or breaks a rule."""
        layout: Layout = serial.checked(serial.loads(text, (Layout,)))
        return layout

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the dense array."""
        return tuple(prod(self.extents[m] for m in axis) for axis in self.axes)


@dataclass(frozen=True, slots=True)
class Operand:
    """What the user gives for one term: its shape, dtype and use; never its values.

    `constant` operands are given once, when the expression is compiled; `conj` ones are conjugated. An operand
    held as factors has a `layout`. The axes in `varying` have an extent that torch traces as a symbol; `shape`
    has the one it saw. Of `trained` operands the gradient will be asked for.
    """

    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    conj: bool = False
    layout: Layout | None = None
    varying: tuple[int, ...] = ()
    trained: bool = False


def is_torch(x: object) -> bool:
    """Return whether `x` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def recorded(x: Any) -> bool:
    """Return whether torch records what happens to `x` (or to a factor of it), to differentiate it later."""
    if is_factorized(x):
        return any(map(recorded, x.factors))
    return is_torch(x) and x.requires_grad and sys.modules["torch"].is_grad_enabled()


LEAST_ORDERED = 2**14
"""Elements of an array from which it matters in which order its axes lie in memory."""


def stored_orders(arrays: Sequence[object]) -> dict[int, tuple[int, ...]]:
    """Return for each large NumPy array that is another order of axes of one in C order, by its number, that order.

    Axes are listed from the slowest to the fastest. An array with gaps or with equal strides is not one of them.
    """
    found = {}
    for k, x in enumerate(arrays):
        if type(x) is not np.ndarray or x.size < LEAST_ORDERED or x.flags.c_contiguous:
            continue
        order = tuple(sorted(range(x.ndim), key=lambda axis: -x.strides[axis]))
        if x.transpose(order).flags.c_contiguous:
            found[k] = order
    return found


def library_of(operands: Sequence[object], called: Callable[[int], str] = "operand {}".format) -> Library:
    """Return the array library that all `operands` belong to; lists and Python numbers go with any.

    Args:
        called: what an error calls an operand with this number.

    Raises:
        OperandError: arrays of different libraries are mixed.
    """
    first: dict[Library, int] = {}
    for k, x in enumerate(operands):
        if is_factorized(x):
            x = x.factors[0]  # type: ignore[attr-defined]
        if is_torch(x):
            first.setdefault("torch", k)
        elif isinstance(x, np.ndarray | np.generic):
            first.setdefault("numpy", k)
        elif hasattr(x, "__array_namespace__"):
            first.setdefault("array_api", k)
        elif not isinstance(x, bool | int | float | complex | list | tuple):
            first.setdefault("numpy", k)
    if len(first) > 1:
        (one, i), (other, k) = sorted(first.items(), key=lambda item: item[1])[:2]
        kinds = type(operands[i]).__name__, type(operands[k]).__name__
        raise OperandError(
            f"{called(i)} is a {kinds[0]} of {one} but {called(k)} a {kinds[1]} of {other}; convert one of them"
        )
    return next(iter(first), "numpy")


def as_numpy(x: Any, number: int) -> np.ndarray:
    """Return operand `number` as a NumPy array in native byte order (a copy only if that needs one).

    Its dtype is the one object that NumPy has for that name, which generated code compares by identity: an
    unpickled array, one with metadata, or one of `longlong` has an equal dtype that is another object.

    Raises:
        TypeError: its dtype is no number, bool or object.
    """
    array = np.asarray(x)
    check_numeric(array.dtype, f"operand {number}")
    dtype = to_numpy(_name_of(array.dtype))
    if array.dtype is dtype:
        return array
    return array.view(dtype) if array.dtype.isnative else array.astype(dtype)


def describe(x: Any, *, constant: bool = False, conj: bool = False) -> Operand:
    """Return what the array `x` (of any library) looks like from outside."""
    layout = x.layout if is_factorized(x) else None
    symbol = getattr(sys.modules.get("torch"), "SymInt", ())
    varying = tuple(axis for axis, n in enumerate(x.shape) if isinstance(n, symbol))
    if not varying:
        return Operand(tuple(map(int, x.shape)), dtype_name(x), constant, conj, layout)
    shapes = sys.modules["torch.fx.experimental.symbolic_shapes"]
    seen = getattr(shapes, "optimization_hint", None) or shapes.size_hint  # the name before torch 2.13
    shape = tuple(seen(n, _UNSEEN) if axis in varying else int(n) for axis, n in enumerate(x.shape))
    varying = tuple(axis for axis in varying if shape[axis] > 1)
    return Operand(shape, dtype_name(x), constant, conj, varying=varying)


def is_factorized(x: object) -> bool:
    """Return whether `x` is an array held as factors: it has a Layout and the factors that go with it."""
    return isinstance(getattr(x, "layout", None), Layout) and hasattr(x, "factors")


def flattened(operands: Sequence[Any]) -> list[Any]:
    """Return `operands` with each factorized one replaced by its factors, in order."""
    return [y for x in operands for y in (x.factors if is_factorized(x) else (x,))]


@lru_cache(maxsize=256)
def _name_of(dtype: np.dtype) -> str:
    """Return the name of a NumPy dtype, which NumPy takes microseconds to put together."""
    return dtype.name


def dtype_name(x: Any) -> str:
    """Return the name of the dtype of an array of any library."""
    if is_factorized(x):
        return dtype_name(x.factors[0])
    if isinstance(x, np.ndarray | np.generic):
        return _name_of(x.dtype)
    return str(x.dtype).rpartition(".")[2]


def with_dtype(x: Any, dtype: str) -> Any:
    """Return the array `x` (of any library) converted to the dtype of that name."""
    if is_torch(x):
        return x.to(getattr(sys.modules["torch"], dtype))
    if isinstance(x, np.ndarray):
        return x.astype(to_numpy(dtype))
    library = x.__array_namespace__()
    return library.astype(x, getattr(library, dtype))


def shares_storage(x: Any, y: Any) -> bool:
    """Return whether two torch tensors have their elements in the same block of memory, or do not tell."""
    try:
        return bool(x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr())
    except RuntimeError:  # a wrapper of torch.func, or a tensor without memory, does not tell
        return True


def device_of(x: Any) -> str:
    """Return the kind of device the array `x` is on, such as `cpu` or `cuda`; `cpu` where it does not say."""
    device = getattr(x, "device", "cpu")
    return str(getattr(device, "type", None) or getattr(device, "platform", "cpu"))


def is_shape(x: object) -> bool:
    """Return whether `x` is a tuple of ints, which `compile` and `plan` read as a shape."""
    return isinstance(x, tuple) and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) for n in x
    )


def shape_of(x: Sequence[int], number: int) -> tuple[int, ...]:
    """Return `x` as a tuple of Python ints; raises OperandError for a negative extent of operand `number`."""
    shape = tuple(int(n) for n in x)
    for axis, extent in enumerate(shape):
        if extent < 0:
            raise OperandError(
                f"the shape of operand {number} is {extent} on axis {axis}; extents are 0 or more"
            )
    return shape
