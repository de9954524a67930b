"""Who is measured: contractc's own ways to run a case, and the other libraries', each with what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np

from contractc.api import compile, contract
from contractc.bench.cases import Array, Case, extents
from contractc.bench.measure import Call
from contractc.dtypes import itemsize, to_numpy
from contractc.providers.threads import allowed

OURS = "contract"
"""The contestant that ratios are taken to: the public call with default options on NumPy arrays."""

MOST_SECONDS = 10.0
"""A call that is predicted to take longer is not made."""

LOOP_RATE = 3e8
"""Products a second of np.einsum's loop over all modes when it is slow, to predict whether it would ever end."""

FAST_LOOP_RATE = 1e10
"""Products a second that no such loop reaches."""

PAIR_RATE = 5e9
"""Operations a second of a pairwise contraction, for the same purpose."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run a case.

    `refuses(case)` says why it cannot or will not run, or None. `start(case, arrays)` does what a user of the
    library does once for an expression and returns the call; `convert` makes its arrays of NumPy's, untimed.
    `least(case)` is the seconds below which a call cannot stay, so that a hopeless one need not be made.
    `contiguous(case, arrays)`, where there is one, starts a call that returns the result in C order; elsewhere a
    copy by the library follows the call.
    """

    name: str
    module: str
    start: Callable[[Case, Sequence[Any]], Call]
    convert: Callable[[Sequence[Array]], Sequence[Any]] = list
    refuses: Callable[[Case], str | None] = lambda case: None
    least: Callable[[Case], float] = lambda case: 0.0
    contiguous: Callable[[Case, Sequence[Any]], Call] | None = None
    ours: bool = False
    asked: bool = False
    """Whether it runs only if it is named, because its first call takes seconds."""

    def absent(self, case: Case) -> str | None:
        """Return why this peer does not run `case`, or None."""
        if find_spec(self.module) is None:
            return f"{self.module} is not installed"
        return self.refuses(case)


def in_order(result: Any) -> bool:
    """Return whether the elements of an array of any library lie in memory in C order."""
    if isinstance(result, np.ndarray):
        return result.flags.c_contiguous
    check = getattr(result, "is_contiguous", None)
    return bool(check()) if check is not None else True


def put_in_order(result: Any) -> Any:
    """Return the array `result` in C order, copied by its own library if it is not."""
    return result.contiguous() if hasattr(result, "contiguous") else np.ascontiguousarray(result)


def to_array(result: Any) -> Array:
    """Return the array `result` of any library as NumPy's, bfloat16 as float32."""
    if hasattr(result, "detach"):
        result = result.detach().cpu()
        result = result.float() if str(result.dtype) == "torch.bfloat16" else result
    return np.asarray(result.get() if hasattr(result, "get") else result)


def _torch() -> Any:
    import torch

    torch.set_num_threads(allowed())
    return torch


def _tensors(arrays: Sequence[Array], device: str = "cpu") -> list[Any]:
    torch = _torch()
    return [
        torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(device)
        if x.dtype.name == "bfloat16"
        else torch.from_numpy(x).to(device)
        for x in arrays
    ]


@cache
def _steps(text: str, shapes: tuple[tuple[int, ...], ...], numpy: bool) -> tuple[float, float, int]:
    """Return the seconds a library's path may take, those it takes at least, and its largest intermediate's elements.

    Args:
        numpy: np.einsum's own path with its limit of memory; else opt_einsum's, which torch and jax use too.
    """
    import opt_einsum

    if not numpy:
        _, info = opt_einsum.contract_path(text, *shapes, shapes=True)
        return float(info.opt_cost) / PAIR_RATE, 0.0, int(info.largest_intermediate)
    dummies = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
    path = np.einsum_path(text, *dummies, optimize=True)[0][1:]
    sizes = extents(Case("", text, shapes, "float32"))
    inputs, _, output = text.replace(" ", "").partition("->")
    alive = [set(term) for term in inputs.split(",")]
    seconds, looped, largest = 0.0, 0, 0
    for places in path:
        taken = [alive.pop(k) for k in sorted(places, reverse=True)]
        inner = set().union(*taken)
        kept = inner & set(output).union(*alive)
        alive.append(kept)
        loops = prod(sizes[m] for m in inner) * len(taken)
        seconds += loops / (PAIR_RATE if len(taken) < 3 else LOOP_RATE)
        looped += loops * (len(taken) > 2)
        largest = max(largest, prod(sizes[m] for m in kept))
    return seconds, looped / FAST_LOOP_RATE, largest


