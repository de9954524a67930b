"""Calls of `contract` and `einsum` whose code is not at hand: read, plan, compile, keep, run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from contractc.building import conj_and_constant, network_of, planned, trained
from contractc.errors import EinsumError, pointed
from contractc.executable import Executable, stored
from contractc.grouping import kind
from contractc.machine import Target
from contractc.network import ellipsis_left_out
from contractc.notation import Einsum, numpy_refuses, written
from contractc.operands import describe, flattened, is_factorized, is_torch, recorded, stored_orders
from contractc.options import Options, conjugated, frozen
from contractc.programs import Contract
from contractc.providers.copies import packed
from contractc.reading import cast_checked, complete, dtype_named, order_named, read
from contractc.recent import MISS, Codes, latest, latest_einsum, traced

MOST_CACHED = 512
"""Executables kept by the cache of `contract` and `einsum`; the least recently used goes first."""

MOST_CODES = 8
"""Older codes kept for one text: a call tries them one after the other."""

_latest_asked: dict[Hashable, Codes] = {}
"""What `latest` is, calls with options or factorized operands, by everything that they are asked for."""
_executables: OrderedDict[object, Executable] = OrderedDict()
_lock = threading.Lock()


_DEFAULT = Options()


def contract_anew(
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
    precision: str = "default",
) -> Any:
    """Return what `contract` does, for operands that the code met last does not fit."""
    asked = (optimize, memory_limit, dtype, casting, semiring, conj, preferred_element_type, strip_exponent)
    key = _key(out, expression, operands, (*asked, backend, order, precision))
    result, factors = _recalled(key, operands)
    if result is not MISS:
        return _delivered(result, factors, out, order_named(order), casting)
    einsum_, arrays, target = read(expression, operands, semiring, backend)
    order = order_named(order)
    options = Options(
        frozen(optimize),
        memory_limit,
        semiring,
        conjugated(conj, len(arrays)),
        strip_exponent,
        dtype_named(dtype),
        dtype_named(preferred_element_type),
        ordered=order == "C",
        precision=precision,
    )
    options = cast_checked(arrays, options, einsum_.semiring, target, out, casting)
    executable = cached(einsum_, arrays, target, options)
    factors = flattened(arrays)
    plain = out is None and order == "K" and options == _DEFAULT and len(factors) == len(arrays)
    if type(expression) is str and plain:
        _remember(latest, expression, arrays, executable)
    if key is not None:  # calls that name an option have a key, even if it says what it says by default
        _remember(_latest_asked, key, factors, executable)
    return _delivered(executable(*factors), factors, out, order, casting)


def einsum_anew(
    out: Any, subscripts: Any, operands: Sequence[Any], optimize: Any, dtype: Any, order: str, casting: str
) -> Any:
    """Return what `einsum` does, for operands that the code met last does not fit."""
    key = _key(out, subscripts, operands, ("einsum", optimize, dtype, casting, order))
    result, factors = _recalled(key, operands)
    if result is not MISS:
        return _delivered(
            result, factors, out, order_named(order), "unsafe" if optimize and out is not None else casting
        )
    expression, arrays, target = read(subscripts, operands, "sum_product", None)
    reason = numpy_refuses(expression, in_range=optimize is False)
    if reason is not None:
        raise EinsumError(reason)
    order = order_named(order)
    options = Options(complete(frozen(optimize), len(arrays)), dtype=dtype_named(dtype), ordered=order == "C")
    if optimize and out is not None:
        casting = "unsafe"  # NumPy's optimized path does not check either
    options = cast_checked(arrays, options, "sum_product", target, out, casting)
    executable = cached(expression, arrays, target, options)
    if ellipsis_left_out(expression, [describe(x) for x in arrays]):
        message = "the output has no ellipsis for the axes that one covers; contract sums them"
        raise EinsumError(pointed(message, written(expression).text, ()))
    if type(subscripts) is str and out is None and order == "K" and options == _DEFAULT:
        _remember(latest_einsum, subscripts, arrays, executable)
    if key is not None:
        _remember(_latest_asked, key, arrays, executable)
    swapped = [x for x in (subscripts, *operands) if isinstance(x, np.ndarray) and not x.dtype.isnative]
    if swapped and options.dtype is None and _is_view(executable):
        (given,) = swapped  # a view does no arithmetic, so the bytes may stay as they are
        view = executable(given.view(arrays[0].dtype)).view(given.dtype)
        return _delivered(view, [given], out, order, casting)
    return _delivered(executable(*arrays), arrays, out, order, casting)


def _is_view(executable: Executable) -> bool:
    """Return whether the result is a view of the only operand, whatever its values are."""
    program = executable.program
    if len(program.inputs) != 1 or len(program.steps) != 1:
        return False
    (value,), (step,) = program.inputs, program.steps
    return isinstance(step, Contract) and kind([value.modes], step.out.modes) in (
        "view",
        "permute",
        "diagonal",
    )


def traced_call(name: str, out: Any, casting: str, *given: Any) -> Any:
    """Return the call of `contract` or `einsum` while torch traces it: as one node of its graph, if it can.

    Operands held as factors cannot stand there, and without a tensor the call is none of torch's business.
    """
    from contractc.backends.torch.tracing import keep_whole, untraced

    arguments = [x for y in (given[0], *given[1]) for x in (y if isinstance(y, list | tuple) else (y,))]
    if not any(is_torch(x) for x in arguments) or any(hasattr(x, "factors") for x in arguments):
        return untraced(_CALLS[name], out, *given)
    keep_whole(__name__, "_in_graph")
    result = _in_graph(name, *given)
    return result if out is None else stored(result, out, casting)


def _in_graph(name: str, *given: Any) -> Any:
    """Return what `contract` or `einsum` returns: the node that stands in a graph of torch.compile."""
    return _CALLS[name](None, *given)


_CALLS: dict[str, Callable[..., Any]] = {"contract": contract_anew, "einsum": einsum_anew}


def _key(out: Any, expression: Any, operands: Sequence[Any], asked: tuple[Any, ...]) -> Hashable | None:
    """Return all that decides which code runs beside shapes and dtypes, or None if that has no hash.

    The dtype of `out` takes part in the promotion. Flags are told from equal numbers: `True == 1`.
    """
    if type(expression) is not str or traced():
        return None
    layouts = tuple(x.layout if is_factorized(x) else None for x in operands)
    training = tuple(map(recorded, operands)) if any(layouts) else ()
    written_to = None if out is None else (type(out), getattr(out, "dtype", None))
    key = (expression, layouts, training, written_to, asked, type(asked[0]), type(asked[1]))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _recalled(key: Hashable | None, operands: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """Return the result of the code kept under `key` and the arrays it took, or MISS."""
    entry = None if key is None else _latest_asked.get(key)
    if entry is None:
        return MISS, ()
    factors = flattened(operands)
    if entry[0] == len(factors):
        for run in (entry[1], *entry[2]):
            result = run(*factors)
            if result is not MISS:
                return result, factors
    return MISS, ()


def cached(expression: Einsum, arrays: Sequence[Any], target: Target, options: Options) -> Executable:
    """Return the executable for arrays like these, from the cache if it has been built before."""
    operands = conj_and_constant([describe(x) for x in arrays], options.conj, ())
    if any(map(is_factorized, arrays)):
        operands = trained(operands, arrays, None)
    orders = stored_orders(arrays) if len(arrays) > 1 and target.backend == "numpy" else {}
    if orders and any(map(is_factorized, arrays)):
        orders = {}  # operands and inputs of the program have other numbers
    key = (expression, tuple(operands), target, options, tuple(orders.items()))
    try:
        with _lock:
            found = _executables.get(key)
            if found is not None:
                _executables.move_to_end(key)
                return found
    except TypeError:  # an unhashable path optimizer: nothing to look up, nothing to keep
        key = None  # type: ignore[assignment]
    network = network_of(expression, operands, target, options)
    executable = planned(network, target, options, orders=orders)
    if key is not None:
        with _lock:
            _executables[key] = executable
            while len(_executables) > MOST_CACHED:
                _, oldest = _executables.popitem(last=False)
                _forget(latest, oldest)
                _forget(latest_einsum, oldest)
                _forget(_latest_asked, oldest)
    return executable


def _remember(
    recent: dict[Hashable, Codes],
    text: Hashable,
    arrays: Sequence[Any],
    executable: Executable,
) -> None:
    """Put the code for `text` where the next call looks first; one expression has many texts, so it is bounded.

    Code with dynamic modes was made while torch traced a call; it is slower than code for one shape.
    """
    if executable.program.dynamic or traced():
        return
    if len(recent) >= MOST_CACHED:
        recent.clear()
    before = recent.get(text)
    older = () if before is None or before[0] != len(arrays) else (before[1], *before[2])[:MOST_CODES]
    recent[text] = len(arrays), executable.run, tuple(run for run in older if run is not executable.run)


def _forget(recent: dict[Hashable, Codes], executable: Executable) -> None:
    """Drop the texts whose code is that of `executable`, so that nothing keeps it alive."""
    for text, (_, first, older) in list(recent.items()):
        if executable.run is first or executable.run in older:
            recent.pop(text, None)


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
    if order == "C":
        return packed(result)
    return np.asarray(result, order=order)  # type: ignore[call-overload]
