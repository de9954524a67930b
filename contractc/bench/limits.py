"""What the machine can do at most, measured in the same run as the cases: GEMM rates and copy bandwidth."""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from contractc.bench.cases import Array
from contractc.bench.measure import Call, Clock, interleaved
from contractc.dtypes import is_complex
from contractc.machine import physical_memory, processor
from contractc.providers.threads import allowed

SIZE = 1536
"""Rows, columns and depth of the matrix product: large enough that its rate has levelled off, and 0.1 s at most."""

BYTES = {" in cache": 2**19, "": 2**26}
"""Bytes of the array that is read or copied: one fits a core's cache twice, one does not."""

ROUNDS = 7


def machine() -> dict[str, Any]:
    """Return what tells one device from another: its processor, system, memory in bytes."""
    return {"device": processor(), "system": platform.system(), "memory": physical_memory()}


def openblas_core() -> str:
    """Return the name of the core whose kernels NumPy's OpenBLAS has chosen; empty where it does not tell."""
    mapped = Path("/proc/self/maps")
    text = mapped.read_text(encoding="utf-8") if mapped.exists() else ""
    for name in dict.fromkeys(re.findall(r"/\S*openblas\S*", text)):
        library = ctypes.CDLL(name)
        for symbol in ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename"):
            function = getattr(library, symbol, None)
            if function is not None:
                function.restype = ctypes.c_char_p
                return str(function().decode())
    return ""


def _products(dtype: str) -> Iterator[tuple[str, Call]]:
    x = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(dtype)
    out = np.empty_like(x)
    yield f"numpy {dtype}", lambda: np.matmul(x, x, out=out)
    if find_spec("torch"):
        import torch

        torch.set_num_threads(allowed())
        a, b = torch.from_numpy(x), torch.from_numpy(out)
        yield f"torch {dtype}", lambda: torch.mm(a, a, out=b)


def _moves() -> Iterator[tuple[str, Call]]:
    def copying(source: Array) -> Call:
        target = np.empty_like(source)
        return lambda: np.copyto(target, source)

    for name, size in BYTES.items():
        source = np.ones(size // 4, np.float32)
        yield f"copy{name}", copying(source)
        yield f"read{name}", lambda x=source: x.dot(x)  # type: ignore[misc]


def measured(rounds: int = ROUNDS, clock: Clock = perf_counter) -> dict[str, float]:
    """Return the limits of one core: operations a second of GEMM by library and dtype, bytes a second of memory.

    A copy reads and writes, so it moves twice the bytes of the array.
    """
    calls: dict[str, Callable[[], Any]] = dict(_moves())
    for dtype in ("float32", "float64"):
        calls |= dict(_products(dtype))
    work = dict.fromkeys(calls, 2.0 * SIZE**3)
    for name, size in BYTES.items():
        work |= {f"copy{name}": 2.0 * size, f"read{name}": 1.0 * size}
    seconds = {name: median(s) for name, s in interleaved(calls, rounds, clock=clock).items()}
    return {name: work[name] / s for name, s in seconds.items()}


def gemm_rate(limits: Mapping[str, float], dtype: str) -> float | None:
    """Return the best measured GEMM rate in operations of real numbers a second; None where there is no limit.

    Complex numbers take four times the operations that are counted for them.
    """
    real = "float64" if dtype in ("float64", "complex128") else "float32"
    if not dtype.startswith(("float", "complex", "bfloat")):
        return None
    best = max((rate for name, rate in limits.items() if name.endswith(real)), default=0.0)
    return (best / 4 if is_complex(dtype) else best) or None


def least_seconds(limits: Mapping[str, float], flops: int, read: int, written: int, dtype: str) -> float:
    """Return the seconds below which this machine cannot stay: the slower of arithmetic and memory.

    Args:
        flops: operations of the plan; another order may need fewer.
        read, written: bytes of the operands and of the result, each moved once. The rate of writing is what is
            left of a copy without its reading.
    """
    place = " in cache" if read + written <= 2 * BYTES[" in cache"] else ""
    reading = 1 / limits[f"read{place}"]
    writing = max(2 / limits[f"copy{place}"] - reading, reading)
    rate = gemm_rate(limits, dtype)
    return max(read * reading + written * writing, flops / rate if rate else 0.0)