def _too_long(seconds: float) -> str | None:
    return f"would take about {seconds:.2g} s a call" if seconds > MOST_SECONDS else None


def _naive_refuses(case: Case) -> str | None:
    if "." in case.text or len(case.shapes) > 60:
        return None if len(case.shapes) <= 60 else "more operands than np.einsum takes"
    return _too_long(prod(extents(case).values()) * len(case.shapes) / LOOP_RATE)


def _loop_seconds(case: Case) -> float:
    return 0.0 if "." in case.text else prod(extents(case).values()) / FAST_LOOP_RATE


def _numpy_path_seconds(case: Case) -> float:
    return 0.0 if "." in case.text else _steps(case.text, case.shapes, True)[1]


def _path_refuses(case: Case, *, numpy: bool = False) -> str | None:
    if "." in case.text:
        return None
    if numpy and len(extents(case)) > 52:
        return "more modes than np.einsum has letters"
    seconds, _, largest = _steps(case.text, case.shapes, numpy)
    if largest * itemsize(case.dtype) > 4e9:
        return f"would make an intermediate of {largest * itemsize(case.dtype) / 1e9:.3g} GB"
    return _too_long(seconds)


def _numpy_refuses(case: Case) -> str | None:
    return _path_refuses(case, numpy=True)


def _no_bfloat16(case: Case) -> str | None:
    return "NumPy has no bfloat16 of its own" if case.dtype == "bfloat16" else _path_refuses(case)


def _torch_refuses(case: Case) -> str | None:
    if case.dtype in ("uint16", "uint32", "uint64"):
        return f"torch does not compute in {case.dtype}"
    return _path_refuses(case)


def _tblis_refuses(case: Case) -> str | None:
    if case.dtype not in ("float32", "float64", "complex64", "complex128"):
        return f"TBLIS does not compute in {case.dtype}"
    return _path_refuses(case)


def _cuda_refuses(case: Case) -> str | None:
    import cupy

    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"
    return _path_refuses(case)


def _contract(case: Case, arrays: Sequence[Any]) -> Call:
    text = case.text
    return lambda: contract(text, *arrays)


def _contract_in_order(case: Case, arrays: Sequence[Any]) -> Call:
    text = case.text
    return lambda: contract(text, *arrays, order="C")


def _compiled(case: Case, arrays: Sequence[Any]) -> Call:
    run = compile(case.text, *arrays)
    return lambda: run(*arrays)


def _tuned(case: Case, arrays: Sequence[Any]) -> Call:
    run = compile(case.text, *arrays, tune=True)
    return lambda: run(*arrays)


def _einsum(case: Case, arrays: Sequence[Any]) -> Call:
    return lambda: np.einsum(case.text, *arrays)


def _einsum_optimized(case: Case, arrays: Sequence[Any]) -> Call:
    return lambda: np.einsum(case.text, *arrays, optimize=True)


def _opt_einsum(case: Case, arrays: Sequence[Any]) -> Call:
    import opt_einsum

    run = opt_einsum.contract_expression(case.text, *case.shapes)
    return lambda: run(*arrays)


def _torch_einsum(case: Case, arrays: Sequence[Any]) -> Call:
    einsum = _torch().einsum
    return lambda: einsum(case.text, *arrays)


def _torch_compile(case: Case, arrays: Sequence[Any]) -> Call:
    torch = _torch()
    run = torch.compile(lambda *x: torch.einsum(case.text, *x), dynamic=False)
    return lambda: run(*arrays)


def _cotengra(case: Case, arrays: Sequence[Any]) -> Call:
    import cotengra

    run = cotengra.einsum_expression(case.text, *case.shapes)
    return lambda: run(*arrays)


def _jax(case: Case, arrays: Sequence[Any]) -> Call:
    import jax

    run = jax.jit(lambda *x: jax.numpy.einsum(case.text, *x))
    return lambda: run(*arrays).block_until_ready()


def _jax_arrays(arrays: Sequence[Array]) -> list[Any]:
    import jax

    jax.config.update("jax_enable_x64", True)
    return [jax.numpy.asarray(x) for x in arrays]


def _pytblis(case: Case, arrays: Sequence[Any]) -> Call:
    import pytblis

    pytblis.set_num_threads(allowed())
    unlimited = ("greedy", 2**60)  # by default it inherits the limit that makes np.einsum loop over all modes
    return lambda: pytblis.einsum(case.text, *arrays, optimize=unlimited)


