"""The calls: contract, einsum, einsum_path, compile, plan. Each is a few lines over the stages.

The stages are loaded when one of them is needed first, which keeps the import as quick as NumPy's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from contractc.recent import NOTHING, latest, latest_einsum, looking_up, traced

if TYPE_CHECKING:
    from contractc.executable import Executable
    from contractc.machine import Target
    from contractc.plans import Plan
    from contractc.several import Members


@looking_up(latest)
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
    precision: str = "default",
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
            twice the largest; None or -1 for none. Kept by looping over slices.
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
        precision: how generated kernels multiply float32 on a GPU: "strict" (in float32), "default" (three products
            of tf32 parts, nearly float32) or "fast" (one tf32 product). On a CPU it is strict in any case.

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
        precision,
    )
    from contractc.calls import contract_anew, traced_call

    if traced():
        return traced_call("contract", out, casting, expression, operands, *given)
    return contract_anew(out, expression, operands, *given)


@looking_up(latest_einsum)
def einsum(
    subscripts: Any = NOTHING,
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
    from contractc.calls import einsum_anew, traced_call

    if traced():
        return traced_call("einsum", out, casting, subscripts, operands, optimize, dtype, order, casting)
    return einsum_anew(out, subscripts, operands, optimize, dtype, order, casting)


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
    dynamic: Iterable[Hashable] = (),
    target: str | Target | None = None,
    optimize: Any = None,
    memory_limit: int | str | None = None,
    semiring: str = "sum_product",
    conj: int | Iterable[int] = (),
    preferred_element_type: Any = None,
    strip_exponent: bool = False,
    mode: str | None = None,
    precision: str = "default",
    tune: bool = False,
) -> Executable:
    """Return `expression` planned and compiled ahead of time.

    Args:
        expression: as in `contract`, or a list of expressions over the same operands, which are planned together and
            give a tuple: `["ij,jk->ik", ("ij->i", [0])]`, with the numbers of the operands where some are left out.
            All results have the dtype to which all operands promote.
        operands: for each operand an array, or its shape (a tuple of ints) with `dtype`.
        dtype: of the operands given by their shape.
        constants: numbers of the operands (given as arrays) that are the same at every call. They are copied,
            steps that need nothing else run now, and the executable is called without them.
        dynamic: labels of the modes whose extent varies from call to call; the one given here is for planning.
        target: "numpy", "torch" or a Target; None for the library of the arrays given, else NumPy.
        optimize, memory_limit, semiring, conj, preferred_element_type, strip_exponent, precision: as in `contract`.
        tune: measure the best predicted ways to compute each large step, on random NumPy arrays, and keep the fastest
            (`contractc.tune`), and so for up to six orders if `optimize` leaves that open; takes some hundred calls.
        mode: "train" to choose the order, and what is done with operands held as factors, by what value and
            gradients cost together; "infer" by the value alone; None: "train" if torch records an operand.

    >>> chain = compile("ij,jk,kl->il", (3, 4), (4, 5), (5, 6))
    >>> print(chain.program)
    program (%0: f64[i=3, j=4], %1: f64[j=4, k=5], %2: f64[k=5, l=6])
      %3: f64[i=3, k=5] = contract %0 %1 over j  # gemm
      %4: f64[i=3, l=6] = contract %2 %3 over k  # gemm
      return %4
    """
    from contractc.building import conj_and_constant, network_of, planned, trained
    from contractc.errors import OperandError
    from contractc.operands import flattened, is_shape, stored_orders
    from contractc.options import Options, conjugated, frozen
    from contractc.reading import described, dtype_named, read_ahead
    from contractc.several import is_several, joined

    started = monotonic()
    members: Members = ()
    if is_several(expression):
        expression, members = joined(expression, len(operands), semiring)
    einsum_, given, chosen = read_ahead(expression, operands, semiring, target)
    fixed = sorted(set(constants))
    options = Options(
        frozen(optimize),
        memory_limit,
        semiring,
        conjugated(conj, len(given)),
        strip_exponent,
        None,
        dtype_named(preferred_element_type),
        ahead=True,
        precision=precision,
        tune=tune,
    )
    tensors = conj_and_constant(described(given, dtype_named(dtype) or "float64"), options.conj, fixed)
    for k in fixed:
        if is_shape(given[k]):
            raise OperandError(f"operand {k} is a constant, so its values are needed, not its shape")
    tensors = trained(tensors, given, mode)
    network = network_of(einsum_, tensors, chosen, options, dynamic, members)
    plain = chosen.backend == "numpy" and len(given) == len(network.tensors)
    orders = {k: order for k, order in stored_orders(given).items() if k not in fixed} if plain else {}
    return planned(network, chosen, options, flattened([given[k] for k in fixed]), started, orders)


def plan(
    expression: Any,
    *operands: Any,
    dtype: Any = "float64",
    constants: Iterable[int] = (),
    dynamic: Iterable[Hashable] = (),
    target: str | Target | None = None,
    optimize: Any = None,
    memory_limit: int | str | None = None,
    semiring: str = "sum_product",
    conj: int | Iterable[int] = (),
    mode: str | None = None,
) -> Plan:
    """Return the order in which `expression` would be contracted, with its predicted costs; runs nothing.

    It is that of `compile`, which compares the programs of a few orders where few tensors take 0.2 ms and more.

    Args:
        expression: as in `compile`.
        operands: for each operand an array, or its shape (a tuple of ints) with `dtype`.
        constants: numbers of the operands that are the same at every call; their values do not matter here.
        dtype, dynamic, target, optimize, memory_limit, semiring, conj, mode: as in `compile`.

    >>> print(plan("ij,jk->ik", (3, 4), (4, 5)))
    plan by optimal: 1 step, sum_product, float64
      step        einsum     result         flops
      %2 = %0 %1  ij,jk->ik  f64[i=3, k=5]  120
    120 flops, 376 bytes traffic, 376 bytes peak, 0.431 us predicted
    """
    from contractc.building import conj_and_constant, network_of, plan_compiled, plan_of, trained
    from contractc.options import Options, conjugated, frozen
    from contractc.reading import described, dtype_named, read_ahead
    from contractc.several import is_several, joined

    started = monotonic()
    members: Members = ()
    if is_several(expression):
        expression, members = joined(expression, len(operands), semiring)
    einsum_, given, chosen = read_ahead(expression, operands, semiring, target)
    options = Options(frozen(optimize), memory_limit, semiring, conjugated(conj, len(given)))
    fixed = sorted(set(constants))
    tensors = conj_and_constant(described(given, dtype_named(dtype) or "float64"), options.conj, fixed)
    tensors = trained(tensors, given, mode)
    found = plan_of(network_of(einsum_, tensors, chosen, options, dynamic, members), options, started, chosen)
    return plan_compiled(found, chosen, options)
