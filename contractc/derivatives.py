"""The value of an expression and its gradients from one program."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from operator import index
from typing import Any

import numpy as np

from contractc.building import conj_and_constant, kept_within, memory_allowed, network_of
from contractc.dtypes import is_complex, is_floating
from contractc.errors import OperandError, UnsupportedError
from contractc.executable import Executable
from contractc.machine import Target
from contractc.notation import Einsum
from contractc.operands import Operand, describe, dtype_name, flattened, is_factorized, with_dtype
from contractc.options import Options, conjugated, frozen
from contractc.plans import Plan
from contractc.reading import described, dtype_named, read, read_ahead
from contractc.search import search_gradients


def gradients(
    expression: Any,
    *operands: Any,
    cotangent: Any = None,
    wrt: int | Iterable[int] | None = None,
    optimize: Any = None,
    memory_limit: int | str | None = None,
    conj: int | Iterable[int] = (),
) -> tuple[Any, tuple[Any, ...]]:
    """Return the value of `expression` and the gradients of sum(cotangent * value), one for each operand in `wrt`.

    Value and gradients share one contraction tree: all gradients together take two more contractions for each of
    the value. A gradient has the shape and dtype of its operand; that of an operand held as factors is a tuple
    with one for each factor. Of complex operands it is what torch returns: the conjugate of the derivative.

    Args:
        expression, operands, optimize, memory_limit, conj: as in `contract`; one output, sums of products.
        cotangent: array of the shape of the value; None where that has no axes stands for 1.
        wrt: numbers of operands; None for all whose dtype is floating.

    Raises:
        OperandError: what does not fit, such as a missing cotangent.

    >>> import numpy as np
    >>> value, (by_x, by_y) = gradients("i,i->", np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    >>> float(value), by_x.tolist(), by_y.tolist()
    (11.0, [3.0, 4.0], [1.0, 2.0])
    """
    einsum_, arrays, target = read(expression, operands, "sum_product", None)
    options = Options(frozen(optimize), memory_limit, conj=conjugated(conj, len(arrays)))
    chosen = _chosen(wrt, [describe(x) for x in arrays])
    given = tuple(conj_and_constant([describe(x) for x in arrays], options.conj, ()))
    executable = _built(einsum_, given, target, options, chosen)
    value = executable.program.inputs[-1]
    if cotangent is None:
        if value.modes:
            shape = tuple(executable.program.extents[m] for m in value.modes)
            raise OperandError(f"the value has shape {shape}, so its gradients need a cotangent")
        cotangent = 1.0
    factors = flattened(arrays)
    like = next((x for x in factors if hasattr(x, "dtype")), None)
    seed = executable.as_array(cotangent, len(factors), like)
    if dtype_name(seed) != value.dtype:
        seed = with_dtype(seed, value.dtype)
    result, *found = executable(*factors, seed)
    remaining = iter(found)
    shaped: list[Any] = []
    for k in chosen:
        parts = arrays[k].factors if is_factorized(arrays[k]) else (arrays[k],)
        own = tuple(_as_gradient(next(remaining), x) for x in parts)
        shaped.append(own if is_factorized(arrays[k]) else own[0])
    return result, tuple(shaped)


def compile_gradients(
    expression: Any,
    *operands: Any,
    wrt: int | Iterable[int] | None = None,
    dtype: Any = "float64",
    dynamic: Iterable[Hashable] = (),
    target: str | Target | None = None,
    optimize: Any = None,
    memory_limit: int | str | None = None,
    conj: int | Iterable[int] = (),
) -> Executable:
    """Return the value of `expression` and its gradients planned and compiled ahead of time.

    The executable takes the operands (factors in place of an operand held as factors) and then the cotangent, and
    returns the value and the gradients in the order of the operands, in the dtype of the value.

    Args:
        wrt: as in `gradients`; the others as in `compile`.

    >>> both = compile_gradients("ij,jk->ik", (3, 4), (4, 5))
    >>> print(both.program)
    program (%0: f64[i=3, j=4], %1: f64[j=4, k=5], %2: f64[i=3, k=5])
      %3: f64[i=3, k=5] = contract %0 %1 over j  # gemm
      %4: f64[i=3, j=4] = contract %1 %2 over k  # gemm
      %5: f64[j=4, k=5] = contract %0 %2 over i  # gemm
      return %3 %4 %5
    """
    einsum_, given, chosen = read_ahead(expression, operands, "sum_product", target)
    options = Options(frozen(optimize), memory_limit, conj=conjugated(conj, len(given)), ahead=True)
    tensors = conj_and_constant(described(given, dtype_named(dtype) or "float64"), options.conj, ())
    return _build(einsum_, tensors, chosen, options, _chosen(wrt, tensors), dynamic)


@lru_cache(maxsize=256)
def _built(
    expression: Einsum, operands: tuple[Operand, ...], target: Target, options: Options, wrt: tuple[int, ...]
) -> Executable:
    return _build(expression, operands, target, options, wrt, ())


def _build(
    expression: Einsum,
    operands: Sequence[Operand],
    target: Target,
    options: Options,
    wrt: Sequence[int],
    dynamic: Iterable[Hashable],
) -> Executable:
    if expression.semiring != "sum_product":
        raise UnsupportedError(
            f"{expression.semiring} has no gradients; marginals() and best_assignment() sweep a tree in any semiring"
        )
    if len(expression.outputs) != 1:
        raise UnsupportedError(f"gradients are those of one output, not of {len(expression.outputs)}")
    network = network_of(expression, operands, target, options, dynamic)
    limit = memory_allowed(network, options)
    wanted = _tensors_of(operands, wrt)

    def find(limit: int | None) -> Plan:
        return search_gradients(network, wanted, options.optimize, limit, target=target)

    return kept_within(find, limit, target, options)


def _chosen(wrt: int | Iterable[int] | None, operands: Sequence[Operand]) -> tuple[int, ...]:
    """Return the numbers of the operands whose gradients are asked for, sorted."""
    if wrt is None:
        return tuple(k for k, o in enumerate(operands) if is_floating(o.dtype))
    numbers = tuple(wrt) if isinstance(wrt, Iterable) else (index(wrt),)
    for k in numbers:
        if not 0 <= k < len(operands):
            raise OperandError(f"wrt names operand {k}; there are {len(operands)} operands")
        if not is_floating(operands[k].dtype):
            raise OperandError(f"operand {k} is {operands[k].dtype}, which has no gradient")
    return tuple(sorted(set(numbers)))


def _tensors_of(operands: Sequence[Operand], chosen: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of the tensors that the operands `chosen` became: one each, or one for each factor."""
    found: list[int] = []
    first = 0
    for k, operand in enumerate(operands):
        count = len(operand.layout.terms) if operand.layout else 1
        found += range(first, first + count) if k in chosen else ()
        first += count
    return tuple(found)


def _as_gradient(x: Any, operand: Any) -> Any:
    """Return the gradient `x` in the dtype of its operand: the real part, if that is real."""
    wanted = dtype_name(operand)
    if dtype_name(x) == wanted:
        return x
    if is_complex(dtype_name(x)) and not is_complex(wanted):
        x = x.real
    return np.asarray(x).astype(wanted)[()] if isinstance(x, np.generic) else with_dtype(x, wanted)