def _cupy_arrays(arrays: Sequence[Array]) -> list[Any]:
    import cupy

    return [cupy.asarray(x) for x in arrays]


def _cupy(case: Case, arrays: Sequence[Any]) -> Call:
    import cupy

    wait = cupy.cuda.get_current_stream().synchronize

    def call() -> Any:
        result = cupy.einsum(case.text, *arrays, optimize=True)
        wait()
        return result

    return call


def _cutensor(case: Case, arrays: Sequence[Any]) -> Call:
    import cupy
    from cuquantum import contract as contract_on_device

    wait = cupy.cuda.get_current_stream().synchronize

    def call() -> Any:
        result = contract_on_device(case.text, *arrays)
        wait()
        return result

    return call


PEERS = (
    Peer(OURS, "contractc", _contract, contiguous=_contract_in_order, ours=True),
    Peer("compiled", "contractc", _compiled, ours=True),
    Peer("tuned", "contractc", _tuned, ours=True),
    Peer("contract on torch", "torch", _contract, convert=_tensors, refuses=_torch_refuses, ours=True),
    Peer("opt_einsum", "opt_einsum", _opt_einsum, refuses=_no_bfloat16),
    Peer("jax", "jax", _jax, convert=_jax_arrays, refuses=_path_refuses),
    Peer("torch.einsum", "torch", _torch_einsum, convert=_tensors, refuses=_torch_refuses),
    Peer("opt_einsum on torch", "torch", _opt_einsum, convert=_tensors, refuses=_torch_refuses),
    Peer("cotengra", "cotengra", _cotengra, refuses=_no_bfloat16),
    Peer("pytblis", "pytblis", _pytblis, refuses=_tblis_refuses),
    Peer(
        "np.einsum, optimize", "numpy", _einsum_optimized, refuses=_numpy_refuses, least=_numpy_path_seconds
    ),
    Peer("np.einsum", "numpy", _einsum, refuses=_naive_refuses, least=_loop_seconds),
    Peer("torch.compile", "torch", _torch_compile, convert=_tensors, refuses=_torch_refuses, asked=True),
    Peer("cupy", "cupy", _cupy, convert=_cupy_arrays, refuses=_cuda_refuses),
    Peer("cuTENSOR", "cuquantum", _cutensor, convert=_cupy_arrays, refuses=_cuda_refuses),
)
"""All contestants. The order is that of the first calls: the slow ones last, so that they can be dropped."""

LIBRARIES = (
    "contractc",
    "numpy",
    "opt_einsum",
    "torch",
    "jax",
    "cotengra",
    "pytblis",
    "numba",
    "cupy",
    "cuquantum",
)


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed."""
    found = {"python": sys.version.split()[0]}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def truth(case: Case, arrays: Sequence[Array]) -> Array:
    """Return the result computed by opt_einsum on NumPy in float64, complex128, int64 or Python's integers.

    Raises:
        ValueError: nobody but contractc reads this expression, or it is too large.
    """
    import opt_einsum

    reason = _path_refuses(case)
    if reason is not None:
        raise ValueError(f"in float64 it {reason}")
    kind = to_numpy(case.dtype).kind
    wide = {"c": np.complex128, "b": np.int64, "i": np.int64, "u": np.uint64}.get(kind, np.float64)
    found = np.asarray(opt_einsum.contract(case.text, *(np.asarray(x, wide) for x in arrays)))
    return found != 0 if kind == "b" else found


def error(case: Case, result: Array, expected: Array) -> float:
    """Return the largest difference of `result` over what rounding explains; more than 1 is wrong.

    Rounding explains 8 + 2 sqrt(K) units in the last place of the largest expected value (of 1, if that is
    smaller), where K is the number of terms of the sum, at most 2**20: a random walk of K steps with a margin.
    Integers and bools have to be equal.
    """
    if result.shape != expected.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    if to_numpy(case.dtype).kind in "biu":
        return 0.0 if np.array_equal(result, expected.astype(result.dtype)) else float("inf")
    if "." in case.text:
        terms = 1
    else:
        output = case.text.replace(" ", "").partition("->")[2]
        terms = prod(n for m, n in extents(case).items() if m not in output)
    unit = 2.0**-7 if case.dtype == "bfloat16" else float(np.finfo(to_numpy(case.dtype)).eps)
    allowed = unit * (8 + 2 * min(terms, 2**20) ** 0.5) * max(1.0, float(np.max(np.abs(expected))))
    difference = np.max(np.abs(result.astype(expected.dtype) - expected))
    return float(difference) / allowed if np.isfinite(difference) else float("inf")
