"""The calls: contract, einsum, einsum_path, compile, plan. Each is a few lines over the stages."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from contractc.backends import backend_named
from contractc.building import build, conj_and_constant, network_of, plan_of
from contractc.dtypes import result_dtype, to_numpy
from contractc.errors import EinsumError, OperandError, UnsupportedError, pointed
from contractc.executable import MISS, Executable, stored
from contractc.machine import Target
from contractc.network import ellipsis_left_out
from contractc.notation import Einsum, labelled, numpy_refuses, parse, parse_interleaved, written
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
    traced,
)
from contractc.options import Options, conjugated, frozen
from contractc.plans import Plan
from contractc.semirings import semiring_named

MOST_CACHED = 512
"""Executables kept by the cache of `contract` and `einsum`; the least recently used goes first."""

_NOTHING = object()
"""Stands for the argument that `einsum()` lacks."""

_latest: dict[str, tuple[int, Callable[..., Any]]] = {}
_latest_einsum: dict[str, tuple[int, Callable[..., Any]]] = {}
_executables: OrderedDict[object, Executable] = OrderedDict()
_lock = threading.Lock()


def contract(
    expression: Any,
    *operands: Any,
    optimize: Any = None,
    memory_limit: int | str | None = None,
    out: Any = None,
    dtype: Any = None,
    order: str = "K",
    casting: str = "safe",
    semiring: str = "sum_product",
    conj: int | Iterable[int] = (),
    preferred_element_type: Any = None,
    strip_exponent: bool = False,
    backend: str | None = None,
) -> Any:
    """Return the contraction of `operands` that `expression` denotes.

    The expression is planned and compiled at the first call with these shapes and dtypes; later calls find
    the code in a cache. Beyond np.einsum an output may repeat a mode (`"i->ii"`), an ellipsis left out of the
    output is summed, and several outputs (`"ij,jk->ik,i"`) give a tuple.

    Args:
        expression: text such as `"ij,jkl->ikl"`, an Einsum (it keeps its semiring unless one is given), or the
            first operand of the interleaved form (`x, [0, 1], y, [1, 2], [0, 2]` with any hashable labels).
        operands: NumPy arrays, torch tensors, or arrays with an array-API namespace, all of one library; lists
            and numbers become arrays. An array held as factors (`contractc.formats`) is contracted without
            being materialised, unless that is predicted to be faster. One list of all operands is accepted as
            torch.einsum does.
        optimize: how the order is found; see `contractc.search.search`.
        memory_limit: bytes of all tensors alive at once, operands included; "max_input" for the operands and
            once more the largest; None or -1 for none. Kept by looping over slices.
        out: array for the result, which is returned; it may overlap the operands.
        dtype: dtype to compute in, checked by `casting` as np.einsum does.
        order: memory order of the result, "C", "F", "A" or "K" (free).
        casting: what conversions `dtype` and `out` may imply, as in np.can_cast.
        semiring: "sum_product", "max_plus", "min_plus", "max_times" (values not negative), "or_and" or
            "log_sum_exp".
        conj: numbers of the operands whose conjugate is meant.
        preferred_element_type: dtype of the result.
        strip_exponent: return (mantissa, exponent), value = mantissa * 2**exponent with a Python int, however
            large or small the value is.
        backend: the library that must run this; None or "auto" for that of the operands.

    Returns:
        An array of the operands' library. Without axes it is a NumPy scalar, or a 0-d tensor.

    Raises:
        EinsumError, OperandError: what is wrong, with a caret under it.
        ResourceLimitError: the memory limit, or the machine's memory, does not suffice; nothing was allocated.
        UnsupportedError: the backend or the semiring cannot do it.

    >>> import numpy as np
    >>> contract("ij,jk->ik", np.eye(2), [[1.0, 2.0], [3.0, 4.0]])
    array([[1., 2.],
           [3., 4.]])
    """
    tracing = traced()
    if (
        type(expression) is str
        and not tracing
        and optimize is None
        and memory_limit is None
        and out is None
        and dtype is None
        and order == "K"
        and casting == "safe"
        and semiring == "sum_product"
        and type(conj) is tuple
        and not conj
        and preferred_element_type is None
        and not strip_exponent
        and backend is None
    ):
        entry = _latest.get(expression)
        if entry is not None and entry[0] == len(operands):
            result = entry[1](*operands)
            if result is not MISS:
                return result
    given = (
        optimize,
        memory_limit,
        dtype,
        order,
        casting,
        semiring,
        conj,
        preferred_element_type,
        strip_exponent,
        backend,
    )
    if tracing:
        return _traced_call("contract", out, casting, expression, operands, *given)
    return _contract(out, expression, operands, *given)


def einsum(
    subscripts: Any = _NOTHING,
    *operands: Any,
    out: Any = None,
    optimize: Any = None,
    dtype: Any = None,
    order: str = "K",
    casting: str = "safe",
) -> Any:
    """Return what np.einsum returns for these arguments, computed by contractc.

    Expressions that np.einsum refuses by default are refused: a repeated output mode, several outputs, an
    ellipsis left out of the output. `contract` accepts them.

    Args:
        subscripts, operands, out, dtype, order, casting: as in np.einsum.
        optimize: as in `contract`; the value does not depend on it. As in NumPy, a path has to be complete
            (RuntimeError), `casting` of `out` is checked only without it, and with False the labels of the
            interleaved form are 0 to 51.
    """
    tracing = traced()
    if (
        type(subscripts) is str
        and not tracing
        and out is None
        and optimize is None
        and dtype is None
        and order == "K"
        and casting == "safe"
    ):
        entry = _latest_einsum.get(subscripts)
        if entry is not None and entry[0] == len(operands):
            result = entry[1](*operands)
            if result is not MISS:
                return result
    if tracing:
        return _traced_call("einsum", out, casting, subscripts, operands, optimize, dtype, order, casting)
    return _einsum(out, subscripts, operands, optimize, dtype, order, casting)


def einsum_path(subscripts: Any, *operands: Any, optimize: Any = "greedy") -> tuple[list[Any], str]:
    """Return the order of contraction as np.einsum_path does, and the plan as text.

    The first item is `["einsum_path", (0, 1), ...]`, which `optimize=` accepts here and in NumPy.
    """
    found = plan(subscripts, *operands, optimize=optimize)
    return ["einsum_path", *found.linear_path()], str(found)


def compile(
    expression: Any,
    *operands: Any,
    dtype: Any = "float64",
    constants: Iterable[int] = (),
    dynamic: Iterable[str] = (),
    target: str | Target | None = None,
    optimize: Any = None,
    memory_limit: int | str | None = None,
    semiring: str = "sum_product",
    conj: int | Iterable[int] = (),
    preferred_element_type: Any = None,
    strip_exponent: bool = False,
) -> Executable:
    """Return `expression` planned and compiled ahead of time.

    Args:
        expression: as in `contract`.
        operands: for each operand an array, or its shape (a tuple of ints) with `dtype`.
        dtype: of the operands given by their shape.
        constants: numbers of the operands (given as arrays) that are the same at every call. They are copied,
            steps that need nothing else run now, and the executable is called without them.
        dynamic: labels of the modes whose extent varies from call to call; the one given here is for planning.
        target: "numpy", "torch" or a Target; None for the library of the arrays given, else NumPy.
        optimize, memory_limit, semiring, conj, preferred_element_type, strip_exponent: as in `contract`.

    >>> chain = compile("ij,jk,kl->il", (3, 4), (4, 5), (5, 6))
    >>> print(chain.program)
    program (%0: f64[i=3, j=4], %1: f64[j=4, k=5], %2: f64[k=5, l=6])
      %3: f64[i=3, k=5] = contract %0 %1 over j  # gemm
      %4: f64[i=3, l=6] = contract %2 %3 over k  # gemm
      return %4
    """
    einsum_, given, chosen = _read_ahead(expression, operands, semiring, target)
    fixed = sorted(set(constants))
    options = Options(
        frozen(optimize),
        memory_limit,
        semiring,
        conjugated(conj, len(given)),
        strip_exponent,
        None,
        _dtype_name(preferred_element_type),
    )
    described = conj_and_constant(_described(given, _dtype_name(dtype) or "float64"), options.conj, fixed)
    for k in fixed:
        if is_shape(given[k]):
            raise OperandError(f"operand {k} is a constant, so its values are needed, not its shape")
    network = network_of(einsum_, described, chosen, options, dynamic)
    return build(plan_of(network, options), chosen, options, flattened([given[k] for k in fixed]))


def plan(
    expression: Any,
    *operands: Any,
    dtype: Any = "float64",
    dynamic: Iterable[str] = (),
    optimize: Any = None,
    memory_limit: int | str | None = None,
    semiring: str = "sum_product",
    conj: int | Iterable[int] = (),
) -> Plan:
    """Return the order in which `expression` would be contracted, with its predicted costs; runs nothing.

    Args:
        operands: for each operand an array, or its shape (a tuple of ints) with `dtype`.
        dtype, dynamic, optimize, memory_limit, semiring, conj: as in `compile`.

    >>> print(plan("ij,jk->ik", (3, 4), (4, 5)))
    plan by optimal: 1 step, sum_product, float64
      step        einsum     result         flops
      %2 = %0 %1  ij,jk->ik  f64[i=3, k=5]  120
    120 flops, 376 bytes traffic, 376 bytes peak, 1.03 us predicted
    """
    einsum_, given, chosen = _read_ahead(expression, operands, semiring, None)
    options = Options(frozen(optimize), memory_limit, semiring, conjugated(conj, len(given)))
    described = conj_and_constant(_described(given, _dtype_name(dtype) or "float64"), options.conj, ())
    return plan_of(network_of(einsum_, described, chosen, options, dynamic), options)


_DEFAULT = Options()


def _contract(
    out: Any,
    expression: Any,
    operands: Sequence[Any],
    optimize: Any,
    memory_limit: int | str | None,
    dtype: Any,
    order: str,
    casting: str,
    semiring: str,
    conj: int | Iterable[int],
    preferred_element_type: Any,
    strip_exponent: bool,
    backend: str | None,
) -> Any:
    """Return what `contract` does, for operands that the code met last does not fit."""
    einsum_, arrays, target = _read(expression, operands, semiring, backend)
    options = Options(
        frozen(optimize),
        memory_limit,
        semiring,
        conjugated(conj, len(arrays)),
        strip_exponent,
        _dtype_name(dtype),
        _dtype_name(preferred_element_type),
    )
    order = _order_named(order)
    options = _cast_checked(arrays, options, einsum_.semiring, target, out, casting)
    executable = _cached(einsum_, arrays, target, options)
    factors = flattened(arrays)
    if type(expression) is str and options == _DEFAULT and len(factors) == len(arrays) and not traced():
        _remember(_latest, expression, arrays, executable)
    return _delivered(executable(*factors), factors, out, order, casting)


def _einsum(
    out: Any, subscripts: Any, operands: Sequence[Any], optimize: Any, dtype: Any, order: str, casting: str
) -> Any:
    """Return what `einsum` does, for operands that the code met last does not fit."""
    expression, arrays, target = _read(subscripts, operands, "sum_product", None)
    reason = numpy_refuses(expression, in_range=optimize is False)
    if reason is not None:
        raise EinsumError(reason)
    order = _order_named(order)
    options = Options(_complete(frozen(optimize), len(arrays)), dtype=_dtype_name(dtype))
    if optimize and out is not None:
        casting = "unsafe"  # NumPy's optimized path does not check either
    options = _cast_checked(arrays, options, "sum_product", target, out, casting)
    executable = _cached(expression, arrays, target, options)
    if ellipsis_left_out(expression, [describe(x) for x in arrays]):
        message = "the output has no ellipsis for the axes that one covers; contract sums them"
        raise EinsumError(pointed(message, written(expression).text, ()))
    if type(subscripts) is str and options == _DEFAULT and not traced():
        _remember(_latest_einsum, subscripts, arrays, executable)
    return _delivered(executable(*arrays), arrays, out, order, casting)


def _traced_call(name: str, out: Any, casting: str, *given: Any) -> Any:
    """Return the call of `contract` or `einsum` while torch traces it: as one node of its graph, if that can be.

    Operands held as factors cannot stand there, and without a tensor the call is none of torch's business.
    """
    from contractc.backends.torch import keep_whole, untraced

    arguments = [x for y in (given[0], *given[1]) for x in (y if isinstance(y, list | tuple) else (y,))]
    if not any(is_torch(x) for x in arguments) or any(hasattr(x, "factors") for x in arguments):
        return untraced(_CALLS[name], out, *given)
    keep_whole(__name__, "_in_graph")
    result = _in_graph(name, *given)
    return result if out is None else stored(result, out, casting)


def _in_graph(name: str, *given: Any) -> Any:
    """Return what `contract` or `einsum` returns: the node that stands in a graph of torch.compile."""
    return _CALLS[name](None, *given)


_CALLS = {"contract": _contract, "einsum": _einsum}


@lru_cache(maxsize=1024)
def _parsed(text: str, semiring: str) -> Einsum:
    return parse(text, semiring)


def _split(expression: Any, operands: Sequence[Any], semiring: str) -> tuple[Einsum, list[Any]]:
    """Return the expression and the operands of a call in any of its forms."""
    if isinstance(expression, Einsum):
        if semiring != "sum_product":
            expression = replace(expression, semiring=semiring_named(semiring).name)
        return labelled(expression), list(operands)
    if isinstance(expression, str):
        found = _parsed(expression, semiring) if len(expression) < 4096 else parse(expression, semiring)
        if len(operands) == 1 and isinstance(operands[0], list | tuple):
            packed = operands[0]
            if len(found.inputs) != 1 or (len(packed) == 1 and is_torch(packed[0])):
                return found, list(packed)
        return found, list(operands)
    items = (expression, *operands)
    if len(items) < 2 or expression is _NOTHING:
        raise EinsumError("no expression was given: einsum takes a text first, or operands with their labels")
    pairs = len(items) // 2
    output = items[-1] if len(items) % 2 else None
    return parse_interleaved(items[1 : 2 * pairs : 2], output, semiring), list(items[: 2 * pairs : 2])


def _read(
    expression: Any, operands: Sequence[Any], semiring: str, backend: str | None
) -> tuple[Einsum, list[Any], Target]:
    """Return the expression, the operands as arrays of one library, and where they run."""
    found, given = _split(expression, operands, semiring)
    library = library_of(given)
    if backend not in (None, "auto", library):
        raise UnsupportedError(f"the operands belong to {library}; backend={backend!r} cannot run them")
    module = backend_named(library)
    like = next((x for x in flattened(given) if hasattr(x, "dtype")), None)
    arrays = [x if is_factorized(x) else module.as_array(x, k, like) for k, x in enumerate(given)]
    return found, arrays, Target(library, device_of(like))


def _read_ahead(
    expression: Any, operands: Sequence[Any], semiring: str, target: str | Target | None
) -> tuple[Einsum, list[Any], Target]:
    """Return the same for operands some of which are shapes."""
    found, given = _split(expression, operands, semiring)
    library = library_of([x for x in given if not is_shape(x)])
    if isinstance(target, Target):
        chosen = target
    else:
        like = next((x for x in flattened(given) if hasattr(x, "dtype")), None)
        name, _, device = (target or library).partition(":")
        chosen = Target(name, device or device_of(like))
    module = backend_named(chosen.backend)
    like = next((x for x in flattened(given) if hasattr(x, "dtype")), None)
    items = [
        shape_of(x, k) if is_shape(x) else x if is_factorized(x) else module.as_array(x, k, like)
        for k, x in enumerate(given)
    ]
    return found, items, chosen


def _described(given: Sequence[Any], dtype: str) -> list[Operand]:
    return [Operand(x, dtype) if is_shape(x) else describe(x) for x in given]


def _dtype_name(dtype: Any) -> str | None:
    """Return the name of a dtype given as name, NumPy dtype or type, or torch dtype."""
    if dtype is None:
        return None
    text = str(dtype)
    if text.startswith("torch."):
        return text[len("torch.") :]
    return text if text == "bfloat16" else np.dtype(dtype).name


def _cast_checked(
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


def _complete(optimize: Any, count: int) -> Any:
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


def _order_named(order: Any) -> str:
    """Return a memory order in the capital letter that NumPy gives it."""
    if not isinstance(order, str) or order.upper() not in ("K", "C", "F", "A"):
        raise ValueError(f"order must be 'C', 'F', 'A' or 'K', not {order!r:.20}")
    return order.upper()


def _cached(expression: Einsum, arrays: Sequence[Any], target: Target, options: Options) -> Executable:
    """Return the executable for arrays like these, from the cache if it has been built before."""
    operands = conj_and_constant([describe(x) for x in arrays], options.conj, ())
    key = (expression, tuple(operands), target, options)
    try:
        with _lock:
            found = _executables.get(key)
            if found is not None:
                _executables.move_to_end(key)
                return found
    except TypeError:  # an unhashable path optimizer: nothing to look up, nothing to keep
        key = None  # type: ignore[assignment]
    network = network_of(expression, operands, target, options)
    executable = build(plan_of(network, options), target, options)
    if key is not None:
        with _lock:
            _executables[key] = executable
            while len(_executables) > MOST_CACHED:
                _executables.popitem(last=False)
                _latest.clear()
                _latest_einsum.clear()
    return executable


def _remember(
    latest: dict[str, tuple[int, Callable[..., Any]]], text: str, arrays: Sequence[Any], executable: Executable
) -> None:
    """Put the code for `text` where the next call looks first; one expression has many texts, so it is bounded."""
    if len(latest) >= MOST_CACHED:
        latest.clear()
    latest[text] = len(arrays), executable.run


def _delivered(result: Any, arrays: Sequence[Any], out: Any, order: str, casting: str) -> Any:
    """Return `result` in the memory order asked for, or written into `out`."""
    if out is not None:
        return stored(result, out, casting)
    if order != "K" and isinstance(result, tuple):
        return tuple(_delivered(x, arrays, None, order, casting) for x in result)
    if order == "K" or not isinstance(result, np.ndarray):
        return result
    if order == "A":
        order = "F" if all(x.flags.f_contiguous for x in arrays) else "C"
    return np.asarray(result, order=order)  # type: ignore[call-overload]
