"""What the arguments of a call mean: an expression, arrays of one library, and how to compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from contractc.backends import backend_named
from contractc.dtypes import result_dtype, to_numpy
from contractc.errors import EinsumError, OperandError, UnsupportedError
from contractc.machine import Target
from contractc.network import check_count
from contractc.notation import Einsum, labelled, parse, parse_interleaved
from contractc.operands import (
    Operand,
    describe,
    device_of,
    flattened,
    is_factorized,
    is_shape,
    is_torch,
    library_of,
    shape_of,
)
from contractc.options import Options
from contractc.recent import NOTHING
from contractc.semirings import semiring_named


@lru_cache(maxsize=1024)
def _parsed(text: str, semiring: str) -> Einsum:
    return parse(text, semiring)


def split_call(
    expression: Any, operands: Sequence[Any], semiring: str, *, shapes: bool = False
) -> tuple[Einsum, list[Any]]:
    """Return the expression and the operands of a call in any of its forms.

    One list of all operands may stand for them; with `shapes` a tuple of ints is the shape of one operand.
    """
    if isinstance(expression, Einsum):
        if semiring != "sum_product":
            expression = replace(expression, semiring=semiring_named(semiring).name)
        return labelled(expression), list(operands)
    if isinstance(expression, str):
        found = _parsed(expression, semiring) if len(expression) < 4096 else parse(expression, semiring)
        packed: Any = operands[0] if len(operands) == 1 else None
        listed = isinstance(packed, list | tuple) and not (shapes and is_shape(packed))
        if listed and (len(found.inputs) != 1 or (len(packed) == 1 and is_torch(packed[0]))):
            return found, list(packed)
        return found, list(operands)
    items = (expression, *operands)
    if len(items) < 2 or expression is NOTHING:
        raise EinsumError("no expression was given: einsum takes a text first, or operands with their labels")
    pairs = len(items) // 2
    output = items[-1] if len(items) % 2 else None
    return parse_interleaved(items[1 : 2 * pairs : 2], output, semiring), list(items[: 2 * pairs : 2])


def read(
    expression: Any, operands: Sequence[Any], semiring: str, backend: str | None
) -> tuple[Einsum, list[Any], Target]:
    """Return the expression, the operands as arrays of one library, and where they run."""
    found, given = split_call(expression, operands, semiring)
    check_count(len(given))
    library = library_of(given)
    if backend not in (None, "auto", library) and (backend, library) != ("triton", "torch"):
        raise UnsupportedError(f"the operands belong to {library}; backend={backend!r} cannot run them")
    module = backend_named(library)
    like = next((x for x in flattened(given) if hasattr(x, "dtype")), None)
    arrays = [_admitted(x, k, like, module.as_array) for k, x in enumerate(given)]
    if backend == "triton":
        return found, arrays, Target("triton", "cuda")
    return found, arrays, where(library, device_of(like), asked=backend == library)


def read_ahead(
    expression: Any, operands: Sequence[Any], semiring: str, target: str | Target | None
) -> tuple[Einsum, list[Any], Target]:
    """Return the same for operands some of which are shapes."""
    found, given = split_call(expression, operands, semiring, shapes=True)
    check_count(len(given))
    library = library_of([x for x in given if not is_shape(x)])
    if isinstance(target, Target):
        chosen = target
    else:
        like = next((x for x in flattened(given) if hasattr(x, "dtype")), None)
        name, _, device = (target or library).partition(":")
        if name in ("cuda", "triton"):
            chosen = Target(
                "triton", "cuda" + f":{device.removeprefix('cuda').removeprefix(':')}".rstrip(":")
            )
        else:
            chosen = where(name, device or device_of(like), asked=target is not None)
    module = backend_named(chosen.backend)
    as_given = getattr(module, "as_given", module.as_array)
    like = next((x for x in flattened(given) if hasattr(x, "dtype")), None)
    items = [shape_of(x, k) if is_shape(x) else _admitted(x, k, like, as_given) for k, x in enumerate(given)]
    return found, items, chosen


def _admitted(x: Any, number: int, like: Any, as_array: Callable[[Any, int, Any], Any]) -> Any:
    """Return operand `number` as the array that `as_array` makes of it, or held as factors if those are where it is."""
    if not is_factorized(x):
        return as_array(x, number, like)
    factor = x.factors[0]
    if is_torch(factor) and is_torch(like) and factor.device != like.device and like.ndim:
        raise OperandError(
            f"operand {number} is on {factor.device}, but others on {like.device}; move one of them"
        )
    return x


def where(library: str, device: str, *, asked: bool = False) -> Target:
    """Return where arrays of `library` on `device` run: tensors on CUDA as kernels, unless torch is asked for."""
    if library == "torch" and device == "cuda" and not asked and find_spec("triton") is not None:
        return Target("triton", "cuda")
    return Target(library, device)


def described(given: Sequence[Any], dtype: str) -> list[Operand]:
    """Return what operands look like from outside; those given as shapes have `dtype`."""
    return [Operand(x, dtype) if is_shape(x) else describe(x) for x in given]


def dtype_named(dtype: Any) -> str | None:
    """Return the name of a dtype given as name, NumPy dtype or type, or torch dtype."""
    if dtype is None:
        return None
    text = str(dtype)
    if text.startswith("torch."):
        return text[len("torch.") :]
    return text if text == "bfloat16" else np.dtype(dtype).name


def cast_checked(
    arrays: Sequence[Any], options: Options, semiring: str, target: Target, out: Any, casting: Any
) -> Options:
    """Return `options` with the dtype to compute in, after checking what np.einsum checks.

    The dtype of `out` takes part in the promotion, as in np.einsum, unless the result has a dtype of its own.

    Raises:
        TypeError: `casting` forbids converting an operand to `dtype`, or the result to that of `out`.
        ValueError: no rule is called `casting`.
    """
    nothing_to_cast = options.dtype is None and out is None and casting == "safe"
    if target.backend != "numpy" or nothing_to_cast or not arrays:
        return options
    if out is not None and not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, not {type(out).__name__}")
    own = options.element_type is not None or semiring != "sum_product"
    dtypes = [x.dtype for x in arrays] + ([] if out is None or own else [out.dtype])
    dtype = to_numpy(options.dtype) if options.dtype else np.result_type(*dtypes)
    for k, x in enumerate(arrays):
        if not np.can_cast(x.dtype, dtype, casting):
            raise TypeError(f"cannot cast operand {k} from {x.dtype} to {dtype} by the rule '{casting}'")
    made = to_numpy(options.element_type or result_dtype(semiring, dtype.name))
    if out is not None and not np.can_cast(made, out.dtype, casting):
        raise TypeError(f"cannot cast the result from {made} to {out.dtype} by the rule '{casting}'")
    return replace(options, dtype=dtype.name)


def complete(optimize: Any, count: int) -> Any:
    """Return `optimize`, checked as NumPy does if it is a path: it has to contract all operands into one.

    Raises:
        RuntimeError: operands are left over.
    """
    if isinstance(optimize, tuple):
        steps = [step for step in optimize if isinstance(step, tuple)]
        left = count - sum(len(step) - 1 for step in steps)
        if left > 1 and steps:
            raise RuntimeError(f"the path leaves {left} of {count} operands uncontracted")
    return optimize


def order_named(order: Any) -> str:
    """Return a memory order in the capital letter that NumPy gives it."""
    if not isinstance(order, str) or order.upper() not in ("K", "C", "F", "A"):
        raise ValueError(f"order must be 'C', 'F', 'A' or 'K', not {order!r:.20}")
    return order.upper()
